"""Indexing with a pose that is only roughly known: hypotheses on the pose, nearest to the drawing first.

Most of what a wrong pose does to a pattern a turn of the crystal does too. What is left distorts the sphere of plane
normals, and only two or three combinations of the pose's parameters distort it by more than the search bears: these
principal distortions are cut into steps, and each cell of the resulting grid is a hypothesis. A few seeds are voted
for in each; the best candidates are refined with a pose of their own under the whole prior, and one that stands out is
indexed once more from the pose so found, where the confidence means what it always does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from lauepilot.perception.indexing.checks import check_spots
from lauepilot.perception.indexing.indexer import POSE_PX, TEMPER, Indexer, IndexResult
from lauepilot.perception.indexing.refine import GeometryPrior, Refinement, refine
from lauepilot.perception.indexing.sphere import Sphere, on_sphere, pixel_normals
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector

#: A detector that was placed by the drawing, not calibrated.
ROUGH_PRIOR = GeometryPrior(distance_mm=10.0, centre_mm=7.5, tilt_deg=1.0)

#: Width of a hypothesis: root mean square distortion of the normals, rad.
STEP = float(np.deg2rad(0.8))

#: How far the hypotheses reach, in standard deviations of the prior, and how many there are at most.
REACH, MOST = 1.9, 600

#: Brightest spots to search with while the pose is open: wide tolerances let many agree by chance. Seeds among them that
#: vote for each hypothesis, fewest and most, and how many votes all hypotheses may cast together: what a "no" may cost.
BRIGHTEST, SEEDS, VOTES = 40, (4, 10), 1200

#: Log-likelihood above that of the best chance orientation from which on a candidate is looked at closely.
WORTH_A_LOOK = 15.0

#: Confidence that ends the search.
SURE = 0.9999

#: The pose found is believed to this share of the distance (a standard deviation), and to these degrees.
SETTLED, SETTLED_DEG = 0.004, 0.1


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A refined orientation with its score less the price of its pose, and what chance would reach."""

    score: float
    chance: float
    fit: Refinement


def index_rough(
    indexer: Indexer,
    spots: SpotList,
    detector: Detector | None = None,
    *,
    prior: GeometryPrior = ROUGH_PRIOR,
    cell_sigma: float = 0.0,
    complete: bool = False,
) -> IndexResult:
    """Index with a pose known to within ``prior`` only; the arguments are those of `Indexer.index`.

    A quarter of the distance and 20 mm of the centre are found on flat and cylindrical detectors. The answer's covariance
    holds the uncertainty of the pose as far as the frame leaves it open.

    Raises
    ------
    IndexingError
        If there are fewer than four spots, or some are no numbers.
    """
    where = indexer.instrument.detector if detector is None else detector
    check_spots(spots)
    few = spots.take(np.argsort(-spots.counts, kind="stable")[:BRIGHTEST])
    shifts, spread = distortions(where, prior)
    poses = hypotheses(where, shifts, spread)
    seeds = int(np.clip(VOTES // len(poses), *SEEDS))
    best: _Candidate | None = None
    answer: IndexResult | None = None
    for tried, pose in enumerate(poses, start=1):
        sphere = _tolerant(few, pose, shifts, spread)
        for u in _vote(indexer, sphere, seeds):
            candidate = _refined(indexer, u, few, sphere, where, pose, prior)
            if best is not None and candidate.score <= best.score:
                continue
            best = candidate
            if candidate.score > candidate.chance + WORTH_A_LOOK:
                answer = _look(indexer, candidate, spots, where, prior, tried)
        if answer is not None and answer.confidence >= SURE:
            break
    if best is None:
        return IndexResult(None, 0.0, 0.0, 0, None)
    if answer is None:
        answer = _look(indexer, best, spots, where, prior, len(poses))
    return indexer.settle(answer, spots, where, prior=prior, cell_sigma=cell_sigma, complete=complete)


def index_by_prior(
    indexer: Indexer,
    spots: SpotList,
    detector: Detector | None = None,
    *,
    prior: GeometryPrior | None = None,
    cell_sigma: float = 0.0,
    complete: bool = False,
) -> IndexResult:
    """`Indexer.index` where one search bears what ``prior`` leaves open, else `index_rough`; arguments as there.

    Raises
    ------
    IndexingError
        If there are fewer than four spots, or some are no numbers.
    """
    known = indexer.prior if prior is None else prior
    wide = is_wide(indexer.instrument.detector if detector is None else detector, known)
    search = index_rough if wide else Indexer.index
    return search(indexer, spots, detector, prior=known, cell_sigma=cell_sigma, complete=complete)


def is_wide(detector: Detector, prior: GeometryPrior) -> bool:
    """Whether a pose within ``prior`` may distort the pattern by more than one search bears: it takes several hypotheses.

    On lists of Si, FePS3 and quartz with 60 % missing (12 each) the plain search then finds 0.92 with the narrowest such
    priors and 0.3 to 0.7 at twice to thrice their width; `index_rough` finds all, and 0.8 to 1. Below, both find all.
    """
    return not prior.known and len(hypotheses(detector, *distortions(detector, prior))) > 1


def distortions(detector: Detector, prior: GeometryPrior) -> tuple[FloatArray, FloatArray]:
    """Changes of the pose (5, 5), a row each, in the order of `GEOMETRY_PARAMETERS`, and what each does to the normals (5,).

    The rows are one standard deviation of the prior along its principal distortions; the second number is the root mean
    square, per direction and over the sensor, of what no turn of the crystal takes up, rad, largest first.
    """
    grid = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 21) for n in detector.shape[::-1])), axis=-1).reshape(
        -1, 2
    )
    grid = grid[detector.sees(grid)]
    sigmas = prior.sigmas(detector)
    fields = [_left_over(grid, detector, row) for row in np.diag(sigmas)]
    _, spread, mixture = np.linalg.svd(np.stack([f.ravel() for f in fields], axis=1), full_matrices=False)
    return mixture * sigmas, spread / np.sqrt(2.0 * len(grid))


