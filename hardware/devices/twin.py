"""Ophyd devices on the Twin, or on anything else that fits the `Backend` protocol.

`Goniometer` moves several axes together (``bps.mv(goniometer, {"omega": 10, "chi": 5})``) and has one positioner for
each (``bps.mv(goniometer.omega, 10)``). `LaueCamera` exposes for ``camera.exposure_s`` seconds when it is triggered.
Positions are degrees and mm, times are on the instrument's clock.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from ophyd import Component, Device, Kind, Signal
from ophyd.positioner import SoftPositioner
from ophyd.status import StatusBase

from lauepilot.hardware.devices.action import TICK_S, TimedAction, TimedStatus
from lauepilot.hardware.errors import HardwareError, MotionError
from lauepilot.hardware.protocols import Backend
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.goniometer import Axis
from lauepilot.simulator.goniometer import Goniometer as AxisChain
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.target import Lattice


class Value(Signal):  # type: ignore[misc]
    """A signal that describes itself with its true shape, numpy type and unit."""

    def __init__(self, *args: Any, unit: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unit = unit

    def describe(self) -> dict[str, dict[str, Any]]:
        """The data key of this signal, as in the event model."""
        value = self._readback
        key: dict[str, Any] = {"source": f"lauepilot:{self.name}", "dtype": "string", "shape": []}
        if isinstance(value, np.ndarray):
            key |= {"dtype": "array", "shape": list(value.shape), "dtype_numpy": value.dtype.str}
        elif isinstance(value, bool | int | float):
            kind = "boolean" if isinstance(value, bool) else "integer" if isinstance(value, int) else "number"
            key |= {"dtype": kind, "dtype_numpy": np.asarray(value).dtype.str}
        if self._unit:
            key["units"] = self._unit
        return {self.name: key}


class AxisPositioner(SoftPositioner):  # type: ignore[misc]
    """One axis of a `Goniometer`; it moves through its parent, which knows of motions in progress."""

    def __init__(self, *args: Any, axis: Axis, **kwargs: Any) -> None:
        # ophyd hands a suffix (a PV's ending) to every component; there is none here.
        super().__init__(egu=axis.unit, limits=axis.limits, source=f"lauepilot:{axis.name}", **kwargs)
        self.axis = axis

    @property
    def position(self) -> float:
        """Read-back, degrees or mm; on the way while the axis moves."""
        return float(self.parent.position[self.axis.name])

    @property
    def moving(self) -> bool:
        """Whether the goniometer is not at rest."""
        return bool(self.parent.moving)

    def check_value(self, pos: float) -> None:
        """Refuse a position that is not finite or outside the limits (`ReachError`)."""
        self.axis.check(pos)

    def move(
        self, position: float, wait: bool = True, timeout: float | None = None, moved_cb: Any = None
    ) -> StatusBase:
        """Move this axis alone; see ophyd's positioners for the arguments."""
        status = self.parent.set({self.axis.name: position})
        if moved_cb is not None:
            status.add_callback(moved_cb)
        if wait:
            status.wait(timeout)
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop the goniometer: its axes move together."""
        self.parent.stop(success=success)

    def describe(self) -> dict[str, dict[str, Any]]:
        """The data key, with unit and limits."""
        low, high = self.axis.limits
        return {
            self.name: {
                "source": self.source,
                "dtype": "number",
                "dtype_numpy": "<f8",
                "shape": [],
                "units": self.axis.unit,
                "lower_ctrl_limit": low,
                "upper_ctrl_limit": high,
            }
        }


class _OnBackend(Device):  # type: ignore[misc]
    """A device on a backend, with at most one action at a time."""

    def __init__(
        self,
        prefix: str = "",
        *,
        backend: Backend,
        realtime_factor: float = 0.0,
        lock: threading.RLock | None = None,
        **kwargs: Any,
    ) -> None:
        if not np.isfinite(realtime_factor) or realtime_factor < 0.0:
            raise ValueError(
                f"realtime_factor must be 0 (at once) or a positive number; {realtime_factor!r} came. "
                "1 runs the instrument's clock at the wall's speed, 60 makes a minute a second."
            )
        self.backend = backend
        self.realtime_factor = float(realtime_factor)
        self._action: TimedAction | None = None
        self._lock = threading.RLock() if lock is None else lock
        super().__init__(prefix, **kwargs)

    @property
    def instrument(self) -> Instrument:
        """The instrument as believed."""
        return self.backend.instrument

    @property
    def busy(self) -> bool:
        """Whether a motion or exposure is going on."""
        return self._action is not None and self._action.running

    def stop(self, *, success: bool = False) -> None:
        """Stop now; returns when the device is at rest. What was going on fails unless ``success``."""
        action = self._action
        if action is not None and action.running:
            action.stop(success=success)

    def settle(self, timeout_s: float = 60.0) -> None:
        """Block until the device is at rest.

        Raises
        ------
        HardwareError
            If it is not after ``timeout_s`` seconds of the wall's clock.
        """
        end = time.monotonic() + timeout_s
        while self.busy:
            if time.monotonic() > end:
                raise HardwareError(f"{self.name} is not at rest after {timeout_s:g} s. Call its stop().")
            time.sleep(TICK_S)

    def unstage(self) -> list[object]:
        """Come to rest, then undo `stage`."""
        self.stop()
        return list(super().unstage())

    def _begin(self, action: TimedAction) -> TimedStatus:
        if self.busy:
            raise HardwareError(f"{self.name} is busy. Wait for its status, or stop() it first.")
        self._action = action
        action.start()
        return action.status


class Goniometer(_OnBackend):
    """All axes of the sample stage; make one with `goniometer_device` or `connect`."""

    @property
    def chain(self) -> AxisChain:
        """The axes as believed."""
        return self.instrument.goniometer

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest position by axis, degrees and mm."""
        return {axis.name: axis.limits for axis in self.chain.axes}

    @property
    def tolerances(self) -> dict[str, float]:
        """How far a read-back may be from its setpoint by axis: the play and two steps, at least 0.01 deg or mm."""
        return {a.name: max(0.01, a.backlash + 2.0 * a.resolution) for a in self.chain.axes}

    @property
    def moving(self) -> bool:
        """Whether any axis is not at rest."""
        return self.busy

    @property
    def position(self) -> dict[str, float]:
        """Read-back of all axes; on the way while they move."""
        action = self._action
        here = {name: float(value) for name, value in self.backend.positions.items()}
        if action is not None and action.running:
            here |= self._underway(self._start, self._goal, action.elapsed_s)
        return here

    def set(self, positions: Mapping[str, float]) -> TimedStatus:
        """Move the named axes together.

        Raises
        ------
        ReachError
            If a position is not finite or outside the limits: nothing moves.
        KeyError
            If there is no such axis.
        HardwareError
            If a motion is going on.
        """
        goal = {name: float(value) for name, value in positions.items()}
        self.chain.check(goal)
        if self.busy:
            raise HardwareError(f"{self.name} is moving. Wait for its status, or stop() it first.")
        self._start = {name: float(self.backend.positions[name]) for name in goal}
        self._goal = goal
        duration = self.chain.move_time_s(self._start, goal)
        return self._begin(TimedAction(TimedStatus(self), duration, self.realtime_factor, self._arrive))

    def check_readback(
        self, wanted: Mapping[str, float], tolerance: Mapping[str, float] | None = None
    ) -> None:
        """Refuse to go on where axes are not where they were sent.

        Raises
        ------
        MotionError
            Names the axis, where it was sent, where it is, and what to do.
        """
        here, allowed = self.position, {**self.tolerances, **(tolerance or {})}
        for name, setpoint in wanted.items():
            reached, unit = here.get(name, float("nan")), self.chain.axis(name).unit
            if not abs(reached - setpoint) <= allowed[name]:
                raise MotionError(
                    f"Axis {name!r} stopped short: wanted {setpoint:.4f} {unit}, reached {reached:.4f} {unit} "
                    f"(allowed: {allowed[name]:g} {unit}). Look for an obstacle, a limit switch or somebody's stop, "
                    "then start again; the crystal's orientation is not lost."
                )

    def _underway(
        self, start: Mapping[str, float], goal: Mapping[str, float], elapsed_s: float
    ) -> dict[str, float]:
        """Where the axes are after so many seconds, each at its own speed."""
        place = {}
        for name, end in goal.items():
            way = end - start[name]
            place[name] = start[name] + float(np.sign(way)) * min(
                abs(way), self.chain.axis(name).speed * elapsed_s
            )
        return place

    def _arrive(self, elapsed_s: float) -> None:
        duration = self.chain.move_time_s(self._start, self._goal)
        whole = elapsed_s >= duration
        place = self._goal if whole else self._underway(self._start, self._goal, elapsed_s)
        with self._lock:
            self.backend.move(place)
        self._check_limits()

    def _check_limits(self) -> None:
        slack = self.tolerances
        for name, value in self.backend.positions.items():
            low, high = self.limits[name]
            if not low - slack[name] <= value <= high + slack[name]:
                raise MotionError(
                    f"Axis {name!r} reads {value:g}, outside its limits of {low:g} to {high:g}, though it was not "
                    "sent there. Stop, and check its encoder and its limits."
                )


