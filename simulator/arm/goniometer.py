"""An arm as sample stage: six axes that turn the crystal, and leave it in the beam or do not move at all.

To whoever asks for positions and rotations it is a `Goniometer` like any other: the rotation of a serial arm's tool is the
product of its joints' rotations about their directions at zero, ``Z = R_1 ... R_6``. What is its own is which settings there
are for a rotation, which poses may be taken, and the way between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lauepilot.simulator.arm.collision import Scene
from lauepilot.simulator.arm.kernels import improve
from lauepilot.simulator.arm.kinematics import (
    EXACT,
    characteristic_mm,
    forward,
    raw_solutions,
    singularity,
    within,
    wrist_centre,
)
from lauepilot.simulator.arm.model import ArmError
from lauepilot.simulator.arm.paths import Path, find_path
from lauepilot.simulator.arm.poses import clear_poses, correct_poses, even_rotations
from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.goniometer import Axis, Goniometer, ReachError

_SAMPLES = 4000
_CACHED = 256


@dataclass(frozen=True)
class ArmGoniometer(Goniometer):
    """An arm with a crystal at its tip; make one with `arm_goniometer`.

    Attributes
    ----------
    scene
        Arm in the laboratory (crystal in the beam at the origin), tool and surroundings.
    home
        Joint angles (n,) radians of the pose at rest, in the beam.
    via
        Poses (radians) by which to go where the straight way is blocked.
    drift_mm
        How far from the beam's point the crystal may be, at rest and while it is turned about that point.
    least_singularity
        Poses nearer to a singularity than this (`lauepilot.simulator.arm.kinematics.singularity`) are not offered.
    """

    scene: Scene = field(kw_only=True)
    home: tuple[float, ...] = field(kw_only=True)
    via: tuple[tuple[float, ...], ...] = field(default=(), kw_only=True)
    drift_mm: float = field(default=0.05, kw_only=True)
    least_singularity: float = field(default=0.02, kw_only=True)
    _paths: dict[Any, Path | None] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @property
    def rest(self) -> dict[str, float]:
        """The home pose, degrees."""
        return self._named(np.array(self.home))

    @property
    def obstacles(self) -> tuple[ArmGoniometer, ...]:
        """Itself: it knows what it would hit."""
        return (self,)

    def check(self, positions: Mapping[str, float]) -> None:
        """Refuse positions outside the limits and, where all joints are named, a pose in which bodies touch."""
        super().check(positions)
        if set(self.names) <= set(positions):
            q = self._angles(positions)
            if self.scene.clearance(q) < 0.5 * self.scene.margin_mm:
                raise ReachError(f"The arm cannot stand there: {self.scene.contact(q)}. Choose another pose.")

    def beam_distance_mm(self, positions: Mapping[str, float]) -> float:
        """How far the crystal is from the beam's point at these positions (degrees)."""
        return float(np.linalg.norm(forward(self.scene.arm, self._angles(positions))[1]))

    def problem(self, start: Mapping[str, float], goal: Mapping[str, float]) -> str:
        """What is wrong with a move between two settings of all joints (degrees); empty if it can be made."""
        try:
            super().check(goal)
        except ReachError as error:
            return str(error)
        off = self.beam_distance_mm(goal)
        if off > self.drift_mm:
            return (
                f"it would leave the crystal {off:.2f} mm from the beam; {self.drift_mm:g} mm are allowed. Ask "
                "lauepilot.simulator.reach for settings of a target: joints of an arm cannot be moved one by one"
            )
        try:
            self.path(start, goal)
        except ReachError as error:
            return str(error)
        return ""

    def check_move(self, start: Mapping[str, float], goal: Mapping[str, float]) -> None:
        """Refuse a move that leaves limits or beam, or has no clear path (`ReachError`); positions in degrees."""
        text = self.problem(start, {**start, **goal})
        if text:
            raise ReachError(f"The arm's move was refused: {text}.")

    def path(self, start: Mapping[str, float], goal: Mapping[str, float]) -> Path:
        """The way that a move between two settings of all joints (degrees) takes.

        Raises
        ------
        ReachError
            If there is none: says which bodies are in the way, and where.
        """
        a, b = self._angles(start), self._angles({**start, **goal})
        key = (a.tobytes(), b.tobytes())
        if key not in self._paths:
            while len(self._paths) >= _CACHED:
                self._paths.pop(next(iter(self._paths)))
            via = [np.array(pose) for pose in self.via]
            self._paths[key] = find_path(self.scene, a, b, via=via, drift_mm=self.drift_mm)
        found = self._paths[key]
        if found is None:
            raise ReachError(f"no clear path was found: {self._obstruction(a, b)}")
        return found

    def move_time_s(self, start: Mapping[str, float], end: Mapping[str, float]) -> float:
        """Seconds of the whole path, settling included; of the straight move where no path was found."""
        whole = {**self.rest, **start}
        a, b = self._angles(whole), self._angles({**whole, **end})
        if np.array_equal(a, b):
            return 0.0
        try:
            points = self.path(whole, end).points
        except ReachError:
            points = np.array([a, b])
        return float(np.sum(self._seconds(points))) + max(axis.settle_s for axis in self.axes)

    def underway(
        self, start: Mapping[str, float], goal: Mapping[str, float], elapsed_s: float
    ) -> dict[str, float]:
        """Positions (degrees) on the path after so many seconds."""
        whole = {**self.rest, **start}
        points = self.path(whole, goal).points
        left = max(elapsed_s, 0.0)
        for a, b, seconds in zip(points[:-1], points[1:], self._seconds(points), strict=True):
            if left < seconds:
                return self._named(a + (b - a) * (left / seconds))
            left -= seconds
        return self._named(points[-1])

    def waypoints(self, start: Mapping[str, float], goal: Mapping[str, float]) -> list[dict[str, float]]:
        """Poses to go to one after the other, the joints of each arriving together; the last is ``goal``."""
        points = self.path({**self.rest, **start}, goal).points
        return [self._named(q) for q in points[1:]]

    def settings(self, z: FloatArray, held: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
        """All poses for rotations (n, 3, 3) with the crystal in the beam: index of the rotation (r,), joints (r, 6) radians.

        Only what lies within the limits, is clear of all bodies and not singular; ``held`` is not needed.
        """
        arm = self.scene.arm
        wrist = wrist_centre(arm)
        if wrist is None:
            index, rows = [], []
            for i, rotation in enumerate(z):
                for q in within(arm, raw_solutions(arm, None, rotation, np.zeros(3))):
                    if self.scene.clearance(q) >= self.scene.margin_mm:
                        index.append(i)
                        rows.append(q)
            found, angles = np.array(index, dtype=np.intp), np.array(rows).reshape(-1, len(arm.joints))
        else:
            found, angles = clear_poses(
                self.scene.packed, wrist, arm.tip, np.ascontiguousarray(z), arm.limits, characteristic_mm(arm)
            )
        angles = self._as_turned(z[found], angles)
        good = np.array([singularity(arm, q) >= self.least_singularity for q in angles], dtype=bool)
        return found[good], angles[good]

    def grid(self) -> FloatArray:
        """Poses (g, 6) radians that cover all orientations that can be reached, about ten degrees apart."""
        held = np.array(self.home)
        return np.concatenate([held[None], self.settings(even_rotations(_SAMPLES), held)[1]])

    def refine(self, start: FloatArray, miss: Callable[[FloatArray], FloatArray]) -> FloatArray:
        """The pose (6,) radians in reach that makes a rotation vector ``miss(z)`` least, by ever smaller steps from one."""
        best, z = start, self.matrix(self._named(start))
        left = float(np.linalg.norm(miss(z)))
        step = np.deg2rad(8.0)
        while step > 1e-4 and left > EXACT:
            size = min(step, left)
            towards = _cut(miss(z), size)
            for way in (towards, *(size * np.vstack([np.eye(3), -np.eye(3)]))):
                trial = rotation_matrix(way) @ z
                _, poses = self.settings(trial[None], best)
                closer = float(np.linalg.norm(miss(trial)))
                if len(poses) and closer < left - 1e-3 * size:
                    z, left = trial, closer
                    best = poses[int(np.argmin(np.max(np.abs(poses - best), axis=1)))]
                    break
            else:
                step *= 0.5
        return best

    def elsewhere(self, here: Mapping[str, float], count: int) -> dict[str, float]:
        """A pose (degrees) that shows another side of the crystal, 20 to 35 degrees from here, with a clear way to it."""
        z, q = self.matrix(here), self._angles({**self.rest, **here})
        for k in range(24):
            turn = np.deg2rad(20.0 + 5.0 * ((count + k) % 4))
            axis = np.eye(3)[(count + k) % 3] * (1.0 if (count + k) // 3 % 2 else -1.0)
            _, poses = self.settings((rotation_matrix(turn * axis) @ z)[None], q)
            for pose in sorted(poses, key=lambda p: float(np.max(np.abs(p - q)))):
                place = self._named(pose)
                if not self.problem({**self.rest, **here}, place):
                    return place
        return self.rest

    def _as_turned(self, z: FloatArray, poses: FloatArray) -> FloatArray:
        """Poses (r, 6) of the arm as drawn, changed a little so that axes as turned give ``z`` (r, 3, 3)."""
        arm = self.scene.arm
        if np.array_equal([axis.direction for axis in self.axes], arm.axes):
            return poses
        out = poses.copy()
        true = np.array([np.divide(axis.direction, np.linalg.norm(axis.direction)) for axis in self.axes])
        correct_poses(
            true, arm.axes, arm.points, arm.tip, np.ascontiguousarray(z), out, characteristic_mm(arm)
        )
        return out

    def turned(self, errors: Sequence[FloatArray]) -> ArmGoniometer:
        """The same arm with its axes turned by rotations (3, 3): what it believes of bodies and beam stays."""
        return replace(self, axes=super().turned(errors).axes)

    def _obstruction(self, a: FloatArray, b: FloatArray) -> str:
        for q, where in ((b, "at the goal"), (a, "at the start")):
            if self.scene.clearance(q) < self.scene.margin_mm:
                return f"{where}, {self.scene.contact(q)}; {self.scene.margin_mm:g} mm are to be kept"
        share = self.scene.first_touch(a, b)
        return f"on the straight way, {self.scene.contact(a + min(share, 1.0) * (b - a))}; no way around it was found either"

    def _angles(self, positions: Mapping[str, float]) -> FloatArray:
        return np.deg2rad([float(positions.get(name, 0.0)) for name in self.names])

    def _named(self, q: FloatArray) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.names, np.rad2deg(q), strict=True)}

    def _seconds(self, points: FloatArray) -> FloatArray:
        speeds = np.deg2rad([axis.speed for axis in self.axes])
        return np.asarray(np.max(np.abs(np.diff(points, axis=0)) / speeds, axis=1))


