"""Many games by one player, judged by the truth."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from lauepilot.agents.game.players import Oracle, Player, Random, SolveAndMove
from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.rules import FamilyName, LevelName, Physics

#: Players by name, made with the batch, the number of their game in it, and dice.
PLAYERS: dict[str, Callable[[BatchGame, int, np.random.Generator], Player]] = {
    "random": lambda batch, game, rng: Random(rng),
    "oracle": lambda batch, game, rng: Oracle(batch, game),
    "solve-and-move": lambda batch, game, rng: SolveAndMove(),
}


@dataclass(frozen=True)
class Game:
    """How one game went.

    Attributes
    ----------
    family, outcome
        Of the crystal; ``won``, ``out_of_range`` or ``too_long``.
    steps
        Moves made.
    start_deg, miss_deg
        Angle to the target at the start and at the end.
    seconds
        Processor time of the player, all decisions.
    """

    family: str
    outcome: str
    steps: int
    start_deg: float
    miss_deg: float
    seconds: float


def play_one(batch: BatchGame, player: Player) -> Game:
    """Play a batch of one game to its end; it must have been seeded."""
    batch.reset()
    player.reset()
    seconds = 0.0
    while True:
        observation = {key: value[0] for key, value in batch.observations().items()}
        before = time.process_time()
        action = player.decide(observation)
        seconds += time.process_time() - before
        _, terminated, truncated = batch.step(action[None])
        if terminated[0] or truncated[0]:
            told: dict[str, Any] = batch.ended(0)
            return Game(
                told["family"], told["outcome"], told["steps"], told["start_deg"], told["miss_deg"], seconds
            )


def play_many(
    player: str | Callable[[BatchGame, int, np.random.Generator], Player],
    games: int,
    *,
    family: FamilyName = "any",
    physics: Physics = "laue",
    level: LevelName = "normal",
    seed: int = 0,
    processes: int = 1,
) -> list[Game]:
    """Play many games; the k-th has the same crystal and start for each player.

    Parameters
    ----------
    player
        A name in `PLAYERS`, or what makes one of batch, game and dice; with several processes it must be importable.
    games, seed
        How many; the k-th has the seed ``(seed, k)``.
    family, physics, level
        As in `lauepilot.envs.game.env.LaueGameEnv`.
    processes
        Games are shared out among so many processes.

    Raises
    ------
    ValueError
        If there is no such player, or counts are not positive.
    """
    if isinstance(player, str) and player not in PLAYERS:
        raise ValueError(f"No player {player!r}; there are {', '.join(PLAYERS)}.")
    if games < 1 or processes < 1:
        raise ValueError(f"games and processes must be at least 1; {games} and {processes} came.")
    run = partial(_some, player, family, physics, level, seed)
    parts = [range(k, games, processes) for k in range(processes)]
    if processes == 1:
        played = [run(parts[0])]
    else:
        # Spawned, not forked: compiled kernels and threads of numpy do not survive a fork.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            played = list(pool.map(run, parts))
    by_game = {
        k: game for part, done in zip(parts, played, strict=True) for k, game in zip(part, done, strict=True)
    }
    return [by_game[k] for k in range(games)]


def _some(
    player: str | Callable[[BatchGame, int, np.random.Generator], Player],
    family: FamilyName,
    physics: Physics,
    level: LevelName,
    seed: int,
    games: range,
) -> list[Game]:
    batch = BatchGame(1, family, physics, level)
    make = PLAYERS[player] if isinstance(player, str) else player
    done = []
    for k in games:
        batch.seed(np.random.default_rng((seed, k)))
        done.append(play_one(batch, make(batch, 0, np.random.default_rng((seed, k, 1)))))
    return done
