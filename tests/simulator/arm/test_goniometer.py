"""The arm as a sample stage, held against the laws that every goniometer obeys."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from lauepilot.hardware.errors import InterlockError
from lauepilot.hardware.interlock import Interlock
from lauepilot.perception.observation import Move
from lauepilot.simulator.advice import advise
from lauepilot.simulator.arm import goniometer as arm_module
from lauepilot.simulator.arm.goniometer import ArmGoniometer
from lauepilot.simulator.arm.kinematics import forward
from lauepilot.simulator.conventions import random_rotation, rotation_angle
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.instrument import InstrumentError, load_instrument, parse_instrument
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.reach import OutOfReachError, reach
from lauepilot.simulator.target import Alignment, Target
from lauepilot.simulator.twin import Twin

LAB = load_instrument("lab-arm")
ARM = LAB.goniometer
GRID = ARM.grid()
SI, KYANITE = load_crystal("si"), load_crystal("kyanite")
ZONE = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)))
FULL = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)), Alignment("hkl", (1, 0, 0), (0, 1, 0)))


def test_its_rotation_is_the_tools():
    assert isinstance(ARM, ArmGoniometer)
    arm, rng = ARM.scene.arm, np.random.default_rng(1)
    for _ in range(20):
        q = rng.uniform(arm.limits[:, 0], arm.limits[:, 1])
        rotation, _ = forward(arm, q)
        named = dict(zip(ARM.names, np.rad2deg(q), strict=True))
        assert np.allclose(ARM.matrix(named), rotation @ arm.tip_rotation.T, atol=1e-12)


@pytest.mark.parametrize("target", [ZONE, FULL], ids=["zone", "full"])
def test_reach_brings_the_target_with_the_crystal_in_the_beam(target):
    rng = np.random.default_rng(2)
    for _ in range(5):
        u = random_rotation(rng)
        found = reach(ARM, u, target, SI, ARM.rest)
        assert target.error(ARM.matrix(found.positions) @ u, SI) < 1e-8
        assert ARM.beam_distance_mm(found.positions) < 1e-6
        assert ARM.problem(ARM.rest, found.positions) == ""
        assert found.move_time_s > 0.0


def test_what_cannot_be_reached_says_so_and_how_near():
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(4):
        u = random_rotation(rng)
        try:
            reach(ARM, u, FULL, KYANITE, ARM.rest)
        except OutOfReachError as error:
            refused += 1
            near = error.nearest
            assert ARM.beam_distance_mm(near.positions) < 1e-6
            assert FULL.error(ARM.matrix(near.positions) @ u, KYANITE) == pytest.approx(
                near.error_rad, abs=1e-7
            )
            # No pose of a dense set of all that can be reached is much nearer.
            z = [ARM.matrix(ARM._named(q)) for q in GRID[::7]]
            assert near.error_rad <= min(FULL.error(r @ u, KYANITE) for r in z) + 1e-9
    assert 1 <= refused <= 3


def test_advice_lists_ways_of_an_arm():
    u = random_rotation(np.random.default_rng(5))
    advice = advise(Orientation(u, SI.b, np.eye(3) * 1e-8), ZONE, ARM, ARM.rest, SI)
    assert advice.ways
    for way in advice.ways:
        assert ZONE.error(ARM.matrix(way.positions) @ u, SI) < 1e-8
        assert ARM.problem(ARM.rest, way.positions) == ""
    times = [way.move_time_s for way in advice.ways]
    assert times == sorted(times)


def test_the_crystal_stays_in_the_beam_while_it_turns():
    poses = GRID[::150]
    about = 0
    for q in poses:
        goal = ARM._named(q)
        try:
            path = ARM.path(ARM.rest, goal)
        except ReachError:
            continue
        if path.kind != "about":
            continue
        about += 1
        for a, b in zip(path.points[:-1], path.points[1:], strict=True):
            for t in np.linspace(0.0, 1.0, 9):
                assert np.linalg.norm(forward(ARM.scene.arm, a + t * (b - a))[1]) <= ARM.drift_mm
        turns = [ARM.matrix(ARM._named(p)) for p in path.points]
        whole = rotation_angle(turns[-1] @ turns[0].T)
        assert sum(rotation_angle(b @ a.T) for a, b in pairwise(turns)) == pytest.approx(whole)
    assert about > len(poses) // 6


def test_time_and_place_on_the_way_agree():
    goal = ARM.elsewhere(ARM.rest, 2)
    seconds = ARM.move_time_s(ARM.rest, goal) - 0.5
    assert ARM.underway(ARM.rest, goal, 0.0) == pytest.approx(ARM.rest)
    assert ARM.underway(ARM.rest, goal, seconds) == pytest.approx(goal)
    half = ARM.underway(ARM.rest, goal, 0.5 * seconds)
    assert (
        0.3
        < sum(abs(half[n] - ARM.rest[n]) for n in goal) / sum(abs(goal[n] - ARM.rest[n]) for n in goal)
        < 0.7
    )
    assert ARM.move_time_s(goal, goal) == 0.0
    assert ARM.waypoints(ARM.rest, goal)[-1] == pytest.approx(goal)


@pytest.mark.parametrize(
    ("move", "why"),
    [
        ({"j4": 30.0}, "from the beam"),
        ({"j2": 91.0}, "limits"),
        ({"j1": 0.0, "j2": 60.0, "j3": 60.0, "j4": 0.0, "j5": 0.0, "j6": 0.0}, "from the beam"),
    ],
)
def test_the_interlock_refuses_what_leaves_the_beam(move, why):
    with pytest.raises(InterlockError, match=why):
        Interlock.of(LAB, 60.0).check(Move(move, ""), ARM.rest)


def test_the_interlock_allows_what_reach_found():
    goal = reach(ARM, random_rotation(np.random.default_rng(8)), ZONE, SI, ARM.rest)
    checked = Interlock.of(LAB, 60.0).check(Move(goal.positions, ""), ARM.rest)
    assert checked.axes == pytest.approx(goal.positions)


def test_wild_moves_never_collide():
    lock, rng = Interlock.of(LAB, 60.0), np.random.default_rng(9)
    here, allowed = ARM.rest, 0
    for k in range(100):
        wild = {a.name: float(rng.uniform(*a.limits)) for a in ARM.axes}
        goal = ARM._named(GRID[rng.integers(len(GRID))]) if k % 10 == 0 else wild
        try:
            lock.check(Move(goal, ""), here)
        except InterlockError:
            continue
        allowed += 1
        path = ARM.path(here, goal)
        for a, b in zip(path.points[:-1], path.points[1:], strict=True):
            assert min(ARM.scene.clearance(a + t * (b - a)) for t in np.linspace(0, 1, 20)) > 0.0
        assert ARM.beam_distance_mm(goal) <= ARM.drift_mm
        here = goal
    assert 3 <= allowed <= 10


def test_a_twin_stands_in_the_beam_and_refuses_to_collide():
    twin = Twin(SI, LAB, rng=np.random.default_rng(1), faults=Faults(), table=SimpleNamespace())
    assert twin.positions == pytest.approx(ARM.rest)
    with pytest.raises(ReachError, match="mm apart"):
        twin.move({"j1": 0.0, "j2": 90.0, "j3": 60.0, "j4": 0.0, "j5": 0.0, "j6": 0.0})
    assert twin.positions == pytest.approx(ARM.rest)
    true = twin.truth.instrument.goniometer
    assert isinstance(true, ArmGoniometer)
    u = random_rotation(np.random.default_rng(4))
    found = reach(true, u, ZONE, SI, twin.positions)  # axes that are not where they are believed
    assert ZONE.error(true.matrix(found.positions) @ u, SI) < 1e-8
    assert ZONE.error(ARM.matrix(found.positions) @ u, SI) > 1e-6


def test_reach_is_quick(monkeypatch):
    """What it costs is looking for poses, of many rotations at once, and looking for paths, of the best alone."""
    asked = Counter()

    def counted(name, call):
        def count(*args, **kwargs):
            asked[name] += 1
            return call(*args, **kwargs)

        return count

    monkeypatch.setattr(ArmGoniometer, "settings", counted("poses", ArmGoniometer.settings))
    monkeypatch.setattr(arm_module, "find_path", counted("paths", arm_module.find_path))
    for seed in range(12, 17):
        reach(ARM, random_rotation(np.random.default_rng(seed)), ZONE, SI, ARM.rest)
    assert 0 < asked["poses"] <= 5 * 20
    assert 0 < asked["paths"] <= 5 * 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arm: meca500", "arm: ur5", "Shipped: meca500"),
        ("base_x: [0, 0, -1]", "base_x: [0, 1, -1]", "right angles"),
        ("base_mm: [0, -200, 200]", "base_mm: [0, -200, 900]", "cannot hold the crystal"),
        ("home: [0, 0, 0, 0, 0, 0]", "home: [0, 0, 0]", "6 joints"),
        ("radius: 2}", "radius: -2}", "radius"),
        ("centre: [0, 0, -59]", "centre: [0, 0, -9]", "cannot rest"),
        ("drift_mm: 0.05", "drift: 0.05", "drift"),
    ],
)
def test_wrong_mounts_are_refused(old, new, message):
    from importlib.resources import files

    text = (files("lauepilot.simulator") / "instruments/lab-arm.yaml").read_text("utf-8")
    assert old in text
    with pytest.raises(InstrumentError, match=message):
        parse_instrument(text.replace(old, new), "mine.yaml")
