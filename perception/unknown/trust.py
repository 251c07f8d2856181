"""How sure an answer is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lauepilot.perception.unknown.lattice import holohedry
from lauepilot.perception.unknown.result import Solution
from lauepilot.simulator.conventions import rotation_angle

#: Answers from this confidence on are acted upon.
SURE = 0.95


def other_axes(one: Solution, two: Solution) -> bool:
    """Whether two solutions differ by more than a degree in the axes of the less symmetric of them."""
    group = min((holohedry(s.family) for s in (one, two)), key=len)
    larger = max((holohedry(s.family) for s in (one, two)), key=len)
    turns = one.orientation.u @ larger @ two.orientation.u.T
    if len(group) == len(larger):
        return float(rotation_angle(turns).min()) > math.radians(1.0)
    both = one.orientation.u @ larger[:, None] @ group[None] @ two.orientation.u.T
    return float(rotation_angle(both.reshape(-1, 3, 3)).min()) > math.radians(1.0)


def confidence_of(best: Solution, rest: Sequence[Solution], n_spots: int) -> tuple[float, bool]:
    """Probability that the axes are right, and whether to act on them."""
    rival = max((s.score for s in rest if other_axes(best, s)), default=0.0)
    margin = best.score - rival
    per_spot = best.score / max(n_spots, 1)
    logit = 0.08 * (margin - 40.0) + 2.0 * (per_spot - 4.0)
    confidence = 1.0 / (1.0 + math.exp(-max(min(logit, 50.0), -50.0)))
    return confidence, confidence >= SURE
