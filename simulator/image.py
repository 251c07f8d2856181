"""From spots to the photons that each pixel is expected to count.

Spots are stamped with the profile integrated over each pixel, so that narrow spots keep their photons and their centre,
and stamps that hang over the sensor's edge are clipped, not dropped. `reference_image` does the same slowly.

The kernels `add_spot` and `add_spots` work on any float image and may be called from other kernels.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Background, Detector, Region
from lauepilot.simulator.spots_shape import SpotProfile

DEFAULT_PROFILE = SpotProfile()

#: Stamps end here, in standard deviations: 7e-6 of a normal is left out.
_REACH = 4.5
_CELLS_PER_SIGMA = 512
_NDTR = np.asarray(ndtr(np.arange(-6 * _CELLS_PER_SIGMA, 6 * _CELLS_PER_SIGMA + 1) / _CELLS_PER_SIGMA))


@njit(cache=True, inline="always")
def _cdf(x: float) -> float:
    """Normal distribution function by linear interpolation, to 1.2e-7; an erf for each pixel edge would cost ten times."""
    t = (min(max(x, -5.99), 5.99) + 6.0) * _CELLS_PER_SIGMA
    i = int(t)
    low = _NDTR[i]
    return float(low + (_NDTR[i + 1] - low) * (t - i))


@njit(cache=True)
def _add_normal(
    image: NDArray[np.floating],
    col: float,
    row: float,
    c_col: float,
    c_cross: float,
    c_row: float,
    amount: float,
) -> None:
    """Add a pixel-integrated normal of covariance ((c_col, c_cross), (c_cross, c_row)) and sum ``amount``.

    Pixels are cut into strips along the axis with the larger variance. A strip's mass is exact; across it the normal is
    the conditional one at the strip's middle, widened by the shift of its mean within the strip. One strip a pixel is
    exact without correlation; with it, strips are made thin enough for the shift.
    """
    by_row = c_row >= c_col
    outer, inner = (row, col) if by_row else (col, row)
    n_outer, n_inner = (image.shape[0], image.shape[1]) if by_row else (image.shape[1], image.shape[0])
    var_outer, var_inner = (c_row, c_col) if by_row else (c_col, c_row)
    var_outer, var_inner = max(var_outer, 1e-4), max(var_inner, 1e-4)
    slope = c_cross / var_outer
    s_outer = math.sqrt(var_outer)
    var_strip = max(var_inner - slope * c_cross, 1e-4)
    strips = 1
    if slope != 0.0:
        strips = min(64, 1 + int(2.5 * abs(slope) / math.sqrt(var_strip) * max(1.0, 0.7 / s_outer)))
    height = 1.0 / strips
    s_strip = math.sqrt(var_strip + (slope * height) ** 2 / 12.0)
    inverse_outer, inverse_strip = 1.0 / s_outer, 1.0 / s_strip
    first = max(0, math.floor(outer - _REACH * s_outer + 0.5))
    last = min(n_outer - 1, math.floor(outer + _REACH * s_outer + 0.5))
    for o in range(first, last + 1):
        edge = o - 0.5 - outer
        below = _cdf(edge * inverse_outer)
        for k in range(strips):
            above = _cdf((edge + (k + 1) * height) * inverse_outer)
            mass = (above - below) * amount
            below = above
            mean = inner + slope * (edge + (k + 0.5) * height)
            start = max(0, math.floor(mean - _REACH * s_strip + 0.5))
            stop = min(n_inner - 1, math.floor(mean + _REACH * s_strip + 0.5))
            left = _cdf((start - 0.5 - mean) * inverse_strip)
            for i in range(start, stop + 1):
                right = _cdf((i + 0.5 - mean) * inverse_strip)
                if by_row:
                    image[o, i] += mass * (right - left)
                else:
                    image[i, o] += mass * (right - left)
                left = right


@njit(cache=True)
def add_spot(
    image: NDArray[np.floating],
    col: float,
    row: float,
    c_col: float,
    c_cross: float,
    c_row: float,
    amount: float,
    halo: float,
    width: float,
) -> None:
    """Add one spot of ``amount`` photons at (col, row) to a float image (rows, cols), in place.

    ``c_col, c_cross, c_row`` is its covariance in pixels squared, ``halo, width`` its `SpotProfile`. Spots that are not
    finite or have no photons are passed over.
    """
    if not (amount > 0.0 and math.isfinite(col + row + c_col + c_cross + c_row)):
        return
    if abs(col) > 1e6 or abs(row) > 1e6:  # a grazing ray: integers would overflow
        return
    core = 1.0 / (1.0 - halo + halo * width * width)
    _add_normal(image, col, row, c_col * core, c_cross * core, c_row * core, amount * (1.0 - halo))
    if halo > 0.0:
        core *= width * width
        _add_normal(image, col, row, c_col * core, c_cross * core, c_row * core, amount * halo)


@njit(cache=True)
def add_spots(
    image: NDArray[np.floating],
    pixels: FloatArray,
    amounts: FloatArray,
    covariances: FloatArray,
    halo: float,
    width: float,
) -> None:
    """`add_spot` for pixels (n, 2), photons (n,) and covariances (n, 2, 2)."""
    for i in range(amounts.size):
        c = covariances[i]
        add_spot(image, pixels[i, 0], pixels[i, 1], c[0, 0], c[0, 1], c[1, 1], amounts[i], halo, width)


def live_pixels(detector: Detector) -> NDArray[np.float32]:
    """(rows, cols): 1 where the sensor sees, 0 in blind regions. Remembered, and locked."""
    return _live(detector.shape, detector.blind)


def background_rate(detector: Detector) -> NDArray[np.float32]:
    """Expected photons per pixel and second without spots (rows, cols): background and dark. Remembered, and locked."""
    return _background(
        detector.shape, detector.pixel_mm, detector.blind, detector.background, detector.sensor.dark_per_s
    )


@lru_cache(maxsize=8)
def _live(shape: tuple[int, int], blind: tuple[Region, ...]) -> NDArray[np.float32]:
    live = np.ones(shape, dtype=np.float32)
    for region in blind:
        # Only the rows and columns that the region spans: a frame has four million pixels, a hole few.
        spans = []
        for centre, size, n in zip(region.centre_px, region.size_px, reversed(shape), strict=True):
            spans.append(
                np.arange(max(0, math.floor(centre - size / 2)), min(n, math.ceil(centre + size / 2) + 1))
            )
        cols, rows = spans
        if cols.size and rows.size:
            live[np.ix_(rows, cols)] *= ~region.covers(cols[None, :], rows[:, None])
    live.flags.writeable = False
    return live


@lru_cache(maxsize=8)
def _background(
    shape: tuple[int, int],
    pixel_mm: tuple[float, float],
    blind: tuple[Region, ...],
    background: Background,
    dark_per_s: float,
) -> NDArray[np.float32]:
    middle = (0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1))
    centre = middle if background.centre_px is None else background.centre_px
    x = (np.arange(shape[1]) - centre[0]) * pixel_mm[0]
    y = (np.arange(shape[0]) - centre[1]) * pixel_mm[1]
    relative = (x[None, :] ** 2 + y[:, None] ** 2) / background.dome_width_mm**2
    density = background.flat_per_s_mm2 + background.dome_per_s_mm2 / (1.0 + relative) ** 1.5
    rate = np.asarray(
        (density * pixel_mm[0] * pixel_mm[1] + dark_per_s) * _live(shape, blind), dtype=np.float32
    )
    rate.flags.writeable = False
    return rate


def expected_image(
    detector: Detector,
    pixels: ArrayLike,
    rates: ArrayLike,
    covariances: ArrayLike,
    seconds: float,
    *,
    profile: SpotProfile = DEFAULT_PROFILE,
    transmission: ArrayLike | None = None,
    background: float = 1.0,
) -> NDArray[np.float32]:
    """Photons expected in each pixel (rows, cols) in an exposure.

    Parameters
    ----------
    detector
        Its sensor, blind regions and background; the pose is not asked for.
    pixels
        Spot centres (n, 2) as (col, row). On the sensor or off it: what spills in counts.
    rates
        Photons a second in each spot (n,).
    covariances
        Of the spots (n, 2, 2), in pixels squared.
    seconds
        Exposure.
    profile
        Shape of the spots.
    transmission
        Share (rows, cols) of the photons that reach each pixel, where something shades the sensor.
    background
        Factor on the detector's background.

    Raises
    ------
    ValueError
        If the arrays do not fit each other, or the exposure is not a positive finite number.
    """
    where, rate, spread = _checked(pixels, rates, covariances, seconds)
    image = background_rate(detector) * np.float32(background * seconds)
    add_spots(image, where, rate * seconds, spread, profile.halo, profile.width)
    if detector.blind:
        image *= live_pixels(detector)
    if transmission is not None:
        image *= np.asarray(transmission, dtype=np.float32)
    return image


def reference_image(
    detector: Detector,
    pixels: ArrayLike,
    rates: ArrayLike,
    covariances: ArrayLike,
    seconds: float,
    *,
    profile: SpotProfile = DEFAULT_PROFILE,
    samples: int = 16,
) -> FloatArray:
    """`expected_image` in plain numpy, for tests: the mean of ``samples`` squared points in each pixel of the sensor."""
    where, rate, spread = _checked(pixels, rates, covariances, seconds)
    rows, cols = detector.shape
    fine = (np.arange(samples) + 0.5) / samples - 0.5
    x = (np.arange(cols)[:, None] + fine).reshape(-1)
    y = (np.arange(rows)[:, None] + fine).reshape(-1)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    image = np.zeros((rows, cols))
    for centre, amount, covariance in zip(where, rate * seconds, spread, strict=True):
        for share, scale in (
            (1 - profile.halo, profile.core_scale),
            (profile.halo, profile.core_scale * profile.width**2),
        ):
            d = grid - centre
            inverse = np.linalg.inv(covariance * scale)
            density = np.exp(-0.5 * np.einsum("...i,ij,...j->...", d, inverse, d))
            density *= amount * share * np.sqrt(np.linalg.det(inverse)) / (2.0 * np.pi)
            image += density.reshape(rows, samples, cols, samples).mean(axis=(1, 3))
    return np.asarray((image + background_rate(detector) * seconds) * detector.mask())


def check_seconds(seconds: float) -> None:
    """Refuse an exposure that is not a positive finite number.

    Raises
    ------
    ValueError
        Says what came.
    """
    if not (math.isfinite(seconds) and seconds > 0.0):
        raise ValueError(
            f"An exposure takes a positive finite number of seconds; {seconds} came. Give e.g. 10.0."
        )


def _checked(
    pixels: ArrayLike, rates: ArrayLike, covariances: ArrayLike, seconds: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Contiguous float64 copies of what describes spots, if their shapes agree."""
    check_seconds(seconds)
    where = np.ascontiguousarray(pixels, dtype=np.float64).reshape(-1, 2)
    rate = np.ascontiguousarray(rates, dtype=np.float64).reshape(-1)
    spread = np.ascontiguousarray(covariances, dtype=np.float64).reshape(-1, 2, 2)
    if not len(where) == len(rate) == len(spread):
        raise ValueError(
            f"Spots want as many pixels, rates and covariances; {len(where)}, {len(rate)} and {len(spread)} came."
        )
    return where, rate, spread
