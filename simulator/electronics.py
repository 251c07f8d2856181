"""From expected photons to what the sensor's electronics hand out: counting noise, gain, faults of pixels, clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.detector import Sensor
from lauepilot.simulator.poisson import WORDS, Stream, new_stream, normal, poisson

AduArray = NDArray[np.uint16] | NDArray[np.uint32]

#: Mean signal of a pixel that a cosmic ray crosses, in photons, and the longest track in pixels.
ZINGER_PHOTONS, ZINGER_PIXELS = 500.0, 8


@dataclass(frozen=True, eq=False)
class FixedPattern:
    """Pixels of one sensor that are always wrong.

    Attributes
    ----------
    hot
        Flat indices (n,) of pixels that are never darker than ``hot_adu`` (n,).
    hot_adu
        Units they show at least.
    dead
        Flat indices (m,) of pixels that show zero.
    """

    hot: NDArray[np.int64]
    hot_adu: NDArray[np.float64]
    dead: NDArray[np.int64]


@lru_cache(maxsize=16)
def fixed_pattern(shape: tuple[int, int], sensor: Sensor, seed: int) -> FixedPattern:
    """The faulty pixels of the sensor (rows, cols) with serial number ``seed``; hot ones spread over the range's decades."""
    rng = np.random.default_rng(seed)
    size = shape[0] * shape[1]
    n_hot, n_dead = (int(rng.binomial(size, share)) for share in (sensor.hot_fraction, sensor.dead_fraction))
    places = rng.choice(size, size=n_hot + n_dead, replace=False)
    top = largest_adu(sensor)
    return FixedPattern(places[:n_hot], top * 10.0 ** rng.uniform(-1.5, 0.0, n_hot), places[n_hot:])


@njit(cache=True)
def digitise(
    expected: NDArray[np.float32],
    out: AduArray,
    gain: float,
    offset: float,
    noise: float,
    top: float,
    position: np.uint64,
    step: np.uint64,
    tables: NDArray[np.uint64],
) -> np.uint64:
    """Fill ``out`` (n,) with units for the expected photons (n,); returns the stream's position after them.

    ``top`` is the largest unit; the rest is `Sensor` and `lauepilot.simulator.poisson.Stream`.
    """
    jump = step * np.uint64(WORDS)
    for i in range(expected.size):
        value = offset + gain * poisson(np.float64(expected[i]), position, step, tables)
        if noise > 0.0:
            value += noise * normal(position + step + step)
        out[i] = np.int64(min(max(value, 0.0), top) + 0.5)
        position += jump
    return position


def empty_frames(shape: tuple[int, ...], sensor: Sensor) -> AduArray:
    """Memory for frames of the sensor: uint16 up to 16 bits, else uint32."""
    if sensor.bit_depth <= 16:
        return np.empty(shape, dtype=np.uint16)
    return np.empty(shape, dtype=np.uint32)


def read_out(
    expected: NDArray[np.float32],
    sensor: Sensor,
    seconds: float,
    rng: np.random.Generator,
    pattern: FixedPattern | None = None,
) -> AduArray:
    """One frame (rows, cols) in units: uint16 up to 16 bits, else uint32.

    Parameters
    ----------
    expected
        Photons expected in each pixel (rows, cols), finite and not negative.
    sensor
        The electronics.
    seconds
        Exposure, for the number of zingers.
    rng
        Seeds the counting noise.
    pattern
        Faulty pixels; None for a sensor without.
    """
    out = empty_frames(expected.shape, sensor)
    stream: Stream = new_stream(rng)
    top = largest_adu(sensor)
    flat = out.reshape(-1)
    digitise(
        np.ascontiguousarray(expected).reshape(-1),
        flat,
        sensor.gain_adu,
        sensor.offset_adu,
        sensor.readout_noise_adu,
        top,
        *stream,
    )
    if sensor.zingers_per_s > 0.0:
        _add_zingers(out, sensor, seconds, top, rng)
    if pattern is not None:
        flat[pattern.hot] = np.maximum(flat[pattern.hot], pattern.hot_adu.astype(out.dtype))
        flat[pattern.dead] = 0
    return out


def _add_zingers(out: AduArray, sensor: Sensor, seconds: float, top: float, rng: np.random.Generator) -> None:
    """Cosmic rays: short straight tracks, exponential in brightness."""
    rows, cols = out.shape
    for _ in range(int(rng.poisson(sensor.zingers_per_s * seconds))):
        along = np.arange(rng.integers(1, ZINGER_PIXELS + 1))
        angle = rng.uniform(0.0, math.pi)
        row = np.rint(rng.uniform(-0.5, rows - 0.5) + along * math.sin(angle)).astype(np.int64)
        col = np.rint(rng.uniform(-0.5, cols - 0.5) + along * math.cos(angle)).astype(np.int64)
        inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
        row, col = row[inside], col[inside]
        value = out[row, col] + sensor.gain_adu * rng.exponential(ZINGER_PHOTONS, size=row.size)
        out[row, col] = np.minimum(value, top).astype(out.dtype)


def largest_adu(sensor: Sensor) -> float:
    """Largest unit that a pixel can show: its saturation, or what its bits hold."""
    return float(math.floor(min(sensor.saturation_adu, 2.0**sensor.bit_depth - 1.0)))
