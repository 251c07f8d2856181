"""Ways of an arm from one pose to another: about the crystal if it can be, else straight, else around what is in the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lauepilot.simulator.arm.collision import Scene
from lauepilot.simulator.arm.kernels import improve, link_motions
from lauepilot.simulator.arm.kinematics import characteristic_mm
from lauepilot.simulator.conventions import FloatArray, rotation_matrix, rotation_vector

_STEP = np.deg2rad(2.0)
_JUMP = np.deg2rad(20.0)  # a joint that turns more in one such step has come to a singularity
_FINEST = 12  # halvings of a step in search of a tip that stays
_TREE = 1500
_REACH = 0.5  # radians: longest branch of a tree


@dataclass(frozen=True, eq=False)
class Path:
    """Straight moves in joint angles from point to point.

    Attributes
    ----------
    points
        (m, n) radians, start and end among them.
    kind
        ``about`` (the tip stays), ``straight``, ``via`` (one or two known poses) or ``around`` (searched).
    drift_mm
        Farthest that the tip is from where it is to stay; NaN for kinds where it does not.
    """

    points: FloatArray
    kind: str
    drift_mm: float = float("nan")


def find_path(
    scene: Scene,
    start: FloatArray,
    end: FloatArray,
    *,
    via: Sequence[FloatArray] = (),
    drift_mm: float | None = None,
) -> Path | None:
    """A clear path between joint angles (n,) radians; None if none was found.

    Parameters
    ----------
    scene
        Arm and bodies.
    start, end
        Joint angles, within the limits. Their own clearance is looked at too.
    via
        Poses to go by, in the order in which they are tried.
    drift_mm
        If given, and start and end have their tip within this of each other, it is first tried to turn about the tip, which
        may then drift by so much.
    """
    if drift_mm is not None:
        path = about(scene, start, end, drift_mm)
        if path is not None:
            return path
    if scene.first_touch(start, end) > 1.0:
        return Path(np.array([start, end]), "straight")
    if scene.clearance(end) < scene.margin_mm or scene.clearance(start) < scene.margin_mm:
        return None
    for detour in _detours(via):
        points = np.array([start, *detour, end])
        if all(scene.first_touch(a, b) > 1.0 for a, b in pairwise(points)):
            return Path(points, "via")
    return _search(scene, start, end)


def about(scene: Scene, start: FloatArray, end: FloatArray, drift_mm: float) -> Path | None:
    """The path that turns the tool evenly from start to end while its tip stays; None where there is none.

    There is none if the tips differ by more than the drift, joints would jump (another branch of solutions, a singularity),
    leave their limits, or bodies touch.
    """
    arm = scene.arm
    z0, tip0 = _pose(scene, start)
    z1, tip1 = _pose(scene, end)
    if np.linalg.norm(tip1 - tip0) > drift_mm:
        return None
    turn = rotation_vector(z1 @ z0.T)
    n = max(int(np.ceil(np.linalg.norm(turn) / _STEP)), 1)
    low, high = arm.limits[:, 0], arm.limits[:, 1]
    points, drift, length = [start], 0.0, characteristic_mm(arm)
    stack = [(k + 1) / n for k in reversed(range(n))]
    share, finest = 0.0, 1.0 / (n * 2**_FINEST)
    while stack:
        goal = stack[-1]
        q = points[-1].copy()
        z = np.ascontiguousarray(rotation_matrix(goal * turn) @ z0)
        miss = improve(arm.axes, arm.points, arm.tip, z, tip0 + goal * (tip1 - tip0), q, 20, length)
        jump = np.max(np.abs(q - points[-1]))
        if miss > 1e-8 or jump > _JUMP or np.any(q < low - 1e-9) or np.any(q > high + 1e-9):
            return None
        middle = float(np.linalg.norm(_pose(scene, 0.5 * (q + points[-1]))[1] - tip0))
        # A short straight move of the joints bends the tip's way into a flat arc, highest near its middle; 10 % are kept.
        if middle > 0.9 * drift_mm and goal - share > finest:
            stack.append(0.5 * (share + goal))
            continue
        drift = max(drift, middle, float(np.linalg.norm(_pose(scene, q)[1] - tip0)))
        if drift > drift_mm:
            return None
        points.append(q)
        share = goal
        stack.pop()
    if np.max(np.abs(points[-1] - end)) > 1e-5:
        return None
    points[-1] = end
    if any(scene.first_touch(a, b) <= 1.0 for a, b in pairwise(points)):
        return None
    return Path(np.array(points), "about", drift)


def _pose(scene: Scene, q: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rotation (3, 3) from the zero pose, and the tip (3,) mm."""
    rotations, shifts = link_motions(scene.arm.axes, scene.arm.points, q)
    return rotations[-1], rotations[-1] @ scene.arm.tip + shifts[-1]


