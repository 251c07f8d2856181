"""The Bluesky plan that finds UB on a four-circle: it moves and counts, `UbSearch` thinks.

Streams: ``bins`` (all that was counted), ``frames`` (an area detector's), ``findings`` (what was done and found, in words),
``ub`` (the answer).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import FailedStatus, Msg
from numpy.typing import NDArray
from ophyd import Component, Device, Kind

from lauepilot.hardware.devices.fourcircle import Diffractometer, SweepDetector
from lauepilot.hardware.devices.parts import Value
from lauepilot.hardware.errors import HardwareError
from lauepilot.hardware.interlock import Collisions, Interlock, checked_move
from lauepilot.hardware.metadata import merged, plain, versions
from lauepilot.hardware.plans.settle import settle
from lauepilot.perception.reflections.drive import ready
from lauepilot.perception.reflections.looking import Path
from lauepilot.perception.reflections.search import UbAnswer, UbSearch, UbStep
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.fourcircle import AXES, as_positions
from lauepilot.simulator.fourcircle_twin import Sweep

Plan = Generator[Msg, Any, Any]
_UNKNOWN = np.full((3, 3), np.nan)


class FrameLog(Device):  # type: ignore[misc]
    """A soft device that holds one frame of a sweep, and where the axes stood in its middle (omega, chi, phi, tth)."""

    image = Component(Value, kind=Kind.normal)
    live_time_s = Component(Value, value=0.0, unit="s", kind=Kind.normal)
    omega = Component(Value, value=0.0, unit="deg", kind=Kind.normal)
    chi = Component(Value, value=0.0, unit="deg", kind=Kind.normal)
    phi = Component(Value, value=0.0, unit="deg", kind=Kind.normal)
    tth = Component(Value, value=0.0, unit="deg", kind=Kind.normal)

    def fill(self, image: NDArray[Any], live_time_s: float, angles_deg: FloatArray) -> None:
        """Take one in."""
        self.image.put(image)
        self.live_time_s.put(float(live_time_s))
        for axis, angle in zip(AXES, angles_deg, strict=True):
            getattr(self, axis).put(float(angle))


class FindingLog(Device):  # type: ignore[misc]
    """A soft device that holds one thing done or found."""

    what = Component(Value, value="", kind=Kind.hinted)
    kind_of = Component(Value, value="", kind=Kind.hinted)
    angles_deg = Component(Value, value=np.zeros(4), unit="deg", kind=Kind.normal)
    rate = Component(Value, value=0.0, kind=Kind.normal)
    clock_s = Component(Value, value=0.0, unit="s", kind=Kind.normal)

    def fill(self, step: UbStep, clock_s: float) -> None:
        """Take one in; ``angles_deg`` are in the order omega, chi, phi, tth."""
        self.what.put(step.what)
        self.kind_of.put(step.kind)
        self.angles_deg.put(np.array(step.angles_deg))
        self.rate.put(float(step.rate))
        self.clock_s.put(float(clock_s))


class UbLog(Device):  # type: ignore[misc]
    """A soft device that holds the answer: UB with 2 pi on the sample holder, covariance of U's rotation vector, `Zeros`."""

    outcome = Component(Value, value="", kind=Kind.hinted)
    reason = Component(Value, value="", kind=Kind.normal)
    ub = Component(Value, value=_UNKNOWN, unit="1/angstrom", kind=Kind.normal)
    covariance_rad2 = Component(Value, value=_UNKNOWN, unit="rad^2", kind=Kind.normal)
    zeros_deg = Component(Value, value=np.full(4, np.nan), unit="deg", kind=Kind.normal)

    def fill(self, answer: UbAnswer) -> None:
        """Take the answer in."""
        self.outcome.put(answer.outcome)
        self.reason.put(answer.reason)
        if answer.ub is not None:
            orientation, zeros = answer.ub.result.orientation, answer.ub.zeros
            self.ub.put(np.asarray(orientation.ub))
            self.covariance_rad2.put(np.asarray(orientation.covariance))
            self.zeros_deg.put(np.array(astuple(zeros)))


@dataclass(frozen=True, eq=False)
class UbRun:
    """How a run ended.

    Attributes
    ----------
    answer
        UB, peaks and steps, or why not.
    clock_s
        Seconds on the instrument's clock.
    n_counts
        Bins of the counter or frames of the area detector.
    run_uid
        Of the run in the records.
    """

    answer: UbAnswer
    clock_s: float
    n_counts: int
    run_uid: str


