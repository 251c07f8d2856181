"""State of a batch of games, and what does not need a frame: mounting, moving, the truth.

All that changes is in `Games`, and kernels change it in place; what cannot change during training is in `Stage`.
Random numbers are those of `lauepilot.simulator.poisson`, one stream for each game.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.envs.align.hint import PackedAxes, PackedTarget, chain, least_miss, times
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.kernels import PackedDetector
from lauepilot.simulator.poisson import WORDS, poisson, uniform


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
        Seconds of readout; detection limit in sigmas and photons; spots for which the belief is even odds; radians
        below which a belief's error does not fall.
    spread
        Standard deviations of the faults: detector centre (mm, both ways), distance (mm), tilt (rad), direction of
        axes (rad), zero of axes (deg), logarithm of the power; then the factor of the power and logarithm of its ratio,
        and the same two of the background.
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
    background: FloatArray
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
        f(n, np.uint64), np.ones(n, np.uint64), f((n, 3, 3)), f((n, k, 3)), f((n, k)), f((n, 3, 3)), f((n, 3)), f(n), f(n),
        f((n, k)), f((n, k)), f(n), f(n), f(n), f((n, 4), np.int64), f((n, 3, 3)), f((n, 4)), f((n, k)),
        f((n, spots, 6), np.float32), f((n, image, image, 1), np.uint8),
    )  # fmt: skip


@njit(cache=True)
def draw_uniform(g: Games, i: int) -> float:
    """The next number in (0, 1) of game ``i``."""
    value = uniform(g.place[i])
    g.place[i] += g.step[i]
    return value


@njit(cache=True)
def draw_normal(g: Games, i: int) -> float:
    """Box and Muller: the tables of `poisson.normal` end too early for a thousand games."""
    return math.sqrt(-2.0 * math.log(draw_uniform(g, i))) * math.cos(2.0 * math.pi * draw_uniform(g, i))


@njit(cache=True)
def draw_poisson(g: Games, i: int, rate: float, tables: NDArray[np.uint64]) -> int:
    """The next Poisson number of game ``i``."""
    value = int(poisson(rate, g.place[i], g.step[i], tables))
    g.place[i] += np.uint64(WORDS) * g.step[i]
    return value


@njit(cache=True)
def small_turn(x: float, y: float, z: float, out: FloatArray) -> None:
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
    w, x, y, z = draw_normal(g, i), draw_normal(g, i), draw_normal(g, i), draw_normal(g, i)
    n = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / n, x / n, y / n, z / n
    u = g.u[i]
    u[0, 0], u[0, 1], u[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    u[1, 0], u[1, 1], u[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    u[2, 0], u[2, 1], u[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    turn = np.empty((3, 3))
    small_turn(s.spread[2] * draw_normal(g, i), s.spread[2] * draw_normal(g, i), 0.0, turn)
    times(turn, s.detector.rotation, g.rotation[i])
    g.pose[i, 0] = s.detector.centre_col + s.spread[0] * draw_normal(g, i) / s.detector.pixel_col_mm
    g.pose[i, 1] = s.detector.centre_row + s.spread[0] * draw_normal(g, i) / s.detector.pixel_row_mm
    g.pose[i, 2] = max(s.detector.distance_mm + s.spread[1] * draw_normal(g, i), 0.5 * s.detector.distance_mm)
    g.power[i] = s.spread[6] * math.exp(
        s.spread[5] * draw_normal(g, i) + s.spread[7] * (draw_uniform(g, i) - 0.5)
    )
    g.background[i] = s.spread[8] * math.exp(s.spread[9] * (draw_uniform(g, i) - 0.5))
    for a in range(g.position.shape[1]):
        d = s.axes.directions[a]
        e = s.spread[3]
        ex, ey, ez = e * draw_normal(g, i), e * draw_normal(g, i), e * draw_normal(g, i)
        along = ex * d[0] + ey * d[1] + ez * d[2]
        small_turn(ex - along * d[0], ey - along * d[1], ez - along * d[2], turn)
        for r in range(3):
            g.directions[i, a, r] = turn[r, 0] * d[0] + turn[r, 1] * d[1] + turn[r, 2] * d[2]
        g.zero[i, a] = s.spread[4] * draw_normal(g, i)
        g.position[i, a] = min(max(0.0, s.axes.low[a]), s.axes.high[a])
        g.carried[i, a] = g.position[i, a] + (draw_uniform(g, i) - 0.5) * s.play[a]
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
