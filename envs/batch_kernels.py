"""Compiled inner loops of the batched environment: mount, move, expose, for one of many games at a time.

All of a batch's state is in `Games`; kernels change it in place. What cannot change during training is in `Stage`. Random
numbers are those of `lauepilot.simulator.poisson`, one stream for each game.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.envs.coding import image_bytes
from lauepilot.envs.hint import PackedAxes, PackedTarget, chain, changes_to_target, least_miss, times
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.image import add_spot
from lauepilot.simulator.kernels import PackedDetector, trace_pattern
from lauepilot.simulator.poisson import WORDS, poisson, uniform

# Measured on frames of silicon, quartz and Ca2RuO4 on the camera ``lab``, 0.05 to 20 s (tests/envs/test_batch.py repeats it):
#: Photons that the fit of a spot finds over those in it: its halo's end stays in the background.
FITTED = 0.93
#: Variance of centroids over that of a plain normal spot: the core is narrower than the whole profile.
CENTROID = 0.6
#: Worst direction's error of an orientation, over one spot's normal's by the square root of their weights: the detector's
#: pose is fitted with it, and takes most of the information.
INDEX_ERROR = 11.8

_BYTES = image_bytes(np.arange(4096))

#: Most rays that one pattern may show.
CAPACITY = 4096


class Stage(NamedTuple):
    """What all games share.

    Attributes
    ----------
    directions, rate, s_min, s_step, polarisation
        The ray table, as `trace_pattern` takes it; ``directions`` (3, n).
    detector
        As believed.
    axes, target
        As believed.
    speed, settle, resolution, play
        Of the axes (k,): degrees a second, seconds, degrees, degrees.
    covariance
        (h, w, 3) of spots on a coarse grid over the sensor, fine pixels squared: col, cross, row.
    background
        (h, w) photons a second in a fine pixel on that grid.
    pose_sigma
        (h, w) radians that the pose's uncertainty adds to a plane normal's.
    coarse_background
        (h, w) photons a second in a coarse pixel; 0 in blind regions, which see nothing.
    readout_s, detect, floor, indexed_spots, pose_floor
        Seconds of readout; detection limit in sigmas and photons; spots for which the belief is even odds; radians below
        which a belief's error does not fall.
    spread
        Standard deviations of the faults: detector centre (mm, both ways), distance (mm), tilt (rad), direction of axes (rad), zero of
        axes (deg), logarithm of the power; then the factor of the power.
    tables
        Of the Poisson numbers.
    """

    directions: FloatArray
    rate: NDArray[np.float32]
    s_min: float
    s_step: float
    polarisation: float
    detector: PackedDetector
    axes: PackedAxes
    target: PackedTarget
    speed: FloatArray
    settle: FloatArray
    resolution: FloatArray
    play: FloatArray
    covariance: FloatArray
    background: FloatArray
    pose_sigma: FloatArray
    coarse_background: FloatArray
    readout_s: float
    detect: float
    floor: float
    indexed_spots: float
    pose_floor: float
    spread: FloatArray
    tables: NDArray[np.uint64]


class Games(NamedTuple):
    """State of n games of k axes; the first axis of every array counts the games."""

    place: NDArray[np.uint64]
    step: NDArray[np.uint64]
    u: FloatArray
    directions: FloatArray
    zero: FloatArray
    rotation: FloatArray
    pose: FloatArray
    power: FloatArray
    position: FloatArray
    carried: FloatArray
    clock: FloatArray
    dose: FloatArray
    exposure: FloatArray
    counters: NDArray[np.int64]
    believed: FloatArray
    belief: FloatArray
    belief_at: FloatArray
    spots: NDArray[np.float32]
    image: NDArray[np.uint8]


#: Columns of `Games.counters`.
STEPS, FRAMES, FOUND, HAS_BELIEF = 0, 1, 2, 3
#: Columns of `Games.belief`.
CONFIDENCE, INDEXED, EXPECTED, SIGMA = 0, 1, 2, 3


def empty_games(n: int, k: int, spots: int, image: int) -> Games:
    """State of ``n`` games that have not been mounted."""
    f = np.zeros
    return Games(
        f(n, np.uint64), np.ones(n, np.uint64), f((n, 3, 3)), f((n, k, 3)), f((n, k)), f((n, 3, 3)), f((n, 3)), f(n),
        f((n, k)), f((n, k)), f(n), f(n), f(n), f((n, 4), np.int64), f((n, 3, 3)), f((n, 4)), f((n, k)),
        f((n, spots, 6), np.float32), f((n, image, image, 1), np.uint8),
    )  # fmt: skip


@njit(cache=True)
def _uniform(g: Games, i: int) -> float:
    value = uniform(g.place[i])
    g.place[i] += g.step[i]
    return value


@njit(cache=True)
def _normal(g: Games, i: int) -> float:
    """Box and Muller: the tables of `poisson.normal` end too early for a thousand games."""
    return math.sqrt(-2.0 * math.log(_uniform(g, i))) * math.cos(2.0 * math.pi * _uniform(g, i))


@njit(cache=True)
def _poisson(g: Games, i: int, rate: float, tables: NDArray[np.uint64]) -> int:
    value = poisson(rate, g.place[i], g.step[i], tables)
    g.place[i] += np.uint64(WORDS) * g.step[i]
    return value


@njit(cache=True)
def _small_turn(x: float, y: float, z: float, out: FloatArray) -> None:
    """Rotation matrix (3, 3) of a rotation vector."""
    angle = math.sqrt(x * x + y * y + z * z)
    for i in range(3):
        for j in range(3):
            out[i, j] = 1.0 if i == j else 0.0
    if angle < 1e-14:
        return
    x, y, z = x / angle, y / angle, z / angle
    c, s = math.cos(angle), math.sin(angle)
    d = 1.0 - c
    out[0, 0], out[0, 1], out[0, 2] = c + x * x * d, x * y * d - z * s, x * z * d + y * s
    out[1, 0], out[1, 1], out[1, 2] = y * x * d + z * s, c + y * y * d, y * z * d - x * s
    out[2, 0], out[2, 1], out[2, 2] = z * x * d - y * s, z * y * d + x * s, c + z * z * d


@njit(cache=True)
def mount(s: Stage, g: Games, i: int) -> None:
    """Start game ``i``: a random crystal, new faults, axes at zero (or the limit next to it)."""
    # A uniform rotation from a quaternion of four normal numbers.
    w, x, y, z = _normal(g, i), _normal(g, i), _normal(g, i), _normal(g, i)
    n = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / n, x / n, y / n, z / n
    u = g.u[i]
    u[0, 0], u[0, 1], u[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    u[1, 0], u[1, 1], u[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    u[2, 0], u[2, 1], u[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    turn = np.empty((3, 3))
    _small_turn(s.spread[2] * _normal(g, i), s.spread[2] * _normal(g, i), 0.0, turn)
    times(turn, s.detector.rotation, g.rotation[i])
    g.pose[i, 0] = s.detector.centre_col + s.spread[0] * _normal(g, i) / s.detector.pixel_col_mm
    g.pose[i, 1] = s.detector.centre_row + s.spread[0] * _normal(g, i) / s.detector.pixel_row_mm
    g.pose[i, 2] = max(s.detector.distance_mm + s.spread[1] * _normal(g, i), 0.5 * s.detector.distance_mm)
    g.power[i] = s.spread[6] * math.exp(s.spread[5] * _normal(g, i))
    for a in range(g.position.shape[1]):
        d = s.axes.directions[a]
        e = s.spread[3]
        ex, ey, ez = e * _normal(g, i), e * _normal(g, i), e * _normal(g, i)
        along = ex * d[0] + ey * d[1] + ez * d[2]
        _small_turn(ex - along * d[0], ey - along * d[1], ez - along * d[2], turn)
        for r in range(3):
            g.directions[i, a, r] = turn[r, 0] * d[0] + turn[r, 1] * d[1] + turn[r, 2] * d[2]
        g.zero[i, a] = s.spread[4] * _normal(g, i)
        g.position[i, a] = min(max(0.0, s.axes.low[a]), s.axes.high[a])
        g.carried[i, a] = g.position[i, a] + (_uniform(g, i) - 0.5) * s.play[a]
    g.clock[i] = 0.0
    g.dose[i] = 0.0
    g.exposure[i] = 0.0
    g.counters[i, :] = 0
    g.belief[i, :] = 0.0
    g.spots[i, :, :] = 0.0
    g.image[i, :, :, :] = 0


@njit(cache=True)
def move(s: Stage, g: Games, i: int, goal: FloatArray) -> None:
    """Move all axes of game ``i`` to ``goal`` (k,), which is cut at the limits; the load lags by the play."""
    longest = 0.0
    for a in range(goal.size):
        there = round(min(max(goal[a], s.axes.low[a]), s.axes.high[a]) / s.resolution[a]) * s.resolution[a]
        there = min(max(there, s.axes.low[a]), s.axes.high[a])
        travel = abs(there - g.position[i, a])
        if travel > 0.0:
            longest = max(longest, travel / s.speed[a] + s.settle[a])
        half = 0.5 * s.play[a]
        g.carried[i, a] = min(max(g.carried[i, a], there - half), there + half)
        g.position[i, a] = there
    g.clock[i] += longest


@njit(cache=True)
def true_u(g: Games, i: int, z: FloatArray, columns: FloatArray, u: FloatArray) -> None:
    """True laboratory orientation of game ``i`` into ``u``; ``z`` (3, 3) and ``columns`` (3, k) are scratch."""
    chain(g.directions[i], g.carried[i] + g.zero[i], z, columns)
    times(z, g.u[i], u)


@njit(cache=True)
def true_miss(s: Stage, g: Games, i: int) -> float:
    """True angle to the target, radians."""
    z, u, columns, r = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, g.zero.shape[1])), np.empty(3)
    true_u(g, i, z, columns, u)
    angle, _ = least_miss(u, s.target, r)
    return angle


@njit(cache=True)
def _normal_of(s: Stage, col: float, row: float, out: FloatArray) -> float:
    """Plane normal (3,) of a pixel, on the detector as believed; returns the distance to the pixel in mm."""
    d = s.detector
    x, y = (col - d.centre_col) * d.pixel_col_mm, (row - d.centre_row) * d.pixel_row_mm
    n = d.distance_mm
    if d.cylinder:
        x, n = d.distance_mm * math.sin(x / d.distance_mm), d.distance_mm * math.cos(x / d.distance_mm)
    length = math.sqrt(x * x + y * y + n * n)
    r = d.rotation
    for i in range(3):
        out[i] = (r[i, 0] * x + r[i, 1] * y + r[i, 2] * n) / length
    out[2] -= 1.0
    size = math.sqrt(out[0] ** 2 + out[1] ** 2 + out[2] ** 2)
    for i in range(3):
        out[i] /= size
    return length


@njit(cache=True)
def expose(s: Stage, g: Games, i: int, seconds: float, want_image: bool, work: FloatArray, image: FloatArray) -> None:
    """A frame of game ``i``: spots found and belief, or the coarse image; ``work`` (rays,) and ``image`` (h, w) are scratch."""
    k = g.zero.shape[1]
    z, u, columns = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, k))
    true_u(g, i, z, columns, u)
    d = s.detector
    pose = PackedDetector(
        d.cylinder, g.rotation[i], g.pose[i, 2], g.pose[i, 0], g.pose[i, 1],
        d.pixel_col_mm, d.pixel_row_mm, d.cols, d.rows, d.blind,
    )  # fmt: skip
    ray, pixel, rates = np.empty(CAPACITY, np.int64), np.empty((CAPACITY, 2)), np.empty(CAPACITY)
    n = trace_pattern(
        u, s.directions, s.rate, s.s_min, s.s_step, pose, s.polarisation, True, work, ray, pixel, rates
    )
    rows, cols = s.background.shape
    f_row, f_col = d.rows / rows, d.cols / cols
    if want_image:
        for r in range(rows):
            for c in range(cols):
                image[r, c] = s.coarse_background[r, c] * seconds
    found = 0
    weight = 0.0
    counts = np.empty(CAPACITY)
    spread = np.empty(CAPACITY)
    for m in range(n):
        col, row = pixel[m, 0], pixel[m, 1]
        r = min(max(int((row + 0.5) / f_row), 0), rows - 1)
        c = min(max(int((col + 0.5) / f_col), 0), cols - 1)
        v_col, cross, v_row = s.covariance[r, c, 0], s.covariance[r, c, 1], s.covariance[r, c, 2]
        expected = rates[m] * seconds * g.power[i]
        if want_image:
            # Spots are a fraction of a coarse pixel: neither their slant nor their halo shows.
            add_spot(
                image, (col + 0.5) / f_col - 0.5, (row + 0.5) / f_row - 0.5, v_col / f_col**2, 0.0, v_row / f_row**2,
                expected, 0.0, 1.0,
            )  # fmt: skip
        # A matched filter's noise: the background under 4 pi sigma^2.
        area = 4.0 * math.pi * math.sqrt(max(v_col * v_row - cross * cross, 1e-6))
        noise2 = s.background[r, c] * seconds * area + s.floor
        limit = s.detect * math.sqrt(noise2)
        if expected < 0.3 * limit:
            continue
        photons = _poisson(g, i, expected, s.tables) + math.sqrt(noise2) * _normal(g, i)
        if photons < limit:
            continue
        variance = CENTROID * 0.5 * (v_col + v_row) * (1.0 / photons + 2.0 * noise2 / photons**2)
        # Never better than a twentieth of a pixel, as `on_sphere` has it.
        variance = max(variance, 0.0025)
        counts[found] = FITTED * photons
        spread[found] = math.sqrt(variance)
        pixel[found, 0] = col + spread[found] * _normal(g, i)
        pixel[found, 1] = row + spread[found] * _normal(g, i)
        weight += 1.0 / variance
        found += 1
    g.clock[i] += seconds + s.readout_s
    g.dose[i] += seconds
    g.exposure[i] = seconds
    g.counters[i, FRAMES] += 1
    g.counters[i, FOUND] = found
    if want_image:
        _count(image, g.image[i], g.place[i], g.step[i], s.tables)
        g.place[i] += np.uint64(WORDS) * g.step[i] * np.uint64(image.size)
    else:
        _write_spots(s, g, i, found, counts, spread, pixel)
    _believe(s, g, i, found, weight, u)


@njit(cache=True)
def _count(
    image: FloatArray, out: NDArray[np.uint8], place: np.uint64, step: np.uint64, tables: NDArray[np.uint64]
) -> None:
    """Poisson numbers of the rates ``image`` (h, w) as bytes ``out`` (h, w, 1)."""
    jump = np.uint64(WORDS) * step
    top = _BYTES.size - 1
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            photons = poisson(image[r, c], place, step, tables)
            place += jump
            out[r, c, 0] = _BYTES[photons] if photons <= top else np.uint8(min(11.0 * math.log2(1.0 + photons), 255.0))


@njit(cache=True)
def _write_spots(
    s: Stage, g: Games, i: int, found: int, counts: FloatArray, spread: FloatArray, pixel: FloatArray
) -> None:
    rows, cols = s.background.shape
    normal = np.empty(3)
    out = g.spots[i]
    out[:, :] = 0.0
    order = np.argsort(-counts[:found])
    for m in range(min(found, out.shape[0])):
        j = order[m]
        col, row = pixel[j, 0], pixel[j, 1]
        length = _normal_of(s, col, row, normal)
        r = min(max(int((row + 0.5) * rows / s.detector.rows), 0), rows - 1)
        c = min(max(int((col + 0.5) * cols / s.detector.cols), 0), cols - 1)
        # A plane normal turns by half of what the ray does.
        own = 0.5 * spread[j] * math.sqrt(s.detector.pixel_col_mm * s.detector.pixel_row_mm) / length
        for a in range(3):
            out[m, a] = normal[a]
        out[m, 3] = min(math.log1p(counts[j]) / math.log(1e6), 1.0)
        out[m, 4] = min(math.degrees(math.sqrt(own * own + s.pose_sigma[r, c] ** 2)), 1.0)
        out[m, 5] = 1.0


@njit(cache=True)
def _believe(s: Stage, g: Games, i: int, found: int, weight: float, u: FloatArray) -> None:
    """The stand-in of the indexer: the truth with an error that fits the spots, or, with few spots, a false one."""
    k = g.zero.shape[1]
    confidence = 1.0 / (1.0 + math.exp(-(found - s.indexed_spots)))
    right = _uniform(g, i) < confidence
    d = s.detector
    per_px = 0.5 * math.sqrt(d.pixel_col_mm * d.pixel_row_mm) / d.distance_mm
    sigma = math.sqrt(INDEX_ERROR**2 * per_px**2 / max(weight, 1e-9) + s.pose_floor**2)
    g.counters[i, HAS_BELIEF] = 1 if found >= 4 else 0
    if found < 4:
        return
    error, seen, z, columns = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, k))
    # The belief states its worst direction; all three together err about as much.
    size = sigma / math.sqrt(3.0) if right else 1.0
    _small_turn(size * _normal(g, i), size * _normal(g, i), size * _normal(g, i), error)
    times(error, u, seen)
    chain(s.axes.directions, g.position[i], z, columns)
    for r in range(3):
        for c in range(3):
            g.believed[i, r, c] = z[0, r] * seen[0, c] + z[1, r] * seen[1, c] + z[2, r] * seen[2, c]
    g.belief[i, CONFIDENCE] = confidence
    g.belief[i, INDEXED] = found if right else found // 3
    g.belief[i, EXPECTED] = found
    g.belief[i, SIGMA] = sigma
    for a in range(k):
        g.belief_at[i, a] = g.position[i, a]


@njit(cache=True)
def vectors(s: Stage, g: Games, i: int, limits: FloatArray, out: NDArray[np.float32]) -> None:
    """The parts axes, budget and belief of an observation into ``out`` (k + 5 + 8 + k,).

    ``limits`` are time, dose, frames, the usual exposure, and the logarithms of the range of exposures.
    """
    k = g.zero.shape[1]
    for a in range(k):
        x = 2.0 * (g.position[i, a] - s.axes.low[a]) / (s.axes.high[a] - s.axes.low[a]) - 1.0
        out[a] = min(max(x, -1.0), 1.0)
    out[k] = min(g.clock[i] / limits[0], 1.0)
    out[k + 1] = min(g.dose[i] / limits[1], 1.0)
    out[k + 2] = min(g.counters[i, FRAMES] / limits[2], 1.0)
    x = (math.log(max(g.exposure[i], 1e-9) / limits[3]) - limits[4]) / (limits[5] - limits[4])
    out[k + 3] = min(max(x, 0.0), 1.0)
    out[k + 4] = min(g.counters[i, FOUND] / 500.0, 1.0)
    b = k + 5
    out[b:] = 0.0
    if g.counters[i, HAS_BELIEF] == 0:
        return
    z, u, columns, r, changes = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, k)), np.empty(3), np.zeros(k)
    chain(s.axes.directions, g.position[i], z, columns)
    times(z, g.believed[i], u)
    angle, _ = least_miss(u, s.target, r)
    left = changes_to_target(s.axes, g.believed[i], s.target, g.position[i], changes)
    travel = 0.0
    for a in range(k):
        travel = max(travel, abs(g.position[i, a] - g.belief_at[i, a]))
    out[b] = 1.0
    out[b + 1] = g.belief[i, CONFIDENCE]
    out[b + 2] = min(g.belief[i, INDEXED] / 300.0, 1.0)
    out[b + 3] = min(g.belief[i, INDEXED] / max(g.belief[i, EXPECTED], 1.0), 1.0)
    out[b + 4] = min(np.cbrt(math.degrees(g.belief[i, SIGMA]) / 180.0), 1.0)
    out[b + 5] = min(np.cbrt(math.degrees(angle) / 180.0), 1.0)
    out[b + 6] = min(np.cbrt(travel / 180.0), 1.0)
    out[b + 7] = 1.0 if left < 1e-4 else 0.0
    for a in range(k):
        out[b + 8 + a] = min(max(np.cbrt(changes[a] / 180.0), -1.0), 1.0)


#: Outcomes of `advance`, in the order of their codes.
OUTCOMES = ("", "right", "wrong", "gave_up", "too_long")


@njit(cache=True)
def advance(
    s: Stage,
    g: Games,
    i: int,
    action: NDArray[np.float32],
    limits: FloatArray,
    rules: FloatArray,
    want_image: bool,
    work: FloatArray,
    image: FloatArray,
    terms: FloatArray,
) -> int:
    """One action of game ``i``; the terms of its reward go into ``terms`` (5,). Returns the outcome's code, 0 while it goes on.

    ``limits`` as in `vectors`, then the longest exposure, steps and time; ``rules``: tolerance (rad), time unit, and the
    worth of refused, right, wrong, gave up.
    """
    terms[:] = 0.0
    before = g.clock[i]
    g.counters[i, STEPS] += 1
    selector = action[0]
    outcome = 0
    if selector < -0.5:
        outcome = 3
    elif selector < 0.0:
        x = 0.5 * (min(max(action[1], -1.0), 1.0) + 1.0)
        seconds = min(limits[3] * math.exp(limits[4] + x * (limits[5] - limits[4])), limits[6])
        if g.counters[i, FRAMES] >= limits[2] or g.dose[i] + seconds > limits[1]:
            terms[1] = rules[2]
        else:
            expose(s, g, i, seconds, want_image, work, image)
    elif selector < 0.5:
        k = g.zero.shape[1]
        goal = np.empty(k)
        for a in range(k):
            x = min(max(action[2 + a], -1.0), 1.0)
            goal[a] = g.position[i, a] + 180.0 * x * x * x
        move(s, g, i, goal)
    elif g.counters[i, HAS_BELIEF] == 0:
        outcome = 3
    else:
        outcome = 1 if true_miss(s, g, i) <= rules[0] else 2
    if outcome == 0 and (g.counters[i, STEPS] >= limits[7] or g.clock[i] >= limits[0]):
        outcome = 4
    terms[0] = -(g.clock[i] - before) / rules[1]
    if outcome == 1:
        terms[2] = rules[3]
    elif outcome == 2:
        terms[3] = rules[4]
    elif outcome >= 3:
        terms[4] = rules[5]
    return outcome


@njit(cache=True)
def advance_all(
    s: Stage,
    g: Games,
    actions: NDArray[np.float32],
    skip: NDArray[np.bool_],
    limits: FloatArray,
    rules: FloatArray,
    want_image: bool,
    work: FloatArray,
    image: FloatArray,
    terms: FloatArray,
    outcome: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """`advance` and `vectors` for all games but those to ``skip``."""
    for i in range(actions.shape[0]):
        if skip[i]:
            terms[i, :] = 0.0
            outcome[i] = 0
            continue
        outcome[i] = advance(s, g, i, actions[i], limits, rules, want_image, work, image, terms[i])
        vectors(s, g, i, limits, out[i])


@njit(cache=True)
def mount_some(s: Stage, g: Games, which: NDArray[np.bool_], limits: FloatArray, out: NDArray[np.float32]) -> None:
    """`mount` and `vectors` for the games of a mask."""
    for i in range(which.size):
        if which[i]:
            mount(s, g, i)
            vectors(s, g, i, limits, out[i])
