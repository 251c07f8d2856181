"""Inverse kinematics against scipy's Euler and Davenport angles, and reachability against the target's own error."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lauepilot.simulator.conventions import random_rotation, rotation_angle
from lauepilot.simulator.goniometer import Axis, Goniometer, ReachError
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.kinematics import solve_axes
from lauepilot.simulator.reach import OutOfReachError, reach
from lauepilot.simulator.target import Alignment, Target

CUBIC = SimpleNamespace(b=2 * np.pi / 5.43 * np.eye(3), symmetry=Rotation.create_group("O").as_matrix())
TRICLINIC = SimpleNamespace(
    b=np.array([[1.1, 0.2, 0.1], [0, 0.9, 0.3], [0, 0, 1.2]]), symmetry=np.eye(3)[None]
)
CUBE = SimpleNamespace(b=np.eye(3), symmetry=np.eye(3)[None])
FULL = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)), Alignment("hkl", (1, 0, 0), (0, 1, 0)))
ZONE = Target(Alignment("uvw", (1, 1, 2), (0, 0, 1)))
angles = st.floats(-360.0, 360.0, allow_nan=False)
components = st.floats(-1.0, 1.0, allow_nan=False)
vectors = st.tuples(components, components, components).filter(lambda v: np.linalg.norm(v) > 0.1)
seeds = st.integers(0, 2**32 - 1)


def chain(*directions, limits=(-180.0, 180.0), speed=5.0):
    return Goniometer(
        tuple(
            Axis(f"a{i}", "rotation", tuple(map(float, d)), limits, speed) for i, d in enumerate(directions)
        )
    )


def alike(goniometer, setting, z):
    return float(rotation_angle(goniometer.matrix(setting) @ z.T))


def attempt(goniometer, u, target, crystal, current):
    try:
        return reach(goniometer, u, target, crystal, current), True
    except OutOfReachError as error:
        return error.nearest, False


@settings(max_examples=150, deadline=None)
@given(vectors, vectors, vectors, st.tuples(angles, angles, angles))
def test_every_setting_gives_the_rotation(a, b, c, setting):
    goniometer = chain(a, b, c, limits=(-360.0, 360.0))
    wanted = goniometer.matrix(dict(zip(goniometer.names, setting, strict=True)))
    found = solve_axes(goniometer, wanted)
    parallel = min(np.linalg.norm(np.cross(p, q)) for p, q in ((a, b), (b, c))) < 1e-6
    assert found or parallel
    for s in found:
        assert alike(goniometer, s, wanted) < 1e-8
        goniometer.check(s)


@settings(max_examples=100, deadline=None)
@given(vectors, vectors, vectors, st.tuples(angles, angles, angles))
def test_the_setting_itself_is_among_the_solutions(a, b, c, setting):
    if min(np.linalg.norm(np.cross(p, q)) for p, q in ((a, b), (b, c))) < 0.05:
        return
    goniometer = chain(a, b, c, limits=(-360.0, 360.0))
    jacobian = goniometer.jacobian(dict(zip(goniometer.names, setting, strict=True)))
    if np.linalg.svd(jacobian)[1][-1] < 1e-2:
        return
    found = solve_axes(goniometer, goniometer.matrix(dict(zip(goniometer.names, setting, strict=True))))
    rows = np.array([[s[n] for n in goniometer.names] for s in found])
    assert np.abs(rows - np.array(setting)).max(axis=1).min() < 1e-6


@pytest.mark.parametrize("sequence", ["YZY", "ZXZ", "XYZ", "ZYX"])
def test_euler_chains_agree_with_scipy(sequence):
    goniometer = chain(*(np.eye(3)["XYZ".index(c)] for c in sequence), limits=(-180.0, 180.0))
    for z in random_rotation(np.random.default_rng(1), 20):
        euler = Rotation.from_matrix(z).as_euler(sequence, degrees=True)
        found = [list(s.values()) for s in solve_axes(goniometer, z)]
        assert len(found) == 2
        assert np.abs(np.array(found) - euler).max(axis=1).min() < 1e-9


def test_davenport_chain_agrees_with_scipy():
    axes = np.array([[0, 1, 0], [np.sin(0.3), 0, np.cos(0.3)], [np.cos(0.7), np.sin(0.7), 0]])
    axes[1] = np.cross(axes[0], axes[2])
    axes[1] /= np.linalg.norm(axes[1])
    goniometer = chain(*axes)
    for z in random_rotation(np.random.default_rng(2), 20):
        rotation = Rotation.from_matrix(z)
        davenport = rotation.as_davenport(axes, "extrinsic", degrees=True)
        intrinsic = rotation.as_davenport(axes, "intrinsic", degrees=True)
        found = np.array([list(s.values()) for s in solve_axes(goniometer, z)])
        assert np.abs(found - intrinsic).max(axis=1).min() < 1e-8
        assert davenport.shape == (3,)


@pytest.mark.parametrize("middle", [0.0, 180.0])
def test_gimbal_lock_is_solved_exactly(middle):
    goniometer = chain((0, 1, 0), (0, 0, 1), (0, 1, 0))
    wanted = goniometer.matrix({"a0": 31.0, "a1": middle, "a2": -12.0})
    found = solve_axes(goniometer, wanted, held={"a0": 10.0, "a2": 0.0})
    assert found
    assert any(abs(s["a0"] - 10.0) < 1e-9 for s in found)
    assert all(alike(goniometer, s, wanted) < 1e-12 for s in found)


def test_images_by_full_turns_are_listed_within_the_limits():
    goniometer = chain((0, 1, 0), limits=(-400.0, 400.0))
    found = sorted(s["a0"] for s in solve_axes(goniometer, goniometer.matrix({"a0": 30.0})))
    np.testing.assert_allclose(found, [-330.0, 30.0, 390.0], atol=1e-9)


def test_fewer_axes_reach_only_what_they_can():
    two = chain((1, 0, 0), (0, 1, 0))
    wanted = two.matrix({"a0": 20.0, "a1": -50.0})
    assert any(np.allclose(list(s.values()), [20.0, -50.0]) for s in solve_axes(two, wanted))
    assert solve_axes(two, chain((0, 0, 1)).matrix({"a0": 20.0})) == []
    assert solve_axes(Goniometer(()), np.eye(3)) == [{}]
    with pytest.raises(ValueError, match="up to three"):
        solve_axes(chain(*np.eye(3), (1, 1, 1)), np.eye(3))
    with pytest.raises(ValueError, match="Give U, not UB"):
        solve_axes(two, 2 * np.eye(3))


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([FULL, ZONE]), st.sampled_from([CUBIC, TRICLINIC]))
def test_reach_fulfils_the_target_within_limits(seed, target, crystal):
    rng = np.random.default_rng(seed)
    goniometer = load_instrument("lab").goniometer
    u = random_rotation(rng)
    current = {axis.name: float(rng.uniform(*axis.limits)) for axis in goniometer.rotations}
    found, exact = attempt(goniometer, u, target, crystal, current)
    goniometer.check(found.positions)
    u_lab = goniometer.matrix(found.positions) @ u
    assert target.error(u_lab, crystal) == pytest.approx(found.error_rad, abs=1e-9 if exact else 1e-7)
    assert (found.error_rad < 1e-9) == exact
    if not exact:
        return
    np.testing.assert_allclose(u_lab, found.u_lab, atol=1e-12)
    assert found.move_time_s == goniometer.move_time_s(current, found.positions)
    wanted = target.laboratory_u(crystal.b, found.turn)
    assert rotation_angle(u_lab @ crystal.symmetry @ wanted.T).min() < 1e-9 or target.secondary is None


def test_reach_is_the_shortest_of_all_equivalents():
    goniometer = load_instrument("lab").goniometer
    rng = np.random.default_rng(5)
    for _ in range(10):
        u = random_rotation(rng)
        times = [
            goniometer.move_time_s({}, s)
            for op in CUBIC.symmetry
            for s in solve_axes(goniometer, FULL.laboratory_u(CUBIC.b) @ (u @ op).T)
        ]
        assert reach(goniometer, u, FULL, CUBIC, {}).move_time_s == pytest.approx(min(times))


def test_the_free_turn_is_used_for_the_shortest_move():
    goniometer = chain((0, 1, 0), (0, 0, 1), (1, 0, 0))
    for u in random_rotation(np.random.default_rng(6), 2):
        scanned = min(
            goniometer.move_time_s({}, s)
            for turn in np.deg2rad(np.arange(0, 360, 1.0))
            for op in CUBE.symmetry
            for s in solve_axes(goniometer, ZONE.laboratory_u(CUBE.b, turn) @ (u @ op).T)
        )
        found = reach(goniometer, u, ZONE, CUBE, {}).move_time_s
        assert scanned - 0.5 < found <= scanned + 1e-6


def test_where_the_target_is_fulfilled_nothing_moves():
    goniometer = load_instrument("lab").goniometer
    here = {"omega": 12.0, "chi": -7.0, "phi": 33.0}
    for target in (FULL, ZONE):
        u = goniometer.matrix(here).T @ target.laboratory_u(CUBIC.b, 0.0 if target.secondary else 1.0)
        found = reach(goniometer, u, target, CUBIC, here)
        assert found.move_time_s == 0.0
        assert found.positions == here


@pytest.mark.parametrize("direction", [(0, 1, 0), (0, 0, 1), (1, 0, 0), (0.3, -0.5, 0.8)])
def test_two_axes_place_one_direction(direction):
    goniometer = chain((0, 1, 0), (1, 0, 0))
    target = Target(Alignment("hkl", (1, 1, 1), direction))
    u = random_rotation(np.random.default_rng(3))
    found, exact = attempt(goniometer, u, target, CUBIC, {"a0": 5.0})
    error = target.error(goniometer.matrix(found.positions) @ u, CUBIC)
    assert error < 1e-9 if exact else error == pytest.approx(found.error_rad)


def test_out_of_reach_names_axis_limit_excess_and_the_nearest():
    goniometer = chain((0, 1, 0), (0, 0, 1), (0, 1, 0), limits=(-10.0, 10.0))
    u = chain((0, 0, 1)).matrix({"a0": -37.0}) @ FULL.laboratory_u(CUBE.b)
    with pytest.raises(
        ReachError, match=r"'a1' at 37\.000 deg, 27\.000 deg beyond its upper limit of 10"
    ) as caught:
        reach(goniometer, u, FULL, CUBE, {})
    error = caught.value
    assert (error.axis, error.limit) == ("a1", 10.0)
    assert error.excess == pytest.approx(27.0)
    assert np.rad2deg(error.nearest.error_rad) == pytest.approx(27.0, abs=1e-4)
    assert error.nearest.positions["a1"] == pytest.approx(10.0, abs=1e-4)


def test_one_axis_says_that_no_setting_exists_and_takes_a_tolerance():
    goniometer = load_instrument("koala").goniometer
    u = chain((1, 0, 0)).matrix({"a0": 2.0}) @ FULL.laboratory_u(CUBIC.b)
    with pytest.raises(OutOfReachError, match="no setting of the rotation axes") as caught:
        reach(goniometer, u, FULL, CUBIC, {})
    assert np.rad2deg(caught.value.nearest.error_rad) == pytest.approx(2.0, abs=1e-6)
    assert np.rad2deg(reach(goniometer, u, FULL, CUBIC, {}, tolerance_deg=2.5).error_rad) == pytest.approx(
        2.0
    )


@pytest.mark.parametrize("target", [FULL, ZONE])
def test_fast_enough_for_a_loop(target):
    goniometer = load_instrument("lab").goniometer
    us = random_rotation(np.random.default_rng(7), 5)
    spans = []
    for u in us:
        start = time.perf_counter()
        reach(goniometer, u, target, CUBIC, {})
        spans.append(time.perf_counter() - start)
    assert min(spans) < 0.05  # about 0.001 (full) and 0.009 s (free turn) on an idle core; CI may be slow


@pytest.mark.parametrize("start", [-300.0, -100.0, 0.0, 40.0, 100.0, 200.0, 355.0])
def test_of_equally_near_settings_the_soonest(start):
    """A two-sided direction 0.05 deg off the plane that one rotation sweeps: of four settings as near, the next one."""
    goniometer = chain((0, 1, 0), limits=(-360.0, 360.0))
    two_sided = SimpleNamespace(b=np.eye(3), symmetry=np.stack([np.eye(3), np.diag([1.0, -1.0, -1.0])]))
    u = (
        Rotation.from_euler("y", 30.0, degrees=True).as_matrix()
        @ Rotation.from_euler("x", 0.05, True).as_matrix()
    )
    with pytest.raises(OutOfReachError) as caught:
        reach(goniometer, u, Target(Alignment("uvw", (0, 0, 1), (0, 0, 1))), two_sided, {"a0": start})
    nearest = caught.value.nearest
    assert np.rad2deg(nearest.error_rad) == pytest.approx(0.05)
    places = np.array([-210.0, -30.0, 150.0, 330.0])
    assert nearest.positions["a0"] == pytest.approx(places[np.argmin(np.abs(places - start))], abs=1e-3)