def _detours(via: Sequence[FloatArray]) -> Iterator[tuple[FloatArray, ...]]:
    for pose in via:
        yield (pose,)
    for first in via:
        for second in via:
            if first is not second:
                yield (first, second)


def _search(scene: Scene, start: FloatArray, end: FloatArray) -> Path | None:
    """Two trees that grow towards each other (RRT-connect, Kuffner & LaValle 2000), fed by evenly spread places.

    The places are Roberts' sequence, no random numbers: the same question has the same answer.
    """
    low, high = scene.arm.limits[:, 0], scene.arm.limits[:, 1]
    low, high = (
        np.minimum(np.minimum(start, end), np.maximum(low, -np.pi)),
        np.maximum(np.maximum(start, end), np.minimum(high, np.pi)),
    )
    n, root = len(low), 2.0
    for _ in range(30):
        root = (1.0 + root) ** (1.0 / (n + 1))
    steps = root ** -np.arange(1, n + 1)
    trees: list[list[FloatArray]] = [[start], [end]]
    parents: list[list[int]] = [[-1], [-1]]
    for k in range(_TREE):
        place = low + ((0.5 + (k + 1) * steps) % 1.0) * (high - low)
        grown = _grow(scene, trees[0], parents[0], place, once=True)
        if grown is not None:
            met = _grow(scene, trees[1], parents[1], grown, once=False)
            if met is not None and np.max(np.abs(met - grown)) < 1e-12:
                ways = [_branch(t, p) for t, p in zip(trees, parents, strict=True)]
                if k % 2:
                    ways.reverse()
                return Path(_shortened(scene, np.array([*ways[0], *ways[1][::-1][1:]])), "around")
        trees.reverse()
        parents.reverse()
    return None


def _grow(
    scene: Scene, tree: list[FloatArray], parents: list[int], goal: FloatArray, *, once: bool
) -> FloatArray | None:
    """Lengthen the nearest branch towards the goal, once or until stopped; the last place reached."""
    nearest = int(np.argmin(np.sum((np.array(tree) - goal) ** 2, axis=1)))
    reached = None
    while True:
        way = goal - tree[nearest]
        size = float(np.linalg.norm(way))
        if size == 0.0:
            return goal
        place = goal if size <= _REACH else tree[nearest] + way * (_REACH / size)
        if scene.first_touch(tree[nearest], place) <= 1.0:
            return reached
        tree.append(place)
        parents.append(nearest)
        nearest, reached = len(tree) - 1, place
        if once or place is goal:
            return reached


def _branch(tree: list[FloatArray], parents: list[int]) -> list[FloatArray]:
    """From the root to the last place."""
    way, k = [], len(tree) - 1
    while k >= 0:
        way.append(tree[k])
        k = parents[k]
    return way[::-1]


def _shortened(scene: Scene, points: FloatArray) -> FloatArray:
    """The same way without the corners that can be cut."""
    kept, k = [points[0]], 0
    while k < len(points) - 1:
        j = len(points) - 1
        while j > k + 1 and scene.first_touch(points[k], points[j]) <= 1.0:
            j -= 1
        kept.append(points[j])
        k = j
    return np.array(kept)
