"""State of many games as arrays, and how a crystal is drawn and made ready for its pictures."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.envs.game.orbits import Q_MAX, Q_STEP, reach
from lauepilot.envs.game.rules import CUT_KEV, LAUERL_C, SIDE
from lauepilot.simulator.conventions import HC_KEV_A, FloatArray
from lauepilot.simulator.poisson import mix, uniform

#: Cosines, to the beam, of plane normals at which rates are tabulated: normals on the film are within 31 degrees.
NODES, LEAST_COS = 6, 0.85
#: Shortest wavelength, angstrom.
CUT_A = HC_KEV_A / CUT_KEV
#: LaueRL's largest index.
LAUERL_INDEX = 30
#: Rays that a picture's spots are chosen from.
CANDIDATES = 1200


class Stage(NamedTuple):
    """What all games of a batch share.

    Attributes
    ----------
    orbits, members, begin
        See `lauepilot.envs.game.orbits.all_orbits`.
    ranges
        (3, 8) of each family: a, c, spots, distance from ... to.
    only
        Index of the family that is played; -1 draws one.
    f2
        |f|^2 of the scatterer at multiples of `Q_STEP`.
    stamps
        Pictures of a spot by its place within a pixel.
    lauerl
        Whether LaueRL's physics holds.
    cut
        Shortest wavelength, angstrom.
    numbers
        Scatter of ln |F|^2; lost; false; steps; step, tolerance and range (rad); prize; start's three ranges (rad).
    """

    orbits: NDArray[np.int64]
    members: NDArray[np.int64]
    begin: NDArray[np.int64]
    ranges: FloatArray
    only: int
    f2: FloatArray
    stamps: NDArray[np.float32]
    lauerl: bool
    cut: float
    numbers: FloatArray


SCATTER, LOST, FALSE, STEPS, STEP, TOLERANCE, RANGE, PRIZE, START = 0, 1, 2, 3, 4, 5, 6, 7, 8


class Games(NamedTuple):
    """State of n games; the first axis of every array counts them.

    Attributes
    ----------
    place, step
        Of the random numbers (`lauepilot.simulator.poisson`).
    family, wanted, steps, outcome
        Index of the family; spots of a picture; moves made; how it ended.
    u
        (n, 3, 3) true orientation.
    cell
        (n, 2) a and c, angstrom.
    distance
        Of the film, mm.
    seed
        Of the structure factors.
    turned
        (n, 2) sums of the turns so far, rad.
    start, miss
        Angles to the nearest target at the start and now, rad.
    q, rates, order, used
        Of the family's orbits: |Q| of their first reflection, rates at the nodes, and those in use, brightest first.
    image, moved
        What is seen: picture, and the last turns.
    """

    place: NDArray[np.uint64]
    step: NDArray[np.uint64]
    family: NDArray[np.int64]
    wanted: NDArray[np.int64]
    steps: NDArray[np.int64]
    outcome: NDArray[np.int64]
    u: FloatArray
    cell: FloatArray
    distance: FloatArray
    seed: NDArray[np.uint64]
    turned: FloatArray
    start: FloatArray
    miss: FloatArray
    q: FloatArray
    rates: NDArray[np.float32]
    order: NDArray[np.int64]
    used: NDArray[np.int64]
    image: NDArray[np.uint8]
    moved: NDArray[np.float32]


def empty_games(n: int, orbits: int) -> Games:
    """State of ``n`` games that have not been started."""
    f = np.zeros
    i = np.int64
    return Games(
        f(n, np.uint64), np.ones(n, np.uint64), f(n, i), f(n, i), f(n, i), f(n, i), f((n, 3, 3)), f((n, 2)), f(n),
        f(n, np.uint64), f((n, 2)), f(n), f(n), f((n, orbits)), f((n, orbits, NODES), np.float32), f((n, orbits), i),
        f(n, i), f((n, SIDE, SIDE, 1), np.uint8), f((n, 2), np.float32),
    )  # fmt: skip


@njit(cache=True)
def draw(g: Games, i: int) -> float:
    """The next number in (0, 1) of game ``i``."""
    value = uniform(g.place[i])
    g.place[i] += g.step[i]
    return value


@njit(cache=True)
def between(g: Games, i: int, low: float, high: float) -> float:
    """The next number between two of game ``i``."""
    return low + (high - low) * draw(g, i)


@njit(cache=True)
def turn_about(axis: int, angle: float, u: FloatArray) -> None:
    """Turn an orientation (3, 3) about a laboratory axis (0: x, 1: y, 2: z), in place."""
    c, s = math.cos(angle), math.sin(angle)
    p, q = (axis + 1) % 3, (axis + 2) % 3
    for k in range(3):
        a, b = u[p, k], u[q, k]
        u[p, k] = c * a - s * b
        u[q, k] = s * a + c * b


@njit(cache=True)
def miss_of(u: FloatArray, family: int) -> float:
    """Angle (rad) of the nearest target to the beam: {100} of cubic crystals, {001} of others, either way round."""
    best = abs(u[2, 2])
    if family == 0:
        best = max(best, abs(u[2, 0]), abs(u[2, 1]))
    return math.acos(min(best, 1.0))


@njit(cache=True)
def b_of(family: int, a: float, c: float, lauerl: bool, b: FloatArray) -> None:
    """Busing and Levy's B (3, 3) with 2 pi."""
    two_pi = 2.0 * math.pi
    b[:] = 0.0
    b[0, 0] = b[1, 1] = two_pi / a
    b[2, 2] = two_pi / c
    if family == 2:
        b[0, 0] = two_pi / a * 2.0 / math.sqrt(3.0)
        b[0, 1] = 0.5 * b[0, 0]
        if lauerl:
            b[2, 2] /= LAUERL_C


