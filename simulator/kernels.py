"""The compiled inner loops of the Laue simulator: a batch of orientations to spot lists.

Detectors travel as `PackedDetector`, plain numbers that numba understands. `lauepilot.simulator.reference` does the same
slowly and plainly; the tests hold the two against each other.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector


class PackedDetector(NamedTuple):
    """A detector as numbers: see `lauepilot.simulator.detector` for their meaning."""

    cylinder: bool
    rotation: FloatArray
    distance_mm: float
    centre_col: float
    centre_row: float
    pixel_col_mm: float
    pixel_row_mm: float
    cols: int
    rows: int
    blind: FloatArray


def pack_detector(detector: Detector) -> PackedDetector:
    """Pack a detector; ``blind`` is (n, 5): 1 for a circle, then centre and full size (col, row)."""
    blind = [
        (float(b.shape == "circle"), *(float(x) for x in b.centre_px), *(float(x) for x in b.size_px))
        for b in detector.blind
    ]
    return PackedDetector(
        detector.kind == "cylinder",
        np.ascontiguousarray(detector.rotation, dtype=np.float64),
        float(detector.distance_mm),
        float(detector.centre_px[0]),
        float(detector.centre_px[1]),
        float(detector.pixel_mm[0]),
        float(detector.pixel_mm[1]),
        int(detector.shape[1]),
        int(detector.shape[0]),
        np.array(blind, dtype=np.float64).reshape(-1, 5),
    )


class _Rays(Protocol):
    @property
    def direction(self) -> FloatArray: ...

    @property
    def rate(self) -> NDArray[np.float32]: ...

    @property
    def sin_theta_min(self) -> float: ...

    @property
    def sin_theta_step(self) -> float: ...


@njit(cache=True, inline="always")
def project(detector: PackedDetector, kx: float, ky: float, kz: float) -> tuple[float, float, bool]:
    """Pixel (col, row) of a ray from the sample, and whether it meets the detector's surface."""
    r = detector.rotation
    a = kx * r[0, 0] + ky * r[1, 0] + kz * r[2, 0]
    b = kx * r[0, 1] + ky * r[1, 1] + kz * r[2, 1]
    n = kx * r[0, 2] + ky * r[1, 2] + kz * r[2, 2]
    if detector.cylinder:
        across = np.sqrt(a * a + n * n)
        if across < 1e-9:
            return 0.0, 0.0, False
        u = detector.distance_mm * np.arctan2(a, n)
        v = b * detector.distance_mm / across
    else:
        if n < 1e-9:
            return 0.0, 0.0, False
        u = a * detector.distance_mm / n
        v = b * detector.distance_mm / n
    return (
        detector.centre_col + u / detector.pixel_col_mm,
        detector.centre_row + v / detector.pixel_row_mm,
        True,
    )


@njit(cache=True, inline="always")
def on_sensor(detector: PackedDetector, col: float, row: float) -> bool:
    """Whether a pixel is on the sensor and outside its blind regions."""
    if col < -0.5 or row < -0.5 or col >= detector.cols - 0.5 or row >= detector.rows - 0.5:
        return False
    for i in range(detector.blind.shape[0]):
        u = 2.0 * (col - detector.blind[i, 1]) / detector.blind[i, 3]
        v = 2.0 * (row - detector.blind[i, 2]) / detector.blind[i, 4]
        if detector.blind[i, 0] > 0.5:
            if u * u + v * v <= 1.0:
                return False
        elif abs(u) <= 1.0 and abs(v) <= 1.0:
            return False
    return True


@njit(cache=True, fastmath=True)
def _cosines(directions: FloatArray, ax: float, ay: float, az: float, out: FloatArray) -> None:
    """Cosines of all rays to an axis (ax, ay, az) in the crystal's frame. ``directions`` is (3, n)."""
    for i in range(directions.shape[1]):
        out[i] = directions[0, i] * ax + directions[1, i] * ay + directions[2, i] * az


