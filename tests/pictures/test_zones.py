"""Zone curves: they pass through the spots of their zone as other code predicts them, and are conics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lauepilot.pictures.zones import strongest_zones, zone_axes, zone_lines
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import RayTable, predict_spots


def gap(points, lines):
    """Distance of each point to the nearest of the lines' pieces."""
    start = np.concatenate([line[:-1] for line in lines])
    step = np.concatenate([np.diff(line, axis=0) for line in lines])
    along = np.einsum("nkd,kd->nk", points[:, None] - start, step) / np.maximum((step**2).sum(axis=1), 1e-12)
    nearest = start + np.clip(along, 0.0, 1.0)[..., None] * step
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


@pytest.mark.parametrize(("crystal", "instrument"), [("si", "lab"), ("quartz", "bm32"), ("ca2ruo4", "koala")])
def test_spots_of_a_zone_lie_on_its_curve(crystal, instrument):
    table = RayTable.build(load_crystal(crystal), load_instrument(instrument))
    detector = table.instrument.detector
    rng = np.random.default_rng(5)
    for _ in range(3):
        u = random_rotation(rng)
        spots = predict_spots(table, u, detector)
        zones = strongest_zones(u @ table.crystal.b, spots.hkl, detector)
        assert len(zones) == 10
        assert list(zones) == sorted(zones, key=lambda z: -z.spots)
        for zone in zones:
            members = spots.hkl @ zone.uvw == 0
            assert members.sum() == zone.spots >= 4
            assert gap(spots.pixels[members], zone.lines).max() < 0.1
            for line in zone.lines:
                assert np.all(line >= -0.5 - 1e-9)
                assert np.all(line <= np.array(detector.shape[::-1]) - 0.5 + 1e-9)
                assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() < 0.1 * max(detector.shape)


@given(st.integers(0, 10_000))
def test_curve_on_a_flat_detector_is_a_conic(seed):
    axis = np.random.default_rng(seed).normal(size=3)
    lines = zone_lines(axis, load_instrument("lab").detector)
    points = np.concatenate([line[1:-1] for line in lines]) / 500.0 - 1.0 if lines else np.zeros((0, 2))
    if len(points) > 6:
        x, y = points.T
        terms = np.stack([x * x, x * y, y * y, x, y, np.ones_like(x)], axis=1)
        assert np.linalg.svd(terms, compute_uv=False)[-1] < 1e-9 * np.sqrt(len(points))


def test_axis_across_the_beam_is_a_line_through_its_middle():
    detector = load_instrument("koala").detector
    line = np.concatenate(
        zone_lines([0.0, 1.0, 0.0], detector)
    )  # the cylinder's own axis: the plate's equator
    assert line[:, 1] == pytest.approx(999.5, abs=1e-9)
    assert np.ptp(line[:, 0]) == pytest.approx(4000.0)


def test_axis_along_the_beam_has_no_curve_and_zero_is_refused():
    detector = load_instrument("lab").detector
    assert zone_lines([0.0, 0.0, -2.0], detector) == ()
    with pytest.raises(ValueError, match="must be a direction"):
        zone_lines([0.0, 0.0, 0.0], detector)


def test_axes_are_listed_once():
    axes = {tuple(a) for a in zone_axes(2).tolist()}
    assert len(axes) == 49  # (5^3 - 1) / 2 less the 13 doubled ones of indices up to 1
    assert not any(tuple(-i for i in a) in axes for a in axes)
    assert (2, 2, 2) not in axes
