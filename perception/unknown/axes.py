"""Symmetry axes and zones of spots, by position alone.

Equivalent reflections have equal structure factors, so that a pattern keeps its mirror planes whatever the crystal's
atoms are. A plane normal and its mirror image differ by a vector along the mirror's normal, which is also a two-fold axis of
the lattice; two normals of a zone have the zone axis as their cross product. All pairs vote on a map of directions, for each
distance of the detector; what stands out is counted again, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.unknown.sky import Sky
from lauepilot.simulator.conventions import FloatArray

#: Cells along an edge of the cube that directions are sorted on: 0.4 degrees wide.
EDGE = 290
#: Pairs nearer than this (sine) tell a direction too badly.
NEAR = 0.06
#: Tolerance (rad) of the exact count, beyond the spots' own errors.
EXACT = 0.0015
#: Distances at which an axis surprises at least this share of its best are believed; every so-manieth of them is tried.
BELIEVED, THIN = 0.65, 3


@njit(cache=True, inline="always")
def _cell(x: float, y: float, z: float) -> int:
    """Cell of a direction on a cube of which opposite faces are one."""
    ax, ay, az = abs(x), abs(y), abs(z)
    if ax >= ay and ax >= az:
        face, p, q = 0, y / x, z / x
    elif ay >= az:
        face, p, q = 1, x / y, z / y
    else:
        face, p, q = 2, x / z, y / z
    i = int((p + 1.0) * 0.5 * (EDGE - 1))
    j = int((q + 1.0) * 0.5 * (EDGE - 1))
    return (face * EDGE + i) * EDGE + j


@njit(cache=True)
def _vote(normals: FloatArray, zones: bool, votes: NDArray[np.int32], touched: NDArray[np.int64]) -> int:
    count = 0
    for i in range(len(normals)):
        a0, a1, a2 = normals[i]
        for j in range(i):
            b0, b1, b2 = normals[j]
            for kind in range(1 if zones else 2):
                if zones:
                    x, y, z = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
                elif kind == 0:
                    x, y, z = a0 - b0, a1 - b1, a2 - b2
                else:
                    x, y, z = a0 + b0, a1 + b1, a2 + b2
                length = math.sqrt(x * x + y * y + z * z)
                if length < NEAR:
                    continue
                cell = _cell(x / length, y / length, z / length)
                if votes[cell] == 0:
                    touched[count] = cell
                    count += 1
                votes[cell] += 1
    return count


@njit(cache=True)
def _peaks(
    votes: NDArray[np.int32], touched: NDArray[np.int64], count: int, most: int, out: FloatArray
) -> int:
    """Directions of the fullest 2 x 2 blocks of cells; clears the votes."""
    size = EDGE * EDGE
    best = np.zeros(most, np.int64)
    place = np.zeros(most, np.int64)
    for t in range(count):
        cell = touched[t]
        rest = cell % size
        i, j = rest // EDGE, rest % EDGE
        if i == 0 or j == 0 or i == EDGE - 1 or j == EDGE - 1:
            total = votes[cell]
        else:
            total = (
                votes[cell]
                + max(votes[cell + 1], votes[cell - 1])
                + max(votes[cell + EDGE], votes[cell - EDGE])
            )
        if total <= best[most - 1]:
            continue
        k = most - 1
        while k > 0 and best[k - 1] < total:
            best[k], place[k] = best[k - 1], place[k - 1]
            k -= 1
        best[k], place[k] = total, cell
    found = 0
    for k in range(most):
        if best[k] < 2:
            break
        cell = place[k]
        face, rest = cell // size, cell % size
        p = (rest // EDGE + 0.5) / (EDGE - 1) * 2.0 - 1.0
        q = (rest % EDGE + 0.5) / (EDGE - 1) * 2.0 - 1.0
        x, y, z = (1.0, p, q) if face == 0 else ((p, 1.0, q) if face == 1 else (p, q, 1.0))
        length = math.sqrt(x * x + y * y + z * z)
        new = True
        for other in range(found):
            if abs(out[other, 0] * x + out[other, 1] * y + out[other, 2] * z) / length > 1.0 - 5e-5:
                new = False
        if new:
            out[found, 0], out[found, 1], out[found, 2] = x / length, y / length, z / length
            found += 1
    for t in range(count):
        votes[touched[t]] = 0
    return found


@njit(cache=True, fastmath=True)
def _recount(
    normals: FloatArray, sigma2: FloatArray, axis: FloatArray, area: float, zones: bool, width: float
) -> tuple[float, float]:
    """Move an axis to the mean of what supports it; gives the surprise (nats) of as many mirror pairs, and of the zone."""
    n = len(normals)
    pairs, on_zone = 0.0, 0.0
    fitted = np.zeros((3, 3))
    mean = np.zeros(3)
    for i in range(n):
        a = normals[i]
        along = a[0] * axis[0] + a[1] * axis[1] + a[2] * axis[2]
        if along * along < width * width + 4.0 * sigma2[i]:
            on_zone += 1.0
            if zones:
                for p in range(3):
                    for q in range(3):
                        fitted[p, q] += a[p] * a[q]
        m0, m1, m2 = a[0] - 2.0 * along * axis[0], a[1] - 2.0 * along * axis[1], a[2] - 2.0 * along * axis[2]
        for j in range(i):
            b = normals[j]
            # The image and its opposite: a two-fold turn is the mirror and an inversion.
            sign = 1.0 if m0 * b[0] + m1 * b[1] + m2 * b[2] > 0.0 else -1.0
            d0, d1, d2 = m0 - sign * b[0], m1 - sign * b[1], m2 - sign * b[2]
            if d0 * d0 + d1 * d1 + d2 * d2 > 4.0 * width * width + 4.0 * (sigma2[i] + sigma2[j]):
                continue
            v0, v1, v2 = a[0] - sign * b[0], a[1] - sign * b[1], a[2] - sign * b[2]
            if v0 * v0 + v1 * v1 + v2 * v2 < NEAR * NEAR:
                continue
            pairs += 1.0
            if v0 * axis[0] + v1 * axis[1] + v2 * axis[2] < 0.0:
                v0, v1, v2 = -v0, -v1, -v2
            mean[0] += v0
            mean[1] += v1
            mean[2] += v2
    if zones and on_zone >= 3.0:
        _, vectors = np.linalg.eigh(fitted)
        sign = (
            1.0 if vectors[0, 0] * axis[0] + vectors[1, 0] * axis[1] + vectors[2, 0] * axis[2] > 0.0 else -1.0
        )
        for p in range(3):
            axis[p] = sign * vectors[p, 0]
    elif not zones and pairs >= 1.0:
        length = math.sqrt(mean[0] ** 2 + mean[1] ** 2 + mean[2] ** 2)
        for p in range(3):
            axis[p] = mean[p] / length
    chance_pairs = 0.5 * n * n * math.pi * 4.0 * width * width / area
    chance_zone = n * 2.0 * width * 1.1 * math.sqrt(area) / area
    return _surprise(pairs, chance_pairs), _surprise(on_zone, chance_zone)


@njit(cache=True, inline="always")
def _surprise(seen: float, expected: float) -> float:
    if seen <= expected:
        return 0.0
    return seen * math.log(seen / expected) - seen + expected


@njit(cache=True)
def _candidates(table: FloatArray, sigma2: FloatArray, area: float, most: int, width: float) -> FloatArray:
    """Rows (m, 6): node, axis (3), surprise of pairs and zone; over all nodes of the ladder."""
    k, n = table.shape[0], table.shape[1]
    votes = np.zeros(3 * EDGE * EDGE, np.int32)
    touched = np.zeros(n * n + 4, np.int64)
    found = np.zeros((most, 3))
    rows = np.zeros((k * 2 * most, 6))
    total = 0
    for node in range(k):
        for zones in (False, True):
            count = _vote(table[node], zones, votes, touched)
            for p in range(_peaks(votes, touched, count, most, found)):
                axis = found[p].copy()
                _recount(table[node], sigma2, axis, area, zones, 3.0 * width)
                _recount(table[node], sigma2, axis, area, zones, 2.0 * width)
                pairs, zone = _recount(table[node], sigma2, axis, area, zones, width)
                rows[total, 0] = node
                rows[total, 1:4] = axis
                rows[total, 4], rows[total, 5] = pairs, zone
                total += 1
    return rows[:total]


@njit(cache=True)
def _follow(
    table: FloatArray,
    sigma2: FloatArray,
    area: float,
    width: float,
    start: int,
    axis: FloatArray,
    zones: bool,
) -> FloatArray:
    """An axis at every node of the ladder, from where it was found: rows (k, 4) of axis and surprise."""
    k = table.shape[0]
    out = np.zeros((k, 4))
    for direction in (1, -1):
        here = axis.copy()
        node = start if direction == 1 else start - 1
        while 0 <= node < k:
            before = here.copy()
            _recount(table[node], sigma2, here, area, zones, 2.0 * width)
            pairs, zone = _recount(table[node], sigma2, here, area, zones, width)
            if pairs + zone == 0.0 or here @ before < 0.9998:
                here = before
            out[node, :3] = here
            out[node, 3] = pairs + zone
            node += direction
    return out


@njit(cache=True)
def _zones_here(
    table: FloatArray, sigma2: FloatArray, area: float, width: float, axes: FloatArray, surprise: FloatArray
) -> None:
    """Move axes (m, 3) to the zones near them; writes how surprising these are."""
    for i in range(len(axes)):
        axis = axes[i].copy()
        _recount(table, sigma2, axis, area, True, 4.0 * width)
        _recount(table, sigma2, axis, area, True, 2.0 * width)
        _, surprise[i] = _recount(table, sigma2, axis, area, True, width)
        axes[i] = axis


def axes_at(sky: Sky, node: int, start: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Zone axes (m, 3) near given ones, at a node of the ladder, and their surprises (m,); each once."""
    axes, surprise = start.copy(), np.zeros(len(start))
    _zones_here(sky.normals[node], sky.sigma2, sky.area, EXACT, axes, surprise)
    for i in range(len(axes)):
        if i and float(np.abs(axes[:i] @ axes[i]).max()) > 1.0 - 5e-5:
            surprise[i] = 0.0
    return axes, surprise


