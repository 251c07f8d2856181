"""Figures: a value with its unit, number of trials, interval and peer, as ``GOALS.toml`` writes them down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binom, norm


@dataclass(frozen=True)
class Peer:
    """Another program's value of the same figure, measured in the same run."""

    name: str
    value: float


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes
    ----------
    name, value, unit
        As in ``GOALS.toml``.
    n
        Trials behind it: patterns, frames, steps or games.
    ci95
        Interval that holds the true value with 95 %; None where none can be given.
    peer
        The same of another program.
    settings
        What was measured, in plain JSON values.
    """

    name: str
    value: float
    unit: str
    n: int
    ci95: tuple[float, float] | None = None
    peer: Peer | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        out = asdict(self)
        out["ci95"] = None if self.ci95 is None else list(self.ci95)
        return out


@dataclass(frozen=True)
class Goal:
    """What a figure should reach.

    Attributes
    ----------
    value
        The goal.
    better
        ``lower`` and ``higher`` say which way is better; ``near`` asks for the value itself, within ``tolerance``.
    tolerance
        For ``near``.
    """

    value: float
    better: str
    tolerance: float = 0.0

    def reached(self, value: float) -> bool:
        """Whether a figure of this value is as good as the goal."""
        if self.better == "near":
            return abs(value - self.value) <= self.tolerance
        return value <= self.value if self.better == "lower" else value >= self.value


#: Goals by benchmark and figure; the project's ``GOALS.toml``.
GOALS: Mapping[str, Mapping[str, Goal]] = {
    "simulator": {
        "spots_us": Goal(5.0, "lower"),
        "spots_ratio_lauetools": Goal(150.0, "higher"),
        "images_per_s": Goal(3000.0, "higher"),
        "frames_2k_per_s": Goal(20.0, "higher"),
    },
    "indexing": {
        "success_30": Goal(0.995, "higher"),
        "success_60": Goal(0.995, "higher"),
        "wrong_confident_30": Goal(0.001, "lower"),
        "success_80": Goal(0.99, "higher"),
        "wrong_confident_80": Goal(0.001, "lower"),
        "median_ms": Goal(5.0, "lower"),
        "median_ms_worst": Goal(20.0, "lower"),
        "median_ms_large": Goal(30.0, "lower"),
        "unknown_lattice": Goal(0.99, "higher"),
        "unknown_factors_1": Goal(0.98, "higher"),
        "unknown_factors_2": Goal(0.95, "higher"),
        "p95_ms": Goal(100.0, "lower"),
    },
    "precision": {
        "crb_ratio_photon": Goal(1.15, "lower"),
        "crb_ratio_spots": Goal(1.3, "lower"),
        "coverage_95": Goal(0.95, "near", 0.02),
        "photons_si_1x": Goal(20.0, "lower"),
        "photons_si_10x": Goal(35.0, "lower"),
        "photons_quartz_1x": Goal(50.0, "lower"),
        "photon_gain": Goal(3.0, "higher"),
        "photon_ms": Goal(300.0, "lower"),
    },
    "hardware": {
        "faults_survived": Goal(1.0, "higher"),
        "limit_violations": Goal(0.0, "lower"),
        "step_overhead_s": Goal(0.3, "lower"),
        "abort_s": Goal(0.5, "lower"),
        "arm_ik_success": Goal(0.995, "higher"),
        "arm_ik_ms": Goal(5.0, "lower"),
        "calibrate_px": Goal(0.3, "lower"),
        "build_ub_success": Goal(1.0, "higher"),
    },
    "align": {
        "success_known": Goal(0.99, "higher"),
        "wrong_known": Goal(0.001, "lower"),
        "env_image_steps_per_s": Goal(3000.0, "higher"),
        "env_spot_steps_per_s": Goal(10000.0, "higher"),
        "ppo_steps_per_s": Goal(4000.0, "higher"),
        "mono_success": Goal(0.95, "higher"),
        "mono_time_ratio": Goal(0.5, "lower"),
        "game_classical_success": Goal(0.999, "higher"),
        "game_hard_success": Goal(0.97, "higher"),
        "game_hard_moves_ratio": Goal(1.3, "lower"),
    },
}


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score (1927, J. Am. Stat. Assoc. 22, 209).

    >>> tuple(round(x, 4) for x in wilson(0, 100))
    (0.0, 0.037)

    Raises
    ------
    ValueError
        If there are no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"A share needs 0 <= successes <= n and n >= 1; {successes} of {n} came.")
    z = float(norm.ppf(0.975))
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if successes == 0 else middle - half, 1.0 if successes == n else middle + half)


def quantile_interval(values: Sequence[float], share: float = 0.5) -> tuple[float, float] | None:
    """95 % interval of a quantile, from the order of the values alone (Hahn & Meeker 1991, section 5.2).

    None if there are too few values to give one.
    """
    x = np.sort(np.asarray(values, dtype=float))
    n = len(x)
    low = int(binom.ppf(0.025, n, share)) - 1 if n else -1
    high = int(binom.ppf(0.975, n, share)) if n else 0
    if low < 0 or high >= n:
        return None
    return float(x[low]), float(x[high])


def share(name: str, good: Sequence[bool], settings: Mapping[str, Any], peer: Peer | None = None) -> Figure:
    """A share of trials, with Wilson's interval."""
    n, k = len(good), int(np.count_nonzero(good))
    return Figure(name, k / n, "fraction", n, wilson(k, n), peer, settings)


def median(
    name: str,
    values: Sequence[float],
    unit: str,
    settings: Mapping[str, Any],
    n: int | None = None,
    peer: Peer | None = None,
) -> Figure:
    """A median with its interval; ``n`` if each value already stands for several trials."""
    return Figure(
        name,
        float(np.median(values)),
        unit,
        len(values) if n is None else n,
        quantile_interval(values),
        peer,
        settings,
    )
