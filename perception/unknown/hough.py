"""From one axis to a whole lattice: every spot, taken as every low-index direction, votes for what is left.

For a uniaxial lattice with a known axis there are left the turn about that axis and c/a: two numbers, which a spot and its
indices fix. True indices agree, wrong ones are strewn.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.unknown.result import Proposal
from lauepilot.perception.unknown.sky import Sky
from lauepilot.simulator.conventions import FloatArray

Votes = NDArray[np.float32]

#: c/a that are tried; bins of ln(c/a) and of the turn.
RATIO = (0.3, 7.0)
RATIO_STEP = 0.012
#: Error (rad) allowed to a spot's angle to the axis: that of the axis and of the distance's ladder.
WIDTH = 0.005
TURN_STEP = math.radians(0.5)
#: A direction votes if about as many others are as short as spots were seen, times this.
CROWD = 1.6

#: Kinds of axis: family, angle of the axis from a* in the basal plane (None: the axis is c), period of the turn.
KINDS: tuple[tuple[str, float | None, float], ...] = (
    ("tetragonal", None, math.pi / 2),
    ("tetragonal", 0.0, math.pi),
    ("tetragonal", math.pi / 4, math.pi),
    ("hexagonal", None, math.pi / 3),
    ("hexagonal", 0.0, math.pi),
    ("hexagonal", math.pi / 6, math.pi),
)
#: Axes of a cubic lattice, with the period of the turn.
CUBIC = (((0.0, 0.0, 1.0), math.pi / 2), ((1.0, 1.0, 0.0), math.pi), ((1.0, 1.0, 1.0), 2.0 * math.pi / 3))


@lru_cache(maxsize=32)
def _pool(family: str, angle: float | None) -> FloatArray:
    """Directions (n, 6): components in the basal plane (2; the axis is the first, if it lies there) and along c for c/a = 1.

    Then a bound on size by which they are sorted, the azimuth in the basal plane, and ln of (part along c / in the
    plane)^2. Those with no part along c, or only that, tell nothing of c/a and are left out. Where the axis is c, one
    sector of its turns is enough.
    """
    h, k, el = np.meshgrid(np.arange(-7, 8), np.arange(-7, 8), np.arange(1, 26), indexing="ij")
    hkl = np.stack([h, k, el], axis=-1).reshape(-1, 3)
    hkl = hkl[(np.gcd.reduce(hkl, axis=1) == 1) & (hkl[:, :2] != 0).any(axis=1)]
    if family == "tetragonal":
        x, y = hkl[:, 0].astype(float), hkl[:, 1].astype(float)
    else:
        x, y = 2.0 / math.sqrt(3.0) * (hkl[:, 0] + 0.5 * hkl[:, 1]), hkl[:, 1].astype(float)
    z = hkl[:, 2].astype(float)
    if angle is None:
        sector = math.pi / 2 if family == "tetragonal" else math.pi / 3
        turn = np.arctan2(y, x)
        keep = (turn > -1e-9) & (turn < sector - 1e-9)
        out = np.stack([x, y, z], axis=1)[keep]
    else:
        out = np.stack(
            [x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle), z], 1
        )
        out = out[out[:, 0] > -1e-6]
        out[np.abs(out[:, 0]) < 1e-6, 0] = 0.0
    flat2 = (out[:, :2] ** 2).sum(axis=1)
    out, flat2 = out[flat2 <= 49.0], flat2[flat2 <= 49.0]
    # A lower bound on what decides whether a direction votes: see `_uniaxial`.
    bound = (flat2 * out[:, 2]) ** 2 if angle is None else out[:, 0] ** 4 * out[:, 2] ** 2
    extra = np.stack([bound, np.arctan2(out[:, 1], out[:, 0]), np.log(out[:, 2] ** 2 / flat2)], axis=1)
    return np.ascontiguousarray(np.concatenate([out, extra], axis=1)[np.argsort(bound)])


@lru_cache(maxsize=4)
def _cubic_pool(axis: tuple[float, float, float]) -> FloatArray:
    """Directions (n, 3) of a cubic lattice, seen along ``axis`` as the last coordinate, with lengths; sorted by cosine."""
    h = np.arange(-9, 10)
    hkl = np.stack(np.meshgrid(h, h, h, indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[np.gcd.reduce(hkl, axis=1) == 1]
    length = np.linalg.norm(hkl, axis=1)
    along = hkl @ np.array(axis) / np.linalg.norm(axis)
    first, second = _across_in_crystal(np.array(axis))
    azimuth = np.arctan2(hkl @ second, hkl @ first)
    keep = (along > 1e-6) & (length <= 12.0)
    out = np.stack([along / length, azimuth, length], axis=1)[keep]
    return np.ascontiguousarray(out[np.argsort(out[:, 0])])


def _across_in_crystal(axis: FloatArray) -> tuple[FloatArray, FloatArray]:
    unit = axis / np.linalg.norm(axis)
    first = np.array([1.0, 0.0, 0.0]) if abs(unit[0]) < 0.1 else np.array([unit[1], -unit[0], 0.0])
    first = first / np.linalg.norm(first)
    return first, np.cross(unit, first)


@njit(cache=True)
def across(axis: FloatArray, out: FloatArray) -> None:
    """Two unit vectors that make a right-handed set with the axis as the third."""
    k = 0
    for j in range(1, 3):
        if abs(axis[j]) < abs(axis[k]):
            k = j
    helper = np.zeros(3)
    helper[k] = 1.0
    out[0] = np.cross(helper, axis)
    out[0] /= math.sqrt(np.sum(out[0] ** 2))
    out[1] = np.cross(axis, out[0])


@njit(cache=True, fastmath=True)
def _uniaxial(
    normals: FloatArray,
    axis: FloatArray,
    pool: FloatArray,
    basal: bool,
    period: float,
    volume: float,
    limit: float,
    votes: Votes,
    low: float,
    width: float,
) -> None:
    """Fill ``votes`` (turn, ln c/a), with all c/a that angles to the axis within ``width`` (rad) allow.

    ``volume``: of the reciprocal cell for c/a = 1; ``limit``: see `CROWD`.
    """  # fmt: skip
    frame = np.empty((2, 3))
    across(axis, frame)
    turns, ratios = votes.shape
    inverse = np.exp(-(low + (np.arange(ratios) + 0.5) * RATIO_STEP))
    votes[:] = 0.0
    cube2 = (limit * volume) ** 2  # (q^3 c/a)^2 below which a direction votes
    for i in range(len(normals)):
        n = normals[i]
        along = n[0] * axis[0] + n[1] * axis[1] + n[2] * axis[2]
        sign = 1.0 if along >= 0.0 else -1.0
        p = sign * (n[0] * frame[0, 0] + n[1] * frame[0, 1] + n[2] * frame[0, 2])
        q = sign * (n[0] * frame[1, 0] + n[1] * frame[1, 1] + n[2] * frame[1, 2])
        sine2 = p * p + q * q
        if sine2 < 2e-3:
            continue
        along = min(max(abs(along), 1e-6), 1.0)
        angle = math.acos(along)
        tangent2 = sine2 / (along * along)
        azimuth = math.atan2(q, p)
        least_t, most_t = math.tan(max(angle - width, 1e-3)) ** 2, 1e12
        if angle + width < 0.5 * math.pi - 1e-4:
            most_t = math.tan(angle + width) ** 2
        spread = 0.5 * math.log(most_t / least_t)
        # size^2 is at least the pool's bound times this
        least = (1.0 + 1.0 / tangent2) ** 3 * tangent2 if basal else (1.0 + least_t) ** 3 / most_t
        log_tangent2 = math.log(tangent2)
        for k in range(len(pool)):
            if pool[k, 3] * least >= cube2:
                break
            if basal:
                weight = 0.5 * math.log(cube2 / (pool[k, 3] * least))
                middle = 0.5 * (log_tangent2 + pool[k, 5])
                first = math.floor((middle - 0.5 * spread - low) / RATIO_STEP)
                last = math.floor((middle + 0.5 * spread - low) / RATIO_STEP)
                turn = azimuth - pool[k, 4]
                turn -= period * math.floor(turn / period)
                bin_t = min(int(turn / TURN_STEP), turns - 1)
                for bin_r in range(max(first, 0), min(last + 1, ratios)):
                    votes[bin_t, bin_r] += weight
                continue
            x, y, z = pool[k, 0], pool[k, 1], pool[k, 2]
            most_rest, least_rest = x * x * most_t - y * y, x * x * least_t - y * y
            if most_rest <= 1e-9:
                continue
            first = math.floor((0.5 * math.log(z * z / most_rest) - low) / RATIO_STEP)
            last = ratios - 1
            if least_rest > 1e-9:
                last = math.floor((0.5 * math.log(z * z / least_rest) - low) / RATIO_STEP)
            for bin_r in range(max(first, 0), min(last + 1, ratios)):
                up = z * inverse[bin_r]
                length2 = x * x + y * y + up * up
                size2 = length2 * length2 * length2 / (inverse[bin_r] * inverse[bin_r])
                if size2 >= cube2:
                    continue
                turn = azimuth - math.atan2(up, y)
                turn -= period * math.floor(turn / period)
                # A long direction is one of many: its vote is worth what its length leaves of the logarithm.
                votes[min(int(turn / TURN_STEP), turns - 1), bin_r] += 0.5 * math.log(cube2 / size2)
        if not basal and angle + width > 0.5 * math.pi:
            _on_mirror(pool, inverse, azimuth, period, cube2, votes)


@njit(cache=True, fastmath=True)
def _on_mirror(
    pool: FloatArray, inverse: FloatArray, azimuth: float, period: float, cube2: float, votes: Votes
) -> None:
    """Votes of a spot at right angles to the axis: directions without a part along it, at every c/a."""
    turns, ratios = votes.shape
    for k in range(len(pool)):
        if pool[k, 0] != 0.0:
            continue
        y, z = pool[k, 1], pool[k, 2]
        for bin_r in range(ratios):
            up = z * inverse[bin_r]
            length2 = y * y + up * up
            size2 = length2 * length2 * length2 / (inverse[bin_r] * inverse[bin_r])
            if size2 >= cube2:
                continue
            turn = azimuth - math.atan2(up, y)
            turn -= period * math.floor(turn / period)
            votes[min(int(turn / TURN_STEP), turns - 1), bin_r] += 0.5 * math.log(cube2 / size2)


@njit(cache=True, fastmath=True)
def _best_cells(votes: Votes, most: int, cells: FloatArray) -> int:
    """The strongest pairs of neighbours in turn: turn bin, ratio bin, votes, rows (most, 3), each alone within 3 bins."""
    turns, ratios = votes.shape
    found = 0
    for t in range(turns):
        after = t + 1 if t + 1 < turns else 0
        for r in range(ratios):
            total = votes[t, r] + votes[after, r]
            if found == most and total <= cells[most - 1, 2]:
                continue
            # One near it that is better keeps the place; worse ones near it go.
            beaten = False
            k = 0
            while k < found:
                apart = abs(t - int(cells[k, 0]))
                apart = min(apart, turns - apart)
                if apart <= 3 and abs(r - int(cells[k, 1])) <= 3:
                    if cells[k, 2] >= total:
                        beaten = True
                        break
                    for m in range(k, found - 1):
                        cells[m] = cells[m + 1]
                    found -= 1
                else:
                    k += 1
            if beaten:
                continue
            if found < most:
                found += 1
            k = found - 1
            while k > 0 and cells[k - 1, 2] < total:
                cells[k] = cells[k - 1]
                k -= 1
            cells[k, 0], cells[k, 1], cells[k, 2] = t, r, total
    return found


@njit(cache=True, fastmath=True)
def _cubic(
    normals: FloatArray,
    axis: FloatArray,
    pool: FloatArray,
    period: float,
    limit: float,
    width: float,
    votes: Votes,
) -> None:
    """Fill ``votes`` (turn, 1)."""
    frame = np.empty((2, 3))
    across(axis, frame)
    votes[:] = 0.0
    turns = len(votes)
    for i in range(len(normals)):
        n = normals[i]
        along = n[0] * axis[0] + n[1] * axis[1] + n[2] * axis[2]
        sign = 1.0 if along >= 0.0 else -1.0
        p = sign * (n[0] * frame[0, 0] + n[1] * frame[0, 1] + n[2] * frame[0, 2])
        q = sign * (n[0] * frame[1, 0] + n[1] * frame[1, 1] + n[2] * frame[1, 2])
        sine = math.sqrt(p * p + q * q)
        if sine < 0.03:
            continue
        along = abs(along)
        azimuth = math.atan2(q, p)
        k = np.searchsorted(pool[:, 0], along - width * sine)
        while k < len(pool) and pool[k, 0] <= along + width * sine:
            size = pool[k, 2] ** 3
            if size < limit:
                turn = azimuth - pool[k, 1]
                turn -= period * math.floor(turn / period)
                votes[min(int(turn / TURN_STEP), turns - 1), 0] += math.log(limit / size)
            k += 1


def _limit(sky: Sky) -> float:
    """``q^3 / v`` up to which directions vote: density ``q^3 / (3 zeta(3) v)`` per steradian against that of the spots."""
    return CROWD * len(sky) / sky.area * 3.0 * 1.202


def proposals_of_axis(sky: Sky, node: int, axis: FloatArray, most: int = 3) -> list[Proposal]:
    """Cubic, tetragonal and hexagonal lattices that an axis could belong to, the best few of each kind of axis."""
    out: list[Proposal] = []
    normals = sky.normals[node]
    distance = float(np.exp(sky.nodes[node]))
    limit = _limit(sky)
    frame = np.empty((2, 3))
    across(axis, frame)
    cells = np.zeros((most, 3))
    low = math.log(RATIO[0])
    columns = int((math.log(RATIO[1]) - low) / RATIO_STEP)
    for family, angle, period in KINDS:
        pool = _pool(family, angle)
        votes = np.empty((round(period / TURN_STEP), columns), dtype=np.float32)
        volume = 1.0 if family == "tetragonal" else 2.0 / math.sqrt(3.0)
        _uniaxial(normals, axis, pool, angle is None, period, volume, limit, votes, low, WIDTH)
        background = float(votes.mean())
        for t, r, total in cells[: _best_cells(votes, most, cells)]:
            turn, ratio = (t + 1.0) * TURN_STEP, math.exp(low + (r + 0.5) * RATIO_STEP)
            first = math.cos(turn) * frame[0] + math.sin(turn) * frame[1]
            second = np.cross(axis, first)
            if angle is None:
                u = np.stack([first, second, axis], axis=1)
            else:
                # The axis lies at ``angle`` from a*; first is across it in the basal plane, second along c.
                c, s = math.cos(angle), math.sin(angle)
                u = np.stack([c * axis - s * first, s * axis + c * first, second], axis=1)
            out.append(Proposal(u, family, (ratio,), distance, float(total - 4.0 * background)))
    for direction, period in CUBIC:
        pool = _cubic_pool(direction)
        votes = np.empty((round(period / TURN_STEP), 1), dtype=np.float32)
        _cubic(normals, axis, pool, period, limit, WIDTH, votes)
        background = float(votes[:, 0].mean())
        for t, _, total in cells[: _best_cells(votes, most, cells)]:
            turn = (t + 1.0) * TURN_STEP
            first = math.cos(turn) * frame[0] + math.sin(turn) * frame[1]
            lab = np.stack([first, np.cross(axis, first), axis], axis=1)
            unit = np.array(direction) / np.linalg.norm(direction)
            own = np.stack([*_across_in_crystal(np.array(direction)), unit], axis=1)
            out.append(Proposal(lab @ own.T, "cubic", (), distance, float(total - 2.0 * background)))
    return out
