"""The shortest way of an axis to the beam in the game's steps."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from lauepilot.envs.game.rules import STEP_DEG, TOLERANCE_DEG
from lauepilot.simulator.conventions import FloatArray

_STEP = math.radians(STEP_DEG)
#: Steps that are enough from anywhere, and rounds of the search.
_MOST, _SWEEPS = 12, 60
#: Degrees kept from the tolerance, so that rounding does not cost a step.
MARGIN_DEG = 0.005


@njit(cache=True)
def _nearest(t: FloatArray, turns: FloatArray, back: FloatArray) -> float:
    """Improve turns (2 n,), about y and x alternately, that bring a direction to +z; what is left (rad).

    With all other turns fixed, the end's z is a sine of one turn, whose best value within the box is known: one after the
    other, from the first to the last, again and again. ``back`` (2 n + 1, 3) is scratch.
    """
    n = turns.size
    left = 4.0
    for _ in range(_SWEEPS):
        # What each turn's outcome is worth: z seen through the turns that follow.
        back[n, 0], back[n, 1], back[n, 2] = 0.0, 0.0, 1.0
        for k in range(n - 1, -1, -1):
            c, s = math.cos(turns[k]), math.sin(turns[k])
            p, q, r = back[k + 1, 0], back[k + 1, 1], back[k + 1, 2]
            if k % 2 == 0:
                back[k, 0], back[k, 1], back[k, 2] = c * p - s * r, q, s * p + c * r
            else:
                back[k, 0], back[k, 1], back[k, 2] = p, c * q + s * r, c * r - s * q
        x, y, z = t[0], t[1], t[2]
        for k in range(n):
            p, q, r = back[k + 1, 0], back[k + 1, 1], back[k + 1, 2]
            best = (
                math.atan2(p * z - r * x, p * x + r * z)
                if k % 2 == 0
                else math.atan2(r * y - q * z, q * y + r * z)
            )
            angle = min(max(best, -_STEP), _STEP)
            turns[k] = angle
            c, s = math.cos(angle), math.sin(angle)
            if k % 2 == 0:
                x, z = c * x + s * z, c * z - s * x
            else:
                y, z = c * y - s * z, s * y + c * z
        now = math.atan2(math.hypot(x, y), z)
        if now > left - 1e-6:
            return now
        left = now
    return left


@njit(cache=True)
def plan(t: FloatArray, tolerance: float, move: FloatArray) -> tuple[int, float]:
    """Fewest steps that bring a direction within ``tolerance`` (rad) of the beam, either way round, and what is left (rad).

    The first of them, turns about x and y in rad, goes into ``move`` (2,).
    """
    there = t.copy() if t[2] >= 0.0 else -t
    across = math.hypot(there[0], there[1])
    angle = math.atan2(across, there[2])
    back = np.empty((2 * _MOST + 1, 3))
    # No step goes further than both turns together.
    steps = max(1, math.ceil((angle - tolerance) / (math.sqrt(2.0) * _STEP) - 1e-9))
    left = 4.0
    while steps <= _MOST:
        # It starts from the turn about one axis, shared out.
        turns = np.zeros(2 * steps)
        if across > 1e-12:
            turns[0::2] = min(max(-angle * there[0] / across / steps, -_STEP), _STEP)
            turns[1::2] = min(max(angle * there[1] / across / steps, -_STEP), _STEP)
        left = _nearest(there, turns, back)
        move[0], move[1] = turns[1], turns[0]
        if left <= tolerance:
            break
        steps += 1
    return steps, left


@njit(cache=True)
def best_moves(
    u: FloatArray, family: NDArray[np.int64], tolerance: float, moves: FloatArray
) -> NDArray[np.int64]:
    """The all-knowing player's first turns (n, 2) about x and y in rad, for true orientations (n, 3, 3); his steps (n,)."""
    steps = np.zeros(len(u), np.int64)
    move, t = np.zeros(2), np.zeros(3)
    for i in range(len(u)):
        fewest, nearest = _MOST + 1, 4.0
        for axis in range(0 if family[i] == 0 else 2, 3):
            t[:] = u[i, :, axis]
            found, left = plan(t, tolerance, move)
            if found < fewest or (found == fewest and left < nearest):
                fewest, nearest = found, left
                moves[i] = move
        steps[i] = fewest
    return steps


def best_actions(u: ArrayLike, family: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The all-knowing player's actions (n, 2) and steps to go (n,).

    Parameters
    ----------
    u, family
        `BatchGame.true_u` (n, 3, 3) and `BatchGame.true_family` (n,).
    """
    turns = np.ascontiguousarray(u, dtype=float)
    moves = np.zeros((len(turns), 2))
    tolerance = math.radians(TOLERANCE_DEG - MARGIN_DEG)
    steps = best_moves(turns, np.ascontiguousarray(family, dtype=np.int64), tolerance, moves)
    return (moves / _STEP).astype(np.float32), steps


def shortest(directions: ArrayLike, tolerance_deg: float = TOLERANCE_DEG) -> tuple[NDArray[np.float32], int]:
    """The next action (2,) for bringing the nearest of some directions to the beam, and the steps that it takes.

    Parameters
    ----------
    directions
        (k, 3) unit vectors in the laboratory; opposite ones count as one.
    tolerance_deg
        Within which it is to end. Of the ways with the fewest steps, the one that ends nearest to the beam is taken.

    Raises
    ------
    ValueError
        If directions are none.
    """
    rows = np.atleast_2d(np.asarray(directions, dtype=float))
    if rows.shape[-1] != 3 or len(rows) == 0 or not np.isfinite(rows).all():
        raise ValueError(
            f"Directions are rows of three finite numbers; {np.asarray(directions).tolist()} came."
        )
    best, chosen = (_MOST + 1, 4.0), np.zeros(2)
    for t in rows:
        move = np.zeros(2)
        found = plan(np.ascontiguousarray(t), math.radians(tolerance_deg - MARGIN_DEG), move)
        if found < best:
            best, chosen = found, move
    return (chosen / _STEP).astype(np.float32), best[0]