def arm_goniometer(
    scene: Scene,
    home: FloatArray,
    *,
    via: tuple[tuple[float, ...], ...] = (),
    speed_deg_s: float = np.inf,
    settle_s: float = 0.5,
    resolution: float = 0.001,
    drift_mm: float = 0.05,
) -> ArmGoniometer:
    """The goniometer of a placed arm whose tip is the crystal; the beam's point is the origin.

    Parameters
    ----------
    scene
        Arm in the laboratory, with its tool, and what stands around it.
    home
        Joint angles (n,) radians at rest.
    via
        Poses (radians) by which to go where the straight way is blocked.
    speed_deg_s
        Top speed of every joint, where its own is higher.
    settle_s, resolution
        Seconds of waiting after a move; smallest step, degrees.
    drift_mm
        How far from the beam the crystal may be.

    Raises
    ------
    ArmError
        If the home pose is outside the limits, leaves the beam, or touches something.
    """
    axes = tuple(
        Axis(
            joint.name, "rotation", (float(d[0]), float(d[1]), float(d[2])), joint.limits,
            min(joint.speed, speed_deg_s), settle_s, resolution,
        )
        for joint, d in zip(scene.arm.joints, scene.arm.axes, strict=True)
    )  # fmt: skip
    made = ArmGoniometer(axes, scene=scene, home=tuple(map(float, home)), via=via, drift_mm=drift_mm)
    text = made.problem(made.rest, made.rest)
    if text:
        raise ArmError(f"{scene.arm.name} cannot rest at its home pose: {text}.")
    for pose in via:
        try:
            made.check(made._named(np.array(pose)))
        except ReachError as error:
            raise ArmError(f"{scene.arm.name}, a pose of via: {error}") from None
    return made


def home_pose(scene: Scene, near: FloatArray) -> FloatArray:
    """The joint angles near ``near`` (n,) radians that turn the tool as there, but hold its tip at the origin.

    Raises
    ------
    ArmError
        If there are none.
    """
    arm, q = scene.arm, np.array(near, dtype=float)
    rotation = forward(arm, q)[0] @ arm.tip_rotation.T
    if (
        improve(
            arm.axes,
            arm.points,
            arm.tip,
            np.ascontiguousarray(rotation),
            np.zeros(3),
            q,
            100,
            characteristic_mm(arm),
        )
        > EXACT
    ):
        raise ArmError(
            f"{arm.name} cannot hold the crystal in the beam with its tool turned as in the home pose."
        )
    return q


def _cut(vector: FloatArray, size: float) -> FloatArray:
    """The vector (3,) cut to a length."""
    norm = float(np.linalg.norm(vector))
    return vector * (min(size, norm) / norm) if norm > 0.0 else vector
