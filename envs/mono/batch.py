"""Many games of ``lauepilot/MonoAlign-v0`` at a time: whole games side by side, each on its full twin.

A scan of the twin is thousands of angles in one compiled loop already; what a batch adds is one call, arrays of all games,
and the conventions of `lauepilot.envs.batched`. Crystal and catalogue are shared by all games.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from lauepilot.envs.batched import Arrays, Flags
from lauepilot.envs.mono.coding import WIDTH, MonoCoder
from lauepilot.envs.mono.loop import MonoLoop, MonoTurn
from lauepilot.envs.mono.notes import Notes
from lauepilot.envs.mono.task import Centre, MonoDecision, MonoTask
from lauepilot.envs.mono.world import MonoSeen, MonoWorld
from lauepilot.perception.reflections.hypotheses import Catalogue
from lauepilot.simulator.fourcircle_faults import FourCircleFaults


class MonoGame:
    """One game: loop and notes; games of a batch share a catalogue."""

    def __init__(self, task: MonoTask, faults: FourCircleFaults, catalogue: Catalogue | None = None) -> None:
        self.loop = MonoLoop(MonoWorld(task, faults, catalogue))
        self.coder = MonoCoder(task)
        self.seen: MonoSeen | None = None
        self.notes = self._blank()
        self.turn: MonoTurn | None = None

    def _blank(self) -> Notes:
        return Notes(self.loop.world.catalogue, self.loop.world.look)

    def reset(self, rng: np.random.Generator, u: ArrayLike | None = None) -> None:
        """Mount a crystal, on a clean page."""
        self.seen, self.notes, self.turn = self.loop.reset(rng, u), self._blank(), None

    def step(self, decision: MonoDecision) -> MonoTurn:
        """Carry a decision out and write down what came of it."""
        turn = self.loop.step(decision)
        before, self.seen, self.turn = self.seen, turn.seen, turn
        if isinstance(decision, Centre) and not turn.refused:
            self.notes.take(turn.seen, np.asarray(decision.angles_deg, dtype=float))
        elif before is None or turn.seen.sweep is not before.sweep:
            self.notes.take(turn.seen, None)
        return turn

    def decision(self, action: ArrayLike) -> MonoDecision:
        """What an action means now."""
        return self.coder.decision(action, self._now(), self.notes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The observation now."""
        return self.coder.arrays(self._now(), self.notes, self.loop.n_steps)

    def truth(self) -> dict[str, Any]:
        """What a referee says at the end."""
        turn = self.turn
        return {
            "outcome": "" if turn is None or turn.outcome is None else turn.outcome,
            "miss_deg": float("inf") if turn is None or np.isnan(turn.miss_deg) else turn.miss_deg,
            "crystallite": 0 if turn is None else turn.crystallite,
            "seconds": self._now().clock_s,
            "dose_s": self._now().dose_s,
            "steps": self.loop.n_steps,
            "counts": self._now().n_counts,
            **self.loop.world.truth(),
        }

    def _now(self) -> MonoSeen:
        if self.seen is None:
            raise ValueError("No game was started: call reset() first.")
        return self.seen


class BatchMono:
    """A batch of games, without opinion on when to start again.

    Parameters
    ----------
    n
        Games.
    task
        What is played.
    faults
        What they draw from.
    """

    def __init__(self, n: int, task: MonoTask, faults: FourCircleFaults) -> None:
        if n < 1:
            raise ValueError(f"A batch needs at least one game; {n} came.")
        self.n = n
        self.task = task
        self.coder = MonoCoder(task)
        self.action_space: spaces.Space[Any] = self.coder.action_space()
        self.observation_space: spaces.Space[Any] = self.coder.observation_space()
        shared = Catalogue(task.crystal, task.instrument)
        self._games = [MonoGame(task, faults, shared) for _ in range(n)]
        self._dice = [np.random.default_rng(i) for i in range(n)]

    def seed(self, rng: np.random.Generator) -> None:
        """Give each game random numbers of its own."""
        self._dice = rng.spawn(self.n)

    def reset(self, which: ArrayLike | None = None) -> None:
        """Mount new crystals in the games of a mask (n,), or in all."""
        mask = np.ones(self.n, dtype=bool) if which is None else np.asarray(which, dtype=bool)
        for i in np.flatnonzero(mask):
            self._games[i].reset(self._dice[i])

    def step(self, actions: ArrayLike, skip: Flags | None = None) -> tuple[NDArray[np.float32], Flags, Flags]:
        """One action (n, 9) of each game but those to ``skip``: rewards, terminated, truncated, each (n,).

        Raises
        ------
        ValueError
            If actions have the wrong shape or are not finite.
        """
        numbers = np.asarray(actions, dtype=np.float32)
        if numbers.shape != (self.n, WIDTH) or not np.isfinite(numbers).all():
            raise ValueError(f"Actions must be finite and of shape {(self.n, WIDTH)}; {numbers.shape} came.")
        reward = np.zeros(self.n, dtype=np.float32)
        terminated, truncated = np.zeros(self.n, dtype=bool), np.zeros(self.n, dtype=bool)
        for i, game in enumerate(self._games):
            if skip is not None and skip[i]:
                continue
            turn = game.step(game.decision(numbers[i]))
            reward[i], terminated[i], truncated[i] = turn.reward, turn.terminated, turn.truncated
        return reward, terminated, truncated

    def observations(self) -> Arrays:
        """All observations now, as members of the batched observation space."""
        every = [game.arrays() for game in self._games]
        return {name: np.stack([one[name] for one in every]) for name in every[0]}

    def ended(self, i: int) -> dict[str, Any]:
        """What a referee says of game ``i`` at its end."""
        return self._games[i].truth()
