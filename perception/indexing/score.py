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

from lauepilot.perception.indexing.catalogue import Rays, cell_of
from lauepilot.perception.indexing.gauss_newton import rotate
from lauepilot.perception.indexing.sphere import Sphere
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.kernels import PackedDetector, trace_pattern

#: Assumed shares while searching, before anything is known.
FALSE_SHARE, FOUND_SHARE = 0.8, 0.3

#: What a spot that fits nothing costs while searching.
_MISS = float(np.log(FALSE_SHARE))


@njit(cache=True)
def rate_at(rays: Rays, ray: int, s: float) -> float:
    """Expected rate of a ray at ``sin(theta) = s``; zero outside the table."""
    rate = rays.rate
    x = (s - rays.s_min) / rays.s_step
    if x < 0.0 or x > rate.shape[1] - 1:
        return 0.0
    k = min(int(x), rate.shape[1] - 2)
    return float(rate[ray, k] + (x - k) * (rate[ray, k + 1] - rate[ray, k]))


@njit(cache=True)
def _to_crystal(u: FloatArray, normals: FloatArray, j: int) -> tuple[float, float, float]:
    """Normal j (laboratory) in the crystal's frame."""
    nx, ny, nz = normals[j, 0], normals[j, 1], normals[j, 2]
    return (
        u[0, 0] * nx + u[1, 0] * ny + u[2, 0] * nz,
        u[0, 1] * nx + u[1, 1] * ny + u[2, 1] * nz,
        u[0, 2] * nx + u[1, 2] * ny + u[2, 2] * nz,
    )


@njit(cache=True)
def _gap2(rays: Rays, r: int, x: float, y: float, z: float) -> float:
    dx, dy, dz = rays.direction[r, 0] - x, rays.direction[r, 1] - y, rays.direction[r, 2] - z
    return float(dx * dx + dy * dy + dz * dz)


@njit(cache=True)
def quick_score(
    u: FloatArray, spots: Sphere, wider: float, rays: Rays, faint: float, start: int, give_up: float
) -> float:
    """Score of orientation ``u`` on positions and visibility alone, tolerances ``wider`` times the spots'; stops early
    once it falls below ``give_up``.

    Rays of rate ``faint`` are visible half of the time. Spots are taken from ``start`` on, round about: all bright ones may
    be false, so no fixed order is safe.
    """
    m = spots.normals.shape[0]
    total = 0.0
    j = start
    for _ in range(m):
        x, y, z = _to_crystal(u, spots.normals, j)
        c = cell_of(x, y, z)
        sigma2 = wider * wider * spots.sigma[j] * spots.sigma[j]
        limit = min(16.0 * sigma2, rays.reach_rad * rays.reach_rad)
        near = 0.0
        for e in range(rays.starts[c], rays.starts[c + 1]):
            r = rays.members[e]
            d2 = _gap2(rays, r, x, y, z)
            if d2 < limit:
                value = rate_at(rays, r, spots.sines[j])
                near += value / (value + faint) * np.exp(-0.5 * d2 / sigma2)
        if near > 0.0:
            total += np.log(FALSE_SHARE + FOUND_SHARE * near / (2.0 * np.pi * sigma2 * spots.density[j]))
        else:
            total += _MISS
        if total < give_up:
            return float(total)
        j = j + 1 if j + 1 < m else 0
    return total


@njit(cache=True)
def polish(u: FloatArray, spots: Sphere, rays: Rays, faint: float, rounds: int) -> tuple[FloatArray, int]:
    """Least squares of the orientation over the spots that have a ray near, with shrinking tolerance; number
    of spots used.
    """
    out = u.copy()
    used = 0
    a = np.empty(6)
    b = np.empty(3)
    normals = spots.normals
    for turn in range(rounds):
        reach = 4.0 if turn == 0 else 3.0
        a[:] = 0.0
        b[:] = 0.0
        used = 0
        for j in range(normals.shape[0]):
            x, y, z = _to_crystal(out, normals, j)
            c = cell_of(x, y, z)
            sigma2 = spots.sigma[j] * spots.sigma[j]
            best, which = min(reach * reach * sigma2, rays.reach_rad * rays.reach_rad), -1
            for e in range(rays.starts[c], rays.starts[c + 1]):
                r = rays.members[e]
                d2 = _gap2(rays, r, x, y, z)
                if d2 < best and rate_at(rays, r, spots.sines[j]) > 0.1 * faint:
                    best, which = d2, r
            if which < 0:
                continue
            g = rays.direction[which]
            px = out[0, 0] * g[0] + out[0, 1] * g[1] + out[0, 2] * g[2]
            py = out[1, 0] * g[0] + out[1, 1] * g[1] + out[1, 2] * g[2]
            pz = out[2, 0] * g[0] + out[2, 1] * g[1] + out[2, 2] * g[2]
            w = 1.0 / sigma2
            used += 1
            # n = p + w x p: normal equations (|p|^2 1 - p p^T) w = p x n.
            a[0] += w * (1.0 - px * px)
            a[1] += w * (1.0 - py * py)
            a[2] += w * (1.0 - pz * pz)
            a[3] -= w * px * py
            a[4] -= w * px * pz
            a[5] -= w * py * pz
            b[0] += w * (py * normals[j, 2] - pz * normals[j, 1])
            b[1] += w * (pz * normals[j, 0] - px * normals[j, 2])
            b[2] += w * (px * normals[j, 1] - py * normals[j, 0])
        if used < 2:
            return out, used
        a[:3] += 1e-6 * (a[0] + a[1] + a[2]) + 1e-12
        rotate(out, _solve(a, b))
    return out, used


