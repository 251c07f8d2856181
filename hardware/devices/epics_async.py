"""A goniometer of motor records and a camera of areaDetector, by way of ophyd-async.

The same contract as that of ophyd's: a motion succeeds if each motor then reads what it was sent to, whatever the record
made of its put-completion. What Bluesky awaits is awaited; what a plan asks at once (``position``, ``clock_now_s``) is the
last that the monitors told, and is asked for anew at the end of each motion and exposure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
from bluesky.protocols import Reading
from event_model import DataKey
from ophyd_async.core import (
    AsyncMovable,
    AsyncStatus,
    StandardReadable,
    StandardReadableFormat,
    WatchableAsyncStatus,
    WatcherUpdate,
)
from ophyd_async.epics.core import epics_signal_r
from ophyd_async.epics.motor import Motor

from lauepilot.hardware.devices.parts import Axes
from lauepilot.hardware.devices.pv import (
    AxisPV,
    check_axes,
    check_motor_limits,
    lost,
    motor_problem,
    stalled,
)
from lauepilot.hardware.errors import HardwareError, StoppedError
from lauepilot.simulator.goniometer import Axis
from lauepilot.simulator.instrument import Instrument

#: Wall seconds between looks at motors and camera.
POLL_S = 0.01
#: Wall seconds for one answer over Channel Access.
ANSWER_S = 3.0
#: Wall seconds without news after which a motor is asked whether it is still there.
SILENCE_S = 1.0
#: Wall seconds after which a motor that never said it moved is taken at its word.
NO_START_S = 0.5


async def fresh(signal: Any) -> Any:
    """The value of a signal now, asked for and not from a monitor.

    Raises
    ------
    HardwareError
        If it does not answer.
    """
    try:
        return await asyncio.wait_for(signal.get_value(cached=False), ANSWER_S)
    except Exception as error:  # aioca has errors of its own for what is not there
        raise lost(signal.source) from error


class AsyncAxis(StandardReadable, AsyncMovable[float]):
    """One axis of an `AsyncEpicsGoniometer`, in the instrument's sense; its motor record is in ``motor``."""

    def __init__(self, goniometer: AsyncEpicsGoniometer, axis: Axis, pv: AxisPV, name: str = "") -> None:
        self.axis, self.pv = axis, pv
        # A tuple hides it from ophyd-async, which would take a device for a child.
        self._goniometer = (goniometer,)
        self.motor = Motor(pv.pv)
        self.severity = epics_signal_r(str, f"{pv.pv}.SEVR")
        self.add_readables(
            [self.motor.velocity, self.motor.offset, self.motor.motor_egu],
            StandardReadableFormat.CONFIG_SIGNAL,
        )
        super().__init__(name)

    @property
    def hints(self) -> Any:
        """The axis itself."""
        return {"fields": [self.name]}

    @property
    def busy(self) -> bool:
        """Whether the goniometer is not at rest: its axes move together."""
        return self._goniometer[0].busy

    async def read(self) -> dict[str, Reading[Any]]:
        """Read-back, degrees or mm."""
        reading = (await self.motor.user_readback.read())[self.motor.user_readback.name].copy()
        reading["value"] = self.pv.axis(float(reading["value"]))
        return {self.name: reading}

    async def describe(self) -> dict[str, DataKey]:
        """The data key, with unit and limits."""
        low, high = self.axis.limits
        key: DataKey = {
            "source": f"ca://{self.pv.pv}.RBV",
            "dtype": "number",
            "dtype_numpy": "<f8",
            "shape": [],
            "units": self.axis.unit,
            "limits": {"control": {"low": low, "high": high}},
        }
        return {self.name: key}

    def set(self, value: float) -> WatchableAsyncStatus[float]:
        """Move this axis alone."""
        return self._goniometer[0].set({self.axis.name: value})

    async def stop(self, success: bool = False) -> None:
        """Stop the goniometer: its axes move together."""
        await self._goniometer[0].stop(success)