@dataclass(frozen=True, eq=False)
class Axis:
    """A direction that looks like a two-fold axis or a zone axis.

    Attributes
    ----------
    surprise
        Nats of its mirror pairs and its zone, at the best distance.
    nodes
        (m,) nodes of the ladder of distances at which it is believed.
    directions
        (m, 3) unit vectors there.
    """

    surprise: float
    nodes: NDArray[np.int64]
    directions: FloatArray


def find_axes(sky: Sky, most: int = 24, peaks: int = 16) -> list[Axis]:
    """Directions that look like two-fold axes or zone axes, best first."""
    rows = _candidates(sky.normals, sky.sigma2, sky.area, peaks, EXACT)
    rows = rows[np.argsort(-(rows[:, 4] + rows[:, 5]), kind="stable")]
    kept: list[Axis] = []
    taken = np.zeros((0, 3))
    for row in rows:
        if len(taken) and float(np.abs(taken @ row[1:4]).max()) > 1.0 - 1e-4:
            continue
        path = _follow(
            sky.normals, sky.sigma2, sky.area, EXACT, int(row[0]), row[1:4].copy(), bool(row[5] > row[4])
        )
        found = path[int(np.argmax(path[:, 3])), :3]
        if len(taken) and float(np.abs(taken @ found).max()) > 1.0 - 1e-4:
            continue
        taken = np.concatenate([taken, path[:, :3]])
        nodes = np.flatnonzero(path[:, 3] >= BELIEVED * path[:, 3].max())
        nodes = nodes[:: max(1, min(THIN, len(nodes) - 1))] if len(nodes) > 2 else nodes
        kept.append(Axis(float(path[:, 3].max()), nodes, np.ascontiguousarray(path[nodes, :3])))
        if len(kept) == most:
            break
    return kept
