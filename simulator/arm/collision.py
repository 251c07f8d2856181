"""What an arm may touch: distances between its bodies and those around it, at a pose and along whole straight moves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.arm.gjk import hull_distance
from lauepilot.simulator.arm.kernels import link_motions
from lauepilot.simulator.arm.model import Arm, ArmError, Body
from lauepilot.simulator.conventions import FloatArray


class Packed(NamedTuple):
    """A scene as plain arrays that numba understands; ``start[i]:start[i + 1]`` are the points of body ``i``."""

    axes: FloatArray
    points: FloatArray
    corners: FloatArray
    start: NDArray[np.int64]
    link: NDArray[np.int64]
    radius: FloatArray
    centre: FloatArray
    bound: FloatArray
    pairs: NDArray[np.int64]
    reach: FloatArray
    margin: float


@dataclass(frozen=True, eq=False)
class Contact:
    """The two bodies that are nearest to each other, their clearance (mm) and the place (3,) between them."""

    first: str
    second: str
    clearance_mm: float
    place: FloatArray

    def __str__(self) -> str:
        (x, y, z), gap = self.place, max(self.clearance_mm, 0.0)
        return f"{self.first} and {self.second}, {gap:.1f} mm apart at ({x:.0f}, {y:.0f}, {z:.0f}) mm"


class Scene:
    """An arm with its tool among bodies that stand still.

    Parameters
    ----------
    arm
        Placed in the laboratory, with its tool.
    around
        Bodies that stand still, in the laboratory.
    margin_mm
        What bodies must keep between them.
    ignore
        Pairs of names that may touch. Bodies on the same or on neighbouring links are never compared.

    Raises
    ------
    ArmError
        If names are used twice or ``ignore`` names a body that does not exist.
    """

    def __init__(
        self,
        arm: Arm,
        around: Sequence[Body] = (),
        margin_mm: float = 2.0,
        ignore: Collection[tuple[str, str]] = (),
    ) -> None:
        self.arm = arm
        self.margin_mm = float(margin_mm)
        still = [Body(body.name, 0, body.points, body.radius) for body in around]
        self.bodies = (*arm.bodies, *still)
        names = [body.name for body in self.bodies]
        strange = {name for pair in ignore for name in pair} - set(names)
        if len(set(names)) != len(names) or strange:
            raise ArmError(
                f"Bodies need names of their own, and pairs to ignore must name bodies: {', '.join(names)}"
                + (f"; there is no {', '.join(sorted(strange))}." if strange else ".")
            )
        if not np.isfinite(margin_mm) or margin_mm <= 0.0:
            raise ArmError(f"The margin must be a positive number of mm; {margin_mm} came.")
        spared = {frozenset(pair) for pair in ignore}
        self.packed = self._pack(len(arm.bodies), spared)

    def _pack(self, own: int, spared: set[frozenset[str]]) -> Packed:
        arm, bodies = self.arm, self.bodies
        pairs = []
        for i, a in enumerate(bodies):
            for j in range(i + 1, len(bodies)):
                b = bodies[j]
                # What is bolted to the same or the next link always touches; a body of the surroundings never should.
                apart = abs(a.link - b.link) >= (2 if j < own else 1)
                if apart and frozenset((a.name, b.name)) not in spared:
                    pairs.append((i, j))
        centre = np.array([0.5 * (b.points.min(axis=0) + b.points.max(axis=0)) for b in bodies]).reshape(
            -1, 3
        )
        bound = np.array(
            [np.linalg.norm(b.points - c, axis=1).max() for b, c in zip(bodies, centre, strict=True)]
        )
        sizes = [len(b.points) for b in bodies]
        # The farthest that anything beyond joint j ever is from its axis: links are rigid, so this holds at every pose.
        n = len(arm.joints)
        reach = np.zeros(n)
        for j in range(n - 1, -1, -1):
            far = [
                float(np.linalg.norm(b.points - arm.points[j], axis=1).max()) + b.radius
                for b in bodies
                if b.link == j + 1
            ]
            if j + 1 < n:
                far.append(float(np.linalg.norm(arm.points[j + 1] - arm.points[j])) + reach[j + 1])
            reach[j] = max(far, default=0.0)
        return Packed(
            arm.axes, arm.points,
            np.concatenate([b.points for b in bodies]) if bodies else np.zeros((0, 3)),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.array([b.link for b in bodies], dtype=np.int64),
            np.array([b.radius for b in bodies], dtype=float),
            centre, bound, np.array(pairs, dtype=np.int64).reshape(-1, 2), reach, self.margin_mm,
        )  # fmt: skip

    def clearance(self, q: ArrayLike) -> float:
        """Smallest distance (mm) between bodies that must not touch, at joint angles (n,) radians; touching from 0 on."""
        return float(nearest_pair(self.packed, np.asarray(q, dtype=float), np.inf)[0])

    def contact(self, q: ArrayLike) -> Contact:
        """The pair that is nearest at joint angles (n,) radians.

        Raises
        ------
        ArmError
            If nothing is there that could touch.
        """
        angles = np.asarray(q, dtype=float)
        distance, pair = nearest_pair(self.packed, angles, np.inf)
        if pair < 0:
            raise ArmError("No two bodies of this scene could touch.")
        i, j = self.packed.pairs[pair]
        near_a, near_b = np.zeros(3), np.zeros(3)
        placed = [self.placed(int(k), angles) for k in (i, j)]
        hull_distance(placed[0].points, placed[1].points, near_a, near_b)
        a, b = self.bodies[i], self.bodies[j]
        return Contact(a.name, b.name, float(distance), 0.5 * (near_a + near_b))

    def placed(self, index: int, q: ArrayLike) -> Body:
        """A body where it stands at joint angles (n,) radians."""
        rotations, shifts = link_motions(self.arm.axes, self.arm.points, np.asarray(q, dtype=float))
        body = self.bodies[index]
        return body.placed(rotations[body.link], shifts[body.link])

    def first_touch(self, start: ArrayLike, end: ArrayLike) -> float:
        """Share of the straight move in joint angles (radians) after which less than the margin is left; 2 if it is clear.

        Nothing slips through: between two looks no body can move farther than what was left, see `straight_touch`.
        """
        return float(
            straight_touch(self.packed, np.asarray(start, dtype=float), np.asarray(end, dtype=float))
        )


@njit(cache=True)
def nearest_pair(scene: Packed, q: FloatArray, enough: float) -> tuple[float, int]:
    """Distance (mm) and number of the pair that is nearest at joint angles (n,) radians.

    Pairs are passed over whose bounding spheres are farther apart than what was found, or than ``enough``.
    """
    rotations, shifts = link_motions(scene.axes, scene.points, q)
    n = len(scene.link)
    centres = np.empty((n, 3))
    for i in range(n):
        centres[i] = rotations[scene.link[i]] @ scene.centre[i] + shifts[scene.link[i]]
    corners = np.empty_like(scene.corners)
    done = np.zeros(n, np.bool_)
    near_a, near_b = np.empty(3), np.empty(3)
    best, which = enough, -1
    for k in range(len(scene.pairs)):
        i, j = scene.pairs[k]
        radii = scene.radius[i] + scene.radius[j]
        gap = 0.0
        for c in range(3):
            gap += (centres[i, c] - centres[j, c]) ** 2
        if np.sqrt(gap) - scene.bound[i] - scene.bound[j] - radii >= best:
            continue
        for b in (i, j):
            if not done[b]:
                done[b] = True
                r, t = rotations[scene.link[b]], shifts[scene.link[b]]
                for row in range(scene.start[b], scene.start[b + 1]):
                    for c in range(3):
                        corners[row, c] = t[c]
                        for d in range(3):
                            corners[row, c] += r[c, d] * scene.corners[row, d]
        distance = hull_distance(
            corners[scene.start[i] : scene.start[i + 1]],
            corners[scene.start[j] : scene.start[j + 1]],
            near_a,
            near_b,
        )
        if distance - radii < best:
            best, which = distance - radii, k
    return best, which


@njit(cache=True)
def straight_touch(scene: Packed, start: FloatArray, end: FloatArray) -> float:
    """Share of a straight move in joint angles after which less than the margin is left; 2 where it is clear.

    No point moves faster than ``sum_j |dq_j| reach_j`` over the whole move. With a distance ``d`` at a look, the
    next look after ``(d - margin / 2) / speed`` therefore finds at least half the margin left at all times
    between. (Two bodies that both move: their relative speed comes from the joints between them, all of which are
    summed.)
    """
    speed = 0.0
    for j in range(len(start)):
        speed += abs(end[j] - start[j]) * scene.reach[j]
    t = 0.0
    while True:
        # Farther than the whole move is as good as clear.
        distance = nearest_pair(scene, start + t * (end - start), speed + scene.margin + 1.0)[0]
        if distance < scene.margin:
            return t
        if t >= 1.0:
            return 2.0
        t = min(t + (distance - 0.5 * scene.margin) / max(speed, 1e-12), 1.0)