@njit(cache=True)
def rate_of(s: Stage, q: float, cosine: float) -> float:
    """Rate of one reflection of |Q| = q whose normal has this cosine to the beam; no structure factor."""
    sin2 = cosine * cosine  # the glancing angle is measured from the planes
    cos_double = 1.0 - 2.0 * sin2
    polarisation = 1.0 + cos_double * cos_double
    if s.lauerl:
        wavelength = cosine * q / (2.0 * math.pi)
        if wavelength <= s.cut:
            return 0.0
        steep = 2.0 * sin2 - 1.0
        x = wavelength / s.cut - 1.0
        return polarisation * x / wavelength**3 * steep**3 / (sin2 * sin2)
    if q >= Q_MAX:
        return 0.0
    wavelength = 4.0 * math.pi * cosine / q
    if wavelength <= s.cut:
        return 0.0
    at = q / Q_STEP
    k = int(at)
    f2 = s.f2[k] + (at - k) * (s.f2[k + 1] - s.f2[k])
    # Kramers' law in photons, times the wavelength: the Lorentz factor of a thick crystal that absorbs.
    return float((wavelength / s.cut - 1.0) / wavelength / sin2 * polarisation * f2)


@njit(cache=True)
def scattered(s: Stage, seed: np.uint64, orbit: int, harmonic: int) -> float:
    """|F|^2 of a reflection over that of the lattice: log-normal, the same in all pictures of a crystal."""
    sigma = s.numbers[SCATTER]
    if sigma == 0.0:
        return 1.0
    key = mix(seed + np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * (64 * orbit + harmonic) + 1))
    one, two = uniform(key), uniform(key + np.uint64(0x9E3779B97F4A7C15))
    return math.exp(sigma * math.sqrt(-2.0 * math.log(one)) * math.cos(2.0 * math.pi * two))


@njit(cache=True)
def prepare(s: Stage, g: Games, i: int) -> None:
    """Rates of all orbits of game ``i`` that are within reach, and the order of their brightness."""
    family = g.family[i]
    b = np.empty((3, 3))
    b_of(family, g.cell[i, 0], g.cell[i, 1], s.lauerl, b)
    volume = (2.0 * math.pi) ** 3 / (b[0, 0] * b[1, 1] * b[2, 2])
    largest = reach(0.5 * volume if family == 1 else volume)
    first = s.begin[family]
    n = s.begin[family + 1] - first
    peaks = np.zeros(n)
    for o in range(n):
        h, k, el = float(s.orbits[first + o, 0]), float(s.orbits[first + o, 1]), float(s.orbits[first + o, 2])
        x, y, z = b[0, 0] * h + b[0, 1] * k, b[1, 1] * k, b[2, 2] * el
        multiple = s.orbits[first + o, 3]
        q = math.sqrt(x * x + y * y + z * z)
        g.q[i, o] = q
        if q * multiple > largest:
            continue
        most = max(h + (k if family == 2 else 0.0), el)
        for node in range(NODES):
            g.rates[i, o, node] = 0.0
        harmonic = multiple
        while True:
            if s.lauerl:
                if harmonic * most > LAUERL_INDEX:
                    break
            elif harmonic * q >= Q_MAX:
                break
            factor = scattered(s, g.seed[i], first + o, harmonic // multiple)
            for node in range(NODES):
                cosine = LEAST_COS + (1.0 - LEAST_COS) * node / (NODES - 1)
                g.rates[i, o, node] += np.float32(factor * rate_of(s, harmonic * q, cosine))
            harmonic += multiple
        for node in range(NODES):
            peaks[o] = max(peaks[o], g.rates[i, o, node])
    order = np.argsort(-peaks)
    used = 0
    for t in range(n):
        if peaks[order[t]] > 0.0:
            g.order[i, used] = order[t]
            used += 1
    g.used[i] = used


@njit(cache=True)
def start(s: Stage, g: Games, i: int) -> None:
    """Draw crystal, film and start of game ``i``."""
    family = s.only
    if family < 0:
        family = int(3.0 * draw(g, i))
    g.family[i] = family
    r = s.ranges[family]
    a = between(g, i, r[0], r[1])
    c = between(g, i, r[2], r[3])
    if family == 0:
        c = a
    g.cell[i, 0], g.cell[i, 1] = a, c
    g.wanted[i] = int(r[4] + (r[5] - r[4] + 1.0) * draw(g, i))
    g.distance[i] = between(g, i, r[6], r[7])
    g.seed[i] = mix(g.place[i])
    g.place[i] += g.step[i]
    u = g.u[i]
    while True:
        # The target looks against the beam; then it is turned away.
        u[:] = 0.0
        u[0, 0], u[1, 1], u[2, 2] = 1.0, -1.0, -1.0
        for axis, which in ((1, 2), (0, 1), (2, 0)):
            most = s.numbers[START + which]
            turn_about(axis, between(g, i, -most, most), u)
        g.miss[i] = miss_of(u, family)
        if g.miss[i] > s.numbers[TOLERANCE]:
            break
    g.start[i] = g.miss[i]
    g.turned[i, :] = 0.0
    g.moved[i, :] = 0.0
    g.steps[i] = 0
    g.outcome[i] = 0