@njit(cache=True)
def _normals_cone(detector: PackedDetector) -> tuple[float, float, float, float]:
    """Axis (3) and cosine of a cone, in the laboratory, that holds the normals of all planes seen on the sensor.

    From the sensor's edge: a plane's normal is a continuous function of the pixel, so that no inner pixel has one farther
    out. A cosine of -2 (no cone) for cylinders, and for sensors that the direct beam meets, where that does not hold.
    """
    none = (0.0, 0.0, -1.0, -2.0)
    if detector.cylinder:
        return none
    col, row, meets = project(detector, 0.0, 0.0, 1.0)
    if meets and -1.0 <= col <= detector.cols and -1.0 <= row <= detector.rows:
        return none
    n = 33
    edge = np.empty((4 * n, 3))
    r = detector.rotation
    for side in range(4):
        for i in range(n):
            along = i / (n - 1.0)
            fc = along if side < 2 else side - 2.0
            fr = side * 1.0 if side < 2 else along
            u = (fc * detector.cols - 0.5 - detector.centre_col) * detector.pixel_col_mm
            v = (fr * detector.rows - 0.5 - detector.centre_row) * detector.pixel_row_mm
            w = detector.distance_mm
            length = np.sqrt(u * u + v * v + w * w)
            for k in range(3):
                edge[side * n + i, k] = (u * r[k, 0] + v * r[k, 1] + w * r[k, 2]) / length
            edge[side * n + i, 2] -= 1.0
            edge[side * n + i] /= np.sqrt((edge[side * n + i] ** 2).sum())
    axis = np.array([edge[:, 0].sum(), edge[:, 1].sum(), edge[:, 2].sum()])
    axis /= np.sqrt((axis**2).sum())
    least = 1.0
    for i in range(4 * n):
        least = min(least, (edge[i] * axis).sum())
    # Between the points that were tried the edge may stand out a little.
    return axis[0], axis[1], axis[2], least - 0.003


@njit(cache=True)
def trace_pattern(
    u: FloatArray,
    directions: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    detector: PackedDetector,
    polarisation: float,
    only_sensor: bool,
    sines: FloatArray,
    ray_out: NDArray[np.int64],
    pixel_out: FloatArray,
    rate_out: FloatArray,
) -> int:
    """One pattern: fills the outputs and returns the number of spots (never above their length).

    ``directions`` is (3, n); ``sines`` (n) is scratch space. ``polarisation`` below -1 switches the factor off (neutrons).
    """
    return _trace(
        u,
        directions,
        rate,
        s_min,
        s_step,
        detector,
        polarisation,
        only_sensor,
        # The cosine to the reversed beam is sin(theta) itself.
        (0.0, 0.0, -1.0, s_min),
        np.empty(directions.shape[1] + 1, np.int64),
        sines,
        ray_out,
        pixel_out,
        rate_out,
    )


