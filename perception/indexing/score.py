"""How well an orientation explains a list of spots: a likelihood that knows the chance rate.

Spots are a Poisson process on the sphere of plane normals: at spot j the density is ``lambda_0 (f + rho
t_j)``, where ``lambda_0`` is the local density of the whole list, ``f`` the share of false spots, ``rho`` the
share of visible spots that were found, and ``t_j`` sums over the rays near it: probability to be visible,
Gaussian in position, Gaussian in log intensity, over ``lambda_0``. The score is the log-likelihood ratio to
"all spots are false"; a spot that fits nothing costs ``log f`` and no more.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.indexing.catalogue import SphereGrid, cell_of
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.kernels import PackedDetector, trace_pattern

#: Assumed shares while searching, before anything is known.
FALSE_SHARE, FOUND_SHARE = 0.6, 0.5


@njit(cache=True, inline="always")
def rate_at(rate: NDArray[np.float32], ray: int, s: float, s_min: float, s_step: float) -> float:
    """Expected rate of a ray at ``sin(theta) = s``; zero outside the table."""
    x = (s - s_min) / s_step
    if x < 0.0 or x > rate.shape[1] - 1:
        return 0.0
    k = min(int(x), rate.shape[1] - 2)
    return float(rate[ray, k] + (x - k) * (rate[ray, k + 1] - rate[ray, k]))


@njit(cache=True)
def quick_score(
    u: FloatArray,
    normals: FloatArray,
    sines: FloatArray,
    sigma: FloatArray,
    density: FloatArray,
    directions: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    grid: SphereGrid,
    faint: float,
    start: int,
    give_up: float,
) -> float:
    """Score of orientation ``u`` on positions and visibility alone; stops early once it falls below ``give_up``.

    Spots are taken from ``start`` on, round about: all bright ones may be false, so no fixed order is safe.
    """
    m = normals.shape[0]
    total = 0.0
    for step in range(m):
        j = (start + step) % m
        x = u[0, 0] * normals[j, 0] + u[1, 0] * normals[j, 1] + u[2, 0] * normals[j, 2]
        y = u[0, 1] * normals[j, 0] + u[1, 1] * normals[j, 1] + u[2, 1] * normals[j, 2]
        z = u[0, 2] * normals[j, 0] + u[1, 2] * normals[j, 1] + u[2, 2] * normals[j, 2]
        c = cell_of(x, y, z)
        limit = min(16.0 * sigma[j] * sigma[j], grid.reach_rad * grid.reach_rad)
        near = 0.0
        for e in range(grid.starts[c], grid.starts[c + 1]):
            r = grid.members[e]
            dx, dy, dz = directions[r, 0] - x, directions[r, 1] - y, directions[r, 2] - z
            d2 = dx * dx + dy * dy + dz * dz
            if d2 < limit:
                value = rate_at(rate, r, sines[j], s_min, s_step)
                near += value / (value + faint) * np.exp(-0.5 * d2 / (sigma[j] * sigma[j]))
        near /= 2.0 * np.pi * sigma[j] * sigma[j] * density[j]
        total += np.log(FALSE_SHARE + FOUND_SHARE * near)
        if total < give_up:
            return float(total)
    return total


@njit(cache=True)
def polish(
    u: FloatArray,
    normals: FloatArray,
    sines: FloatArray,
    sigma: FloatArray,
    directions: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    grid: SphereGrid,
    faint: float,
    rounds: int,
) -> tuple[FloatArray, int]:
    """Least squares of the orientation over the spots that have a ray near, with shrinking tolerance; number
    of spots used.
    """
    out = u.copy()
    used = 0
    for turn in range(rounds):
        reach = 4.0 if turn == 0 else 3.0
        a = np.zeros((3, 3))
        b = np.zeros(3)
        used = 0
        for j in range(normals.shape[0]):
            nx, ny, nz = normals[j, 0], normals[j, 1], normals[j, 2]
            x = out[0, 0] * nx + out[1, 0] * ny + out[2, 0] * nz
            y = out[0, 1] * nx + out[1, 1] * ny + out[2, 1] * nz
            z = out[0, 2] * nx + out[1, 2] * ny + out[2, 2] * nz
            c = cell_of(x, y, z)
            limit = min(reach * reach * sigma[j] * sigma[j], grid.reach_rad * grid.reach_rad)
            best, which = limit, -1
            for e in range(grid.starts[c], grid.starts[c + 1]):
                r = grid.members[e]
                dx, dy, dz = directions[r, 0] - x, directions[r, 1] - y, directions[r, 2] - z
                d2 = dx * dx + dy * dy + dz * dz
                if d2 < best and rate_at(rate, r, sines[j], s_min, s_step) > 0.1 * faint:
                    best, which = d2, r
            if which < 0:
                continue
            g = directions[which]
            px = out[0, 0] * g[0] + out[0, 1] * g[1] + out[0, 2] * g[2]
            py = out[1, 0] * g[0] + out[1, 1] * g[1] + out[1, 2] * g[2]
            pz = out[2, 0] * g[0] + out[2, 1] * g[1] + out[2, 2] * g[2]
            w = 1.0 / (sigma[j] * sigma[j])
            used += 1
            # n = p + w x p: normal equations (|p|^2 1 - p p^T) w = p x n.
            a[0, 0] += w * (1.0 - px * px)
            a[1, 1] += w * (1.0 - py * py)
            a[2, 2] += w * (1.0 - pz * pz)
            a[0, 1] -= w * px * py
            a[0, 2] -= w * px * pz
            a[1, 2] -= w * py * pz
            b[0] += w * (py * nz - pz * ny)
            b[1] += w * (pz * nx - px * nz)
            b[2] += w * (px * ny - py * nx)
        if used < 2:
            return out, used
        a[1, 0], a[2, 0], a[2, 1] = a[0, 1], a[0, 2], a[1, 2]
        for i in range(3):
            a[i, i] += 1e-6 * (a[0, 0] + a[1, 1] + a[2, 2]) + 1e-12
        rotate(out, np.linalg.solve(a, b).astype(np.float64))
    return out, used


@njit(cache=True)
def near_rays(
    u: FloatArray,
    normals: FloatArray,
    sines: FloatArray,
    sigma: FloatArray,
    directions: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    grid: SphereGrid,
    faint: float,
    out: NDArray[np.bool_],
) -> int:
    """Mark in ``out`` (m) the spots within three sigma of a visible ray; returns their number."""
    count = 0
    for j in range(normals.shape[0]):
        nx, ny, nz = normals[j, 0], normals[j, 1], normals[j, 2]
        x = u[0, 0] * nx + u[1, 0] * ny + u[2, 0] * nz
        y = u[0, 1] * nx + u[1, 1] * ny + u[2, 1] * nz
        z = u[0, 2] * nx + u[1, 2] * ny + u[2, 2] * nz
        c = cell_of(x, y, z)
        limit = min(9.0 * sigma[j] * sigma[j], grid.reach_rad * grid.reach_rad)
        out[j] = False
        for e in range(grid.starts[c], grid.starts[c + 1]):
            r = grid.members[e]
            dx, dy, dz = directions[r, 0] - x, directions[r, 1] - y, directions[r, 2] - z
            if (
                dx * dx + dy * dy + dz * dz < limit
                and rate_at(rate, r, sines[j], s_min, s_step) > 0.1 * faint
            ):
                out[j] = True
        count += out[j]
    return count


@njit(cache=True)
def rotate(u: FloatArray, w: FloatArray) -> None:
    """Replace ``u`` by ``exp(w) u`` (Rodrigues)."""
    angle = np.sqrt(w[0] * w[0] + w[1] * w[1] + w[2] * w[2])
    if angle < 1e-15:
        return
    x, y, z = w[0] / angle, w[1] / angle, w[2] / angle
    c, s = np.cos(angle), np.sin(angle)
    t = 1.0 - c
    r = np.array(
        [
            [c + x * x * t, x * y * t - z * s, x * z * t + y * s],
            [y * x * t + z * s, c + y * y * t, y * z * t - x * s],
            [z * x * t - y * s, z * y * t + x * s, c + z * z * t],
        ]
    )
    u[:] = r @ u


@njit(cache=True)
def full_score(
    u: FloatArray,
    normals: FloatArray,
    sines: FloatArray,
    sigma: FloatArray,
    density: FloatArray,
    log_counts: FloatArray,
    directions: FloatArray,
    directions_t: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    grid: SphereGrid,
    detector: PackedDetector,
    polarisation: float,
    intensity_floor: float,
) -> tuple[float, int, float]:
    """Score with shares, intensity scale and intensity scatter fitted; also spots explained and visible spots
    expected.

    The scale of intensities is the median over the spots that fit, the scatter their robust width (never below
    ``intensity_floor``); the shares come from a few steps of expectation maximisation.
    """
    m = normals.shape[0]
    n = directions.shape[0]
    scratch = np.empty(n)
    ray = np.empty(n // 2 + 1, np.int64)
    pixel = np.empty((n // 2 + 1, 2))
    seen = np.empty(n // 2 + 1)
    count = trace_pattern(
        u, directions_t, rate, s_min, s_step, detector, polarisation, True, scratch, ray, pixel, seen
    )
    expected = np.zeros(n)
    for i in range(count):
        expected[ray[i]] = seen[i]
    best_d2 = np.full(m, 1e9)
    best_ray = np.full(m, -1, np.int64)
    for j in range(m):
        x = u[0, 0] * normals[j, 0] + u[1, 0] * normals[j, 1] + u[2, 0] * normals[j, 2]
        y = u[0, 1] * normals[j, 0] + u[1, 1] * normals[j, 1] + u[2, 1] * normals[j, 2]
        z = u[0, 2] * normals[j, 0] + u[1, 2] * normals[j, 1] + u[2, 2] * normals[j, 2]
        c = cell_of(x, y, z)
        limit = min(16.0 * sigma[j] * sigma[j], grid.reach_rad * grid.reach_rad)
        top = -1.0
        for e in range(grid.starts[c], grid.starts[c + 1]):
            r = grid.members[e]
            dx, dy, dz = directions[r, 0] - x, directions[r, 1] - y, directions[r, 2] - z
            d2 = dx * dx + dy * dy + dz * dz
            # Of several rays near a spot the brightest, weighed by distance, stands for it.
            value = expected[r] * np.exp(-0.5 * d2 / (sigma[j] * sigma[j]))
            if d2 < limit and value > top:
                top, best_d2[j], best_ray[j] = value, d2, r
    near = 0
    ratio = np.empty(m)
    for j in range(m):
        if best_ray[j] >= 0 and expected[best_ray[j]] > 0.0 and best_d2[j] < 6.0 * sigma[j] * sigma[j]:
            ratio[near] = log_counts[j] - np.log(expected[best_ray[j]])
            near += 1
    if near < 2:
        return -1e9, near, 0.0
    scale = np.median(ratio[:near])
    scatter = max(1.4826 * np.median(np.abs(ratio[:near] - scale)), intensity_floor)
    mean, wide = np.mean(log_counts), max(np.std(log_counts), 0.3)
    # Half of the spots as faint as the faintest found are missed.
    limit_rate = np.exp(np.min(log_counts) - scale)
    visible = 0.0
    for i in range(count):
        visible += seen[i] / (seen[i] + limit_rate)
    t = np.zeros(m)
    for j in range(m):
        r = best_ray[j]
        if r < 0 or expected[r] <= 0.0:
            continue
        spread = (log_counts[j] - scale - np.log(expected[r])) / scatter
        outer = (log_counts[j] - mean) / wide
        bright = 0.9 * np.exp(-0.5 * spread * spread) / scatter + 0.1 * np.exp(-0.5 * outer * outer) / wide
        false = np.exp(-0.5 * outer * outer) / wide
        position = np.exp(-0.5 * best_d2[j] / (sigma[j] * sigma[j])) / (
            2.0 * np.pi * sigma[j] * sigma[j] * density[j]
        )
        t[j] = expected[r] / (expected[r] + limit_rate) * position * bright / false
    rho, f = 0.5, 0.5
    for _ in range(8):
        explained = 0.0
        for j in range(m):
            explained += rho * t[j] / (rho * t[j] + f)
        rho = min(max(explained / max(visible, 1e-9), 1e-3), 1.0)
        f = max((m - explained) / m, 1e-3)
    total, explained = 0.0, 0.0
    for j in range(m):
        total += np.log(rho * t[j] + f)
        explained += rho * t[j] / (rho * t[j] + f)
    # At the maximum rho V + f M = M; away from it (shares at their bounds) the difference counts.
    total += m - rho * visible - f * m
    return total, int(explained + 0.5), visible
