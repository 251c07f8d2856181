"""``lauepilot/LaueGame-v0``: the classical player beside the all-knowing one and chance, on the same crystals and starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lauepilot.agents.game.benchmark import Game, play_many
from lauepilot.agents.game.imitation import lessons
from lauepilot.bench.figures import Figure, quantile_interval, wilson
from lauepilot.bench.timing import CLOCK, machine, one_core, timed
from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.rules import LEVELS, NAMES, TOLERANCE_DEG, LevelName, Physics

#: The agent that plays, and its name for readers.
AGENT, AGENT_SAID = "solve-and-move", "SolveAndMove: told neither family nor constants"
#: Games a family: of each level, and of the published physics.
GAMES, COMPARED, QUICK = 1000, 200, 3
SEED = 20
#: Resamplings for the interval of a ratio of means.
RESAMPLED = 2000


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """The game's figures; part of ``lauepilot bench align``."""
    processes = 1 if quick else min(2, int(machine()["cores"] or 1))
    games, compared = (QUICK, QUICK) if quick else (GAMES, COMPARED)
    figures = []
    for level, physics, number in (
        ("normal", "laue", games),
        ("normal", "lauerl", compared),
        ("hard", "laue", games),
    ):
        rows = {name: played(name, level, physics, number, processes, say) for name in NAMES}  # type: ignore[arg-type]
        figures += judged(rows, level, physics)
    with one_core():
        say("LaueGame: pictures a second")
        figures.append(pictures_per_s(5 if quick else 30))
        figures.append(lessons_per_s(2 if quick else 10))
    return figures


def played(
    family: str, level: LevelName, physics: Physics, games: int, processes: int, say: Callable[[str], None]
) -> dict[str, list[Game]]:
    """The same games by each player."""
    say(f"LaueGame {level}, {physics}, {family}: {games} games, SolveAndMove, the Oracle, chance")
    return {
        player: play_many(
            player,
            games,
            family=family,  # type: ignore[arg-type]
            physics=physics,
            level=level,
            seed=SEED,
            processes=processes if player == AGENT else 1,
        )
        for player in (AGENT, "oracle", "random")
    }


def judged(rows: dict[str, dict[str, list[Game]]], level: str, physics: str) -> list[Figure]:
    """Success in the worst family, and for the hard level the moves over the all-knowing player's in the worst family."""
    told = [row(family, games) for family, games in rows.items()]
    settings: dict[str, Any] = {
        "player": AGENT_SAID,
        "level": level,
        "physics": physics,
        "moves_allowed": LEVELS[level].steps,
        "within_deg": TOLERANCE_DEG,
        "moves_count": "all games, also those that were lost",
        "clock": CLOCK,
        "rows": told,
    }
    worst = min(told, key=lambda r: (r["success"], -r["moves_ratio"]))
    n = worst["n"]
    name = {"hard": "game_hard_success"}.get(level, "game_classical_success")
    if physics != "laue":
        name = f"{name}_{physics}"
    figures = [
        Figure(name, worst["success"], "fraction", n, wilson(round(worst["success"] * n), n), None, settings)
    ]
    slowest = max(told, key=lambda r: r["moves_ratio"])
    figures.append(
        Figure(
            name.replace("_success", "_moves_ratio"),
            slowest["moves_ratio"],
            "ratio",
            slowest["n"],
            slowest["moves_ratio_ci95"],
            None,
            {
                "level": level,
                "physics": physics,
                "family": slowest["family"],
                "over": "the all-knowing player's moves",
            },
        )
    )
    return figures


def row(family: str, games: dict[str, list[Game]]) -> dict[str, Any]:
    """A family's line."""
    ours, floor, chance = games[AGENT], games["oracle"], games["random"]
    moves, fewest = np.array([g.steps for g in ours]), np.array([g.steps for g in floor])
    seconds = [g.seconds for g in ours]
    return {
        "family": family,
        "n": len(ours),
        "success": won(ours),
        "moves": float(moves.mean()),
        "moves_ratio": float(moves.mean() / fewest.mean()),
        "moves_ratio_ci95": ratio_interval(moves, fewest),
        "as_many_moves_as_oracle": float(np.mean(moves == fewest)),
        "oracle_success": won(floor),
        "oracle_moves": float(fewest.mean()),
        "random_success": won(chance),
        "random_moves": float(np.mean([g.steps for g in chance])),
        "s_per_game_median": float(np.median(seconds)),
        "s_per_game_max": float(np.max(seconds)),
        "s_per_decision_mean": float(np.sum(seconds) / moves.sum()),
    }


def won(games: Sequence[Game]) -> float:
    """Share of games that were won."""
    return float(np.mean([g.outcome == "won" for g in games]))


def ratio_interval(moves: np.ndarray, fewest: np.ndarray) -> tuple[float, float]:
    """95 % interval of a ratio of means of paired numbers, by resampling the games."""
    rng = np.random.default_rng(0)
    which = rng.integers(len(moves), size=(RESAMPLED, len(moves)))
    low, high = np.quantile(moves[which].mean(axis=1) / fewest[which].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def pictures_per_s(rounds: int) -> Figure:
    """Steps a second of the batched game: moves, pictures and new crystals.

    A new crystal after five steps, about as long as good play lasts.
    """
    n, length = 128, 5
    batch = BatchGame(n)
    batch.seed(np.random.default_rng(SEED))
    still = np.zeros((n, 2), dtype=np.float32)

    def play() -> None:
        batch.reset()
        for _ in range(length):
            batch.step(still)
            batch.observations()

    play()
    speeds = [n * length / timed(play)[1] for _ in range(rounds)]
    return Figure(
        "game_image_steps_per_s",
        float(np.median(speeds)),
        "1/s",
        rounds * n * length,
        quantile_interval(speeds),
        None,
        {
            "num_envs": n,
            "steps_a_game": length,
            "family": "any",
            "level": "normal",
            "threads": 1,
            "clock": CLOCK,
        },
    )


def lessons_per_s(rounds: int) -> Figure:
    """Pictures a second with the all-knowing player's answer, as torch tensors."""
    n, length = 128, 5
    source = lessons(n, length, np.random.default_rng(SEED))
    next(source)
    speeds = []
    for _ in range(rounds):
        lesson, seconds = timed(next, source)
        speeds.append(float(lesson.valid.sum()) / seconds)
    return Figure(
        "game_lessons_per_s",
        float(np.median(speeds)),
        "1/s",
        rounds * n * length,
        quantile_interval(speeds),
        None,
        {"games": n, "pictures_a_game": length, "family": "any", "level": "normal", "clock": CLOCK},
    )
