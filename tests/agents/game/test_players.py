"""The players beside each other on the same games."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.agents.game.benchmark import play_many
from lauepilot.agents.game.players import SolveAndMove
from lauepilot.envs.game.rules import NAMES


@pytest.mark.parametrize("family", NAMES)
def test_the_classical_player_wins_with_the_moves_of_the_all_knowing_one(family):
    ours, floor = (play_many(p, 3, family=family, seed=1) for p in ("solve-and-move", "oracle"))
    assert [g.outcome for g in ours] == ["won"] * 3
    assert [g.steps for g in ours] == [g.steps for g in floor]
    assert [g.start_deg for g in ours] == [g.start_deg for g in floor]
    assert max(g.miss_deg for g in ours) <= 5.0


def test_it_wins_with_lauerls_physics_too():
    ours, floor = (play_many(p, 2, physics="lauerl", seed=2) for p in ("solve-and-move", "oracle"))
    assert [g.steps for g in ours] == [g.steps for g in floor]


def test_it_wins_hard_games():
    games = play_many("solve-and-move", 4, family="hexagonal", level="hard", seed=3)
    assert sum(g.outcome == "won" for g in games) >= 3


def test_chance_seldom_wins():
    games = play_many("random", 40, family="hexagonal", level="hard", seed=1)
    assert sum(g.outcome == "won" for g in games) < 10


def test_an_empty_picture_does_not_stop_it():
    player = SolveAndMove()
    nothing = {"image": np.zeros((84, 84, 1), np.uint8), "moved": np.zeros(2, np.float32)}
    assert np.abs(player.decide(nothing)).max() <= 1.0
    assert not player.guess.found
    assert np.isfinite(player.decide(nothing)).all()


def test_told_the_family_it_looks_for_no_other():
    games = play_many(lambda batch, game, rng: SolveAndMove("cubic"), 2, family="cubic", seed=5)
    assert [g.outcome for g in games] == ["won"] * 2
    with pytest.raises(ValueError, match="cubic, tetragonal, hexagonal"):
        SolveAndMove("monoclinic")


def test_wrong_arguments_say_what_is_allowed():
    with pytest.raises(ValueError, match="random, oracle, solve-and-move"):
        play_many("nobody", 1)
    with pytest.raises(ValueError, match="at least 1"):
        play_many("oracle", 0)
