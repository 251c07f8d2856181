"""The loop: world and rules, one decision at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.envs.tasks import Outcome, Played
from lauepilot.envs.world import RefusedError
from lauepilot.perception.observation import Decision, Observation


class Rules(Protocol):
    """How a game starts, what a step is worth, when it ends; see `lauepilot.envs.tasks.Align`."""

    def start(self, world: Played, rng: np.random.Generator, u: ArrayLike | None = None) -> Observation:
        """Start a game."""

    def outcome(self, world: Played, decision: Decision, n_steps: int) -> Outcome | None:
        """How the game ended with a decision; None if it goes on."""

    def rewards(self, seconds: float, refused: bool, outcome: Outcome | None) -> dict[str, float]:
        """Terms of the reward by name."""


class GameOverError(RuntimeError):
    """A step before the start or after the end of a game."""


class Judged:
    """What a turn's ``terms`` and ``outcome`` amount to, whatever the game."""

    terms: Mapping[str, float]
    outcome: str | None

    @property
    def reward(self) -> float:
        """Sum of the terms."""
        return float(sum(self.terms.values()))

    @property
    def terminated(self) -> bool:
        """The player ended the game."""
        return self.outcome is not None and self.outcome != "too_long"

    @property
    def truncated(self) -> bool:
        """Time or steps ran out."""
        return self.outcome == "too_long"


@dataclass(frozen=True, eq=False)
class Turn(Judged):
    """What came of one decision.

    Attributes
    ----------
    observation
        What is known now.
    terms
        The reward by name; its sum is the reward.
    outcome
        How the game ended; None while it goes on.
    refused
        Why the decision was not carried out; empty if it was.
    seconds
        Time that it took.
    """

    observation: Observation
    terms: Mapping[str, float]
    outcome: Outcome | None
    refused: str
    seconds: float


class Loop:
    """Plays decisions on a world by rules. What is refused counts as a step, and nothing happens."""

    def __init__(self, world: Played, rules: Rules) -> None:
        self.world = world
        self.rules = rules
        self._running = False
        self.observation: Observation | None = None
        self.n_steps = 0
        self.n_refused = 0

    def reset(self, rng: np.random.Generator, u: ArrayLike | None = None) -> Observation:
        """Start a game, at a given orientation (3, 3) of the crystal in the holder or a random one."""
        self.observation = self.rules.start(self.world, rng, u)
        self.n_steps = 0
        self.n_refused = 0
        self._running = True
        return self.observation

    def step(self, decision: Decision) -> Turn:
        """Carry one decision out.

        Raises
        ------
        GameOverError
            If no game is running.
        """
        if not self._running or self.observation is None:
            raise GameOverError("No game is running: call reset() first, and again after each end.")
        before = self.world.clock_s
        self.n_steps += 1
        refused = ""
        try:
            self.observation = self.world.apply(decision)
        except RefusedError as error:
            refused = str(error)
            self.n_refused += 1
        outcome = self.rules.outcome(self.world, decision, self.n_steps)
        self._running = outcome is None
        seconds = self.world.clock_s - before
        return Turn(
            self.observation, self.rules.rewards(seconds, bool(refused), outcome), outcome, refused, seconds
        )
