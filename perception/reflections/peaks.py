"""Peaks in counts along a path, and spots in the frames of a sweep."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import scipy.optimize
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import FloatArray

#: How often chance alone may make one bin, or one pixel, look like a peak.
FALSE_ALARM = 1e-7


@dataclass(frozen=True)
class Peak:
    """A peak in counts along one axis.

    Attributes
    ----------
    centre, sigma
        Its middle and the middle's standard deviation, units of the axis.
    width
        Standard deviation of its flanks.
    area
        Counts above background times the bin's width.
    top
        Counts above background in the highest bin, as fitted.
    """

    centre: float
    sigma: float
    width: float
    area: float
    top: float


@dataclass(frozen=True)
class FrameSpot:
    """A spot in a sweep's frames: pixel (col, row) and frame number (centres of gravity), counts above background."""

    pixel: tuple[float, float]
    frame: float
    counts: float


def bright_bins(counts: ArrayLike, background: float) -> NDArray[np.int64]:
    """Bins (m,) whose counts (n,) exceed what a background of so many a bin would do by chance."""
    values = np.asarray(counts, dtype=float)
    limit = scipy.stats.poisson.isf(FALSE_ALARM, max(background, 1e-3))
    return np.flatnonzero(values > limit)


def usual_background(counts: ArrayLike) -> float:
    """Background in a bin of a long path that is mostly empty: the mean of what is not far above it."""
    values = np.asarray(counts, dtype=float)
    level = float(np.median(values)) + 0.3
    for _ in range(5):
        kept = values[values <= scipy.stats.poisson.isf(1e-4, level)]
        level = max(float(kept.mean()) if len(kept) else 0.0, 0.02)
    return level


def fit_peak(x: ArrayLike, counts: ArrayLike, *, box: float = 0.0) -> Peak | None:
    """The one peak in ``counts`` (n,) at ``x`` (n,), or None if there is none, or it runs out of the range.

    Parameters
    ----------
    x, counts
        Middle of each bin, in even steps, and what was counted.
    box
        Half of the width of a flat top whose flanks are normal (an aperture's acceptance); 0 for a normal peak.
    """
    place, values = np.asarray(x, dtype=float), np.asarray(counts, dtype=float)
    step = float(place[1] - place[0])
    smooth = scipy.ndimage.uniform_filter1d(values, 3, mode="nearest")
    background = float(np.mean(np.sort(values)[: max(len(values) // 4, 2)]))
    if len(bright_bins(3.0 * smooth, 3.0 * (background + 0.3))) == 0:
        return None
    net = np.maximum(smooth - background - 2.0 * np.sqrt(background + 0.5), 0.0)
    # Only the stretch around the highest bin: another reflection may stand beside it.
    island, _ = scipy.ndimage.label(net > 0.0)
    here = island == island[int(np.argmax(net))]
    if net[here].sum() <= 0.0:
        return None
    middle = float(np.average(place[here], weights=net[here]))
    spread = float(np.sqrt(np.average((place[here] - middle) ** 2, weights=net[here])))
    start = [middle, max(spread if box == 0.0 else 0.3 * box, 0.5 * step), float(net.max()), background]
    near = np.abs(place - middle) <= max(4.0 * spread, 3.0 * abs(step)) + box
    if near.sum() < 5:
        return None

    def shape(x: FloatArray, c: float, s: float, a: float, b: float) -> FloatArray:
        s = abs(s) + 1e-6
        if box == 0.0:
            return np.asarray(a * np.exp(-0.5 * ((x - c) / s) ** 2) + b)
        edges = [scipy.special.ndtr((x - c + sign * box) / s) for sign in (1.0, -1.0)]
        return np.asarray(a * (edges[0] - edges[1]) + b)

    try:
        with warnings.catch_warnings():
            # A flat bottom of the fit shows as an infinite covariance, which is asked for below.
            warnings.simplefilter("ignore", scipy.optimize.OptimizeWarning)
            found, covariance = scipy.optimize.curve_fit(
                shape, place[near], values[near], start, sigma=np.sqrt(values[near] + 1.0), absolute_sigma=True, maxfev=400
            )  # fmt: skip
    except (RuntimeError, ValueError):
        return None
    centre, width, top, floor = (float(v) for v in found)
    if not place[0] < centre < place[-1] or top <= 0.0 or not np.isfinite(covariance[0, 0]):
        return None
    area = float(np.sum(values[near] - floor)) * abs(step)
    return Peak(centre, float(np.sqrt(covariance[0, 0])), abs(width), area, top)


def frame_spots(frames: NDArray[np.uint32]) -> list[FrameSpot]:
    """Spots in the frames (n, rows, cols) of a sweep, brightest first; one that lasts several frames is one spot."""
    values = frames.astype(np.float32)
    level = max(float(np.mean(np.minimum(values, 3.0))), 1e-4)
    sums = scipy.ndimage.uniform_filter(values, size=(1, 3, 3), mode="constant") * 9.0
    limit = float(scipy.stats.poisson.isf(1e-3 * FALSE_ALARM, 9.0 * level))
    islands, n = scipy.ndimage.label(sums > limit, structure=np.ones((3, 3, 3), dtype=int))
    spots = []
    for part in scipy.ndimage.find_objects(islands) if n else []:
        inside = values[part]
        total = float(inside.sum() - level * inside.size)
        if total <= 0.0:
            continue
        index = np.indices(inside.shape).reshape(3, -1)
        weight = inside.ravel() / float(inside.sum())
        frame, row, col = (float(index[k] @ weight) + part[k].start for k in range(3))
        spots.append(FrameSpot((col, row), frame, total))
    return sorted(spots, key=lambda spot: -spot.counts)
