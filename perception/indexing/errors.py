"""The end of a refinement: matches stand, weights and error bars are settled. Compiled.

Spots differ in their errors by a factor of a hundred, and what the model gets wrong (distortion, strain, touching spots) is
the same for all. So each spot's variance is its own plus that of the model, which is fitted by maximum likelihood: the
bright spots decide where nothing is wrong, and all count alike where the model is.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.indexing.gauss_newton import TUKEY, linearise, normal_equations, rotate
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.kernels import PackedDetector

#: Errors of the model that are tried, in pixels, besides none.
MODEL_PX = np.geomspace(0.01, 4.0, 25)

#: What the log-likelihood must gain before an error of the model is believed.
GAIN = 1.0

#: For normal errors in two dimensions weighted after Tukey, from moments of the exponential distribution: mean of weight
#: times squared distance over twice the mean weight; the estimate's variance over the inverse of the weighted information.
_DISTANCE = 0.822
_VARIANCE = 0.899


@njit(cache=True)
def model_error(distance2: FloatArray, variance: FloatArray) -> float:
    """Standard deviation per direction, pixels, by which residuals (squared: ``distance2``) exceed ``variance`` (n)."""
    best = gain = 0.0
    for k in range(-1, len(MODEL_PX)):
        extra = 0.0 if k < 0 else MODEL_PX[k] ** 2
        total = 0.0
        for i in range(len(variance)):
            v = variance[i] + extra
            # False matches say nothing beyond some four standard deviations.
            total -= np.log(v) + 0.5 * min(distance2[i] / v, 16.0)
        if k < 0:
            gain = total + GAIN
        elif total > gain:
            gain, best = total, MODEL_PX[k]
    return float(best)


@njit(cache=True)
def settle(
    direction: FloatArray,
    detector: PackedDetector,
    pixels: FloatArray,
    sigma: FloatArray,
    u: FloatArray,
    p: FloatArray,
    free: NDArray[np.int64],
    prior_sigma: FloatArray,
    spot: NDArray[np.int64],
    ray: NDArray[np.int64],
) -> tuple[FloatArray, FloatArray]:
    """Refine ``u`` and ``p`` in place, matches held, else as `gauss_newton.fit`; residuals (m, 2) and covariance (k, k)."""
    k, m = len(free), len(spot)
    pull = np.zeros(k)
    for i in range(k):
        if prior_sigma[free[i]] > 0.0:
            pull[i] = 1.0 / max(prior_sigma[free[i]], 1e-12) ** 2
    own = sigma[spot] ** 2
    extra = 0.0
    for _ in range(8):
        residual, jacobian = linearise(direction, u, p, detector, pixels, spot, ray, free)
        weight = np.empty(m)
        distance2 = residual[:, 0] ** 2 + residual[:, 1] ** 2
        extra = np.float64(model_error(distance2, own))
        variance = own + extra**2
        for i in range(m):
            weight[i] = max(1.0 - distance2[i] / (variance[i] * TUKEY**2), 0.0) ** 2
        share = weight / variance
        a, b = normal_equations(residual, jacobian, share)
        for i in range(k):
            a[i, i] += pull[i] + 1e-12 * a[i, i] + 1e-30
            b[i] -= pull[i] * p[free[i]]
        step = np.asarray(np.linalg.solve(a, b), dtype=np.float64)
        rotate(u, step[:3])
        for i in range(3, k):
            p[free[i]] += step[i]
        if np.abs(step[:3]).max() < 1e-8:
            break
    residual, jacobian = linearise(direction, u, p, detector, pixels, spot, ray, free)
    chi2 = 0.0
    for i in range(m):
        chi2 += weight[i] * (residual[i, 0] ** 2 + residual[i, 1] ** 2) / variance[i]
    degrees = max(2.0 * weight.sum() - k, 1.0)
    chi2 /= _DISTANCE * degrees
    wider = max(chi2, 1.0)
    if extra > 0.0 or chi2 > 1.0:
        # Errors that are known from the residuals alone: the mean of Student's square, not of Gauss'.
        wider *= degrees / max(degrees - 2.0, 1.0)
    a, _ = normal_equations(residual, jacobian, share / (_VARIANCE * wider))
    for i in range(k):
        a[i, i] += pull[i]
    return residual, np.asarray(np.linalg.pinv(a), dtype=np.float64)
