"""A motor record on an axis of the Twin, honest in the fields that clients use.

Limits are those that clients see (control limits of VAL) and are refused where they are passed; a put is complete when the
motor is at rest; STOP is an event, and does nothing to a motor at rest. What the example record of caproto does otherwise has
moved motors beyond their limits and killed motions that nobody had stopped.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from caproto import AlarmSeverity, AlarmStatus, SkipWrite
from caproto.server import PVGroup, pvproperty

from lauepilot.hardware.epics.stage import Stage
from lauepilot.simulator.goniometer import Axis

#: Wall seconds between read-backs on the way.
TICK_S = 0.02

# Bits of MSTA.
DIRECTION, DONE, PLUS_LS, SLIP, PRESENT, PROBLEM, MOVING, MINUS_LS = (
    0x1, 0x2, 0x4, 0x40, 0x100, 0x200, 0x400, 0x2000,
)  # fmt: skip

#: What can be wrong with a motor: it hangs until stopped, ends half-way and says it is done, runs into its switch half-way.
FAULTS = ("none", "stall", "short", "switch", "readback")

#: By how much a motor with the fault ``readback`` reads wrong, degrees or mm.
READBACK_OFF = 1.0


class MotorRecord(PVGroup):  # type: ignore[misc]
    """One motor record; ``axis`` and ``stage`` are what it moves.

    Positions of the record (user) are ``sign * dial + OFF``; the dial is the axis of the instrument.
    """

    motor = pvproperty(value=0.0, name="", record="motor", precision=4)

    def __init__(self, *args: Any, axis: Axis, stage: Stage, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.axis, self.stage = axis, stage
        self.fault = "none"
        self._dial = float(stage.twin.positions[axis.name])
        self._sign, self._offset = 1, 0.0
        self._soft = axis.limits  # of the dial
        self._goal: float | None = None
        self._rest = asyncio.Event()
        self._halt = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._watch_fields()

    @property
    def fields(self) -> Any:
        """The record's fields."""
        return self.motor.field_inst

    def user(self, dial: float) -> float:
        """Position of the record where the dial reads ``dial``."""
        return self._sign * dial + self._offset

    def dial(self, user: float) -> float:
        """Position of the dial where the record reads ``user``."""
        return self._sign * (user - self._offset)

    @motor.startup
    async def motor(self, instance: Any, async_lib: Any) -> None:
        """Show what the axis is."""
        fields = self.fields
        self._rest.set()
        await instance.write_metadata(units=self.axis.unit, precision=4)
        for field, value in (
            ("engineering_units", self.axis.unit), ("display_precision", 4), ("velocity", self.axis.speed),
            ("max_velocity", self.axis.speed), ("base_velocity", 0.0), ("seconds_to_velocity", 0.0),
            ("bl_distance", self.axis.backlash), ("bl_velocity", self.axis.speed),
            ("motor_step_size", self.axis.resolution), ("readback_step_size", self.axis.resolution),
            ("retry_deadband", self.axis.resolution), ("tweak_step_size", 1.0),
            ("readback_settle_time", self.axis.settle_s), ("motor_status", DONE | PRESENT),
            ("done_moving_to_value", 1), ("motor_is_moving", 0), ("stop_pause_move_go", "Go"),
        ):  # fmt: skip
            await getattr(fields, field).write(value, verify_value=False)
        await instance.write(self.user(self._dial), verify_value=False)
        await self._show_limits()
        await self._show(self._dial)

    @motor.putter
    async def motor(self, instance: Any, value: float) -> float:
        """Go there; returns when the motor is at rest."""
        goal = self.dial(float(value))
        if self.fields.set_use_switch.value == "Set":  # calibrate: the same place gets another number
            await self._calibrate(float(value) - self._sign * self._dial)
            raise SkipWrite
        await self._check(goal)
        self._goal = goal
        await instance.write(float(value), verify_value=False)
        if self._task is None or self._task.done():
            self._rest.clear()
            self._halt.clear()
            self._task = asyncio.create_task(self._run())
        await self._rest.wait()
        raise SkipWrite  # VAL says already where it was sent, or where it was stopped

    async def refresh(self) -> None:
        """Show where the Twin's motor stands (its own resolution)."""
        if self._rest.is_set() and self.fault != "short":
            self._dial = float(self.stage.twin.positions[self.axis.name])
        await self._show(self._dial)

    async def stop(self) -> None:
        """Stop a motion; nothing where there is none."""
        if not self._rest.is_set():
            self._halt.set()

    async def _check(self, goal: float) -> None:
        """Refuse what is outside the soft limits, and say so in LVIO."""
        low, high = self._soft
        inside = low <= goal <= high
        await self.fields.limit_violation.write(0 if inside else 1, verify_value=False)
        if not inside:
            raise ValueError(
                f"{self.axis.name}: {self.user(goal):g} is outside the limits of {self.user(low):g} to "
                f"{self.user(high):g} {self.axis.unit} (LLM, HLM)."
            )
        if self.fields.stop_pause_move_go.value in ("Stop", "Pause"):
            raise ValueError(
                f"{self.axis.name} is on {self.fields.stop_pause_move_go.value} (SPMG); set it to Go."
            )

    async def _run(self) -> None:
        fields, start = self.fields, self._dial
        self.stage.depart(self.axis.name)
        await fields.done_moving_to_value.write(0, verify_value=False)
        await fields.motor_is_moving.write(1, verify_value=False)
        try:
            stopped = await self._travel(start)
            if not stopped:
                await asyncio.sleep(self.axis.settle_s / self.stage.speed)
        finally:
            await self.stage.arrive(self.axis.name, self._dial)
            self._dial = float(self.stage.twin.positions.get(self.axis.name, self._dial))
            self._rest.set()
            await self._at_rest(bool(self._halt.is_set()))

    async def _travel(self, start: float) -> bool:
        """On the way to the goal, which may change; whether it was stopped."""
        leg, began, goal = start, time.monotonic(), self._goal
        while True:
            if goal != self._goal:  # another goal: from here on
                leg, began, goal = self._dial, time.monotonic(), self._goal
            assert goal is not None  # set before the task began  # noqa: S101
            way = goal - leg
            gone = self.fields.velocity.value * self.stage.speed * (time.monotonic() - began)
            end = 0.5 * abs(way) if self.fault in ("stall", "short", "switch") else abs(way)
            self._dial = leg + (1.0 if way >= 0.0 else -1.0) * min(gone, end)
            await self._show(self._dial, way)
            if gone >= end and self.fault != "stall":
                if end == abs(way):
                    self._dial = goal
                return False
            left = (end - gone) / (self.fields.velocity.value * self.stage.speed)
            try:
                await asyncio.wait_for(
                    self._halt.wait(), min(max(left, 0.0), TICK_S) if left > 0.0 else TICK_S
                )
                return True
            except TimeoutError:
                continue

    async def _at_rest(self, stopped: bool) -> None:
        fields, way = self.fields, (self._goal or 0.0) - self._dial
        status = DONE | PRESENT
        if self.fault == "switch" and not stopped:
            high = way > 0.0
            status |= PROBLEM | (PLUS_LS if high else MINUS_LS)
            switch = fields.user_high_limit_switch if high else fields.user_low_limit_switch
            await switch.write(1, verify_value=False)
            await self.motor.alarm.write(
                status=AlarmStatus.STATE, severity=AlarmSeverity.MAJOR_ALARM, publish=True
            )
        await fields.motor_status.write(status, verify_value=False)
        if stopped:
            await self.motor.write(self.user(self._dial), verify_value=False)
        await self._show(self._dial)
        await fields.motor_is_moving.write(0, verify_value=False)
        await fields.done_moving_to_value.write(1, verify_value=False)

    async def clear(self) -> None:
        """The switch is released and the alarm is gone."""
        for switch in (self.fields.user_high_limit_switch, self.fields.user_low_limit_switch):
            await switch.write(0, verify_value=False)
        await self.motor.alarm.write(
            status=AlarmStatus.NO_ALARM, severity=AlarmSeverity.NO_ALARM, publish=True
        )
        await self.fields.motor_status.write(DONE | PRESENT, verify_value=False)

    async def _show(self, dial: float, way: float = 0.0) -> None:
        fields = self.fields
        read = dial + (READBACK_OFF if self.fault == "readback" else 0.0)
        await fields.user_readback_value.write(self.user(read), verify_value=False)
        await fields.dial_readback_value.write(read, verify_value=False)
        await fields.raw_readback_value.write(round(read / self.axis.resolution), verify_value=False)
        await fields.difference_dval_drbv.write(
            (self._goal if self._goal is not None else dial) - read, verify_value=False
        )
        if way:
            await fields.direction_of_travel.write(int(way > 0.0), verify_value=False)
            bits = MOVING | PRESENT | (DIRECTION if way > 0.0 else 0)
            await fields.motor_status.write(bits | (SLIP if self.fault == "stall" else 0), verify_value=False)

    async def _show_limits(self) -> None:
        low, high = sorted((self.user(self._soft[0]), self.user(self._soft[1])))
        fields = self.fields
        await self.motor.write_metadata(
            lower_ctrl_limit=low, upper_ctrl_limit=high, lower_disp_limit=low, upper_disp_limit=high
        )
        for field, value in (
            ("user_low_limit", low), ("user_high_limit", high),
            ("dial_low_limit", self._soft[0]), ("dial_high_limit", self._soft[1]),
        ):  # fmt: skip
            await getattr(fields, field).write(value, verify_value=False)

    async def _calibrate(self, offset: float) -> None:
        self._offset = offset
        await self.fields.user_offset.write(offset, verify_value=False)
        await self.motor.write(self.user(self._dial), verify_value=False)
        await self._show_limits()
        await self._show(self._dial)

    def _watch_fields(self) -> None:
        """What clients write into fields does something; ``verify_value=False`` is our own writing, and does not."""
        fields = self.fields

        async def stop(instance: Any, value: int) -> int:
            if value:
                await self.stop()
            return 0

        async def spmg(instance: Any, value: Any) -> Any:
            if str(value) in ("Stop", "Pause", "0", "1"):
                await self.stop()
            return value

        async def tweak(sign: int, value: int) -> int:
            if value:
                step = sign * float(fields.tweak_step_size.value)
                await self.motor.write(float(self.motor.value) + step)
            return 0

        async def soft(index: int, value: float) -> float:
            dial = self.dial(float(value))
            low, high = self.axis.limits
            if not low <= dial <= high:
                raise ValueError(
                    f"{self.axis.name}: a limit of {value:g} is beyond the hard ones, {self.user(low):g} to {self.user(high):g}."
                )
            pair = list(self._soft)
            pair[index if self._sign > 0 else 1 - index] = dial
            if not pair[0] < pair[1]:
                raise ValueError(f"{self.axis.name}: the limits {pair[0]:g} and {pair[1]:g} leave no room.")
            self._soft = (pair[0], pair[1])
            await self._show_limits()
            return value

        async def speed(instance: Any, value: float) -> float:
            if not 0.0 < float(value) <= self.axis.speed:
                raise ValueError(
                    f"{self.axis.name}: VELO is more than 0 and up to {self.axis.speed:g} {self.axis.unit}/s (VMAX)."
                )
            return float(value)

        async def home(instance: Any, value: int) -> int:
            if value:
                low, high = self._soft
                await self.motor.write(self.user(min(max(0.0, low), high)))
            return 0

        async def direction(instance: Any, value: Any) -> Any:
            self._sign = -1 if str(value) in ("Neg", "1") else 1
            await self._calibrate(self._offset)
            return value

        async def offset(instance: Any, value: float) -> float:
            await self._calibrate(float(value))
            return float(value)

        fields.stop.putter = stop
        fields.stop_pause_move_go.putter = spmg
        fields.tweak_motor_forward.putter = lambda instance, value: tweak(1, value)
        fields.tweak_motor_reverse.putter = lambda instance, value: tweak(-1, value)
        fields.user_low_limit.putter = lambda instance, value: soft(0, value)
        fields.user_high_limit.putter = lambda instance, value: soft(1, value)
        fields.velocity.putter = speed
        fields.home_forward.putter = fields.home_reverse.putter = home
        fields.user_direction.putter = direction
        fields.user_offset.putter = offset
