"""The rules of the alignment game: how it starts, what a step is worth, and when it ends.

Cost is time. A wrong declaration is the worst outcome, worse than giving up; giving up a target that truly is out
of reach is right. Nobody tells the player that he has arrived: the game ends when he declares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.perception.observation import Decision, Declare, GiveUp, Observation

Outcome = Literal["right", "wrong", "gave_up", "out_of_reach", "too_long"]


class Played(Protocol):
    """What the rules ask of a world; see `lauepilot.envs.world.World`."""

    @property
    def clock_s(self) -> float:
        """Seconds since the start."""

    def reset(self, rng: np.random.Generator, u: ArrayLike | None = None) -> Observation:
        """Start anew."""

    def apply(self, decision: Decision) -> Observation:
        """Carry a decision out, or raise `lauepilot.envs.world.RefusedError`."""

    def miss_deg(self) -> float:
        """True angle to the target now, degrees."""

    def misorientation_deg(self, u_lab: ArrayLike) -> float:
        """Angle between a claimed laboratory orientation (3, 3) and the true one now, over symmetry, degrees."""

    def reachable(self) -> bool:
        """Whether the target truly is within reach."""


class Worth:
    """What a step is worth, by numbers that each game sets."""

    time_unit_s: float
    right: float
    wrong: float
    gave_up: float
    refused: float

    def rewards(self, seconds: float, refused: bool, outcome: str | None) -> dict[str, float]:
        """Terms of the reward of one step, by name: ``time`` for the ``seconds`` it took, and what happened."""
        return {
            "time": -seconds / self.time_unit_s,
            "refused": self.refused if refused else 0.0,
            "right": self.right if outcome == "right" else 0.0,
            "wrong": self.wrong if outcome == "wrong" else 0.0,
            "gave_up": self.gave_up if outcome in {"gave_up", "too_long"} else 0.0,
        }


@dataclass(frozen=True)
class Align(Worth):
    """Bring the crystal to the target and say so.

    Attributes
    ----------
    tolerance_deg
        A declaration is right within this angle of the target, if the declared orientation is the true one.
    claim_deg, claim_sigmas
        How far the declared orientation may be from the truth: the greater of an angle and so many of its own
        standard deviations (worst direction). It catches other solutions, not noise.
    max_steps, max_time_s
        The game is cut off after so many decisions or seconds.
    time_unit_s
        Time that costs 1.
    right, wrong, gave_up, refused
        Worth of the other terms: of a right and a wrong declaration, of giving up a reachable target (or running
        out of time), of a decision that was refused.
    """

    tolerance_deg: float = 0.1
    claim_deg: float = 0.5
    claim_sigmas: float = 5.0
    max_steps: int = 50
    max_time_s: float = 3600.0
    time_unit_s: float = 600.0
    right: float = 1.0
    wrong: float = -5.0
    gave_up: float = -1.0
    refused: float = -0.05

    def start(self, world: Played, rng: np.random.Generator, u: ArrayLike | None = None) -> Observation:
        """Mount a crystal; axes stand at zero and the clock with them."""
        return world.reset(rng, u)

    def outcome(self, world: Played, decision: Decision, n_steps: int) -> Outcome | None:
        """How the game ended with this decision, the ``n_steps``-th; None if it goes on."""
        if isinstance(decision, Declare):
            there = world.miss_deg() <= self.tolerance_deg
            return "right" if there and self._claim_holds(world, decision) else "wrong"
        if isinstance(decision, GiveUp):
            return "gave_up" if world.reachable() else "out_of_reach"
        if n_steps >= self.max_steps or world.clock_s >= self.max_time_s:
            return "too_long"
        return None

    def _claim_holds(self, world: Played, decision: Declare) -> bool:
        """Whether the crystal stands as declared: an experiment goes on with that orientation, by luck there or not."""
        allowed = max(self.claim_deg, self.claim_sigmas * decision.orientation.sigma_deg)
        return world.misorientation_deg(decision.orientation.u) <= allowed
