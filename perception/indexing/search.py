"""The exhaustive search: axis vote from seed spots, candidates checked by likelihood.

One spot is taken to be one ray. Only the turn about that axis is unknown; every other spot looks up the rays
at its angle from the seed and votes for turns. Turns with more votes than chance gives are checked by `quick_score`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.stats import poisson

from lauepilot.perception.indexing.catalogue import ANGLE_SHIFT, TURN, PairLists, Rays
from lauepilot.perception.indexing.score import near_rays, polish, quick_score, rate_at
from lauepilot.perception.indexing.sphere import Sphere
from lauepilot.simulator.conventions import FloatArray

#: Turns are counted in bins of 2**VOTE_SHIFT 16-bit units (0.35 degrees); a vote reaches at most PAD bins beyond the circle.
VOTE_SHIFT, PAD = 6, 16
AZIMUTHS = TURN >> VOTE_SHIFT

#: Half width of the window in which a spot votes, in standard deviations of the two spots' angle.
WINDOW = 2.2

#: Peaks of the vote above the threshold, by chance, per ray that is tried.
FALSE_ALARMS = 0.1

#: How often the search may end at an impostor for want of seeds; how often a true seed finds the truth.
MISSED, FINDS = 1e-2, 0.8

#: Share of the spots that no twin-like orientation explains (they share a third); pseudosymmetric ones, which may,
#: are tested by name afterwards.
CLEAR = 0.65

#: Steps of the brightness classes, and how far a true spot's ray may be outside the brightness that its rank tells, both in
#: the natural logarithm.
STEP, BAND = 0.25, 0.9

_MEANS = 16
#: Least votes that are worth a check, by the mean number of votes in a bin (in steps of 1 / 16).
_THRESHOLD = np.maximum(
    poisson.isf(FALSE_ALARMS / AZIMUTHS * 2.0, np.arange(1, 1025) / _MEANS) + 1, 2
).astype(np.int64)


class Found(NamedTuple):
    """What a search leaves behind.

    ``u`` (k, 3, 3) and ``score`` (k) of the best distinct orientations, unused ones at -1e9; ``seeds`` tried; ``work`` done,
    in pairs of spots looked at; ``complete``: whether the search ended by its own rules, not by the limit on work.
    """

    u: FloatArray
    score: FloatArray
    seeds: int
    work: int
    complete: bool


class Brightness(NamedTuple):
    """How bright to expect which ray where, in steps of `STEP` of the natural logarithm.

    ``classes`` (64, voters): the rate in the middle of each 64th of the table's range of ``sin(theta)``, as steps above
    ``floor`` (a logarithm), plus one; zero where there is none. ``levels`` (n, 2): between which logarithms of the rate the
    brightest spot of a pattern lies, the second, and so on, in most orientations. ``parts``: 64ths per ``sin(theta)``.
    """

    classes: NDArray[np.uint8]
    floor: float
    levels: FloatArray
    parts: float


def brightness(rays: Rays, voters: int, levels: FloatArray) -> Brightness:
    """`Brightness` of the first ``voters`` rays; ``levels`` as `pattern_levels` gives them."""
    floor = float(levels[-1, 0]) - 3.0
    return Brightness(
        _classes(rays, voters, floor), floor, levels, 64.0 / (rays.s_step * (rays.rate.shape[1] - 1))
    )


@njit(cache=True)
def _classes(rays: Rays, voters: int, floor: float) -> NDArray[np.uint8]:
    out = np.zeros((64, voters), np.uint8)
    width = rays.s_step * (rays.rate.shape[1] - 1) / 64.0
    for r in range(voters):
        for b in range(64):
            out[b, r] = _class(rate_at(rays, r, rays.s_min + (b + 0.5) * width), floor)
    return out


@njit(cache=True)
def _class(rate: float, floor: float) -> int:
    if rate <= 0.0:
        return 0
    return min(max(int((np.log(rate) - floor) / STEP), 0), 254) + 1


@njit(cache=True)
def search(
    few: Sphere,
    every: Sphere,
    rays: Rays,
    pairs: PairLists,
    bright: Brightness,
    faint: float,
    enough: float,
    symmetry: FloatArray,
    most_seeds: int,
    most_work: int,
) -> Found:
    """The best distinct orientations: searched with ``few`` spots (brightest first), scored with ``every`` spot.

    In a first pass each spot may only be a ray about as bright as the spot's rank tells; in the second any ray that is not
    much fainter than ``faint``. At most ``most_seeds`` seeds vote in each.

    A score of ``enough`` does not end the search at once: a twin-like impostor may be met before the truth. An impostor that
    scores so well shares spots with the truth: of the spots that it explains, all but those explained by chance are
    true. So these are the next seeds, and the search goes on until the truth would have been missed once in
    ``1 / MISSED``.
    """
    m = few.normals.shape[0]
    found_u = np.zeros((12, 3, 3))
    found_score = np.full(12, -1e9)
    used = np.zeros(m, np.bool_)
    explained = np.zeros(m, np.bool_)
    reached = np.full(m, -1e9)
    ordered = np.empty((m, 7), np.int64)
    votes = np.zeros(AZIMUTHS + PAD, np.int16)
    turns = np.empty(m * (bright.classes.shape[1] + 1), np.int64)
    spot = np.empty((3, m), np.int64)
    by_chance = 0.0
    for j in range(m):
        spot[0, j] = min(max(int((few.sines[j] - rays.s_min) * bright.parts), 0), 63)
        by_chance += 1.0 - np.exp(-27.0 * np.pi * few.density[j] * few.sigma[j] ** 2)
    work = 0
    seeds = 0
    for everything in range(2):
        used[:] = False
        for j in range(m):
            if everything == 0:
                rank = min(j, len(bright.levels) - 1)
                spot[1, j] = _class(np.exp(bright.levels[rank, 0] - BAND), bright.floor)
                spot[2, j] = _class(np.exp(bright.levels[rank, 1] + BAND), bright.floor)
            else:
                spot[1, j], spot[2, j] = _class(0.4 * faint, bright.floor), 255
        top = -1
        while True:
            # The next seed: the brightest that is left, of those that the best answer explains if that is a good one.
            i = -1
            for j in range(m):
                if not used[j] and (i < 0 or (top >= 0 and explained[j] and not explained[i])):
                    i = j
            if i < 0 or seeds == most_seeds * (everything + 1):
                break
            used[i] = True
            seeds += 1
            reached[i] = -1e9
            frame = _frame(few.normals[i])
            count = _around(few, i, frame, spot, pairs.first.shape[1], ordered)
            for a in range(pairs.representative.shape[0]):
                shade = bright.classes[spot[0, i], pairs.representative[a]]
                if shade < spot[1, i] or shade > spot[2, i]:
                    continue
                touched, least = _vote(pairs, a, bright.classes, ordered, count, turns, votes)
                work += touched
                if least < 0:
                    continue
                b = 0
                while b < AZIMUTHS:
                    if votes[b] < least or votes[b] < votes[b - 1 if b > 0 else AZIMUTHS - 1]:
                        b += 1
                        continue
                    # The middle of a plateau.
                    e = b
                    while e + 1 < AZIMUTHS and votes[e + 1] == votes[b]:
                        e += 1
                    if votes[e + 1] <= votes[b]:
                        turn = (0.5 * (b + e) + 0.5) * (2.0 * np.pi / AZIMUTHS)
                        u = _oriented(frame, turn, pairs.axes[a])
                        work += m
                        if quick_score(u, few, 1.7, rays, faint, (7 * b) % m, -12.0) >= 4.0:
                            u, _ = polish(u, few, rays, faint, 4)
                            u, _ = polish(u, every, rays, faint, 2)
                            score = quick_score(u, every, 1.0, rays, faint, 0, -1e9)
                            reached[i] = max(reached[i], score)
                            _keep(u, score, symmetry, found_u, found_score)
                            work += 5 * m + 3 * every.normals.shape[0]
                    b = e + 1
            best = int(np.argmax(found_score))
            if found_score[best] > enough:
                share = near_rays(found_u[best], few, rays, faint, explained)
                if share > CLEAR * m:
                    return Found(found_u, found_score, seeds, work, True)
                true = max(1.0 - by_chance / max(share, 1), 0.3)
                # A seed that does not even find this answer again proves nothing.
                tried = 0
                for j in range(m):
                    tried += used[j] and explained[j] and reached[j] > found_score[best] - 2.0
                if tried * np.log(1.0 - FINDS * true) < np.log(MISSED):
                    return Found(found_u, found_score, seeds, work, True)
                top = best
            if work > most_work:
                return Found(found_u, found_score, seeds, work, False)
    return Found(found_u, found_score, seeds, work, True)


@njit(cache=True)
def _frame(n: FloatArray) -> FloatArray:
    """Right-handed axes (3, 3) as columns, the last along ``n``."""
    k = 0
    for i in range(1, 3):
        if abs(n[i]) < abs(n[k]):
            k = i
    h = np.zeros(3)
    h[k] = 1.0
    out = np.empty((3, 3))
    x, y, z = h[1] * n[2] - h[2] * n[1], h[2] * n[0] - h[0] * n[2], h[0] * n[1] - h[1] * n[0]
    length = np.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    out[0, 0], out[1, 0], out[2, 0] = x, y, z
    out[0, 1], out[1, 1], out[2, 1] = n[1] * z - n[2] * y, n[2] * x - n[0] * z, n[0] * y - n[1] * x
    out[0, 2], out[1, 2], out[2, 2] = n[0], n[1], n[2]
    return out


@njit(cache=True)
def _oriented(frame: FloatArray, turn: float, axes: FloatArray) -> FloatArray:
    """The orientation (3, 3) that brings a ray with ``axes`` onto a seed with ``frame``, after a turn about it."""
    c, s = np.cos(turn), np.sin(turn)
    u = np.empty((3, 3))
    for i in range(3):
        x, y, z = c * frame[i, 0] + s * frame[i, 1], c * frame[i, 1] - s * frame[i, 0], frame[i, 2]
        for k in range(3):
            u[i, k] = x * axes[k, 0] + y * axes[k, 1] + z * axes[k, 2]
    return u


@njit(cache=True)
def _around(
    spots: Sphere, i: int, frame: FloatArray, spot: NDArray[np.int64], bins: int, out: NDArray[np.int64]
) -> int:
    """The spots about seed i by growing angle; returns their number.

    Columns of ``out`` (m, 7): the first and the end of the angle bins to look up, the azimuth of the first bin to vote for
    (16-bit units), the number of bins, and ``spot`` (3, m): the part of the range of ``sin(theta)``, the faintest and the
    brightest class that its ray may have.
    """
    m = spots.normals.shape[0]
    angle = np.empty(m)
    for j in range(m):
        angle[j] = -1.0
        if j != i:
            z = 0.0
            for k in range(3):
                z += spots.normals[j, k] * frame[k, 2]
            angle[j] = np.arccos(min(max(z, -1.0), 1.0))
    order = np.argsort(angle)
    units = float(TURN >> ANGLE_SHIFT)
    count = 0
    for k in range(m):
        j = order[k]
        across = np.sin(angle[j])
        if angle[j] < 0.0 or across < 0.05:
            continue
        x = y = 0.0
        for c in range(3):
            x += spots.normals[j, c] * frame[c, 0]
            y += spots.normals[j, c] * frame[c, 1]
        tolerance = WINDOW * np.sqrt(spots.sigma[i] ** 2 + spots.sigma[j] ** 2)
        low = int(max(angle[j] - tolerance, 0.0) / np.pi * units + 0.25)
        high = int((angle[j] + tolerance) / np.pi * units + 0.75)
        if high >= bins:
            break
        out[count, 0], out[count, 1] = low, high
        # So many bins of the vote, centred on the spot's azimuth.
        wide = min(max(int(tolerance / across / np.pi * AZIMUTHS + 1.5), 3), PAD)
        out[count, 2] = int((np.arctan2(y, x) / (2.0 * np.pi) - 0.5 * (wide - 1) / AZIMUTHS) * TURN) & (
            TURN - 1
        )
        out[count, 3] = wide
        out[count, 4], out[count, 5], out[count, 6] = spot[0, j], spot[1, j], spot[2, j]
        count += 1
    return count


@njit(cache=True)
def _vote(
    pairs: PairLists,
    a: int,
    classes: NDArray[np.uint8],
    ordered: NDArray[np.int64],
    count: int,
    turns: NDArray[np.int64],
    votes: NDArray[np.int16],
) -> tuple[int, int]:
    """Count the votes of all spots if the seed is ray a. Returns the pairs looked at, and the least votes worth a check; -1
    if no bin reaches them. ``turns`` is scratch space.
    """
    votes[:] = 0
    entries = pairs.entry[pairs.row[a] : pairs.row[a + 1]]
    first = pairs.first[a]
    # Unsigned indices spare the test for negative ones.
    touched = 0
    some = 0
    for t in range(count):
        spot = ordered[t]
        start, end = np.int64(first[np.uint32(spot[0])]), np.int64(first[np.uint32(spot[1])])
        azimuth, wide, faintest, span = spot[2], spot[3], spot[5], np.uint8(spot[6] - spot[5])
        shades = classes[np.uint32(spot[4])]
        touched += int(end - start)
        # Collected without a branch: half of them would be predicted wrongly.
        for e in range(start, end):
            entry = np.int64(entries[np.uint32(e)])
            turns[np.uint32(some)] = ((azimuth - entry) & (TURN - 1)) >> VOTE_SHIFT | wide << 16
            some += int(np.uint8(shades[np.uint32(entry >> 16)] - faintest) <= span)
    cast = 3 * some
    for k in range(some):
        turn = turns[np.uint32(k)]
        wide = turn >> 16
        turn &= TURN - 1
        votes[np.uint32(turn)] += 1
        votes[np.uint32(turn + 1)] += 1
        votes[np.uint32(turn + 2)] += 1
        if wide > 3:
            cast += wide - 3
            for b in range(turn + 3, turn + wide):
                votes[b] += 1
    for b in range(PAD):
        votes[b] += votes[b + AZIMUTHS]
        votes[b + AZIMUTHS] = votes[b]
    least = _THRESHOLD[min(int(cast * (_MEANS / AZIMUTHS)), len(_THRESHOLD) - 1)]
    top = votes[0]
    for b in range(AZIMUTHS):
        top = max(top, votes[b])
    return touched + 64, least if top >= least else -1


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
