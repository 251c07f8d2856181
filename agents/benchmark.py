"""Alignment benchmark: many random starts, judged by the truth, beside the all-knowing player on the same starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from lauepilot.agents.baselines import Oracle, Random
from lauepilot.agents.rules import RULES
from lauepilot.envs.align.env import align_task, shared_observer
from lauepilot.envs.play import Agent, EpisodeResult, build_loop, play
from lauepilot.envs.world import World
from lauepilot.simulator.faults import named_faults
from lauepilot.simulator.target import Target


def _rule(make: Callable[[], Agent], world: World, rng: np.random.Generator) -> Agent:
    """A rule, which asks neither the world nor chance."""
    return make()


#: Players by name; each is made with the world and a generator.
PLAYERS: dict[str, Callable[[World, np.random.Generator], Agent]] = {
    **{name: partial(_rule, make) for name, make in RULES.items()},
    "random": lambda world, rng: Random(rng),
    "oracle": lambda world, rng: Oracle(world),
}


#: What `lauepilot.simulator.reach.OutOfReachError` says, and players that give up because of it repeat.
SAYS_SO = "cannot be reached"


@dataclass(frozen=True, eq=False)
class Score:
    """One player on one crystal.

    Attributes
    ----------
    player, crystal, instrument, faults
        Who, on what.
    episodes
        Games in the order of their seeds.
    """

    player: str
    crystal: str
    instrument: str
    faults: str
    episodes: tuple[EpisodeResult, ...]

    @property
    def within_reach(self) -> tuple[EpisodeResult, ...]:
        """Games whose target truly was reachable, however they ended: shares refer to these."""
        return tuple(e for e in self.episodes if e.reachable)

    def beyond_reach(self) -> dict[str, int]:
        """How the games ended whose target truly was out of reach.

        ``said_so`` (given up with that reason), ``other_give_up``, ``too_long`` and ``declared``.
        """
        ends = dict.fromkeys(("said_so", "other_give_up", "too_long", "declared"), 0)
        for game in self.episodes:
            if game.reachable:
                continue
            if game.outcome == "too_long":
                end = "too_long"
            elif game.outcome in {"right", "wrong"}:
                end = "declared"
            else:
                end = "said_so" if SAYS_SO in game.reason else "other_give_up"
            ends[end] += 1
        return ends

    def share(self, outcome: str) -> float:
        """Share of reachable games that ended so; NaN if there are none."""
        games = self.within_reach
        return sum(e.outcome == outcome for e in games) / len(games) if games else float("nan")

    def figure(self, name: str, how: Callable[[Sequence[float]], Any] = np.mean) -> float:
        """Mean (or another summary) of a figure over games that were declared right; NaN if there are none."""
        values = [float(getattr(e, name)) for e in self.episodes if e.outcome == "right"]
        return float(how(values)) if values else float("nan")

    def row(self) -> dict[str, Any]:
        """A row of a table: plain numbers."""
        return {
            "player": self.player,
            "crystal": self.crystal,
            "instrument": self.instrument,
            "faults": self.faults,
            "games": len(self.episodes),
            "out_of_reach": len(self.episodes) - len(self.within_reach),
            "success": self.share("right"),
            # Declared although it was out of reach counts too.
            "wrong": sum(e.outcome == "wrong" for e in self.episodes),
            "gave_up": self.share("gave_up"),
            "too_long": self.share("too_long"),
            "mean_s": self.figure("seconds"),
            "median_s": self.figure("seconds", np.median),
            "dose_s": self.figure("dose_s"),
            "moves": self.figure("moves"),
            "exposures": self.figure("exposures"),
            "miss_deg": self.figure("miss_deg"),
            "miss_worst_deg": self.figure("miss_deg", np.max),
            "orientation_error_worst_deg": self.figure("orientation_error_deg", np.max),
        }


def play_many(
    player: str,
    crystal: str,
    *,
    instrument: str = "lab",
    faults: str = "default",
    target: Target | None = None,
    games: int = 200,
    seed: int = 0,
    tolerance_deg: float = 0.1,
    processes: int = 1,
    make: Callable[[World, np.random.Generator], Agent] | None = None,
) -> Score:
    """Play many games; game k has the same crystal, faults and start for each player.

    Parameters
    ----------
    player
        A name in `PLAYERS`, or any name if ``make`` is given.
    crystal, instrument
        Names or paths.
    faults
        ``default``, ``none`` or ``harsh``.
    target
        Where the crystal is wanted; None takes `usual_target`.
    games, seed
        How many, and the seed of the first; the k-th has ``(seed, k)``.
    tolerance_deg
        Within which a declaration is right (`lauepilot.envs.tasks.Align` says what else it needs).
    processes
        Games are shared out among so many processes.
    make
        Makes the player, of world and generator; with several processes it must be importable.

    Raises
    ------
    ValueError
        If player or faults have no such name, or counts are not positive.
    """
    if make is None and player not in PLAYERS:
        raise ValueError(f"No player {player!r}; there are {', '.join(PLAYERS)}, or give make=.")
    named_faults(faults)
    if games < 1 or processes < 1:
        raise ValueError(f"games and processes must be at least 1; {games} and {processes} came.")
    run = partial(_some, player, crystal, instrument, faults, target, seed, tolerance_deg, make)
    parts = [range(k, games, processes) for k in range(processes)]
    if processes == 1:
        played = [run(parts[0])]
    else:
        # Spawned, not forked: compiled kernels and threads of numpy do not survive a fork.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            played = list(pool.map(run, parts))
    by_game = {
        k: e for part, done in zip(parts, played, strict=True) for k, e in zip(part, done, strict=True)
    }
    return Score(player, crystal, instrument, faults, tuple(by_game[k] for k in sorted(by_game)))


def _some(
    player: str,
    crystal: str,
    instrument: str,
    faults: str,
    target: Target | None,
    seed: int,
    tolerance_deg: float,
    make: Callable[[World, np.random.Generator], Agent] | None,
    games: range,
) -> list[EpisodeResult]:
    task = align_task(crystal, instrument, target, tolerance_deg, 50)
    eyes = shared_observer(task.crystal, task.instrument)
    loop = build_loop(task, named_faults(faults), np.random.default_rng(seed), eyes)
    world = loop.world
    if not isinstance(world, World):
        raise TypeError("build_loop made a loop without a World.")
    maker = PLAYERS[player] if make is None else make
    return [
        play(loop, maker(world, np.random.default_rng((seed, k, 1))), np.random.default_rng((seed, k)))
        for k in games
    ]
