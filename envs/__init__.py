"""Gymnasium environments: world, task, loop. Importing this registers them."""

from __future__ import annotations

import gymnasium

#: Ids that `register` registers.
IDS = ("lauepilot/LaueAlign-v0", "lauepilot/LaueGame-v0", "lauepilot/MonoAlign-v0")


def register() -> None:
    """Register all environments with Gymnasium; again is no harm."""
    if "lauepilot/LaueAlign-v0" not in gymnasium.registry:
        gymnasium.register(
            id="lauepilot/LaueAlign-v0",
            entry_point="lauepilot.envs.align.env:LaueAlignEnv",
            vector_entry_point="lauepilot.envs.align.vector:LaueAlignVectorEnv",
            # Its own steps and clock end an episode; the wrapper would not know of the clock.
            max_episode_steps=None,
        )
    if "lauepilot/LaueGame-v0" not in gymnasium.registry:
        gymnasium.register(
            id="lauepilot/LaueGame-v0",
            entry_point="lauepilot.envs.game.env:LaueGameEnv",
            vector_entry_point="lauepilot.envs.game.vector:LaueGameVectorEnv",
            # The level sets the number of moves.
            max_episode_steps=None,
        )
    if "lauepilot/MonoAlign-v0" not in gymnasium.registry:
        gymnasium.register(
            id="lauepilot/MonoAlign-v0",
            entry_point="lauepilot.envs.mono.env:MonoAlignEnv",
            vector_entry_point="lauepilot.envs.mono.env:MonoAlignVectorEnv",
            # Its own steps and clock end an episode.
            max_episode_steps=None,
        )


register()
