"""Ophyd devices on the Twin, or on anything else that fits the `Backend` protocol.

`Goniometer` moves several axes together (``bps.mv(goniometer, {"omega": 10, "chi": 5})``) and has one positioner for
each (``bps.mv(goniometer.omega, 10)``). `LaueCamera` exposes for ``camera.exposure_s`` seconds when it is triggered.
Positions are degrees and mm, times are on the instrument's clock.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ophyd import Device

from lauepilot.hardware.devices.action import PATIENCE_S, TICK_S, TimedAction, TimedStatus
from lauepilot.hardware.devices.parts import Axes, CameraValues, axis_components, check_exposure, check_shape
from lauepilot.hardware.errors import HardwareError
from lauepilot.hardware.protocols import Backend
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.target import Lattice


class _OnBackend(Device):  # type: ignore[misc]
    """A device on a backend, with at most one action at a time.

    ``patience_s`` are the wall seconds that a backend may be silent beyond the time that an action takes.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        backend: Backend,
        realtime_factor: float = 0.0,
        lock: threading.RLock | None = None,
        **kwargs: Any,
    ) -> None:
        if not math.isfinite(realtime_factor) or realtime_factor < 0.0:
            raise ValueError(
                f"realtime_factor must be 0 (at once) or a positive number; {realtime_factor!r} came. "
                "1 runs the instrument's clock at the wall's speed, 60 makes a minute a second."
            )
        self.backend = backend
        self.realtime_factor = float(realtime_factor)
        self.patience_s = PATIENCE_S
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

    def _action_of(self, seconds: float, finish: Callable[[float], None]) -> TimedAction:
        return TimedAction(TimedStatus(self), seconds, self.realtime_factor, finish, self.patience_s)

    def _begin(self, action: TimedAction) -> TimedStatus:
        if self.busy:
            raise HardwareError(f"{self.name} is busy. Wait for its status, or stop() it first.")
        self._action = action
        action.start()
        return action.status


class Goniometer(Axes, _OnBackend):
    """All axes of the sample stage; make one with `goniometer_device` or `connect`."""

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
            here |= self.chain.underway(self._start, self._goal, action.elapsed_s)
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
        self._start = {name: float(value) for name, value in self.backend.positions.items()}
        self.chain.check_move(self._start, goal)
        self._goal = goal
        duration = self.chain.move_time_s(self._start, goal)
        return self._begin(self._action_of(duration, self._arrive))

    def _arrive(self, elapsed_s: float) -> None:
        duration = self.chain.move_time_s(self._start, self._goal)
        whole = elapsed_s >= duration
        place = self._goal if whole else self.chain.underway(self._start, self._goal, elapsed_s)
        with self._lock:
            self.backend.move(place)
        self.check_within(self.backend.positions)


class LaueCamera(_OnBackend, CameraValues):
    """An area detector with its shutter: see `CameraValues` for its signals."""

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(prefix, **kwargs)
        self.believe(self.instrument)

    @property
    def clock_now_s(self) -> float:
        """The instrument's clock now."""
        return float(self.backend.clock_s)

    @property
    def dose_now_s(self) -> float:
        """Open-shutter seconds until now."""
        return float(self.backend.dose_s)

    def trigger(self) -> TimedStatus:
        """Expose for ``exposure_s`` seconds.

        Raises
        ------
        ValueError
            If that is not a positive number.
        HardwareError
            If an exposure is going on.
        """
        seconds = check_exposure(self.name, float(self.exposure_s.get()))
        return self._begin(self._action_of(seconds, self._read_out))

    def _read_out(self, elapsed_s: float) -> None:
        if elapsed_s <= 0.0:
            return
        with self._lock:
            frame = self.backend.expose(elapsed_s)
            clock, dose = float(self.backend.clock_s), float(self.backend.dose_s)
        check_shape(self.name, frame.counts.shape, self.instrument)
        self.store(frame, clock, dose)


def goniometer_device(
    backend: Backend,
    *,
    name: str = "goniometer",
    realtime_factor: float = 0.0,
    lock: threading.RLock | None = None,
) -> Goniometer:
    """A `Goniometer` with one positioner, named as the axis, for each axis of the backend's instrument."""
    parts = axis_components(backend.instrument)
    made = type("Goniometer", (Goniometer,), {"__doc__": Goniometer.__doc__, **parts})
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
