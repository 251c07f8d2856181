"""From how many photons on a method succeeds: psychometric curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from lauepilot.simulator.conventions import FloatArray


@dataclass(frozen=True, eq=False)
class Curve:
    """Weibull's function ``1 - exp(-(counts / scale)^shape)``, fitted to shares of success.

    Attributes
    ----------
    scale, shape
        By maximum likelihood.
    draws
        (m, 2) of both, by the parametric bootstrap.
    """

    scale: float
    shape: float
    draws: FloatArray

    def counts_for(self, share: float) -> float:
        """Counts from which on so large a share succeeds."""
        return float(self.scale * (-np.log1p(-share)) ** (1.0 / self.shape))

    def draws_for(self, share: float) -> FloatArray:
        """The same for each draw of the bootstrap (m,)."""
        return np.asarray(self.draws[:, 0] * (-np.log1p(-share)) ** (1.0 / self.draws[:, 1]))


def fitted(
    counts: Sequence[float],
    successes: Sequence[int],
    trials: Sequence[int],
    rng: np.random.Generator,
    draws: int = 200,
) -> Curve:
    """Fit a curve to successes among trials at several counts (Wichmann & Hill 2001, Perception & Psychophysics 63, 1293
    and 1314; without lapses or guesses).

    Each trial of an orientation needs enough photons, and failure dies out exponentially with them: hence Weibull's
    function of the logarithm of the counts, and not the logistic one, whose tail is too long.

    Raises
    ------
    ValueError
        If there is nothing to fit: no trial, or all of them succeed, or none.
    """
    x = np.log(np.asarray(counts, dtype=float))
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    if not 0 < k.sum() < n.sum():
        raise ValueError(
            f"A psychometric curve needs successes and failures; {int(k.sum())} of {int(n.sum())} succeeded. "
            "Take fewer or more photons."
        )
    scale, shape = _fit(x, k, n)
    expected = 1.0 - np.exp(-np.exp(shape * (x - np.log(scale))))
    drawn = np.array([_fit(x, rng.binomial(n.astype(int), expected).astype(float), n) for _ in range(draws)])
    return Curve(scale, shape, drawn)


def _fit(x: FloatArray, k: FloatArray, n: FloatArray) -> tuple[float, float]:
    """Scale and shape by maximum likelihood; a weak prior (shape 3 within a factor of 3) keeps steep data finite."""

    def loss(p: FloatArray) -> float:
        power = np.exp(np.clip(np.exp(p[1]) * (x - p[0]), -30.0, 5.0))
        return float(
            -(k * np.log(-np.expm1(-power) + 1e-12) - (n - k) * power).sum()
            + 0.5 * ((p[1] - np.log(3.0)) / np.log(3.0)) ** 2
        )

    middle = float(x[int(np.argmin(np.abs(k / np.maximum(n, 1.0) - 0.6)))])
    best = minimize(
        loss, np.array([middle, np.log(3.0)]), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6}
    )
    return float(np.exp(best.x[0])), float(np.exp(best.x[1]))
