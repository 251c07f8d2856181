"""Smooth background of a frame and its noise, whatever spots lie on it.

The frame is cut into blocks; in each, the mean and the variance of the pixels are taken after repeated clipping around
the median (as in SExtractor: Bertin & Arnouts 1996, A&AS 117, 393). Blocks that lie wholly on a spot or a blind region
take over their neighbours' value. Between the middles of blocks both are linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lauepilot.simulator.frame import FrameError

Image = NDArray[np.float32]

# Variance left inside +-3 standard deviations of a normal distribution.
_KEPT_VARIANCE = 0.9733

#: Photons a pixel below which the frame is summed in bins first.
FEW_PHOTONS = 0.1


@dataclass(frozen=True, eq=False)
class BackgroundEstimate:
    """Background and noise of each pixel, in the frame's units.

    Attributes
    ----------
    level
        (rows, cols) expected counts without spots.
    sigma
        (rows, cols) standard deviation of a pixel without spots.
    photon_noise
        True if the scatter agrees with the frame's gain and offset, and sigma was taken from these;
        False if it is the measured local scatter.
    """

    level: Image
    sigma: Image
    photon_noise: bool


def estimate_background(
    counts: NDArray[np.number],
    mask: NDArray[np.bool_] | None = None,
    *,
    gain: float = 1.0,
    offset: float = 0.0,
    block_px: int | None = None,
) -> BackgroundEstimate:
    """Background of a frame.

    Parameters
    ----------
    counts
        Pixels (rows, cols) in the sensor's units.
    mask
        (rows, cols), True where the sensor sees; None if it does everywhere.
    gain, offset
        Units per photon, and at no photon. They are believed only if the frame's own scatter agrees.
    block_px
        Width of a block. None: 32, and less for frames smaller than 256 pixels, never below 16.
        It must be large against spots and small against the background's features.

    Raises
    ------
    FrameError
        If the shapes do not fit, or fewer than 16 pixels are alive.
    """
    if counts.ndim != 2 or (mask is not None and mask.shape != counts.shape):
        came = None if mask is None else mask.shape
        raise FrameError(
            f"Background: wanted a 2-D frame and a mask of its shape; counts {counts.shape}, mask {came} came. "
            "Use Detector.mask() of the detector with which the frame was taken."
        )
    live = (
        np.ones(counts.shape, dtype=np.bool_) if mask is None else np.ascontiguousarray(mask, dtype=np.bool_)
    )
    block = block_px or int(np.clip(min(counts.shape) // 8, 16, 32))
    rows, cols = _edges(counts.shape[0], block), _edges(counts.shape[1], block)
    image = np.ascontiguousarray(counts, dtype=np.float32)
    bins = 1 if block_px else _bins(image, live, gain, offset)
    if bins > 1:
        return _of_few_photons(image, live, gain, offset, bins)
    level, variance, number = _block_statistics(image, live, rows, cols, np.float32(gain))
    usable = number >= 16
    if not usable.any():
        raise FrameError(
            f"Background: only {int(live.sum())} pixels of the frame are alive. Check the mask and the blind regions."
        )
    level, variance = _repair(level, variance, usable)
    photon_noise, variance = _noise(level, variance, number, gain, offset)
    level_image, sigma_image = _upsample(level, variance, *_weights(rows), *_weights(cols))
    return BackgroundEstimate(level_image, sigma_image, photon_noise)


def _bins(image: Image, live: NDArray[np.bool_], gain: float, offset: float) -> int:
    """Width in pixels of the bins that hold about a photon each, if pixels hardly ever do; else 1.

    A block of pixels without photons has no statistics, and a faint spot of a few photons cannot be clipped from it.
    """
    mean = (float(image.mean(where=live, dtype=np.float64)) - offset) / gain if live.any() else 0.0
    if not 0.0 < mean < FEW_PHOTONS:
        return 1
    return int(max(1, min(math.ceil(math.sqrt(1.0 / mean)), min(image.shape) // 48)))


def _of_few_photons(
    image: Image, live: NDArray[np.bool_], gain: float, offset: float, bins: int
) -> BackgroundEstimate:
    """`estimate_background` of the frame summed in bins, brought back to pixels; only bins that are wholly live count."""
    rows, cols = (n // bins for n in image.shape)
    cut = np.s_[: rows * bins, : cols * bins]
    coarse = image[cut].reshape(rows, bins, cols, bins).sum(axis=(1, 3))
    whole = live[cut].reshape(rows, bins, cols, bins).all(axis=(1, 3))
    if np.count_nonzero(whole) < 16:
        return estimate_background(image, live, gain=gain, offset=offset, block_px=32)
    block = max(4, min(rows, cols) // 8)
    down, across = _edges(rows, block), _edges(cols, block)
    level, variance, number = _block_statistics(coarse, np.asarray(whole), down, across, np.float32(gain))
    usable = number >= 8
    if not usable.any():
        return estimate_background(image, live, gain=gain, offset=offset, block_px=32)
    level, variance = _repair(level, variance, usable)
    photon_noise, variance = _noise(level, variance, number, gain, offset * bins**2)
    spans = [down * bins, across * bins]
    for span, n in zip(spans, image.shape, strict=True):
        span[-1] = n
    level_image, sigma_image = _upsample(
        level / bins**2, variance / bins**2, *_weights(spans[0]), *_weights(spans[1])
    )
    return BackgroundEstimate(level_image, sigma_image, photon_noise)


def _edges(length: int, block: int) -> NDArray[np.int64]:
    return np.linspace(0, length, max(1, round(length / block)) + 1).round().astype(np.int64)


def _repair(
    level: NDArray[np.float64], variance: NDArray[np.float64], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fill blocks without pixels from the nearest, and bring down blocks that stand out from their neighbours."""
    if not usable.all():
        nearest = ndimage.distance_transform_edt(~usable, return_distances=False, return_indices=True)
        level, variance = level[tuple(nearest)], variance[tuple(nearest)]
    around = ndimage.median_filter(level, size=3, mode="nearest")
    spread = 1.4826 * ndimage.median_filter(np.abs(level - around), size=5, mode="nearest")
    # Upwards only: a block full of spot is bright, while the edge of a shadow is real. The square root of the variance
    # guards grids without any spread.
    high = level - around > np.maximum(6.0 * spread, 0.3 * np.sqrt(variance))
    calm = ndimage.median_filter(variance, size=3, mode="nearest")
    return np.where(high, around, level), np.where(high, calm, variance)


