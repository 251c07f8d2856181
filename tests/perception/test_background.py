"""Background and noise, against the numbers that frames were drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.perception.spots.background import estimate_background
from lauepilot.simulator.frame import FrameError


@pytest.mark.parametrize("mean", [0.01, 0.2, 3.0, 50.0, 2000.0])
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (3.0, 1000.0)])
def test_flat_poisson(mean: float, gain: float, offset: float) -> None:
    counts = np.random.default_rng(1).poisson(mean, (512, 512)) * gain + offset
    found = estimate_background(counts, gain=gain, offset=offset)
    assert found.photon_noise
    level = (found.level.mean() - offset) / gain
    assert level == pytest.approx(mean, rel=0.02 + 4 / np.sqrt(mean * counts.size))
    assert found.sigma.mean() / gain == pytest.approx(np.sqrt(mean), rel=0.05)


def test_dome_under_spots_blind_regions_and_dead_pixels() -> None:
    rng = np.random.default_rng(2)
    y, x = np.indices((600, 700))
    truth = 5 + 60 / (1 + ((x - 350) ** 2 + (y - 280) ** 2) / 250**2) ** 1.5
    rate = truth.copy()
    for _ in range(150):
        cx, cy, width = rng.uniform(0, 700), rng.uniform(0, 600), rng.uniform(1, 3)
        rate += rng.uniform(50, 5000) * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / width**2)
    counts = rng.poisson(rate).astype(float)
    mask = (x - 350) ** 2 + (y - 300) ** 2 > 60**2
    counts[~mask] = 0.0
    counts[:, 200] = 0.0
    found = estimate_background(counts, mask)
    error = (found.level - truth)[mask] / np.sqrt(truth)[mask]
    # A few per cent of one pixel's noise where a spot is summed over 30 pixels.
    assert abs(np.median(error)) < 0.08
    assert np.percentile(np.abs(error), 95) < 0.35
    np.testing.assert_allclose(np.median(found.sigma[mask] / np.sqrt(truth)[mask]), 1.0, atol=0.06)


def test_unknown_gain_falls_back_to_the_scatter() -> None:
    rng = np.random.default_rng(3)
    counts = 1000.0 + rng.normal(0.0, 6.0, (400, 400))
    found = estimate_background(counts)
    assert not found.photon_noise
    assert found.sigma.mean() == pytest.approx(6.0, rel=0.03)


def test_small_and_odd_shapes() -> None:
    for shape in [(12, 12), (84, 84), (33, 517)]:
        found = estimate_background(np.random.default_rng(4).poisson(30.0, shape))
        assert found.level.shape == found.sigma.shape == shape
        assert found.level.mean() == pytest.approx(30.0, rel=0.05)


def test_wrong_input_is_explained() -> None:
    with pytest.raises(FrameError, match="mask"):
        estimate_background(np.ones((50, 50)), np.ones((50, 49), dtype=bool))
    with pytest.raises(FrameError, match="alive"):
        estimate_background(np.ones((50, 50)), np.zeros((50, 50), dtype=bool))