class AsyncEpicsGoniometer(Axes, StandardReadable, AsyncMovable[Mapping[str, float]]):
    """All axes of the sample stage, a motor record each.

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

    def __init__(
        self,
        instrument: Instrument,
        axes: Mapping[str, AxisPV],
        name: str = "goniometer",
        stall_s: float = 10.0,
    ) -> None:
        check_axes(axes, instrument.goniometer)
        self.instrument = instrument
        self.stall_s = float(stall_s)
        self._readback: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._started: set[str] = set()
        self.reachable = True
        self._motion: WatchableAsyncStatus[float] | None = None
        self._stop_wanted = self._stop_success = False
        for axis in instrument.goniometer.axes:
            setattr(self, axis.name, AsyncAxis(self, axis, axes[axis.name]))
        self.add_readables([getattr(self, axis.name) for axis in instrument.goniometer.axes])
        super().__init__(name)

    @property
    def parts(self) -> dict[str, AsyncAxis]:
        """The device of each axis."""
        return {name: getattr(self, name) for name in self.chain.names}

    async def connect(self, mock: Any = False, timeout: float = 10.0, force_reconnect: bool = False) -> None:
        """Connect, and follow read-backs and ends of motions."""
        await super().connect(mock, timeout, force_reconnect)
        for name, part in self.parts.items():
            self._follow(part.motor.user_readback, name, self._readback)
            self._follow(part.motor.motor_done_move, name, self._done)
        await self.refresh()

    def _follow(self, signal: Any, name: str, into: dict[str, Any]) -> None:
        def told(readings: Mapping[str, Reading[Any]]) -> None:
            into[name] = next(iter(readings.values()))["value"]
            self.reachable = True
            if into is self._done and into[name] == 0:
                self._started.add(name)

        signal.subscribe_reading(told)

    async def refresh(self) -> None:
        """Ask all motors where they are.

        Raises
        ------
        HardwareError
            If one does not answer.
        """
        motors = {name: part.motor for name, part in self.parts.items()}
        try:
            places = await asyncio.gather(*(fresh(m.user_readback) for m in motors.values()))
            done = await asyncio.gather(*(fresh(m.motor_done_move) for m in motors.values()))
        except HardwareError:
            self.reachable = False
            raise
        self._readback.update(zip(motors, (float(p) for p in places), strict=True))
        self._done.update(zip(motors, done, strict=True))

    @property
    def position(self) -> dict[str, float]:
        """Read-back of all axes, degrees and mm: the last that the monitors told.

        Raises
        ------
        HardwareError
            Before the device is connected.
        """
        if len(self._readback) < len(self.parts):
            raise HardwareError(
                f"{self.name} is not connected yet. Call wait_connected, or await its connect(), first."
            )
        return {name: part.pv.axis(self._readback[name]) for name, part in self.parts.items()}

    @property
    def busy(self) -> bool:
        """Whether a motion is going on, ours or somebody else's."""
        ours = self._motion is not None and not self._motion.done
        return ours or any(done != 1 for done in self._done.values())

    @property
    def moving(self) -> bool:
        """The same."""
        return self.busy

    def set(self, value: Mapping[str, float]) -> WatchableAsyncStatus[float]:
        """Move the named axes together; the status fails where one does not arrive.

        The limits in the motors' records are asked for before the first of them is moved.

        Raises
        ------
        ReachError
            If a position is not finite or outside the limits of the instrument: nothing moves.
        KeyError
            If there is no such axis.
        HardwareError
            If a motion is going on.
        """
        goal = {name: float(position) for name, position in value.items()}
        self.chain.check(goal)
        if self.busy:
            raise HardwareError(f"{self.name} is moving. Wait for its status, or stop() it first.")
        self._stop_wanted = self._stop_success = False
        self._started.clear()
        self._motion = WatchableAsyncStatus(self._move(goal), name=self.name)
        return self._motion

    async def stop(self, success: bool = False) -> None:
        """Tell every motor that moves to stop; `busy` says when they are at rest. A motion fails unless ``success``."""
        self._stop_wanted, self._stop_success = True, success
        motion = self._motion is not None and not self._motion.done
        await asyncio.gather(
            *(
                part.motor.motor_stop.set(1, timeout=ANSWER_S)
                for name, part in self.parts.items()
                if motion or self._done.get(name) == 0
            ),
            return_exceptions=True,  # what is lost is told by the motion itself
        )

    async def _move(self, goal: dict[str, float]) -> AsyncIterator[WatcherUpdate[float]]:
        parts = {name: self.parts[name] for name in goal}
        await asyncio.gather(*(self._check_record(name, goal[name]) for name in goal))
        start = self.position
        duration = self.chain.move_time_s(start, goal)
        puts: dict[str, AsyncStatus[None]] = {}
        try:
            for name, part in parts.items():
                if not self._stop_wanted:
                    puts[name] = part.motor.user_setpoint.set(part.pv.motor(goal[name]), timeout=None)
            async for share in self._watch(goal, start, puts):
                yield WatcherUpdate(
                    share * duration,
                    0.0,
                    duration,
                    name=self.name,
                    unit="s",
                    precision=1,
                    fraction=1.0 - share,
                )
            await self.refresh()
            if self._stop_wanted:
                if not self._stop_success:
                    raise StoppedError(f"{self.name} was stopped before it arrived.")
                return
            await self._check_alarms(parts)
            self.check_arrived(self.position, goal)
            self.check_within(self.position)
        except BaseException:  # cancelled, too: whoever gives up a motion does not leave it running
            await self._halt({n: parts[n] for n, put in puts.items() if not put.done or self._done[n] != 1})
            raise
        finally:
            tasks = [status.task for status in puts.values()]
            if tasks:  # a record answers for its put when it is at rest
                await asyncio.wait(tasks, timeout=SILENCE_S)
            for task in tasks:
                task.cancel()

    async def _check_record(self, name: str, goal: float) -> None:
        part = self.parts[name]
        low, high = await asyncio.gather(
            fresh(part.motor.low_limit_travel), fresh(part.motor.high_limit_travel)
        )
        key = (await part.motor.user_setpoint.describe())[part.motor.user_setpoint.name]
        control = key.get("limits", {}).get("control", {"low": None, "high": None})
        told = (control["low"] or 0.0, control["high"] or 0.0)
        check_motor_limits(name, part.pv, goal, (float(low), float(high)), told)

    async def _watch(
        self, goal: Mapping[str, float], start: Mapping[str, float], puts: Mapping[str, AsyncStatus[None]]
    ) -> AsyncIterator[float]:
        """Shares of the way, until all motors are done; raise if one fails, hangs or is lost."""
        began = progress = asked = time.monotonic()
        before: dict[str, float] = {}
        while True:
            await asyncio.sleep(POLL_S)
            now = time.monotonic()
            for name, status in puts.items():
                if status.done and not status.success and not self._stop_wanted:
                    raise lost(self.parts[name].pv.pv) from status.exception()
            if self._stop_wanted or all(status.done for status in puts.values()):
                # A record may end the put before the motion, and even before it starts: its own word counts.
                await self.refresh()
                if all(self._at_rest(name, goal[name], now - began) for name in puts):
                    return
            here = {name: self._readback[name] for name in goal}
            if here != before:
                before, progress, asked = here, now, now
            elif now - progress > self.stall_s:
                raise stalled(goal, self.stall_s)
            elif now - asked > SILENCE_S:
                await self.refresh()
                asked = now
            yield self._share(start, goal)

    def _at_rest(self, name: str, goal: float, elapsed_s: float) -> bool:
        if self._done[name] != 1:
            return False
        arrived = abs(self.position[name] - goal) <= self.tolerances[name]
        return arrived or name in self._started or elapsed_s > NO_START_S

    def _share(self, start: Mapping[str, float], goal: Mapping[str, float]) -> float:
        here = self.position
        shares = [
            abs(here[name] - start[name]) / way
            for name, end in goal.items()
            if (way := abs(end - start[name])) > 0.0
        ]
        return float(np.clip(min(shares, default=1.0), 0.0, 1.0))

    async def _check_alarms(self, parts: Mapping[str, AsyncAxis]) -> None:
        for name, part in parts.items():
            severity, high, low = await asyncio.gather(
                fresh(part.severity), fresh(part.motor.high_limit_switch), fresh(part.motor.low_limit_switch)
            )
            if severity != "NO_ALARM" or high or low:
                raise motor_problem(
                    name, part.pv, high_switch=bool(high), low_switch=bool(low), severity=severity
                )

    async def _halt(self, parts: Mapping[str, AsyncAxis]) -> None:
        await asyncio.gather(
            *(part.motor.motor_stop.set(1, timeout=ANSWER_S) for part in parts.values()),
            return_exceptions=True,
        )
