"""What measuring plans share: verified moves, exposures that are recorded, and an end at rest whatever happens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import FailedStatus
from ophyd import Component, Device, Kind

from lauepilot.hardware.devices.parts import Value
from lauepilot.hardware.errors import HardwareError
from lauepilot.hardware.interlock import Collisions, Interlock, checked_move
from lauepilot.hardware.metadata import plain
from lauepilot.hardware.plans.settle import Plan, settle
from lauepilot.hardware.protocols import Camera, Goniometer
from lauepilot.simulator.frame import Frame


class Note(Device):  # type: ignore[misc]
    """A soft device that holds one remark of a plan, for its records: words, and numbers as JSON text."""

    text = Component(Value, value="", kind=Kind.hinted)
    details = Component(Value, value="{}", kind=Kind.normal)


def ended_at_rest(plan: Plan, *devices: Any) -> Plan:
    """A plan with its devices staged, and stopped and at rest in the end, whatever happens; failures say their cause."""

    def at_rest() -> Plan:
        return (yield from settle(*devices))

    inner = bpp.contingency_wrapper(plan, final_plan=at_rest)  # type: ignore[no-untyped-call]
    try:
        return (yield from bpp.stage_wrapper(inner, list(devices)))  # type: ignore[no-untyped-call]
    except FailedStatus as error:
        # str() of this exception is the repr of a status; what a person needs is its cause.
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


def check_route(
    goniometer: Goniometer,
    interlock: Interlock,
    positions: Sequence[Mapping[str, float]],
) -> None:
    """Refuse a list of positions before the first move: limits, and the way from each to the next.

    Raises
    ------
    InterlockError
        Names the position by its number, from 1, and says what is wrong with it.
    """
    here = {name: float(value) for name, value in goniometer.position.items()}
    for number, goal in enumerate(positions, start=1):
        try:
            interlock.check_path(here, goal)
        except ValueError as error:
            raise type(error)(f"Position {number} of {len(positions)}: {error} Nothing was moved.") from None
        here = {**here, **{name: float(value) for name, value in goal.items()}}


def usual_interlock(camera: Camera, max_exposure_s: float, obstacles: Sequence[Collisions] = ()) -> Interlock:
    """The interlock of the camera's instrument, with its forbidden regions and further obstacles."""
    return Interlock.of(camera.instrument, max_exposure_s, tuple(obstacles))


def move_to(
    goniometer: Goniometer,
    wanted: Mapping[str, float],
    interlock: Interlock,
    tolerance: Mapping[str, float] | None = None,
) -> Plan:
    """Move the named axes, and refuse to go on where they are not then.

    Raises
    ------
    InterlockError
        If the way is not free.
    MotionError
        If an axis did not arrive.
    """
    goal = {name: float(value) for name, value in wanted.items()}
    yield from checked_move(goniometer, goal, interlock)
    goniometer.check_readback(goal, tolerance)


def expose(camera: Camera, seconds: float, *also: Any) -> Plan:
    """An exposure, recorded with the axes' read-back; returns the frame.

    Raises
    ------
    HardwareError
        If the camera holds no frame after it.
    """
    yield from bps.checkpoint()
    yield from bps.abs_set(camera.exposure_s, float(seconds), wait=True)
    yield from bps.trigger_and_read([camera, *also])
    frame: Frame | None = camera.frame
    if frame is None:
        raise HardwareError(f"{camera.name} was triggered, but holds no frame. Check its shutter and link.")
    # A pause from here on shall not take the frame again.
    yield from bps.checkpoint()
    return frame


def close(outcome: str, *, good: bool) -> Plan:
    """Close the run; a pause during the clean-up shall not go back into it."""
    yield from bps.close_run(exit_status="success" if good else "fail", reason=outcome)
    yield from bps.checkpoint()


def remember(note: Note, text: str, details: Mapping[str, Any]) -> Plan:
    """An event in the stream ``remarks``."""
    note.text.put(text)
    note.details.put(json.dumps(plain(details)))
    yield from bps.create("remarks")
    yield from bps.read(note)
    yield from bps.save()
    yield from bps.checkpoint()


def photons(frame: Frame) -> float:
    """Photons of a whole frame, background included."""
    return float((frame.counts.sum(dtype=float) - frame.offset * frame.counts.size) / frame.gain)


def check_seconds(name: str, value: float) -> float:
    """A positive finite number of seconds.

    Raises
    ------
    ValueError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0.0 < value < np.inf:
        raise ValueError(f"{name} must be a positive number of seconds; {value!r} came.")
    return float(value)
