"""Stereograms: angles of the projection, the crystal's axes, error ellipses against sampling, reach against the axes."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline

from lauepilot.pictures.stereogram import (
    crystal_axes,
    error_ellipse,
    project,
    reached_directions,
    stereogram,
    wulff_net,
)
from lauepilot.simulator.conventions import random_rotation, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument


def test_distance_from_the_centre_is_the_tangent_of_half_the_angle():
    for angle in np.deg2rad([0.0, 20.0, 54.7356, 90.0]):
        assert np.linalg.norm(project([np.sin(angle), 0.0, -np.cos(angle)])) == pytest.approx(
            np.tan(angle / 2)
        )


def test_normals_stand_on_the_side_of_their_spots():
    """A plane that throws the beam up and to +x has its normal up and to +x."""
    k_out = np.array([0.3, 0.5, -0.2])
    normal = k_out / np.linalg.norm(k_out) - [0.0, 0.0, 1.0]
    x, y = project(normal)
    assert x > 0
    assert y > 0


@given(st.integers(0, 10_000))
def test_circles_stay_circles(seed):
    rng = np.random.default_rng(seed)
    u = random_rotation(rng)
    phi = np.linspace(0, 2 * np.pi, 40)
    ring = np.stack([0.3 * np.cos(phi), 0.3 * np.sin(phi), np.full_like(phi, -1.0)], axis=1) @ u.T
    x, y = project(ring[ring[:, 2] < 0.5], axes=False).T
    if len(x) > 5:
        terms = np.stack([x * x + y * y, x, y, np.ones_like(x)], axis=1)
        assert np.linalg.svd(terms, compute_uv=False)[-1] < 1e-8


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        ("si", {4: 3, 3: 4, 2: 6}),
        ("4h-sic", {6: 1, 2: 6}),  # a and b are twofold axes
        ("quartz", {3: 1, 2: 3}),
        ("ca2ruo4", {2: 3}),
        ("kyanite", {1: 3}),
    ],
)
def test_axes_are_those_of_the_point_group(name, orders):
    crystal = load_crystal(name)
    axes = crystal_axes(crystal.b, crystal.symmetry)
    assert Counter(a.order for a in axes) == orders
    direct = 2 * np.pi * np.linalg.inv(crystal.b).T
    for axis in axes:
        uvw = direct @ [int(i) for i in axis.label[1:-1].split()]
        assert abs(uvw @ axis.direction) / np.linalg.norm(uvw) == pytest.approx(1.0, abs=1e-4)
    assert crystal_axes(crystal.b, crystal.symmetry)[0].label == {"si": "[0 0 1]"}.get(
        name, axes[0].label
    ) or (name == "si" and set(axes[0].label) <= set("[] 01"))


def test_error_ellipse_holds_95_of_100():
    rng = np.random.default_rng(6)
    root = 0.01 * rng.normal(size=(3, 3))
    covariance = root @ root.T
    turns = rotation_matrix(rng.multivariate_normal(np.zeros(3), covariance, size=20_000))
    for direction in random_rotation(rng, 4)[:, :, 0]:
        seen = -direction if direction[2] > 0 else direction
        inside = Outline(error_ellipse(direction, covariance)).contains_points(
            project(turns @ seen, axes=False)
        )
        assert inside.mean() == pytest.approx(0.95, abs=0.006)
    once, tenfold = (np.ptp(error_ellipse([0, 0, -1], 1e-8 * np.eye(3), m), axis=0) for m in (1.0, 10.0))
    assert tenfold == pytest.approx(10.0 * once, rel=1e-3)


def test_one_axis_reaches_a_line_and_two_a_cap():
    koala = load_instrument("koala").goniometer
    cells = reached_directions(koala, {}).cells
    assert np.flatnonzero(cells.any(axis=1)).tolist() in ([29], [30], [29, 30])  # y = 0: phi turns about +y
    assert cells.any(axis=0).all()
    lab = load_instrument("lab").goniometer
    assert reached_directions(lab, {}).cells.sum() == pytest.approx(np.pi / 4 * 60**2, rel=0.02)
    narrow = replace(lab, axes=tuple(replace(a, limits=(-10.0, 10.0)) for a in lab.axes))
    cells = reached_directions(narrow, {}).cells
    y, x = (np.argwhere(cells).T + 0.5) / 30.0 - 1.0
    rim = np.tan(np.deg2rad(20.0) / 2)  # omega and phi together turn the beam by up to 20 degrees
    assert np.hypot(x, y).max() < rim + 0.04
    assert np.hypot(x, y).max() > rim - 0.04
    # Settings at random all land in reached cells (or beside one: cells are coarse).
    rng = np.random.default_rng(7)
    near = np.zeros_like(cells)
    for a, b in itertools.product((-1, 0, 1), repeat=2):
        near |= np.roll(cells, (a, b), axis=(0, 1))
    for angles in rng.uniform(-10, 10, (200, 3)):
        z = narrow.matrix(dict(zip(narrow.names, angles, strict=True)))
        column, row = ((project(z.T @ [0, 0, 1]) + 1.0) * 30.0).astype(int)
        assert near[row, column]


def test_reach_turns_with_the_crystal():
    """At other positions of the axes the same crystal directions are within reach: they stand elsewhere."""
    lab = load_instrument("lab").goniometer
    narrow = replace(lab, axes=tuple(replace(a, limits=(-10.0, 10.0)) for a in lab.axes))
    moved = np.argwhere(reached_directions(narrow, {"omega": 8.0}).cells).mean(axis=0)
    still = np.argwhere(reached_directions(narrow, {}).cells).mean(axis=0)
    assert (moved - still)[1] / 30.0 == pytest.approx(-np.tan(np.deg2rad(8.0) / 2), abs=0.02)
    assert abs((moved - still)[0]) < 0.7


def test_drawn_points_are_the_projected_ones():
    axes = Figure().add_subplot()
    stereogram(axes, np.eye(3), ["a", "b", "c"], orders=[2, 2, 4], covariance=1e-4 * np.eye(3), name="x")
    offsets = np.concatenate([c.get_offsets() for c in axes.collections])
    np.testing.assert_allclose(sorted(offsets.tolist()), sorted(project(np.eye(3)).tolist()), atol=1e-12)
    assert [t.get_text() for t in axes.texts] == ["a", "b", "c"]
    assert len(axes.lines) == 1 + len(wulff_net()) + 1 + 3