def _left_over(pixels: FloatArray, detector: Detector, shift: FloatArray, small: float = 0.05) -> FloatArray:
    """Change (n, 3) of the normals of pixels (n, 2) by a shift (5,) of the pose, to first order, less the best rotation."""
    normals = pixel_normals(pixels, detector)
    change = (pixel_normals(pixels, detector.moved(*(float(s) for s in small * shift))) - normals) / small
    design = np.cross(np.eye(3), normals[:, None]).transpose(0, 2, 1).reshape(-1, 3)
    turn = np.linalg.lstsq(design, change.ravel(), rcond=None)[0]
    return np.asarray(change - (design @ turn).reshape(-1, 3))


def hypotheses(detector: Detector, shifts: FloatArray, spread: FloatArray) -> list[Detector]:
    """Poses that leave no pose within `REACH` of the drawing further than half a `STEP` away along any distortion."""
    half = [0.5 * STEP / max(s, 1e-12) for s in spread]
    reach = [int(np.ceil(max(REACH - h, 0.0) / (2.0 * h))) for h in half]
    cells = itertools.product(*(range(-n, n + 1) for n in reach))
    ranked = sorted(
        (sum(max((2 * abs(k) - 1) * h, 0.0) ** 2 for k, h in zip(cell, half, strict=True)), cell)
        for cell in cells
    )
    inside = [cell for far, cell in ranked if far <= REACH**2][:MOST]
    return [
        detector.moved(*(float(x) for x in (2.0 * np.array(half) * cell) @ shifts)) if any(cell) else detector
        for cell in inside
    ]


def _tolerant(few: SpotList, pose: Detector, shifts: FloatArray, spread: FloatArray) -> Sphere:
    """Spots on the sphere, with the tolerance that a hypothesis needs to reach its cell's edges."""
    sphere = on_sphere(few, pose, GeometryPrior())
    variance = sphere.sigma**2
    for shift, size in zip(shifts, spread, strict=True):
        width = min(STEP / max(size, 1e-12), 2.0 * REACH)  # where one cell is enough it holds the prior
        variance = variance + (_left_over(few.pixels, pose, width * shift) ** 2).sum(axis=1) / 24.0
    return sphere._replace(sigma=np.sqrt(variance))


def _vote(indexer: Indexer, sphere: Sphere, seeds: int, most: int = 2) -> list[FloatArray]:
    """The best orientations (3, 3) under one hypothesis."""
    found = indexer.candidates(sphere, seeds=seeds)
    return [found.u[k] for k in np.argsort(-found.score)[:most] if found.score[k] > 4.0]


def _refined(
    indexer: Indexer,
    u: FloatArray,
    few: SpotList,
    sphere: Sphere,
    drawn: Detector,
    pose: Detector,
    prior: GeometryPrior,
) -> _Candidate:
    """A candidate with a pose of its own, under the whole prior."""
    px_per_rad = 2.0 * pose.distance_mm / max(pose.pixel_mm)
    reach = max(3.0 * float(np.median(sphere.sigma)) * px_per_rad, 3.0)
    fit = refine(
        indexer.table,
        u,
        drawn,
        few,
        start=pose,
        prior=prior,
        tolerance_px=reach,
        strongest=max(len(few) // 2, 30),
    )
    return _scored(indexer, fit, few)


def _scored(indexer: Indexer, fit: Refinement, spots: SpotList) -> _Candidate:
    exact = on_sphere(spots, fit.detector, GeometryPrior(), POSE_PX)
    score = indexer.score(fit.u, exact, fit.detector).score - fit.occam
    return _Candidate(score, indexer.chance(exact), fit)


def _look(
    indexer: Indexer,
    candidate: _Candidate,
    spots: SpotList,
    drawn: Detector,
    prior: GeometryPrior,
    tried: int,
) -> IndexResult:
    """Index anew from the pose of a candidate; the confidence pays for the freedom of the pose and for each hypothesis."""
    near = SETTLED * drawn.distance_mm
    result = indexer.index(spots, candidate.fit.detector, prior=GeometryPrior(near, near, SETTLED_DEG))
    settled = indexer.settle(result, spots, drawn, prior=prior)
    if settled.refinement is None:
        return settled
    whole = _scored(indexer, settled.refinement, spots)
    odds = (1.0 - result.confidence) / max(result.confidence, 1e-12)
    odds += float(np.exp(np.clip(TEMPER * (whole.chance + 5.0 - whole.score), -50.0, 50.0)))
    return replace(result, confidence=1.0 / (1.0 + tried * odds))
