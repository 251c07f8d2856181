"""Any lattice from four zone axes: no family, no intensities.

Zone axes are directions of the direct lattice, and crowded zones are low-index ones. Three of them, with a fourth as their
sum, fix a lattice up to scale (the projective frame): the spots then tell whether it is the crystal's, or one related.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.unknown import kernels
from lauepilot.perception.unknown.axes import Axis, axes_at
from lauepilot.perception.unknown.sky import Sky
from lauepilot.simulator.conventions import FloatArray

#: Zone axes that are combined, and distances at which they are.
ZONES, NODES = 16, 3
#: Allowed error of normals while frames are compared.
WIDTH = 0.002
#: Thinnest triple of axes (volume of unit vectors), and least part of the fourth along each.
FLAT, PART = 0.08, 0.08


@njit(cache=True, fastmath=True)
def _frames(
    normals: FloatArray,
    sigma2: FloatArray,
    axes: FloatArray,
    crowd: float,
    width: float,
    keep: int,
    scores: FloatArray,
    bases: FloatArray,
) -> int:
    """The best lattices from four axes: scores (keep,) and bases (keep, 3, 3) with direct axes in columns."""  # fmt: skip
    n, m = len(sigma2), len(axes)
    hkl, chance, d2 = np.zeros((n, 3), np.int64), np.zeros(n), np.zeros(n)
    basis, inverse, ub = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    some = min(n, 40)
    found = 0
    for i in range(m):
        for j in range(i):
            for k in range(j):
                for p in range(3):
                    basis[p, 0], basis[p, 1], basis[p, 2] = axes[i, p], axes[j, p], axes[k, p]
                det = kernels.inverse_of(basis, inverse)
                if abs(det) < FLAT:
                    continue
                for el in range(k):  # each set of four once: which of them is the sum does not matter
                    parts = inverse @ axes[el]
                    if min(abs(parts[0]), abs(parts[1]), abs(parts[2])) < PART:
                        continue
                    for p in range(3):
                        for q in range(3):
                            ub[p, q] = inverse[q, p] / parts[q]
                    volume = abs(1.0 / (det * parts[0] * parts[1] * parts[2]))
                    first = kernels.assess(
                        normals[:some], sigma2[:some], ub, volume, crowd, width * width, 0, hkl, chance, d2
                    )
                    if first < 1.2 * some:
                        continue
                    score = kernels.assess(
                        normals, sigma2, ub, volume, crowd, width * width, 0, hkl, chance, d2
                    )
                    if found == keep and score <= scores[keep - 1]:
                        continue
                    if found < keep:
                        found += 1
                    at = found - 1
                    while at > 0 and scores[at - 1] < score:
                        scores[at] = scores[at - 1]
                        bases[at] = bases[at - 1]
                        at -= 1
                    scores[at] = score
                    for p in range(3):
                        for q in range(3):
                            bases[at, p, q] = basis[p, q] * parts[q]
    return found


def lattices_of_zones(sky: Sky, axes: list[Axis], keep: int = 30) -> list[tuple[float, FloatArray, float]]:
    """Candidates: score, direct basis (3, 3) in columns (holder's frame, any scale), distance in mm."""
    if len(axes) < 4:
        return []
    weight = np.zeros(len(sky.nodes))
    directions: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    start = np.stack([axis.directions[0] for axis in axes])
    for node in range(len(sky.nodes)):
        here, surprise = axes_at(sky, node, start)
        order = np.argsort(-surprise)[:ZONES]
        weight[node] = surprise[order].sum()
        directions.append((here[order], surprise[order]))
    out = []
    # The spots in an order that mixes frames and brightness, so that the first of them speak for all.
    mixed = np.random.default_rng(1).permutation(len(sky))
    for node in np.argsort(-weight)[:NODES]:
        chosen = np.ascontiguousarray(directions[node][0])
        scores, bases = np.zeros(keep), np.zeros((keep, 3, 3))
        found = _frames(
            np.ascontiguousarray(sky.normals[node][mixed]), sky.sigma2[mixed], chosen, len(sky) / sky.area, WIDTH,
            keep, scores, bases,
        )  # fmt: skip
        out += [(float(scores[f]), bases[f].copy(), float(np.exp(sky.nodes[node]))) for f in range(found)]
    out.sort(key=lambda row: -row[0])
    return out[:keep]
