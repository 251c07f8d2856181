"""A goniometer of motor records, by way of ophyd.

ophyd takes the end of a motion for its success, wherever the motor ended (bluesky/ophyd#734), and forgets a motion that is
interrupted before the record says DMOV. Here a motion is over when each motor says so itself and ophyd has understood
it, and it succeeded if each motor then reads what it was sent to.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from ophyd import Component, Device, EpicsMotor, Kind

from lauepilot.hardware.devices.action import TimedStatus
from lauepilot.hardware.devices.parts import Axes, axis_components
from lauepilot.hardware.devices.pv import AxisPV, check_axes, check_motor_limits, lost, motor_problem, stalled
from lauepilot.hardware.errors import HardwareError, StoppedError
from lauepilot.simulator.instrument import Instrument

logger = logging.getLogger("lauepilot.hardware")

#: Wall seconds between looks at motors and camera.
POLL_S = 0.01
#: Wall seconds after which a motor that never said it moved, and stands at its setpoint, has nothing to do.
NO_START_S = 0.5
#: Wall seconds for one answer over Channel Access.
ANSWER_S = 3.0


def fresh(signal: Any, **how: Any) -> Any:
    """The value of a signal now, asked for and not from a monitor.

    Raises
    ------
    HardwareError
        If it does not answer.
    """
    if not signal.connected:
        raise lost(signal.pvname)
    try:
        return signal.get(use_monitor=False, timeout=ANSWER_S, **how)
    except TimeoutError:
        raise lost(signal.pvname) from None


class EpicsGoniometer(Axes, Device):  # type: ignore[misc]
    """All axes of the sample stage, a motor record each; make one with `epics_goniometer`.

    As on the Twin there is a positioner for each axis, in the instrument's sense; the motors behind them are in
    ``motors``, each ophyd's own ``EpicsMotor``, and their settings are recorded as configuration.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        instrument: Instrument,
        axes: Mapping[str, AxisPV],
        stall_s: float = 10.0,
        **kwargs: Any,
    ) -> None:
        self.instrument = instrument
        self.axes = dict(axes)
        self.stall_s = float(stall_s)
        self._motion: _Motion | None = None
        super().__init__(prefix, **kwargs)

    @property
    def motors(self) -> dict[str, EpicsMotor]:
        """The motor of each axis."""
        return {name: getattr(self, f"{name}_motor") for name in self.axes}

    @property
    def position(self) -> dict[str, float]:
        """Read-back of all axes, degrees and mm, asked of the motors now.

        Raises
        ------
        HardwareError
            If a motor does not answer.
        """
        return {
            name: self.axes[name].axis(float(fresh(motor.user_readback)))
            for name, motor in self.motors.items()
        }

    @property
    def busy(self) -> bool:
        """Whether a motion is going on, ours or somebody else's; also where a motor cannot be asked."""
        motion = self._motion
        return (motion is not None and motion.running) or not all(at_rest(m) for m in self.motors.values())

    @property
    def moving(self) -> bool:
        """The same."""
        return self.busy

    @property
    def reachable(self) -> bool:
        """Whether all motors answer."""
        return all(motor.connected for motor in self.motors.values())

    def check_motors(self, positions: Mapping[str, float]) -> None:
        """Refuse positions that the instrument or the motors' own records do not allow (`ReachError`)."""
        self.chain.check(positions)
        for name, goal in positions.items():
            motor = self.motors[name]
            travel = (float(fresh(motor.low_limit_travel)), float(fresh(motor.high_limit_travel)))
            # Those of the setpoint: an IOC may set the one and forget the other.
            check_motor_limits(name, self.axes[name], goal, travel, tuple(motor.user_setpoint.limits))

    def set(self, positions: Mapping[str, float]) -> TimedStatus:
        """Move the named axes together; the status fails where one does not arrive.

        Raises
        ------
        ReachError
            If a position is not finite or outside the limits of the instrument or of a record: nothing moves.
        KeyError
            If there is no such axis.
        HardwareError
            If a motion is going on, or a motor does not answer.
        """
        goal = {name: float(value) for name, value in positions.items()}
        self.check_motors(goal)
        if self.busy:
            raise HardwareError(f"{self.name} is moving. Wait for its status, or stop() it first.")
        self._motion = _Motion(self, goal)
        return self._motion.start()

    def stop(self, *, success: bool = False) -> None:
        """Tell every motor that moves to stop; `busy` says when they are at rest. A motion fails unless ``success``."""
        motion = self._motion
        if motion is not None and motion.running:
            motion.stop(success=success)
            return
        for motor in self.motors.values():
            if motor.connected and not at_rest(motor):
                tell_to_stop(motor)

    def unstage(self) -> list[object]:
        """Stop what moves, then undo `stage`."""
        self.stop()
        return list(super().unstage())


def at_rest(motor: EpicsMotor) -> bool:
    """Whether the motor record says that it is done, and ophyd has noticed."""
    return bool(motor.connected and not motor._moving and motor.motor_done_move.get() == 1)


def tell_to_stop(motor: EpicsMotor) -> None:
    """STOP; one motor that cannot be told so does not keep it from the others."""
    try:
        motor.motor_stop.put(1, wait=False)
    except Exception as error:  # gone this moment, or no right to write
        logger.error("%s could not be told to stop: %s", motor.prefix, error)