@njit(cache=True)
def _trace(
    u: FloatArray,
    directions: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    detector: PackedDetector,
    polarisation: float,
    only_sensor: bool,
    cone: tuple[float, float, float, float],
    inside: NDArray[np.int64],
    sines: FloatArray,
    ray_out: NDArray[np.int64],
    pixel_out: FloatArray,
    rate_out: FloatArray,
) -> int:
    """`trace_pattern` among the rays inside a cone (axis in the laboratory, cosine) only; the rest are not looked at.

    ``inside`` (n + 1) is scratch space.
    """
    x, y, z, least = cone
    _cosines(
        directions,
        u[0, 0] * x + u[1, 0] * y + u[2, 0] * z,
        u[0, 1] * x + u[1, 1] * y + u[2, 1] * z,
        u[0, 2] * x + u[1, 2] * y + u[2, 2] * z,
        sines,
    )
    nodes = rate.shape[1]
    top = s_min + s_step * (nodes - 1)
    found = 0
    # Collected without a branch: half of them would be predicted wrongly.
    candidates = 0
    for i in range(directions.shape[1]):
        inside[candidates] = i
        candidates += sines[i] >= least
    for j in range(candidates):
        i = inside[j]
        gx, gy, gz = directions[0, i], directions[1, i], directions[2, i]
        s = -(u[2, 0] * gx + u[2, 1] * gy + u[2, 2] * gz)
        sines[i] = s
        if s < s_min or s > top:
            continue
        kx = 2.0 * s * (u[0, 0] * gx + u[0, 1] * gy + u[0, 2] * gz)
        ky = 2.0 * s * (u[1, 0] * gx + u[1, 1] * gy + u[1, 2] * gz)
        kz = 1.0 - 2.0 * s * s
        col, row, meets = project(detector, kx, ky, kz)
        if not meets or (only_sensor and not on_sensor(detector, col, row)):
            continue
        at = (s - s_min) / s_step
        k = min(int(at), nodes - 2)
        value = rate[i, k] + (at - k) * (rate[i, k + 1] - rate[i, k])
        if value <= 0.0:
            continue
        if polarisation >= -1.0:
            value *= 0.5 * (1.0 + polarisation) * (1.0 - kx * kx) + 0.5 * (1.0 - polarisation) * (
                1.0 - ky * ky
            )
        if found == len(ray_out):
            break
        ray_out[found] = i
        pixel_out[found, 0] = col
        pixel_out[found, 1] = row
        rate_out[found] = value
        found += 1
    return found


@njit(cache=True)
def _trace_batch(
    us: FloatArray,
    directions: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    detector: PackedDetector,
    polarisation: float,
    only_sensor: bool,
    capacity: int,
) -> tuple[NDArray[np.int64], FloatArray, FloatArray, NDArray[np.int64]]:
    n = directions.shape[1]
    sines, inside = np.empty(n), np.empty(n + 1, np.int64)
    cone = _normals_cone(detector) if only_sensor else (0.0, 0.0, -1.0, s_min)
    ray = np.empty(us.shape[0] * capacity, np.int64)
    pixel = np.empty((us.shape[0] * capacity, 2))
    rates = np.empty(us.shape[0] * capacity)
    ends = np.zeros(us.shape[0] + 1, np.int64)
    filled = 0
    for m in range(us.shape[0]):
        found = _trace(
            us[m],
            directions,
            rate,
            s_min,
            s_step,
            detector,
            polarisation,
            only_sensor,
            cone,
            inside,
            sines,
            ray[filled:],
            pixel[filled:],
            rates[filled:],
        )
        filled += found
        ends[m + 1] = filled
    return ray[:filled].copy(), pixel[:filled].copy(), rates[:filled].copy(), ends


def trace_batch(
    us: FloatArray,
    rays: _Rays,
    detector: PackedDetector,
    polarisation: float | None,
    only_sensor: bool = True,
) -> tuple[NDArray[np.int64], FloatArray, FloatArray, NDArray[np.int64]]:
    """Spot lists of a batch of orientations ``us`` (m, 3, 3).

    Returns
    -------
    The lists one after another, brightest rays first within each: ray indices (n,), pixels (n, 2), rates (n,); and
    ``ends`` (m + 1,): pattern j has the entries ``ends[j]:ends[j + 1]``.
    """
    directions = np.ascontiguousarray(rays.direction.T)
    n = directions.shape[1]
    # A flat detector sees at most half of the rays (their signs exclude each other).
    capacity = n // 2 + 1
    degree = -2.0 if polarisation is None else float(polarisation)
    return _trace_batch(
        np.ascontiguousarray(us, dtype=np.float64),
        directions,
        rays.rate,
        rays.sin_theta_min,
        rays.sin_theta_step,
        detector,
        degree,
        only_sensor,
        capacity,
    )
