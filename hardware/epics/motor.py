"""A motor record on an axis of the Twin, honest in the fields that clients use.

Limits are control limits of VAL, which clients see, and are refused where they are passed (LVIO); a put is complete when the
motor is at rest; STOP is an event, and nothing to a motor at rest. What caproto's example record does otherwise has moved
motors beyond their limits, told clients of arrivals half-way, and killed the motion after a stop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from lauepilot.hardware.epics.motor_fields import (
    DIRECTION,
    DONE,
    FAULTS,
    HOMED,
    MINUS_SWITCH,
    MOVING,
    PLUS_SWITCH,
    PRESENT,
    PROBLEM,
    SLIP,
    MotorPVs,
)
from lauepilot.hardware.epics.stage import Stage
from lauepilot.hardware.epics.travel import Brake, Travel
from lauepilot.hardware.epics.values import Refused, show
from lauepilot.simulator.goniometer import Axis, ReachError

#: Wall seconds between read-backs on the way.
TICK_S = 0.02

#: Where on its way a motor with a fault stalls, stops or meets its switch.
FAULT_SHARE = 0.5


class MotorRecord(MotorPVs):
    """One motor record.

    Positions that clients see (user) are ``sign * dial + OFF``; the dial is the instrument's axis.

    Parameters
    ----------
    axis, stage
        What it moves.
    """

    def __init__(self, *args: Any, axis: Axis, stage: Stage, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.axis, self.stage = axis, stage
        self._dial = float(stage.twin.positions[axis.name])
        self._soft = axis.limits
        self._switch = 0  # +1 or -1: the side of the switch that it stands on
        self._way: Travel | Brake = Travel(self._dial, self._dial, axis.speed)
        self._began_s = 0.0
        self._legs: list[Travel] = []
        self._path: list[float] = []
        self._target = self._dial
        self._stopped = self._stalled = self._paused = self._homing = False
        self._task: asyncio.Task[None] | None = None
        self._arriving = False

    async def prepare(self) -> None:
        """Show what the axis is, and listen to its fields; once, before clients come."""
        axis, f = self.axis, self.field
        self.connect(
            VAL=self._put_val, DVAL=self._put_dial, RVAL=self._put_raw, RLV=self._put_relative,
            STOP=self._put_stop, SPMG=self._put_spmg, TWF=self._put_tweak(1), TWR=self._put_tweak(-1),
            HOMF=self._put_home, HOMR=self._put_home, JOGF=self._put_jog(1), JOGR=self._put_jog(-1),
            HLM=self._put_limit(1), LLM=self._put_limit(-1), DHLM=self._put_dial_limit(1),
            DLLM=self._put_dial_limit(-1), VELO=self._put_speed, BVEL=self._put_speed, HVEL=self._put_speed,
            JVEL=self._put_speed, ACCL=self._put_ramp, BDST=self._put_number, OFF=self._put_offset,
            DIR=self._put_direction, SSET=self._put_set("Set"), SUSE=self._put_set("Use"),
        )  # fmt: skip
        precision = max(0, min(6, math.ceil(-math.log10(axis.resolution)))) if axis.resolution > 0.0 else 4
        await self.motor.write_metadata(units=axis.unit, precision=precision)
        for name in ("RBV", "DRBV", "HLM", "LLM", "DVAL", "TWV", "OFF"):
            await f(name).write_metadata(units=axis.unit, precision=precision)
        ramp = min(0.2, axis.settle_s)
        for name, value in {
            "EGU": axis.unit, "PREC": precision, "DESC": f"{axis.name} of the Twin", "VELO": axis.speed,
            "VMAX": axis.speed, "BVEL": axis.speed, "HVEL": axis.speed, "JVEL": axis.speed, "VBAS": 0.0,
            "ACCL": ramp, "BACC": ramp, "DLY": axis.settle_s - ramp, "BDST": 0.0, "MRES": axis.resolution,
            "RRES": axis.resolution, "ERES": axis.resolution, "RDBD": axis.resolution, "TWV": 1.0,
            "SPMG": "Go", "CNEN": "Enable", "LVIO": 0, "DMOV": 1, "MOVN": 0,
        }.items():  # fmt: skip
            await show(f(name), value)
        await show(self.motor, self.user(self._dial))
        await self._show_limits()
        await self._show_place()
        await self._show_state()

    def user(self, dial: float) -> float:
        """What clients see where the axis is at ``dial``."""
        return self._sign * dial + self._offset

    def dial(self, user: float) -> float:
        """Where the axis is, if clients see ``user``."""
        return self._sign * (user - self._offset)

    @property
    def _sign(self) -> float:
        return -1.0 if self.field("DIR").value == "Neg" else 1.0

    @property
    def _offset(self) -> float:
        return float(self.field("OFF").value)

    @property
    def moving(self) -> bool:
        """Whether it is not at rest."""
        return self._task is not None and not self._task.done()

    # Puts of clients

    async def _put_val(self, _: Any, value: Any) -> None:
        user = float(value)
        if self.field("SET").value == "Set":  # the same place gets another number
            await self._put_offset(None, user - self._sign * self._dial)
            return
        await self._check(self.dial(user))
        await self._show_target(self.dial(user))
        if self.field("SPMG").value in ("Go", "Move"):
            await self._go(float(self.field("VELO").value))

    async def _put_dial(self, _: Any, value: Any) -> None:
        await self._put_val(None, self.user(float(value)))

    async def _put_raw(self, _: Any, value: Any) -> None:
        await self._put_val(None, self.user(float(value) * self.axis.resolution))

    async def _put_relative(self, _: Any, value: Any) -> float:
        await self._put_val(None, float(self.motor.value) + float(value))
        return 0.0

    def _put_tweak(self, sign: int) -> Callable[[Any, Any], Awaitable[int]]:
        async def tweak(_: Any, value: Any) -> int:
            if value:
                await self._put_val(None, float(self.motor.value) + sign * float(self.field("TWV").value))
            return 0

        return tweak

    async def _put_home(self, _: Any, value: Any) -> int:
        if value:
            await self._check(0.0)
            await self._show_target(0.0)
            self._homing = True
            await self._go(float(self.field("HVEL").value))
        return 0

    def _put_jog(self, sign: int) -> Callable[[Any, Any], Awaitable[int]]:
        async def jog(_: Any, value: Any) -> int:
            if not value:
                self.stop()
                await self._until_rest()
                return 0
            limit = self._soft[1 if sign * self._sign > 0.0 else 0]
            await self._check(limit)
            await self._show_target(limit)
            await self._go(float(self.field("JVEL").value))
            return 0

        return jog

    async def _put_stop(self, _: Any, value: Any) -> int:
        if value:
            self.stop()
        return 0

    async def _put_spmg(self, _: Any, value: str) -> str | None:
        await show(self.field("LSPG"), self.field("SPMG").value)
        await show(self.field("SPMG"), value)
        if value == "Stop":
            self.stop()
        elif value == "Pause":
            if self.moving and not self._arriving and isinstance(self._way, Travel):
                self._brake()
                self._paused = True
        elif self._paused or self._target != self._dial:
            await self._go(float(self.field("VELO").value))
        return None

    def _put_limit(self, side: int) -> Callable[[Any, Any], Awaitable[None]]:
        async def limit(_: Any, value: Any) -> None:
            await self._set_limit(side if self._sign > 0.0 else -side, self.dial(float(value)))

        return limit

    def _put_dial_limit(self, side: int) -> Callable[[Any, Any], Awaitable[None]]:
        async def limit(_: Any, value: Any) -> None:
            await self._set_limit(side, float(value))

        return limit

    async def _set_limit(self, side: int, dial: float) -> None:
        hard_low, hard_high = self.axis.limits
        if not hard_low <= dial <= hard_high:
            raise Refused(
                f"{self.axis.name}: a limit at {self.user(dial):g} is beyond the hard ones, {self._span(self.axis.limits)}."
            )
        low, high = (self._soft[0], dial) if side > 0 else (dial, self._soft[1])
        if not low < high:
            raise Refused(f"{self.axis.name}: limits of {self._span((low, high))} leave no room.")
        self._soft = (low, high)
        await self._show_limits()

    async def _put_speed(self, _: Any, value: Any) -> float:
        if not 0.0 < float(value) <= self.axis.speed:
            raise Refused(
                f"{self.axis.name} goes at more than 0 and up to {self.axis.speed:g} {self.axis.unit}/s (VMAX); "
                f"{float(value):g} came."
            )
        return float(value)

    async def _put_ramp(self, _: Any, value: Any) -> float:
        if not 0.0 <= float(value) <= 60.0:
            raise Refused(f"{self.axis.name}: ACCL is 0 to 60 s; {float(value):g} came.")
        return float(value)

    async def _put_number(self, _: Any, value: Any) -> float:
        if not math.isfinite(float(value)):
            raise Refused(f"{self.axis.name}: {float(value)} is no number to go by.")
        return float(value)

    async def _put_offset(self, _: Any, value: Any) -> None:
        self._still()
        await show(self.field("OFF"), await self._put_number(None, value))
        await self._show_frame()

    async def _put_direction(self, _: Any, value: str) -> None:
        self._still()
        await show(self.field("DIR"), value)
        await self._show_frame()

    def _put_set(self, what: str) -> Callable[[Any, Any], Awaitable[int]]:
        async def use(_: Any, value: Any) -> int:
            if value:
                await show(self.field("SET"), what)
            return 0

        return use

    def _still(self) -> None:
        if self.moving:
            raise Refused(f"{self.axis.name} moves; wait for DMOV, or stop it, before its frame is changed.")

    # Motion

    async def _check(self, dial: float) -> None:
        """Refuse a place that is not allowed; LVIO says if limits were the reason."""
        low, high = self._soft
        inside = math.isfinite(dial) and low - 1e-9 <= dial <= high + 1e-9
        await show(self.field("LVIO"), int(not inside))
        if not inside:
            raise Refused(
                f"{self.axis.name}: {self.user(dial):g} is outside the limits of {self._span(self._soft)} (LLM, HLM)."
            )
        if any(np.ravel(self.field("DISP").value)) or self.field("CNEN").value == "Disable":
            raise Refused(f"{self.axis.name} is disabled (DISP, CNEN).")
        if self._switch and (dial - self._dial) * self._switch > 0.0:
            raise Refused(f"{self.axis.name} stands on its limit switch; it can only go the other way.")

    def _span(self, limits: tuple[float, float]) -> str:
        low, high = sorted(map(self.user, limits))
        return f"{low:g} to {high:g} {self.axis.unit}"

    async def _go(self, speed: float) -> None:
        """Go to the target; returns when the motor is at rest, there or where it was stopped."""
        while self._arriving:  # so near the end of a motion that this is another one
            await self._until_rest()
        axis, takeup = self.axis, self._sign * float(self.field("BDST").value)
        steps = round(self._target / axis.resolution) * axis.resolution
        goal = min(max(steps, axis.limits[0]), axis.limits[1])
        start = self._dial
        if self.moving:
            self._path.append(start)  # it may turn here, and the Twin has play
        # Against play: beyond the goal, and back to it always from the same side.
        via = goal - takeup
        leap = takeup != 0.0 and (goal - start) * takeup < 0.0 and self._soft[0] <= via <= self._soft[1]
        stops = [start, via, goal] if leap else [start, goal]
        speeds = [speed, float(self.field("BVEL").value)]
        self._legs = [
            Travel(a, b, v, float(self.field("ACCL").value), axis.settle_s if b == goal else 0.0)
            for a, b, v in zip(stops[:-1], stops[1:], speeds, strict=False)
        ]
        self._stopped = self._stalled = self._paused = False
        self._next_leg()
        if not self.moving:
            self._path = []
            self.stage.depart(axis.name, lambda: self._dial)
            await self._show_start(goal - start)
            self._task = asyncio.create_task(self._run())
        await self._until_rest()

    async def _until_rest(self) -> None:
        if self._task is not None:
            await asyncio.shield(self._task)

    def stop(self) -> None:
        """Slow down and stand; nothing to a motor at rest."""
        if self.moving and not self._arriving:
            if isinstance(self._way, Travel):
                self._brake()
            self._stopped, self._stalled, self._paused = True, False, False

    def _brake(self) -> None:
        elapsed = self._elapsed_s
        self._dial = self._way.place(elapsed)
        if isinstance(self._way, Travel):
            self._way = self._way.brake(elapsed)
        self._began_s, self._legs = asyncio.get_running_loop().time(), []

    def _next_leg(self) -> None:
        way = self._legs.pop(0)
        if self.fault in ("stall", "short", "switch"):
            share = way.start + FAULT_SHARE * (way.goal - way.start)
            way = Travel(way.start, share, way.speed, way.ramp_s, way.settle_s)
            self._legs = []
        self._stalled = self.fault == "stall"
        self._way, self._began_s = way, asyncio.get_running_loop().time()

    @property
    def _elapsed_s(self) -> float:
        """On the instrument's clock, since the leg began."""
        return self.stage.instrument_s(asyncio.get_running_loop().time() - self._began_s)

    async def _run(self) -> None:
        while True:
            way, elapsed = self._way, self._elapsed_s
            self._dial = way.place(elapsed)
            await self._show_place()
            moving = elapsed < way.moving_s
            if moving != bool(self.field("MOVN").value):
                await show(self.field("MOVN"), int(moving))
            if way is not self._way:
                continue
            left = self.stage.wall_s(max(way.duration_s - elapsed, 0.0)) if math.isfinite(elapsed) else 0.0
            if left <= 0.0 and not self._stalled and not self._paused:
                if not self._legs:
                    break
                self._path.append(self._dial)
                self._next_leg()
                continue
            await asyncio.sleep(min(left, TICK_S) if left > 0.0 else TICK_S)
        self._arriving = True
        problem = ""
        try:
            self._dial = await self.stage.arrive(self.axis.name, [*self._path, self._dial])
        except ReachError as error:  # a stage whose axes would meet
            problem, self._dial = str(error), float(self.stage.twin.positions[self.axis.name])
        if self.fault == "switch" and not self._stopped:
            self._switch = 1 if self._target > self._dial else -1
        elif self._switch and not problem:
            self._switch = 0
        if self._stopped or problem:
            await self._show_target(self._dial)
        await self._show_place(whole=True)
        await self._show_state(problem=bool(problem))
        if self.field("SPMG").value == "Move":
            await show(self.field("SPMG"), "Pause")
        await show(self.field("MOVN"), 0)
        self._arriving = self._homing = False
        await show(self.field("DMOV"), 1)

    async def set_fault(self, fault: str) -> None:
        """From the next motion on; ``none`` lets go of a switch, and clears the alarm."""
        if fault not in FAULTS:
            raise Refused(f"A motor's fault is one of {', '.join(FAULTS)}; {fault!r} came.")
        self.fault = fault
        self._switch = 0
        await self._show_place(whole=True)
        if not self.moving:
            await self.alarm_off()
            await self._show_state()

    # What clients see

    async def _show_start(self, way: float) -> None:
        up = way * self._sign > 0.0
        await show(self.field("DMOV"), 0)
        await show(self.field("TDIR"), int(up))
        await show(self.field("MSTA"), PRESENT | MOVING | (DIRECTION if up else 0))
        await self.alarm_off()

    async def _show_target(self, dial: float) -> None:
        self._target = dial
        await show(self.motor, self.user(dial))
        await show(self.field("DVAL"), dial)
        await show(self.field("RVAL"), round(dial / self.axis.resolution))

    async def _show_place(self, *, whole: bool = False) -> None:
        read = self._dial + (self.readback_error if self.fault == "readback" else 0.0)
        await show(self.field("RBV"), self.user(read))
        await show(self.field("DRBV"), read)
        if whole:
            await show(self.field("RRBV"), round(read / self.axis.resolution))
            await show(self.field("DIFF"), self._target - read)
            await show(self.field("ATHM"), int(abs(read) < self.axis.resolution))

    async def _show_limits(self) -> None:
        low, high = sorted(map(self.user, self._soft))
        limits = {
            "lower_ctrl_limit": low,
            "upper_ctrl_limit": high,
            "lower_disp_limit": low,
            "upper_disp_limit": high,
        }
        await self.motor.write_metadata(**limits)
        await self.field("RBV").write_metadata(**limits)
        for name, value in {"LLM": low, "HLM": high, "DLLM": self._soft[0], "DHLM": self._soft[1]}.items():
            await show(self.field(name), value)

    async def _show_frame(self) -> None:
        """All that another offset or direction changes; nothing has moved."""
        await self._show_limits()
        await self._show_target(self._dial)
        await self._show_place(whole=True)

    async def _show_state(self, *, problem: bool = False) -> None:
        side = self._switch * int(self._sign)
        await show(self.field("HLS"), int(side > 0))
        await show(self.field("LLS"), int(side < 0))
        bits = DONE | PRESENT | (PLUS_SWITCH if side > 0 else MINUS_SWITCH if side < 0 else 0)
        bits |= (PROBLEM if problem or side else 0) | (SLIP if self._stopped and self.fault == "stall" else 0)
        await show(self.field("MSTA"), bits | (HOMED if self._homing else 0))
        if problem or side:
            await self.alarm_on(side)
