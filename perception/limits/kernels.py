"""Compiled loops of `lauepilot.perception.limits.bound`: stamps of spots with their derivatives, and the information matrix.

A spot is six numbers: col, row, covariance (col col, col row, row row) in pixels squared, and the logarithm of its photons.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray

#: Stamps end here, in standard deviations of the halo.
REACH = 4.5

#: Points and weights in a pixel (Gauss & Legendre) for spots wider than a pixel, than half of one, and sharper ones.
_ORDERS = (2, 4, 10)
_POINTS = np.zeros((3, 10))
_WEIGHTS = np.zeros((3, 10))
for _i, _n in enumerate(_ORDERS):
    _x, _w = np.polynomial.legendre.leggauss(_n)
    _POINTS[_i, :_n], _WEIGHTS[_i, :_n] = 0.5 * _x, 0.5 * _w


@njit(cache=True)
def _pixel(
    spot: FloatArray, col: int, row: int, halo: float, width: float, derivatives: bool, out: FloatArray
) -> None:
    """The share of a spot's photons in a pixel (``out[5]``), and its derivatives after the spot's first five numbers."""
    out[:] = 0.0
    core = 1.0 / (1.0 - halo + halo * width * width)
    for part in range(2):
        share = (1.0 - halo) if part == 0 else halo
        if share <= 0.0:
            continue
        scale = core if part == 0 else core * width * width
        cc, cr, rr = scale * spot[2], scale * spot[3], scale * spot[4]
        det = cc * rr - cr * cr
        a, b, c = rr / det, cc / det, -cr / det
        norm = share / (2.0 * math.pi * math.sqrt(det))
        # The smaller principal width decides how fine a pixel is sampled.
        small = 0.5 * (cc + rr) - math.sqrt(0.25 * (cc - rr) ** 2 + cr * cr)
        kind = 0 if small > 1.0 else (1 if small > 0.25 else 2)
        n = 2 if kind == 0 else (4 if kind == 1 else 10)
        for i in range(n):
            u = col + _POINTS[kind, i] - spot[0]
            for j in range(n):
                v = row + _POINTS[kind, j] - spot[1]
                x, y = a * u + c * v, c * u + b * v
                q = u * x + v * y
                if q > 60.0:
                    continue
                g = norm * _WEIGHTS[kind, i] * _WEIGHTS[kind, j] * math.exp(-0.5 * q)
                out[5] += g
                if derivatives:
                    out[0] += g * x
                    out[1] += g * y
                    out[2] += 0.5 * scale * g * (x * x - a)
                    out[3] += scale * g * (x * y - c)
                    out[4] += 0.5 * scale * g * (y * y - b)


@njit(cache=True)
def _box(
    spot: FloatArray, rows: int, cols: int, halo: float, width: float, reach: float
) -> tuple[int, int, int, int]:
    """First and past-the-last row and column of a spot's stamp on the sensor."""
    scale = 1.0 / (1.0 - halo + halo * width * width)
    scale *= width * width if halo > 0.0 else 1.0
    dc, dr = reach * math.sqrt(scale * spot[2]) + 0.5, reach * math.sqrt(scale * spot[4]) + 0.5
    return (
        max(0, math.floor(spot[1] - dr + 0.5)),
        min(rows, math.floor(spot[1] + dr + 0.5) + 1),
        max(0, math.floor(spot[0] - dc + 0.5)),
        min(cols, math.floor(spot[0] + dc + 0.5) + 1),
    )


@njit(cache=True)
def live_shares(
    spots: FloatArray, live: NDArray[np.float32], halo: float, width: float, reach: float
) -> FloatArray:
    """Share (n,) of each spot's (n, 6) photons that falls on live pixels."""
    rows, cols = live.shape
    out = np.zeros(len(spots))
    values = np.empty(6)
    for s in range(len(spots)):
        top, bottom, left, right = _box(spots[s], rows, cols, halo, width, reach)
        whole = top > 0 and left > 0 and bottom < rows and right < cols
        for r in range(top, bottom):
            for c in range(left, right):
                whole = whole and live[r, c] > 0
        if whole:
            out[s] = 1.0
            continue
        for r in range(top, bottom):
            for c in range(left, right):
                if live[r, c] > 0:
                    _pixel(spots[s], c, r, halo, width, False, values)
                    out[s] += values[5]
    return out


@njit(cache=True)
def information(
    spots: FloatArray,
    slopes: FloatArray,
    live: NDArray[np.float32],
    background: NDArray[np.float32],
    seconds: float,
    halo: float,
    width: float,
    reach: float,
) -> FloatArray:
    """Fisher information (p + 2, p + 2) of a frame, the last but one row for the logarithm of the flux, and so on.

    Parameters
    ----------
    spots
        (n, 6), photons of the exposure.
    slopes
        (n, 6, p) derivatives of the spots' numbers after the parameters that move or widen spots.
    live
        (rows, cols) 1 where the sensor sees.
    background, seconds
        (rows, cols) expected photons a second without spots, and for how long.
    halo, width, reach
        Of the profile; where stamps end, in sigmas of the halo.

    Returns
    -------
    Parameters in the order of ``slopes``, except that flux and background (logarithms) stand before the last of them.
    """
    rows, cols = live.shape
    p = slopes.shape[2]
    m = p + 2
    capacity = 0
    for s in range(len(spots)):
        top, bottom, left, right = _box(spots[s], rows, cols, halo, width, reach)
        capacity += max(bottom - top, 0) * max(right - left, 0)
    capacity = min(capacity, rows * cols)
    place = np.full((rows, cols), -1, np.int64)
    mean = np.zeros(capacity)
    gradient = np.zeros((capacity, m))
    used = 0
    touched = 0.0
    values = np.empty(6)
    for s in range(len(spots)):
        top, bottom, left, right = _box(spots[s], rows, cols, halo, width, reach)
        photons = math.exp(spots[s, 5])
        for r in range(top, bottom):
            for c in range(left, right):
                if live[r, c] == 0:
                    continue
                k = place[r, c]
                if k < 0:
                    k = used
                    place[r, c] = k
                    used += 1
                    dark = seconds * np.float64(background[r, c])
                    mean[k] += dark
                    gradient[k, p] += dark
                    touched += dark
                _pixel(spots[s], c, r, halo, width, True, values)
                for i in range(6):
                    values[i] *= photons
                mean[k] += values[5]
                gradient[k, p - 1] += values[5]
                # The moving parameters but the last (the width) come first.
                for j in range(p):
                    total = 0.0
                    for i in range(6):
                        total += values[i] * slopes[s, i, j]
                    gradient[k, j if j < p - 1 else p + 1] += total
    total_dark = 0.0
    for r in range(rows):
        line = 0.0
        for c in range(cols):
            line += np.float64(background[r, c])
        total_dark += line
    out = np.zeros((m, m))
    for k in range(used):
        if mean[k] <= 0.0:
            continue
        w = 1.0 / mean[k]
        for i in range(m):
            x = gradient[k, i] * w
            for j in range(i + 1):
                out[i, j] += x * gradient[k, j]
    # Elsewhere only the background counts: its mean is its own derivative.
    out[p, p] += max(seconds * total_dark - touched, 0.0)
    for i in range(m):
        for j in range(i):
            out[j, i] = out[i, j]
    return out