def _noise(
    level: NDArray[np.float64],
    variance: NDArray[np.float64],
    number: NDArray[np.int64],
    gain: float,
    offset: float,
) -> tuple[bool, NDArray[np.float64]]:
    """Photon noise plus a constant (electronics, rounding) if the measured variance follows it; else that, smoothed."""
    photon = gain * np.maximum(level - offset, 0.0)
    electronics = max(float(np.median(variance - photon)), 0.0)
    model = photon + electronics
    smooth = ndimage.uniform_filter(variance, size=3, mode="nearest")
    # Relative error of a variance from n pixels, of Poisson numbers of mean m: (2 + 1/m) / n; nine blocks together.
    expected = np.maximum(model / gain**2, 1e-9)
    tolerance = 0.15 + 3.0 * np.sqrt((2.0 + 1.0 / expected) / np.maximum(9.0 * number, 1.0))
    agrees = np.abs(smooth - model) < tolerance * np.maximum(model, 1e-12)
    if np.mean(agrees) > 0.75 and np.any(model > 0):
        floor = max(float(model[model > 0].min()), 1e-6 * gain**2)
        return True, np.maximum(model, floor)
    positive = smooth[smooth > 0]
    # A frame whose clipped scatter is nil everywhere (whole numbers, hardly any counts): the rounding remains.
    floor = float(np.percentile(positive, 5)) if positive.size else gain**2 / 12.0
    return False, np.maximum(smooth, floor)


