"""The loop of the four-circle game, one decision at a time, and whole games."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.envs.loop import GameOverError, Judged
from lauepilot.envs.mono.task import DeclareUb, MonoDecision, MonoTask, Outcome
from lauepilot.envs.mono.world import MonoSeen, MonoWorld
from lauepilot.envs.world import RefusedError


class MonoAgent(Protocol):
    """Whoever decides."""

    def reset(self, task: MonoTask) -> None:
        """Start on a new crystal."""

    def decide(self, seen: MonoSeen) -> MonoDecision:
        """The next step."""

    def state(self) -> dict[str, Any]:
        """What the agent holds, as plain JSON values."""


@dataclass(frozen=True, eq=False)
class MonoTurn(Judged):
    """What came of one decision.

    Attributes
    ----------
    seen
        What is known now.
    terms
        The reward by name; its sum is the reward.
    outcome
        How the game ended; None while it goes on.
    refused
        Why the decision was not carried out; empty if it was.
    miss_deg
        Of a declared UB, the referee's; NaN otherwise.
    crystallite
        Whose UB it is: 0, or 1 of a second crystallite.
    """

    seen: MonoSeen
    terms: Mapping[str, float]
    outcome: Outcome | None
    refused: str
    miss_deg: float
    crystallite: int


class MonoLoop:
    """Plays decisions on a world by the task's rules. What is refused counts as a step, and nothing happens."""

    def __init__(self, world: MonoWorld) -> None:
        self.world, self.task = world, world.task
        self._running = False
        self.n_steps = self.n_refused = 0

    def reset(self, rng: np.random.Generator, u: ArrayLike | None = None) -> MonoSeen:
        """Start a game, at a given orientation (3, 3) of the crystal in the holder or a random one."""
        self._running = True
        self.n_steps = self.n_refused = 0
        return self.world.reset(rng, u)

    def step(self, decision: MonoDecision) -> MonoTurn:
        """Carry one decision out.

        Raises
        ------
        GameOverError
            If no game is running.
        """
        if not self._running:
            raise GameOverError("No game is running: call reset() first, and again after each end.")
        before = self.world.twin.clock_s
        self.n_steps += 1
        refused, miss, crystallite = "", float("nan"), 0
        try:
            seen = self.world.apply(decision)
        except RefusedError as error:
            seen, refused = self.world.seen, str(error)
            self.n_refused += 1
        if isinstance(decision, DeclareUb):
            miss, crystallite = self.world.miss_deg(decision.ub)
        clock = self.world.twin.clock_s
        outcome = self.task.outcome(decision, miss, self.n_steps, clock)
        self._running = outcome is None
        return MonoTurn(
            seen,
            self.task.rewards(clock - before, bool(refused), outcome),
            outcome,
            refused,
            miss,
            crystallite,
        )


@dataclass(frozen=True)
class MonoResult:
    """How a game went.

    Attributes
    ----------
    outcome, reason
        ``right``, ``wrong``, ``gave_up`` or ``too_long``, and the last decision's reason.
    miss_deg
        The referee's of the declared UB; NaN without.
    seconds, dose_s
        Time and open-shutter time.
    counts, steps, refused
        Bins or frames, decisions, decisions that were refused.
    reward
        Sum of all rewards.
    crystallite
        Whose UB it is: 0, or 1 of a second crystallite.
    """

    outcome: Outcome
    reason: str
    miss_deg: float
    seconds: float
    dose_s: float
    counts: int
    steps: int
    refused: int
    reward: float
    crystallite: int


def play_mono(
    loop: MonoLoop, agent: MonoAgent, rng: np.random.Generator, u: ArrayLike | None = None
) -> MonoResult:
    """Play one game to its end; ``rng`` draws crystal, faults and counts, ``u`` (3, 3) mounts the crystal there."""
    seen = loop.reset(rng, u)
    agent.reset(loop.task)
    reward = 0.0
    while True:
        decision = agent.decide(seen)
        turn = loop.step(decision)
        seen, reward = turn.seen, reward + turn.reward
        if turn.outcome is not None:
            break
    reason = "Steps or time ran out." if turn.truncated else getattr(decision, "reason", "")
    return MonoResult(
        turn.outcome, reason, turn.miss_deg, seen.clock_s, seen.dose_s, seen.n_counts, loop.n_steps, loop.n_refused,
        reward, turn.crystallite,
    )  # fmt: skip
