"""Whole games: an agent of the `Agent` protocol on the same loop that the Bluesky plan runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.envs.loop import Loop
from lauepilot.envs.tasks import Align, Outcome
from lauepilot.envs.world import World
from lauepilot.perception.observation import Decision, Declare, Expose, Move, Observation
from lauepilot.perception.observer import Observer
from lauepilot.perception.task import Task
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.twin import Twin


class Agent(Protocol):
    """Whoever decides; the same as `lauepilot.hardware.protocols.Agent`."""

    def reset(self, task: Any) -> None:
        """Start on a new task."""

    def decide(self, observation: Observation) -> Decision:
        """The next step."""

    def state(self) -> dict[str, Any]:
        """What the agent holds, as plain JSON values."""


@dataclass(frozen=True, eq=False)
class EpisodeResult:
    """How a game went.

    Attributes
    ----------
    outcome
        ``right`` or ``wrong`` (declared; `lauepilot.envs.tasks.Align` says which), ``gave_up``, ``out_of_reach`` (given
        up, and truly so), ``too_long``.
    reason
        The last decision's, in words.
    miss_deg
        True angle to the target at the end.
    reachable
        Whether the target truly is within reach.
    seconds, dose_s
        Time and open-shutter time.
    moves, exposures, refused
        Counts.
    reward
        Sum of all rewards.
    decisions
        All of them, in order.
    believed_sigma_deg
        Standard deviation of the declared orientation (worst direction); NaN without.
    orientation_error_deg
        True error of the declared orientation; NaN without.
    """

    outcome: Outcome
    reason: str
    miss_deg: float
    reachable: bool
    seconds: float
    dose_s: float
    moves: int
    exposures: int
    refused: int
    reward: float
    decisions: tuple[Decision, ...]
    believed_sigma_deg: float
    orientation_error_deg: float

    def summary(self) -> Mapping[str, Any]:
        """Plain numbers, for tables."""
        return {k: v for k, v in self.__dict__.items() if k != "decisions"}


def build_loop(
    task: Task, faults: Faults, rng: np.random.Generator, observer: Observer | None = None
) -> Loop:
    """A loop on a new Twin; ``observer`` None makes one (seconds)."""
    twin = Twin(task.crystal, task.instrument, rng=rng, faults=faults)
    eyes = Observer(task.crystal, task.instrument) if observer is None else observer
    rules = Align(
        tolerance_deg=task.tolerance_deg,
        max_steps=task.max_steps,
        max_time_s=task.max_time_s,
        time_unit_s=10.0 * task.exposure_s,
    )
    return Loop(World(twin, eyes, task), rules)


def play(loop: Any, agent: Agent, rng: np.random.Generator, u: ArrayLike | None = None) -> EpisodeResult:
    """Play one game to its end.

    Parameters
    ----------
    loop
        A `Loop` on a `World`, or an environment that has one as ``loop`` (`LaueAlignEnv`, wrapped or not).
    agent
        Decides.
    rng
        Draws crystal, faults and photons.
    u
        Orientation (3, 3) of the crystal in the holder; None draws it.
    """
    game: Loop = loop if isinstance(loop, Loop) else getattr(loop, "unwrapped", loop).loop
    world = game.world
    if not isinstance(world, World):
        raise TypeError(
            f"play() needs a loop on a World, which knows task and truth; it got {type(world).__name__}."
        )
    observation = game.reset(rng, u)
    agent.reset(world.task)
    reward, decisions = 0.0, []
    while True:
        decision = agent.decide(observation)
        decisions.append(decision)
        turn = game.step(decision)
        observation = turn.observation
        reward += turn.reward
        if turn.outcome is not None:
            break
    declared = decision.orientation if isinstance(decision, Declare) else None
    reason = "Steps or time ran out." if turn.truncated else getattr(decision, "reason", "")
    return EpisodeResult(
        outcome=turn.outcome,
        reason=reason,
        miss_deg=world.miss_deg(),
        reachable=world.reachable(),
        seconds=world.clock_s,
        dose_s=world.dose_s,
        moves=sum(isinstance(d, Move) for d in decisions),
        exposures=sum(isinstance(d, Expose) for d in decisions),
        refused=game.n_refused,
        reward=reward,
        decisions=tuple(decisions),
        believed_sigma_deg=float("nan") if declared is None else declared.sigma_deg,
        orientation_error_deg=float("nan") if declared is None else world.misorientation_deg(declared.u),
    )
