"""Thresholds for smoothed counts: which value Poisson noise exceeds with a given, very small probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr

from lauepilot.simulator.conventions import FloatArray


def tail_levels(kernel: FloatArray, means: FloatArray, sigmas: float) -> FloatArray:
    """Values (n,) that a weighted sum of Poisson counts, less its mean, exceeds as seldom as a normal number ``sigmas``.

    Parameters
    ----------
    kernel
        (k, k) weights of the pixels.
    means
        (n,) expected photons a pixel.
    sigmas
        Standard deviations; above 1.

    Notes
    -----
    The sum has the cumulant function ``K(s) = mean sum(exp(s w) - 1 - s w)``. Its tail is Lugannani & Rice's saddlepoint
    approximation (1980, Adv. Appl. Prob. 12, 475, eq. 10): ``P(X > K'(s)) = Q(r) + phi(r) (1/u - 1/r)`` with
    ``r = sqrt(2 (s K' - K))`` and ``u = s sqrt(K'')``; it is good to a few per cent far out, where a normal
    approximation, or the first terms beyond it, are wrong by orders of magnitude.
    """
    w = kernel[kernel > 1e-3 * kernel.max()].ravel()
    s = np.geomspace(1e-4, 40.0, 400) / w.max()
    e = np.exp(np.outer(s, w))
    k0 = (e - 1.0 - np.outer(s, w)).sum(axis=1)
    k1, k2 = ((e - 1.0) * w).sum(axis=1), (e * w * w).sum(axis=1)
    wanted = float(log_ndtr(-sigmas))
    out = np.empty(len(means))
    for i, mean in enumerate(np.maximum(means, 1e-9)):
        tail = _log_tail(s, mean * k0, mean * k1, mean * k2)
        good = np.isfinite(tail)
        # The tail falls with s: it is looked up the other way round.
        out[i] = np.interp(-wanted, -tail[good], mean * k1[good])
    return out


def _log_tail(s: FloatArray, k0: FloatArray, k1: FloatArray, k2: FloatArray) -> NDArray[np.float64]:
    """Logarithm of the tail probability beyond ``k1``; falling with ``s``."""
    half = np.maximum(s * k1 - k0, 1e-300)
    r, u = np.sqrt(2.0 * half), s * np.sqrt(k2)
    # Q(r) = phi(r) times Mills' ratio.
    mills = np.sqrt(np.pi / 2.0) * erfcx(r / np.sqrt(2.0))
    factor = np.where(r > 0.05, mills + 1.0 / u - 1.0 / np.maximum(r, 1e-9), mills)
    tail = -half - 0.5 * np.log(2.0 * np.pi) + np.log(np.maximum(factor, 1e-300))
    # Close to the mean the expansion fails for few counts, on the low side: the far end is right.
    return np.asarray(np.maximum.accumulate(tail[::-1])[::-1])
