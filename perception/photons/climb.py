"""Compiled ascent of the photon likelihood from many starts: EM steps under a shrinking width."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from lauepilot.perception.photons.kernels import log_likelihood
from lauepilot.perception.photons.scene import PARAMETERS, SHAPE_PARAMETERS, View
from lauepilot.perception.photons.spread import clear, select, spread, turned
from lauepilot.simulator.conventions import FloatArray


@njit(cache=True)
def em_step(
    u: FloatArray,
    x: FloatArray,
    view: View,
    longest: float,
) -> tuple[FloatArray, float, float]:
    """One EM step (Dempster, Laird & Rubin 1977): the turned orientation, the new share of signal, log-likelihood before.

    Each photon belongs to its spots with the probability that the present model gives; the rotation then is the
    weighted least-squares one, at most ``longest`` radians.
    """
    photons, work = view.photons, view.work
    dv = np.empty(SHAPE_PARAMETERS)
    visible, touched = spread(u, x, view, 2, dv)
    f = 1.0 / (1.0 + math.exp(-x[9]))
    b0 = b1 = b2 = 0.0
    a = np.zeros(6)
    value, counted, signal = 0.0, 0.0, 0.0
    for t in range(touched):
        p = work.touched[t]
        c = photons.amount[p]
        counted += c
        ratio = work.density[p] / (visible * photons.base[p])
        mean = 1.0 - f + f * ratio
        value += c * math.log(mean)
        signal += c * f * ratio / mean
        factor = c * f / (visible * photons.base[p] * mean)
        lost = work.density[p] / visible
        b0 += factor * (work.slope[p, 0] - lost * dv[0])
        b1 += factor * (work.slope[p, 1] - lost * dv[1])
        b2 += factor * (work.slope[p, 2] - lost * dv[2])
        for n in range(6):
            a[n] += factor * work.curve[p, n]
    clear(work, touched)
    if visible <= 0.0:
        return u, 1e-3, -1e30
    value += (photons.total - counted) * math.log(1.0 - f)
    m = np.array([[a[0], a[1], a[2]], [a[1], a[3], a[4]], [a[2], a[4], a[5]]])
    # A photon's worth of knowing that the step is short keeps the matrix from being singular.
    ridge = 1.0 / longest**2
    for i in range(3):
        m[i, i] += ridge
    w = np.linalg.solve(m, np.array([b0, b1, b2]))
    length = math.sqrt(w[0] ** 2 + w[1] ** 2 + w[2] ** 2)
    scale = min(1.0, longest / max(length, 1e-12))
    share = min(max(signal / photons.total, 0.5 / photons.total), 0.98)
    return turned(u, w[0] * scale, w[1] * scale, w[2] * scale), share, value


@njit(cache=True)
def climb(
    us: FloatArray,
    start: FloatArray,
    view: View,
    most: int,
    margin: float,
    widths: FloatArray,
    longest: float,
    scores: FloatArray,
    shares: FloatArray,
) -> None:
    """Climb from each of ``us`` (m, 3, 3), in place; fills log-likelihoods and signal shares (m,).

    Parameters
    ----------
    start
        (10,) parameters at the start.
    view
        The frame; its ``rays`` (room for all) are chosen here for each orientation.
    most, margin
        See `select`.
    widths
        Point spreads, pixels, one for each step, wide first; the last is that at which scores are taken.
    longest
        Longest step, rad.
    """
    x = np.empty(PARAMETERS)
    for m in range(us.shape[0]):
        u = us[m].copy()
        x[:] = start
        n = select(u, view.scene, most, margin, view.rays)
        own = View(view.scene, view.photons, view.rays[:n], view.work)
        for k in range(widths.size):
            x[8] = math.log(widths[k])
            u, share, _ = em_step(u, x, own, longest)
            x[9] = math.log(share / (1.0 - share))
        us[m] = u
        shares[m] = 1.0 / (1.0 + math.exp(-x[9]))
        scores[m] = log_likelihood(u, x, own)
