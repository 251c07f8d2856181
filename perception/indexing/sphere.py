"""Spots as plane normals: where the search and the score work."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import BEAM, FloatArray
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector
from lauepilot.simulator.kernels import PackedDetector, pack_detector


class Sphere(NamedTuple):
    """Spots as plane normals, in the order of their list; the compiled loops read it as it stands.

    Attributes
    ----------
    normals
        (n, 3) unit vectors along ``k_out - k_in``, laboratory.
    sines
        (n,) ``sin(theta)``.
    sigma
        (n,) standard deviation per direction, rad.
    density
        (n,) spots of the whole list per steradian of normals, were they spread evenly over the sensor.
    log_counts
        (n,) natural logarithm of the counts.
    """

    normals: FloatArray
    sines: FloatArray
    sigma: FloatArray
    density: FloatArray
    log_counts: FloatArray

    def take(self, index: NDArray[np.intp] | slice) -> Sphere:
        """A part of the list."""
        return Sphere(*(np.ascontiguousarray(column[index]) for column in self))


def on_sphere(spots: SpotList, detector: Detector, prior: GeometryPrior, extra_px: float = 0.0) -> Sphere:
    """Plane normals of spots with their tolerance, the pose's uncertainty included as far as no rotation takes it up."""
    normals, area = _normals(np.ascontiguousarray(spots.pixels, dtype=np.float64), pack_detector(detector))
    covariance = spots.covariance_px2
    spread2 = np.maximum(0.5 * (covariance[:, 0, 0] + covariance[:, 1, 1]), 0.0025) + extra_px**2
    sigma2 = spread2 * area
    if not prior.known:
        sigma2 = sigma2 + _pose_variance(spots, detector, prior, normals)
    live = float(detector.shape[0] * detector.shape[1])
    return Sphere(
        normals,
        np.ascontiguousarray(-normals[:, 2]),
        np.sqrt(sigma2),
        len(spots) / live / area,
        np.log(np.maximum(spots.counts, 1.0)),
    )


@njit(cache=True)
def _normal(detector: PackedDetector, col: float, row: float) -> tuple[float, float, float]:
    """Unit normal of the plane that sends the beam to a pixel."""
    u = (col - detector.centre_col) * detector.pixel_col_mm
    v = (row - detector.centre_row) * detector.pixel_row_mm
    w = detector.distance_mm
    if detector.cylinder:
        u, w = detector.distance_mm * np.sin(u / w), detector.distance_mm * np.cos(u / w)
    r = detector.rotation
    length = np.sqrt(u * u + v * v + w * w)
    x = (u * r[0, 0] + v * r[0, 1] + w * r[0, 2]) / length
    y = (u * r[1, 0] + v * r[1, 1] + w * r[1, 2]) / length
    z = (u * r[2, 0] + v * r[2, 1] + w * r[2, 2]) / length - 1.0
    length = np.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


@njit(cache=True)
def _normals(pixels: FloatArray, detector: PackedDetector) -> tuple[FloatArray, FloatArray]:
    """`pixel_normals` and `pixel_area` of pixels (n, 2), compiled."""
    n = pixels.shape[0]
    normals = np.empty((n, 3))
    area = np.empty(n)
    for i in range(n):
        col, row = pixels[i, 0], pixels[i, 1]
        normals[i] = _normal(detector, col, row)
        ax, ay, az = _normal(detector, col + 0.5, row)
        bx, by, bz = _normal(detector, col - 0.5, row)
        cx, cy, cz = _normal(detector, col, row + 0.5)
        dx, dy, dz = _normal(detector, col, row - 0.5)
        ax, ay, az = ax - bx, ay - by, az - bz
        cx, cy, cz = cx - dx, cy - dy, cz - dz
        x, y, z = ay * cz - az * cy, az * cx - ax * cz, ax * cy - ay * cx
        area[i] = np.sqrt(x * x + y * y + z * z)
    return normals, area


def pixel_normals(pixels: FloatArray, detector: Detector) -> FloatArray:
    """Unit normals (n, 3) of the planes that send the beam to pixels (n, 2): along ``k_out - k_in``."""
    q = detector.pixels_to_rays(pixels) - BEAM
    return np.asarray(q / np.linalg.norm(q, axis=-1, keepdims=True))


def pixel_area(pixels: FloatArray, detector: Detector) -> FloatArray:
    """Solid angle (n,) of plane normals that a pixel at each of (n, 2) covers, in steradian."""
    col, row = np.array([0.5, 0.0]), np.array([0.0, 0.5])
    du = pixel_normals(pixels + col, detector) - pixel_normals(pixels - col, detector)
    dv = pixel_normals(pixels + row, detector) - pixel_normals(pixels - row, detector)
    return np.asarray(np.linalg.norm(np.cross(du, dv), axis=1))


def solid_angle(detector: Detector) -> float:
    """Solid angle of the plane normals that a detector sees, in steradian, blind regions left out."""
    rows = np.linspace(0, detector.shape[0] - 1, 61)
    cols = np.linspace(0, detector.shape[1] - 1, 61)
    grid = np.stack(np.meshgrid(cols, rows), axis=-1).reshape(-1, 2)
    area = pixel_area(grid, detector) * detector.sees(grid)
    return float(area.mean() * detector.shape[0] * detector.shape[1])


def widest_angle(detector: Detector) -> float:
    """Largest angle, in radians, between two plane normals that a detector sees."""
    rows = np.linspace(0, detector.shape[0] - 1, 17)
    cols = np.linspace(0, detector.shape[1] - 1, 17)
    grid = np.stack(np.meshgrid(cols, rows), axis=-1).reshape(-1, 2)
    # The pixel that the direct beam would meet belongs to no plane.
    away = detector.pixels_to_rays(grid)[:, 2] < 1.0 - 1e-9
    normals = pixel_normals(grid[away], detector)
    return float(np.arccos(np.clip((normals @ normals.T).min(), -1.0, 1.0)))


def _pose_variance(
    spots: SpotList, detector: Detector, prior: GeometryPrior, normals: FloatArray
) -> FloatArray:
    """Variance (n,) of the normals per direction from the pose's uncertainty, beyond what one rotation absorbs."""
    sigmas = prior.sigmas(detector)
    cross = np.zeros((len(normals), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2] = normals[:, 2], -normals[:, 1]
    cross[:, 1, 0], cross[:, 1, 2] = -normals[:, 2], normals[:, 0]
    cross[:, 2, 0], cross[:, 2, 1] = normals[:, 1], -normals[:, 0]
    design = cross.reshape(-1, 3)
    variance = np.zeros(len(normals))
    for name, sigma in zip(GEOMETRY_PARAMETERS, sigmas, strict=True):
        if sigma == 0.0:
            continue
        shift = pixel_normals(spots.pixels, detector.moved(**{name: float(sigma)})) - normals
        w, *_ = np.linalg.lstsq(design, shift.reshape(-1), rcond=None)
        left = shift - (design @ w).reshape(-1, 3)
        variance += 0.5 * (left**2).sum(axis=1)
    return variance
