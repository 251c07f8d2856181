"""Compiled loops: indices of spots in a lattice up to scale, and how much they mean.

A direction of the reciprocal lattice with a primitive vector of length ``q`` has ``q^3 / (3 zeta(3) v)`` others per
steradian that are no longer (``v``: volume per reciprocal-lattice point; ``1 / zeta(3)`` of all points are primitive).
A spot at an angle ``d`` from it is therefore met by chance with ``pi (d^2 + s^2)`` times that; the smaller, the more it
means. To be short among those that are short enough to be seen anyway means nothing: the density of the spots
themselves is added. This *chance* has no unit, and needs no intensity.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray

#: Indices above this are never tried.
MOST_INDEX = 40
ZETA3 = 1.2020569031595942
#: The chance is a minimum over directions of all lengths: it is as often below x as ``OCTAVES x``.
OCTAVES = 5.0
#: Largest chance at which a spot counts as explained.
EXPLAINED = 0.02


@njit(cache=True, fastmath=True)
def fill_b(family: int, x: FloatArray, b: FloatArray) -> float:
    """Write ``B`` (3, 3), without 2 pi, for ``a = 1``; gives its determinant.

    ``family`` counts in `lattice.FAMILIES`; ``x`` are logarithms of length ratios and angles in radians.
    """
    lb, lc, al, be, ga = 1.0, 1.0, 0.5 * math.pi, 0.5 * math.pi, 0.5 * math.pi
    if family == 1 or family == 3:
        lc, ga = math.exp(x[0]), 2.0 * math.pi / 3.0
    elif family == 2:
        lc = math.exp(x[0])
    elif family >= 4:
        lb, lc = math.exp(x[0]), math.exp(x[1])
        if family == 5:
            be = x[2]
        elif family == 6:
            al, be, ga = x[2], x[3], x[4]
    ca, cb, cg = math.cos(al), math.cos(be), math.cos(ga)
    sa, sb, sg = math.sin(al), math.sin(be), math.sin(ga)
    volume = lb * lc * math.sqrt(max(1.0 - ca * ca - cb * cb - cg * cg + 2.0 * ca * cb * cg, 1e-9))
    ra, rb, rc = lb * lc * sa / volume, lc * sb / volume, lb * sg / volume
    rcg = (ca * cb - cg) / (sa * sb)
    rcb = (ca * cg - cb) / (sa * sg)
    b[0, 0], b[0, 1], b[0, 2] = ra, rb * rcg, rc * rcb
    b[1, 0], b[1, 1], b[1, 2] = (
        0.0,
        rb * math.sqrt(max(1.0 - rcg * rcg, 0.0)),
        -rc * math.sqrt(max(1.0 - rcb * rcb, 0.0)) * ca,
    )
    b[2, 0], b[2, 1], b[2, 2] = 0.0, 0.0, 1.0 / lc
    return 1.0 / volume


@njit(cache=True, inline="always")
def order_of(centring: int, h: int, k: int, el: int) -> int:
    """Lowest order of a direction that the lattice has; centrings count in ``PIFABCR``."""
    if centring == 0:
        return 1
    if centring == 1:
        return 1 if (h + k + el) % 2 == 0 else 2
    if centring == 2:
        return 1 if (h + k) % 2 == 0 and (k + el) % 2 == 0 else 2
    if centring == 3:
        return 1 if (k + el) % 2 == 0 else 2
    if centring == 4:
        return 1 if (h + el) % 2 == 0 else 2
    if centring == 5:
        return 1 if (h + k) % 2 == 0 else 2
    return 1 if (-h + k + el) % 3 == 0 else 3


@njit(cache=True)
def points_of(centring: int) -> float:
    """Lattice points in a conventional cell."""
    if centring == 0:
        return 1.0
    if centring == 2:
        return 4.0
    return 3.0 if centring == 6 else 2.0


@njit(cache=True, inline="always")
def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


@njit(cache=True, fastmath=True)
def nearest(
    n0: float,
    n1: float,
    n2: float,
    inverse: FloatArray,
    ub: FloatArray,
    factor: float,
    floor: float,
    s2: float,
    centring: int,
    hkl: NDArray[np.int64],
) -> tuple[float, float]:
    """The direction that explains a normal best: writes its indices, gives its chance and squared distance (rad^2).

    ``factor`` is ``pi / (3 zeta(3) v)``, ``floor`` the density of spots in units of ``q^3``, ``s2`` the variance per
    direction that is allowed for.
    """  # fmt: skip
    f0 = inverse[0, 0] * n0 + inverse[0, 1] * n1 + inverse[0, 2] * n2
    f1 = inverse[1, 0] * n0 + inverse[1, 1] * n1 + inverse[1, 2] * n2
    f2 = inverse[2, 0] * n0 + inverse[2, 1] * n1 + inverse[2, 2] * n2
    largest = max(abs(f0), abs(f1), abs(f2))
    f0, f1, f2 = f0 / largest, f1 / largest, f2 / largest
    unit = 1.0 / largest  # length of the vector with largest index 1 along n
    best, best_d2 = 1e30, 1.0
    for t in range(1, MOST_INDEX + 1):
        shortest = max(t - 0.5, 0.5) * unit
        least = factor * s2 * (shortest**3 + floor)
        if least >= best or least > 1.0:
            break
        h, k, el = round(f0 * t), round(f1 * t), round(f2 * t)
        g0 = ub[0, 0] * h + ub[0, 1] * k + ub[0, 2] * el
        g1 = ub[1, 0] * h + ub[1, 1] * k + ub[1, 2] * el
        g2 = ub[2, 0] * h + ub[2, 1] * k + ub[2, 2] * el
        length2 = g0 * g0 + g1 * g1 + g2 * g2
        along = g0 * n0 + g1 * n1 + g2 * n2
        d2 = max(length2 - along * along, 0.0) / length2
        cube = length2 * math.sqrt(length2)
        if factor * (d2 + s2) * (cube + floor) >= best:
            continue
        if _gcd(_gcd(abs(int(h)), abs(int(k))), abs(int(el))) != 1:
            continue
        m = order_of(centring, int(h), int(k), int(el))
        chance = factor * (d2 + s2) * (m * m * m * cube + floor)
        if chance < best:
            best, best_d2 = chance, d2
            hkl[0], hkl[1], hkl[2] = int(h), int(k), int(el)
    return best, best_d2


@njit(cache=True, fastmath=True)
def inverse_of(m: FloatArray, out: FloatArray) -> float:
    """Inverse (3, 3) by cofactors; gives the determinant."""
    a, b, c = (
        m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1],
        m[1, 2] * m[2, 0] - m[1, 0] * m[2, 2],
        m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0],
    )
    det: float = m[0, 0] * a + m[0, 1] * b + m[0, 2] * c
    out[0, 0], out[1, 0], out[2, 0] = a / det, b / det, c / det
    out[0, 1] = (m[0, 2] * m[2, 1] - m[0, 1] * m[2, 2]) / det
    out[1, 1] = (m[0, 0] * m[2, 2] - m[0, 2] * m[2, 0]) / det
    out[2, 1] = (m[0, 1] * m[2, 0] - m[0, 0] * m[2, 1]) / det
    out[0, 2] = (m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1]) / det
    out[1, 2] = (m[0, 2] * m[1, 0] - m[0, 0] * m[1, 2]) / det
    out[2, 2] = (m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]) / det
    return det


@njit(cache=True, fastmath=True)
def assess(
    normals: FloatArray,
    sigma2: FloatArray,
    ub: FloatArray,
    volume: float,
    crowd: float,
    s2: float,
    centring: int,
    hkl: NDArray[np.int64],
    chance: FloatArray,
    d2: FloatArray,
) -> float:
    """Index all spots: writes indices (n, 3), chances (n) and squared distances (n); gives the score in nats.

    ``crowd`` is the density of spots per steradian.
    """  # fmt: skip
    inverse = np.empty((3, 3))
    inverse_of(ub, inverse)
    factor = math.pi / (3.0 * ZETA3 * volume * points_of(centring))
    floor = crowd * math.pi / factor
    score = 0.0
    for i in range(normals.shape[0]):
        chance[i], d2[i] = nearest(
            normals[i, 0],
            normals[i, 1],
            normals[i, 2],
            inverse,
            ub,
            factor,
            floor,
            s2 + 2.0 * sigma2[i],
            centring,
            hkl[i],
        )
        if chance[i] * OCTAVES < 1.0:
            score -= math.log(chance[i] * OCTAVES)
    return score
