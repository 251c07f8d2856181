"""One device for every vendor's controller: limits before a move, the way checked, the read-back after it.

A controller knows its wire and nothing of crystals; `Controller` says what it must do. `MotionStage` fits the contract of
`lauepilot.hardware.protocols.Goniometer` with it, so that plans written for the Twin move the real thing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ophyd import Device
from ophyd.status import DeviceStatus

from lauepilot.hardware.devices.parts import Axes, axis_components
from lauepilot.hardware.errors import HardwareError, MotionError, StoppedError
from lauepilot.simulator.instrument import Instrument

logger = logging.getLogger("lauepilot.hardware")

_POLL_S = 0.02
_SLACK = 3.0  # a move may take this many times as long as reckoned, and 5 s more, before it counts as stuck


class ControllerError(HardwareError):
    """A controller is gone, in error, or does not do what it was told."""


class Controller(Protocol):
    """What moves axes. Positions are degrees and mm, by the axes' names."""

    def position(self) -> dict[str, float]:
        """Read-back of all axes; `ControllerError` if it cannot be had."""

    def start(self, points: Sequence[Mapping[str, float]]) -> None:
        """Go to these positions one after the other, and return at once."""

    def moving(self) -> bool:
        """Whether any axis is not at rest; `ControllerError` if it is in error."""

    def stop(self) -> None:
        """Stop now, and forget what was still to come."""

    def disconnect(self) -> None:
        """Hang up; nothing moves any more."""


class MotionStage(Axes, Device):  # type: ignore[misc]
    """All axes of a stage on a vendor's controller; make one with `stage_device`."""

    def __init__(
        self, prefix: str = "", *, instrument: Instrument, controller: Controller, **kwargs: Any
    ) -> None:
        self.instrument = instrument
        self.controller = controller
        self._lock = threading.RLock()
        self._watcher: threading.Thread | None = None
        self._stopped: bool | None = None
        super().__init__(prefix, **kwargs)

    @property
    def position(self) -> dict[str, float]:
        """Read-back of all axes, degrees and mm.

        Raises
        ------
        ControllerError
            If the controller does not answer.
        """
        return self.controller.position()

    @property
    def busy(self) -> bool:
        """Whether a motion is going on."""
        return self._watcher is not None and self._watcher.is_alive()

    @property
    def moving(self) -> bool:
        """The same, as ophyd asks."""
        return self.busy

    def set(self, positions: Mapping[str, float]) -> DeviceStatus:
        """Move the named axes, by a way that is clear.

        Raises
        ------
        ReachError
            If a position is outside the limits, or there is no clear way to it: nothing moves.
        KeyError
            If there is no such axis.
        HardwareError
            If a motion is going on, or the controller is in error or gone.
        """
        goal = {name: float(value) for name, value in positions.items()}
        self.chain.check(goal)
        with self._lock:
            if self.busy:
                raise HardwareError(f"{self.name} is moving. Wait for its status, or stop() it first.")
            here = self.position
            self.check_within(here)
            self.chain.check_move(here, goal)
            seconds = self.chain.move_time_s(here, goal)
            self._stopped = None
            status = DeviceStatus(self, call_stop_on_failure=False)
            try:
                self.controller.start(self.chain.waypoints(here, goal))
            except Exception:  # some of the axes may have set out already
                self._stop_quietly()
                raise
            self._watcher = threading.Thread(
                target=self._watch,
                args=(status, goal, seconds * _SLACK + 5.0),
                name=f"{self.name} watch",
                daemon=True,
            )
            self._watcher.start()
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop now; returns when the axes are at rest. A motion that was going on fails unless ``success``."""
        with self._lock:
            self._stopped = success
            self.controller.stop()
            watcher = self._watcher
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join(timeout=10.0)
            if watcher.is_alive():
                raise ControllerError(
                    f"{self.name} is not at rest 10 s after a stop. Use the emergency stop."
                )

    def unstage(self) -> list[object]:
        """Come to rest, then undo `stage`."""
        if self.busy:
            self.stop()
        return list(super().unstage())

    def disconnect(self) -> None:
        """Stop and hang up."""
        if self.busy:
            self.stop()
        self.controller.disconnect()

    def _watch(self, status: DeviceStatus, goal: Mapping[str, float], longest_s: float) -> None:
        """Wait for the end of a motion and look whether it is the wanted one: a stop from elsewhere is no arrival."""
        problem: Exception | None = None
        wait, waited = threading.Event(), 0.0
        try:
            while self.controller.moving():
                wait.wait(_POLL_S)
                waited += _POLL_S
                if waited > longest_s and self._stopped is None:
                    self.controller.stop()
                    raise MotionError(
                        f"{self.name} was still moving after {longest_s:.0f} s, and was stopped."
                    )
            here = self.position
            self.check_within(here)
            if self._stopped is False:
                raise StoppedError(f"{self.name} was stopped on its way.")
            if self._stopped is None:
                self.check_arrived(here, goal)
        except Exception as error:  # belongs to whoever waits for the status
            problem = error
            if isinstance(error, ControllerError):  # of one axis; others may still go
                self._stop_quietly()
        self._watcher = None
        if problem is None:
            status.set_finished()
        else:
            status.set_exception(problem)

    def _stop_quietly(self) -> None:
        """Stop on the way out of a failure, which must not be lost over another one."""
        try:
            self.controller.stop()
        except Exception as error:
            logger.error("%s could not be stopped: %s", self.name, error)


def stage_device(instrument: Instrument, controller: Controller, *, name: str = "goniometer") -> MotionStage:
    """A `MotionStage` with one positioner, named as the axis, for each axis of the instrument."""
    parts = axis_components(instrument)
    made = type("MotionStage", (MotionStage,), {"__doc__": MotionStage.__doc__, **parts})
    device = made(instrument=instrument, controller=controller, name=name)
    if not isinstance(device, MotionStage):
        raise TypeError(f"{made} did not make a MotionStage.")
    return device
