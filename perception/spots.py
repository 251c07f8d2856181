"""Spots in a frame: where they are to a fraction of a pixel, how sure that is, and how many photons they hold.

The frame minus its background is smoothed with two Gaussians; maxima that stand out of the noise are candidates,
fitted by `lauepilot.perception.spotfit`. The threshold is in standard deviations of the smoothed noise, with the skewness
of few photons allowed for (Cornish & Fisher 1938), so that it means the same at 0.01 and at 1000 counts a pixel.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lauepilot.perception.background import BackgroundEstimate, Image, estimate_background
from lauepilot.perception.observation import SpotList
from lauepilot.perception.spotfit import CC, COL, CR, FLUX, ROW, RR, fit_spots
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.frame import Frame

#: Standard deviations of the smoothing, pixels: near a sharp spot's, and a broad or streaky one's.
FILTER_PX = (1.0, 2.2)

#: Sharper than any point spread that is spread over pixels at all; what is sharper is a hot pixel or a cosmic ray.
_MIN_SIGMA_PX = 0.40
_MAX_SIGMA_PX = 6.5
_MAX_ASPECT = 6.0


def find_spots(
    frame: Frame,
    detector: Detector | None = None,
    mask: NDArray[np.bool_] | None = None,
    *,
    threshold_sigma: float = 5.3,
    max_spots: int = 1000,
    background: BackgroundEstimate | None = None,
) -> SpotList:
    """Find the spots of a frame.

    Parameters
    ----------
    frame
        Its gain and offset turn units into photons; if the frame's scatter contradicts them (a real image
        whose gain nobody knows), the noise is measured from the frame.
    detector
        Its blind regions are left out, its point spread decides whether single bright pixels are faults.
    mask
        (rows, cols), True where pixels may be used; together with the detector's.
    threshold_sigma
        Candidates stand out of the smoothed noise by so many standard deviations.
        At 5.3, a frame of four million pixels without spots gives about 0.3 in the mean.
    max_spots
        Only so many of the brightest are kept.
    background
        If it is known already.

    Returns
    -------
    SpotList
        Brightest first; empty if there are none. Positions are 0-based pixels, ``counts`` are photons (units / gain).
        Saturated pixels are left out of the fit and the spot is flagged; its position's error grows accordingly.

    Raises
    ------
    FrameError
        If the frame is of another shape than the detector, holds NaN, no counts, or is saturated all over.
    """
    frame.check(None if detector is None else detector.shape)
    live = np.ones(frame.counts.shape, dtype=np.bool_) if detector is None else detector.mask()
    if mask is not None:
        live &= mask
    counts = np.ascontiguousarray(frame.counts, dtype=np.float32)
    if background is None:
        background = estimate_background(counts, live, gain=frame.gain, offset=frame.offset)
    # A point spread far below a pixel puts whole spots into single pixels, which then cannot be told from faults.
    sharp = detector is not None and detector.sensor.point_spread_px < _MIN_SIGMA_PX
    residual, usable, saturated = _prepare(
        counts, background.level, background.sigma, live, np.float32(frame.saturation), not sharp
    )
    peaks, excess = _candidates(residual, background.sigma, usable, frame.gain, threshold_sigma)
    if len(peaks) == 0:
        return _empty()
    parameters, covariance, quality = _fit(
        residual, background.sigma, usable & ~saturated, peaks, frame.gain, excess
    )
    keep = _believable(peaks, parameters, quality, sharp)
    index = np.flatnonzero(keep)
    index = index[np.argsort(-parameters[index, FLUX], kind="stable")][:max_spots]
    return _spot_list(parameters[index], covariance[index], quality[index], frame.gain, saturated)


def _candidates(
    residual: Image, sigma: Image, usable: NDArray[np.bool_], gain: float, threshold: float
) -> tuple[FloatArray, float]:
    """Pixels (n, 2) of maxima, highest first, and the factor on the variance for correlated noise."""
    fine, fine_excess, noise, skew = _score(residual, sigma, usable, gain, threshold, FILTER_PX[0])
    broad, _, _, _ = _score(residual, sigma, usable, gain, threshold, FILTER_PX[1])
    rows, cols = _maxima(fine)
    order = np.argsort(-fine[rows, cols], kind="stable")[:20000]
    rows, cols = rows[order], cols[order]
    kept = _prominent(fine, sigma, rows, cols, threshold, noise, gain * skew)
    sharp = np.stack([cols[kept], rows[kept]], axis=1)
    # The broad filter joins touching spots: it has a say only where the fine one sees nothing.
    rows, cols = _maxima(broad)
    new = ndimage.maximum_filter(fine, size=9)[rows, cols] < 1.0 if len(rows) else np.zeros(0, dtype=np.bool_)
    return np.concatenate([sharp, np.stack([cols[new], rows[new]], axis=1)]).astype(float), fine_excess


def _score(
    residual: Image, sigma: Image, usable: NDArray[np.bool_], gain: float, threshold: float, width: float
) -> tuple[Image, float, float, float]:
    """The smoothed image over its threshold; the factor on the variance, the noise in sigmas, and the skewness."""
    taps = _taps(width)
    smooth = np.empty_like(residual)
    _smooth(residual, taps, smooth)
    kernel = np.outer(np.r_[taps[:0:-1], taps], np.r_[taps[:0:-1], taps]).astype(float)
    noise = math.sqrt(float((kernel**2).sum()))
    skew = float((kernel**3).sum() / (kernel**2).sum())
    # Real sensors spread one photon's signal over pixels, which smoothing cannot average away.
    measured = _scatter(smooth, sigma, usable) / noise
    factor = measured if measured > 1.05 else 1.0
    photon = (threshold**2 - 1.0) / 6.0 * gain * skew
    _normalise(smooth, sigma, np.float32(threshold * noise * factor), np.float32(photon))
    return smooth, factor**2, noise * factor, skew


def _taps(width: float) -> Image:
    """Half of a normalised Gaussian kernel, from its middle."""
    taps = np.exp(-0.5 * (np.arange(math.ceil(2.5 * width) + 1) / width) ** 2)
    return np.asarray(taps / (2.0 * taps.sum() - taps[0]), dtype=np.float32)


def _scatter(smooth: Image, sigma: Image, usable: NDArray[np.bool_]) -> float:
    """Robust standard deviation of the smoothed image in units of the pixels' noise."""
    step = max(1, smooth.size // 60000)
    # An odd stride, so that the sample does not run down one column.
    pick = slice(None, None, step | 1)
    values = (smooth.ravel()[pick] / sigma.ravel()[pick])[usable.ravel()[pick]]
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if values.size else 0.0


def _fit(
    residual: Image, sigma: Image, usable: NDArray[np.bool_], peaks: FloatArray, gain: float, excess: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Parameters (n, 7), covariances (n, 3) and qualities (n, 4) as in `fit_spots`."""
    n = len(peaks)
    parameters, covariance, quality = np.zeros((n, 7)), np.zeros((n, 3)), np.zeros((n, 4))
    # The brightest tell how wide spots are here.
    first = slice(0, 30)
    width2 = 1.5**2
    fit_spots(
        residual, sigma, usable, peaks[first], parameters[first], covariance[first], quality[first], gain, excess,
        width2, 1,
    )  # fmt: skip
    good = (quality[first, 3] > 0) & (parameters[first, FLUX] > 15.0 * quality[first, 0])
    if np.count_nonzero(good) >= 3:
        area = parameters[first, CC] * parameters[first, RR] - parameters[first, CR] ** 2
        width2 = float(np.clip(np.sqrt(np.median(area[good])), 0.3, 9.0))
    fit_spots(residual, sigma, usable, peaks, parameters, covariance, quality, gain, excess, width2, 12)
    return parameters, covariance, quality


def _believable(
    peaks: FloatArray, parameters: FloatArray, quality: FloatArray, sharp: bool
) -> NDArray[np.bool_]:
    """Which fits (n,) are spots: no lines, no edges, no single pixels, not the same one twice."""
    half = 0.5 * (parameters[:, CC] + parameters[:, RR])
    root = np.sqrt(0.25 * (parameters[:, CC] - parameters[:, RR]) ** 2 + parameters[:, CR] ** 2)
    major = np.sqrt(np.maximum(half + root, 0.0))
    minor = np.sqrt(np.maximum(half - root, 0.0))
    near = np.max(np.abs(parameters[:, [COL, ROW]] - peaks), axis=1, initial=0.0) < np.maximum(
        2.0, 0.8 * major
    )
    # Where most of the light falls on saturated or blind pixels the wings must settle the fit.
    seen = (quality[:, 2] > 0.25) | ((quality[:, 2] > 0.02) & (parameters[:, FLUX] > 8.0 * quality[:, 0]))
    keep = (quality[:, 3] > 0) & (parameters[:, FLUX] > 3.0 * quality[:, 0]) & seen & near
    keep &= (major < _MAX_SIGMA_PX) & (sharp | ((minor > _MIN_SIGMA_PX) & (major < _MAX_ASPECT * minor)))
    order = np.argsort(-parameters[:, FLUX], kind="stable")
    for position, s in enumerate(order):
        if not keep[s]:
            continue
        rest = order[position + 1 :]
        distance = np.hypot(*(parameters[rest][:, [COL, ROW]] - parameters[s, [COL, ROW]]).T)
        keep[rest[distance < max(1.0, 0.7 * float(minor[s]))]] = False
    return np.asarray(keep)


def _empty() -> SpotList:
    none = np.zeros(0)
    return SpotList(np.zeros((0, 2)), np.zeros((0, 2, 2)), none, none.copy(), np.zeros(0, dtype=np.bool_))


def _spot_list(
    parameters: FloatArray,
    covariance: FloatArray,
    quality: FloatArray,
    gain: float,
    saturated: NDArray[np.bool_],
) -> SpotList:
    n = len(parameters)
    matrices = np.empty((n, 2, 2))
    matrices[:, 0, 0], matrices[:, 1, 1] = covariance[:, 0], covariance[:, 1]
    matrices[:, 0, 1] = matrices[:, 1, 0] = covariance[:, 2]
    flags = np.zeros(n, dtype=np.bool_)
    height, width = saturated.shape
    for i, p in enumerate(parameters):
        reach_c, reach_r = 2.0 * math.sqrt(p[CC]) + 0.5, 2.0 * math.sqrt(p[RR]) + 0.5
        top, left = max(0, math.floor(p[ROW] - reach_r)), max(0, math.floor(p[COL] - reach_c))
        bottom, right = (
            min(height, math.ceil(p[ROW] + reach_r) + 1),
            min(width, math.ceil(p[COL] + reach_c) + 1),
        )
        flags[i] = bool(saturated[top:bottom, left:right].any())
    return SpotList(
        pixels=parameters[:, [COL, ROW]].copy(),
        covariance_px2=matrices,
        counts=parameters[:, FLUX] / gain,
        counts_sigma=quality[:, 0] / gain,
        saturated=flags,
    )


# ------------------------------------------------------------------------------------------------------- kernels


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _prepare(
    counts: Image, level: Image, sigma: Image, live: NDArray[np.bool_], saturation: np.float32, reject: bool
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
            if -8.0 * s < e < 6.0 * s:
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


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _smooth(image: Image, taps: Image, out: Image) -> None:
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


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _normalise(smooth: Image, sigma: Image, per_sigma: np.float32, photon: np.float32) -> None:
    """Divide the smoothed image by its threshold."""
    height, width = smooth.shape
    for r in range(height):
        for c in range(width):
            smooth[r, c] /= per_sigma * sigma[r, c] + photon


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _maxima(score: Image) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _prominent(
    score: Image,
    sigma: Image,
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    threshold: float,
    noise: float,
    photon: float,
) -> NDArray[np.bool_]:
    """Which maxima, highest first, are parted by a valley deeper than noise from every higher one within 14 pixels."""
    n = len(rows)
    keep = np.ones(n, dtype=np.bool_)
    for s in range(n):
        r, c = rows[s], cols[s]
        own = np.float64(score[r, c])
        unit = threshold * noise * np.float64(sigma[r, c]) + (threshold * threshold - 1.0) / 6.0 * photon
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
