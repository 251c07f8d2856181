"""Frames of a known crystal for the instrument's fit: each indexed by itself, and named alike by one goniometer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from lauepilot.perception.indexing.indexer import Indexer, IndexingError, IndexResult
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.indexing.rough import index_by_prior
from lauepilot.perception.instrument_fit_model import Chain
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray, rotation_angle, rotation_matrix, rotation_vector
from lauepilot.simulator.detector import Detector

#: Confidence from which on a frame's orientation is believed.
SURE = 0.999

#: A pose found in one frame is believed to these: four standard deviations of what a usual frame tells, and more.
_SETTLED = GeometryPrior(distance_mm=0.3, centre_mm=0.3, tilt_deg=0.3)

#: Error of one frame's orientation, play and wander of its pose included, rad.
_FRAME = np.deg2rad(0.1)

#: Frames that agree, of all, from which on no other sense of the axes is tried.
_ENOUGH = 0.8

#: An orientation may be off by so much (rad) before it counts as wrongly indexed.
_NEAR = np.deg2rad(1.0)


@dataclass(frozen=True, eq=False)
class Shot:
    """Spots of one frame with the read-backs of the axes (degrees, mm) it was taken at."""

    spots: SpotList
    axes: Mapping[str, float]


def index_shots(
    indexer: Indexer, shots: list[Shot], detector: Detector, prior: GeometryPrior
) -> tuple[list[IndexResult | None], Detector]:
    """Index frames one by one; the pose found in the surest so far is where the next begins.

    Frames that failed while nobody knew the pose are tried again in the end.

    Returns
    -------
    results, detector
        None where a frame holds too few spots; the pose of the frame with most spots explained.
    """
    results: list[IndexResult | None] = [None] * len(shots)
    pose, most = detector, 0
    for again in (False, True):
        for i, shot in enumerate(shots):
            before = results[i]
            if before is not None and before.confidence >= SURE:
                continue
            if again and most == 0:
                break
            try:
                found = index_by_prior(indexer, shot.spots, pose, prior=_SETTLED if most else prior)
            except IndexingError:
                continue
            results[i] = found
            if found.confidence >= SURE and found.refinement is not None and found.n_indexed > most:
                pose, most = found.refinement.detector, found.n_indexed
    return results, pose


@dataclass(frozen=True, eq=False)
class Rough:
    """Axes and crystal from the orientations of frames alone.

    Attributes
    ----------
    tilts
        (k, 2) of the axes from the chain they were drawn in.
    chain
        The drawn chain, with axes turned about that run the other way.
    reversed_axes
        Names of these.
    u
        (3, 3) of the crystal on the holder.
    used
        Indices of frames that agree.
    """

    tilts: FloatArray
    chain: Chain
    reversed_axes: tuple[str, ...]
    u: FloatArray
    used: tuple[int, ...]


def fit_orientations(
    chain: Chain,
    angles: FloatArray,
    orientations: dict[int, FloatArray],
    symmetry: FloatArray,
    sigma: FloatArray,
) -> Rough:
    """Directions of axes from laboratory orientations (3, 3) of some frames, each known up to the crystal's symmetry.

    Every axis is also tried the other way round: a wrong sign is a usual mistake in an instrument's description.

    Parameters
    ----------
    chain
        As drawn.
    angles
        (n, k) of all frames, radians.
    orientations
        By frame.
    symmetry
        (s, 3, 3) proper rotations of the crystal.
    sigma
        (k,) how far each axis may be from its drawn direction, radians.
    """
    numbers = sorted(orientations)
    seen, at = np.stack([orientations[i] for i in numbers]), angles[numbers]
    best: tuple[tuple[int, float], Rough] | None = None
    senses = itertools.product((1.0, -1.0), repeat=len(chain.names))
    # One frame names the others; should it be indexed wrongly, another one does.
    for signs, first in itertools.product(senses, range(min(3, len(numbers)))):
        flipped = Chain(chain.goniometer(chain.directions * np.array(signs)[:, None]))
        tilts, u, misfit = _one_way(flipped, at, seen, symmetry, sigma, first)
        good = misfit < _NEAR
        rank = (-int(good.sum()), float(np.sum(misfit[good])) + 1e-6 * signs.count(-1.0))
        wrong = tuple(n for n, s in zip(chain.names, signs, strict=True) if s < 0.0)
        if best is None or rank < best[0]:
            used = tuple(n for n, g in zip(numbers, good, strict=True) if g)
            best = (rank, Rough(tilts, flipped, wrong, u, used))
        if good.mean() >= _ENOUGH:
            break
    if best is None:
        raise ValueError("There is no rotation axis to fit.")
    return best[1]


def _one_way(
    chain: Chain, angles: FloatArray, seen: FloatArray, symmetry: FloatArray, sigma: FloatArray, first: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Tilts, crystal and what is left (n,) in radians, for one choice of senses."""
    shape = (len(chain.names), 2)
    tilts, u = np.zeros(shape), chain.matrices(chain.directions, angles[[first]])[0].T @ seen[first]
    misfit = np.full(len(seen), np.inf)
    # Frames near to that one are named first: what is learnt of the axes from them names those far away.
    distance = np.linalg.norm(angles - angles[first], axis=1)
    order = np.argsort(distance)
    sizes = sorted({min(len(seen), 4), min(len(seen), 8), len(seen)})
    for size in (*sizes, len(seen)):
        some = order[:size]
        expected = chain.matrices(chain.turned(tilts), angles[some]) @ u
        alike = seen[some][:, None] @ symmetry[None]
        away = rotation_angle(np.einsum("nsij,nkj->nsik", alike, expected))
        named = alike[np.arange(size), np.argmin(away, axis=1)]

        fit = least_squares(
            _left,
            np.concatenate([tilts.ravel(), np.zeros(3)]),
            loss="soft_l1",
            max_nfev=25,
            args=(chain, angles[some], named, u, sigma),
        )
        tilts, u = fit.x[:-3].reshape(shape), rotation_matrix(fit.x[-3:]) @ u
        if size == len(seen):
            z = chain.matrices(chain.turned(tilts), angles[some])
            misfit[some] = rotation_angle(named @ (z @ u).transpose(0, 2, 1))
    return tilts, u, misfit


