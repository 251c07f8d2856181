"""The instrument calibrates itself on a known crystal: detector, directions of axes, zeros, sphere of confusion.

::

    RE = RunEngine(call_returns_result=True)
    result = RE(calibrate_instrument(camera, goniometer, load_crystal("si"), out="my.yaml")).plan_result

The plan chooses where to look, moves, exposes, and hands the frames to `lauepilot.perception.instrument_fit`; it
writes the corrected instrument only if that fit may be believed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import bluesky.plan_stubs as bps

from lauepilot.hardware.interlock import Collisions, Interlock
from lauepilot.hardware.metadata import measurement_metadata, merged, plain
from lauepilot.hardware.plans.parts import (
    Note,
    check_route,
    check_seconds,
    close,
    ended_at_rest,
    expose,
    move_to,
    remember,
    usual_interlock,
)
from lauepilot.hardware.plans.scan import Positions, listed
from lauepilot.hardware.plans.settle import Plan
from lauepilot.hardware.protocols import Camera, Goniometer
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.instrument_fit import fit_instrument
from lauepilot.perception.instrument_fit_design import choose_positions, in_short_order
from lauepilot.perception.instrument_fit_file import check_target, write_instrument
from lauepilot.perception.instrument_fit_frames import SURE, Shot, index_shots
from lauepilot.perception.instrument_fit_result import InstrumentFit, InstrumentFitError, InstrumentPrior
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.frame import FrameError
from lauepilot.simulator.goniometer import Goniometer as AxisChain

logger = logging.getLogger("lauepilot.hardware")

#: Axes come to each position from below, from so many times their play away: what they carry then lags alike everywhere.
_PLAYS = 5.0

#: Frames after which a calibration gives up if none of them could be indexed.
_FIRST_LOOK = 3


@dataclass(frozen=True, eq=False)
class CalibrateResult:
    """How a calibration ended.

    Attributes
    ----------
    outcome
        ``calibrated``, or ``refused``: the frames hold no calibration that may be believed.
    reason
        In words; what to look at.
    fit
        What was found, frame by frame too; None if nothing at all.
    written, kept
        The file with the corrected instrument, and the name under which an old one is kept; None if there are none.
    n_frames
        Frames taken.
    axes
        Read-back at the end, degrees and mm.
    clock_s, dose_s
        Time on the instrument's clock and open-shutter seconds since the start.
    run_uid
        Of the run in the records.
    """

    outcome: Literal["calibrated", "refused"]
    reason: str
    fit: InstrumentFit | None
    written: Path | None
    kept: Path | None
    n_frames: int
    axes: Mapping[str, float]
    clock_s: float
    dose_s: float
    run_uid: str


def calibrate_instrument(
    camera: Camera,
    goniometer: Goniometer,
    crystal: Crystal | None = None,
    *,
    frames: int = 14,
    positions: Positions | None = None,
    exposure_s: float | None = None,
    prior: InstrumentPrior | None = None,
    out: str | Path | None = None,
    obstacles: Sequence[Collisions] = (),
    tolerance: Mapping[str, float] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Calibrate detector and axes on a known crystal, mounted anyhow; a Bluesky plan.

    Parameters
    ----------
    camera, goniometer
        Devices of any kind.
    crystal
        What is mounted, with the right lattice; None takes ``camera.crystal``.
    frames
        How many positions to choose.
    positions
        Where to look instead: a list or a grid, see `scan_orientations`.
    exposure_s
        Of each frame; the instrument's usual one by default.
    prior
        How far the instrument may be from its description.
    out
        A YAML file for the corrected instrument; one that is there is kept beside it. None writes nothing.
    obstacles
        More that the interlock asks about each way, beside the instrument's forbidden regions.
    tolerance
        How far a read-back may be from its setpoint, by axis.
    md
        More for the start document.

    Returns
    -------
    A `CalibrateResult`: the plan's return value.

    Raises
    ------
    ValueError
        If the crystal is not known, or an argument is wrong.
    InterlockError
        If a position given is outside the limits, or no way leads there: nothing moves.
    MotionError, HardwareError
        If an axis did not arrive, or a device failed.
    """
    body = camera.crystal if crystal is None else crystal
    if not isinstance(body, Crystal):
        raise ValueError(
            "calibrate_instrument needs to know the crystal: give crystal=load_crystal('si') here or to connect(...); "
            f"got {body!r}."
        )
    seconds = check_seconds("exposure_s", camera.instrument.exposure_s if exposure_s is None else exposure_s)
    target = None if out is None else Path(out)
    if target is not None:
        check_target(target)
    interlock = usual_interlock(camera, seconds, obstacles)
    places = _route(goniometer, interlock, frames, positions)
    run = _Run(
        camera, goniometer, body, seconds, prior or InstrumentPrior(), target, interlock, places, tolerance
    )
    metadata = {
        **measurement_metadata("calibrate_instrument", camera, goniometer, body),
        "plan_args": {
            "positions": plain(places),
            "exposure_s": seconds,
            "out": None if out is None else str(out),
        },
        "num_points": len(places),
    }
    return (yield from ended_at_rest(run.run(merged(metadata, md)), camera, goniometer))


