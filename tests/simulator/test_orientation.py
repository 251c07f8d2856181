"""Misorientation against brute force and known cases; covariances against drawn samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lauepilot.simulator.conventions import axis_rotation, random_rotation, rotation_matrix, rotation_vector
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.orientation import Orientation, misorientation, nearest_equivalent

names = st.sampled_from(["si", "yfe2ge2", "4h-sic", "quartz", "ybco", "feps3", "kyanite"])


@given(names, st.integers(0, 10_000))
def test_symmetry_does_not_count(name: str, seed: int) -> None:
    crystal, rng = load_crystal(name), np.random.default_rng(seed)
    u, v = random_rotation(rng, 2)
    s = crystal.symmetry[rng.integers(len(crystal.symmetry))]
    assert misorientation(u, u @ s, crystal.symmetry) == pytest.approx(0.0, abs=1e-7)
    angle = misorientation(u, v, crystal.symmetry)
    assert misorientation(u @ s, v, crystal.symmetry) == pytest.approx(angle, abs=1e-9)
    assert misorientation(v, u, crystal.symmetry) == pytest.approx(angle, abs=1e-9)
    turn = random_rotation(rng)
    assert misorientation(turn @ u, turn @ v, crystal.symmetry) == pytest.approx(angle, abs=1e-9)


def test_no_cubic_misorientation_is_above_62_8_degrees() -> None:
    """Mackenzie (1958), Biometrika 45, 229: at most 62.8 degrees, 40.7 on the average."""
    rng = np.random.default_rng(0)
    u, v = random_rotation(rng, 4000), random_rotation(rng, 4000)
    angles = np.rad2deg(misorientation(u, v, load_crystal("cu").symmetry))
    assert angles.max() < 62.81
    assert angles.mean() == pytest.approx(40.74, abs=0.7)


def test_a_sigma3_twin() -> None:
    symmetry = load_crystal("cu").symmetry
    assert np.rad2deg(misorientation(np.eye(3), axis_rotation([1, 1, 1], np.pi), symmetry)) == pytest.approx(
        60.0
    )
    assert misorientation(np.eye(3), axis_rotation([0, 0, 1], np.pi / 2), symmetry) == pytest.approx(
        0.0, abs=1e-9
    )


@given(names, st.integers(0, 10_000))
def test_nearest_equivalent(name: str, seed: int) -> None:
    crystal = load_crystal(name)
    u, v = random_rotation(np.random.default_rng(seed), 2)
    near, w = nearest_equivalent(u, v, crystal.symmetry)
    assert np.linalg.norm(w) == pytest.approx(float(misorientation(u, v, crystal.symmetry)), abs=1e-9)
    np.testing.assert_allclose(rotation_matrix(w) @ v, near, atol=1e-9)
    assert misorientation(near, u, crystal.symmetry) == pytest.approx(0.0, abs=1e-7)


def test_covariance_turns_with_the_frame() -> None:
    rng = np.random.default_rng(2)
    spread = np.diag([1e-3, 2e-3, 5e-3]) @ random_rotation(rng)
    u, turn = random_rotation(rng, 2)
    o = Orientation(u, np.eye(3), spread @ spread.T)
    samples = rotation_matrix(rng.normal(size=(20000, 3)) @ spread.T) @ u
    seen = np.cov(rotation_vector((turn @ samples) @ (turn @ u).T).T)
    np.testing.assert_allclose(o.turned(turn).covariance, seen, atol=0.03 * seen.max())
    assert o.sigma_deg == pytest.approx(np.rad2deg(np.sqrt(np.linalg.eigvalsh(seen)[-1])), rel=0.03)
    np.testing.assert_allclose(o.turned(turn).ub, turn @ u)
