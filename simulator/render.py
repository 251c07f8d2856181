"""A batch of orientations to a batch of noisy frames, in one compiled loop: what environments and training data are made of.

The same physics as `lauepilot.simulator.twin.Twin.expose` on a perfect instrument, spot by spot: rays from `kernels`,
shapes as in `spots_shape` (of which `covariance` is the scalar form), stamps from `image`, counts from `electronics`.
Without faulty pixels and zingers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.electronics import AduArray, digitise, empty_frames, largest_adu
from lauepilot.simulator.image import (
    DEFAULT_PROFILE,
    add_spot,
    background_rate,
    check_seconds,
    live_pixels,
)
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.kernels import PackedDetector, pack_detector, trace_pattern
from lauepilot.simulator.laue import RayTable
from lauepilot.simulator.poisson import new_stream
from lauepilot.simulator.spots_shape import FWHM_SIGMA, SpotProfile


class Blur(NamedTuple):
    """What widens spots, as variances: see `lauepilot.simulator.spots_shape`.

    ``mosaic`` and ``divergence`` in radians squared, ``lit_x, lit_y, lit_z`` in mm squared, ``point`` in pixels squared.
    """

    mosaic: float
    divergence: float
    lit_x: float
    lit_y: float
    lit_z: float
    point: float


def pack_blur(instrument: Instrument, detector: Detector) -> Blur:
    """The blur of an instrument's beam and sample on a detector (its own, or that one binned)."""
    beam, sample = instrument.beam, instrument.sample
    depth = sample.thickness_mm if beam.radiation == "neutron" else 0.0
    return Blur(
        float((np.deg2rad(sample.mosaic_deg) / FWHM_SIGMA) ** 2),
        float(np.deg2rad(beam.divergence_deg) ** 2 / 12.0),
        beam.size_mm[0] ** 2 / 12.0,
        beam.size_mm[1] ** 2 / 12.0,
        depth**2 / 12.0,
        float(detector.sensor.point_spread_px**2),
    )


@njit(cache=True)
def covariance(
    detector: PackedDetector, blur: Blur, kx: float, ky: float, kz: float
) -> tuple[float, float, float]:
    """Covariance (col col, col row, row row) in pixels squared of the spot of a unit ray that meets the detector."""
    r = detector.rotation
    a = kx * r[0, 0] + ky * r[1, 0] + kz * r[2, 0]
    b = kx * r[0, 1] + ky * r[1, 1] + kz * r[2, 1]
    n = kx * r[0, 2] + ky * r[1, 2] + kz * r[2, 2]
    per_col = detector.distance_mm / detector.pixel_col_mm
    per_row = detector.distance_mm / detector.pixel_row_mm
    # Rows of the Jacobian in the detector's frame: (u_a, 0, u_n) and (v_a, v_b, v_n).
    if detector.cylinder:
        reach = math.sqrt(a * a + n * n)
        u_a, u_n = per_col * n / reach**2, -per_col * a / reach**2
        v_a, v_b, v_n = -per_row * b * a / reach**3, per_row / reach, -per_row * b * n / reach**3
    else:
        reach = n
        u_a, u_n = per_col / n, -per_col * a / n**2
        v_a, v_b, v_n = 0.0, per_row / n, -per_row * b / n**2
    ux, uy, uz = u_a * r[0, 0] + u_n * r[0, 2], u_a * r[1, 0] + u_n * r[1, 2], u_a * r[2, 0] + u_n * r[2, 2]
    vx = v_a * r[0, 0] + v_b * r[0, 1] + v_n * r[0, 2]
    vy = v_a * r[1, 0] + v_b * r[1, 1] + v_n * r[1, 2]
    vz = v_a * r[2, 0] + v_b * r[2, 1] + v_n * r[2, 2]
    nearness = (reach / detector.distance_mm) ** 2
    wx = blur.divergence + blur.lit_x * nearness
    wy = blur.divergence + blur.lit_y * nearness
    wz = blur.divergence + blur.lit_z * nearness
    sideways = math.sqrt(kx * kx + ky * ky)
    tx, ty = (-ky / sideways, kx / sideways) if sideways > 1e-12 else (1.0, 0.0)
    u_t, v_t = ux * tx + uy * ty, vx * tx + vy * ty
    # In the plane of scattering: across x k.
    px, py, pz = ty * kz, -tx * kz, tx * ky - ty * kx
    u_p, v_p = ux * px + uy * py + uz * pz, vx * px + vy * py + vz * pz
    w_p, w_t = 4.0 * blur.mosaic, 2.0 * (1.0 - kz) * blur.mosaic
    return (
        blur.point + wx * ux * ux + wy * uy * uy + wz * uz * uz + w_p * u_p * u_p + w_t * u_t * u_t,
        wx * ux * vx + wy * uy * vy + wz * uz * vz + w_p * u_p * v_p + w_t * u_t * v_t,
        blur.point + wx * vx * vx + wy * vy * vy + wz * vz * vz + w_p * v_p * v_p + w_t * v_t * v_t,
    )


