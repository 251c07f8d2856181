"""Reorientation advice: all ways to bring a plane or zone where it is wanted, the soonest first, or why there is none.

Symmetry offers several planes for the one that is named, and the goniometer several settings for each; `advise` lists what
`lauepilot.simulator.reach` finds among them, with the indices that each way uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.reach import OutOfReachError, Reach, all_ways, reach
from lauepilot.simulator.target import Alignment, Lattice, Target

Indices = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Way:
    """One way to a target.

    Attributes
    ----------
    positions
        Degrees, of every rotation axis.
    move_time_s
        Seconds of the move from where the axes stand, the slowest axis with its settling.
    primary, secondary
        Indices, in the labelling of the orientation given, of the plane or zone that comes to the place of the
        one that the target writes; None where the target leaves the turn free.
    operation
        Symmetry operation ``S`` (3, 3) that takes the written indices to these: ``U S`` labels the crystal as the
        target does.
    u_lab
        Laboratory orientation ``Z U S`` (3, 3) there, labelled as the target is.
    error_rad
        Angle by which the target is missed.
    """

    positions: Mapping[str, float]
    move_time_s: float
    primary: Indices
    secondary: Indices | None
    operation: FloatArray
    u_lab: FloatArray
    error_rad: float


@dataclass(frozen=True, eq=False)
class Advice:
    """What can be done.

    Attributes
    ----------
    target
        What is wanted.
    axes_now
        Where the axes stand, degrees.
    error_now_rad
        Angle by which the target is missed there, symmetry counted.
    ways
        All ways within the limits, the soonest first; empty if there is none.
    nearest
        Where there is no way: the setting that comes nearest.
    why_not
        Where there is no way: which axis ends where, and how far off the nearest setting is.
    """

    target: Target
    axes_now: Mapping[str, float]
    error_now_rad: float
    ways: tuple[Way, ...]
    nearest: Way | None
    why_not: str


def advise(
    orientation: Orientation,
    target: Target,
    goniometer: Goniometer,
    axes_now: Mapping[str, float],
    crystal: Lattice,
) -> Advice:
    """Axis angles for a target, or the reason why there are none.

    Parameters
    ----------
    orientation
        ``U`` of the crystal in the sample holder, all axes at zero.
    target
        What is wanted where.
    goniometer
        Its rotation axes, up to three, with limits and speeds.
    axes_now
        Present positions, degrees; axes not named stand at 0. Positions of translations are passed over.
    crystal
        ``B`` and proper symmetry rotations.

    Raises
    ------
    KeyError
        If an axis is not on the goniometer.
    ReachError
        If a present position lies outside the limits.
    ValueError
        If ``U`` is not a rotation, or there are more than three rotation axes.
    """
    goniometer.check(axes_now)
    here = {axis.name: float(axes_now.get(axis.name, 0.0)) for axis in goniometer.rotations}
    missed = target.error(goniometer.matrix(here) @ orientation.u, crystal)
    found = all_ways(goniometer, orientation.u, target, crystal, here)
    ways = tuple(_way(target, crystal, operation, setting) for operation, setting in found)
    nearest, why_not = None, ""
    if not ways:
        try:
            only = reach(goniometer, orientation.u, target, crystal, here)
        except OutOfReachError as error:
            only, why_not = error.nearest, str(error)
        operation = target.as_written(only.u_lab, crystal)
        nearest = _way(target, crystal, operation, only)
        if not why_not:  # an exact setting at the very edge of what counts as exact
            ways, nearest = (nearest,), None
    return Advice(target, here, missed, ways, nearest, why_not)


def equivalent_indices(alignment: Alignment, operation: FloatArray, b: FloatArray) -> Indices:
    """Indices of the plane or zone that a symmetry operation (3, 3) makes of the written one, for ``B`` (3, 3)."""
    frame = b if alignment.kind == "hkl" else np.linalg.inv(b).T
    indices = np.linalg.solve(frame, operation @ frame @ np.asarray(alignment.indices, dtype=float))
    h, k, l = (float(x) for x in np.round(indices, 6) + 0.0)  # no minus zeros
    return h, k, l


def _way(target: Target, crystal: Lattice, operation: FloatArray, setting: Reach) -> Way:
    second = target.secondary
    return Way(
        setting.positions,
        setting.move_time_s,
        equivalent_indices(target.primary, operation, crystal.b),
        None if second is None else equivalent_indices(second, operation, crystal.b),
        operation,
        np.asarray(setting.u_lab @ operation),
        setting.error_rad,
    )
