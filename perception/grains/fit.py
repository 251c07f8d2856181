"""Refinement of several grains at once: each its orientation (and strain), all one pose of the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.refine import GeometryPrior, pose_difference, predict_pixels, strained
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.detector import Detector

#: Steps for derivatives: pose (mm, px, px, rad, rad), then rotation (rad) and strain of one grain.
_POSE_STEPS = np.array([1e-4, 1e-3, 1e-3, 1e-6, 1e-6])
_GRAIN_STEP = 1e-6


@dataclass(frozen=True, eq=False)
class Pairs:
    """One grain's explained spots: orientation and strain (3, 3) to start from, spots (k,), rays (k,) and weights (k,)."""

    u: FloatArray
    strain: FloatArray
    spot: NDArray[np.int64]
    ray: NDArray[np.int64]
    weight: FloatArray


@dataclass(frozen=True, eq=False)
class Fitted:
    """One grain after the fit: orientation, strain, covariance (3, 3) of the rotation vector, radians squared."""

    u: FloatArray
    strain: FloatArray
    covariance: FloatArray


def fit_together(
    directions: FloatArray,
    pairs: Sequence[Pairs],
    spots: SpotList,
    detector: Detector,
    start: Detector,
    prior: GeometryPrior,
    cell_sigma: float,
    rounds: int = 5,
) -> tuple[list[Fitted], Detector, FloatArray]:
    """Weighted least squares in pixels over all grains: grains, common pose, and the pose's standard deviations (5,).

    ``directions`` (n, 3) are the plane normals in the crystal's frame that ``Pairs.ray`` counts. ``detector`` is the
    middle of the ``prior`` on the pose, ``start`` the pose to start from; a known pose stays as it is. Weights fall off
    for spots that lie far from their prediction (Tukey's biweight).
    """
    pull = np.zeros(5)
    free = np.zeros(5, dtype=bool)
    if not prior.known:
        sigmas = prior.sigmas(detector)
        free = sigmas > 0.0
        pull[free] = 1.0 / sigmas[free] ** 2
    pose = pose_difference(detector, start) * free
    each = 8 if cell_sigma > 0.0 else 3
    us, strains = [p.u for p in pairs], [_numbers(p.strain) for p in pairs]
    size = int(free.sum()) + each * len(pairs)
    own = np.sqrt(np.maximum(np.trace(spots.covariance_px2, axis1=1, axis2=2) / 2.0, 0.0025))
    covariance = np.full((size, size), np.nan)
    for turn in range(rounds + 1):
        normal, right = np.zeros((size, size)), np.zeros(size)
        chi2, count = 0.0, 0.0
        for g, p in enumerate(pairs):
            if len(p.spot) == 0:
                continue
            residual, slopes = _linearised(directions, p, us[g], strains[g], detector, pose, free, each)
            residual = spots.pixels[p.spot] - residual
            sigma = own[p.spot]
            far = np.linalg.norm(residual, axis=1) / sigma
            width = 4.685 * max(float(np.median(far)) / 1.1774, 1.0)
            weight = p.weight * np.clip(1.0 - (far / width) ** 2, 0.0, None) ** 2
            columns = np.r_[np.arange(free.sum()), free.sum() + each * g + np.arange(each)]
            normal[np.ix_(columns, columns)] += np.einsum("kim,k,kin->mn", slopes, weight / sigma**2, slopes)
            right[columns] += np.einsum("kim,k,ki->m", slopes, weight / sigma**2, residual)
            chi2 += float((weight * far**2).sum())
            count += 2.0 * float(weight.sum())
        scale = max(chi2 / max(count - size, 1.0), 1.0)
        ties = np.zeros(size)
        ties[: free.sum()] = pull[free]
        bent = np.concatenate([pose[free], *(np.r_[np.zeros(3), s][:each] for s in strains)])
        if each == 8:
            for g in range(len(pairs)):
                ties[free.sum() + 8 * g + 3 : free.sum() + 8 * g + 8] = 1.0 / cell_sigma**2
        normal = normal / scale + np.diag(ties) + 1e-12 * np.diag(np.diag(normal)) + 1e-30 * np.eye(size)
        covariance = np.linalg.pinv(normal, hermitian=True)
        if turn == rounds:
            break
        step = covariance @ (right / scale - ties * bent)
        pose[free] += step[: free.sum()]
        for g in range(len(pairs)):
            mine = step[free.sum() + each * g : free.sum() + each * (g + 1)]
            us[g] = rotation_matrix(mine[:3]) @ us[g]
            if each == 8:
                strains[g] = strains[g] + mine[3:]
    sigma5 = np.zeros(5)
    sigma5[free] = np.sqrt(np.diag(covariance)[: free.sum()])
    fitted = []
    for g in range(len(pairs)):
        at = int(free.sum()) + each * g
        fitted.append(Fitted(us[g], _matrix(strains[g]), covariance[at : at + 3, at : at + 3]))
    return fitted, _moved(detector, pose), sigma5


def _linearised(
    directions: FloatArray,
    pairs: Pairs,
    u: FloatArray,
    strain: FloatArray,
    detector: Detector,
    pose: FloatArray,
    free: NDArray[np.bool_],
    each: int,
) -> tuple[FloatArray, FloatArray]:
    """Predicted pixels (k, 2) of a grain and their derivatives (k, 2, m) by the free pose and the grain's own numbers."""
    rays = directions[pairs.ray]

    def pixels(shift: FloatArray, own: FloatArray) -> FloatArray:
        bent = strain + own[3:]
        bent_rays = strained(rays, _matrix(bent)) if bent.any() else rays
        turned = rotation_matrix(own[:3]) @ u if own[:3].any() else u
        return predict_pixels(turned, bent_rays, _moved(detector, shift))

    none = np.zeros(8)
    here = pixels(pose, none)
    columns = []
    for k in np.flatnonzero(free):
        columns.append((pixels(pose + _POSE_STEPS[k] * np.eye(5)[k], none) - here) / _POSE_STEPS[k])
    for i in range(each):
        columns.append((pixels(pose, _GRAIN_STEP * np.eye(8)[i]) - here) / _GRAIN_STEP)
    return here, np.stack(columns, axis=2)


def _moved(detector: Detector, pose: FloatArray) -> Detector:
    return detector.moved(*(float(x) for x in pose)) if pose.any() else detector


def _matrix(numbers: FloatArray) -> FloatArray:
    a, b, c, d, e = numbers
    return np.array([[a, c, d], [c, b, e], [d, e, -a - b]])


def _numbers(strain: FloatArray) -> FloatArray:
    return np.array([strain[0, 0], strain[1, 1], strain[0, 1], strain[0, 2], strain[1, 2]])
