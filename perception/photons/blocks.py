"""A frame summed over small blocks of pixels: which of them stand out of the background."""

from __future__ import annotations

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from scipy import ndimage

from lauepilot.simulator.conventions import FloatArray

#: Pixels along an edge of a block.
BLOCK = 4

#: Chance that any clump of a frame is called one though it is background.
BY_CHANCE = 0.01


def block_sums(
    col: NDArray[np.int64], row: NDArray[np.int64], weight: FloatArray, shape: tuple[int, int]
) -> FloatArray:
    """Sums (rows, cols) over blocks of what pixels of a frame of ``shape`` hold."""
    rows, cols = (-(-n // BLOCK) for n in shape)
    block = (row // BLOCK) * cols + col // BLOCK
    return np.asarray(
        np.bincount(block, weights=weight, minlength=rows * cols).reshape(rows, cols), dtype=float
    )


def live_pixels_of_blocks(live: NDArray[np.bool_]) -> FloatArray:
    """Number (rows, cols) of live pixels in each block."""
    rows, cols = (-(-n // BLOCK) for n in live.shape)
    padded = np.zeros((rows * BLOCK, cols * BLOCK))
    padded[: live.shape[0], : live.shape[1]] = live
    return np.asarray(padded.reshape(rows, BLOCK, cols, BLOCK).sum(axis=(1, 3)))


def block_middles(shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Column and row (each flat) of the blocks' middles, pixels."""
    rows, cols = (-(-n // BLOCK) for n in shape)
    down, across = np.divmod(np.arange(rows * cols), cols)
    return BLOCK * across + 0.5 * (BLOCK - 1), BLOCK * down + 0.5 * (BLOCK - 1)


def with_neighbours(image: FloatArray) -> FloatArray:
    """Each block (rows, cols) with its eight neighbours: a spot spreads over three."""
    return np.asarray(9.0 * ndimage.uniform_filter(image, 3, mode="constant"))


def standing_out(counts: FloatArray, expected: FloatArray, most: int) -> NDArray[np.int64]:
    """Flat indices of the blocks above their expectation that stand out most with their neighbours."""
    around, usual = with_neighbours(counts), with_neighbours(expected)
    above = (counts > expected) & (around > usual)
    standing = np.where(above, (around - usual) / np.sqrt(usual + 0.5), -np.inf).ravel()
    order = np.argsort(-standing, kind="stable")[:most]
    return order[standing[order] > 0.0]


def unexplained(left: FloatArray, expected: FloatArray) -> float:
    """Photons above expectation in clumps of a kind that chance makes once in a hundred frames."""
    around, usual = with_neighbours(left), np.maximum(with_neighbours(expected), 1e-9)
    # The quantile of one in millions lies beyond three standard deviations: few blocks need it worked out.
    maybe = np.flatnonzero((around >= 3.0) & (around > usual + 3.0 * np.sqrt(usual)) & (left > expected))
    usual, around = usual.flat[maybe], around.flat[maybe]
    clump = around >= scipy.stats.poisson.isf(BY_CHANCE / left.size, usual) + 1.0
    return float((left.flat[maybe] - expected.flat[maybe])[clump].sum())
