"""What a natively batched game offers, and its form for Gymnasium; `lauepilot.agents.vecenv` has that for SB3."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

Arrays = dict[str, NDArray[Any]]
Flags = NDArray[np.bool_]


class Batch(Protocol):
    """Many games at a time, without opinion on when to start again."""

    @property
    def n(self) -> int:
        """Games."""

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Of one game."""

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Of one game."""

    def seed(self, rng: np.random.Generator) -> None:
        """Give each game random numbers of its own."""

    def reset(self, which: ArrayLike | None = None) -> None:
        """Start the games of a mask (n,) anew, or all."""

    def step(self, actions: ArrayLike, skip: Flags | None = None) -> tuple[NDArray[np.float32], Flags, Flags]:
        """One action of each game but those to ``skip``: rewards, terminated, truncated, each (n,)."""

    def observations(self) -> Arrays:
        """All observations now; copies."""

    def ended(self, i: int) -> dict[str, Any]:
        """What a referee says of game ``i`` at its end."""


class BatchVectorEnv(VectorEnv[Arrays, NDArray[Any], NDArray[Any]]):
    """A batch as a Gymnasium `VectorEnv`.

    A game that ended starts again at the *next* step (Gymnasium's ``AutoresetMode.NEXT_STEP``): that step's action
    is not used, its reward is 0, its observation the first of the new game. At the end of a game ``infos["truth"]``
    holds outcome and figures.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (Gymnasium's form)

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.num_envs = batch.n
        self.single_action_space = batch.action_space
        self.single_observation_space = batch.observation_space
        self.action_space = batch_space(batch.action_space, batch.n)
        self.observation_space = batch_space(batch.observation_space, batch.n)
        self._over = np.zeros(batch.n, dtype=bool)
        self._seeded = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start all games (or those of ``options["reset_mask"]``)."""
        if isinstance(seed, list):
            seed = int(np.random.SeedSequence([0 if s is None else s for s in seed]).generate_state(1)[0])
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.batch.seed(self.np_random)
            self._seeded = True
        mask = None if options is None else options.get("reset_mask")
        chosen = np.ones(self.num_envs, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        self.batch.reset(chosen)
        self._over[chosen] = False
        return self.batch.observations(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Arrays, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """One step of all games."""
        again = self._over.copy()
        reward, terminated, truncated = self.batch.step(actions, skip=again)
        if again.any():
            self.batch.reset(again)
        infos: dict[str, Any] = {}
        self._over = terminated | truncated
        for i in np.flatnonzero(self._over):
            infos = self._add_info(infos, {"truth": self.batch.ended(int(i))}, int(i))
        return self.batch.observations(), reward, terminated, truncated, infos
