"""Batched environments in the form of stable-baselines3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from lauepilot.envs.align.batch import BatchAlign
from lauepilot.envs.align.coding import ObservationKind
from lauepilot.envs.align.env import align_task
from lauepilot.envs.batched import Batch
from lauepilot.simulator.faults import Faults, named_faults


class BatchVecEnv(VecEnv):
    """A batch of games for stable-baselines3.

    A game that ends starts again in the *same* step: the observation returned is the first of the new game, and
    ``infos[i]`` holds ``terminal_observation``, ``TimeLimit.truncated``, ``episode`` (r, l) and ``truth``.
    """

    def __init__(self, batch: Batch, seed: int = 0) -> None:
        self.batch = batch
        self.render_mode = None
        super().__init__(batch.n, batch.observation_space, batch.action_space)
        batch.seed(np.random.default_rng(seed))
        self._actions: NDArray[Any] = np.zeros(0)
        self._returns = np.zeros(batch.n)
        self._lengths = np.zeros(batch.n, dtype=int)

    def reset(self) -> VecEnvObs:
        """Start all games. A seed set by ``seed()`` is used once."""
        if self._seeds and self._seeds[0] is not None:
            self.batch.seed(np.random.default_rng(self._seeds[0]))
        self._reset_seeds()
        self.batch.reset()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return self.batch.observations()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions in."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Play them."""
        reward, terminated, truncated = self.batch.step(self._actions)
        done = terminated | truncated
        self._returns += reward
        self._lengths += 1
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        observations = self.batch.observations()
        if done.any():
            for i in np.flatnonzero(done):
                infos[i] = {
                    "terminal_observation": {k: v[i].copy() for k, v in observations.items()},
                    "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
                    "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": 0.0},
                    "truth": self.batch.ended(int(i)),
                }
            self.batch.reset(done)
            self._returns[done] = 0.0
            self._lengths[done] = 0
            observations = self.batch.observations()
        return observations, reward, done, infos

    def close(self) -> None:
        """Nothing is held."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of this environment, once for each game asked for."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute for all games: they have no own."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch, once for each game asked for."""
        n = len(list(self._get_indices(indices)))
        return [getattr(self.batch, method_name)(*method_args, **method_kwargs) for _ in range(n)]

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Games of a batch are not wrapped."""
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """There is nothing to see."""
        return [None] * self.num_envs


class LaueAlignVecEnv(BatchVecEnv):
    """``lauepilot/LaueAlign-v0``; see `lauepilot.envs.align.batch` for what is quicker than in the full environment."""

    def __init__(
        self,
        num_envs: int,
        crystal: str = "si",
        instrument: str = "lab",
        faults: str | Faults = "default",
        observation: ObservationKind = "spots",
        tolerance_deg: float = 0.1,
        max_steps: int = 50,
        seed: int = 0,
    ) -> None:
        task = align_task(crystal, instrument, None, tolerance_deg, max_steps)
        super().__init__(BatchAlign(num_envs, task, named_faults(faults), observation), seed)
