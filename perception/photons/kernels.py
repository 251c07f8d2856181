"""The photon likelihood, compiled: value, slopes, and its best share of signal.

It is that of photons drawn one by one from a mixture, a share ``f`` from the spots and the rest from the background,

    log L = sum over photons of log(1 - f + f s(x) / (V b(x))),    relative to "all background",

with ``s(x)`` the rate of all spots per pixel at the photon, ``V`` their rate on all live pixels and ``b(x)`` the share of
the background in that pixel. How many photons there are tells nothing of the orientation while flux and background are
unknown; this is the profile of the Poisson likelihood over their sum. Parameters are numbered as in `spread`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from lauepilot.perception.photons.scene import PARAMETERS, SHAPE_PARAMETERS, View
from lauepilot.perception.photons.spread import clear, spread
from lauepilot.simulator.conventions import FloatArray


@njit(cache=True)
def log_likelihood(
    u: FloatArray,
    x: FloatArray,
    view: View,
) -> float:
    """Log-likelihood ratio to "all background" of an orientation ``u`` and parameters ``x`` (10,)."""
    photons, work = view.photons, view.work
    dv = np.empty(SHAPE_PARAMETERS)
    visible, touched = spread(u, x, view, 0, dv)
    f = 1.0 / (1.0 + math.exp(-x[9]))
    value, counted = 0.0, 0.0
    for t in range(touched):
        p = work.touched[t]
        counted += photons.amount[p]
        value += photons.amount[p] * math.log(1.0 - f + f * work.density[p] / (visible * photons.base[p]))
    clear(work, touched)
    if visible <= 0.0:
        return -1e30
    return value + (photons.total - counted) * math.log(1.0 - f)


@njit(cache=True)
def gradient(
    u: FloatArray,
    x: FloatArray,
    view: View,
    out: FloatArray,
    information: FloatArray,
) -> float:
    """`log_likelihood` with its gradient ``out`` (10,) and the sum over photons of its outer products (10, 10)."""
    photons, work = view.photons, view.work
    dv = np.empty(SHAPE_PARAMETERS)
    visible, touched = spread(u, x, view, 1, dv)
    out[:] = 0.0
    information[:] = 0.0
    if visible <= 0.0:
        clear(work, touched)
        return -1e30
    f = 1.0 / (1.0 + math.exp(-x[9]))
    value, counted = 0.0, 0.0
    h = np.empty(PARAMETERS)
    # Without the pose's slopes half of the work is done.
    which = np.arange(PARAMETERS) if view.scene.pose_free else np.array([0, 1, 2, 8, 9])
    for t in range(touched):
        p = work.touched[t]
        c = photons.amount[p]
        counted += c
        ratio = work.density[p] / (visible * photons.base[p])
        mean = 1.0 - f + f * ratio
        value += c * math.log(mean)
        factor = f / (visible * photons.base[p] * mean)
        lost = work.density[p] / visible
        for m in range(SHAPE_PARAMETERS):
            h[m] = factor * (work.slope[p, m] - lost * dv[m])
        h[9] = f * (1.0 - f) * (ratio - 1.0) / mean
        for i in range(which.size):
            m = which[i]
            out[m] += c * h[m]
            for j in range(i + 1):
                information[m, which[j]] += c * h[m] * h[which[j]]
    clear(work, touched)
    left = photons.total - counted
    out[9] -= f * left
    information[9, 9] += f * f * left
    for m in range(PARAMETERS):
        for o in range(m):
            information[o, m] = information[m, o]
    return value + left * math.log(1.0 - f)


@njit(cache=True)
def best_share(
    u: FloatArray,
    x: FloatArray,
    view: View,
) -> float:
    """The share of signal (0..1) of the highest likelihood, all else given: the likelihood is concave in it."""
    photons, work = view.photons, view.work
    dv = np.empty(SHAPE_PARAMETERS)
    visible, touched = spread(u, x, view, 0, dv)
    low, high = 1e-6, 1.0 - 1e-3
    counted = 0.0
    for t in range(touched):
        p = work.touched[t]
        counted += photons.amount[p]
        work.density[p] /= max(visible, 1e-300) * photons.base[p]
    for _ in range(24):
        f = 0.5 * (low + high)
        slope = -(photons.total - counted) / (1.0 - f)
        for t in range(touched):
            p = work.touched[t]
            over = work.density[p] - 1.0
            slope += photons.amount[p] * over / (1.0 + f * over)
        if slope > 0.0:
            low = f
        else:
            high = f
    clear(work, touched)
    return 0.5 * (low + high)
