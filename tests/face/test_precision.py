"""The precision benchmark: psychometric curves of known truth, figures of made-up trials, real frames of known photons."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.bench import precision
from lauepilot.bench.figures import GOALS, Goal
from lauepilot.bench.precision_trials import Cell, Trial
from lauepilot.bench.psychometric import fitted
from lauepilot.perception.limits.bound import fisher_information
from lauepilot.simulator.conventions import random_rotation


def test_curve_finds_the_count_that_was_put_in() -> None:
    """Draws from a known curve: the 99 % point comes back, and its interval holds it as often as it says."""
    counts, n = np.array([5.0, 9.0, 16.0, 28.0, 50.0, 90.0]), np.full(6, 40)
    scale, shape = 12.0, 1.8
    true = scale * np.log(100.0) ** (1 / shape)
    rng = np.random.default_rng(0)
    found, inside = [], 0
    for _ in range(40):
        k = rng.binomial(n, 1.0 - np.exp(-((counts / scale) ** shape)))
        curve = fitted(counts, k, n, rng, draws=40)
        found.append(curve.counts_for(0.99))
        low, high = np.quantile(curve.draws_for(0.99), (0.025, 0.975))
        inside += low <= true <= high
    assert np.median(found) == pytest.approx(true, rel=0.12)
    assert inside >= 32
    assert curve.counts_for(0.5) < curve.counts_for(0.9)


def test_curve_needs_successes_and_failures() -> None:
    with pytest.raises(ValueError, match="needs successes and failures; 8 of 8"):
        fitted([1.0, 2.0], [4, 4], [4, 4], np.random.default_rng(0))


def made(
    method: str, crystal: str, background: float, counts: float, n: int, ratio: float, scale: float
) -> list[Trial]:
    """Trials whose errors are ``ratio`` times the bound, and whose stated errors are wrong by the factor ``scale``."""
    rng = np.random.default_rng((int(counts), int(background), len(crystal)))
    bound2 = 3e-6
    out = []
    for _ in range(n):
        right = rng.random() < 1.0 - np.exp(-((counts / (30.0 if method == "photons" else 120.0)) ** 2))
        error = ratio * np.sqrt(bound2 / 3) * rng.normal(size=3)
        distance2 = float(error @ error / (ratio**2 * bound2 / 3)) * scale
        out.append(
            Trial(
                method,
                crystal,
                background,
                counts,
                bool(right),
                float(error @ error),
                bound2,
                1e-6,
                distance2,
                0.1,
            )
        )
    return out


def test_figures_say_what_was_put_in() -> None:
    done: list[Trial] = []
    for method, ratio in (("photons", 1.05), ("spots", 1.25)):
        for crystal in precision.CRYSTALS:
            for background in precision.BACKGROUNDS:
                for counts in (10.0, 30.0, 60.0, 100.0, 180.0, 320.0, 1e3, 1e4):
                    worse = 2.0 if (method, crystal, counts) == ("photons", "quartz", 1e4) else 1.0
                    scale = 1.6 if (method, crystal) == ("spots", "si") else 1.0
                    done += made(method, crystal, background, counts, 100, ratio * worse, scale)
    found = {f.name: f for f in precision.figures(done)}
    assert set(found) == set(GOALS["precision"])
    worst = found["crb_ratio_photon"]
    assert worst.settings["worst"]["crystal"] == "quartz"
    assert worst.value == pytest.approx(2.1, rel=0.15)
    assert worst.ci95 is not None and worst.ci95[0] < worst.value < worst.ci95[1]
    assert found["crb_ratio_spots"].value == pytest.approx(1.25, rel=0.15)
    assert found["coverage_95"].settings["worst"] == {"method": "spots", "crystal": "si"}
    assert found["coverage_95"].value < 0.92
    truth = 30.0 * np.log(100.0) ** 0.5
    assert found["photons_si_1x"].value == pytest.approx(truth, rel=0.2)
    assert found["photon_gain"].value == pytest.approx(4.0, rel=0.3)
    assert found["photon_ms"].value == pytest.approx(100.0)


def test_goals_that_are_near() -> None:
    goal = Goal(0.95, "near", 0.02)
    assert goal.reached(0.94) and goal.reached(0.969)
    assert not goal.reached(0.92) and not goal.reached(0.98)
    assert Goal(5.0, "lower").reached(4.0) and not Goal(5.0, "higher").reached(4.0)


def test_frames_hold_the_photons_that_were_asked_for() -> None:
    cell = Cell("si")
    rng = np.random.default_rng(1)
    u = random_rotation(rng)
    total = [cell.draw(u, 2000.0, 3.0, rng)[0].sum() for _ in range(8)]
    # 8,000 expected; the mean of eight has a standard deviation of 32.
    assert np.mean(total) == pytest.approx(8000.0, abs=130.0)
    bound = fisher_information(
        cell.table, u, signal_photons=2000.0, background_photons=6000.0,
        parameters=("rotation", "flux", "background", "width"),
    )  # fmt: skip
    assert cell.draw(u, 2000.0, 3.0, rng)[1] == pytest.approx(np.trace(bound.orientation_covariance))
    trials = cell.trials(3000.0, 1.0, 1, rng, {"spots": 1, "photons": 1})
    assert [t.method for t in trials] == ["spots", "photons"]
    assert all(t.right and t.error2 < 20 * t.bound2 for t in trials)


@pytest.mark.slow
def test_processes_share_the_trials_and_change_nothing() -> None:
    tasks = [("si", 1e3, 1.0, {"spots": 3, "photons": 2}), ("si", 1e4, 10.0, {"spots": 2, "photons": 3})]
    alone = [t for trials in precision._spread(tasks, 1) for t in trials]
    shared = [t for trials in precision._spread(tasks, 2) for t in trials]
    assert [(t.method, t.counts) for t in alone] == [(t.method, t.counts) for t in shared]
    for one, two in zip(alone, shared, strict=True):
        assert (two.error2, two.distance2) == (one.error2, one.distance2)
