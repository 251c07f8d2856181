"""Compiled refinement of a lattice up to scale: Gauss-Newton on rotation, distance, centre, ratios and tilts.

Indices are assigned anew in each step, within errors that shrink from step to step; see `kernels` for how.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.unknown.kernels import EXPLAINED, assess, fill_b
from lauepilot.simulator.conventions import FloatArray

#: Parameters of a fit before the ratios: rotation (3), ln distance, centre (2). After the ratios: tilts (2), if refined.
COMMON = 6
#: All that can be: with five ratios and two tilts.
MOST = COMMON + 7


@njit(cache=True, fastmath=True)
def normals_at(
    log_d: float,
    pose: FloatArray,
    nodes: FloatArray,
    table: FloatArray,
    slopes: FloatArray,
    out: FloatArray,
    by_distance: FloatArray,
) -> int:
    """Write normals (n, 3) at a distance and pose (4,), and their slope by ln distance. Gives the node."""  # fmt: skip
    step = nodes[1] - nodes[0]
    k: int = min(max(math.floor((log_d - nodes[0]) / step), 0), len(nodes) - 2)
    w = (log_d - nodes[k]) / step
    for i in range(out.shape[0]):
        length2 = 0.0
        for j in range(3):
            by_distance[i, j] = (table[k + 1, i, j] - table[k, i, j]) / step
            out[i, j] = (
                (1.0 - w) * table[k, i, j]
                + w * table[k + 1, i, j]
                + pose[0] * slopes[k, i, 0, j]
                + pose[1] * slopes[k, i, 1, j]
                + pose[2] * slopes[k, i, 2, j]
                + pose[3] * slopes[k, i, 3, j]
            )
            length2 += out[i, j] ** 2
        scale = 1.0 / math.sqrt(length2)
        for j in range(3):
            out[i, j] *= scale
    return k


@njit(cache=True, fastmath=True)
def turn(u: FloatArray, w: FloatArray) -> FloatArray:
    """``exp(w) u`` by Rodrigues' formula."""
    angle = math.sqrt(w[0] ** 2 + w[1] ** 2 + w[2] ** 2)
    if angle < 1e-14:
        return u.copy()
    x, y, z = w[0] / angle, w[1] / angle, w[2] / angle
    c, s = math.cos(angle), math.sin(angle)
    r = np.empty((3, 3))
    r[0, 0], r[0, 1], r[0, 2] = c + x * x * (1 - c), x * y * (1 - c) - z * s, x * z * (1 - c) + y * s
    r[1, 0], r[1, 1], r[1, 2] = y * x * (1 - c) + z * s, c + y * y * (1 - c), y * z * (1 - c) - x * s
    r[2, 0], r[2, 1], r[2, 2] = z * x * (1 - c) - y * s, z * y * (1 - c) + x * s, c + z * z * (1 - c)
    return r @ u