class _Motion:
    """One motion of several motors, watched by a thread of its own."""

    def __init__(self, goniometer: EpicsGoniometer, goal: dict[str, float]) -> None:
        self.goniometer, self.goal = goniometer, goal
        self.status = TimedStatus(goniometer)
        self._motors = {name: goniometer.motors[name] for name in goal}
        self._start = {
            name: goniometer.axes[name].axis(float(m.position)) for name, m in self._motors.items()
        }
        self._duration = goniometer.chain.move_time_s(self._start, goal)
        self._statuses: dict[str, Any] = {}
        self._stop, self._stop_success = threading.Event(), False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lauepilot-{goniometer.name}", daemon=True)

    @property
    def running(self) -> bool:
        return not self._over.is_set()

    def start(self) -> TimedStatus:
        self._thread.start()
        return self.status

    def stop(self, *, success: bool) -> None:
        self._stop_success = success
        self._stop.set()

    def _run(self) -> None:
        problem: Exception | None = None
        try:
            for name, motor in self._motors.items():
                if not self._stop.is_set():
                    self._statuses[name] = motor.move(
                        self.goniometer.axes[name].motor(self.goal[name]), wait=False
                    )
            self._watch()
            if self._stop.is_set():
                self._halt()
                if not self._stop_success:
                    problem = StoppedError(f"{self.goniometer.name} was stopped before it arrived.")
            else:
                self._verify()
        except Exception as error:  # whatever a motor raised belongs to whoever waits for the motion
            problem = error
            self._halt_quietly()
        self._over.set()
        if problem is None:
            self.status.report(self._duration, self._duration)
            self.status.set_finished()
        else:
            self.status.set_exception(problem)

    def _watch(self) -> None:
        """Until all motors are done, or somebody calls stop; raise if one fails, hangs or is lost."""
        began = progress = time.monotonic()
        before: dict[str, float] = {}
        while not self._stop.wait(POLL_S):
            now = time.monotonic()
            for name, motor in self._motors.items():
                if not motor.connected:
                    raise lost(motor.prefix)
                status = self._statuses[name]
                if status.done and not status.success:
                    raise self._why(name)
            left = [n for n, m in self._motors.items() if not self._arrived(n, m, now - began)]
            if not left:
                return
            here = {name: float(motor.user_readback.get()) for name, motor in self._motors.items()}
            if here != before:
                before, progress = here, now
            elif now - progress > self.goniometer.stall_s:
                raise stalled(left, self.goniometer.stall_s)
            self._report(here)

    def _arrived(self, name: str, motor: EpicsMotor, elapsed_s: float) -> bool:
        if self._statuses[name].done:
            return at_rest(motor)
        if elapsed_s < NO_START_S or not at_rest(motor):
            return False
        # Records that have nothing to do may say nothing: ophyd would wait for ever.
        there = self.goniometer.axes[name].axis(float(fresh(motor.user_readback)))
        return abs(there - self.goal[name]) <= self.goniometer.tolerances[name]

    def _report(self, here: Mapping[str, float]) -> None:
        shares = [
            abs(self.goniometer.axes[name].axis(value) - self._start[name]) / way
            for name, value in here.items()
            if (way := abs(self.goal[name] - self._start[name])) > 0.0
        ]
        self.status.report(
            float(np.clip(min(shares, default=1.0), 0.0, 1.0)) * self._duration, self._duration
        )

    def _why(self, name: str) -> Exception:
        motor = self._motors[name]
        return motor_problem(
            name,
            self.goniometer.axes[name],
            high_switch=bool(fresh(motor.high_limit_switch)),
            low_switch=bool(fresh(motor.low_limit_switch)),
            severity=getattr(motor.user_readback.alarm_severity, "name", "unknown"),
        )

    def _verify(self) -> None:
        here = self.goniometer.position
        self.goniometer.check_arrived(here, self.goal)
        self.goniometer.check_within(here)

    def _halt(self) -> None:
        """Stop what moves, and wait until all is at rest."""
        end = time.monotonic() + self.goniometer.stall_s
        for name, status in self._statuses.items():
            # A stop to a motor at rest is left out: there are records that keep it for the next motion.
            motor = self._motors[name]
            if motor.connected and not (status.done and at_rest(motor)):
                tell_to_stop(motor)
        quiet = 0
        while quiet < 3:
            time.sleep(POLL_S)
            resting = all(
                fresh(m.motor_done_move) == 1 and not m._moving for m in self._motors.values() if m.connected
            )
            quiet = quiet + 1 if resting else 0
            if time.monotonic() > end:
                names = ", ".join(self._motors)
                raise HardwareError(
                    f"{names} not at rest {self.goniometer.stall_s:g} s after a stop. Use the emergency stop."
                )

    def _halt_quietly(self) -> None:
        """The same on the way out of a failure, which must not be lost over another one."""
        try:
            self._halt()
        except Exception as error:
            logger.error("%s could not be brought to rest: %s", self.goniometer.name, error)


def epics_goniometer(
    instrument: Instrument, axes: Mapping[str, AxisPV], *, name: str = "goniometer", stall_s: float = 10.0
) -> EpicsGoniometer:
    """An `EpicsGoniometer`: not yet connected, see `lauepilot.hardware.devices.config.wait_connected`.

    Parameters
    ----------
    instrument
        What is believed of the diffractometer; the order, directions and limits of the axes are taken from it.
    axes
        The motor of each of its axes.
    name
        Its name in records.
    stall_s
        Wall seconds without any change of a read-back after which a motion is given up.
    """
    check_axes(axes, instrument.goniometer)
    motors = {f"{axis}_motor": Component(EpicsMotor, axes[axis].pv, kind=Kind.config) for axis in axes}
    made = type(
        "EpicsGoniometer",
        (EpicsGoniometer,),
        {"__doc__": EpicsGoniometer.__doc__, **axis_components(instrument), **motors},
    )
    device = made(name=name, instrument=instrument, axes=axes, stall_s=stall_s)
    if not isinstance(device, EpicsGoniometer):
        raise TypeError(f"{made} did not make an EpicsGoniometer.")
    return device