def build_ub(
    diffractometer: Diffractometer,
    detector: SweepDetector,
    crystal: Crystal | None = None,
    *,
    reflections: int = 12,
    max_clock_s: float = 14_400.0,
    obstacles: Sequence[Collisions] = (),
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """From an unknown orientation to UB; a Bluesky plan.

    Parameters
    ----------
    diffractometer, detector
        As `connect_four_circle` makes them.
    crystal
        What is mounted; None takes ``detector.crystal``.
    reflections
        How many to centre for the last refinement.
    max_clock_s
        Seconds on the instrument's clock after which it gives up.
    obstacles
        What is in the way of the axes (`Forbidden` regions, bodies): asked before each move and each path that
        is counted on.
    md
        More for the start document.

    Returns
    -------
    A `UbRun`: the plan's return value.

    Raises
    ------
    MotionError
        If an axis did not arrive.
    InterlockError
        If a move or a path leads through an obstacle, or out of the limits; nothing of it is done.
    HardwareError
        If a device failed.
    """
    known = detector.crystal if crystal is None else crystal
    if not isinstance(known, Crystal):
        raise ValueError(
            "build_ub needs the crystal's cell and atoms: give crystal=load_crystal(...) or set the detector's crystal; "
            f"{known!r} came."
        )
    if not max_clock_s > 0.0:
        raise ValueError(f"max_clock_s must be positive; {max_clock_s} s came.")
    search = UbSearch(known, diffractometer.four_circle, detector.sees, reflections=reflections)
    interlock = Interlock(diffractometer.chain, math.inf, tuple(obstacles))
    loop = _Loop(diffractometer, detector, search, max_clock_s, interlock)
    metadata = merged(_metadata(known, diffractometer, detector, reflections), md)

    def at_rest() -> Plan:
        return (yield from settle(detector, diffractometer))

    inner = bpp.contingency_wrapper(loop.run(metadata), final_plan=at_rest)  # type: ignore[no-untyped-call]
    try:
        result = yield from bpp.stage_wrapper(inner, [detector, diffractometer])  # type: ignore[no-untyped-call]
    except FailedStatus as error:
        # str() of this exception is the repr of a status; what a person needs is its cause.
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
    return result


class _Loop:
    """Carries out what the search wishes, and writes down what it finds."""

    def __init__(
        self,
        diffractometer: Diffractometer,
        detector: SweepDetector,
        search: UbSearch,
        max_clock_s: float,
        interlock: Interlock,
    ) -> None:
        self.interlock = interlock
        self.diffractometer, self.detector, self.search = diffractometer, detector, search
        self.max_clock_s = max_clock_s
        self.frames = FrameLog(name="frame")
        self.findings, self.ub = FindingLog(name="finding"), UbLog(name="ub")
        self.told = self.n_counts = 0
        self.began_s = detector.clock_now_s

    @property
    def clock_s(self) -> float:
        return float(self.detector.clock_now_s - self.began_s)

    def run(self, metadata: Mapping[str, Any]) -> Plan:
        uid = yield from bps.open_run(dict(metadata))
        self.began_s = self.detector.clock_now_s
        thinking = self.search.think()
        answer: UbAnswer | None = None
        try:
            path = next(thinking)
            while answer is None:
                sweep = yield from self.fly(path)
                try:
                    path = thinking.send(sweep)
                except StopIteration as end:
                    answer = end.value
                yield from self._tell()
                if answer is None and self.clock_s > self.max_clock_s:
                    answer = self._too_long()
        finally:
            thinking.close()
        self.ub.fill(answer)
        yield from _record(self.ub, "ub")
        # No clause for failures: a run left open is closed by the RunEngine, with the true exit status and reason.
        yield from bps.close_run(exit_status="success", reason=f"{answer.outcome}: {answer.reason}")
        return UbRun(answer, self.clock_s, self.n_counts, str(uid))

    def fly(self, path: Path) -> Plan:
        """Go to a path's beginning, from below on every axis: play is then always on one side. Count along it."""
        yield from bps.checkpoint()
        for goal in ready(self.diffractometer.four_circle, self.diffractometer.position, path):
            yield from checked_move(self.diffractometer, goal, self.interlock)
            self.diffractometer.check_readback(goal)
        if self.interlock.obstacles:
            for start, end in pairwise(map(as_positions, path.points_deg)):
                self.interlock.check_path(start, end)
        yield from bps.prepare(self.detector, path, wait=True)
        yield from bps.kickoff(self.detector, wait=True)
        yield from bps.complete(self.detector, wait=True)
        yield from bps.collect(self.detector)
        sweep = self.detector.sweep
        if not isinstance(sweep, Sweep) or len(sweep.angles_deg) != len(path.points_deg) - 1:
            raise HardwareError(
                f"{self.detector.name} has flown, but holds no sweep of {len(path.points_deg) - 1} bins. Check its link."
            )
        self.diffractometer.check_readback(as_positions(path.points_deg[-1]))
        self.n_counts += len(sweep.angles_deg)
        for i, image in enumerate(() if sweep.frames is None else sweep.frames):
            self.frames.fill(image, float(sweep.seconds[i]), sweep.angles_deg[i])
            yield from _record(self.frames, "frames")
        return sweep

    def _tell(self) -> Plan:
        for step in self.search.steps[self.told :]:
            self.findings.fill(step, self.clock_s)
            yield from _record(self.findings, "findings")
        self.told = len(self.search.steps)

    def _too_long(self) -> UbAnswer:
        return UbAnswer(
            "gave_up",
            f"{self.clock_s:.0f} s have passed; {self.max_clock_s:g} s (max_clock_s) are allowed.",
            None,
            (),
            tuple(self.search.steps),
        )


def _record(device: Device, stream: str) -> Plan:
    yield from bps.create(stream)
    yield from bps.read(device)
    yield from bps.save()


def _metadata(
    crystal: Crystal, diffractometer: Diffractometer, detector: SweepDetector, reflections: int
) -> dict[str, Any]:
    keys: dict[str, Any] = {"axes": {axis: f"{detector.name}_{axis}" for axis in AXES}}
    keys |= {"live_time_s": f"{detector.name}_seconds", "counts": f"{detector.name}_counts"}
    if detector.sees == "area":
        keys |= {"image": "frame_image", "live_time_s": "frame_live_time_s"}
        keys["axes"] = {axis: f"frame_{axis}" for axis in AXES}
    return {
        "plan_name": "build_ub",
        "detectors": [detector.name],
        "motors": [diffractometer.name],
        "crystal": {"name": crystal.name, "B_2pi_per_angstrom": plain(crystal.b)},
        "instrument": plain(diffractometer.four_circle),
        "allowed": {"reflections": reflections},
        "frame": "laboratory: +z along the beam, +y up, right-handed; active rotations; B with 2 pi",
        "versions": versions(),
        "keys": keys,
    }
