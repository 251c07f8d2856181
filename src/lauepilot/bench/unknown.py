"""Unknown lattices: axes, family and ratios from spots alone, and how often the answer is "unsure" or wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lauepilot.bench.figures import Figure, share
from lauepilot.bench.timing import CLOCK, one_core, timed
from lauepilot.bench.unknown_cases import LAUE_RL, Case, Spoil, draw, film
from lauepilot.perception.unknown.lattice import b_matrix, holohedry, primitive
from lauepilot.perception.unknown.result import Solution, UnknownResult
from lauepilot.perception.unknown.solve import solve_unknown
from lauepilot.simulator.conventions import FloatArray, axis_rotation, rotation_angle
from lauepilot.simulator.orientation import misorientation

TOLERANCE_DEG = 0.5
RATIO_TOLERANCE = 1e-3
#: Distances told to the solver: those of LaueRL's film, and a little.
DISTANCE_MM = (38.0, 62.0)
#: Families that are seen from three sides, and the turns of the goniometer (deg about y, then about x).
LOW = ("trigonal", "orthorhombic", "monoclinic")
TURNS_DEG = ((0.0, 0.0), (35.0, 0.0), (0.0, 35.0))
#: Patterns a family.
PATTERNS, QUICK = 300, 6


@dataclass(frozen=True)
class Trial:
    """What became of one crystal: axes, family, ratios right; sure; processor seconds."""

    family: str
    axes: bool
    lattice: bool
    ratios: bool
    error_deg: float
    sure: bool
    confidence: float
    seconds: float


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """The figures of unknown lattices; part of ``lauepilot bench indexing``."""
    n = QUICK if quick else PATTERNS
    fewer = max(2, n // 6)
    figures = []
    with one_core():
        for name, sigma in (("unknown_lattice", 0.0), ("unknown_factors_1", 1.0), ("unknown_factors_2", 2.0)):
            figures.append(figure(name, trials(tuple(LAUE_RL), Spoil(sigma=sigma), n, say)))
        for name, spoil in (
            ("unknown_tube_lines", Spoil(lines=True)),
            ("unknown_half_film", Spoil(film=0.5)),
            ("unknown_quarter_film", Spoil(film=0.25)),
            ("unknown_60_missing_100_false", Spoil(missing=0.6, false=1.0)),
        ):
            figures.append(figure(name, trials(tuple(LAUE_RL), spoil, fewer, say)))
        turns = [turn(*angles) for angles in TURNS_DEG]
        figures.append(
            figure("unknown_low_three_frames", trials(LOW, Spoil(), fewer, say, turns), LOW, len(turns))
        )
    return figures


def turn(about_y_deg: float, about_x_deg: float) -> FloatArray:
    """Rotation (3, 3) of a goniometer."""
    x, y = (
        axis_rotation([1.0, 0.0, 0.0], np.deg2rad(about_x_deg)),
        axis_rotation([0.0, 1.0, 0.0], np.deg2rad(about_y_deg)),
    )
    return np.asarray(y @ x)


def trials(
    families: Sequence[str],
    spoil: Spoil,
    n: int,
    say: Callable[[str], None],
    turns: Sequence[FloatArray] = (np.eye(3),),
) -> list[Trial]:
    """``n`` crystals of each family."""
    done = []
    for family in families:
        say(f"unknown lattice: {family}, {spoil}, {len(turns)} frame(s)")
        for i in range(n):
            rng = np.random.default_rng(
                (i, len(family), int(10 * spoil.sigma), int(100 * spoil.film), len(turns))
            )
            done.append(trial(draw(family, rng, spoil, turns)))
    return done


def trial(case: Case) -> Trial:
    """One crystal through the solver."""
    if sum(len(spots) for spots, _ in case.frames) < 8:
        return Trial(case.family, False, False, False, 180.0, False, 0.0, 0.0)
    result, seconds = timed(solve_unknown, case.frames, film(), DISTANCE_MM)
    return judged(case, result, seconds)


def judged(case: Case, result: UnknownResult, seconds: float) -> Trial:
    """A result beside the truth.

    Axes of cubic, tetragonal, hexagonal and trigonal crystals have names and are compared as such; a, b and c of the others
    may be named anew, so that the lattices themselves are laid over each other.
    """
    best = result.best
    if best is None:
        return Trial(case.family, False, False, False, 180.0, False, 0.0, seconds)
    same, error, stretch = overlaid(best, case)
    if case.family not in LOW or case.family == "trigonal":
        error = float(np.rad2deg(misorientation(best.orientation.u, case.u, holohedry(case.family))))
    elif not same or best.family != case.family:
        error = 180.0
    lattice = best.family == case.family and same
    return Trial(
        case.family, error < TOLERANCE_DEG, lattice, lattice and stretch <= RATIO_TOLERANCE, error, result.sure,
        result.confidence, seconds,
    )  # fmt: skip


def overlaid(best: Solution, case: Case) -> tuple[bool, float, float]:
    """Whether two lattices are one up to scale; then their misorientation in degrees, and the largest relative strain."""
    ours = _primitive(best.orientation.ub, best.centring)
    true = _primitive(case.u @ b_matrix(case.family, case.ratios), case.centring)
    relation = np.linalg.solve(ours, true)
    whole = np.rint(relation / np.cbrt(abs(np.linalg.det(relation))))
    if round(abs(float(np.linalg.det(whole)))) != 1:
        return False, 180.0, 1.0
    left, stretch, right = np.linalg.svd(true @ np.linalg.inv(ours @ whole))
    strain = float(stretch[0] / stretch[2] - 1.0)
    turned = left @ right * np.sign(np.linalg.det(left @ right))
    return strain < 0.02, float(np.rad2deg(rotation_angle(turned))), strain


def _primitive(ub: FloatArray, centring: str) -> FloatArray:
    """Direct axes (3, 3) of a primitive cell, in columns."""
    return np.asarray(np.linalg.inv(ub).T @ primitive(centring))


def figure(
    name: str, done: Sequence[Trial], families: Sequence[str] = tuple(LAUE_RL), frames: int = 1
) -> Figure:
    """Share of crystals with the right axes; in the settings what else became of them, family by family."""
    settings: dict[str, Any] = {
        "within_deg": TOLERANCE_DEG,
        "frames": frames,
        "film_mm": [40.0, 60.0],
        "told_mm": list(DISTANCE_MM),
        "ln_f_squared": "sigma of the figure's name multiplies |F|^2 of an orbit: exp(sigma g)",
        "clock": CLOCK,
        "rows": [row(family, [t for t in done if t.family == family]) for family in families],
        "sure": float(np.mean([t.sure for t in done])),
        "unsure": float(np.mean([not t.sure for t in done])),
        "unsure_but_right": float(np.mean([t.axes and not t.sure for t in done])),
        "wrong_while_sure": float(np.mean([t.sure and not t.axes for t in done])),
    }
    return share(name, [t.axes for t in done], settings)


def row(family: str, done: Sequence[Trial]) -> dict[str, Any]:
    """A family's line."""
    seconds = [t.seconds for t in done]
    right = [t.error_deg for t in done if t.axes]
    return {
        "family": family,
        "n": len(done),
        "axes": float(np.mean([t.axes for t in done])),
        "family_and_centring": float(np.mean([t.lattice for t in done])),
        "ratios_within_0.1_percent": float(np.mean([t.ratios for t in done])),
        "unsure": float(np.mean([not t.sure for t in done])),
        "wrong_while_sure": float(np.mean([t.sure and not t.axes for t in done])),
        "median_error_deg": float(np.median(right)) if right else None,
        "median_s": float(np.median(seconds)),
        "max_s": float(np.max(seconds)),
    }
