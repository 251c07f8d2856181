"""Distance between convex bodies: Gilbert, Johnson & Keerthi (1988), IEEE J. Robot. Autom. 4, 193.

The nearest point of the difference of two hulls to the origin is approached by simplices of at most four corners. Of each
simplex every face is looked at, fifteen small systems of equations: slower than walking from face to face, but without its
special cases.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lauepilot.simulator.conventions import FloatArray

_ROUNDS = 64


@njit(cache=True)
def _face(corners: FloatArray, members: int, weights: FloatArray) -> float:
    """Squared distance from the origin to the plane piece of the corners in the bit set; -1 if its foot lies outside.

    ``weights`` (4,) gets the shares of the corners.
    """
    index = np.empty(4, np.int64)
    m = 0
    for i in range(4):
        weights[i] = 0.0
        if members >> i & 1:
            index[m] = i
            m += 1
    first = corners[index[0]]
    system = np.zeros((3, 4))
    for i in range(m - 1):
        for j in range(m - 1):
            for c in range(3):
                system[i, j] += (corners[index[i + 1], c] - first[c]) * (corners[index[j + 1], c] - first[c])
        for c in range(3):
            system[i, 3] -= (corners[index[i + 1], c] - first[c]) * first[c]
    for i in range(m - 1):  # Gauss: the matrix is a Gram matrix, its pivots are squares of heights
        scale = 0.0
        for c in range(3):
            scale += (corners[index[i + 1], c] - first[c]) ** 2
        if system[i, i] <= 1e-13 * scale:
            return -1.0
        for r in range(m - 1):
            if r != i:
                f = system[r, i] / system[i, i]
                for c in range(i, 4):
                    system[r, c] -= f * system[i, c]
    left = 1.0
    for i in range(m - 1):
        share = system[i, 3] / system[i, i]
        if share < 0.0:
            return -1.0
        weights[index[i + 1]] = share
        left -= share
    if left < 0.0:
        return -1.0
    weights[index[0]] = left
    total = 0.0
    for c in range(3):
        value = 0.0
        for i in range(4):
            value += weights[i] * corners[i, c] if weights[i] != 0.0 else 0.0
        total += value * value
    return total


@njit(cache=True)
def hull_distance(a: FloatArray, b: FloatArray, near_a: FloatArray, near_b: FloatArray) -> float:
    """Distance between the hulls of points (n, 3) and (m, 3), 0 where they meet; the nearest points go into ``near_*``."""
    corners = np.zeros((4, 3))
    which = np.zeros((4, 2), np.int64)
    weights, best = np.zeros(4), np.zeros(4)
    corners[0] = a[0] - b[0]
    count = 1
    best[0] = 1.0
    v = corners[0].copy()
    square = np.sum(v * v)
    for _ in range(_ROUNDS):
        # The corner of the difference that lies farthest towards the origin.
        i, j = 0, 0
        low, high = np.inf, -np.inf
        for k in range(len(a)):
            value = a[k, 0] * v[0] + a[k, 1] * v[1] + a[k, 2] * v[2]
            if value < low:
                low, i = value, k
        for k in range(len(b)):
            value = b[k, 0] * v[0] + b[k, 1] * v[1] + b[k, 2] * v[2]
            if value > high:
                high, j = value, k
        if square <= 1e-18 or square - (low - high) <= 1e-12 * square:
            break
        known = False
        for k in range(count):
            known |= which[k, 0] == i and which[k, 1] == j
        if known:
            break
        corners[count] = a[i] - b[j]
        which[count, 0], which[count, 1] = i, j
        count += 1
        least, chosen = np.inf, 0
        for members in range(1, 1 << count):
            value = _face(corners, members, weights)
            if 0.0 <= value < least:
                least, chosen = value, members
                best[:] = weights
        if least > square * (1.0 + 1e-9):  # rounding: the last point was the nearest
            break
        kept = 0
        for k in range(count):
            if chosen >> k & 1:
                corners[kept] = corners[k]
                which[kept] = which[k]
                best[kept] = best[k]
                kept += 1
        for k in range(kept, 4):
            best[k] = 0.0
        stuck = least >= square
        count, square = kept, least
        v[:] = 0.0
        for k in range(count):
            v += best[k] * corners[k]
        if count == 4 or stuck:
            break
    near_a[:] = 0.0
    near_b[:] = 0.0
    for k in range(count):
        near_a += best[k] * a[which[k, 0]]
        near_b += best[k] * b[which[k, 1]]
    return np.sqrt(max(square, 0.0)) if square > 1e-18 else 0.0
