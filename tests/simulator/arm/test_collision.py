"""Distances against coal, boxes' own formula and quadratic programming; paths against fine sampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from lauepilot.simulator.arm.collision import Scene
from lauepilot.simulator.arm.gjk import hull_distance
from lauepilot.simulator.arm.kinematics import forward
from lauepilot.simulator.arm.model import ArmError, Body, Joint, arm_from_dh, box_points
from lauepilot.simulator.arm.paths import find_path
from lauepilot.simulator.instrument import load_instrument

ARM = load_instrument("lab-arm").goniometer


def distance(a, b):
    near = np.zeros((2, 3))
    value = hull_distance(np.asarray(a, float), np.asarray(b, float), near[0], near[1])
    assert value == pytest.approx(np.linalg.norm(near[0] - near[1]), abs=1e-6)
    return value


def test_boxes_have_a_formula():
    rng = np.random.default_rng(1)
    for _ in range(500):
        a = box_points(rng.normal(size=3).round() * 30.0, rng.uniform(1, 40, 3))
        b = box_points((0, 0, 0), (10, 20, 30))
        gaps = np.maximum(np.maximum(a.min(0) - b.max(0), b.min(0) - a.max(0)), 0.0)
        assert distance(a, b) == pytest.approx(np.linalg.norm(gaps), abs=1e-9)


def test_hulls_agree_with_coal():
    coal = pytest.importorskip("coal", reason="pip install pin (extra test)")

    def hull(points):
        made = coal.StdVec_Vec3s()
        made.extend(list(points))
        return coal.Convex.convexHull(made, True, "")

    rng, still = np.random.default_rng(2), coal.Transform3s()
    for _ in range(300):
        a = rng.normal(size=(rng.integers(4, 12), 3)) * rng.uniform(0.1, 30)
        b = rng.normal(size=(rng.integers(4, 12), 3)) * rng.uniform(0.1, 30) + rng.normal(size=3) * 50
        request, result = coal.DistanceRequest(), coal.DistanceResult()
        request.gjk_tolerance = 1e-9
        theirs = coal.distance(hull(a), still, hull(b), still, request, result)
        assert distance(a, b) == pytest.approx(max(theirs, 0.0), abs=1e-6)


def test_segments_and_points_agree_with_minimisation():
    rng = np.random.default_rng(3)
    for n, m in ((1, 1), (1, 2), (2, 2), (2, 8), (1, 8)):
        for _ in range(10):
            a, b = rng.normal(size=(n, 3)) * 10, rng.normal(size=(m, 3)) * 10 + (25, 0, 0)
            start = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
            best = minimize(
                lambda w, a=a, b=b, n=n: float(np.sum((w[:n] @ a - w[n:] @ b) ** 2)), start, method="SLSQP",
                bounds=[(0, 1)] * (n + m), options={"ftol": 1e-14, "maxiter": 500},
                constraints=[
                    {"type": "eq", "fun": lambda w, n=n: np.sum(w[:n]) - 1},
                    {"type": "eq", "fun": lambda w, n=n: np.sum(w[n:]) - 1},
                ],
            )  # fmt: skip
            assert distance(a, b) == pytest.approx(np.sqrt(best.fun), abs=1e-4)


def planar(around, ignore=()):
    """Two links of 100 mm in the x, y plane, 5 mm thick."""
    joints = [Joint("a", (-179, 179), 10), Joint("b", (-179, 179), 10)]
    bodies = [
        Body("upper", 1, np.array([[0, 0, 0], [100.0, 0, 0]]), 2.5),
        Body("lower", 2, np.array([[100.0, 0, 0], [200.0, 0, 0]]), 2.5),
    ]
    return Scene(arm_from_dh("planar", joints, [(0, 0, 100, 0), (0, 0, 100, 0)], bodies), around, 1.0, ignore)


def test_a_thin_wall_does_not_slip_through():
    # The tip passes a wire of 0.2 mm at 200 mm: with both ends and any coarse step clear, only a bound finds it.
    wire = Body("wire", 0, np.array([[199.0, 0.0, -50.0], [199.0, 0.0, 50.0]]), 0.1)
    scene = planar([wire])
    start, end = np.array([-1.5, 0.0]), np.array([1.5001, 0.0])
    assert scene.clearance(start) > 100
    assert scene.clearance(end) > 100
    share = scene.first_touch(start, end)
    assert share == pytest.approx(0.5, abs=0.02)
    assert scene.first_touch(start, np.array([-0.1, 0.0])) == 2.0
    touch = scene.contact(start + share * (end - start))
    assert {touch.first, touch.second} == {"lower", "wire"}


def test_it_goes_round_what_is_in_the_way():
    wall = Body("wall", 0, box_points((170, 0, 0), (80, 6, 50)))
    scene = planar([wall])
    start, end = np.array([-0.5, 0.0]), np.array([0.5, 0.0])
    path = find_path(scene, start, end)
    assert path is not None
    assert path.kind == "around"
    for a, b in zip(path.points[:-1], path.points[1:], strict=True):
        for t in np.linspace(0, 1, 200):
            assert scene.clearance(a + t * (b - a)) > 0.5 * scene.margin_mm
    assert np.array_equal(find_path(scene, start, end).points, path.points)  # no dice
    known = path.points[1:-1]
    by = find_path(scene, start, end, via=list(known))
    assert by.kind == ("via" if len(known) <= 2 else "around")
    assert find_path(scene, start, np.array([0.0, 0.0])) is None


def test_it_does_not_run_into_itself():
    scene = planar([])
    assert np.isinf(scene.clearance(np.array([0.0, 3.12])))  # neighbours are joined, not compared
    joints = [Joint(n, (-179, 179), 10) for n in "abc"]
    bodies = [
        Body(n, k, np.array([[100.0 * (k - 1), 0, 0], [100.0 * k, 0, 0]]), 2.5)
        for k, n in ((1, "u"), (2, "m"), (3, "l"))
    ]
    three = Scene(arm_from_dh("three", joints, [(0, 0, 100, 0)] * 3, bodies), (), 1.0)
    folded = np.array([0.0, 2.2, 2.2])
    assert three.clearance(folded) < 0.0
    assert {three.contact(folded).first, three.contact(folded).second} == {"u", "l"}


def test_random_moves_of_the_shipped_arm_agree_with_fine_sampling():
    scene, rng = ARM.scene, np.random.default_rng(7)
    low, high = scene.arm.limits[:, 0], scene.arm.limits[:, 1]
    clear = 0
    for _ in range(30):
        start = np.array(ARM.home)
        end = np.clip(start + rng.normal(size=6) * 0.9, low, high)
        verdict = scene.first_touch(start, end)
        sampled = min(scene.clearance(start + t * (end - start)) for t in np.linspace(0, 1, 400))
        if verdict > 1.0:
            clear += 1
            assert sampled >= 0.5 * scene.margin_mm
        else:
            assert sampled <= scene.margin_mm * 1.5
    assert 3 < clear < 27


def test_bodies_stand_where_the_links_are():
    q = np.deg2rad([20.0, -15.0, 30.0, 40.0, -50.0, 60.0])
    pin = next(k for k, b in enumerate(ARM.scene.bodies) if b.name == "pin")
    rotation, place = forward(ARM.scene.arm, q)
    tool = ARM.scene.placed(pin, q).points
    assert np.allclose(
        place - tool[1], 4.0 * rotation[:, 2], atol=1e-9
    )  # the pin ends 4 mm before the crystal


def test_wrong_scenes_are_refused():
    with pytest.raises(ArmError, match="no wall"):
        planar([], [("upper", "wall")])
    with pytest.raises(ArmError, match="names of their own"):
        planar([Body("upper", 0, np.zeros((1, 3)))])