@njit(cache=True)
def _solve(a: FloatArray, b: FloatArray) -> FloatArray:
    """Solution of symmetric equations, ``a`` = (xx, yy, zz, xy, xz, yz), by Cramer's rule."""
    xx, yy, zz, xy, xz, yz = a
    c0, c1, c2 = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    det = xx * c0 + xy * c1 + xz * c2
    return np.array(
        [
            (c0 * b[0] + c1 * b[1] + c2 * b[2]) / det,
            (c1 * b[0] + (xx * zz - xz * xz) * b[1] + (xy * xz - xx * yz) * b[2]) / det,
            (c2 * b[0] + (xy * xz - xx * yz) * b[1] + (xx * yy - xy * xy) * b[2]) / det,
        ]
    )


@njit(cache=True)
def near_rays(u: FloatArray, spots: Sphere, rays: Rays, faint: float, out: NDArray[np.bool_]) -> int:
    """Mark in ``out`` (m) the spots within three sigma of a visible ray; returns their number."""
    count = 0
    for j in range(spots.normals.shape[0]):
        x, y, z = _to_crystal(u, spots.normals, j)
        c = cell_of(x, y, z)
        limit = min(9.0 * spots.sigma[j] * spots.sigma[j], rays.reach_rad * rays.reach_rad)
        out[j] = False
        for e in range(rays.starts[c], rays.starts[c + 1]):
            r = rays.members[e]
            if _gap2(rays, r, x, y, z) < limit and rate_at(rays, r, spots.sines[j]) > 0.1 * faint:
                out[j] = True
                break
        count += out[j]
    return count


@njit(cache=True)
def rivals(best: FloatArray, rotations: FloatArray, spots: Sphere, rays: Rays, faint: float) -> FloatArray:
    """Of the orientations ``best @ rotations`` (k, 3, 3) those (n, 3, 3) that explain the spots too, polished.

    Too: more than a quarter of what ``best`` scores with double tolerances, 0.3 after polishing.
    """
    level = quick_score(best, spots, 1.0, rays, faint, 0, -1e9)
    found = np.empty((rotations.shape[0], 3, 3))
    n = 0
    for k in range(rotations.shape[0]):
        u = best @ rotations[k]
        if quick_score(u, spots, 2.0, rays, faint, 0, -6.0) < 0.25 * level:
            continue
        u, _ = polish(u, spots, rays, faint, 4)
        if quick_score(u, spots, 1.0, rays, faint, 0, -1e9) > 0.3 * level:
            found[n] = u
            n += 1
    return found[:n].copy()


@njit(cache=True)
def full_score(
    u: FloatArray, spots: Sphere, rays: Rays, detector: PackedDetector, intensity_floor: float
) -> tuple[float, int, float]:
    """Score with shares, intensity scale and intensity scatter fitted; also spots explained and visible spots
    expected.

    The scale of intensities is the median over the spots that fit, the scatter their robust width (never below
    ``intensity_floor``); the shares come from a few steps of expectation maximisation.
    """
    m = spots.normals.shape[0]
    n = rays.direction.shape[0]
    sigma, log_counts = spots.sigma, spots.log_counts
    scratch = np.empty(n)
    ray = np.empty(n // 2 + 1, np.int64)
    pixel = np.empty((n // 2 + 1, 2))
    seen = np.empty(n // 2 + 1)
    count = trace_pattern(
        u,
        rays.columns,
        rays.rate,
        rays.s_min,
        rays.s_step,
        detector,
        rays.polarisation,
        True,
        scratch,
        ray,
        pixel,
        seen,
    )
    expected = np.zeros(n)
    for i in range(count):
        expected[ray[i]] = seen[i]
    best_d2 = np.full(m, 1e9)
    best_ray = np.full(m, -1, np.int64)
    for j in range(m):
        x, y, z = _to_crystal(u, spots.normals, j)
        c = cell_of(x, y, z)
        limit = min(16.0 * sigma[j] * sigma[j], rays.reach_rad * rays.reach_rad)
        top = -1.0
        for e in range(rays.starts[c], rays.starts[c + 1]):
            r = rays.members[e]
            d2 = _gap2(rays, r, x, y, z)
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
            2.0 * np.pi * sigma[j] * sigma[j] * spots.density[j]
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
