"""Advice against the reach it stands on, and against what a target says of itself; labels against the indices written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lauepilot.simulator.advice import advise, equivalent_indices
from lauepilot.simulator.conventions import random_rotation, rotation_angle, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation, misorientation
from lauepilot.simulator.reach import OutOfReachError, reach
from lauepilot.simulator.target import Alignment, Target

ZONE = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)))
FULL = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)), Alignment("hkl", (2, 0, 0), (0, 1, 0)))
seeds = st.integers(0, 2**32 - 1)


def held(crystal, seed):
    return Orientation(random_rotation(np.random.default_rng(seed)), crystal.b, 1e-8 * np.eye(3))


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(["si", "quartz", "ca2ruo4"]), st.sampled_from([ZONE, FULL]))
def test_every_way_does_what_it_says(seed, name, target):
    crystal, goniometer = load_crystal(name), load_instrument("bm32").goniometer
    orientation, now = held(crystal, seed), {"phi": 20.0}
    advice = advise(orientation, target, goniometer, now, crystal)
    for way in advice.ways:
        goniometer.check(way.positions)
        z = goniometer.matrix(way.positions)
        used = Alignment(target.primary.kind, way.primary, target.primary.direction)
        # the equivalent that is named lies there, in the labels given; the written one in the labels of the operation
        there = z @ orientation.u @ used.in_crystal(crystal.b)
        np.testing.assert_allclose(there, target.primary.in_laboratory(), atol=1e-8)
        relabelled = orientation.relabelled(way.operation).turned(z)
        np.testing.assert_allclose(relabelled.u, way.u_lab, atol=1e-9)
        written = relabelled.u @ target.primary.in_crystal(crystal.b)
        np.testing.assert_allclose(written, target.primary.in_laboratory(), atol=1e-8)
        assert way.move_time_s == pytest.approx(goniometer.move_time_s(advice.axes_now, way.positions))
    times = [way.move_time_s for way in advice.ways]
    assert times == sorted(times)
    if advice.ways:
        best = reach(goniometer, orientation.u, target, crystal, now)
        assert times[0] == pytest.approx(best.move_time_s, abs=1e-6)
        assert advice.nearest is None
    else:
        with pytest.raises(OutOfReachError) as refused:
            reach(goniometer, orientation.u, target, crystal, now)
        assert advice.why_not == str(refused.value)
        assert advice.nearest.error_rad == refused.value.nearest.error_rad > 0


def test_cubic_symmetry_offers_six_zones_and_their_settings():
    crystal, goniometer = load_crystal("si"), load_instrument("lab").goniometer
    zones = advise(held(crystal, 1), ZONE, goniometer, {}, crystal).ways
    named = {way.primary for way in zones}
    assert named == {(s * (i == 0), s * (i == 1), s * (i == 2)) for i in range(3) for s in (1, -1)}
    full = advise(held(crystal, 1), FULL, goniometer, {}, crystal).ways
    assert len(full) > 6
    assert all(way.secondary is not None and np.dot(way.primary, way.secondary) == 0 for way in full)


def test_a_way_back_costs_nothing():
    crystal, goniometer = load_crystal("quartz"), load_instrument("lab").goniometer
    first = advise(held(crystal, 3), FULL, goniometer, {}, crystal).ways[0]
    again = advise(held(crystal, 3), FULL, goniometer, first.positions, crystal)
    assert again.ways[0].move_time_s == 0.0
    assert again.error_now_rad < 1e-8


def test_what_cannot_be_done_is_told_with_axis_and_angle():
    crystal, goniometer = load_crystal("ca2ruo4"), load_instrument("bm32").goniometer
    advice = advise(held(crystal, 0), FULL, goniometer, {}, crystal)
    assert not advice.ways
    assert "axis 'arc1'" in advice.why_not
    assert "limit of" in advice.why_not
    with pytest.raises(ReachError, match="theta"):
        advise(held(crystal, 0), FULL, goniometer, {"theta": 100.0}, crystal)
    with pytest.raises(KeyError, match="eta"):
        advise(held(crystal, 0), FULL, goniometer, {"eta": 0.0}, crystal)


# ------------------------------------------------------------------------------------------------------- labels


@settings(max_examples=25, deadline=None)
@given(
    seeds, st.sampled_from(["si", "quartz", "jarosite", "ca2ruo4", "feps3"]), st.sampled_from([ZONE, FULL])
)
def test_labels_are_those_of_the_target(seed, name, target):
    rng = np.random.default_rng(seed)
    crystal = load_crystal(name)
    there = rotation_matrix(rng.normal(size=3) * 1e-3) @ target.laboratory_u(crystal.b, turn=0.0)
    alias = there @ crystal.symmetry[rng.integers(len(crystal.symmetry))]
    operation = target.as_written(alias, crystal)
    named = alias @ operation
    assert misorientation(named, there, crystal.symmetry) < 1e-7
    along = named @ target.primary.in_crystal(crystal.b)
    assert np.arccos(np.clip(along @ target.primary.in_laboratory(), -1, 1)) < 0.01
    if target.secondary is not None:
        assert rotation_angle(named @ there.T) < 1e-7
    # once right, always right: nothing is renamed without need
    np.testing.assert_allclose(target.as_written(named, crystal), np.eye(3), atol=1e-9)


@pytest.mark.parametrize("name", ["si", "quartz", "jarosite", "ca2ruo4", "feps3"])
def test_a_relabelled_orientation_puts_every_plane_where_it_was(name):
    rng = np.random.default_rng(3)
    crystal = load_crystal(name)
    strain = 1e-4 * rng.normal(size=(3, 3))
    before = Orientation(random_rotation(rng), (np.eye(3) + strain + strain.T) @ crystal.b, np.eye(3))
    for s in crystal.symmetry:
        after = before.relabelled(s)
        for hkl in ((1, 0, 0), (1, 2, 3)):
            renamed = equivalent_indices(Alignment("hkl", hkl, (0, 0, 1)), s, crystal.b)
            np.testing.assert_allclose(after.ub @ hkl, before.ub @ renamed, atol=1e-9)
        assert rotation_angle(after.u @ (before.u @ s).T) < 1e-9
