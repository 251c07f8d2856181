"""Benchmarks: statistics against scipy and simulation, the generator of lists, and the form of the printed object."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from lauepilot import bench
from lauepilot.agents.benchmark import Score
from lauepilot.bench import align, indexing, lauetools, simulator
from lauepilot.bench.figures import GOALS, Figure, Peer, median, quantile_interval, share, wilson
from lauepilot.bench.lists import Spoiling, anywhere, spoiled
from lauepilot.bench.timing import machine, one_core, timed
from lauepilot.envs.play import EpisodeResult
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import cached_table, predict_spots

KEYS = ["name", "value", "unit", "n", "ci95", "peer", "settings"]


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (995, 1000), (3000, 3000), (7, 9)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    theirs = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_refuses_nonsense() -> None:
    for k, n in ((0, 0), (5, 3), (-1, 4)):
        with pytest.raises(ValueError, match="A share needs"):
            wilson(k, n)


def test_quantile_intervals_cover() -> None:
    rng = np.random.default_rng(0)
    for quantile, n in ((0.5, 40), (0.95, 300)):
        true = -np.log(1 - quantile)
        intervals = [quantile_interval(rng.exponential(size=n), quantile) for _ in range(1000)]
        covered = np.mean([i is not None and i[0] <= true <= i[1] for i in intervals])
        assert 0.93 < covered < 0.99
    assert quantile_interval([1.0, 2.0, 3.0]) is None
    assert quantile_interval([]) is None


def test_figures_are_plain_json() -> None:
    figure = share("success_30", [True] * 99 + [False], {"missing": 0.3}, Peer("LaueTools", 0.5))
    plain = json.loads(json.dumps(figure.plain()))
    assert list(plain) == KEYS
    assert plain["value"] == 0.99
    assert plain["n"] == 100
    assert plain["peer"] == {"name": "LaueTools", "value": 0.5}
    assert plain["ci95"] == pytest.approx(list(wilson(99, 100)))
    assert median("median_ms", [3.0, 1.0, 2.0], "ms", {}).plain()["ci95"] is None


def test_goals_are_those_of_the_project(project: Path) -> None:
    import tomllib

    path = project.parent / "shared" / "GOALS.toml"
    if not path.is_file():
        pytest.skip(f"no {path}")
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    for what, goals in GOALS.items():
        for name, goal in goals.items():
            assert (goal.value, goal.better) == (written[what][name]["goal"], written[what][name]["better"])


def test_the_printed_object(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        Figure("spots_us", 4.0, "us/pattern", 7),
        Figure("images_per_s", 10.0, "1/s", 7),
        Figure("other", 1.0, "1", 1),
    ]
    monkeypatch.setattr(simulator, "measure", lambda quick, say: [say("hello"), made][1])
    heard: list[str] = []
    result = bench.run("simulator", quick=True, progress=heard.append)
    assert list(result) == ["bench", "version", "machine", "seconds", "figures"]
    assert heard == ["hello"]
    assert [list(f) for f in result["figures"]] == [KEYS] * 3
    rows = bench.figures_table(result)
    assert [(r["goal"], r["met"]) for r in rows] == [(5.0, True), (3000.0, False), (None, None)]
    assert [r["verdict"] for r in rows] == ["met", "missed", ""]
    json.dumps(result)
    with pytest.raises(
        ValueError, match=r"no benchmark 'speed'\. Known: simulator, indexing, precision, hardware, align"
    ):
        bench.run("speed")
    with pytest.raises(ValueError, match=r"simulator was asked for in 2 processes.*precision only"):
        bench.run("simulator", jobs=2)


def test_true_lists_do_not_come_from_the_indexers_table() -> None:
    """As many spots as the indexer expects, none fainter than one left out, and some that it does not know."""
    from lauepilot.perception.indexing.indexer import Indexer

    indexer = Indexer(load_crystal("quartz"), load_instrument("bm32"))
    known_hkl = {tuple(h) for h in (indexer.table.hkl // np.gcd.reduce(indexer.table.hkl, axis=1)[:, None])}
    unknown = 0
    for u in random_rotation(np.random.default_rng(0), 5):
        own, made = predict_spots(indexer.table, u), indexing.truth(indexer, u)
        assert len(made) == len(own)
        assert made.rate_per_s.min() >= own.rate_per_s.min() * 0.99
        primitive = made.hkl // np.gcd.reduce(made.hkl, axis=1)[:, None]
        unknown += sum(tuple(h) not in known_hkl for h in primitive)
    assert unknown > 0


def test_times_leave_long_cells_out() -> None:
    done = [
        indexing.Trial(cell, "lab", True, False, 1.0, seconds)
        for cell, seconds in (("si", 0.001), ("ca2ruo4", 0.002), ("jarosite", 9.0))
        for _ in range(5)
    ]
    times = {f.name: f for f in indexing.times_80(done)}
    assert (times["median_ms"].n, times["p95_ms"].value) == (10, pytest.approx(2.0))
    assert times["median_ms_worst"].settings["crystal"] == "ca2ruo4"
    assert times["median_ms"].settings["crystals"] == ["si", "ca2ruo4"]


@pytest.mark.parametrize(
    ("name", "good", "n", "met", "verdict"),
    [
        ("success_30", 20, 20, None, "too few to tell"),  # 1 of 200 failing could not have shown
        ("success_30", 3024, 3024, True, "met"),
        ("success_30", 900, 1000, False, "missed"),
        ("wrong_confident_30", 0, 1000, None, "too few to tell"),
        ("wrong_confident_30", 0, 4000, True, "met"),
        ("wrong_confident_30", 10, 1000, False, "missed"),
    ],
)
def test_few_trials_meet_no_goal(name: str, good: int, n: int, met: bool | None, verdict: str) -> None:
    figure = share(name, [True] * good + [False] * (n - good), {})
    (row,) = bench.figures_table({"bench": "indexing", "figures": [figure.plain()]})
    assert (row["met"], row["verdict"]) == (met, verdict)


def test_the_table_says_the_ratio_for_equal_lists() -> None:
    settings = {"with_every_spot_of_theirs": {"ratio": 41.4}}
    figure = Figure(
        "spots_ratio_lauetools", 200.0, "ratio", 5, None, Peer("LaueTools, us/pattern", 9e3), settings
    )
    (row,) = bench.figures_table({"bench": "simulator", "figures": [figure.plain()]})
    assert row["peer"]["name"] == "ratio 41 with every spot of theirs; LaueTools, us/pattern"
    assert (row["peer"]["value"], row["met"]) == (9e3, True)


def test_clock_counts_work_and_not_waiting() -> None:
    import time

    assert timed(time.sleep, 0.2)[1] < 0.1
    with one_core():
        assert timed(sum, range(3_000_000))[1] > 0.005
    assert machine()["cores"] >= 1


@pytest.mark.parametrize("percent", [0, 30, 60, 80])
def test_spoiled_lists_are_as_described(percent: int) -> None:
    table = cached_table(load_crystal("si"), load_instrument("lab"))
    detector, how = table.instrument.detector, Spoiling.percent(percent)
    rng = np.random.default_rng(percent)
    for u in random_rotation(rng, 5):
        truth = predict_spots(table, u)
        spots = spoiled(truth, detector, how, rng)
        left = min(len(truth), max(round(len(truth) * (1 - percent / 100)), 12))
        assert len(spots) == left + round(how.false * len(truth))
        assert np.all(detector.sees(np.clip(spots.pixels, 0, 999)) | (how.noise_px > 0))
        gaps = np.linalg.norm(spots.pixels[:, None] - truth.pixels[None], axis=2).min(axis=1)
        assert np.count_nonzero(gaps < 3.0) >= left - 1
    assert Spoiling.percent(80).false == 1.0
    assert Spoiling.percent(30).false == 0.3


def test_positions_are_off_by_the_noise() -> None:
    table = cached_table(load_crystal("si"), load_instrument("lab"))
    truth = predict_spots(table, random_rotation(np.random.default_rng(0)))
    rng = np.random.default_rng(1)
    off = []
    for _ in range(30):
        spots = spoiled(truth, table.instrument.detector, Spoiling(0.0, 0.0), rng)
        d = spots.pixels[:, None] - truth.pixels[None]
        nearest = np.linalg.norm(d, axis=2).argmin(axis=1)
        off.append(d[np.arange(len(nearest)), nearest])
    assert kstest(np.concatenate(off).ravel() / 0.5, "norm").pvalue > 1e-3


def test_false_spots_fill_the_live_sensor() -> None:
    detector = load_instrument("lab").detector
    px = anywhere(detector, 20000, np.random.default_rng(0))
    assert np.all(detector.sees(px))
    assert kstest((px[:, 0] + 0.5) / 1000, "uniform").pvalue > 1e-6
    assert px[:, 1].min() < 0.0


def test_indexing_figures_of_a_small_set() -> None:
    """Six silicon lists: right answers are called right, and only those."""
    from lauepilot.perception.indexing.indexer import Indexer

    indexer = Indexer(load_crystal("si"), load_instrument("bm32"))
    done = indexing.trials(indexer, 30, 6)
    figure = indexing.success("success_30", done, 30, None)
    assert (figure.n, figure.value) == (6, 1.0)
    (row,) = figure.settings["rows"]
    assert (row["crystal"], row["instrument"], row["n"]) == ("si", "bm32", 6)
    assert 0 < row["median_ms"] < 1000
    u, spots = indexing.draw(indexer, 30, np.random.default_rng(1))
    answer = indexer.index(spots)
    turned = indexing._trial(indexer, random_rotation(np.random.default_rng(9)), answer, 0.0)
    assert indexing._trial(indexer, u, answer, 0.0).right
    assert not turned.right
    assert turned.wrong_declared == (answer.confidence >= indexing.DECLARED)
    times = {f.name: f.value for f in indexing.times_80(done)}
    assert set(times) == {"median_ms", "median_ms_worst", "p95_ms"}


def game(outcome: str, reachable: bool, seconds: float = 10.0, reason: str = "") -> EpisodeResult:
    return EpisodeResult(
        outcome=outcome,  # type: ignore[arg-type]
        reason=reason,
        miss_deg=0.01,
        reachable=reachable,
        seconds=seconds,
        dose_s=1.0,
        moves=1,
        exposures=2,
        refused=0,
        reward=0.0,
        decisions=(),
        believed_sigma_deg=0.01,
        orientation_error_deg=0.02,
    )


def test_no_game_is_dropped_from_the_alignment_figures() -> None:
    """All ends, within reach and not: failures within reach count, and the others are told one by one."""
    ours = Score(
        "index-and-move", "si", "lab", "default",
        (
            game("right", True, 20.0), game("wrong", True), game("gave_up", True), game("too_long", True),
            game("gave_up", True, reason="The target cannot be reached: so it thought."),
            game("right", True, 40.0),
            game("out_of_reach", False, reason="The target cannot be reached: axis."),
            game("out_of_reach", False, reason="No spots."), game("too_long", False), game("wrong", False),
        ),
    )  # fmt: skip
    best = [game("right", True, s) for s in (10.0, 1.0, 1.0, 1.0, 1.0)] + [game("too_long", True)]
    floor = Score("oracle", "si", "lab", "default", (*best, *[game("out_of_reach", False)] * 4))
    success, wrong = align.known([ours], [floor], ours)
    assert (success.n, success.value) == (6, pytest.approx(2 / 6))
    assert success.peer == Peer("Oracle (all-knowing)", pytest.approx(5 / 6))  # type: ignore[arg-type]
    assert (wrong.n, wrong.value) == (10, pytest.approx(2 / 10))
    settings = success.settings
    ends = {"said_so": 1, "other_give_up": 1, "too_long": 1, "declared": 1}
    assert settings["out_of_reach"] == sum(ends.values()) == 4
    assert settings["out_of_reach_ends"] == settings["limited_reach"]["beyond_reach"] == ends
    # Only the first game was right for both.
    assert settings["paired"]["games"] == 1
    assert settings["paired"]["mean_seconds"] == 20.0
    assert settings["paired"]["oracle_mean_seconds"] == 10.0
    assert settings["rows"][0]["orientation_error_worst_deg"] == 0.02
    json.dumps(success.plain())
    without = align.known([ours], [floor])[0]
    assert (without.value, without.n) == (success.value, success.n)
    assert "limited_reach" not in without.settings


def test_speeds_of_environments_say_what_they_step_through() -> None:
    """The batched environment makes no frame: nobody must take its speed for the full one's."""
    figure = align.env_steps("env_spot_steps_per_s", "spots", 4, 3)
    assert (figure.unit, figure.n) == ("1/s", 3 * 10 * 4)
    assert figure.value > 0.0
    for word in ("batched", "no full frame", "truth plus a modelled error"):
        assert word in figure.settings["env"]


@pytest.mark.slow
def test_speed_of_learning_says_with_which_settings() -> None:
    ppo = align.ppo_steps(1)
    assert ppo.settings["env"] == align.BATCHED
    assert ppo.settings["n_epochs"] != 10  # stable-baselines3's default; so:
    assert "defaults but for n_steps, batch_size and n_epochs" in ppo.settings["policy"]


def test_spot_list_times() -> None:
    table = cached_table(load_crystal("si"), load_instrument("bm32"))
    times, spots = simulator.list_times_s(table, random_rotation(np.random.default_rng(0), 50), batch=25)
    assert len(times) == 2
    assert 0 < max(times) < 1e-3
    assert 10 < spots < 200


def test_lauetools_indexes_what_it_simulates() -> None:
    """Our translation of frames and angles to and from LaueTools is right: its answer is the truth."""
    peer = lauetools.load()
    if peer is None:
        pytest.skip("LaueTools is not installed (benchmarks/README.md says how)")
    result = indexing.beside_lauetools(peer, 0, 1)
    assert result["success"] == 1.0
    assert result["our_success"] == 1.0
