"""Goniometers: chains of named axes that carry the crystal.

A chain multiplies outermost first: ``Z = R_1(angle_1) R_2(angle_2) ...`` where axis 1 stands on the floor and the
last axis holds the crystal. Directions are those at zero angles, in the laboratory frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from lauepilot.simulator.conventions import FloatArray, axis_rotation


class ReachError(ValueError):
    """A position outside an axis' limits, or an orientation that the goniometer cannot reach."""


@dataclass(frozen=True)
class Axis:
    """One motor.

    Attributes
    ----------
    name
        Its name in records and messages.
    kind
        ``rotation`` (degrees at the border) or ``translation`` (mm).
    direction
        Unit vector in the laboratory at zero angles.
    limits
        Lowest and highest position, degrees or mm.
    speed
        Degrees or mm a second.
    settle_s
        Waiting time after a move.
    resolution
        Smallest step, degrees or mm.
    backlash
        Play when the direction of motion changes, degrees or mm.
    """

    name: str
    kind: Literal["rotation", "translation"]
    direction: tuple[float, float, float]
    limits: tuple[float, float]
    speed: float
    settle_s: float = 0.5
    resolution: float = 0.001
    backlash: float = 0.0

    @property
    def unit(self) -> str:
        """``deg`` or ``mm``."""
        return "deg" if self.kind == "rotation" else "mm"

    def check(self, position: float) -> None:
        """Refuse a position (degrees or mm) that is not finite or outside the limits.

        Raises
        ------
        ReachError
            With the axis, the position asked for, and the limits.
        """
        low, high = self.limits
        if not np.isfinite(position) or position < low - 1e-9 or position > high + 1e-9:
            raise ReachError(
                f"Axis {self.name!r} was asked to go to {position:g} {self.unit}, "
                f"but its limits are {low:g} to {high:g} {self.unit}. Choose a position inside them."
            )


