"""How well `calibrate_instrument` finds an instrument that is far from its description: new positions, on 50 Twins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lauepilot.bench.figures import Figure, wilson
from lauepilot.bench.timing import one_core
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.plans.calibrate import CalibrateResult, below, calibrate_instrument
from lauepilot.perception.indexing.refine import predict_pixels
from lauepilot.perception.instrument_fit_result import InstrumentFit
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import FloatArray, rotation_angle
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import RayTable, cached_table, predict_spots
from lauepilot.simulator.orientation import nearest_equivalent
from lauepilot.simulator.spots_shape import displacement_px
from lauepilot.simulator.twin import Twin

#: How far the Twins stray: standard deviations.
FAULTS = Faults(centre_mm=2.0, distance_mm=2.0, tilt_deg=1.0, axis_misdirection_deg=2.0, axis_zero_deg=5.0)
CRYSTAL, INSTRUMENT, FRAMES = "si", "lab", 14

#: New positions where predictions are compared with where spots truly fall, and how many of them are exposed too.
PLACES, EXPOSED = 20, 4

#: What a Twin must keep: prediction (px, 95th percentile), and commanded rotation (deg, the worst of all).
PX, DEG = 0.3, 0.02

#: Found and predicted spots further apart than this are not the same spot, pixels.
_SAME = 3.0


@dataclass(frozen=True, eq=False)
class Trial:
    """One Twin.

    Attributes
    ----------
    outcome, reason
        Of the plan.
    px
        (n,) distances of predicted spots from where they truly fall, at new positions.
    seen_px
        (m,) the same from spots found in fresh frames: with their counting noise.
    turn_deg
        (k,) errors of commanded rotations between new positions.
    wall_s, clock_s
        Of the plan: on the wall, and on the instrument's clock.
    """

    outcome: str
    reason: str
    px: FloatArray
    seen_px: FloatArray
    turn_deg: FloatArray
    wall_s: float
    clock_s: float

    @property
    def px95(self) -> float:
        """95th percentile; infinite where nothing was found."""
        return float(np.quantile(self.px, 0.95)) if len(self.px) else float("inf")

    @property
    def passed(self) -> bool:
        """Whether predictions and commanded rotations are both good enough."""
        return self.px95 <= PX and len(self.turn_deg) > 0 and float(self.turn_deg.max()) <= DEG


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """The figure ``calibrate_px``."""
    n = 5 if quick else 50
    say(f"calibrating {n} faulty twins of {INSTRUMENT} with {CRYSTAL}, {FRAMES} frames each")
    with one_core():
        trials = []
        for seed in range(n):
            trials.append(trial(seed))
            last = trials[-1]
            if not last.passed:
                say(f"twin {seed}: {last.outcome}, {last.px95:.3f} px; {last.reason}")
    return [figure(trials)]


def trial(seed: int) -> Trial:
    """Calibrate one Twin, and look at new positions."""
    rng = np.random.default_rng([seed, 4])
    twin = Twin(load_crystal(CRYSTAL), load_instrument(INSTRUMENT), rng=rng, faults=FAULTS)
    camera, goniometer = connect(twin)
    began = time.perf_counter()
    with run_engine() as engine:
        ended: Any = engine(calibrate_instrument(camera, goniometer, frames=FRAMES))
    result: CalibrateResult = ended.plan_result
    wall = time.perf_counter() - began
    none = np.zeros(0)
    if result.outcome != "calibrated" or result.fit is None:
        return Trial(result.outcome, result.reason, none, none, none, wall, result.clock_s)
    px, seen, turns = _check(twin, result.fit, np.random.default_rng([seed, 5]))
    return Trial(result.outcome, result.reason, px, seen, turns, wall, result.clock_s)


def _check(
    twin: Twin, fit: InstrumentFit, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Errors of predictions, of spots in fresh frames, and of commanded rotations, at positions drawn anew."""
    chain = twin.instrument.goniometer
    px, seen, turns = [], [], []
    before: tuple[FloatArray, FloatArray] | None = None
    for number in range(PLACES):
        place = {a.name: float(rng.uniform(a.limits[0] + 1.0, a.limits[1])) for a in chain.rotations}
        # From below, as the calibration came: what play leaves is then part of what was calibrated.
        twin.move(below(chain, place))
        here = twin.move(place)
        px.append(_away(twin, fit, here))
        if number < EXPOSED:
            seen.append(_away_from_found(twin, fit, here))
        true, said = twin.u_lab() @ twin.truth.u.T, fit.instrument.goniometer.matrix(here)
        if before is not None:
            turns.append(float(rotation_angle((true @ before[0].T) @ (said @ before[1].T).T)))
        before = (true, said)
    return np.concatenate(px), np.concatenate(seen), np.rad2deg(turns)