def _weights(edges: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For every pixel the block whose middle lies before it, and its share of the next; straight on beyond the last."""
    middles = (edges[:-1] + edges[1:] - 1) / 2.0
    position = np.arange(edges[-1], dtype=float)
    if len(middles) == 1:
        return np.zeros(len(position), dtype=np.int64), np.zeros(len(position), dtype=np.float32)
    index = np.clip(np.searchsorted(middles, position, side="right") - 1, 0, len(middles) - 2)
    share = (position - middles[index]) / (middles[index + 1] - middles[index])
    return index.astype(np.int64), share.astype(np.float32)


@numba.njit(cache=True)
def _middle(values: Image, n: int) -> Any:
    """The median of the first ``n`` values, which are put in another order (Hoare's selection)."""
    k = n // 2
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@numba.njit(cache=True, fastmath=True)
def _clipped(values: Image, start: np.float32, low: np.float32, high: np.float32) -> tuple[int, float, float]:
    """Number, mean and mean square of the differences from ``start`` that lie between ``low`` and ``high``."""
    total = np.float32(0.0)
    squares = np.float32(0.0)
    kept = np.float32(0.0)
    for k in range(len(values)):
        d = values[k] - start
        inside = np.float32(1.0) if (d >= low) & (d <= high) else np.float32(0.0)
        d *= inside
        total += d
        squares += d * d
        kept += inside
    number = max(kept, np.float32(1.0))
    return int(kept), float(total / number), float(squares / number)


@numba.njit(cache=True)
def _block_statistics(
    image: Image,
    live: NDArray[np.bool_],
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    gain: np.float32,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    n_row, n_col = len(rows) - 1, len(cols) - 1
    level = np.zeros((n_row, n_col))
    variance = np.zeros((n_row, n_col))
    number = np.zeros((n_row, n_col), dtype=np.int64)
    values = np.empty((rows[1] - rows[0] + 1) * (cols[1] - cols[0] + 1) * 2, dtype=np.float32)
    sample = np.empty_like(values)
    for i in range(n_row):
        for j in range(n_col):
            n = 0
            for r in range(rows[i], rows[i + 1]):
                for c in range(cols[j], cols[j + 1]):
                    if live[r, c]:
                        values[n] = image[r, c]
                        n += 1
            if n < 16:
                continue
            # Every fourth pixel is enough for the start.
            step = 4 if n >= 256 else 1
            m = 0
            for k in range(0, n, step):
                sample[m] = values[k]
                m += 1
            middle = _middle(sample, m)
            for k in range(m):
                sample[k] = abs(sample[k] - middle)
            # Half a photon more: where most pixels hold none, the median and its deviation are nil.
            spread = 1.4826 * _middle(sample, m) + 0.5 * gain
            centre = np.float64(middle)
            kept = n
            for _ in range(5):
                start = np.float32(centre)
                kept, mean, square = _clipped(
                    values[:n], start, np.float32(-3.0 * spread - gain), np.float32(3.0 * spread + 2.0 * gain)
                )
                if kept < 8:
                    break
                centre += mean
                new = np.sqrt(max(square - mean * mean, 0.0))
                settled = abs(new - spread) < 5e-3 * spread and abs(mean) < 5e-3 * spread
                spread = new
                if settled:
                    break
            level[i, j] = centre
            # Wide bounds (few photons) cut nothing; normal ones cut the tails beyond three deviations.
            variance[i, j] = spread * spread / (_KEPT_VARIANCE if spread > 5.0 * gain else 1.0)
            number[i, j] = kept
    return level, variance, number


@numba.njit(cache=True)
def _upsample(
    level: NDArray[np.float64],
    variance: NDArray[np.float64],
    row_index: NDArray[np.int64],
    row_share: NDArray[np.float32],
    col_index: NDArray[np.int64],
    col_share: NDArray[np.float32],
) -> tuple[Image, Image]:
    height, width = len(row_index), len(col_index)
    level_out = np.empty((height, width), dtype=np.float32)
    sigma_out = np.empty((height, width), dtype=np.float32)
    n_col = level.shape[1]
    level_row = np.empty(n_col, dtype=np.float32)
    variance_row = np.empty(n_col, dtype=np.float32)
    floor = np.float32(0.5 * variance.min())
    for r in range(height):
        i, t = row_index[r], row_share[r]
        k = min(i + 1, level.shape[0] - 1)
        for j in range(n_col):
            level_row[j] = (1 - t) * level[i, j] + t * level[k, j]
            variance_row[j] = (1 - t) * variance[i, j] + t * variance[k, j]
        for c in range(width):
            j, s = col_index[c], col_share[c]
            m = min(j + 1, n_col - 1)
            level_out[r, c] = (np.float32(1) - s) * level_row[j] + s * level_row[m]
            v = (np.float32(1) - s) * variance_row[j] + s * variance_row[m]
            sigma_out[r, c] = np.sqrt(max(v, floor))
    return level_out, sigma_out
