"""UB on a four-circle (``lauepilot/MonoAlign-v0``): the rule beside the plain search plan, both from nothing to a UB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np

from lauepilot.agents.mono.benchmark import CRYSTALS, MonoScore, play_mono_many
from lauepilot.bench.figures import Figure, Peer, share
from lauepilot.bench.timing import machine
from lauepilot.envs.mono.task import MonoTask
from lauepilot.simulator.fourcircle_faults import Level
from lauepilot.simulator.fourcircle_twin import DetectorKind

#: The level of the figures; the others are rows of their settings.
LEVEL: Level = "lab"
#: Games of each player with each detector.
PLAYED: dict[Level, dict[str, int]] = {
    "none": {"rule": 40, "plain-scan": 20},
    "lab": {"rule": 100, "plain-scan": 40, "oracle": 20, "random": 20},
    "harsh": {"rule": 40, "plain-scan": 20},
}
_BOOTSTRAPS = 2000


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Both figures; ``quick`` plays two games of each kind."""
    processes = 1 if quick else min(2, int(machine()["cores"] or 1))
    ours, plain, rows = [], [], []
    for detector in get_args(DetectorKind):
        for level in get_args(Level):
            for player, most in PLAYED[level].items():
                games = 2 if quick else most
                say(f"mono: {games} games of {player}, {detector} detector, level {level}")
                score = play_mono_many(player, detector, level, games=games, seed=1, processes=processes)
                rows.append(score.row())
                if level == LEVEL and player == "rule":
                    ours.append(score)
                elif level == LEVEL and player == "plain-scan":
                    plain.append(score)
    return figures(ours, plain, rows)


def figures(
    ours: Sequence[MonoScore], plain: Sequence[MonoScore], rows: list[dict[str, Any]]
) -> list[Figure]:
    """Success of the rule, and its mean seconds over the plain plan's on the same crystals: that of the worse detector.

    Parameters
    ----------
    ours, plain
        Of the rule and of the plain search plan, detector by detector, at `LEVEL`; the plain plan may have played fewer.
    rows
        Of all players and levels, for the settings.
    """
    good = [game.outcome == "right" for score in ours for game in score.games]
    beside = [game.outcome == "right" for score in plain for game in score.games]
    settings: dict[str, Any] = {
        "environment": "lauepilot/MonoAlign-v0",
        "player": "UbSearch (agents.mono.thinking.Rule)",
        "level": LEVEL,
        "crystals": list(CRYSTALS),
        "within_deg": MonoTask.within_deg,
        "right_means": "ten reflections drawn at random are excited within the tolerance where UB sends the motors",
        "plain_means": "all rows of the half sphere at one 2theta, to and fro, same bins and speed; the brightest peaks "
        "centred in full; same hypotheses; a dozen reflections in the order of their strength",
        "clock": "the instrument's; all games count, however they ended",
        "rows": rows,
    }
    ratios = []
    for mine, theirs in zip(ours, plain, strict=True):
        n = min(len(mine.games), len(theirs.games))
        pairs = np.array(
            [[a.seconds, b.seconds] for a, b in zip(mine.games[:n], theirs.games[:n], strict=True)]
        )
        ratios.append((float(pairs[:, 0].mean() / pairs[:, 1].mean()), mine.detector, pairs))
    ratio, detector, pairs = max(ratios, key=lambda one: one[0])
    return [
        share("mono_success", good, settings, Peer("plain search plan", float(np.mean(beside)))),
        Figure(
            "mono_time_ratio",
            ratio,
            "ratio",
            len(pairs),
            _interval(pairs),
            Peer("plain search plan: mean seconds", float(pairs[:, 1].mean())),
            {
                "worse_detector": detector,
                "by_detector": {
                    kind: {
                        "ratio": value,
                        "games": len(two),
                        "mean_s": float(two[:, 0].mean()),
                        "plain_mean_s": float(two[:, 1].mean()),
                    }
                    for value, kind, two in ratios
                },
                **{k: settings[k] for k in ("environment", "player", "level", "plain_means", "clock")},
            },
        ),
    ]


def _interval(pairs: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float] | None:
    """95 % of the ratio of means, by resampling pairs; None for fewer than ten."""
    if len(pairs) < 10:
        return None
    drawn = np.random.default_rng(0).integers(0, len(pairs), (_BOOTSTRAPS, len(pairs)))
    means = pairs[drawn].mean(axis=1)
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    return float(low), float(high)
