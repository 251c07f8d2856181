"""The batch renderer against the parts that it is made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.kernels import pack_detector
from lauepilot.simulator.laue import RayTable, cached_table
from lauepilot.simulator.render import covariance, pack_blur, render_batch
from lauepilot.simulator.spots_shape import instrument_covariances
from lauepilot.simulator.twin import Twin


@pytest.fixture(scope="module")
def table() -> RayTable:
    return cached_table(load_crystal("si"), load_instrument("lab"))


@pytest.mark.parametrize("name", ["lab", "bm32", "koala"])
@given(seed=st.integers(0, 2**32 - 1))
def test_the_scalar_covariance_is_the_plain_one(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    instrument = load_instrument(name)
    detector = instrument.detector
    k = detector.pixels_to_rays(rng.uniform([0, 0], detector.shape[::-1]))
    plain = instrument_covariances(instrument, k)[0]
    ours = covariance(pack_detector(detector), pack_blur(instrument, detector), *k)
    np.testing.assert_allclose(ours, (plain[0, 0], plain[0, 1], plain[1, 1]), rtol=1e-9, atol=1e-9)


def test_frames_are_poisson_about_what_the_twin_expects(table: RayTable) -> None:
    """Pixel by pixel: the squared deviation from the expected photons averages to them."""
    detector = table.instrument.detector.binned((250, 250))
    instrument = table.instrument.with_detector(detector)
    rng = np.random.default_rng(3)
    twin = Twin(table.crystal, instrument, rng=rng, faults=Faults.none(), table=table)
    expected = twin.expected(20.0).astype(float)
    frames = render_batch(
        table, np.repeat(twin.u_lab()[None], 40, axis=0), 20.0, np.random.default_rng(1), detector=detector
    )
    live = expected > 0
    score = (frames.mean(axis=0) - expected)[live] / np.sqrt(expected[live] / 40)
    assert abs(score.mean()) < 0.02
    assert score.std() == pytest.approx(1.0, abs=0.02)
    assert not frames[:, ~live].any()


def test_one_seed_gives_one_batch_and_exposures_differ(table: RayTable) -> None:
    detector = table.instrument.detector.binned((84, 84))
    us = random_rotation(np.random.default_rng(0), 4)
    seconds = [1.0, 2.0, 4.0, 8.0]
    first, again = (
        render_batch(table, us, seconds, np.random.default_rng(5), detector=detector) for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == (4, 84, 84)
    assert first.dtype == np.uint16
    typical = np.median(first, axis=(1, 2))
    np.testing.assert_allclose(typical / typical[0], seconds, rtol=0.15)
    with pytest.raises(ValueError, match="positive finite number of seconds"):
        render_batch(table, us, [1.0, 1.0, 0.0, 1.0], np.random.default_rng(5), detector=detector)
    with pytest.raises(ValueError, match="positive finite number of seconds"):
        render_batch(table, us, np.nan, np.random.default_rng(5), detector=detector)
