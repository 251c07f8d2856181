"""Compiled loops of `lauepilot.perception.indexing.forced`: stamps of predicted spots, and their normal equations.

A spot is six numbers, as in `lauepilot.perception.limits.kernels`: col, row, covariance (cc, cr, rr) in pixels squared, and
the logarithm of its light, here in the frame's units. Its profile is taken at the middle of each pixel: the width is
fitted, and takes up what a pixel widens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.spots.background import Image
from lauepilot.simulator.conventions import FloatArray

#: Columns that follow the moving parameters in the normal equations: logarithm of the flux, relative change of the
#: background, variance added to every spot (pixels squared).
COMMON = 3

#: Width of the halo over that of the core; fixed, since one exponential then serves both.
HALO_WIDTH = 2.0

#: A stamp ends where the spot is a share of the background, where so much of a photon is left outside, and at so many
#: standard deviations of the whole profile.
FADES, _CRUMB, _REACH = 0.05, 0.02, 6.6
_MAX_HALF = 24


class Stamps(NamedTuple):
    """Which pixels spots cover.

    Entry e of spot s (``first[s] <= e < first[s + 1]``) is pixel ``slot[e]`` of the list ``row``, ``col`` (both (m,)). In
    these pixels: ``seen`` (m,) counts above the background, ``level`` of the background, ``noise`` its variance.
    """

    first: NDArray[np.int64]
    slot: NDArray[np.int64]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    seen: FloatArray
    level: FloatArray
    noise: FloatArray


class Normal(NamedTuple):
    """Normal equations of k moving parameters, `COMMON` ones and n relative amplitudes.

    ``matrix`` (k + 3, k + 3) and ``right`` (k + 3); ``cross`` (n, k + 3), ``own`` (n, n), ``pull`` (n) those of the
    amplitudes (empty unless wanted); ``score`` (n, 2) and ``information`` (n, 3: cc, cr, rr) of each spot's place alone;
    ``likelihood`` of the pixels (Poisson, electronic noise as photons), ``misfit`` the sum of their squared deviations in
    standard deviations, and ``spread`` the variance that this sum should have about the number of ``pixels``.
    """

    matrix: FloatArray
    right: FloatArray
    cross: FloatArray
    own: FloatArray
    pull: FloatArray
    score: FloatArray
    information: FloatArray
    likelihood: float
    misfit: float
    spread: float
    pixels: int


@njit(cache=True, inline="always")
def profile(q: float, norm: float, halo: float) -> tuple[float, float]:
    """Density at the squared distance ``q`` (in units of the covariance), and -2 times its derivative by ``q``."""
    core = 1.0 / (1.0 - halo + halo * HALO_WIDTH * HALO_WIDTH)
    wide = core * HALO_WIDTH * HALO_WIDTH
    far = np.exp(-0.5 * q / wide)
    near = far * far
    near *= near
    inner = (1.0 - halo) * norm / core * near
    outer = halo * norm / wide * far
    return inner + outer, inner / core + outer / wide


@njit(cache=True)
def _faulty(counts: Image, level: Image, usable: NDArray[np.bool_], r: int, c: int, bound: float) -> bool:
    """Whether a pixel is bright or dark alone: what is spread over pixels lights its neighbours."""
    e = np.float64(counts[r, c]) - np.float64(level[r, c])
    if abs(e) < bound:
        return False
    around, n = 0.0, 0
    for k in range(4):
        i, j = r + (k - 1) * (k % 2 == 0), c + (k - 2) * (k % 2 == 1)
        if 0 <= i < counts.shape[0] and 0 <= j < counts.shape[1] and usable[i, j]:
            around += np.float64(counts[i, j]) - np.float64(level[i, j])
            n += 1
    return bool(n >= 2 and (around * 4 / n + bound < 0.4 * e or (e < 0.0 and around > 0.4 * e)))


@njit(cache=True)
def lay_out(
    counts: Image,
    level: Image,
    sigma: Image,
    usable: NDArray[np.bool_],
    saturation: float,
    gain: float,
    spots: FloatArray,
    halo: float,
    foreign: FloatArray,
) -> Stamps:
    """Pixels under spots (n, 6) that are alive, neither saturated nor faulty, and outside ``foreign`` discs (f, 3: col, row,
    radius).
    """
    rows, cols = counts.shape
    n = len(spots)
    place = np.full((rows, cols), np.int32(-1))
    for f in range(len(foreign)):
        reach = foreign[f, 2]
        for r in range(max(0, int(foreign[f, 1] - reach)), min(rows, int(foreign[f, 1] + reach) + 2)):
            for c in range(max(0, int(foreign[f, 0] - reach)), min(cols, int(foreign[f, 0] + reach) + 2)):
                if (r - foreign[f, 1]) ** 2 + (c - foreign[f, 0]) ** 2 < reach * reach:
                    place[r, c] = np.int32(-2)
    half = np.zeros((n, 2), np.int64)
    limit = np.zeros(n)
    capacity = 0
    for s in range(n):
        r, c = int(np.rint(spots[s, 1])), int(np.rint(spots[s, 0]))
        r, c = min(max(r, 0), rows - 1), min(max(c, 0), cols - 1)
        noise = np.float64(sigma[r, c]) ** 2 / gain
        norm = 1.0 / (2.0 * np.pi * np.sqrt(spots[s, 2] * spots[s, 4] - spots[s, 3] ** 2))
        light = np.exp(spots[s, 5])
        reach = 0.0
        wide = HALO_WIDTH * HALO_WIDTH / (1.0 - halo + halo * HALO_WIDTH * HALO_WIDTH)
        while reach < _REACH and light * profile(reach * reach, norm, halo)[0] > FADES * noise:
            far = np.exp(-0.5 * reach * reach / wide)
            if light / gain * ((1.0 - halo) * far**4 + halo * far) < _CRUMB:
                break
            reach += 0.2
        limit[s] = reach * reach
        half[s, 0] = min(int(reach * np.sqrt(spots[s, 2])) + 1, _MAX_HALF)
        half[s, 1] = min(int(reach * np.sqrt(spots[s, 4])) + 1, _MAX_HALF)
        capacity += (2 * half[s, 0] + 3) * (2 * half[s, 1] + 3) if reach > 0.0 else 0
    first = np.zeros(n + 1, np.int64)
    slot = np.empty(capacity, np.int64)
    row, col = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    used = entries = 0
    for s in range(n):
        first[s] = entries
        if limit[s] == 0.0:
            continue
        det = spots[s, 2] * spots[s, 4] - spots[s, 3] ** 2
        r_mid, c_mid = int(np.rint(spots[s, 1])), int(np.rint(spots[s, 0]))
        for r in range(max(0, r_mid - half[s, 1]), min(rows, r_mid + half[s, 1] + 1)):
            for c in range(max(0, c_mid - half[s, 0]), min(cols, c_mid + half[s, 0] + 1)):
                x, y = c - spots[s, 0], r - spots[s, 1]
                q = (spots[s, 4] * x * x - 2.0 * spots[s, 3] * x * y + spots[s, 2] * y * y) / det
                if q > limit[s] or not usable[r, c] or place[r, c] == -2:
                    continue
                at = int(place[r, c])
                if at < 0:
                    bound = max(6.0 * np.float64(sigma[r, c]), 4.5 * gain)
                    if not counts[r, c] < saturation or _faulty(counts, level, usable, r, c, bound):
                        place[r, c] = np.int32(-2)
                        continue
                    at = used
                    place[r, c] = np.int32(used)
                    row[used], col[used] = r, c
                    used += 1
                slot[entries] = at
                entries += 1
    first[n] = entries
    seen, back, noise_out = np.empty(used), np.empty(used), np.empty(used)
    for k in range(used):
        back[k] = np.float64(level[row[k], col[k]])
        seen[k] = np.float64(counts[row[k], col[k]]) - back[k]
        noise_out[k] = np.float64(sigma[row[k], col[k]]) ** 2
    return Stamps(first, slot[:entries].copy(), row[:used].copy(), col[:used].copy(), seen, back, noise_out)


@njit(cache=True, error_model="numpy")
def normal_equations(
    stamps: Stamps, spots: FloatArray, slopes: FloatArray, offset: float, change: float, gain: float, halo: float,
    amplitudes: bool,
) -> Normal:  # fmt: skip
    """The normal equations of Fisher's scoring at the given spots.

    Parameters
    ----------
    stamps
        From `lay_out`.
    spots
        (n, 6), widths as fitted.
    slopes
        (n, 6, k) derivatives of the spots' numbers after the moving parameters.
    offset
        Level of the frame without photons.
    change
        Relative change of the background above ``offset``.
    gain
        Units per photon.
    halo
        Share of the photons in the halo.
    amplitudes
        Whether the equations of each spot's relative amplitude are wanted.
    """
    n, _, k = slopes.shape
    m = k + COMMON
    pixels = len(stamps.seen)
    mean = np.zeros(pixels)
    gradient = np.zeros((pixels, m))
    entries = len(stamps.slot)
    light = np.empty(entries)
    along = np.empty((entries, 2))
    for s in range(n):
        cc, cr, rr = spots[s, 2], spots[s, 3], spots[s, 4]
        det = cc * rr - cr * cr
        a, b, c = rr / det, cc / det, -cr / det
        norm = np.exp(spots[s, 5]) / (2.0 * np.pi * np.sqrt(det))
        for e in range(stamps.first[s], stamps.first[s + 1]):
            j = stamps.slot[e]
            x, y = stamps.col[j] - spots[s, 0], stamps.row[j] - spots[s, 1]
            wx, wy = a * x + c * y, c * x + b * y
            g, h = profile(x * wx + y * wy, norm, halo)
            mean[j] += g
            light[e], along[e, 0], along[e, 1] = g, h * wx, h * wy
            dcc = 0.5 * (h * wx * wx - g * a)
            drr = 0.5 * (h * wy * wy - g * b)
            dcr = h * wx * wy - g * c
            for i in range(k):
                gradient[j, i] += (
                    along[e, 0] * slopes[s, 0, i]
                    + along[e, 1] * slopes[s, 1, i]
                    + dcc * slopes[s, 2, i]
                    + dcr * slopes[s, 3, i]
                    + drr * slopes[s, 4, i]
                    + g * slopes[s, 5, i]
                )
            gradient[j, k] += g
            gradient[j, k + 2] += dcc + drr
    weight, excess = np.empty(pixels), np.empty(pixels)
    matrix, right = np.zeros((m, m)), np.zeros(m)
    likelihood = misfit = spread = 0.0
    for j in range(pixels):
        dark = stamps.level[j] - offset
        gradient[j, k + 1] = dark
        model = mean[j] + change * dark
        # Electronic noise counts as photons of the same variance.
        expected = max(stamps.noise[j] / gain + model, 1e-3 * stamps.noise[j] / gain)
        weight[j] = 1.0 / (gain * expected)
        excess[j] = (stamps.seen[j] - model) * weight[j]
        misfit += excess[j] * excess[j] / weight[j]
        spread += 2.0 + gain / expected
        got = max(stamps.seen[j] + stamps.noise[j] / gain, 0.0)
        likelihood -= expected / gain
        if got > 0.0:
            likelihood += got / gain * np.log(expected / gain)
        for x in range(m):
            right[x] += gradient[j, x] * excess[j]
            wx = weight[j] * gradient[j, x]
            for y in range(x + 1):
                matrix[x, y] += wx * gradient[j, y]
    for x in range(m):
        for y in range(x):
            matrix[y, x] = matrix[x, y]
    score, information = np.zeros((n, 2)), np.zeros((n, 3))
    for s in range(n):
        for e in range(stamps.first[s], stamps.first[s + 1]):
            j = stamps.slot[e]
            for i in range(2):
                score[s, i] += along[e, i] * excess[j]
            information[s, 0] += weight[j] * along[e, 0] ** 2
            information[s, 1] += weight[j] * along[e, 0] * along[e, 1]
            information[s, 2] += weight[j] * along[e, 1] ** 2
    many = n if amplitudes else 0
    cross, own, pull = np.zeros((many, m)), np.zeros((many, many)), np.zeros(many)
    here = np.zeros(pixels)
    for s in range(many):
        for e in range(stamps.first[s], stamps.first[s + 1]):
            j = stamps.slot[e]
            here[j] = light[e]
            pull[s] += light[e] * excess[j]
            for x in range(m):
                cross[s, x] += weight[j] * light[e] * gradient[j, x]
        for o in range(s + 1):
            if abs(spots[o, 0] - spots[s, 0]) < 50.0 and abs(spots[o, 1] - spots[s, 1]) < 50.0:
                for e in range(stamps.first[o], stamps.first[o + 1]):
                    j = stamps.slot[e]
                    own[s, o] += weight[j] * light[e] * here[j]
                own[o, s] = own[s, o]
        for e in range(stamps.first[s], stamps.first[s + 1]):
            here[stamps.slot[e]] = 0.0
    return Normal(matrix, right, cross, own, pull, score, information, likelihood, misfit, spread, pixels)