@njit(cache=True)
def _render(
    us: FloatArray,
    seconds: FloatArray,
    directions: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    detector: PackedDetector,
    polarisation: float,
    blur: Blur,
    halo: float,
    width: float,
    background: NDArray[np.float32],
    live: NDArray[np.float32],
    image: NDArray[np.float32],
    out: AduArray,
    electronics: tuple[float, float, float, float],
    position: np.uint64,
    step: np.uint64,
    tables: NDArray[np.uint64],
) -> None:
    n = directions.shape[1]
    capacity = n // 2 + 1
    sines, ray = np.empty(n), np.empty(capacity, np.int64)
    pixel, rates = np.empty((capacity, 2)), np.empty(capacity)
    gain, offset, noise, top = electronics
    margin = 0.1 * max(detector.cols, detector.rows)
    flat, dark, sees = image.reshape(-1), background.reshape(-1), live.reshape(-1)
    for m in range(us.shape[0]):
        u = us[m]
        found = trace_pattern(
            u, directions, rate, s_min, s_step, detector, polarisation, False, sines, ray, pixel, rates
        )
        for i in range(flat.size):
            flat[i] = dark[i] * seconds[m]
        for j in range(found):
            col, row = pixel[j, 0], pixel[j, 1]
            if not (-margin < col < detector.cols + margin and -margin < row < detector.rows + margin):
                continue
            g, s = ray[j], sines[ray[j]]
            kx = (
                2.0
                * s
                * (u[0, 0] * directions[0, g] + u[0, 1] * directions[1, g] + u[0, 2] * directions[2, g])
            )
            ky = (
                2.0
                * s
                * (u[1, 0] * directions[0, g] + u[1, 1] * directions[1, g] + u[1, 2] * directions[2, g])
            )
            c_col, c_cross, c_row = covariance(detector, blur, kx, ky, 1.0 - 2.0 * s * s)
            add_spot(image, col, row, c_col, c_cross, c_row, rates[j] * seconds[m], halo, width)
        for i in range(flat.size):
            flat[i] *= sees[i]
        position = digitise(flat, out[m].reshape(-1), gain, offset, noise, top, position, step, tables)


def render_batch(
    table: RayTable,
    u_lab: ArrayLike,
    seconds: ArrayLike,
    rng: np.random.Generator,
    *,
    detector: Detector | None = None,
    profile: SpotProfile = DEFAULT_PROFILE,
) -> AduArray:
    """Noisy frames (m, rows, cols), in the sensor's units, of laboratory orientations (m, 3, 3).

    Parameters
    ----------
    table
        Crystal and instrument.
    u_lab
        Orientations (m, 3, 3), or one (3, 3).
    seconds
        Exposure of each frame (m,), or of all.
    rng
        Seeds the counting noise.
    detector
        Another pose or other pixels (`Detector.binned`) than the instrument's.
    profile
        Shape of the spots.

    Raises
    ------
    ValueError
        If an exposure is not a positive finite number.
    """
    where = table.instrument.detector if detector is None else detector
    us = np.ascontiguousarray(u_lab, dtype=np.float64).reshape(-1, 3, 3)
    times = np.ascontiguousarray(np.broadcast_to(np.asarray(seconds, dtype=np.float64), (len(us),)))
    if times.size:
        check_seconds(float(times.min()))
        check_seconds(float(times.max()))
    sensor = where.sensor
    out = empty_frames((len(us), *where.shape), sensor)
    _render(
        us,
        times,
        np.ascontiguousarray(table.direction.T),
        table.rate,
        table.sin_theta_min,
        table.sin_theta_step,
        pack_detector(where),
        -2.0 if table.polarisation is None else float(table.polarisation),
        pack_blur(table.instrument, where),
        profile.halo,
        profile.width,
        background_rate(where),
        live_pixels(where),
        np.empty(where.shape, dtype=np.float32),
        out,
        (sensor.gain_adu, sensor.offset_adu, sensor.readout_noise_adu, largest_adu(sensor)),
        *new_stream(rng),
    )
    return out
