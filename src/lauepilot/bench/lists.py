"""Spoiled spot lists with a known truth: the examination paper of indexers.

This generator serves tests alone. Nothing that is trained or tuned draws from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.laue import PredictedSpots


@dataclass(frozen=True)
class Spoiling:
    """What is done to a true list.

    Attributes
    ----------
    missing
        Share of the spots taken out at random, bright or faint.
    false
        False spots put in, as a share of the true ones there had been: anywhere on the live sensor, as bright as true ones.
    noise_px
        Standard deviation of positions, each direction.
    log_sigma
        Scatter of the logarithm of intensities.
    least
        True spots that are left at least (all, if there are fewer).
    """

    missing: float
    false: float
    noise_px: float = 0.5
    log_sigma: float = 0.3
    least: int = 12

    @classmethod
    def percent(cls, missing: int) -> Spoiling:
        """The sets that the goals name: as many false as missing; at 80 % missing, 100 % false."""
        return cls(missing / 100.0, 1.0 if missing == 80 else missing / 100.0)


def spoiled(spots: PredictedSpots, detector: Detector, how: Spoiling, rng: np.random.Generator) -> SpotList:
    """A list as a bad frame would give it, in random order, of a true pattern on a detector."""
    n = len(spots)
    left = min(n, max(round(n * (1.0 - how.missing)), how.least))
    keep = rng.permutation(n)[:left]
    true_px = spots.pixels[keep] + rng.normal(size=(left, 2)) * how.noise_px
    wanted = round(n * how.false)
    false_px = anywhere(detector, wanted, rng)
    rate = np.concatenate([spots.rate_per_s[keep], rng.choice(spots.rate_per_s, wanted)])
    counts = rate * np.exp(how.log_sigma * rng.normal(size=len(rate)))
    order = rng.permutation(len(rate))
    pixels = np.concatenate([true_px, false_px])[order]
    return SpotList(
        pixels=pixels,
        covariance_px2=np.tile(np.eye(2) * how.noise_px**2, (len(pixels), 1, 1)),
        counts=counts[order],
        counts_sigma=np.sqrt(counts[order]),
        saturated=np.zeros(len(pixels), dtype=np.bool_),
    )


def anywhere(detector: Detector, n: int, rng: np.random.Generator) -> FloatArray:
    """Pixels (n, 2) uniform over the live sensor."""
    found = np.zeros((0, 2))
    while len(found) < n:
        tries = rng.random((2 * n + 8, 2)) * [detector.shape[1], detector.shape[0]] - 0.5
        found = np.concatenate([found, tries[detector.sees(tries)]])
    return found[:n]
