"""``lauepilot/LaueAlign-v0`` as a natively batched Gymnasium `VectorEnv`: ``gymnasium.make_vec``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lauepilot.envs.align import align_task, named_faults
from lauepilot.envs.batch import BatchAlign
from lauepilot.envs.coding import Float32Array, ObservationKind
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.target import Target

Arrays = dict[str, NDArray[Any]]


class LaueAlignVectorEnv(VectorEnv[Arrays, Float32Array, NDArray[Any]]):
    """Many games at once; the data sheet is that of `LaueAlignEnv`, with the quicker frames of `lauepilot.envs.batch`.

    A game that ended starts again at the *next* step (Gymnasium's ``AutoresetMode.NEXT_STEP``): that step's action
    is not used, its reward is 0, its observation the first of the new game. At the end of a game ``infos["truth"]``
    holds outcome and figures.

    Parameters are those of `LaueAlignEnv`, and ``num_envs``.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (Gymnasium's form)

    def __init__(
        self,
        num_envs: int = 1,
        crystal: str | Path | Crystal = "si",
        instrument: str | Path | Instrument = "lab",
        target: Target | None = None,
        faults: str | Faults = "default",
        observation: ObservationKind = "spots",
        tolerance_deg: float = 0.1,
        max_steps: int = 50,
    ) -> None:
        self.task = align_task(crystal, instrument, target, tolerance_deg, max_steps)
        self.batch = BatchAlign(num_envs, self.task, named_faults(faults), observation)
        self.num_envs = num_envs
        self.single_action_space = self.batch.coder.action_space()
        self.single_observation_space = self.batch.coder.observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._over = np.zeros(num_envs, dtype=bool)
        self._seeded = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Mount crystals in all games (or in those of ``options["reset_mask"]``)."""
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
        self, actions: Float32Array
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
