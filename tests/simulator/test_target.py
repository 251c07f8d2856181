"""Targets against the geometry they name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lauepilot.simulator.conventions import axis_rotation, random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.target import Alignment, Target

ZONE = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)), Alignment("hkl", (1, 0, 0), (0, 1, 0)))


def test_zone_axis_and_plane_normal_of_an_oblique_cell() -> None:
    b = load_crystal("feps3").b
    direct = 2 * np.pi * np.linalg.inv(b).T
    c = Alignment("uvw", (0, 0, 1), (0, 0, 1)).in_crystal(b)
    np.testing.assert_allclose(c, direct[:, 2] / np.linalg.norm(direct[:, 2]))
    # A zone axis is at right angles to the normals of its planes.
    for hkl in ((1, 0, 0), (0, 1, 0), (3, -2, 0)):
        assert c @ Alignment("hkl", hkl, (0, 0, 1)).in_crystal(b) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["si", "feps3", "kyanite"])
def test_the_wanted_orientation_fulfils_the_target(name: str) -> None:
    crystal = load_crystal(name)
    u = ZONE.laboratory_u(crystal.b)
    assert np.linalg.det(u) == pytest.approx(1.0)
    np.testing.assert_allclose(u @ ZONE.primary.in_crystal(crystal.b), [0, 0, 1], atol=1e-12)
    assert ZONE.secondary is not None
    second = u @ ZONE.secondary.in_crystal(crystal.b)
    assert second[0] == pytest.approx(0.0, abs=1e-12)
    assert second[1] > 0
    assert ZONE.error(u, crystal) == pytest.approx(0.0, abs=1e-7)


@given(st.floats(0.001, 0.3), st.integers(0, 1000))
def test_error_is_the_angle_that_misses(angle: float, seed: int) -> None:
    crystal = load_crystal("quartz")
    axis = random_rotation(np.random.default_rng(seed))[0]
    missed = axis_rotation(axis, angle) @ ZONE.laboratory_u(crystal.b)
    assert ZONE.error(missed, crystal) == pytest.approx(angle, abs=1e-9)
    free = Target(ZONE.primary)
    assert free.error(missed, crystal) <= angle + 1e-9
    about_beam = axis_rotation([0, 0, 1], 1.0) @ ZONE.laboratory_u(crystal.b)
    assert free.error(about_beam, crystal) == pytest.approx(0.0, abs=1e-7)


def test_a_turn_about_the_first_direction_keeps_it() -> None:
    crystal = load_crystal("ybco")
    for turn in (0.0, 0.5, 2.0):
        u = ZONE.laboratory_u(crystal.b, turn)
        assert Target(ZONE.primary).error(u, crystal) == pytest.approx(0.0, abs=1e-7)
        np.testing.assert_allclose(
            u @ ZONE.laboratory_u(crystal.b).T, axis_rotation([0, 0, 1], turn), atol=1e-12
        )


def test_messages() -> None:
    b = load_crystal("si").b
    with pytest.raises(ValueError, match="must not all be zero"):
        Alignment("hkl", (0, 0, 0), (0, 0, 1)).in_crystal(b)
    with pytest.raises(ValueError, match="must not be parallel"):
        Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)), Alignment("hkl", (0, 0, 1), (0, 1, 0))).laboratory_u(b)
