"""The game's figures: nothing is dropped, the worst family counts."""

from __future__ import annotations

import pytest

from lauepilot.agents.game.benchmark import Game
from lauepilot.bench import game
from lauepilot.envs.game.rules import NAMES


def games(outcomes, steps):
    return [Game("cubic", o, s, 40.0, 4.0, 0.1) for o, s in zip(outcomes, steps, strict=True)]


@pytest.fixture
def rows():
    floor = games(["won"] * 4, [2, 3, 4, 3])
    chance = games(["too_long"] * 4, [15] * 4)
    good = {"solve-and-move": floor, "oracle": floor, "random": chance}
    bad = {**good, "solve-and-move": games(["won", "too_long", "won", "won"], [2, 15, 4, 3])}
    return {NAMES[0]: good, NAMES[1]: bad, NAMES[2]: good}


def test_the_worst_family_counts_and_lost_games_with_all_their_moves(rows):
    success, ratio = game.judged(rows, "hard", "laue")
    assert (success.name, success.value, success.n) == ("game_hard_success", 0.75, 4)
    assert (ratio.name, ratio.value) == ("game_hard_moves_ratio", 24 / 12)
    assert ratio.settings["family"] == NAMES[1]
    assert ratio.ci95[0] <= ratio.value <= ratio.ci95[1]
    told = success.settings["rows"]
    assert [r["success"] for r in told] == [1.0, 0.75, 1.0]
    assert [r["as_many_moves_as_oracle"] for r in told] == [1.0, 0.75, 1.0]
    assert told[0]["random_success"] == 0.0
    assert told[1]["s_per_decision_mean"] == pytest.approx(0.4 / 24)


def test_each_level_and_physics_has_names_of_its_own(rows):
    names = [
        f.name
        for level, physics in (("normal", "laue"), ("normal", "lauerl"))
        for f in game.judged(rows, level, physics)
    ]
    assert names == [
        "game_classical_success",
        "game_classical_moves_ratio",
        "game_classical_success_lauerl",
        "game_classical_moves_ratio_lauerl",
    ]


def test_speeds_are_measured():
    for figure in (game.pictures_per_s(1), game.lessons_per_s(1)):
        assert figure.value > 100.0
        assert figure.unit == "1/s"


def test_all_players_play_the_same_games():
    played = game.played("cubic", "normal", "laue", 2, 1, lambda text: None)
    starts = {player: [g.start_deg for g in found] for player, found in played.items()}
    assert starts["oracle"] == starts["random"] == starts["solve-and-move"]