@njit(cache=True, fastmath=True)
def refine(
    u: FloatArray,
    family: int,
    centring: int,
    x: FloatArray,
    log_d: float,
    pose: FloatArray,
    widths: FloatArray,
    prior: FloatArray,
    nodes: FloatArray,
    table: FloatArray,
    slopes: FloatArray,
    sigma2: FloatArray,
    crowd: float,
    hkl: NDArray[np.int64],
    chance: FloatArray,
    d2: FloatArray,
    covariance: FloatArray,
) -> tuple[float, int, float]:
    """Gauss-Newton with indices assigned anew in each step; changes ``u``, ``x`` and ``pose`` in place.

    Parameters
    ----------
    pose
        (4,) what is added to the detector's centre (pixels) and to its tilts about the laboratory's x and y (rad).
    widths
        Allowed error (rad) in each step, from coarse to fine; the last one scores.
    prior
        Standard deviations of ln distance (about its start), of the centre in pixels and of the tilts in rad (about
        zero; tilts with none are left as they are).
    covariance
        (`MOST`, `MOST`), written: rotation, ln distance, centre, ratios, tilts.

    Returns
    -------
    Score in nats, spots explained, ln distance.
    """  # fmt: skip
    n, k = sigma2.shape[0], len(x)
    tilted = COMMON + k
    m = tilted + 2 if prior[2] > 0.0 else tilted
    normals, by_distance = np.empty((n, 3)), np.empty((n, 3))
    b, changed, ub = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    slope_b = np.empty((5, 3, 3))
    row = np.empty((m, 3))
    start = log_d
    score, used = 0.0, 0
    y = x.copy()
    for step in range(len(widths)):
        node = normals_at(log_d, pose, nodes, table, slopes, normals, by_distance)
        det = fill_b(family, x, b)
        for p in range(k):
            y[:] = x
            y[p] += 1e-5
            fill_b(family, y, changed)
            slope_b[p] = u @ ((changed - b) / 1e-5)
        ub[:] = u @ b
        s2 = widths[step] ** 2
        score = assess(normals, sigma2, ub, det, crowd, s2, centring, hkl, chance, d2)
        normal_matrix, right = np.zeros((m, m)), np.zeros(m)
        used = 0
        for i in range(n):
            if chance[i] > EXPLAINED:
                continue
            used += 1
            h = hkl[i]
            g0 = ub[0, 0] * h[0] + ub[0, 1] * h[1] + ub[0, 2] * h[2]
            g1 = ub[1, 0] * h[0] + ub[1, 1] * h[1] + ub[1, 2] * h[2]
            g2 = ub[2, 0] * h[0] + ub[2, 1] * h[1] + ub[2, 2] * h[2]
            length = math.sqrt(g0 * g0 + g1 * g1 + g2 * g2)
            if g0 * normals[i, 0] + g1 * normals[i, 1] + g2 * normals[i, 2] < 0.0:
                length = -length
            g0, g1, g2 = g0 / length, g1 / length, g2 / length
            row[0, 0], row[0, 1], row[0, 2] = 0.0, -g2, g1
            row[1, 0], row[1, 1], row[1, 2] = g2, 0.0, -g0
            row[2, 0], row[2, 1], row[2, 2] = -g1, g0, 0.0
            for j in range(3):
                row[3, j] = -by_distance[i, j]
                row[4, j] = -slopes[node, i, 0, j]
                row[5, j] = -slopes[node, i, 1, j]
            for p in range(tilted, m):
                for j in range(3):
                    row[p, j] = -slopes[node, i, 2 + p - tilted, j]
            for p in range(k):
                a0 = (slope_b[p, 0, 0] * h[0] + slope_b[p, 0, 1] * h[1] + slope_b[p, 0, 2] * h[2]) / length
                a1 = (slope_b[p, 1, 0] * h[0] + slope_b[p, 1, 1] * h[1] + slope_b[p, 1, 2] * h[2]) / length
                a2 = (slope_b[p, 2, 0] * h[0] + slope_b[p, 2, 1] * h[1] + slope_b[p, 2, 2] * h[2]) / length
                along = a0 * g0 + a1 * g1 + a2 * g2
                row[COMMON + p, 0], row[COMMON + p, 1], row[COMMON + p, 2] = (
                    a0 - along * g0,
                    a1 - along * g1,
                    a2 - along * g2,
                )
            # The error is at right angles to the normal: all three components may count.
            v2 = sigma2[i] + 0.1 * s2
            w = 1.0 / (v2 * (1.0 + d2[i] / (9.0 * v2)))
            r0, r1, r2 = normals[i, 0] - g0, normals[i, 1] - g1, normals[i, 2] - g2
            for p in range(m):
                right[p] += w * (row[p, 0] * r0 + row[p, 1] * r1 + row[p, 2] * r2)
                for q in range(p + 1):
                    normal_matrix[p, q] += w * (
                        row[p, 0] * row[q, 0] + row[p, 1] * row[q, 1] + row[p, 2] * row[q, 2]
                    )
        for p in range(m):
            for q in range(p):
                normal_matrix[q, p] = normal_matrix[p, q]
        normal_matrix[3, 3] += 1.0 / prior[0] ** 2
        right[3] -= (log_d - start) / prior[0] ** 2
        for p in range(2):
            normal_matrix[4 + p, 4 + p] += 1.0 / prior[1] ** 2
            right[4 + p] -= pose[p] / prior[1] ** 2
        for p in range(tilted, m):
            normal_matrix[p, p] += 1.0 / prior[2] ** 2
            right[p] -= pose[2 + p - tilted] / prior[2] ** 2
        for p in range(m):
            normal_matrix[p, p] += 1e-3
        for p in range(k):
            normal_matrix[COMMON + p, COMMON + p] += 400.0
        inverse = np.linalg.inv(normal_matrix)
        if step == len(widths) - 1:
            covariance[:m, :m] = inverse
            break
        shift = inverse @ right
        size = 0.0
        for p in range(m):
            if p != 4 and p != 5:
                size = max(size, abs(shift[p]))
        if size > 0.1:
            shift *= 0.1 / size
        u[:] = turn(u, shift[:3])
        log_d = min(max(log_d + shift[3], nodes[0]), nodes[-1])
        pose[0] += shift[4]
        pose[1] += shift[5]
        for p in range(tilted, m):
            pose[2 + p - tilted] += shift[p]
        for p in range(k):
            x[p] += shift[COMMON + p]
    return score, used, log_d


@njit(cache=True)
def refine_all(
    us: FloatArray,
    families: NDArray[np.int64],
    centrings: NDArray[np.int64],
    xs: FloatArray,
    log_ds: FloatArray,
    widths: FloatArray,
    prior: FloatArray,
    nodes: FloatArray,
    table: FloatArray,
    slopes: FloatArray,
    sigma2: FloatArray,
    crowd: float,
    counts: NDArray[np.int64],
    poses: FloatArray,
) -> tuple[FloatArray, NDArray[np.int64]]:
    """`refine` of many, in place; ``counts`` (7,): ratios of each family; ``poses`` (n, 4) are written."""  # fmt: skip
    n = sigma2.shape[0]
    hkl, chance, d2 = np.zeros((n, 3), np.int64), np.zeros(n), np.zeros(n)
    covariance = np.zeros((MOST, MOST))
    scores, used = np.zeros(len(us)), np.zeros(len(us), np.int64)
    for i in range(len(us)):
        u, x = us[i].copy(), xs[i, : counts[families[i]]].copy()
        poses[i] = 0.0
        scores[i], used[i], log_ds[i] = refine(
            u, families[i], centrings[i], x, log_ds[i], poses[i], widths, prior, nodes, table, slopes, sigma2,
            crowd, hkl, chance, d2, covariance,
        )  # fmt: skip
        us[i] = u
        xs[i, : len(x)] = x
    return scores, used
