"""The search for first peaks: which path to fly next, from where the axes stand."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lauepilot.perception.reflections.belief import FirstPeak, Row
from lauepilot.perception.reflections.looking import BIN_DEG, SEARCH_S, AreaLook, Path, PointLook
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.fourcircle import travel_s

#: Scattering angles among which the counter's search chooses.
_ANGLES = 3
#: A piece of a turn with the area detector, and its frames, degrees.
_PIECE_DEG, _FRAME_DEG = 60.0, 1.0


class First(Protocol):
    """Chooses paths until something is seen."""

    def next(self, here_deg: FloatArray) -> Path | None:
        """The path to fly next, from ``here_deg`` (4,); None if all has been looked at."""

    def empty(self) -> None:
        """Nothing was seen on the last path."""


class PointFirst:
    """Stretches of rows, by `FirstPeak`."""

    def __init__(self, look: PointLook) -> None:
        speed = min(look.instrument.motors.axis("phi").speed, BIN_DEG / SEARCH_S)
        rows = [Row(tth, chi, 0.5 * step) for tth in look.best_tth(_ANGLES) for chi, step in look.rows(tth)]
        self._belief = FirstPeak(look.catalogue, rows, look.half_tth_deg, speed)

    def next(self, here_deg: FloatArray) -> Path | None:
        """The stretch that promises most."""
        found = self._belief.next(here_deg)
        if found is None:
            return None
        row, start, end = found
        points = np.tile(
            [0.5 * row.tth_deg, row.chi_deg, 0.0, row.tth_deg], (int(abs(end - start) / BIN_DEG) + 1, 1)
        )
        points[:, 2] = np.linspace(start, end, len(points))
        return Path(points, SEARCH_S, "open", f"search at 2theta {row.tth_deg:.2f}, chi {row.chi_deg:.1f}")

    def empty(self) -> None:
        """Nothing was seen on the last stretch."""
        self._belief.empty()


class AreaFirst:
    """Pieces of turns of phi, the nearest first."""

    def __init__(self, look: AreaLook) -> None:
        self._instrument = look.instrument
        self._speed = look.instrument.motors.axis("phi").speed
        starts = np.arange(-180.0, 180.0, _PIECE_DEG)
        self._left = [
            [(tth, chi, float(low)) for low in starts] for tth in look.best_tth() for chi in look.turns_deg
        ]

    def next(self, here_deg: FloatArray) -> Path | None:
        """The nearest piece of the first turn that is not done."""
        while self._left and not self._left[0]:
            self._left.pop(0)
        if not self._left:
            return None
        ways = []
        for i, (tth, chi, low) in enumerate(self._left[0]):
            for start, end in ((low, low + _PIECE_DEG), (low + _PIECE_DEG, low)):
                corner = np.array([0.5 * tth, chi, start, tth])
                # From below if it is as near: no play is taken up then.
                ways.append((travel_s(self._instrument, here_deg, corner), end < start, i, start, end))
        _, _, i, start, end = min(ways)
        tth, chi, _ = self._left[0].pop(i)
        points = np.tile([0.5 * tth, chi, 0.0, tth], (int(_PIECE_DEG / _FRAME_DEG) + 1, 1))
        points[:, 2] = np.linspace(start, end, len(points))
        return Path(points, _FRAME_DEG / self._speed, "open", f"turn at 2theta {tth:.1f}, chi {chi:.0f}")

    def empty(self) -> None:
        """Nothing was seen; the next piece is the nearest all the same."""


def first_of(look: PointLook | AreaLook) -> First:
    """How this detector searches."""
    return PointFirst(look) if isinstance(look, PointLook) else AreaFirst(look)
