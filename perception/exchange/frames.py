"""Frames of the programs that read orientations, and the match of a goniometer's axes with their circles.

Matrices take vectors of our laboratory (+z along the beam, +y up) into theirs. You's frame (1999, J. Appl. Cryst. 32, 614,
used by diffcalc-core and SPEC) is tied to the circles, not to gravity: y along the beam, and the eta and phi circles turn
about -z. Whoever scatters horizontally has z pointing down. `you_frame` finds the turn about the beam under which the axes
of a goniometer *are* the circles; angles of the program are then the motor positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from lauepilot.simulator.conventions import BEAM, FloatArray, axis_rotation
from lauepilot.simulator.goniometer import Axis, Goniometer
from lauepilot.simulator.kinematics import unit_directions

#: You (1999): x up, y along the beam, z left, for a vertical scattering plane.
TO_YOU = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
#: libhkl (hklpy2) and LaueTools: x along the beam, y left, z up.
TO_BEAM_X = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

#: Circles of the sample, outermost first, with their directions at zero in the program's frame.
Circles = tuple[tuple[str, tuple[float, float, float]], ...]
YOU_CIRCLES: Circles = (
    ("mu", (1.0, 0.0, 0.0)),
    ("eta", (0.0, 0.0, -1.0)),
    ("chi", (0.0, 1.0, 0.0)),
    ("phi", (0.0, 0.0, -1.0)),
)
_VERTICAL: Circles = (("omega", (0.0, -1.0, 0.0)), ("chi", (1.0, 0.0, 0.0)), ("phi", (0.0, -1.0, 0.0)))
LIBHKL_CIRCLES: dict[str, Circles] = {
    "E4CV": _VERTICAL,
    "E4CH": (("omega", (0.0, 0.0, 1.0)), ("chi", (1.0, 0.0, 0.0)), ("phi", (0.0, 0.0, 1.0))),
    "E6C": (("mu", (0.0, 0.0, 1.0)), *_VERTICAL),
}

_DIRECTIONS = {
    "along the beam": (0, 0, 1),
    "against the beam": (0, 0, -1),
    "up": (0, 1, 0),
    "down": (0, -1, 0),
    "left": (1, 0, 0),
    "right": (-1, 0, 0),
}


@dataclass(frozen=True, eq=False)
class Match:
    """A program's frame, and which of its circles a goniometer's axes are.

    Attributes
    ----------
    matrix
        (3, 3) from our laboratory to the program's frame.
    circles
        Circle and sign by the axis' name: the program's angle is sign times the motor's. Empty if the goniometer is
        not one of the program's: UB is right nonetheless, but its angles are not those of these motors.
    """

    matrix: FloatArray
    circles: dict[str, tuple[str, int]]

    @property
    def words(self) -> str:
        """Which axis is which circle, for people."""
        if not self.circles:
            return "this goniometer has other axes than the program's circles: use UB, not its motor angles"
        return ", ".join(f"{c} = {'-' if s < 0 else ''}{axis}" for axis, (c, s) in self.circles.items())


def you_frame(goniometer: Goniometer) -> Match:
    """You's frame, turned about the beam so that the axes are its circles; upright if no turn makes them so."""
    turns = [axis_rotation(BEAM, np.deg2rad(angle)) for angle in (0.0, 180.0, 90.0, 270.0)]
    frames = [np.rint(TO_YOU @ turn.T) + 0.0 for turn in turns]
    found = [match for frame in frames for match in _matches(goniometer.rotations, frame, YOU_CIRCLES)]
    best = min(found, key=_first, default=None)
    return Match(TO_YOU, {}) if best is None else best[1]


def libhkl_geometry(goniometer: Goniometer) -> tuple[str, Match]:
    """The geometry of libhkl that has the goniometer's axes among its circles; E4CV, without circles, if none has."""
    found = [
        (negatives, name, match)
        for name, circles in LIBHKL_CIRCLES.items()
        for (negatives, _), match in sorted(_matches(goniometer.rotations, TO_BEAM_X, circles), key=_first)
    ]
    # `min` takes the first of equals: the simpler geometry, and in it the inner circles.
    best = min(found, key=_first, default=None)
    return ("E4CV", Match(TO_BEAM_X, {})) if best is None else best[1:]


def _first(item: tuple[Any, ...]) -> Any:
    return item[0]


def in_words(matrix: FloatArray) -> str:
    """Where the axes of a frame point, for people: ``x up, y along the beam, z left``."""
    told = []
    for name, row in zip("xyz", matrix, strict=True):
        word = next((w for w, d in _DIRECTIONS.items() if np.allclose(row, d, atol=1e-9)), None)
        told.append(f"{name} {word or 'along ' + np.array2string(row, precision=6)}")
    return ", ".join(told)


_Key = tuple[int, tuple[int, ...]]


def _matches(axes: tuple[Axis, ...], frame: FloatArray, circles: Circles) -> list[tuple[_Key, Match]]:
    """Ways to see the axes as circles, with a key that is small for few changed signs and inner circles."""
    theirs = unit_directions(axes) @ frame.T
    names, directions = [name for name, _ in circles], np.array([d for _, d in circles])
    found = []
    for chosen in combinations(range(len(circles)), len(axes)):
        cosines = np.sum(theirs * directions[list(chosen)], axis=1)
        if len(axes) and np.all(np.abs(np.abs(cosines) - 1.0) < 1e-9):
            signs = [int(s) for s in np.sign(cosines)]
            pairs = {axis.name: (names[c], s) for axis, c, s in zip(axes, chosen, signs, strict=True)}
            key = (signs.count(-1), tuple(-c for c in reversed(chosen)))
            found.append((key, Match(frame, pairs)))
    return found
