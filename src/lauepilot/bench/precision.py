"""Precision: success and error against the number of photons, by spots and by photons, over the Cramer-Rao bound."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import chi2

from lauepilot.bench import resampling
from lauepilot.bench.figures import Figure, median, share, wilson
from lauepilot.bench.precision_trials import (
    TOLERANCE_DEG,
    TRUTH_RELATIVE,
    UNKNOWN,
    Cell,
    Trial,
    bayes_over_bound,
)
from lauepilot.bench.psychometric import Curve, fitted
from lauepilot.bench.timing import CLOCK, one_core

CRYSTALS = ("si", "quartz", "ca2ruo4")
BACKGROUNDS = (1.0, 10.0)
METHODS = ("spots", "photons")

#: Frames of a cell by expected signal photons: for each method. The largest error of some sixty cells is a figure, so that a
#: cell needs hundreds of frames: with 40 the worst is 1.2 times the bound by chance alone.
FULL: Mapping[float, Mapping[str, int]] = {
    3.16: {"photons": 40},
    5.62: {"photons": 60},
    10.0: {"photons": 80},
    17.8: {"photons": 240},
    31.6: {"photons": 240, "spots": 10},
    56.2: {"photons": 240, "spots": 30},
    100.0: {"photons": 240, "spots": 60},
    178.0: {"photons": 240, "spots": 60},
    316.0: {"photons": 240, "spots": 60},
    562.0: {"spots": 60},
    1e3: {"photons": 240, "spots": 240},
    1e4: {"photons": 240, "spots": 240},
    1e5: {"photons": 240, "spots": 240},
    1e6: {"photons": 240, "spots": 100},
}
QUICK: Mapping[float, Mapping[str, int]] = {
    3.16: {"photons": 4},
    10.0: {"photons": 4},
    31.6: {"photons": 4, "spots": 4},
    100.0: {"photons": 4, "spots": 4},
    316.0: {"photons": 4, "spots": 4},
    1e3: {"photons": 4, "spots": 6},
    1e5: {"photons": 4, "spots": 6},
}

#: Cells with at least so large a share of successes count for errors and coverage.
SUCCEEDS = 0.99
#: Counts between which the goal for spots holds.
SPOTS_FROM, SPOTS_TO = 1e3, 1e5
#: Crystal and background of the figures that name a number of photons.
NAMED = {"photons_si_1x": ("si", 1.0), "photons_si_10x": ("si", 10.0), "photons_quartz_1x": ("quartz", 1.0)}


#: Crystal, counts, background over signal and frames of each method.
Task = tuple[str, float, float, Mapping[str, int]]


def measure(quick: bool, say: Callable[[str], None], jobs: int = 1) -> list[Figure]:
    """All figures of ``lauepilot bench precision``, the frames spread over ``jobs`` processes of one thread each.

    Each cell draws from a generator of its own: how many processes share the work changes times, and nothing else.
    """
    schedule = QUICK if quick else FULL
    tasks = [
        (crystal, counts, background, methods)
        for crystal in CRYSTALS
        for background in BACKGROUNDS
        for counts, methods in schedule.items()
    ]
    done: list[Trial] = []
    for (crystal, counts, background, _), trials in zip(tasks, _spread(tasks, jobs), strict=True):
        say(f"precision: {crystal}, {counts:g} photons, background {background:g} x: done")
        done += trials
    say("precision: halves of measured lists")
    with one_core():
        halves = resampling.rows(40 if quick else 500, np.random.default_rng(3))
    found = figures(done, halves, jobs)
    if not quick:
        say("precision: the Bayes limit where photons are worst")
        with one_core():
            found = [beside_the_limit(f) if f.name == "crb_ratio_photon" else f for f in found]
    return found


def beside_the_limit(figure: Figure) -> Figure:
    """The ratio with the Bayes limit of its worst cell in the settings: at few counts the bound itself cannot be reached."""
    worst = figure.settings["worst"]
    limit, interval = bayes_over_bound(
        worst["crystal"], worst["signal_photons"], worst["background_over_signal"], np.random.default_rng(4)
    )
    beside = {"bayes_limit_over_bound": limit, "bayes_limit_ci95": list(interval)}
    return replace(figure, settings={**figure.settings, **beside})


def _spread(tasks: Sequence[Task], jobs: int) -> Iterator[list[Trial]]:
    """Trials of each task, in order."""
    if jobs == 1:
        yield from map(_trials, tasks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_trials, tasks)


def _trials(task: Task) -> list[Trial]:
    """All trials of a cell, on one core."""
    crystal, counts, background, methods = task
    rng = np.random.default_rng((int(100 * counts), int(background), *crystal.encode()))
    with one_core():
        return _warm_cell(crystal).trials(counts, background, max(methods.values()), rng, methods)


@cache
def _warm_cell(crystal: str) -> Cell:
    """A cell that has seen its first frame: that one fills caches and compiles, and would spoil the times."""
    cell = Cell(crystal)
    cell.trials(1e3, 1.0, 1, np.random.default_rng(0), dict.fromkeys(METHODS, 1))
    return cell


def figures(done: Sequence[Trial], halves: Sequence[dict[str, Any]] = (), jobs: int = 1) -> list[Figure]:
    """All figures that the trials give; those for which they do not suffice are absent.

    ``halves`` are lines of `resampling.rows`, kept with the coverage; ``jobs`` is said beside the times.
    """
    table = rows(done)
    curves = {
        (method, *where): curve
        for method in METHODS
        for where in NAMED.values()
        if (curve := _curve(done, method, *where)) is not None
    }
    named = [
        photons_needed(name, done, curves["photons", *where], *where)
        for name, where in NAMED.items()
        if ("photons", *where) in curves
    ]
    times = [1e3 * t.seconds for t in done if t.method == "photons"]
    found = [
        crb_ratio("crb_ratio_photon", done, "photons", 0.0, np.inf, table),
        crb_ratio("crb_ratio_spots", done, "spots", SPOTS_FROM, SPOTS_TO, table),
        coverage(done, halves),
        *named,
        photon_gain(curves),
        median("photon_ms", times, "ms", {**describe(), "clock": CLOCK, "processes": jobs})
        if times
        else None,
    ]
    return [figure for figure in found if figure is not None]


def describe() -> dict[str, Any]:
    """What all figures share, for their settings."""
    return {
        "instrument": "lab",
        "crystals": list(CRYSTALS),
        "background_over_signal": list(BACKGROUNDS),
        "within_deg": TOLERANCE_DEG,
        "bound": f"Cramer-Rao, unknown with the orientation: {', '.join(UNKNOWN[1:])}",
        "truth": f"simulator.render, rays down to {TRUTH_RELATIVE:g} of the brightest, random orientations",
    }


def _cells(done: Sequence[Trial]) -> dict[tuple[str, str, float, float], list[Trial]]:
    """Trials by method, crystal, background and counts."""
    cells: dict[tuple[str, str, float, float], list[Trial]] = {}
    for t in done:
        cells.setdefault((t.method, t.crystal, t.background, t.counts), []).append(t)
    return cells


def _ratio(trials: Sequence[Trial]) -> float:
    """Root mean square error over that of the bound, of trials that found the orientation."""
    right = [t for t in trials if t.right]
    return float(np.sqrt(sum(t.error2 for t in right) / sum(t.bound2 for t in right)))


def rows(done: Sequence[Trial]) -> list[dict[str, Any]]:
    """A line for each cell and method: errors in degrees, all three directions together."""
    out = []
    for (method, crystal, background, counts), mine in _cells(done).items():
        right = [t for t in mine if t.right]
        line: dict[str, Any] = {
            "method": method,
            "crystal": crystal,
            "background_over_signal": background,
            "signal_photons": counts,
            "n": len(mine),
            "success": len(right) / len(mine),
            "bound_deg": float(np.rad2deg(np.sqrt(np.mean([t.bound2 for t in mine])))),
            "median_ms": 1e3 * float(np.median([t.seconds for t in mine])),
        }
        if right:
            line |= {
                "rms_deg": float(np.rad2deg(np.sqrt(np.mean([t.error2 for t in right])))),
                "rms_over_bound": _ratio(right),
                "said_over_bound": float(
                    np.sqrt(np.sum([t.said2 for t in right]) / np.sum([t.bound2 for t in right]))
                ),
                "coverage_68": float(np.mean([t.within(0.68) for t in right])),
                "coverage_95": float(np.mean([t.within(0.95) for t in right])),
            }
        out.append(line)
    return out


def crb_ratio(
    name: str, done: Sequence[Trial], method: str, low: float, high: float, table: list[dict[str, Any]]
) -> Figure | None:
    """Error over the bound in the worst cell of a method that succeeds, with a bootstrap interval of that cell."""
    cells = {
        key: mine
        for key, mine in _cells(done).items()
        if key[0] == method and low <= key[3] <= high and np.mean([t.right for t in mine]) >= SUCCEEDS
    }
    if not cells:
        return None
    worst = max(cells, key=lambda key: _ratio(cells[key]))
    right = [t for t in cells[worst] if t.right]
    rng = np.random.default_rng(1)
    drawn = [_ratio([right[i] for i in rng.integers(0, len(right), len(right))]) for _ in range(1000)]
    settings = {
        **describe(),
        "cells_with_success": SUCCEEDS,
        "worst": dict(
            zip(("method", "crystal", "background_over_signal", "signal_photons"), worst, strict=True)
        ),
        "all_cells": _ratio([t for mine in cells.values() for t in mine]),
        "rows": [line for line in table if line["method"] == method],
    }
    low_end, high_end = (float(x) for x in np.quantile(drawn, (0.025, 0.975)))
    return Figure(name, _ratio(right), "ratio", len(right), (low_end, high_end), None, settings)


def coverage(done: Sequence[Trial], halves: Sequence[dict[str, Any]] = ()) -> Figure | None:
    """Coverage of 95 % regions, of the method and crystal where it is farthest from 95 %.

    A cell here is a method and a crystal, its backgrounds and all counts at which it succeeds together: single cells hold
    too few frames to tell 95 from 93 %.
    """
    pooled: dict[tuple[str, str], list[Trial]] = {}
    for (method, crystal, _, _), mine in _cells(done).items():
        if np.mean([t.right for t in mine]) >= SUCCEEDS:
            pooled.setdefault((method, crystal), []).extend(t for t in mine if t.right)
    if not pooled:
        return None
    lines = []
    for (method, crystal), mine in pooled.items():
        inside = [t.within(0.95) for t in mine]
        lines.append(
            {
                "method": method,
                "crystal": crystal,
                "n": len(mine),
                "coverage_95": float(np.mean(inside)),
                "ci95": list(wilson(sum(inside), len(inside))),
                "coverage_68": float(np.mean([t.within(0.68) for t in mine])),
                "median_distance2_over_expected": float(
                    np.median([t.distance2 for t in mine]) / chi2.ppf(0.5, 3)
                ),
            }
        )
    worst = max(pooled, key=lambda key: abs(np.mean([t.within(0.95) for t in pooled[key]]) - 0.95))
    settings = {
        **describe(),
        "worst": {"method": worst[0], "crystal": worst[1]},
        "cell": "method and crystal, both backgrounds, all counts at which it succeeds",
        "rows": lines,
        "measured_lists": list(halves),
    }
    return share("coverage_95", [t.within(0.95) for t in pooled[worst]], settings)


def _curve(done: Sequence[Trial], method: str, crystal: str, background: float) -> Curve | None:
    """Success against counts of one cell and method; None if it never or always succeeds."""
    mine = [t for t in done if (t.method, t.crystal, t.background) == (method, crystal, background)]
    counts = sorted({t.counts for t in mine})
    right = [sum(t.right for t in mine if t.counts == c) for c in counts]
    tried = [sum(t.counts == c for t in mine) for c in counts]
    if not 0 < sum(right) < sum(tried):
        return None
    return fitted(counts, right, tried, np.random.default_rng(2))


def photons_needed(name: str, done: Sequence[Trial], curve: Curve, crystal: str, background: float) -> Figure:
    """Signal photons for 99 % success by photon likelihood."""
    mine = [t for t in done if (t.method, t.crystal, t.background) == ("photons", crystal, background)]
    settings = {
        **describe(),
        "crystals": [crystal],
        "background_over_signal": [background],
        "curve": {"kind": "Weibull", "scale": curve.scale, "shape": curve.shape},
        "share": SUCCEEDS,
        "success": {
            f"{c:g}": float(np.mean([t.right for t in mine if t.counts == c]))
            for c in sorted({t.counts for t in mine})
        },
    }
    low, high = (float(x) for x in np.quantile(curve.draws_for(SUCCEEDS), (0.025, 0.975)))
    return Figure(name, curve.counts_for(SUCCEEDS), "photons", len(mine), (low, high), None, settings)


def photon_gain(curves: Mapping[tuple[str, str, float], Curve]) -> Figure | None:
    """Photons for 99 % success by spots over those by photon likelihood, in the worst of the named cells."""
    gains = {}
    for where in NAMED.values():
        if ("photons", *where) in curves and ("spots", *where) in curves:
            spots, photons = curves["spots", *where], curves["photons", *where]
            drawn = spots.draws_for(SUCCEEDS) / photons.draws_for(SUCCEEDS)
            gains[where] = (
                spots.counts_for(SUCCEEDS) / photons.counts_for(SUCCEEDS),
                (float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))),
                spots.counts_for(SUCCEEDS),
            )
    if not gains:
        return None
    worst = min(gains, key=lambda where: gains[where][0])
    settings = {
        **describe(),
        "worst": {"crystal": worst[0], "background_over_signal": worst[1]},
        "rows": [
            {"crystal": c, "background_over_signal": b, "gain": g, "ci95": list(ci), "photons_for_spots": s}
            for (c, b), (g, ci, s) in gains.items()
        ],
    }
    value, interval, _ = gains[worst]
    return Figure("photon_gain", value, "ratio", len(gains), interval, None, settings)
