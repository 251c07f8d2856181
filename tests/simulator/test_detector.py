"""Detectors: pixels to rays and back, poses, bins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lauepilot.simulator.conventions import random_rotation, rotation_matrix
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector, Region
from lauepilot.simulator.instrument import load_instrument


def detector(kind: str, seed: int = 0) -> Detector:
    return Detector(
        name="d",
        kind=kind,  # type: ignore[arg-type]
        shape=(300, 400),
        pixel_mm=(0.21, 0.18),
        distance_mm=55.0,
        centre_px=(190.0, 140.0),
        rotation=random_rotation(np.random.default_rng(seed)),
        blind=(
            Region("circle", (200.0, 150.0), (40.0, 30.0)),
            Region("rectangle", (50.0, 60.0), (10.0, 20.0)),
        ),
    )


pixels = st.tuples(st.floats(-50, 450), st.floats(-50, 350)).map(np.array)


@given(st.sampled_from(["flat", "cylinder"]), st.integers(0, 50), pixels)
def test_pixels_go_to_rays_and_back(kind: str, seed: int, pixel: np.ndarray) -> None:
    d = detector(kind, seed)
    ray = d.pixels_to_rays(pixel)
    assert np.linalg.norm(ray) == pytest.approx(1.0)
    np.testing.assert_allclose(d.rays_to_pixels(ray), pixel, atol=1e-9)
    np.testing.assert_allclose(d.rays_to_pixels(d.pixels_to_positions(pixel)), pixel, atol=1e-9)


def test_flat_detector_by_hand() -> None:
    """The lab camera: 40 mm upstream, looking at the sample; 10 mm to the side is 100 px."""
    lab = load_instrument("lab").detector
    np.testing.assert_allclose(lab.rays_to_pixels([0.0, 0.0, -1.0]), [499.5, 499.5])
    np.testing.assert_allclose(lab.rays_to_pixels([10.0, 0.0, -40.0]), [599.5, 499.5])
    np.testing.assert_allclose(lab.rays_to_pixels([0.0, 10.0, -40.0]), [499.5, 399.5])
    assert np.all(np.isnan(lab.rays_to_pixels([0.0, 0.0, 1.0])))
    assert not lab.sees(lab.rays_to_pixels([0.0, 0.0, 1.0]))
    assert not lab.sees([499.5, 499.5])
    assert lab.sees([-0.4, 999.4])
    assert not lab.sees([-0.6, 10.0])
    assert lab.mask().sum() == pytest.approx(1e6 - np.pi * 50**2, abs=30)


def test_cylinder_by_hand() -> None:
    """On a cylinder arc length is radius times azimuth, and heights are seen from the axis."""
    d = replace(detector("cylinder"), rotation=np.eye(3)[:, [0, 1, 2]])
    phi = 0.7
    got = d.rays_to_pixels([np.sin(phi), 0.3, np.cos(phi)])
    np.testing.assert_allclose(got, [190 + 55 * phi / 0.21, 140 + 55 * 0.3 / 0.18])
    behind = d.rays_to_pixels([0.0, 0.0, -1.0])
    assert abs(behind[0] - 190) == pytest.approx(55 * np.pi / 0.21)


@given(st.sampled_from(["flat", "cylinder"]), st.tuples(*[st.floats(-0.02, 0.02)] * 2))
def test_moved_turns_the_surface_through_the_sample(kind: str, tilt: tuple[float, float]) -> None:
    d = detector(kind)
    p = np.array([[30.0, 40.0], [250.0, 200.0], [390.0, 10.0]])
    turned = d.moved(tilt_x_rad=tilt[0], tilt_y_rad=tilt[1])
    turn = rotation_matrix([*tilt, 0.0])
    np.testing.assert_allclose(turned.pixels_to_positions(p), d.pixels_to_positions(p) @ turn.T, atol=1e-9)


def test_moved_takes_the_parameters_of_refinements() -> None:
    d = detector("flat")
    steps = dict(zip(GEOMETRY_PARAMETERS, (1.0, 2.0, 3.0, 0.01, 0.02), strict=True))
    moved = d.moved(**steps)
    assert moved.distance_mm == 56.0
    assert moved.centre_px == (192.0, 143.0)
    # The surface goes 1 mm along its (turned) normal, and 2 and 3 pixels along its rows and columns.
    shift = moved.pixels_to_positions([192.0, 143.0]) - d.moved(
        tilt_x_rad=0.01, tilt_y_rad=0.02
    ).pixels_to_positions([190.0, 140.0])
    np.testing.assert_allclose(shift, moved.rotation[:, 2], atol=1e-9)


@given(st.sampled_from(["flat", "cylinder"]), pixels, st.sampled_from([(150, 200), (84, 84), (600, 800)]))
def test_binned_keeps_rays(kind: str, pixel: np.ndarray, shape: tuple[int, int]) -> None:
    d = detector(kind)
    b = d.binned(shape)
    coarse = (pixel + 0.5) * np.array([shape[1] / 400, shape[0] / 300]) - 0.5
    np.testing.assert_allclose(b.pixels_to_rays(coarse), d.pixels_to_rays(pixel), atol=1e-9)
    assert bool(b.sees(coarse)) == bool(d.sees(pixel))


def test_regions() -> None:
    circle = Region("circle", (10.0, 20.0), (6.0, 6.0))
    assert circle.covers(12.9, 20.0)
    assert not circle.covers(12.5, 22.5)
    box = Region("rectangle", (10.0, 20.0), (6.0, 6.0))
    assert box.covers(12.5, 22.5)
    assert not box.covers(13.1, 20.0)
