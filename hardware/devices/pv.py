"""Process variables in the words of the instrument: which motor turns which axis, and what an array on the wire means.

Nothing here talks to anything: the devices of ophyd and of ophyd-async ask the same questions of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.hardware.errors import HardwareError, MotionError, StoppedError
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.goniometer import Goniometer as AxisChain
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.instrument import Instrument

#: Values of areaDetector's ``DataType_RBV`` and the numpy types they stand for.
PIXEL_TYPES = {
    f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits}")
    for kind, sizes in (("Int", (8, 16, 32, 64)), ("UInt", (8, 16, 32, 64)), ("Float", (32, 64)))
    for bits in sizes
}

#: How records write the units of axes, and units that are surely others; whatever else they write is left to their owners.
_UNITS = {
    "deg": frozenset(("deg", "degs", "degree", "degrees", "\u00b0")),
    "mm": frozenset(("mm", "millimeter", "millimeters", "millimetre", "millimetres")),
}
_OTHER_UNITS = frozenset(
    ("rad", "rads", "radian", "radians", "mrad", "urad", "mdeg", "millideg", "arcmin", "arcsec", "um", "\u00b5m", "\u03bcm",
     "micron", "microns", "nm", "cm", "m", "inch", "inches", "step", "steps", "count", "counts", "pulse", "pulses")
)  # fmt: skip


@dataclass(frozen=True)
class AxisPV:
    """One motor record that turns (or shifts) one axis of the instrument.

    Attributes
    ----------
    pv
        Name of the motor record.
    direction
        1 if the motor counts as the axis does, -1 if against it.
    offset
        Position of the axis where the motor reads zero, degrees or mm: ``axis = direction * motor + offset``.
    """

    pv: str
    direction: int = 1
    offset: float = 0.0

    def axis(self, motor: float) -> float:
        """Position of the axis where the motor reads ``motor``."""
        return self.direction * motor + self.offset

    def motor(self, axis: float) -> float:
        """What the motor reads where the axis is at ``axis``."""
        return self.direction * (axis - self.offset)


def check_axes(axes: Mapping[str, AxisPV], chain: AxisChain) -> None:
    """Refuse a set of motors that is not one for each axis of the chain.

    Raises
    ------
    HardwareError
        Names the axes that are missing or not of the instrument, or that have one motor together.
    """
    missing, unknown = set(chain.names) - set(axes), set(axes) - set(chain.names)
    if missing or unknown:
        raise HardwareError(
            f"The instrument has the axes {', '.join(chain.names)}; motors are given for {', '.join(axes) or 'none'}. "
            "Give one process variable for each axis, and no other."
        )
    motors = [axis.pv for axis in axes.values()]
    for pv in motors:
        if motors.count(pv) > 1:
            names = ", ".join(name for name, axis in axes.items() if axis.pv == pv)
            raise HardwareError(
                f"The motor {pv} is given for several axes ({names}). Give each axis its own."
            )


def check_unit(name: str, axis: AxisPV, unit: str, egu: str) -> None:
    """Refuse a motor whose record says that it counts in another unit than the axis; what it says may also be nothing.

    Parameters
    ----------
    name, axis
        Axis of the instrument, and its motor.
    unit, egu
        Of the axis (deg or mm), and as the record has it in its field EGU.

    Raises
    ------
    HardwareError
        Names axis, motor and both units.
    """
    word = egu.strip().lower()
    others = _OTHER_UNITS.union(*(words for ours, words in _UNITS.items() if ours != unit))
    if word in others:
        raise HardwareError(
            f"The motor {axis.pv} of axis {name!r} counts in {egu.strip()!r} (its field EGU), but the axis in {unit}: every "
            f"move would go elsewhere. Make the record count in {unit}; if it does already, put that into EGU."
        )


def check_motor_limits(name: str, axis: AxisPV, goal: float, *limits: tuple[float, float]) -> None:
    """Refuse a position outside what the motor's own record allows.

    Parameters
    ----------
    name, axis, goal
        Axis of the instrument, its motor, and where it is to go (degrees or mm, of the axis).
    limits
        Pairs (low, high) of the motor: travel limits, control limits. Equal ones, as EPICS has it, say nothing.

    Raises
    ------
    ReachError
        Names axis, motor, position and limits.
    """
    there = axis.motor(goal)
    for low, high in limits:
        if low < high and not low - 1e-9 <= there <= high + 1e-9:
            raise ReachError(
                f"Axis {name!r} was asked to go to {goal:g}, which is {there:g} on its motor {axis.pv}, but the limits in "
                f"its record are {low:g} to {high:g} (fields LLM and HLM). Choose a position inside them."
            )


def motor_problem(
    name: str, axis: AxisPV, *, high_switch: bool, low_switch: bool, severity: object
) -> MotionError:
    """Why a motor says that its motion failed."""
    if high_switch or low_switch:
        side = "high" if high_switch else "low"
        return MotionError(
            f"Axis {name!r} ran into the {side} limit switch of its motor {axis.pv}. Move it off the switch by hand "
            "(its record allows the other direction), and check the limits of the instrument."
        )
    return MotionError(
        f"The motor {axis.pv} of axis {name!r} is in alarm (severity {severity}) after its motion. Look at the record's "
        "STAT, SEVR and MSTA fields, clear the cause, and start again."
    )


def stalled(names: Iterable[str], stall_s: float) -> MotionError:
    """What to say of axes that are moving, as their records have it, but do not get on."""
    return MotionError(
        f"Axis {', '.join(sorted(names))} has not moved for {stall_s:g} s though its motor is not done. It was stopped. "
        "Look for an obstacle, a motor without current or a hung controller."
    )


def lost(pv: str) -> HardwareError:
    """What to say of a process variable that was there and is no more."""
    return HardwareError(
        f"The process variable {pv} does not answer any more. Look whether its IOC runs, and whether its motors "
        "are at rest; then start again: what was measured until here is in the records."
    )


def not_found(names: Iterable[str], timeout_s: float) -> HardwareError:
    """What to say of process variables that nobody serves."""
    missing = sorted(names)
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    where = os.environ.get("EPICS_CA_ADDR_LIST", "") or "the local network"
    return HardwareError(
        f"No answer from {shown} within {timeout_s:g} s, asked at {where}. Is the IOC running, is the prefix right, and "
        "does EPICS_CA_ADDR_LIST (with EPICS_CA_AUTO_ADDR_LIST=NO) name its host?"
    )


def no_frame(camera: str, seconds: float, waited_s: float, state: str) -> HardwareError:
    """What to say of a camera that was triggered and gave no image."""
    return HardwareError(
        f"{camera} gave no image {waited_s:.1f} s after an exposure of {seconds:g} s was started; its DetectorState_RBV is "
        f"{state!r}. It was stopped. Check its link and its ArrayCallbacks, or restart its IOC; grace_s is how long to wait."
    )


def ended_without_image(camera: str, seconds: float) -> StoppedError:
    """What to say of a camera that was exposing, is no more, and gave no image."""
    return StoppedError(
        f"{camera} ended an exposure of {seconds:g} s without an image. Either somebody stopped it: start again when they "
        "agree; or the image plugin is off: look at ArrayCallbacks and EnableCallbacks."
    )


def image_of(
    raw: NDArray[np.generic], rows: int, cols: int, data_type: str, camera: str
) -> NDArray[np.number]:
    """The pixels (rows, cols) of an array as it came over Channel Access, in the type the camera counted in.

    Channel Access has no unsigned integers: ``UInt16`` travels as ``Int16``, and is read as what it was.

    Raises
    ------
    HardwareError
        If the array is shorter than its sizes say, or its type is unknown.
    """
    wanted = PIXEL_TYPES.get(data_type)
    if wanted is None:
        raise HardwareError(
            f"{camera} says that its pixels are {data_type!r}; known are {', '.join(PIXEL_TYPES)}. Look at DataType_RBV."
        )
    flat = np.asarray(raw).reshape(-1)
    if rows < 1 or cols < 1 or flat.size < rows * cols:
        raise HardwareError(
            f"{camera} sent {flat.size} pixels, but says that its image has {rows} x {cols} (rows x cols). Look at "
            "ArraySize0_RBV and ArraySize1_RBV, and set EPICS_CA_MAX_ARRAY_BYTES high enough on both sides."
        )
    flat = flat[: rows * cols]
    if flat.dtype != wanted:
        same_size = flat.dtype.itemsize == wanted.itemsize and flat.dtype.kind in "iu" and wanted.kind in "iu"
        flat = np.ascontiguousarray(flat).view(wanted) if same_size else flat.astype(wanted)
    return np.array(flat.reshape(rows, cols))  # our own: the wire's buffer is not


@dataclass(frozen=True)
class ExposureFacts:
    """What belongs to an exposure beside its pixels.

    Attributes
    ----------
    live_time_s
        Seconds that the shutter was open.
    saturation, gain, offset
        As in `Frame`.
    clock_s, dose_s
        Time on the instrument's clock and open-shutter seconds at its end.
    """

    live_time_s: float
    saturation: float
    gain: float
    offset: float
    clock_s: float
    dose_s: float

    @staticmethod
    def usual(instrument: Instrument, seconds: float, clock_s: float, dose_s: float) -> ExposureFacts:
        """Where no process variable tells: the sensor's figures of the instrument."""
        sensor = instrument.detector.sensor
        saturation = min(sensor.saturation_adu, 2.0**sensor.bit_depth - 1.0)
        return ExposureFacts(seconds, saturation, sensor.gain_adu, sensor.offset_adu, clock_s, dose_s)

    def frame(self, counts: NDArray[np.number], axes: Mapping[str, float], instrument: str) -> Frame:
        """The exposure as a frame."""
        return Frame(
            counts=counts,
            live_time_s=self.live_time_s,
            axes=dict(axes),
            instrument=instrument,
            saturation=self.saturation,
            gain=self.gain,
            offset=self.offset,
            metadata={"clock_s": self.clock_s, "dose_s": self.dose_s},
        )
