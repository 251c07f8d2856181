"""Many games of ``lauepilot/LaueGame-v0`` at a time, in compiled loops; a single game is a batch of one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numba import njit
from numpy.typing import ArrayLike, NDArray

from lauepilot.envs.game.orbits import all_orbits, scattering, stamps
from lauepilot.envs.game.picture import expose
from lauepilot.envs.game.rules import (
    DISTANCE_MM,
    FAMILIES,
    NAMES,
    PRIZE,
    RANGE_DEG,
    SIDE,
    START_DEG,
    STEP_DEG,
    TOLERANCE_DEG,
    FamilyName,
    LevelName,
    Physics,
    level_of,
)
from lauepilot.envs.game.state import (
    CANDIDATES,
    CUT_A,
    RANGE,
    STEP,
    STEPS,
    TOLERANCE,
    Games,
    Stage,
    empty_games,
    miss_of,
    prepare,
    start,
    turn_about,
)
from lauepilot.envs.game.state import PRIZE as PRIZE_AT
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.poisson import new_stream

#: How a game ended, in the order of `Games.outcome`.
OUTCOMES = ("", "won", "out_of_range", "too_long")


def stage(family: str, physics: str, level: str) -> Stage:
    """What all games of a batch share.

    Raises
    ------
    ValueError
        If there is no such family, physics or level.
    """
    if family not in ("any", *NAMES):
        raise ValueError(f"family must be any, {', '.join(NAMES)}; {family!r} came.")
    if physics not in ("laue", "lauerl"):
        raise ValueError(f"physics must be 'laue' or 'lauerl'; {physics!r} came.")
    how = level_of(level)
    orbits, members, begin = all_orbits()
    deg = math.radians
    return Stage(
        orbits=orbits,
        members=members,
        begin=begin,
        ranges=np.array([[*f.a, *f.c, *f.spots, *DISTANCE_MM] for f in FAMILIES], dtype=float),
        only=-1 if family == "any" else NAMES.index(family),
        f2=scattering(),
        stamps=stamps(),
        lauerl=physics == "lauerl",
        cut=CUT_A,
        numbers=np.array(
            [how.scatter, how.lost, how.false, how.steps, deg(STEP_DEG), deg(TOLERANCE_DEG), deg(RANGE_DEG), PRIZE]
            + [deg(x) for x in START_DEG]
        ),
    )  # fmt: skip


@njit(cache=True)
def start_some(
    s: Stage,
    g: Games,
    mask: NDArray[np.bool_],
    rows: FloatArray,
    spots: FloatArray,
    work: NDArray[np.float32],
) -> None:
    """Start the games of a mask (n,)."""
    for i in range(mask.size):
        if mask[i]:
            start(s, g, i)
            prepare(s, g, i)
            expose(s, g, i, rows, spots, work)


@njit(cache=True)
def step_all(
    s: Stage,
    g: Games,
    actions: NDArray[np.float32],
    skip: NDArray[np.bool_],
    reward: NDArray[np.float32],
    rows: FloatArray,
    spots: FloatArray,
    work: NDArray[np.float32],
) -> None:
    """One move of each game but those to ``skip``."""
    for i in range(actions.shape[0]):
        reward[i] = np.float32(0.0)
        if skip[i]:
            g.outcome[i] = 0
            continue
        g.steps[i] += 1
        for axis in (1, 0):
            part = min(max(actions[i, axis], np.float32(-1.0)), np.float32(1.0))
            turn_about(axis, s.numbers[STEP] * part, g.u[i])
            g.turned[i, axis] += s.numbers[STEP] * part
            g.moved[i, axis] = part
        before = g.miss[i]
        g.miss[i] = miss_of(g.u[i], g.family[i])
        expose(s, g, i, rows, spots, work)
        if max(abs(g.turned[i, 0]), abs(g.turned[i, 1])) > s.numbers[RANGE]:
            g.outcome[i] = 2
            continue
        worth = s.numbers[PRIZE_AT] * (before - g.miss[i]) / (g.start[i] * math.sqrt(float(g.steps[i])))
        if g.miss[i] <= s.numbers[TOLERANCE]:
            g.outcome[i] = 1
            worth += s.numbers[PRIZE_AT]
        elif g.steps[i] >= s.numbers[STEPS]:
            g.outcome[i] = 3
        else:
            g.outcome[i] = 0
        reward[i] = np.float32(worth)


class BatchGame:
    """A batch of games, without opinion on when to start again; `lauepilot.envs.game.env.LaueGameEnv` is its data sheet.

    Parameters
    ----------
    n
        Games.
    family
        ``any`` draws one of the three for each game.
    physics
        ``laue``, or ``lauerl`` for comparison.
    level
        ``normal`` or ``hard``.
    """

    def __init__(
        self, n: int, family: FamilyName = "any", physics: Physics = "laue", level: LevelName = "normal"
    ) -> None:
        if n < 1:
            raise ValueError(f"A batch needs at least one game; {n} came.")
        self.n = n
        self.physics = physics
        self.level = level_of(level)
        self.action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space: spaces.Space[Any] = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8),
                "moved": spaces.Box(-1.0, 1.0, (2,), np.float32),
            }
        )
        self._stage = stage(family, physics, level)
        self._games = empty_games(n, int(np.diff(self._stage.begin).max()))
        self._rows = np.zeros((CANDIDATES, 3))
        self._spots = np.zeros((256, 2))
        self._work = np.zeros((SIDE, SIDE), dtype=np.float32)
        self._nobody = np.zeros(n, dtype=bool)

    def seed(self, rng: np.random.Generator) -> None:
        """Give each game a stream of random numbers of its own."""
        for i, child in enumerate(rng.spawn(self.n)):
            stream = new_stream(child)
            self._games.place[i], self._games.step[i] = stream.position, stream.step

    def reset(self, which: ArrayLike | None = None) -> None:
        """Draw new crystals for the games of a mask (n,), or for all."""
        mask = np.ones(self.n, dtype=bool) if which is None else np.asarray(which, dtype=bool)
        start_some(self._stage, self._games, mask, self._rows, self._spots, self._work)

    def step(
        self, actions: ArrayLike, skip: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """One move (n, 2) of each game but those to ``skip``: rewards, terminated, truncated, each (n,).

        Raises
        ------
        ValueError
            If actions have the wrong shape or are not finite.
        """
        numbers = np.ascontiguousarray(actions, dtype=np.float32)
        if numbers.shape != (self.n, 2) or not np.isfinite(numbers).all():
            raise ValueError(f"Actions must be finite and of shape {(self.n, 2)}; {numbers.shape} came.")
        reward = np.zeros(self.n, dtype=np.float32)
        step_all(
            self._stage,
            self._games,
            numbers,
            self._nobody if skip is None else skip,
            reward,
            self._rows,
            self._spots,
            self._work,
        )
        outcome = self._games.outcome
        return reward, (outcome == 1) | (outcome == 2), outcome == 3

    def observations(self) -> dict[str, NDArray[Any]]:
        """All observations now; copies."""
        return {"image": self._games.image.copy(), "moved": self._games.moved.copy()}

    def true_u(self) -> FloatArray:
        """True orientations (n, 3, 3) now, Busing and Levy's frame to the laboratory: for referees and teachers."""
        return self._games.u.copy()

    def true_family(self) -> NDArray[np.int64]:
        """Indices (n,) of the families in `lauepilot.envs.game.rules.NAMES`: for referees and teachers."""
        return self._games.family.copy()

    def true_cell(self) -> FloatArray:
        """a, c (angstrom) and the film's distance (mm), (n, 3), as configured: for referees and teachers."""
        return np.column_stack([self._games.cell, self._games.distance])

    def miss_deg(self) -> FloatArray:
        """True angles (n,) to the nearest targets, degrees: for referees."""
        return np.rad2deg(self._games.miss)

    def ended(self, i: int) -> dict[str, Any]:
        """What a referee says of game ``i`` at its end."""
        g = self._games
        return {
            "outcome": OUTCOMES[int(g.outcome[i])],
            "miss_deg": float(np.rad2deg(g.miss[i])),
            "start_deg": float(np.rad2deg(g.start[i])),
            "steps": int(g.steps[i]),
            "family": NAMES[int(g.family[i])],
        }
