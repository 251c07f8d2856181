"""Goniometers: chains of named axes that carry the crystal.

A chain multiplies outermost first: ``Z = R_1(angle_1) R_2(angle_2) ...`` where axis 1 stands on the floor and the
last axis holds the crystal. Directions are those at zero angles, in the laboratory frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

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
    """A chain of axes, outermost first."""

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

    def turned(self, errors: Sequence[FloatArray]) -> Goniometer:
        """This goniometer with each axis direction turned by a rotation matrix (3, 3): one per axis, for misdirection."""
        axes = []
        for axis, error in zip(self.axes, errors, strict=True):
            d = error @ np.asarray(axis.direction, dtype=float)
            axes.append(replace(axis, direction=(float(d[0]), float(d[1]), float(d[2]))))
        return Goniometer(tuple(axes))
