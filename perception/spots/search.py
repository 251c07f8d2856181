"""Kernels of the spot search: residual, smoothing, maxima. For `lauepilot.perception.spots.find`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.spots.background import Image


@numba.njit(cache=True)
def prepare(
    counts: Image,
    level: Image,
    sigma: Image,
    live: NDArray[np.bool_],
    saturation: np.float32,
    gain: np.float32,
    reject: bool,
) -> tuple[Image, NDArray[np.bool_], NDArray[np.bool_]]:
    """Counts above background (0 where blind), usable pixels without faulty ones, saturated pixels."""
    height, width = counts.shape
    residual = np.zeros_like(counts)
    usable = live.copy()
    saturated = np.zeros(counts.shape, dtype=np.bool_)
    for r in range(height):
        for c in range(width):
            if live[r, c]:
                residual[r, c] = counts[r, c] - level[r, c]
                saturated[r, c] = counts[r, c] >= saturation
    if not reject:
        return residual, usable, saturated
    for r in range(height):
        for c in range(width):
            e, s = residual[r, c], sigma[r, c]
            # A few photons alone in a pixel are no fault: faint spots are made of such.
            if -8.0 * s < e < max(6.0 * s, 4.5 * gain):
                continue
            around, n = np.float32(0.0), 0
            for k in range(4):
                i, j = r + (k - 1) * (k % 2 == 0), c + (k - 2) * (k % 2 == 1)
                if 0 <= i < height and 0 <= j < width and live[i, j]:
                    around += counts[i, j] - level[i, j]
                    n += 1
            # A true spot lights its neighbours: the sum of four is over 0.9 of the top for a sigma of half a pixel.
            # A dead pixel is dark alone.
            if n >= 2 and (around * 4 / n + 6.0 * s < 0.4 * e or (e < 0 and around > 0.4 * e)):
                usable[r, c] = False
    for r in range(height):
        for c in range(width):
            if not usable[r, c]:
                residual[r, c] = 0.0
    return residual, usable, saturated


@numba.njit(cache=True, fastmath=True)
def smooth(image: Image, taps: Image, out: Image) -> None:
    """Separable symmetric convolution; beyond the frame there is nothing."""
    height, width = image.shape
    n = len(taps)
    line = np.empty(width + 2 * n, dtype=np.float32)
    for r in range(height):
        line[:] = np.float32(0.0)
        for c in range(width):
            line[n + c] = image[r, c] * taps[0]
        for k in range(1, n):
            if r - k >= 0 and r + k < height:
                for c in range(width):
                    line[n + c] += taps[k] * (image[r - k, c] + image[r + k, c])
            elif r - k >= 0:
                for c in range(width):
                    line[n + c] += taps[k] * image[r - k, c]
            elif r + k < height:
                for c in range(width):
                    line[n + c] += taps[k] * image[r + k, c]
        for c in range(width):
            out[r, c] = taps[0] * line[n + c]
        for k in range(1, n):
            for c in range(width):
                out[r, c] += taps[k] * (line[n + c - k] + line[n + c + k])


@numba.njit(cache=True, inline="always")
def level_at(sigma: np.float32, first: np.float32, per_step: np.float32, table: Image) -> np.float32:
    """The threshold for a pixel's noise, from a table over even steps of it."""
    x = (sigma - first) * per_step
    i = min(max(int(x), 0), len(table) - 2)
    return np.float32(table[i] + (x - i) * (table[i + 1] - table[i]))


@numba.njit(cache=True, fastmath=True)
def normalise(smooth: Image, sigma: Image, first: np.float32, per_step: np.float32, table: Image) -> None:
    """Divide the smoothed image by its threshold."""
    height, width = smooth.shape
    for r in range(height):
        for c in range(width):
            smooth[r, c] /= level_at(sigma[r, c], first, per_step, table)


@numba.njit(cache=True)
def maxima(score: Image) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels (rows, cols) above 1 that no neighbour tops."""
    height, width = score.shape
    rows, cols = [], []
    for r in range(height):
        for c in range(width):
            s = score[r, c]
            if s < 1.0:
                continue
            top = True
            for i in range(max(r - 1, 0), min(r + 2, height)):
                for j in range(max(c - 1, 0), min(c + 2, width)):
                    # Of a plateau's pixels the first counts.
                    before = i < r or (i == r and j < c)
                    t = score[i, j]
                    if (before and t >= s) or (not before and t > s):
                        top = False
            if top:
                rows.append(r)
                cols.append(c)
    return np.array(rows, dtype=np.int64), np.array(cols, dtype=np.int64)


@numba.njit(cache=True)
def prominent(
    score: Image,
    sigma: Image,
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    noise: float,
    photon: float,
    first: np.float32,
    per_step: np.float32,
    table: Image,
) -> NDArray[np.bool_]:
    """Which maxima, highest first, are parted by a valley deeper than noise from every higher one within 14 pixels."""
    n = len(rows)
    keep = np.ones(n, dtype=np.bool_)
    for s in range(n):
        r, c = rows[s], cols[s]
        own = np.float64(score[r, c])
        unit = np.float64(level_at(sigma[r, c], first, per_step, table))
        spread = np.sqrt((noise * np.float64(sigma[r, c])) ** 2 + photon * own * unit) / unit
        for o in range(s):
            du, dv = cols[o] - c, rows[o] - r
            if not keep[o] or du * du + dv * dv > 196:
                continue
            valley = own
            steps = 2 * max(abs(du), abs(dv))
            for k in range(1, steps):
                valley = min(
                    valley,
                    np.float64(score[r + int(np.rint(dv * k / steps)), c + int(np.rint(du * k / steps))]),
                )
            if own - max(valley, 0.0) < 3.5 * spread + 0.003 * np.float64(score[rows[o], cols[o]]):
                keep[s] = False
                break
    return keep