class LaueCamera(_OnBackend):
    """An area detector with its shutter.

    ``exposure_s`` is set before `trigger`; the frame is then in ``image`` (rows, cols) and, with all that belongs to
    it, in ``frame``. ``crystal`` is the one believed to be mounted, None if nobody said.
    """

    exposure_s = Component(Value, value=1.0, unit="s", kind=Kind.normal)
    image = Component(Value, kind=Kind.normal)
    live_time_s = Component(Value, value=0.0, unit="s", kind=Kind.normal)
    total_counts = Component(Value, value=0.0, unit="photons", kind=Kind.hinted)
    clock_s = Component(Value, value=0.0, unit="s", kind=Kind.normal)
    dose_s = Component(Value, value=0.0, unit="s", kind=Kind.hinted)
    saturation_adu = Component(Value, value=0.0, kind=Kind.normal)
    gain_adu = Component(Value, value=1.0, kind=Kind.normal)
    offset_adu = Component(Value, value=0.0, kind=Kind.normal)
    instrument_name = Component(Value, value="", kind=Kind.config)
    detector_name = Component(Value, value="", kind=Kind.config)
    distance_mm = Component(Value, value=0.0, unit="mm", kind=Kind.config)

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(prefix, **kwargs)
        self.crystal: Lattice | None = None
        self.frame: Frame | None = None
        detector = self.instrument.detector
        bits = detector.sensor.bit_depth
        self.image.put(
            np.zeros(detector.shape, np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)
        )
        self.exposure_s.put(float(self.instrument.exposure_s))
        self.instrument_name.put(self.instrument.name)
        self.detector_name.put(detector.name)
        self.distance_mm.put(float(detector.distance_mm))

    def trigger(self) -> TimedStatus:
        """Expose for ``exposure_s`` seconds.

        Raises
        ------
        ValueError
            If that is not a positive number.
        HardwareError
            If an exposure is going on.
        """
        seconds = float(self.exposure_s.get())
        if not np.isfinite(seconds) or seconds <= 0.0:
            raise ValueError(
                f"An exposure needs a positive time; {self.name}.exposure_s is {seconds!r} s. Set it first."
            )
        return self._begin(TimedAction(TimedStatus(self), seconds, self.realtime_factor, self._read_out))

    def pause(self) -> None:
        """Close the shutter while the plan pauses; the exposure is taken anew after it."""
        self.stop(success=True)

    def resume(self) -> None:
        """Nothing to do: the plan triggers again."""

    def describe(self) -> OrderedDict[str, Any]:
        """Data keys; the image's ``dims`` are named rows, cols."""
        keys = OrderedDict(super().describe())
        keys[self.image.name]["dims"] = ["row", "col"]
        return keys

    def _read_out(self, elapsed_s: float) -> None:
        if elapsed_s <= 0.0:
            return
        with self._lock:
            frame = self.backend.expose(elapsed_s)
            clock, dose = float(self.backend.clock_s), float(self.backend.dose_s)
        shape = self.instrument.detector.shape
        if frame.counts.shape != shape:
            raise HardwareError(
                f"{self.name} gave a frame of shape {frame.counts.shape}, but the instrument "
                f"{self.instrument.name!r} says (rows, cols) = {shape}. Check binning, or load the right instrument."
            )
        self.frame = frame
        self.image.put(np.ascontiguousarray(frame.counts))
        self.live_time_s.put(float(frame.live_time_s))
        self.saturation_adu.put(float(frame.saturation))
        self.gain_adu.put(float(frame.gain))
        self.offset_adu.put(float(frame.offset))
        self.total_counts.put(
            float((frame.counts.sum(dtype=float) - frame.offset * frame.counts.size) / frame.gain)
        )
        self.clock_s.put(clock)
        self.dose_s.put(dose)