def _left(
    x: FloatArray, chain: Chain, angles: FloatArray, named: FloatArray, u: FloatArray, sigma: FloatArray
) -> FloatArray:
    """What tilts and a turn of the crystal, ``x`` (2 k + 3,), leave of orientations ``named`` (n, 3, 3), over its error."""
    tilts = x[:-3].reshape(-1, 2)
    z = chain.matrices(chain.turned(tilts), angles)
    gap = rotation_vector(named @ (z @ rotation_matrix(x[-3:]) @ u).transpose(0, 2, 1))
    return np.concatenate([gap.ravel() / _FRAME, (tilts / sigma[:, None]).ravel()])


def split_zeros(
    chain: Chain, directions: FloatArray, axis_sigma: float, zero_sigma: float
) -> tuple[FloatArray, FloatArray]:
    """Directions at read-backs of zero, told apart into zeros and true directions: the likeliest way, since none is certain.

    A zero of axis ``i`` turns all axes inside it about it, so that only the sum of both shows. Of all ways to share it
    the one is taken that makes zeros (over ``zero_sigma``) and misdirections (over ``axis_sigma``) least, both radians.
    The last axis' zero turns nothing but the crystal: it is left at zero.

    Returns
    -------
    zeros, directions
        (k,) radians to add to read-backs, and (k, 3) the axes' directions with these zeros.
    """
    n = len(chain.names)

    def apart(zeros: FloatArray) -> FloatArray:
        turn, out = np.eye(3), []
        for direction, zero in zip(directions, (*zeros, 0.0), strict=True):
            true = turn.T @ direction
            out.append(true)
            turn = turn @ rotation_matrix(true * zero)
        return np.array(out)

    def left(zeros: FloatArray) -> FloatArray:
        tilt = chain.tilts(apart(zeros))
        return np.concatenate([tilt.ravel() / axis_sigma, zeros / zero_sigma])

    zeros = least_squares(left, np.zeros(n - 1)).x if n > 1 else np.zeros(0)
    return np.append(zeros, 0.0), apart(zeros)
