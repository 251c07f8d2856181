"""A detector as photons see it: what is live, what share of a spot is seen, and what backgrounds look like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtr

from lauepilot.perception.photons.scene import CELL, Photons
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.image import DEFAULT_PROFILE
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.spots_shape import SpotProfile, instrument_covariances

#: Pixels beyond the sensor's edge where spots still spill in.
PAD = 24

#: Widths of the domes of which a background may be made, over that of the instrument's own.
DOMES = (0.5, 1.0, 2.0)


@dataclass(frozen=True, eq=False)
class Film:
    """A detector with its dead pixels.

    Attributes
    ----------
    detector
        Pose and shape.
    live
        (rows, cols), True where it counts.
    visible
        (rows + 2 PAD, cols + 2 PAD): share of a spot at each pixel that falls on live ones.
    norms
        (k,) sums over the live pixels of the parts of the background.
    cells
        (k, cells) share of each part in cells of `CELL` pixels.
    widest
        Bound on the variance (pixels squared) that beam and sample add to the point spread of spots on the sensor.
    """

    detector: Detector
    live: NDArray[np.bool_]
    visible: NDArray[np.float32]
    norms: FloatArray
    cells: FloatArray
    widest: float

    @classmethod
    def build(
        cls,
        instrument: Instrument,
        dead: NDArray[np.bool_] | None = None,
        profile: SpotProfile = DEFAULT_PROFILE,
    ) -> Film:
        """The first detector of an instrument; ``dead`` (rows, cols) adds to its blind regions."""
        detector = instrument.detector
        live = detector.mask()
        if dead is not None:
            live &= ~dead
        rows, cols = detector.shape
        lines = (np.linspace(0, n - 1, 15) for n in (cols, rows))
        grid = np.stack(np.meshgrid(*lines), axis=-1).reshape(-1, 2)
        covariances = instrument_covariances(instrument, detector.pixels_to_rays(grid))
        # A fifth more for what lies between the grid's points and for a pose that is refined.
        widest = 1.2 * float(covariances.max() - detector.sensor.point_spread_px**2)
        padded = np.zeros((rows + 2 * PAD, cols + 2 * PAD), dtype=np.float32)
        padded[PAD:-PAD, PAD:-PAD] = live
        middle = detector.pixels_to_rays(np.array([[0.3 * (cols - 1), 0.3 * (rows - 1)]]))
        core = float(np.trace(instrument_covariances(instrument, middle)[0])) / 2.0 * profile.core_scale
        visible = (1.0 - profile.halo) * ndimage.gaussian_filter(padded, np.sqrt(core), truncate=4.5)
        visible += profile.halo * ndimage.gaussian_filter(padded, profile.width * np.sqrt(core), truncate=4.5)
        across, down = -(-cols // CELL), -(-rows // CELL)
        row, col = np.nonzero(live)
        cells = np.zeros((len(DOMES) + 1, across * down))
        for k, part in enumerate(_parts(detector, np.stack([col, row], axis=1).astype(float))):
            cells[k] = np.bincount(
                (row // CELL) * across + col // CELL, weights=part, minlength=across * down
            )
        norms = cells.sum(axis=1)
        return cls(detector, live, visible.astype(np.float32), norms, cells / norms[:, None], widest)

    def base(self, shares: FloatArray, col: FloatArray, row: FloatArray) -> FloatArray:
        """Share (n,) of the background in pixels, for ``shares`` (k,) of its parts."""
        centre, scale = _dome(self.detector)
        return np.asarray(_mixed(shares / self.norms, col, row, *centre, *scale))

    def fit(self, cell_counts: FloatArray, start: FloatArray | None = None) -> FloatArray:
        """Shares (k,) of the parts that explain photons by cell (cells,), a photon each put in beforehand."""
        k = len(self.cells)
        seen = np.flatnonzero(cell_counts > 0.0)
        shares = np.full(k, 1.0 / k) if start is None else start
        return np.asarray(_shares(np.ascontiguousarray(self.cells[:, seen].T), cell_counts[seen], shares))

    def fit_frame(self, cell_counts: FloatArray) -> tuple[FloatArray, float]:
        """`fit` for a frame whose spots are not known yet, and the background's photons: cells that stand out are cut."""
        shares = self.fit(cell_counts)
        level = float(cell_counts.sum())
        for _ in range(4):
            expected = level * (shares @ self.cells)
            cut = np.minimum(cell_counts, expected + 2.0 * np.sqrt(expected) + 0.5)
            level = float(cut.sum())
            shares = self.fit(cut, shares)
        return shares, level

    def cell_sums(self, counts: NDArray[np.number]) -> FloatArray:
        """Photons (cells,) of a frame (rows, cols)."""
        across, down = -(-counts.shape[1] // CELL), -(-counts.shape[0] // CELL)
        return _by_cell(np.asarray(counts, dtype=float), across, down)


def _by_cell(image: FloatArray, across: int, down: int) -> FloatArray:
    padded = np.zeros((down * CELL, across * CELL))
    padded[: image.shape[0], : image.shape[1]] = image
    return np.asarray(padded.reshape(down, CELL, across, CELL).sum(axis=(1, 3)).ravel())


def _dome(detector: Detector) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre (col, row) of a background's domes, and pixels over their width, along columns and rows."""
    own = detector.background
    middle = (0.5 * (detector.shape[1] - 1), 0.5 * (detector.shape[0] - 1))
    centre = middle if own.centre_px is None else own.centre_px
    scale = [size / own.dome_width_mm for size in detector.pixel_mm]
    return (float(centre[0]), float(centre[1])), (scale[0], scale[1])


def _parts(detector: Detector, pixels: FloatArray) -> FloatArray:
    """The parts (k, n) of a background at pixels (n, 2): flat, then domes as `Background` has them."""
    centre, scale = _dome(detector)
    x, y = ((pixels[:, i] - centre[i]) * scale[i] for i in range(2))
    squared = x * x + y * y
    return np.stack([np.ones(len(pixels)), *((1.0 + squared / w**2) ** -1.5 for w in DOMES)])


@njit(cache=True)
def _mixed(
    heights: FloatArray,
    col: FloatArray,
    row: FloatArray,
    centre_col: float,
    centre_row: float,
    scale_col: float,
    scale_row: float,
) -> FloatArray:
    """The sum (n,) of the parts of `_parts`, each so high."""
    out = np.empty(col.size)
    for p in range(col.size):
        x, y = (col[p] - centre_col) * scale_col, (row[p] - centre_row) * scale_row
        squared = x * x + y * y
        value = heights[0]
        for k in range(len(DOMES)):
            t = 1.0 + squared / DOMES[k] ** 2
            value += heights[k + 1] / (t * math.sqrt(t))
        out[p] = value
    return out


@njit(cache=True)
def _shares(parts: FloatArray, counts: FloatArray, start: FloatArray) -> FloatArray:
    """Shares (k,) of the highest likelihood of counts (n,) that are mixtures of ``parts`` (n, k), by Newton's method.

    Maximised is ``sum counts log(parts shares) + sum log shares - (total + k) sum shares``, which is concave, and highest
    where the shares add up to one.
    """
    n, k = parts.shape
    s = start.copy()
    weight = counts.sum() + k
    value = -np.inf
    for _ in range(50):
        slope, curve = 1.0 / s - weight, np.diag(1.0 / s**2)
        value = np.log(s).sum() - weight * s.sum()
        for i in range(n):
            mean = 0.0
            for a in range(k):
                mean += s[a] * parts[i, a]
            value += counts[i] * math.log(mean)
            ratio = counts[i] / mean
            for a in range(k):
                slope[a] += ratio * parts[i, a]
                for b in range(a + 1):
                    curve[a, b] += ratio / mean * parts[i, a] * parts[i, b]
        for a in range(k):
            for b in range(a):
                curve[b, a] = curve[a, b]
        step = np.linalg.solve(curve, slope)
        gain = (step * slope).sum()
        if gain < 1e-4:
            break
        length = 1.0
        for a in range(k):
            if step[a] < 0.0:
                length = min(length, -0.95 * s[a] / step[a])
        for _ in range(20):
            new = s + length * step
            reached = np.log(new).sum() - weight * new.sum()
            for i in range(n):
                mean = 0.0
                for a in range(k):
                    mean += new[a] * parts[i, a]
                reached += counts[i] * math.log(mean)
            if reached > value:
                break
            length *= 0.3
        s = new
    return np.asarray(s / s.sum())


def listed(
    col: NDArray[np.int64] | FloatArray,
    row: NDArray[np.int64] | FloatArray,
    count: FloatArray,
    base: FloatArray,
    shape: tuple[int, int],
    total: float,
) -> Photons:
    """Photons sorted by cell; ``total`` counts those of pixels that are not listed too."""
    across, down = -(-shape[1] // CELL), -(-shape[0] // CELL)
    cell = (row // CELL).astype(np.int64) * across + (col // CELL).astype(np.int64)
    if np.any(cell[1:] < cell[:-1]):
        order = np.argsort(cell, kind="stable")
        cell, col, row, count, base = cell[order], col[order], row[order], count[order], base[order]
    starts = np.searchsorted(cell, np.arange(across * down + 1))
    return Photons(
        np.ascontiguousarray(col, dtype=float), np.ascontiguousarray(row, dtype=float),
        np.ascontiguousarray(count, dtype=float), np.ascontiguousarray(base, dtype=float),
        starts.astype(np.int64), across, down, float(total),
    )  # fmt: skip


#: Light of two opposite neighbours over their middle's, least: of a spot with a standard deviation of 0.6 pixels.
PAIR = 0.3


def lone_pixels(counts: NDArray[np.number], core_px: float) -> NDArray[np.bool_]:
    """Pixels (rows, cols) that are brighter than any spot's middle could be beside its neighbours: hot ones, cosmic rays.

    ``core_px`` is the standard deviation of the sharpest spot. Four standard deviations of the share that the middle
    takes of the nine pixels around it have to be passed, and five photons.
    """
    edge = ndtr(np.array([0.5, 1.5]) / core_px)
    share = float(((2.0 * edge[0] - 1.0) / (2.0 * edge[1] - 1.0)) ** 2)
    return np.asarray(_lone(np.ascontiguousarray(counts, dtype=float), share))


@njit(cache=True)
def _lone(image: FloatArray, share: float) -> NDArray[np.bool_]:
    rows, cols = image.shape
    out = np.zeros(image.shape, np.bool_)
    for i in range(rows):
        for j in range(cols):
            if image[i, j] < 5.0:
                continue
            nine = 0.0
            for k in range(max(i - 1, 0), min(i + 2, rows)):
                for m in range(max(j - 1, 0), min(j + 2, cols)):
                    nine += image[k, m]
            out[i, j] = image[i, j] > 1.2 * share * nine + 4.0 * math.sqrt(share * max(nine, 0.0))
    return out


@njit(cache=True)
def track_pixels(counts: FloatArray) -> NDArray[np.bool_]:
    """Pixels (rows, cols) of bright things one pixel wide: tracks of cosmic rays, of which none is the only bright pixel.

    However sharp, a spot spreads to the left and right of its middle, and up and down: a track, whichever way it runs,
    leaves one of these two pairs dark. The darkest of four lines two pixels off counts as background.
    """
    rows, cols = counts.shape
    out = np.zeros(counts.shape, np.bool_)
    for i in range(2, rows - 2):
        for j in range(2, cols - 2):
            if counts[i, j] < 30.0:
                continue
            up, down, left, right = 0.0, 0.0, 0.0, 0.0
            for k in range(-2, 3):
                up += 0.2 * counts[i - 2, j + k]
                down += 0.2 * counts[i + 2, j + k]
                left += 0.2 * counts[i + k, j - 2]
                right += 0.2 * counts[i + k, j + 2]
            dark = min(up, down, left, right)
            middle = counts[i, j] - dark
            if middle <= 0.0:
                continue
            pair = min(counts[i, j - 1] + counts[i, j + 1], counts[i - 1, j] + counts[i + 1, j]) - 2.0 * dark
            least = PAIR * middle
            out[i, j] = pair < least - 4.0 * math.sqrt(max(least, 0.0) + 4.0 * dark)
    return out
