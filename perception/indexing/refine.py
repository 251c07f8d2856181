"""Refinement in pixels: orientation, and on request the detector's pose and the cell's shape, robust to outliers.

Gauss-Newton on the distances between found spots and predicted ones, reweighted after Tukey (biweight) so that false spots
lose their say; spots are matched anew in each round while the tolerance shrinks. What is known beforehand
(the pose to a millimetre, say) enters as a Gaussian prior, so that the covariance holds the geometry's uncertainty too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.errors import settle
from lauepilot.perception.indexing.gauss_newton import fit
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray, rotation_vector
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector
from lauepilot.simulator.kernels import pack_detector
from lauepilot.simulator.laue import RayTable


@dataclass(frozen=True)
class GeometryPrior:
    """How well the detector's pose is known: standard deviations. Zero: exactly.

    Attributes
    ----------
    distance_mm, centre_mm
        Of the distance, and of each coordinate of the foot of the perpendicular.
    tilt_deg
        Of each tilt.
    """

    distance_mm: float = 0.0
    centre_mm: float = 0.0
    tilt_deg: float = 0.0

    @property
    def known(self) -> bool:
        """Whether the pose is taken as exact."""
        return self.distance_mm == 0.0 and self.centre_mm == 0.0 and self.tilt_deg == 0.0

    def sigmas(self, detector: Detector) -> FloatArray:
        """(5,) in the order and units of `GEOMETRY_PARAMETERS`."""
        tilt = np.deg2rad(self.tilt_deg)
        return np.array(
            [
                self.distance_mm,
                self.centre_mm / detector.pixel_mm[0],
                self.centre_mm / detector.pixel_mm[1],
                tilt,
                tilt,
            ]
        )


@dataclass(frozen=True, eq=False)
class Refinement:
    """Result of `refine`.

    Attributes
    ----------
    u
        (3, 3) laboratory orientation.
    detector
        With the refined pose.
    strain
        (3, 3) symmetric, traceless: ``B`` becomes ``(1 + strain) B``.
    covariance
        (3, 3) of the rotation vector, radians squared, all other free parameters left free.
    geometry_sigma
        (5,) standard deviations of `GEOMETRY_PARAMETERS`; zero where fixed.
    occam
        What the freedom of the pose costs, in log-likelihood: log of the prior's volume over the posterior's, and the
        pull of the prior (Laplace's approximation of the evidence; MacKay 1992). Zero with a fixed pose.
    spot
        (k,) indices of explained spots.
    ray
        (k,) their rays, as numbered in the table that was used.
    hkl
        (k, 3) their indices, of the strongest harmonic.
    residual_px
        (k, 2) found minus predicted.
    """

    u: FloatArray
    detector: Detector
    strain: FloatArray
    covariance: FloatArray
    geometry_sigma: FloatArray
    occam: float
    spot: NDArray[np.int64]
    ray: NDArray[np.int64]
    hkl: NDArray[np.int64]
    residual_px: FloatArray

    @property
    def mean_residual_px(self) -> float:
        """Mean distance of explained spots from their prediction; NaN without spots."""
        return float(np.linalg.norm(self.residual_px, axis=1).mean()) if len(self.spot) else float("nan")


def strained(directions: FloatArray, strain: FloatArray) -> FloatArray:
    """Unit normals (n, 3) after the strain (3, 3) of reciprocal space."""
    turned = directions @ (np.eye(3) + strain)
    return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True))


def predict_pixels(u: FloatArray, directions: FloatArray, detector: Detector) -> FloatArray:
    """Pixels (n, 2) of rays (n, 3) given in the crystal's frame, at laboratory orientation ``u``; NaN where none."""
    g = directions @ u.T
    k_out = -2.0 * g[:, 2:3] * g
    k_out[:, 2] += 1.0
    pixels = detector.rays_to_pixels(k_out)
    pixels[g[:, 2] >= 0.0] = np.nan
    return pixels


def refine(
    table: RayTable,
    u: FloatArray,
    detector: Detector,
    spots: SpotList,
    *,
    start: Detector | None = None,
    prior: GeometryPrior | None = None,
    cell_sigma: float = 0.0,
    tolerance_px: float = 5.0,
    strongest: int | None = None,
    rounds: int = 12,
) -> Refinement:
    """Refine an orientation (and more) against a list of spots.

    Parameters
    ----------
    table
        Rays of the crystal on the instrument.
    u
        (3, 3) starting laboratory orientation.
    detector
        Mean of the prior, and starting pose unless ``start`` is given.
    spots
        Found spots.
    start
        Starting pose: ``detector`` moved by `Detector.moved`, as an earlier refinement left it.
    prior
        Lets the pose move, within these standard deviations; None holds it.
    cell_sigma
        Standard deviation of the cell's shape: each of the five numbers of a traceless strain may move by about so
        much (the scale cannot be seen in a Laue pattern). Zero: the cell is exact.
    tolerance_px
        Distance within which spots are matched in the first round.
    strongest
        Match only this many of the brightest predicted spots in the first rounds.
    rounds
        Rounds at most.
    """
    free = np.zeros(13, dtype=bool)
    free[:3] = True
    prior_sigma = np.zeros(13)
    if prior is not None and not prior.known:
        prior_sigma[3:8] = prior.sigmas(detector)
        free[3:8] = prior_sigma[3:8] > 0.0
    if cell_sigma > 0.0:
        free[8:] = True
        prior_sigma[8:] = cell_sigma
    index = np.flatnonzero(free)
    p = np.zeros(13)
    if start is not None and start is not detector:
        p[3:8] = pose_difference(detector, start)
    u_now = np.array(u, dtype=np.float64)
    spread = np.sqrt(np.maximum(0.5 * (spots.covariance_px2[:, 0, 0] + spots.covariance_px2[:, 1, 1]), 1e-4))
    packed, where = pack_detector(detector), np.ascontiguousarray(spots.pixels, dtype=np.float64)
    spot, ray, residual, covariance = fit(
        table.direction,
        table.rate,
        float(table.sin_theta_min),
        float(table.sin_theta_step),
        packed,
        where,
        spread,
        u_now,
        p,
        index,
        prior_sigma,
        float(tolerance_px),
        -1 if strongest is None else strongest,
        rounds,
    )
    if len(spot) >= 3:
        residual, covariance = settle(
            table.direction, packed, where, spread, u_now, p, index, prior_sigma, spot, ray
        )
    geometry_sigma = np.zeros(5)
    inner = [i for i, k in enumerate(index) if 3 <= k < 8]
    geometry_sigma[index[inner] - 3] = np.sqrt(np.diag(covariance)[inner])
    return Refinement(
        u=u_now,
        detector=_moved(detector, p),
        strain=_strain(p),
        covariance=covariance[:3, :3],
        geometry_sigma=geometry_sigma,
        occam=_occam(covariance[np.ix_(inner, inner)], prior_sigma[index[inner]], p[index[inner]]),
        spot=spot,
        ray=ray,
        hkl=table.hkl[ray] * table.harmonic(ray, -table.direction[ray] @ u_now[2])[:, None],
        residual_px=residual,
    )


def _occam(covariance: FloatArray, prior_sigma: FloatArray, shift: FloatArray) -> float:
    if len(shift) == 0 or not np.all(np.isfinite(covariance)):
        return 0.0
    scaled = covariance / np.outer(prior_sigma, prior_sigma)
    return float(-0.5 * np.linalg.slogdet(scaled)[1] + 0.5 * np.sum((shift / prior_sigma) ** 2))


def _strain(p: FloatArray) -> FloatArray:
    a, b, c, d, e = p[8:]
    return np.array([[a, c, d], [c, b, e], [d, e, -a - b]])


def _moved(detector: Detector, p: FloatArray) -> Detector:
    if not p[3:8].any():
        return detector
    return detector.moved(**dict(zip(GEOMETRY_PARAMETERS, (float(x) for x in p[3:8]), strict=True)))


def pose_difference(detector: Detector, moved: Detector) -> FloatArray:
    """The additions (5,) with which ``detector.moved`` gives ``moved``, in the order of `GEOMETRY_PARAMETERS`."""
    turn = rotation_vector(moved.rotation @ detector.rotation.T)
    return np.array(
        [
            moved.distance_mm - detector.distance_mm,
            moved.centre_px[0] - detector.centre_px[0],
            moved.centre_px[1] - detector.centre_px[1],
            turn[0],
            turn[1],
        ]
    )
