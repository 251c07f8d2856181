"""Gymnasium environments: world, task, loop. Importing this registers them."""

from __future__ import annotations

import gymnasium

#: Modules and classes by id: one game, and many at once.
_GAMES = {
    "lauepilot/LaueAlign-v0": ("align.env:LaueAlignEnv", "align.vector:LaueAlignVectorEnv"),
    "lauepilot/LaueGame-v0": ("game.env:LaueGameEnv", "game.vector:LaueGameVectorEnv"),
    "lauepilot/MonoAlign-v0": ("mono.env:MonoAlignEnv", "mono.env:MonoAlignVectorEnv"),
}

#: Ids that `register` registers.
IDS = tuple(_GAMES)


def register() -> None:
    """Register all environments with Gymnasium; again is no harm."""
    for name, (one, many) in _GAMES.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point=f"lauepilot.envs.{one}",
                vector_entry_point=f"lauepilot.envs.{many}",
                # Each game's own steps and clock end an episode; the wrapper would not know of the clock.
                max_episode_steps=None,
            )


register()