def approach_deg(chain: AxisChain) -> dict[str, float]:
    """From how far below rotations with play come to a position, degrees, by axis."""
    return {a.name: _PLAYS * a.backlash for a in chain.rotations if a.backlash > 0.0}


def below(chain: AxisChain, place: Mapping[str, float]) -> dict[str, float]:
    """Where axes go first on their way to a position, so that they come from below."""
    return {name: place[name] - away for name, away in approach_deg(chain).items() if name in place}


def _route(
    goniometer: Goniometer, interlock: Interlock, frames: int, positions: Positions | None
) -> list[dict[str, float]]:
    """Positions in the order in which they are gone to, all looked at before."""
    chain = goniometer.chain
    if positions is not None:
        places = [{name: float(v) for name, v in p.items()} for p in listed(positions)]
        check_route(goniometer, interlock, [step for p in places for step in (below(chain, p), p) if step])
        return places

    def clear(here: Mapping[str, float], goal: Mapping[str, float]) -> bool:
        first = {**here, **below(chain, goal)}
        return not any(
            zone.problem(dict(start), dict(end))
            for zone in interlock.obstacles
            for start, end in ((here, first), (first, goal))
        )

    here = {name: float(value) for name, value in goniometer.position.items()}
    blocked = bool(interlock.obstacles)
    allowed = (lambda p: clear({**here, **p}, {**here, **p})) if blocked else None
    # Some positions may lie behind what is in the way: then others are taken.
    for spare in (1, 2, 4, 8) if blocked else (1,):
        chosen = choose_positions(chain, spare * frames, margin=approach_deg(chain), allowed=allowed)
        places = in_short_order(chain, chosen, here, clear if blocked else None)[:frames]
        if len(places) == frames:
            break
    else:
        raise ValueError(
            f"Only {len(places)} of {frames} positions can be reached on a free way from where the axes stand. Move them "
            "elsewhere first, or give positions=[...] in an order that goes round what is in the way."
        )
    check_route(goniometer, interlock, [step for p in places for step in (below(chain, p), p) if step])
    return places


