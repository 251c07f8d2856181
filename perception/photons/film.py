"""A detector as photons see it: what is live, what share of a spot is seen, and what backgrounds look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtr

from lauepilot.perception.photons.spread import CELL, Photons
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
    """

    detector: Detector
    live: NDArray[np.bool_]
    visible: NDArray[np.float32]
    norms: FloatArray
    cells: FloatArray

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
        return cls(detector, live, visible.astype(np.float32), norms, cells / norms[:, None])

    def base(self, shares: FloatArray, col: FloatArray, row: FloatArray) -> FloatArray:
        """Share (n,) of the background in pixels, for ``shares`` (k,) of its parts."""
        return np.asarray((shares / self.norms) @ _parts(self.detector, np.stack([col, row], axis=1)))

    def fit(self, cell_counts: FloatArray, start: FloatArray | None = None) -> FloatArray:
        """Shares (k,) of the parts that explain photons by cell (cells,), by EM; a photon each is put in beforehand."""
        k = len(self.cells)
        shares = np.full(k, 1.0 / k) if start is None else start
        seen = np.flatnonzero(cell_counts > 0.0)
        parts, counts = self.cells[:, seen], cell_counts[seen]
        for _ in range(80):
            mixed = shares[:, None] * parts
            weight = counts / np.maximum(mixed.sum(axis=0), 1e-300)
            new = 1.0 + mixed @ weight
            new /= new.sum()
            done = np.abs(new - shares).max() < 1e-5
            shares = new
            if done:
                break
        return shares

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


def _parts(detector: Detector, pixels: FloatArray) -> FloatArray:
    """The parts (k, n) of a background at pixels (n, 2): flat, then domes as `Background` has them."""
    own = detector.background
    middle = (0.5 * (detector.shape[1] - 1), 0.5 * (detector.shape[0] - 1))
    centre = middle if own.centre_px is None else own.centre_px
    x, y = ((pixels[:, i] - centre[i]) * detector.pixel_mm[i] for i in range(2))
    squared = (x * x + y * y) / own.dome_width_mm**2
    return np.stack([np.ones(len(pixels)), *((1.0 + squared / w**2) ** -1.5 for w in DOMES)])


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
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(across * down + 1))
    return Photons(
        np.ascontiguousarray(col[order], dtype=float), np.ascontiguousarray(row[order], dtype=float),
        np.ascontiguousarray(count[order], dtype=float), np.ascontiguousarray(base[order], dtype=float),
        starts.astype(np.int64), across, down, float(total),
    )  # fmt: skip


def lone_pixels(counts: NDArray[np.number], core_px: float) -> NDArray[np.bool_]:
    """Pixels (rows, cols) that are brighter than any spot's middle could be beside its neighbours: hot ones, cosmic rays.

    ``core_px`` is the standard deviation of the sharpest spot. Four standard deviations of the share that the middle
    takes of the nine pixels around it have to be passed, and five photons.
    """
    image = np.asarray(counts, dtype=float)
    nine = 9.0 * ndimage.uniform_filter(image, 3, mode="constant")
    edge = ndtr(np.array([0.5, 1.5]) / core_px)
    share = float(((2.0 * edge[0] - 1.0) / (2.0 * edge[1] - 1.0)) ** 2)
    return np.asarray(
        (image >= 5.0) & (image > 1.2 * share * nine + 4.0 * np.sqrt(share * np.maximum(nine, 0.0)))
    )