def goniometer_device(
    backend: Backend,
    *,
    name: str = "goniometer",
    realtime_factor: float = 0.0,
    lock: threading.RLock | None = None,
) -> Goniometer:
    """A `Goniometer` with one positioner, named as the axis, for each axis of the backend's instrument."""
    axes = {
        axis.name: Component(AxisPositioner, axis=axis, kind=Kind.hinted)
        for axis in backend.instrument.goniometer.axes
    }
    made = type("Goniometer", (Goniometer,), {"__doc__": Goniometer.__doc__, **axes})
    device = made(backend=backend, name=name, realtime_factor=realtime_factor, lock=lock)
    if not isinstance(device, Goniometer):
        raise TypeError(f"{made} did not make a Goniometer.")
    return device


def connect(
    backend: Backend, *, crystal: Lattice | None = None, realtime_factor: float = 0.0
) -> tuple[LaueCamera, Goniometer]:
    """Camera and goniometer on one backend, which they use in turn.

    Parameters
    ----------
    backend
        The Twin, or what fits `Backend`.
    crystal
        What is mounted (not how); None takes ``backend.crystal``, which the Twin has.
    realtime_factor
        How many times faster than the wall the instrument's clock runs; 0 does everything at once.
    """
    lock = threading.RLock()
    camera = LaueCamera(backend=backend, name="camera", realtime_factor=realtime_factor, lock=lock)
    camera.crystal = getattr(backend, "crystal", None) if crystal is None else crystal
    return camera, goniometer_device(backend, realtime_factor=realtime_factor, lock=lock)