def _away(twin: Twin, fit: InstrumentFit, here: Mapping[str, float]) -> FloatArray:
    """Distances (n,) of predicted spots from the true ones, where the crystal truly is."""
    detector = twin.truth.instrument.detector
    true = predict_spots(fit_table(twin), twin.u_lab(), detector)
    places = true.pixels + displacement_px(detector, true.pixels, twin.offset_mm)
    u = nearest_equivalent(fit.u_lab(here), twin.u_lab(), twin.crystal.symmetry)[0]
    mine = predict_pixels(u, fit_table(twin).direction[true.ray], fit.instrument.detector)
    return np.asarray(np.linalg.norm(mine - places, axis=1))


def _away_from_found(twin: Twin, fit: InstrumentFit, here: Mapping[str, float]) -> FloatArray:
    """Distances (n,) of spots found in a fresh frame from the predicted spots next to them."""
    found = find_spots(twin.expose(twin.instrument.exposure_s), twin.instrument.detector)
    mine = predict_spots(fit_table(twin), fit.u_lab(here), fit.instrument.detector).pixels
    gaps = np.linalg.norm(found.pixels[:, None] - mine[None], axis=2).min(axis=1)
    return np.asarray(gaps[gaps < _SAME])


def fit_table(twin: Twin) -> RayTable:
    """Rays that a usual frame shows: those down to a hundredth of the brightest."""
    return cached_table(twin.crystal, twin.instrument)


def _interval(twins: list[FloatArray]) -> tuple[float, float] | None:
    """95 % interval of the percentile, by drawing whole Twins anew (Efron 1979)."""
    if len(twins) < 10 or not all(np.isfinite(t).all() for t in twins):
        return None
    rng = np.random.default_rng(0)
    draws = [
        float(
            np.quantile(np.concatenate([twins[i] for i in rng.integers(len(twins), size=len(twins))]), 0.95)
        )
        for _ in range(300)
    ]
    return float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def figure(trials: list[Trial]) -> Figure:
    """95th percentile over all spots of all Twins; a Twin that was not calibrated counts with infinite errors."""
    usual = max([len(t.px) for t in trials] or [1]) or 1
    every_twin = [t.px if len(t.px) else np.full(usual, np.inf) for t in trials]
    every = np.concatenate(every_twin)
    passed = [t.passed for t in trials]
    px = [t.px95 for t in trials]
    turns = np.concatenate([t.turn_deg for t in trials])
    seen = np.concatenate([t.seen_px for t in trials])
    settings: dict[str, Any] = {
        "crystal": CRYSTAL,
        "instrument": INSTRUMENT,
        "faults": {
            "centre_mm": FAULTS.centre_mm, "distance_mm": FAULTS.distance_mm, "tilt_deg": FAULTS.tilt_deg,
            "axis_misdirection_deg": FAULTS.axis_misdirection_deg, "axis_zero_deg": FAULTS.axis_zero_deg,
            "sphere_of_confusion_mm": FAULTS.sphere_of_confusion_mm,
        },
        "faults_are": "standard deviations of normal draws",
        "frames": FRAMES,
        "new_positions": PLACES,
        "passed": int(np.count_nonzero(passed)),
        "passed_ci95": wilson(int(np.count_nonzero(passed)), len(passed)),
        "passed_means": f"95 % of predictions within {PX} px and every commanded rotation within {DEG} deg",
        "calibrated": sum(t.outcome == "calibrated" for t in trials),
        "px95_by_twin": {"median": float(np.median(px)), "worst": float(np.max(px))},
        "turn_deg": {
            "p95": float(np.quantile(turns, 0.95)) if len(turns) else None,
            "worst": float(turns.max()) if len(turns) else None,
        },
        "px95_of_found_spots": float(np.quantile(seen, 0.95)) if len(seen) else None,
        "approach": "axes come from below, in calibration and check",
        "wall_s_median": float(np.median([t.wall_s for t in trials])),
        "clock_s_median": float(np.median([t.clock_s for t in trials])),
    }  # fmt: skip
    return Figure(
        "calibrate_px",
        float(np.quantile(every, 0.95)),
        "px",
        len(trials),
        _interval(every_twin),
        None,
        settings,
    )