class _Run:
    """One calibration, with what it holds between frames."""

    def __init__(
        self,
        camera: Camera,
        goniometer: Goniometer,
        crystal: Crystal,
        seconds: float,
        prior: InstrumentPrior,
        target: Path | None,
        interlock: Interlock,
        places: list[dict[str, float]],
        tolerance: Mapping[str, float] | None,
    ) -> None:
        self.camera, self.goniometer, self.crystal, self.seconds = camera, goniometer, crystal, seconds
        self.prior, self.target, self.interlock, self.places = prior, target, interlock, places
        self.tolerance = tolerance
        self.note = Note(name="calibrate")
        self.shots: list[Shot] = []
        self.n_frames = 0

    @cached_property
    def indexer(self) -> Indexer:
        """Compiled at the first need: seconds."""
        return Indexer(self.crystal, self.camera.instrument)

    def run(self, metadata: Mapping[str, Any]) -> Plan:
        uid = yield from bps.open_run(dict(metadata))
        began, dose = self.camera.clock_now_s, self.camera.dose_now_s
        problem = ""
        for place in self.places:
            yield from self._look(place)
            problem = self._nothing_seen()
            if problem:
                break
        fit: InstrumentFit | None = None
        if not problem:
            try:
                fit = fit_instrument(
                    self.crystal, self.camera.instrument, self.shots, prior=self.prior, indexer=self.indexer
                )
                problem = " ".join(fit.problems)
            except InstrumentFitError as error:
                problem = str(error)
        outcome: Literal["calibrated", "refused"] = "refused" if problem else "calibrated"
        reason = problem or _in_short(fit)
        logger.info("%s: %s", outcome, reason)
        if fit is not None:
            yield from remember(self.note, reason, described(fit))
        written = kept = None
        if fit is not None and not problem and self.target is not None:
            kept, written = write_instrument(fit, self.target), self.target
        yield from close(f"{outcome}: {reason}", good=not problem)
        return CalibrateResult(
            outcome,
            reason,
            fit,
            written,
            kept,
            self.n_frames,
            {name: float(value) for name, value in self.goniometer.position.items()},
            float(self.camera.clock_now_s - began),
            float(self.camera.dose_now_s - dose),
            str(uid),
        )

    def _look(self, place: Mapping[str, float]) -> Plan:
        """Go to a position from below, expose, and find the spots."""
        yield from bps.checkpoint()
        first = below(self.goniometer.chain, place)
        if first:
            yield from move_to(self.goniometer, first, self.interlock, self.tolerance)
        yield from move_to(self.goniometer, place, self.interlock, self.tolerance)
        axes = {name: float(value) for name, value in self.goniometer.position.items()}
        frame = yield from expose(self.camera, self.seconds, self.goniometer)
        self.n_frames += 1
        try:
            self.shots.append(Shot(find_spots(frame, self.camera.instrument.detector), axes))
        except FrameError as error:
            # One useless frame (a beam that was off) is no reason to lose the others.
            logger.warning("frame %d cannot be used: %s", self.n_frames, error)

    def _nothing_seen(self) -> str:
        """Why it makes no sense to go on after the first frames; empty if it does."""
        if self.n_frames != _FIRST_LOOK:
            return ""
        results, _ = index_shots(
            self.indexer, self.shots, self.camera.instrument.detector, self.prior.geometry
        )
        if any(r is not None and r.confidence >= SURE for r in results):
            return ""
        spots = ", ".join(str(len(s.spots)) for s in self.shots) or "none"
        return (
            f"None of the first {_FIRST_LOOK} frames shows {self.crystal.name!r} for sure (spots found: {spots}). Is it "
            "this crystal, and in the beam? Expose longer, or check pixel size, distance and mirroring in the instrument "
            "file."
        )


def _in_short(fit: InstrumentFit | None) -> str:
    if fit is None:
        return ""
    used = sum(r.used for r in fit.rows)
    back = (
        f"; {', '.join(fit.reversed_axes)} turned the other way than described" if fit.reversed_axes else ""
    )
    return (
        f"{used} of {len(fit.rows)} frames, residual {fit.rms_px:.3f} px, sphere of confusion {fit.sphere_mm:.3f} mm"
        + back
    )


def described(fit: InstrumentFit) -> dict[str, Any]:
    """A fit as plain JSON values, for records."""
    found: dict[str, Any] = plain(
        {
            "good": fit.good,
            "problems": fit.problems,
            "parameters": {
                n: {"value": v, "sigma": s} for n, v, s in zip(fit.names, fit.values, fit.sigma, strict=True)
            },
            "covariance": fit.covariance,
            "undetermined": fit.undetermined,
            "conventions": fit.conventions,
            "zeros_deg": fit.zeros_deg,
            "azimuth_deg": fit.azimuth_deg,
            "reversed_axes": fit.reversed_axes,
            "sphere_mm": fit.sphere_mm,
            "turn_deg": fit.turn_deg,
            "rms_px": fit.rms_px,
            "scale": fit.scale,
            "U": fit.orientation.u,
            "axes": {a.name: a.direction for a in fit.instrument.goniometer.axes},
            "detector": {
                "distance_mm": fit.instrument.detector.distance_mm,
                "centre_px": fit.instrument.detector.centre_px,
                "rotation": fit.instrument.detector.rotation,
            },
            "frames": fit.rows,
        }
    )
    return found
