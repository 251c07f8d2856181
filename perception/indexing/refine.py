"""Refinement in pixels: orientation, and on request the detector's pose and the cell's shape, robust to outliers.

Gauss-Newton on the distances between found spots and predicted ones, reweighted after Tukey (biweight) so that false spots
lose their say; spots are matched anew in each round while the tolerance shrinks. What is known beforehand
(the pose to a millimetre, say) enters as a Gaussian prior, so that the covariance holds the geometry's uncertainty too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray, rotation_matrix, rotation_vector
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector
from lauepilot.simulator.laue import RayTable

#: Widths of the Tukey biweight, in standard deviations.
TUKEY = 4.685

#: Steps for derivatives: rotation (rad), geometry (mm, px, px, rad, rad), strain.
_STEPS = np.array([1e-6] * 3 + [1e-4, 1e-3, 1e-3, 1e-6, 1e-6] + [1e-6] * 5)


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
    u_now = np.array(u, dtype=float)
    tolerance = tolerance_px
    weight_sigma = np.sqrt(np.maximum(np.trace(spots.covariance_px2, axis1=1, axis2=2) / 2.0, 1e-4))
    pairs = _match(table, u_now, p, detector, spots, tolerance, strongest)
    scatter = tolerance
    for turn in range(rounds):
        if len(pairs[0]) < 3:
            break
        residual, jacobian = _linearise(table, u_now, p, detector, spots, pairs, index)
        sigma = np.maximum(weight_sigma[pairs[0]], 0.05)
        scaled = np.linalg.norm(residual, axis=1) / sigma
        scale = max(float(1.4826 * np.median(scaled) / 1.1774 / 1.2), 1.0)
        weight = np.clip(1.0 - (scaled / (TUKEY * scale)) ** 2, 0.0, None) ** 2 / (sigma * scale) ** 2
        a = np.einsum("kim,k,kin->mn", jacobian, weight, jacobian)
        b = np.einsum("kim,k,ki->m", jacobian, weight, residual)
        pull = np.where(prior_sigma[index] > 0.0, 1.0 / np.maximum(prior_sigma[index], 1e-12) ** 2, 0.0)
        step = np.linalg.solve(a + np.diag(pull + 1e-12 * np.diag(a) + 1e-30), b - pull * p[index])
        u_now = rotation_matrix(step[:3]) @ u_now
        p[index[3:]] += step[3:]
        scatter = scale * float(np.median(sigma))
        before = pairs
        tolerance = max(min(tolerance * 0.6, tolerance_px), 4.0 * scatter, 1.0)
        limit = None if strongest is None or turn >= rounds // 2 else int(strongest * 1.5 ** (turn + 1))
        pairs = _match(table, u_now, p, detector, spots, tolerance, limit)
        # A hundredth of the best error bars, and the same spots: nothing more will come.
        settled = np.abs(step[:3]).max() < 1e-6 and np.array_equal(before[0], pairs[0])
        if settled and limit is None and turn > 1:
            break
    pairs = _match(table, u_now, p, detector, spots, tolerance, None)
    residual, jacobian = _linearise(table, u_now, p, detector, spots, pairs, index)
    covariance = np.full((len(index), len(index)), np.nan)
    if len(pairs[0]) >= 3:
        sigma = np.maximum(weight_sigma[pairs[0]], 0.05)
        dof = max(2 * len(sigma) - len(index), 1)
        chi2 = float((np.sum(residual**2, axis=1) / sigma**2).sum()) / dof
        weight = 1.0 / (sigma**2 * max(chi2, 1.0))
        a = np.einsum("kim,k,kin->mn", jacobian, weight, jacobian)
        pull = np.where(prior_sigma[index] > 0.0, 1.0 / np.maximum(prior_sigma[index], 1e-12) ** 2, 0.0)
        covariance = np.linalg.pinv(a + np.diag(pull))
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
        spot=pairs[0],
        ray=pairs[1],
        hkl=table.hkl[pairs[1]] * table.harmonic(pairs[1], -table.direction[pairs[1]] @ u_now[2])[:, None],
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


def _match(
    table: RayTable,
    u: FloatArray,
    p: FloatArray,
    detector: Detector,
    spots: SpotList,
    tolerance: float,
    strongest: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spots and rays that are each other's nearest within ``tolerance`` pixels."""
    strain = _strain(p)
    directions = strained(table.direction, strain) if strain.any() else table.direction
    rays = np.flatnonzero(directions @ u[2] < -table.sin_theta_min)
    where = _moved(detector, p)
    pixels = predict_pixels(u, directions[rays], where)
    seen = where.sees(pixels)
    rays, pixels = rays[seen], pixels[seen]
    if strongest is not None:
        s = -directions[rays] @ u[2]
        node = np.clip(
            np.rint((s - table.sin_theta_min) / table.sin_theta_step).astype(int), 0, table.rate.shape[1] - 1
        )
        keep = np.sort(np.argsort(-table.rate[rays, node])[:strongest])
        rays, pixels = rays[keep], pixels[keep]
    if len(rays) == 0 or len(spots) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    to_ray, ray = cKDTree(pixels).query(spots.pixels)
    _, back = cKDTree(spots.pixels).query(pixels)
    mutual = np.flatnonzero((to_ray <= tolerance) & (back[ray] == np.arange(len(spots))))
    return mutual, rays[ray[mutual]]


def _linearise(
    table: RayTable,
    u: FloatArray,
    p: FloatArray,
    detector: Detector,
    spots: SpotList,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    index: NDArray[np.intp],
) -> tuple[FloatArray, FloatArray]:
    """Residuals (k, 2), found minus predicted, and derivatives (k, 2, m) of the prediction."""
    base = table.direction[pairs[1]]

    def pixels(q: FloatArray) -> FloatArray:
        strain = _strain(q)
        directions = strained(base, strain) if strain.any() else base
        turn = rotation_matrix(q[:3]) @ u if q[:3].any() else u
        return predict_pixels(turn, directions, _moved(detector, q))

    start = p.copy()
    start[:3] = 0.0
    predicted = pixels(start)
    columns = []
    for i in index:
        q = start.copy()
        q[i] += _STEPS[i]
        columns.append((pixels(q) - predicted) / _STEPS[i])
    return spots.pixels[pairs[0]] - predicted, np.stack(columns, axis=2)
