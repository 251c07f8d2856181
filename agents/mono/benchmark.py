"""Many games of ``lauepilot/MonoAlign-v0``: the same crystals, orientations and faults for every player."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from lauepilot.agents.mono.plain import PlainScan
from lauepilot.agents.mono.players import Oracle, Random
from lauepilot.agents.mono.thinking import Rule
from lauepilot.envs.mono.env import mono_task
from lauepilot.envs.mono.loop import MonoAgent, MonoLoop, MonoResult, play_mono
from lauepilot.envs.mono.world import MonoWorld
from lauepilot.simulator.fourcircle_faults import FourCircleFaults, Level
from lauepilot.simulator.fourcircle_twin import DetectorKind

#: Players by name; each is made with the world and a generator.
PLAYERS: dict[str, Callable[[MonoWorld, np.random.Generator], MonoAgent]] = {
    "rule": lambda world, rng: Rule(),
    "plain-scan": lambda world, rng: PlainScan(),
    "oracle": lambda world, rng: Oracle(world),
    "random": lambda world, rng: Random(rng),
}
#: Crystals of all systems; two (Sr4Ru3O10, FePSe3) are near a higher symmetry, which only weak reflections tell.
CRYSTALS = (
    "si", "ca2ruo4", "quartz", "kyanite", "sr4ru3o10", "feps3", "fepse3", "ybco", "cu", "sapphire",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class MonoScore:
    """One player with one detector at one level; game k is of crystal k modulo their number.

    Attributes
    ----------
    player, detector, level
        Who, with what, how hard.
    games
        In the order of their seeds.
    """

    player: str
    detector: str
    level: str
    games: tuple[MonoResult, ...]

    def share(self, outcome: str) -> float:
        """Share of the games that ended so."""
        return sum(g.outcome == outcome for g in self.games) / len(self.games)

    def row(self) -> dict[str, Any]:
        """A row of a table: plain numbers. Times are of all games, however they ended."""
        seconds = np.array([g.seconds for g in self.games])
        misses = [g.miss_deg for g in self.games if g.outcome == "right"]
        return {
            "player": self.player,
            "detector": self.detector,
            "level": self.level,
            "games": len(self.games),
            "success": self.share("right"),
            "of_second_crystallite": sum(g.outcome == "right" and g.crystallite == 1 for g in self.games),
            "wrong": self.share("wrong"),
            "gave_up": self.share("gave_up"),
            "too_long": self.share("too_long"),
            "mean_s": float(seconds.mean()),
            "median_s": float(np.median(seconds)),
            "worst_s": float(seconds.max()),
            "mean_counts": float(np.mean([g.counts for g in self.games])),
            "mean_reward": float(np.mean([g.reward for g in self.games])),
            "median_miss_deg": float(np.median(misses)) if misses else None,
            "worst_miss_deg": float(np.max(misses)) if misses else None,
        }


def play_mono_many(
    player: str,
    detector: DetectorKind,
    level: Level,
    *,
    games: int = 100,
    seed: int = 0,
    crystals: Sequence[str] = CRYSTALS,
    processes: int = 1,
) -> MonoScore:
    """Play many games; game k is the same crystal, orientation and faults for each player.

    Parameters
    ----------
    player
        A name in `PLAYERS`.
    detector, level
        ``point`` or ``area``; ``none``, ``lab`` or ``harsh``.
    games, seed
        How many; the k-th has the seed ``(seed, k)``.
    crystals
        Names, taken in turn.
    processes
        Games are shared out among so many processes.

    Raises
    ------
    ValueError
        If the player has no such name, or counts are not positive.
    """
    if player not in PLAYERS:
        raise ValueError(f"No player {player!r}; there are {', '.join(PLAYERS)}.")
    if games < 1 or processes < 1:
        raise ValueError(f"games and processes must be at least 1; {games} and {processes} came.")
    run = partial(_some, player, detector, level, seed, tuple(crystals))
    parts = [range(k, games, processes) for k in range(processes)]
    if processes == 1:
        played = [run(parts[0])]
    else:
        # Spawned, not forked: compiled kernels and threads of numpy do not survive a fork.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            played = list(pool.map(run, parts))
    by_game = {
        k: g for part, done in zip(parts, played, strict=True) for k, g in zip(part, done, strict=True)
    }
    return MonoScore(player, detector, level, tuple(by_game[k] for k in sorted(by_game)))


def _some(
    player: str, detector: DetectorKind, level: Level, seed: int, crystals: tuple[str, ...], games: range
) -> list[MonoResult]:
    worlds: dict[str, MonoWorld] = {}
    played = []
    for k in games:
        name = crystals[k % len(crystals)]
        if name not in worlds:
            task = mono_task(name, detector, None, 0.05, 2000)
            worlds[name] = MonoWorld(task, FourCircleFaults.named(level))
        agent = PLAYERS[player](worlds[name], np.random.default_rng((seed, k, 1)))
        played.append(play_mono(MonoLoop(worlds[name]), agent, np.random.default_rng((seed, k))))
    return played