@dataclass(frozen=True)
class Goniometer:
    """A chain of axes, outermost first.

    Its axes can be anywhere within their limits, in any order. Stages of which that is not true (`ArmGoniometer`) say
    so in `obstacles`, `check_move`, `settings`, `grid`, `refine`, `elsewhere`, `move_time_s` and `underway`: all that
    `lauepilot.simulator.reach`, devices and agents ask.
    """

    axes: tuple[Axis, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all axes, outermost first."""
        return tuple(axis.name for axis in self.axes)

    @property
    def rotations(self) -> tuple[Axis, ...]:
        """The rotation axes, outermost first."""
        return tuple(axis for axis in self.axes if axis.kind == "rotation")

    def axis(self, name: str) -> Axis:
        """The axis of that name.

        Raises
        ------
        KeyError
            Names the axes that exist.
        """
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise KeyError(f"No axis {name!r} on this goniometer; it has {', '.join(self.names)}.")

    def check(self, positions: Mapping[str, float]) -> None:
        """Refuse positions (degrees, mm) by name that are unknown, not finite or outside the limits."""
        for name, position in positions.items():
            self.axis(name).check(position)

    @property
    def rest(self) -> dict[str, float]:
        """Where the axes stand at rest: at zero, or at the limit next to it."""
        return {a.name: min(max(0.0, a.limits[0]), a.limits[1]) for a in self.axes}

    @property
    def obstacles(self) -> tuple[Any, ...]:
        """Who knows what the stage itself would hit, for an interlock: each has ``problem(start, goal) -> str``."""
        return ()

    def check_move(self, start: Mapping[str, float], goal: Mapping[str, float]) -> None:
        """Refuse a move from ``start`` of the axes named in ``goal`` (`ReachError`); positions in degrees, mm."""
        self.check(goal)

    def matrix(self, positions: Mapping[str, float]) -> FloatArray:
        """``Z`` (3, 3) at these positions in degrees; axes that are not named stand at zero."""
        z = np.eye(3)
        for axis in self.rotations:
            z = z @ axis_rotation(axis.direction, np.deg2rad(positions.get(axis.name, 0.0)))
        return z

    def jacobian(self, positions: Mapping[str, float]) -> FloatArray:
        """Columns (3, n_rotations): the laboratory rotation vector per radian of each rotation axis, at these positions."""
        z = np.eye(3)
        columns = []
        for axis in self.rotations:
            direction = np.asarray(axis.direction, dtype=float)
            columns.append(z @ (direction / np.linalg.norm(direction)))
            z = z @ axis_rotation(axis.direction, np.deg2rad(positions.get(axis.name, 0.0)))
        return np.stack(columns, axis=1) if columns else np.zeros((3, 0))

    def move_time_s(self, start: Mapping[str, float], end: Mapping[str, float]) -> float:
        """Seconds for a simultaneous move of all axes in ``end``: the slowest one, settling included; 0 if none moves."""
        longest = 0.0
        for name, position in end.items():
            axis = self.axis(name)
            travel = abs(position - start.get(name, 0.0))
            if travel > 0.0:
                longest = max(longest, travel / axis.speed + axis.settle_s)
        return longest

    def underway(
        self, start: Mapping[str, float], goal: Mapping[str, float], elapsed_s: float
    ) -> dict[str, float]:
        """Where the axes named in ``goal`` are so many seconds after they left ``start``, each at its own speed."""
        place = {}
        for name, end in goal.items():
            way = end - start.get(name, 0.0)
            far = min(abs(way), self.axis(name).speed * elapsed_s)
            place[name] = start.get(name, 0.0) + float(np.sign(way)) * far
        return place

    def waypoints(self, start: Mapping[str, float], goal: Mapping[str, float]) -> list[dict[str, float]]:
        """Positions to go to one after the other, all axes of each at once; the last is ``goal``."""
        return [dict(goal)]

    def settings(self, z: FloatArray, held: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
        """All settings of the rotation axes for rotations (n, 3, 3), limits and full turns not looked at.

        Parameters
        ----------
        z
            Wanted rotations; chains of fewer than three axes reach few.
        held
            (k,) radians: where an axis stays that the rotation does not fix.

        Returns
        -------
        Index of the rotation (r,), and angles (r, k) in radians.

        Raises
        ------
        ValueError
            If there are more than three rotation axes.
        """
        # Inverse kinematics stands on this module.
        from lauepilot.simulator.kinematics import expand_locked, solve_chain, unit_directions

        solutions = solve_chain(unit_directions(self.rotations), z, held, 0.5e-9, check=False)
        return expand_locked(self.rotations, solutions, held)

    def grid(self) -> FloatArray:
        """Settings (g, k) in radians, within the limits, from which no setting is far."""
        points = {0: 1, 1: 721, 2: 41}.get(len(self.rotations), 13)
        ranges = [
            np.linspace(np.deg2rad(axis.limits[0]), np.deg2rad(axis.limits[1]), points)
            for axis in self.rotations
        ]
        if not ranges:
            return np.zeros((1, 0))
        return np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(ranges))

    def refine(self, start: FloatArray, miss: Callable[[FloatArray], FloatArray]) -> FloatArray:
        """The setting (k,) in radians near ``start``, within the limits, where a rotation vector ``miss(z)`` is least."""
        if not len(start):
            return start
        names = [axis.name for axis in self.rotations]
        bounds = np.deg2rad([axis.limits for axis in self.rotations]).T

        def missed(t: FloatArray) -> FloatArray:
            return miss(self.matrix(dict(zip(names, np.rad2deg(t), strict=True))))

        found = least_squares(missed, start, bounds=bounds, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=200)
        return np.asarray(found.x)

    def elsewhere(self, here: Mapping[str, float], count: int) -> dict[str, float]:
        """Positions of the rotation axes (degrees) that show another side of the crystal, the ``count``-th such place.

        Every axis goes 17 to 31 degrees on, towards the middle of its range: another set of planes reflects.
        """
        out = {}
        for k, axis in enumerate(self.rotations):
            now = here.get(axis.name, 0.0)
            middle = 0.5 * (axis.limits[0] + axis.limits[1])
            way = 1.0 if now < middle or (now == middle and (k + count) % 2) else -1.0
            step = min(17.0 + 7.0 * ((k + count) % 3), 0.25 * (axis.limits[1] - axis.limits[0]))
            out[axis.name] = float(min(max(now + way * step, axis.limits[0]), axis.limits[1]))
        return out

    def turned(self, errors: Sequence[FloatArray]) -> Goniometer:
        """This goniometer with each axis direction turned by a rotation matrix (3, 3): one per axis, for misdirection."""
        axes = []
        for axis, error in zip(self.axes, errors, strict=True):
            d = error @ np.asarray(axis.direction, dtype=float)
            axes.append(replace(axis, direction=(float(d[0]), float(d[1]), float(d[2]))))
        return Goniometer(tuple(axes))
