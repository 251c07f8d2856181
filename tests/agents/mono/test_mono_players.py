"""Players of the four-circle game: the rule beats the plain plan, chance loses, and games can be repeated."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lauepilot.agents.mono.benchmark import PLAYERS, MonoScore, play_mono_many
from lauepilot.agents.mono.plain import PlainSearch
from lauepilot.agents.mono.players import Oracle, Random
from lauepilot.agents.mono.thinking import Rule
from lauepilot.bench.mono import figures
from lauepilot.envs.mono.env import MonoAlignEnv, mono_task
from lauepilot.envs.mono.loop import MonoResult, play_mono
from lauepilot.envs.mono.task import DeclareUb
from lauepilot.envs.mono.world import MonoSeen
from lauepilot.perception.observation import GiveUp
from lauepilot.simulator.fourcircle_faults import FourCircleFaults


@pytest.mark.parametrize("detector", ["point", "area"])
def test_the_rule_finds_ub_through_the_environment(detector):
    env = MonoAlignEnv("ybco", detector, level="lab")
    result = play_mono(env.loop, Rule(), np.random.default_rng((0, 7)))
    assert result.outcome == "right", result
    assert result.miss_deg < 0.05
    assert result.reward == pytest.approx(1.0 - result.seconds / 600.0)
    assert result.refused == 0


def test_the_rule_is_no_slower_than_half_of_the_plain_plan():
    """Area detector, where both are short: the same crystal, faults and photons' dice."""
    rule, plain = (
        play_mono_many(player, "area", "none", games=1, crystals=("cu",)) for player in ("rule", "plain-scan")
    )
    assert rule.share("right") == plain.share("right") == 1.0
    assert rule.row()["mean_s"] < 0.5 * plain.row()["mean_s"]


def test_the_oracle_is_quicker_still_and_tells_nothing_of_the_truth():
    oracle, rule = (
        play_mono_many(player, "point", "none", games=1, crystals=("cu",)) for player in ("oracle", "rule")
    )
    assert oracle.games[0].outcome == "right"
    assert oracle.games[0].seconds < rule.games[0].seconds
    env = MonoAlignEnv("cu", level="none")
    player = Oracle(env.loop.world)
    player.reset(env.task)
    assert player.state() == {"agent": "oracle"}


def test_chance_gives_up_when_there_is_nothing():
    """With every intensity gone there is nothing to find."""
    env = MonoAlignEnv("cu", level=FourCircleFaults(absorption=60.0))
    result = play_mono(env.loop, Random(np.random.default_rng(1), patience=3), np.random.default_rng(2))
    assert result.outcome == "gave_up" and result.steps < 40
    assert result.reward < -1.0


def test_the_same_game_again():
    one, two = (play_mono_many("rule", "area", "lab", games=1, seed=3, crystals=("cu",)) for _ in range(2))
    assert one.games == two.games


def test_players_tell_plain_values_and_need_a_task():
    env = MonoAlignEnv("cu", level="none")
    for make in PLAYERS.values():
        player = make(env.loop.world, np.random.default_rng(0))
        with pytest.raises(ValueError, match="reset"):
            player.decide(MonoSeen({}, 0.0, 0.0, 0))
        player.reset(env.task)
        json.dumps(player.state())


def test_a_search_whose_path_was_refused_says_so():
    player = Rule()
    player.reset(mono_task("cu", "point", None, 0.05, 10))
    seen = MonoSeen({}, 0.0, 0.0, 0)
    player.decide(seen)
    with pytest.raises(ValueError, match="no counts"):
        player.decide(seen)


def test_an_answer_becomes_a_declaration_or_giving_up():
    """No beam: the rule gives up and says what to look at."""
    env = MonoAlignEnv("cu", "area", level="none")
    env.loop.world.twin._peak_rate = 0.0
    player = Rule()
    seen = env.loop.reset(np.random.default_rng(0))
    player.reset(env.task)
    for _ in range(100):
        decision = player.decide(seen)
        if isinstance(decision, GiveUp | DeclareUb):
            break
        seen = env.loop.step(decision).seen
    assert isinstance(decision, GiveUp)
    assert "beam" in decision.reason


def test_the_plain_plan_looks_at_the_whole_half_sphere():
    task = mono_task("cu", "point", None, 0.05, 10)
    search = PlainSearch(task.crystal, task.instrument, task.detector)
    tth = search.look.best_tth()[0]
    rows = list(search._rows(tth))
    chi = sorted(path.points_deg[0, 1] for path in rows)
    assert np.allclose(np.diff(chi), 2.0 * chi[0])
    assert chi[-1] + chi[0] == pytest.approx(90.0)
    assert chi[0] < search.look.acceptance_deg(tth)  # rows overlap
    ends = [(path.points_deg[0, 2], path.points_deg[-1, 2]) for path in rows]
    assert ends[:2] == [(-180.0, 180.0), (180.0, -180.0)]


def test_bad_arguments():
    with pytest.raises(ValueError, match="plain-scan"):
        play_mono_many("nobody", "point", "lab")
    with pytest.raises(ValueError, match="at least 1"):
        play_mono_many("rule", "point", "lab", games=0)


def made(player, detector, seconds, outcome="right"):
    one = {
        "reason": "",
        "miss_deg": 0.01,
        "dose_s": 1.0,
        "counts": 1,
        "steps": 1,
        "refused": 0,
        "reward": 0.0,
        "crystallite": 0,
    }
    return MonoScore(
        player, detector, "lab", tuple(MonoResult(outcome=outcome, seconds=s, **one) for s in seconds)
    )


def test_figures_are_those_of_the_worse_detector_on_the_same_games():
    ours = [made("rule", "point", [10.0, 20.0, 1e6]), made("rule", "area", [30.0, 50.0])]
    plain = [made("plain-scan", "point", [100.0, 100.0]), made("plain-scan", "area", [100.0, 100.0])]
    success, ratio = figures(ours, plain, [])
    assert (success.name, success.value, success.n) == ("mono_success", 1.0, 5)
    assert (ratio.name, ratio.value, ratio.n) == ("mono_time_ratio", pytest.approx(0.4), 2)
    assert ratio.settings["by_detector"]["point"]["ratio"] == pytest.approx(0.15)
    assert ratio.peer.value == 100.0
