"""How sure an answer is."""

from __future__ import annotations

import math

#: Answers from this confidence on are acted upon.
SURE = 0.95
#: Calibration on patterns that the benchmark never draws: see docs/decisions/0009.
STEEP, HALF, FEW, FEWER = 12.0, 4.5, 6.0, 550.0
#: Nats a spot more for two ratios and more: such a lattice explains nearly as well beside the right one.
LOOSE = 0.6


def confidence_of(clear: float, n_spots: int, n_ratios: int) -> tuple[float, bool]:
    """Probability that the axes are right, and whether to act on them.

    Parameters
    ----------
    clear
        Merit in nats a spot (`settle.nats_a_spot`).
    n_spots
        Spots that were to be explained: few are explained more easily by chance,
    n_ratios
        and more so by a lattice with many free ratios.
    """
    half = HALF + FEW * (1 + n_ratios) / n_spots + FEWER / n_spots**2 + LOOSE * (n_ratios >= 2)
    logit = STEEP * (clear - half)
    confidence = 1.0 / (1.0 + math.exp(-max(min(logit, 50.0), -50.0)))
    return confidence, confidence >= SURE
