"""Arm as sample stage: inverse kinematics of reachable targets, the crystal's place in the beam, and clear paths."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from lauepilot.bench.figures import Figure, Peer, median, share
from lauepilot.bench.timing import CLOCK, machine, one_core
from lauepilot.simulator.arm.goniometer import ArmGoniometer
from lauepilot.simulator.arm.kinematics import forward, inverse
from lauepilot.simulator.arm.urdf import write_urdf
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.instrument import load_instrument

_STEPS = 100  # damped steps that the peer may take from its one start


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """All figures of the arm: ``arm_ik_success``, ``arm_ik_ms``."""
    arm = load_instrument("lab-arm").goniometer
    if not isinstance(arm, ArmGoniometer):
        raise TypeError("The instrument lab-arm has no arm.")
    n = 50 if quick else 1000
    say(f"inverse kinematics of {n} reachable poses of the crystal in the beam")
    targets = reachable(arm, n, np.random.default_rng(4))
    with one_core():
        solved, held, seconds = _solve(arm, targets)
        theirs = _pinocchio(arm, targets)
    say(f"paths from rest to {n} poses")
    paths = _paths(arm, held)
    settings = {
        "arm": arm.scene.arm.name,
        "instrument": "lab-arm",
        "targets": "tools turned as joints drawn at random turn them; kept if least squares (from rest, or from the draw) "
        "brings the crystal into the beam within the limits and clear of all bodies",
        "offered_by_the_stage": len(held),
        "solutions": "all, in closed form, within limits",
        "machine": machine(),
        **paths,
    }
    success_peer = Peer("pinocchio, damped steps from rest", theirs[0]) if theirs else None
    time_peer = Peer("pinocchio, damped steps from rest", theirs[1]) if theirs else None
    return [
        share("arm_ik_success", solved, settings, success_peer),
        median("arm_ik_ms", [1e3 * s for s in seconds], "ms", {**settings, "clock": CLOCK}, None, time_peer),
    ]


def reachable(arm: ArmGoniometer, n: int, rng: np.random.Generator) -> FloatArray:
    """Rotations (n, 3, 3) from the zero pose at which some clear pose holds the crystal in the beam.

    They are made of joints drawn at random, whose tool is then shifted to the beam by least squares: not by the closed
    form that is measured.
    """
    from lauepilot.simulator.arm.kernels import improve
    from lauepilot.simulator.arm.kinematics import characteristic_mm

    scene, found = arm.scene, list[FloatArray]()
    low, high = scene.arm.limits[:, 0], scene.arm.limits[:, 1]
    while len(found) < n:
        q = rng.uniform(low, high)
        z = np.ascontiguousarray(forward(scene.arm, q)[0] @ scene.arm.tip_rotation.T)
        near = np.array(arm.home) if rng.uniform() < 0.5 else q.copy()
        missed = improve(
            scene.arm.axes,
            scene.arm.points,
            scene.arm.tip,
            z,
            np.zeros(3),
            near,
            80,
            characteristic_mm(scene.arm),
        )
        inside = np.all(near >= low) and np.all(near <= high)
        if missed < 1e-9 and inside and scene.clearance(near) >= scene.margin_mm:
            found.append(z)
    return np.array(found)


def _solve(arm: ArmGoniometer, targets: FloatArray) -> tuple[list[bool], list[FloatArray], list[float]]:
    """Which are solved to 1e-8 rad and 1e-6 mm, the poses that the stage would take, and seconds each."""
    model = arm.scene.arm
    solved: list[bool] = []
    seconds: list[float] = []
    held: list[FloatArray] = []
    inverse(model, targets[0] @ model.tip_rotation, np.zeros(3))
    for z in targets:
        began = time.perf_counter()
        solutions = inverse(model, z @ model.tip_rotation, np.zeros(3))
        seconds.append(time.perf_counter() - began)
        good = bool(solutions)
        for s in solutions:
            rotation, place = forward(model, s.q)
            good &= bool(
                np.max(np.abs(rotation - z @ model.tip_rotation)) < 1e-8 and np.linalg.norm(place) < 1e-6
            )
        solved.append(good)
        poses = arm.settings(z[None], np.array(arm.home))[1]
        if len(poses):
            held.append(poses[int(np.argmin(np.max(np.abs(poses - np.array(arm.home)), axis=1)))])
    return solved, held, seconds


def _paths(arm: ArmGoniometer, poses: list[FloatArray]) -> dict[str, Any]:
    """What became of the moves from rest: kinds of paths, the crystal's distance from the beam, least clearance met."""
    kinds: Counter[str] = Counter()
    at_goal, drift, clearance = 0.0, 0.0, np.inf
    for q in poses:
        # What a controller is sent: positions rounded to its smallest step.
        rounded = {
            a.name: round(float(np.rad2deg(v)) / a.resolution) * a.resolution
            for a, v in zip(arm.axes, q, strict=True)
        }
        goal = {a.name: float(np.clip(rounded[a.name], *a.limits)) for a in arm.axes}
        at_goal = max(at_goal, arm.beam_distance_mm(goal))
        try:
            path = arm.path(arm.rest, goal)
        except ReachError:
            kinds["refused"] += 1
            continue
        kinds[path.kind] += 1
        for a, b in pairwise(path.points):
            for t in np.linspace(0.0, 1.0, 5):
                pose = a + t * (b - a)
                clearance = min(clearance, arm.scene.clearance(pose))
                if path.kind == "about":
                    drift = max(drift, float(np.linalg.norm(forward(arm.scene.arm, pose)[1])))
    return {
        "paths": dict(kinds),
        "beam_mm_at_goals": at_goal,
        "beam_mm_while_turning_about_it": drift,
        "least_clearance_mm": float(clearance),
        "margin_mm": arm.scene.margin_mm,
    }


def _pinocchio(arm: ArmGoniometer, targets: FloatArray) -> tuple[float, float] | None:
    """Share solved within limits and median ms of pinocchio's damped steps from the pose at rest; None without it."""
    try:
        import pinocchio as pin  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        return None
    model = pin.buildModelFromXML(write_urdf(arm.scene.arm))
    data, frame = model.createData(), model.getFrameId("tool")
    limits, solved, seconds = arm.scene.arm.limits, 0, []
    for z in targets:
        goal = pin.SE3(z @ arm.scene.arm.tip_rotation, np.zeros(3))
        q, good, began = np.array(arm.home), False, time.perf_counter()
        for _ in range(_STEPS):
            pin.framesForwardKinematics(model, data, q)
            miss = data.oMf[frame].actInv(goal)
            error = pin.log(miss).vector
            if np.linalg.norm(error) < 1e-6:
                good = bool(np.all(q >= limits[:, 0]) and np.all(q <= limits[:, 1]))
                break
            jacobian = -pin.Jlog6(miss.inverse()) @ pin.computeFrameJacobian(model, data, q, frame)
            step = -jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-6 * np.eye(6), error)
            q = pin.integrate(model, q, step * min(1.0, 0.5 / max(float(np.max(np.abs(step))), 1e-12)))
        seconds.append(time.perf_counter() - began)
        solved += good
    return solved / len(targets), float(np.median(seconds)) * 1e3
