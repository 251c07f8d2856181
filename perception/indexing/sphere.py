"""Spots as plane normals: where the search and the score work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import BEAM, FloatArray
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector


@dataclass(frozen=True, eq=False)
class Sphere:
    """Spots as plane normals, brightest first.

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
        return Sphere(*(np.ascontiguousarray(getattr(self, f)[index]) for f in self.__dataclass_fields__))


def on_sphere(spots: SpotList, detector: Detector, prior: GeometryPrior, extra_px: float = 0.0) -> Sphere:
    """Plane normals of spots with their tolerance, the pose's uncertainty included as far as no rotation takes it up."""
    normals = pixel_normals(spots.pixels, detector)
    area = pixel_area(spots.pixels, detector)
    spread = np.sqrt(np.maximum(np.trace(spots.covariance_px2, axis1=1, axis2=2) / 2.0, 0.0025) + extra_px**2)
    sigma2 = spread**2 * area
    if not prior.known:
        sigma2 = sigma2 + _pose_variance(spots, detector, prior, normals)
    live = float(detector.shape[0] * detector.shape[1])
    return Sphere(
        np.ascontiguousarray(normals),
        np.ascontiguousarray(-normals[:, 2]),
        np.sqrt(sigma2),
        len(spots) / live / area,
        np.log(np.maximum(spots.counts, 1.0)),
    )


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
