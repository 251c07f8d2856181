"""The exhaustive search: axis vote from seed spots, candidates checked by likelihood.

One spot is taken to be one ray. Only the turn about that axis is unknown; every other spot looks up the rays
at its angle from the seed and votes for turns. Turns with enough votes are checked by `quick_score`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.indexing.catalogue import ANGLE_BINS, PairLists, SphereGrid
from lauepilot.perception.indexing.score import near_rays, polish, quick_score, rate_at
from lauepilot.simulator.conventions import FloatArray

#: Azimuth bins of the vote, and candidates kept for checking per seed.
AZIMUTHS, QUEUE = 2048, 48

#: How often the search may end at an impostor for want of seeds.
MISSED = 2e-3

#: Share of the spots that no twin-like orientation explains (they share a third); pseudosymmetric ones, which may,
#: are tested by name afterwards.
CLEAR = 0.65


@njit(cache=True)
def search(
    normals: FloatArray,
    sines: FloatArray,
    sigma: FloatArray,
    density: FloatArray,
    seeds: NDArray[np.int64],
    directions: FloatArray,
    rate: NDArray[np.float32],
    s_min: float,
    s_step: float,
    grid: SphereGrid,
    pairs: PairLists,
    faint: float,
    enough: float,
    symmetry: FloatArray,
    found_u: FloatArray,
    found_score: FloatArray,
) -> int:
    """Fill ``found_u`` (k, 3, 3) and ``found_score`` (k) with the best distinct orientations; returns seeds used.

    A score of ``enough`` does not end the search at once: a twin-like impostor may be met before the truth. If
    it explains a share p of the spots, the truth explains more, so that each further seed that it leaves
    unexplained is true with probability p at least: the search goes on until the truth would have been missed
    once in ``MISSED``.
    """
    m = normals.shape[0]
    votes = np.zeros(AZIMUTHS, np.int32)
    stamp = np.full(AZIMUTHS, -1, np.int32)
    width = 2.0 * np.pi / AZIMUTHS
    angle = np.empty(m)
    azimuth = np.empty(m)
    tolerance = np.empty(m)
    spread = np.empty(m, np.int64)
    queue_votes = np.empty(QUEUE, np.int32)
    queue_rep = np.empty(QUEUE, np.int64)
    queue_turn = np.empty(QUEUE)
    found_score[:] = -1e9
    luck = 0.0
    used = 0
    explained = np.zeros(m, np.bool_)
    for q in range(len(seeds)):
        i = seeds[q]
        if explained[i]:
            continue
        used += 1
        n = normals[i]
        h = np.zeros(3)
        h[np.argmin(np.abs(n))] = 1.0
        f1 = np.array([h[1] * n[2] - h[2] * n[1], h[2] * n[0] - h[0] * n[2], h[0] * n[1] - h[1] * n[0]])
        f1 /= np.sqrt((f1 * f1).sum())
        f2 = np.array([n[1] * f1[2] - n[2] * f1[1], n[2] * f1[0] - n[0] * f1[2], n[0] * f1[1] - n[1] * f1[0]])
        for j in range(m):
            x, y, z = (normals[j] * f1).sum(), (normals[j] * f2).sum(), (normals[j] * n).sum()
            across = np.sqrt(x * x + y * y)
            angle[j] = np.arctan2(across, z)
            azimuth[j] = np.arctan2(y, x)
            tolerance[j] = 2.5 * np.sqrt(sigma[i] * sigma[i] + sigma[j] * sigma[j])
            spread[j] = min(int(tolerance[j] / max(across, 0.05) / width + 0.5), 12)
            if j == i or across < 0.05:
                tolerance[j] = -1.0
        queued = 0
        weakest = 3
        for a in range(pairs.representative.shape[0]):
            if rate_at(rate, pairs.representative[a], sines[i], s_min, s_step) < 0.3 * faint:
                continue
            votes[:] = 0
            stamp[:] = -1
            for j in range(m):
                if tolerance[j] < 0.0:
                    continue
                low, high = angle[j] - tolerance[j], angle[j] + tolerance[j]
                e = pairs.first[a, max(int(low / np.pi * ANGLE_BINS), 0)]
                while e < pairs.angle.shape[1] and pairs.angle[a, e] < high:
                    if pairs.angle[a, e] > low:
                        r = pairs.ray[a, e]
                        if rate_at(rate, r, sines[j], s_min, s_step) > 0.5 * faint:
                            turn = azimuth[j] - pairs.azimuth[a, e]
                            centre = int(np.floor(turn / width))
                            for k in range(centre - spread[j], centre + spread[j] + 1):
                                b = k % AZIMUTHS
                                if stamp[b] != j:
                                    stamp[b] = j
                                    votes[b] += 1
                    e += 1
            b = 0
            while b < AZIMUTHS:
                if votes[b] >= weakest and votes[b] >= votes[b - 1] and votes[b] > 2:
                    # The middle of a plateau.
                    e = b
                    while e + 1 < AZIMUTHS and votes[e + 1] == votes[b]:
                        e += 1
                    if e + 1 == AZIMUTHS or votes[e + 1] < votes[b]:
                        slot = -1
                        if queued < QUEUE:
                            slot = queued
                            queued += 1
                        else:
                            slot = int(np.argmin(queue_votes))
                            if queue_votes[slot] >= votes[b]:
                                slot = -1
                            else:
                                weakest = max(weakest, queue_votes[slot])
                        if slot >= 0:
                            queue_votes[slot] = votes[b]
                            queue_rep[slot] = a
                            queue_turn[slot] = (0.5 * (b + e) + 0.5) * width
                    b = e + 1
                else:
                    b += 1
        order = np.argsort(-queue_votes[:queued])
        frame = np.stack((f1, f2, n), axis=1)
        for o in range(queued):
            slot = order[o]
            c, s = np.cos(queue_turn[slot]), np.sin(queue_turn[slot])
            about = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
            u = frame @ about @ np.ascontiguousarray(pairs.axes[queue_rep[slot]].T)
            score = quick_score(
                u,
                normals,
                sines,
                1.7 * sigma,
                density,
                directions,
                rate,
                s_min,
                s_step,
                grid,
                faint,
                (7 * o) % m,
                -15.0,
            )
            if score < 4.0:
                continue
            u, _ = polish(u, normals, sines, sigma, directions, rate, s_min, s_step, grid, faint, 4)
            score = quick_score(
                u, normals, sines, sigma, density, directions, rate, s_min, s_step, grid, faint, 0, -1e9
            )
            _keep(u, score, symmetry, found_u, found_score)
        top = np.argmax(found_score)
        if found_score[top] > enough:
            share = near_rays(
                found_u[top], normals, sines, sigma, directions, rate, s_min, s_step, grid, faint, explained
            )
            luck += np.log(1.0 - min(share / m, 0.99))
            if luck < np.log(MISSED) or share > CLEAR * m:
                break
    return used


@njit(cache=True)
def _keep(
    u: FloatArray, score: float, symmetry: FloatArray, found_u: FloatArray, found_score: FloatArray
) -> None:
    """Keep an orientation among the best, once (within 0.2 degrees and up to symmetry)."""
    worst = np.argmin(found_score)
    if score <= found_score[worst]:
        return
    for k in range(len(found_score)):
        if found_score[k] < -1e8:
            continue
        relative = found_u[k].T @ u
        for i in range(symmetry.shape[0]):
            if (relative * symmetry[i]).sum() > 3.0 - 1.2e-5:
                if score > found_score[k]:
                    found_score[k] = score
                    found_u[k] = u
                return
    found_score[worst] = score
    found_u[worst] = u
