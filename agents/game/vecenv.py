"""``lauepilot/LaueGame-v0`` in the form of stable-baselines3."""

from __future__ import annotations

from lauepilot.agents.vecenv import BatchVecEnv
from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.rules import FamilyName, LevelName, Physics


class LaueGameVecEnv(BatchVecEnv):
    """Many games at once; see `lauepilot.envs.game.env.LaueGameEnv`."""

    def __init__(
        self,
        num_envs: int,
        family: FamilyName = "any",
        physics: Physics = "laue",
        level: LevelName = "normal",
        seed: int = 0,
    ) -> None:
        super().__init__(BatchGame(num_envs, family, physics, level), seed)
