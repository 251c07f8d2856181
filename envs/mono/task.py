"""The rules of the four-circle game: what is declared, what it is worth, and when it ends.

Cost is time. Declared is a UB; it is right if ten reflections drawn at random are excited within the tolerance where it
sends the motors; of a second crystallite too, since nobody says which is asked for. A wrong UB is the worst outcome: an
experiment would go on with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lauepilot.envs.tasks import Worth
from lauepilot.perception.observation import GiveUp, Move
from lauepilot.perception.reflections.looking import Path
from lauepilot.perception.reflections.zeros import RefinedUb
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.fourcircle import FourCircle
from lauepilot.simulator.fourcircle_twin import DetectorKind

Outcome = Literal["right", "wrong", "gave_up", "too_long"]


@dataclass(frozen=True, eq=False)
class Centre:
    """Centre the peak near the angles (4,; omega, chi, phi, tth; degrees), with as many scans as that takes."""

    angles_deg: FloatArray
    reason: str = ""


@dataclass(frozen=True, eq=False)
class DeclareUb:
    """End: this is UB, with the circles' zeros."""

    ub: RefinedUb
    reason: str = ""


#: A path to count on, a move, a peak to centre, UB, or giving up.
MonoDecision = Path | Move | Centre | DeclareUb | GiveUp


@dataclass(frozen=True, eq=False)
class MonoTask(Worth):
    """What is played, and what a step is worth.

    Attributes
    ----------
    crystal, instrument, detector
        What is mounted, the four-circle as believed, and ``point`` or ``area``.
    within_deg, reflections
        A UB is right if so many reflections drawn at random are excited within this angle of where it sends the motors.
    max_steps, max_time_s
        The game is cut off after so many decisions or seconds.
    max_bins, max_seconds
        The longest path that may be asked for, in bins, and the longest time of a bin.
    time_unit_s
        Time that costs 1.
    right, wrong, gave_up, refused
        Worth of a right and a wrong UB, of giving up (or running out of time), of a decision that was refused.
    """

    crystal: Crystal
    instrument: FourCircle
    detector: DetectorKind = "point"
    within_deg: float = 0.05
    reflections: int = 10
    max_steps: int = 500
    max_time_s: float = 14_400.0
    max_bins: int = 4000
    max_seconds: float = 60.0
    time_unit_s: float = 600.0
    right: float = 1.0
    wrong: float = -10.0
    gave_up: float = -1.0
    refused: float = -0.05

    def __post_init__(self) -> None:
        if self.detector not in ("point", "area"):
            raise ValueError(f"The detector is 'point' or 'area'; {self.detector!r} came.")
        for name in (
            "within_deg",
            "reflections",
            "max_steps",
            "max_time_s",
            "max_bins",
            "max_seconds",
            "time_unit_s",
        ):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive; {value} came.")

    def outcome(
        self, decision: MonoDecision, miss_deg: float, n_steps: int, clock_s: float
    ) -> Outcome | None:
        """How the game ended with this decision, the ``n_steps``-th; None if it goes on.

        Parameters
        ----------
        decision, n_steps, clock_s
            What was decided, how many decisions that makes, and the time on the clock.
        miss_deg
            Of a declared UB: the worst of the reflections drawn; NaN for other decisions.
        """
        if isinstance(decision, DeclareUb):
            return "right" if miss_deg <= self.within_deg else "wrong"
        if isinstance(decision, GiveUp):
            return "gave_up"
        return "too_long" if n_steps >= self.max_steps or clock_s >= self.max_time_s else None
