"""Quick frames of a batch of games: spots found or coarse image, and a belief that stands in for the indexer's."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.envs.align.coding import image_bytes
from lauepilot.envs.align.hint import chain, times
from lauepilot.envs.align.state import (
    CONFIDENCE,
    EXPECTED,
    FOUND,
    FRAMES,
    HAS_BELIEF,
    INDEXED,
    SIGMA,
    Games,
    Stage,
    draw_normal,
    draw_poisson,
    draw_uniform,
    small_turn,
    true_u,
)
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.image import add_spot
from lauepilot.simulator.kernels import PackedDetector, trace_pattern
from lauepilot.simulator.poisson import WORDS, poisson

# Measured on frames of silicon, quartz and Ca2RuO4 on the camera ``lab``, 0.05 to 20 s; tests/envs/test_batch.py looks
# at it again.
#: Photons that the fit of a spot finds over those in it: its halo's end stays in the background.
FITTED = 0.93
#: Variance of centroids over that of a plain normal spot: the core is narrower than the whole profile.
CENTROID = 0.6
#: Worst direction's error of an orientation, over one spot's normal's by the square root of their weights: the detector's
#: pose is fitted with it, and takes most of the information.
INDEX_ERROR = 11.8

_BYTES = image_bytes(np.arange(4096))

#: Most rays that one pattern may show.
CAPACITY = 4096


@njit(cache=True)
def _normal_of(s: Stage, col: float, row: float, out: FloatArray) -> float:
    """Plane normal (3,) of a pixel, on the detector as believed; returns the distance to the pixel in mm."""
    d = s.detector
    x, y = (col - d.centre_col) * d.pixel_col_mm, (row - d.centre_row) * d.pixel_row_mm
    n = d.distance_mm
    if d.cylinder:
        x, n = d.distance_mm * math.sin(x / d.distance_mm), d.distance_mm * math.cos(x / d.distance_mm)
    length = math.sqrt(x * x + y * y + n * n)
    r = d.rotation
    for i in range(3):
        out[i] = (r[i, 0] * x + r[i, 1] * y + r[i, 2] * n) / length
    out[2] -= 1.0
    size = math.sqrt(out[0] ** 2 + out[1] ** 2 + out[2] ** 2)
    for i in range(3):
        out[i] /= size
    return length


@njit(cache=True)
def expose(
    s: Stage, g: Games, i: int, seconds: float, want_image: bool, work: FloatArray, image: FloatArray
) -> None:
    """A frame of game ``i``: spots found, or the coarse image, and belief.

    ``work`` (rays,) and ``image`` (h, w) are scratch.
    """
    k = g.zero.shape[1]
    z, u, columns = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, k))
    true_u(g, i, z, columns, u)
    d = s.detector
    pose = PackedDetector(
        d.cylinder, g.rotation[i], g.pose[i, 2], g.pose[i, 0], g.pose[i, 1],
        d.pixel_col_mm, d.pixel_row_mm, d.cols, d.rows, d.blind,
    )  # fmt: skip
    ray, pixel, rates = np.empty(CAPACITY, np.int64), np.empty((CAPACITY, 2)), np.empty(CAPACITY)
    n = trace_pattern(
        u, s.directions, s.rate, s.s_min, s.s_step, pose, s.polarisation, True, work, ray, pixel, rates
    )
    rows, cols = s.background.shape
    f_row, f_col = d.rows / rows, d.cols / cols
    if want_image:
        for r in range(rows):
            for c in range(cols):
                image[r, c] = s.coarse_background[r, c] * g.background[i] * seconds
    found = 0
    weight = 0.0
    counts = np.empty(CAPACITY)
    spread = np.empty(CAPACITY)
    for m in range(n):
        col, row = pixel[m, 0], pixel[m, 1]
        r = min(max(int((row + 0.5) / f_row), 0), rows - 1)
        c = min(max(int((col + 0.5) / f_col), 0), cols - 1)
        v_col, cross, v_row = s.covariance[r, c, 0], s.covariance[r, c, 1], s.covariance[r, c, 2]
        expected = rates[m] * seconds * g.power[i]
        if want_image:
            # Spots are a fraction of a coarse pixel: neither their slant nor their halo shows.
            add_spot(
                image, (col + 0.5) / f_col - 0.5, (row + 0.5) / f_row - 0.5, v_col / f_col**2, 0.0, v_row / f_row**2,
                expected, 0.0, 1.0,
            )  # fmt: skip
        # A matched filter's noise: the background under 4 pi sigma^2.
        area = 4.0 * math.pi * math.sqrt(max(v_col * v_row - cross * cross, 1e-6))
        noise2 = s.background[r, c] * g.background[i] * seconds * area + s.floor
        limit = s.detect * math.sqrt(noise2)
        if expected < 0.3 * limit:
            continue
        photons = draw_poisson(g, i, expected, s.tables) + math.sqrt(noise2) * draw_normal(g, i)
        if photons < limit:
            continue
        variance = CENTROID * 0.5 * (v_col + v_row) * (1.0 / photons + 2.0 * noise2 / photons**2)
        # Never better than a twentieth of a pixel, as `on_sphere` has it.
        variance = max(variance, 0.0025)
        counts[found] = FITTED * photons
        spread[found] = math.sqrt(variance)
        pixel[found, 0] = col + spread[found] * draw_normal(g, i)
        pixel[found, 1] = row + spread[found] * draw_normal(g, i)
        weight += 1.0 / variance
        found += 1
    g.clock[i] += seconds + s.readout_s
    g.dose[i] += seconds
    g.exposure[i] = seconds
    g.counters[i, FRAMES] += 1
    g.counters[i, FOUND] = found
    if want_image:
        _count(image, g.image[i], g.place[i], g.step[i], s.tables)
        g.place[i] += np.uint64(WORDS) * g.step[i] * np.uint64(image.size)
    else:
        _write_spots(s, g, i, found, counts, spread, pixel)
    _believe(s, g, i, found, weight, u)


@njit(cache=True)
def _count(
    image: FloatArray, out: NDArray[np.uint8], place: np.uint64, step: np.uint64, tables: NDArray[np.uint64]
) -> None:
    """Poisson numbers of the rates ``image`` (h, w) as bytes ``out`` (h, w, 1)."""
    jump = np.uint64(WORDS) * step
    top = _BYTES.size - 1
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            photons = poisson(image[r, c], place, step, tables)
            place += jump
            out[r, c, 0] = (
                _BYTES[photons] if photons <= top else np.uint8(min(11.0 * math.log2(1.0 + photons), 255.0))
            )


@njit(cache=True)
def _write_spots(
    s: Stage, g: Games, i: int, found: int, counts: FloatArray, spread: FloatArray, pixel: FloatArray
) -> None:
    rows, cols = s.background.shape
    normal = np.empty(3)
    out = g.spots[i]
    out[:, :] = 0.0
    order = np.argsort(-counts[:found])
    for m in range(min(found, out.shape[0])):
        j = order[m]
        col, row = pixel[j, 0], pixel[j, 1]
        length = _normal_of(s, col, row, normal)
        r = min(max(int((row + 0.5) * rows / s.detector.rows), 0), rows - 1)
        c = min(max(int((col + 0.5) * cols / s.detector.cols), 0), cols - 1)
        # A plane normal turns by half of what the ray does.
        own = 0.5 * spread[j] * math.sqrt(s.detector.pixel_col_mm * s.detector.pixel_row_mm) / length
        for a in range(3):
            out[m, a] = normal[a]
        out[m, 3] = min(math.log1p(counts[j]) / math.log(1e6), 1.0)
        out[m, 4] = min(math.degrees(math.sqrt(own * own + s.pose_sigma[r, c] ** 2)), 1.0)
        out[m, 5] = 1.0


@njit(cache=True)
def _believe(s: Stage, g: Games, i: int, found: int, weight: float, u: FloatArray) -> None:
    """The stand-in of the indexer: the truth with an error that fits the spots, or, with few spots, a false one."""
    k = g.zero.shape[1]
    confidence = 1.0 / (1.0 + math.exp(-(found - s.indexed_spots)))
    right = draw_uniform(g, i) < confidence
    d = s.detector
    per_px = 0.5 * math.sqrt(d.pixel_col_mm * d.pixel_row_mm) / d.distance_mm
    sigma = math.sqrt(INDEX_ERROR**2 * per_px**2 / max(weight, 1e-9) + s.pose_floor**2)
    g.counters[i, HAS_BELIEF] = 1 if found >= 4 else 0
    if found < 4:
        return
    error, seen, z, columns = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, k))
    # The belief states its worst direction; all three together err about as much.
    size = sigma / math.sqrt(3.0) if right else 1.0
    small_turn(size * draw_normal(g, i), size * draw_normal(g, i), size * draw_normal(g, i), error)
    times(error, u, seen)
    chain(s.axes.directions, g.position[i], z, columns)
    for r in range(3):
        for c in range(3):
            g.believed[i, r, c] = z[0, r] * seen[0, c] + z[1, r] * seen[1, c] + z[2, r] * seen[2, c]
    g.belief[i, CONFIDENCE] = confidence
    g.belief[i, INDEXED] = found if right else found // 3
    g.belief[i, EXPECTED] = found
    g.belief[i, SIGMA] = sigma
    for a in range(k):
        g.belief_at[i, a] = g.position[i, a]
