"""What a search for UB did and found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lauepilot.perception.reflections.zeros import Centred, RefinedUb


@dataclass(frozen=True)
class UbStep:
    """One thing that was done or found: ``what`` in words, at (4,) degrees, with the rate if a peak was centred."""

    what: str
    angles_deg: tuple[float, ...]
    kind: Literal["searched", "hit", "centred", "nothing", "indexed"]
    rate: float = 0.0


@dataclass(frozen=True, eq=False)
class UbAnswer:
    """How it ended.

    Attributes
    ----------
    outcome, reason
        ``found`` or ``gave_up``, and why, in words.
    ub
        UB with zeros; None if it was not found.
    peaks
        The centred peaks, indexed if UB was found.
    steps
        What was done, in order.
    rivals
        Other orientations that intensities could not rule out.
    """

    outcome: Literal["found", "gave_up"]
    reason: str
    ub: RefinedUb | None
    peaks: tuple[Centred, ...]
    steps: tuple[UbStep, ...]
    rivals: int = 0
