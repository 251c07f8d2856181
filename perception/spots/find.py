"""Spots in a frame: where they are to a fraction of a pixel, how sure that is, and how many photons they hold.

The frame minus its background is smoothed with two Gaussians; maxima that stand out of the noise are candidates,
fitted by `lauepilot.perception.spots.fit`. The threshold is the value that smoothed Poisson noise exceeds as seldom as a
normal number exceeds so many standard deviations (`lauepilot.perception.spots.levels`): it means the same at 0.001 and at
1000 counts a pixel, where the one is five photons close together and the other a slight swelling.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.observation import SpotList
from lauepilot.perception.spots import search as spotsearch
from lauepilot.perception.spots.background import BackgroundEstimate, Image, estimate_background
from lauepilot.perception.spots.fit import CC, COL, CR, FLUX, ROW, RR, deviance, fit_spots
from lauepilot.perception.spots.levels import tail_levels
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.image import DEFAULT_PROFILE

#: Standard deviations of the smoothing, pixels: near a sharp spot's, and a broad or streaky one's.
FILTER_PX = (1.0, 2.2)

#: Sharper than any point spread that is spread over pixels at all; what is sharper is a hot pixel or a cosmic ray.
_MIN_SIGMA_PX = 0.40
_MAX_SIGMA_PX = 6.5
_MAX_ASPECT = 6.0

#: Steps of the noise for which thresholds are computed in a frame.
_NODES = 24

#: So many of the brightest spots tell how spots look in a frame.
_TELLING = 30
#: Shares of the halo that are tried, the usual one first.
_HALOS = (DEFAULT_PROFILE.halo, 0.5 * DEFAULT_PROFILE.halo, 0.0)
#: Spots are taken to differ in their second moments at least by this share: where a spot falls decides it a little.
_EQUAL = 0.07


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
    live = _live(frame.counts.shape, detector)
    if mask is not None:
        live &= mask
    counts = np.ascontiguousarray(frame.counts, dtype=np.float32)
    if background is None:
        background = estimate_background(counts, live, gain=frame.gain, offset=frame.offset)
    # A point spread far below a pixel puts whole spots into single pixels, which then cannot be told from faults.
    sharp = detector is not None and detector.sensor.point_spread_px < _MIN_SIGMA_PX
    residual, usable, saturated = spotsearch.prepare(
        counts,
        background.level,
        background.sigma,
        live,
        np.float32(frame.saturation),
        np.float32(frame.gain),
        not sharp,
    )
    peaks, excess = _candidates(
        residual, background.sigma, usable, frame.gain, threshold_sigma, background.photon_noise
    )
    if len(peaks) == 0:
        return _empty()
    parameters, covariance, quality = _fit(
        residual, background.sigma, usable & ~saturated, peaks, frame.gain, excess
    )
    if sharp:
        _centroids(residual, background.sigma, peaks, parameters, covariance, quality, frame.gain)
    keep = _believable(peaks, parameters, quality, sharp, frame.gain)
    index = np.flatnonzero(keep)
    index = index[np.argsort(-parameters[index, FLUX], kind="stable")][:max_spots]
    return _spot_list(parameters[index], covariance[index], quality[index], frame.gain, saturated)


def _live(shape: tuple[int, ...], detector: Detector | None) -> NDArray[np.bool_]:
    """`Detector.mask`, looking at the pixels near the blind regions only: it is needed for every frame."""
    live = np.ones(shape, dtype=np.bool_)
    for region in () if detector is None else detector.blind:
        (col, row), (wide, high) = region.centre_px, region.size_px
        left, right = max(0, math.floor(col - wide / 2)), max(0, math.ceil(col + wide / 2) + 1)
        top, bottom = max(0, math.floor(row - high / 2)), max(0, math.ceil(row + high / 2) + 1)
        box = live[top:bottom, left:right]
        rows, cols = np.indices(box.shape)
        box &= ~region.covers(cols + left, rows + top)
    return live


def _candidates(
    residual: Image,
    sigma: Image,
    usable: NDArray[np.bool_],
    gain: float,
    threshold: float,
    photons: bool,
) -> tuple[FloatArray, float]:
    """Pixels (n, 2) of maxima, those of `_telling` first, and the factor on the variance for correlated noise."""
    fine, fine_excess, noise, levels = _score(residual, sigma, usable, gain, threshold, FILTER_PX[0], photons)
    broad, _, _, _ = _score(residual, sigma, usable, gain, threshold, FILTER_PX[1], photons)
    rows, cols = spotsearch.maxima(fine)
    order = np.argsort(-fine[rows, cols], kind="stable")[:20000]
    rows, cols = rows[order], cols[order]
    kept = spotsearch.prominent(fine, sigma, rows, cols, noise, gain * _skew(FILTER_PX[0]), *levels)
    rows, cols = rows[kept], cols[kept]
    first = _telling(fine[rows, cols])
    sharp = np.stack([cols, rows], axis=1)[first]
    # The broad filter joins touching spots: it has a say only where the fine one sees nothing.
    rows, cols = spotsearch.maxima(broad)
    new = np.array(
        [
            fine[max(r - 4, 0) : r + 5, max(c - 4, 0) : c + 5].max() < 1.0
            for r, c in zip(rows, cols, strict=True)
        ],
        dtype=np.bool_,
    )
    return np.concatenate([sharp, np.stack([cols[new], rows[new]], axis=1)]).astype(float), fine_excess


def _telling(heights: Image) -> NDArray[np.int64]:
    """Order (n,) that puts `_TELLING` of the bright maxima first, given their heights (n,) from the highest down.

    Of many that are about as bright the highest would be those that noise favours, and look sharper than spots are.
    """
    n = len(heights)
    if n <= _TELLING:
        return np.arange(n)
    alike = int(np.count_nonzero(heights > 0.5 * heights[5]))
    chosen = np.linspace(0, max(alike, _TELLING) - 1, _TELLING).astype(np.int64)
    return np.concatenate([chosen, np.setdiff1d(np.arange(len(heights)), chosen)])


def _score(
    residual: Image,
    sigma: Image,
    usable: NDArray[np.bool_],
    gain: float,
    threshold: float,
    width: float,
    photons: bool,
) -> tuple[Image, float, float, tuple[np.float32, np.float32, Image]]:
    """The smoothed image over its threshold, the factor on the variance, the noise in sigmas, and the table of levels."""
    taps = _taps(width)
    smooth = np.empty_like(residual)
    spotsearch.smooth(residual, taps, smooth)
    noise = math.sqrt(float((_kernel(width) ** 2).sum()))
    # Real sensors spread one photon's signal over pixels, which smoothing cannot average away.
    measured = _scatter(smooth, sigma, usable) / noise
    factor = measured if measured > 1.05 else 1.0
    low, high = float(sigma.min()), float(sigma.max())
    nodes = np.linspace(low, max(high, 1.001 * low + 1e-9), _NODES)
    if photons:
        table = gain * tail_levels(_kernel(width), (nodes * factor / gain) ** 2, threshold)
    else:
        table = threshold * noise * factor * nodes + (threshold**2 - 1.0) / 6.0 * gain * _skew(width)
    levels = np.float32(nodes[0]), np.float32(1.0 / (nodes[1] - nodes[0])), table.astype(np.float32)
    spotsearch.normalise(smooth, sigma, *levels)
    return smooth, factor**2, noise * factor, levels


def _kernel(width: float) -> FloatArray:
    """The smoothing as an image (n, n) of sum one."""
    taps = _taps(width).astype(float)
    return np.outer(np.r_[taps[:0:-1], taps], np.r_[taps[:0:-1], taps])


def _skew(width: float) -> float:
    """Third over second moment of the smoothing: how far one photon reaches above the noise."""
    kernel = _kernel(width)
    return float((kernel**3).sum() / (kernel**2).sum())


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
    """Parameters (n, 7), covariances (n, 4) and qualities (n, 4) as in `fit_spots`."""
    n = len(peaks)
    parameters, covariance, quality = np.zeros((n, 7)), np.zeros((n, 4)), np.zeros((n, 4))
    fitted = np.zeros(n, dtype=np.bool_)

    def fit(those: slice, usual: FloatArray, halo: float, rounds: int = 1) -> None:
        fit_spots(
            residual, sigma, usable, peaks[those], parameters[those], covariance[those], quality[those], gain, excess,
            usual, halo, fitted[those], rounds,
        )  # fmt: skip

    # Bright spots tell how spots look here: first nearly free, then under what they have in common.
    bright = slice(0, _TELLING)
    usual = np.array([1.5**2, 1.5**2, 0.0, 1.5**2])
    half = math.ceil(3.0 * math.sqrt(usual[0]))
    misfits = []
    for share in _HALOS:
        fit(bright, usual, share)
        good = quality[bright, 3] > 0.0
        misfits.append(
            deviance(
                residual, sigma, usable, peaks[bright], parameters[bright], good, gain, excess, share, half
            )
        )
    # The usual profile stands unless another is better beyond doubt.
    halo = _HALOS[int(np.argmin(misfits))] if min(misfits) < misfits[0] - 6.0 else _HALOS[0]
    for _ in range(2):
        fit(bright, usual, halo)
        usual = _usual(parameters[bright], covariance[bright], quality[bright], usual)
    fit(slice(0, n), usual, halo, 12)
    return parameters, covariance, quality


def _usual(
    parameters: FloatArray, covariance: FloatArray, quality: FloatArray, before: FloatArray
) -> FloatArray:
    """What spots (n) fitted under the prior ``before`` say of the usual second moments and their scatter (4,).

    Each spot's own moments are had back by taking the prior out of its fit; medians bear blends and faulty pixels.
    """
    good = (quality[:, 3] > 0) & (parameters[:, FLUX] > 4.0 * quality[:, 0])
    if np.count_nonzero(good) < 3:
        return before
    p = parameters[good]
    # Half of the trace: its prior variance, and what the photons alone would have left it.
    prior = 0.5 * before[3] ** 2
    posterior = np.minimum(0.25 * covariance[good, 3], 0.98 * prior)
    own = posterior * prior / (prior - posterior)
    mean = before[0] + (0.5 * (p[:, CC] + p[:, RR]) - before[0]) * (prior + own) / prior
    weight = 1.0 / (own + (0.1 * before[0]) ** 2)
    order = np.argsort(mean)
    level = np.cumsum(weight[order]) / weight.sum()
    middle = float(np.clip(mean[order][np.searchsorted(level, 0.5)], 0.3, 16.0))
    stretch = (0.25 * (p[:, CC] - p[:, RR]) ** 2 + p[:, CR] ** 2) * ((prior + own) / prior) ** 2
    # Of squares of one and of two normal numbers the medians are 0.455 and 1.386 variances.
    wide = np.median((mean - middle) ** 2 / 0.455 - own)
    streaky = np.median(stretch / 1.386 - own)
    scatter = math.sqrt(2.0 * max(float(wide), float(streaky), (_EQUAL * middle) ** 2))
    return np.array([middle, middle, 0.0, min(scatter, middle)])


def _centroids(
    residual: Image,
    sigma: Image,
    peaks: FloatArray,
    parameters: FloatArray,
    covariance: FloatArray,
    quality: FloatArray,
    gain: float,
) -> None:
    """Replace fits of spots that fill hardly more than a pixel, where a Gaussian has no width to be fitted.

    The centroid of 3 x 3 pixels stands in; where in its pixel such a spot lies is not known (variance 1/12).
    """
    height, width = residual.shape
    for s, (col, row) in enumerate(peaks.astype(int)):
        area = parameters[s, CC] * parameters[s, RR] - parameters[s, CR] ** 2
        if quality[s, 3] > 0 and area > 0.25 and parameters[s, FLUX] > 3.0 * quality[s, 0]:
            continue
        window = np.s_[max(0, row - 1) : min(height, row + 2), max(0, col - 1) : min(width, col + 2)]
        light = residual[window].astype(float)
        variance = sigma[window].astype(float) ** 2 + gain * np.maximum(light, 0.0)
        rows, cols = np.mgrid[window]
        flux = float(light.sum())
        if flux <= 0.0:
            continue
        c, r = float((light * cols).sum() / flux), float((light * rows).sum() / flux)
        parameters[s] = (
            flux,
            np.clip(c, col - 1, col + 1),
            np.clip(r, row - 1, row + 1),
            1 / 12,
            1 / 12,
            0.0,
            0.0,
        )
        du, dv = cols - c, rows - r
        spread = np.array(
            [(du * du * variance).sum(), (dv * dv * variance).sum(), (du * dv * variance).sum()]
        )
        covariance[s, :3] = spread / flux**2 + np.array([1 / 12, 1 / 12, 0.0])
        quality[s] = np.sqrt(variance.sum()), 1.0, 1.0, 1.0


def _believable(
    peaks: FloatArray, parameters: FloatArray, quality: FloatArray, sharp: bool, gain: float
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
    # The spot's own photons scatter only where there is a spot: what could have made it is the noise without them.
    dark = np.sqrt(np.maximum(quality[:, 0] ** 2 - gain * parameters[:, FLUX], 0.1 * quality[:, 0] ** 2))
    keep = (quality[:, 3] > 0) & (parameters[:, FLUX] > 3.0 * dark) & seen & near
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
