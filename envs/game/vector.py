"""``lauepilot/LaueGame-v0`` as a natively batched Gymnasium `VectorEnv`: ``gymnasium.make_vec``."""

from __future__ import annotations

from lauepilot.envs.batched import BatchVectorEnv
from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.rules import FamilyName, LevelName, Physics


class LaueGameVectorEnv(BatchVectorEnv):
    """Many games at once; the data sheet is that of `LaueGameEnv`, whose parameters these are, and ``num_envs``."""

    def __init__(
        self,
        num_envs: int = 1,
        family: FamilyName = "any",
        physics: Physics = "laue",
        level: LevelName = "normal",
    ) -> None:
        super().__init__(BatchGame(num_envs, family, physics, level))
