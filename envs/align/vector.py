"""``lauepilot/LaueAlign-v0`` as a natively batched Gymnasium `VectorEnv`: ``gymnasium.make_vec``."""

from __future__ import annotations

from pathlib import Path

from lauepilot.envs.align.batch import BatchAlign
from lauepilot.envs.align.coding import ObservationKind
from lauepilot.envs.align.env import align_task
from lauepilot.envs.batched import BatchVectorEnv
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.faults import Faults, named_faults
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.target import Target


class LaueAlignVectorEnv(BatchVectorEnv):
    """Many games at once; the data sheet is that of `LaueAlignEnv`, with the quicker frames of `lauepilot.envs.align.batch`.

    Parameters are those of `LaueAlignEnv`, and ``num_envs``.
    """

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
        super().__init__(BatchAlign(num_envs, self.task, named_faults(faults), observation))
