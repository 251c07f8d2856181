"""Sub-pixel positions of spots: an elliptic profile on a constant, by maximum likelihood for counted photons.

The steps are Fisher's scoring with each pixel's variance taken from the model itself: for Poisson counts that is the
maximum likelihood, and the inverse of the information matrix is the covariance (Cramer-Rao). Seven parameters are free
(flux, position, three second moments, background), so that a width that is not known counts into the error.
The second moments lean on those of the frame's other spots (a normal prior), which is all that a spot of a dozen photons
knows of its width. The profile is that of `lauepilot.simulator.spots_shape`: a core and a halo twice as wide.
Pixels that are masked or saturated say nothing and are left out.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Floats = NDArray[np.float64]

#: Columns of the parameters: flux, col, row, moments (cc, rr, cr) in pixels squared, background; all in frame units.
FLUX, COL, ROW, CC, RR, CR, LEVEL = range(7)

_MAX_HALF = 14

#: Width of the halo over that of the core, as `SpotProfile` has it by default.
HALO_WIDTH = 2.0


@numba.njit(cache=True, inline="always")
def _profile(q: float, norm: float, halo: float) -> tuple[float, float]:
    """Density of a spot at the squared distance ``q`` in units of its covariance, and -2 times its derivative by ``q``."""
    if q >= 120.0:
        return 0.0, 0.0
    core = 1.0 / (1.0 - halo + halo * HALO_WIDTH * HALO_WIDTH)
    inner = (1.0 - halo) * norm / core * np.exp(-0.5 * q / core)
    if halo == 0.0:
        return inner, inner
    wide = core * HALO_WIDTH * HALO_WIDTH
    outer = halo * norm / wide * np.exp(-0.5 * q / wide)
    return inner + outer, inner / core + outer / wide


@numba.njit(cache=True)
def _invert(matrix: Floats, inverse: Floats, n: int) -> bool:
    """Inverse of a symmetric positive definite matrix by Cholesky; False if it is none."""
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            s = matrix[i, j]
            for k in range(j):
                s -= lower[i, k] * lower[j, k]
            if i == j:
                if not s > 1e-300:
                    return False
                lower[i, i] = np.sqrt(s)
            else:
                lower[i, j] = s / lower[j, j]
    for c in range(n):
        for i in range(n):
            s = 1.0 if i == c else 0.0
            for k in range(i):
                s -= lower[i, k] * inverse[k, c]
            inverse[i, c] = s / lower[i, i]
        for i in range(n - 1, -1, -1):
            s = inverse[i, c]
            for k in range(i + 1, n):
                s -= lower[k, i] * inverse[k, c]
            inverse[i, c] = s / lower[i, i]
    return True


@numba.njit(cache=True)
def _others(
    parameters: Floats,
    fitted: NDArray[np.bool_],
    near: NDArray[np.int64],
    n: int,
    c: int,
    r: int,
    halo: float,
) -> float:
    """What the neighbouring spots put into a pixel."""
    total = 0.0
    for m in range(n):
        o = near[m]
        if fitted[o]:
            p = parameters[o]
            u, v = c - p[COL], r - p[ROW]
            det = p[CC] * p[RR] - p[CR] * p[CR]
            q = (p[RR] * u * u - 2.0 * p[CR] * u * v + p[CC] * v * v) / det
            if q < 60.0:
                total += p[FLUX] * _profile(q, 1.0 / (2.0 * np.pi * np.sqrt(det)), halo)[0]
    return total


@numba.njit(cache=True)
def _near(peaks: Floats, s: int, near: NDArray[np.int64]) -> tuple[int, bool]:
    """Put the spots within 30 px of spot ``s`` into ``near``; their number, and whether one is within 8 px."""
    n = 0
    touching = False
    for o in range(len(peaks)):
        du, dv = peaks[o, 0] - peaks[s, 0], peaks[o, 1] - peaks[s, 1]
        if o != s and du * du + dv * dv < 900.0:
            near[n] = o
            n += 1
            touching |= du * du + dv * dv < 64.0
    return n, touching


@numba.njit(cache=True)
def fit_spots(
    residual: Image,
    sigma: Image,
    usable: NDArray[np.bool_],
    peaks: Floats,
    parameters: Floats,
    covariance: Floats,
    quality: Floats,
    gain: float,
    excess: float,
    usual: Floats,
    halo: float,
    fitted: NDArray[np.bool_],
    rounds: int,
) -> None:
    """Fit all spots; touching ones in turn, each on what the others leave.

    Parameters
    ----------
    residual, sigma
        (rows, cols) counts above background, and the standard deviation of a pixel without spots; frame units.
    usable
        (rows, cols) pixels that are neither masked nor saturated.
    peaks
        (n, 2) starting pixels (col, row).
    parameters, covariance, quality
        Filled in: (n, 7), (n, 4) as var col, var row, cov, var of cc + rr, and (n, 4) as sigma of the flux, chi2 per
        degree of freedom,
        share of the spot's light on usable pixels, and 1 if the fit went well.
    gain
        Frame units per photon.
    excess
        Factor on the background's variance for noise that is correlated from pixel to pixel.
    usual
        (4,) usual second moments (cc, rr, cr) of a spot, px^2, and their standard deviation from spot to spot.
    halo
        Share of the photons in the halo.
    fitted
        (n,) which parameters are filled in already, to start from.
    rounds
        How often touching spots are gone through.
    """
    n = len(peaks)
    near = np.empty(n, dtype=np.int64)
    for turn in range(rounds):
        for s in range(n):
            n_near, touching = _near(peaks, s, near)
            # Far neighbours matter little, close ones have to settle with each other.
            if turn > 0 and (n_near == 0 or (turn > 1 and not touching)):
                continue
            _fit_one(
                residual, sigma, usable, peaks, parameters, covariance, quality, gain, excess, usual, halo,
                s, near, n_near, fitted,
            )  # fmt: skip
            fitted[s] = quality[s, 3] > 0.0


@numba.njit(cache=True)
def _fit_one(
    residual: Image,
    sigma: Image,
    usable: NDArray[np.bool_],
    peaks: Floats,
    parameters: Floats,
    covariance: Floats,
    quality: Floats,
    gain: float,
    excess: float,
    usual: Floats,
    halo: float,
    s: int,
    near: NDArray[np.int64],
    n_near: int,
    fitted: NDArray[np.bool_],
) -> None:
    height, width = residual.shape
    p = parameters[s]
    quality[s, 3] = 0.0
    pc, pr = int(peaks[s, 0]), int(peaks[s, 1])
    again = fitted[s]
    if not again:
        top = max(np.float64(residual[pr, pc]), 3.0 * np.float64(sigma[pr, pc]))
        p[COL], p[ROW], p[CC], p[RR], p[CR], p[LEVEL] = pc, pr, usual[0], usual[1], usual[2], 0.0
        p[FLUX] = top * 2.0 * np.pi * np.sqrt(usual[0] * usual[1])
    information = np.empty((7, 7))
    inverse = np.empty((7, 7))
    score = np.empty(7)
    gradient = np.empty(7)
    delta = np.empty(7)
    # Half a pixel's noise; where hardly any photons are, a third of the background itself.
    dark = excess * np.float64(sigma[pr, pc]) ** 2
    background_prior = min(0.25 * dark, 0.1 * (dark / gain) ** 2) + 1e-12
    chi2, used, light, seen = 0.0, 0.0, 0.0, 0.0
    half, c_mid, r_mid = 0, 0, 0
    settled = False
    for step in range(40):
        if step < 12:
            # The window follows the place and the width found so far.
            big = 0.5 * (p[CC] + p[RR]) + np.sqrt(0.25 * (p[CC] - p[RR]) ** 2 + p[CR] ** 2)
            wanted = min(_MAX_HALF, max(4, int(np.ceil(3.2 * np.sqrt(big))) + 2))
            if abs(p[COL] - c_mid) > 0.8 or abs(p[ROW] - r_mid) > 0.8 or abs(wanted - half) > (step > 0):
                half, settled = wanted, False
                c_mid, r_mid = int(np.rint(p[COL])), int(np.rint(p[ROW]))
        det = p[CC] * p[RR] - p[CR] * p[CR]
        a, b, c2 = p[RR] / det, p[CC] / det, -p[CR] / det
        norm = 1.0 / (2.0 * np.pi * np.sqrt(det))
        information[:] = 0.0
        score[:] = 0.0
        chi2, used, light, seen = 0.0, 0.0, 0.0, 0.0
        for r in range(r_mid - half, r_mid + half + 1):
            for c in range(c_mid - half, c_mid + half + 1):
                u, v = c - p[COL], r - p[ROW]
                wu, wv = a * u + c2 * v, c2 * u + b * v
                q = u * wu + v * wv
                g, h = _profile(q, norm, halo)
                light += g
                if r < 0 or c < 0 or r >= height or c >= width or not usable[r, c]:
                    continue
                other = 0.0
                if n_near > 0:
                    if not again:
                        # First round: leave pixels to the spot whose peak is nearer.
                        mine = (c - pc) ** 2 + (r - pr) ** 2
                        foreign = False
                        for m in range(n_near):
                            o = near[m]
                            if not fitted[o] and (c - peaks[o, 0]) ** 2 + (r - peaks[o, 1]) ** 2 < mine:
                                foreign = True
                        if foreign:
                            continue
                    other = _others(parameters, fitted, near, n_near, c, r, halo)
                seen += g
                signal = p[FLUX] * g
                variance = excess * np.float64(sigma[r, c]) ** 2 + gain * max(signal + other + p[LEVEL], 0.0)
                d = np.float64(residual[r, c]) - signal - other - p[LEVEL]
                w = 1.0 / variance
                if q < 9.0:
                    chi2 += d * d * w
                    used += 1.0
                gradient[FLUX] = g
                steep = p[FLUX] * h
                gradient[COL] = steep * wu
                gradient[ROW] = steep * wv
                gradient[CC] = 0.5 * (steep * wu * wu - signal * a)
                gradient[RR] = 0.5 * (steep * wv * wv - signal * b)
                gradient[CR] = steep * wu * wv - signal * c2
                gradient[LEVEL] = 1.0
                for i in range(7):
                    gi = gradient[i] * w
                    score[i] += gi * d
                    for j in range(i + 1):
                        information[i, j] += gi * gradient[j]
        # Priors: moments as usual in this frame, background near the estimate.
        for k in (CC, RR, CR):
            information[k, k] += 1.0 / usual[3] ** 2
            score[k] += (usual[k - CC] - p[k]) / usual[3] ** 2
        information[LEVEL, LEVEL] += 1.0 / background_prior
        score[LEVEL] -= p[LEVEL] / background_prior
        for i in range(7):
            for j in range(i):
                information[j, i] = information[i, j]
        if not _invert(information, inverse, 7):
            return
        if settled:
            break
        change = 0.0
        for i in range(7):
            total = 0.0
            for j in range(7):
                total += inverse[i, j] * score[j]
            delta[i] = total
        # Long steps are cut, all of them together, so that the direction stays.
        scale = 1.0
        reach = 0.5 * np.sqrt(min(p[CC], p[RR])) + 0.3
        for k in (COL, ROW):
            scale = min(scale, reach / max(abs(delta[k]), 1e-12))
        for k in (CC, RR, CR):
            scale = min(scale, 0.5 * np.sqrt(p[CC] * p[RR]) / max(abs(delta[k]), 1e-12))
        if delta[FLUX] < -0.7 * p[FLUX]:
            scale = min(scale, 0.7 * p[FLUX] / -delta[FLUX])
        for k in range(7):
            p[k] += scale * delta[k]
        for k in range(7):
            change = max(change, abs(delta[k]) / np.sqrt(inverse[k, k]))
        p[CC], p[RR] = max(p[CC], 0.1), max(p[RR], 0.1)
        limit = 0.98 * np.sqrt(p[CC] * p[RR])
        p[CR] = min(max(p[CR], -limit), limit)
        if abs(p[COL] - pc) > 4.0 or abs(p[ROW] - pr) > 4.0 or not p[FLUX] > 0.0:
            return
        settled = change < 0.02 and scale == 1.0
    # A misfit beyond chance (the real spot is no Gaussian) widens the errors.
    freedom = max(used - 7.0, 1.0)
    ratio = chi2 / freedom
    inflate = ratio if ratio > 1.0 + 3.0 * np.sqrt(2.0 / freedom) else 1.0
    # The information bound holds for many photons. What simulated spots scatter beyond it at a signal to noise of 5 to 10
    # is followed by the next order in 1 / (S/N)^2, for the noise of the background and for that of the spot itself.
    own = gain / p[FLUX]
    dark = max(inverse[FLUX, FLUX] / p[FLUX] ** 2 - own, 0.0)
    inflate_position = inflate * (1.0 + 6.0 * dark + 4.0 * own)
    covariance[s, 0] = inverse[COL, COL] * inflate_position
    covariance[s, 1] = inverse[ROW, ROW] * inflate_position
    covariance[s, 2] = inverse[COL, ROW] * inflate_position
    covariance[s, 3] = inverse[CC, CC] + inverse[RR, RR] + 2.0 * inverse[CC, RR]
    quality[s, 0] = np.sqrt(inverse[FLUX, FLUX] * inflate)
    quality[s, 1] = ratio
    quality[s, 2] = seen / max(light, 1e-12)
    quality[s, 3] = 1.0


@numba.njit(cache=True)
def deviance(
    residual: Image,
    sigma: Image,
    usable: NDArray[np.bool_],
    peaks: Floats,
    parameters: Floats,
    fitted: NDArray[np.bool_],
    gain: float,
    excess: float,
    halo: float,
    half: int,
) -> float:
    """Poisson deviance of fitted spots in windows of fixed size: differences compare profiles, at few counts too.

    Electronic noise enters as Poisson noise of the same variance. ``half`` is half the window's width; the other
    arguments are those of `fit_spots`.
    """
    height, width = residual.shape
    near = np.empty(len(peaks), dtype=np.int64)
    total = 0.0
    for s in range(len(peaks)):
        if not fitted[s]:
            continue
        n_near, _ = _near(peaks, s, near)
        p = parameters[s]
        det = p[CC] * p[RR] - p[CR] * p[CR]
        norm = 1.0 / (2.0 * np.pi * np.sqrt(det))
        c_mid, r_mid = int(peaks[s, 0]), int(peaks[s, 1])
        for r in range(max(0, r_mid - half), min(height, r_mid + half + 1)):
            for c in range(max(0, c_mid - half), min(width, c_mid + half + 1)):
                if not usable[r, c]:
                    continue
                u, v = c - p[COL], r - p[ROW]
                q = (p[RR] * u * u - 2.0 * p[CR] * u * v + p[CC] * v * v) / det
                light = p[FLUX] * _profile(q, norm, halo)[0] + p[LEVEL]
                light += _others(parameters, fitted, near, n_near, c, r, halo)
                mean = excess * np.float64(sigma[r, c]) ** 2 / gain + max(light, 0.0)
                seen = max(np.float64(residual[r, c]) - light + mean, 0.0)
                total += 2.0 * (mean - seen) / gain
                if seen > 0.0:
                    total += 2.0 * seen * np.log(seen / mean) / gain
    return total
