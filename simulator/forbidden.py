"""Settings of the axes that an instrument must not take: a hose that tightens, a table's edge, a detector in the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Forbidden:
    """A combination of axis positions that must neither be taken nor passed.

    Attributes
    ----------
    axes
        Lowest and highest forbidden position by axis, degrees and mm, ends included; axes that are not named may stand
        anywhere.
    why
        What is in the way, for the message.
    """

    axes: Mapping[str, tuple[float, float]]
    why: str

    def problem(self, start: Mapping[str, float], goal: Mapping[str, float]) -> str:
        """What is in the way between two settings of all axes, degrees and mm; empty if nothing is.

        Axes move together, each at its own speed and without turning back: whatever the speeds, all settings on the way lie
        in the box between start and goal. That box must not touch the forbidden one. This refuses some moves whose path
        would just pass: go round in two moves.
        """
        for name, (low, high) in self.axes.items():
            ends = sorted((start[name], goal[name]))
            if ends[1] < low or ends[0] > high:
                return ""
        zone = " and ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in self.axes.items())
        return f"its path may pass {zone}, which is forbidden: {self.why}"
