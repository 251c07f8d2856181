"""One action of one game, and of all games of a batch: the compiled loop of rules, world and observation."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.envs.align.frames import expose
from lauepilot.envs.align.hint import chain, changes_to_target, least_miss, times
from lauepilot.envs.align.state import (
    CONFIDENCE,
    EXPECTED,
    FOUND,
    FRAMES,
    HAS_BELIEF,
    INDEXED,
    SIGMA,
    STEPS,
    Games,
    Stage,
    mount,
    move,
    true_miss,
)
from lauepilot.simulator.conventions import FloatArray


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
    """One action of game ``i``; the terms of its reward go into ``terms`` (5,).

    Returns the outcome's code, 0 while it goes on.

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
def mount_some(
    s: Stage, g: Games, which: NDArray[np.bool_], limits: FloatArray, out: NDArray[np.float32]
) -> None:
    """`mount` and `vectors` for the games of a mask."""
    for i in range(which.size):
        if which[i]:
            mount(s, g, i)
            vectors(s, g, i, limits, out[i])
