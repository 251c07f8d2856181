"""A motor record on an axis of the Twin, honest in the fields that clients use.

Limits are control limits of VAL, which clients see, and are refused where they are passed (LVIO); a put is complete when the
motor is at rest; STOP is an event, and nothing to a motor at rest. What caproto's example record does otherwise has moved
motors beyond their limits, told clients of arrivals half-way, and killed the motion after a stop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lauepilot.hardware.epics.drive import Drive
from lauepilot.hardware.epics.motor_fields import FAULTS, MotorPVs
from lauepilot.hardware.epics.stage import Stage
from lauepilot.hardware.epics.travel import Route, Travel
from lauepilot.hardware.epics.values import Refused, show

#: Wall seconds between read-backs on the way.
TICK_S = 0.02

#: Where on its way a motor with a fault stalls, stops or meets its switch.
FAULT_SHARE = 0.5

#: Fields that a restarted IOC takes over, beside place and limits.
KEPT = ("OFF", "DIR", "VELO", "BVEL", "HVEL", "JVEL", "ACCL", "BDST", "TWV")


class MotorRecord(MotorPVs):
    """One motor record.

    Parameters
    ----------
    axis, stage
        What it moves.
    """

    def __init__(self, *args: Any, stage: Stage, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage = stage
        loop = asyncio.get_running_loop()
        self.drive = Drive(float(stage.twin.positions[self.axis.name]), loop.time, stage.instrument_s)
        self._way = 0.0  # which the motion was sent to go
        self._stopped = self._stalled = self._paused = self._homing = self._jogging = False
        self._task: asyncio.Task[None] | None = None
        self._arriving = False
        if stage.linked:
            stage.joints[self.axis.name] = self

    async def prepare(self, kept: Mapping[str, float | str] | None = None) -> None:
        """Show what the axis is, and listen to its fields; once, before clients come.

        Parameters
        ----------
        kept
            What `state` said in an earlier life; its place is the Twin's business.
        """
        axis, f = self.axis, self.field
        self.connect(
            VAL=self._put_val, DVAL=self._put_dial, RVAL=self._put_raw, RLV=self._put_relative,
            STOP=self._put_stop, SPMG=self._put_spmg, TWF=self._put_tweak(1), TWR=self._put_tweak(-1),
            HOMF=self._put_home, HOMR=self._put_home, JOGF=self._put_jog("JOGF", 1), JOGR=self._put_jog("JOGR", -1),
            HLM=self._put_limit(1), LLM=self._put_limit(-1), DHLM=self._put_dial_limit(1),
            DLLM=self._put_dial_limit(-1), VELO=self._put_speed, BVEL=self._put_speed, HVEL=self._put_speed,
            JVEL=self._put_speed, ACCL=self._put_ramp, BDST=self._put_backlash, OFF=self._put_offset,
            DIR=self._put_direction, SSET=self._put_set("Set"), SUSE=self._put_set("Use"), TWV=self._put_number,
        )  # fmt: skip
        precision = max(0, min(6, math.ceil(-math.log10(axis.resolution)))) if axis.resolution > 0.0 else 4
        await self.motor.write_metadata(units=axis.unit, precision=precision)
        for name in ("RBV", "DRBV", "HLM", "LLM", "DVAL", "TWV", "OFF"):
            await f(name).write_metadata(units=axis.unit, precision=precision)
        ramp = min(0.2, axis.settle_s)
        fields: dict[str, Any] = {
            "EGU": axis.unit, "PREC": precision, "DESC": f"{axis.name} of the Twin", "VELO": axis.speed,
            "VMAX": axis.speed, "BVEL": axis.speed, "HVEL": axis.speed, "JVEL": axis.speed, "VBAS": 0.0,
            "ACCL": ramp, "BACC": ramp, "DLY": axis.settle_s - ramp, "BDST": 0.0, "MRES": axis.resolution,
            "RRES": axis.resolution, "ERES": axis.resolution, "RDBD": axis.resolution, "TWV": 1.0,
            "SPMG": "Go", "CNEN": "Enable", "DIR": "Pos", "LVIO": 0, "DMOV": 1, "MOVN": 0,
        }  # fmt: skip
        if kept is not None:
            fields |= {name: kept[name] for name in KEPT}
            self.soft = (float(kept["DLLM"]), float(kept["DHLM"]))
        for name, value in fields.items():
            await show(f(name), value)
        await self.show_frame(self.drive.dial)
        await self.show_state()

    def state(self) -> dict[str, float | str]:
        """What a restarted IOC needs to go on: place and limits on the dial, and the fields of `KEPT`."""
        kept = {name: self.field(name).value for name in KEPT}
        return {"dial": self.drive.dial, "DLLM": self.soft[0], "DHLM": self.soft[1], **kept}

    @property
    def moving(self) -> bool:
        """Whether it is not at rest."""
        return self._task is not None and not self._task.done()

    # Puts of clients

    async def _put_val(self, _: Any, value: Any) -> None:
        user = float(value)
        if self.field("SET").value == "Set":  # the same place gets another number
            await self._put_offset(None, user - self.sign * self.drive.dial)
            return
        await self._check(self.dial(user))
        await self.show_target(self.dial(user))
        if self.field("SPMG").value in ("Go", "Move"):
            await self._go(self.target, "VELO")

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
            self._check_go()
            await self._check(0.0)
            await self.show_target(0.0)
            self._homing = True
            await self._go(0.0, "HVEL")
        return 0

    def _put_jog(self, name: str, sign: int) -> Callable[[Any, Any], Awaitable[int]]:
        async def jog(_: Any, value: Any) -> int:
            if value:
                self._check_go()
                limit = self.soft[1 if sign * self.sign > 0.0 else 0]
                if abs(limit - self.drive.dial) < self.axis.resolution:
                    await show(self.field("LVIO"), 1)
                    raise Refused(f"{self.axis.name} stands at its limit of {self.user(limit):g}.")
                await self._check(limit, takeup=False)
                self._jogging = True  # VAL shows where it came to, not where the limit is
                await show(self.field(name), 1)
                try:
                    await self._go(limit, "JVEL", takeup=False)
                finally:
                    await show(self.field(name), 0)
            elif self._jogging:
                self.stop()
                await self._until_rest()
            return 0

        return jog

    async def _put_stop(self, _: Any, value: Any) -> int:
        if value:
            self.stop()
        return 0

    async def _put_spmg(self, _: Any, value: str) -> str | None:
        await show(self.field("LSPG"), self.field("SPMG").value)
        await show(self.field("SPMG"), value)
        if value == "Stop" or (value == "Pause" and (self._jogging or self.stage.linked)):
            self.stop()
        elif value == "Pause":
            if self.moving and not self._arriving:
                self.drive.brake()
                self._paused = True
        elif self._paused or (not self.moving and self.target != self.drive.dial):
            await self._go(self.target, "VELO")
        return None

    def _put_limit(self, side: int) -> Callable[[Any, Any], Awaitable[None]]:
        async def limit(_: Any, value: Any) -> None:
            await self._set_limit(side if self.sign > 0.0 else -side, self.dial(float(value)))

        return limit

    def _put_dial_limit(self, side: int) -> Callable[[Any, Any], Awaitable[None]]:
        async def limit(_: Any, value: Any) -> None:
            await self._set_limit(side, float(value))

        return limit

    async def _set_limit(self, side: int, dial: float) -> None:
        hard_low, hard_high = self.axis.limits
        if not hard_low <= dial <= hard_high:
            raise Refused(
                f"{self.axis.name}: a limit at {self.user(dial):g} is beyond the hard ones, {self.span(self.axis.limits)}."
            )
        low, high = (self.soft[0], dial) if side > 0 else (dial, self.soft[1])
        if not low < high:
            raise Refused(f"{self.axis.name}: limits of {self.span((low, high))} leave no room.")
        self.soft = (low, high)
        await self.show_limits()

    async def _put_speed(self, _: Any, value: Any) -> float:
        if self.stage.linked and float(value) != self.axis.speed:
            raise Refused(f"{self.axis.name}: joints go together, at {self.axis.speed:g} {self.axis.unit}/s.")
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

    async def _put_backlash(self, _: Any, value: Any) -> float:
        if self.stage.linked and float(value) != 0.0:
            raise Refused(f"{self.axis.name}: joints go together, and none beyond its goal; BDST is 0.")
        return await self._put_number(None, value)

    async def _put_offset(self, _: Any, value: Any) -> None:
        self._still()
        await show(self.field("OFF"), await self._put_number(None, value))
        await self.show_frame(self.drive.dial)

    async def _put_direction(self, _: Any, value: str) -> None:
        self._still()
        await show(self.field("DIR"), value)
        await self.show_frame(self.drive.dial)

    def _put_set(self, what: str) -> Callable[[Any, Any], Awaitable[int]]:
        async def use(_: Any, value: Any) -> int:
            if value:
                await show(self.field("SET"), what)
            return 0

        return use

    # What is refused

    def _still(self) -> None:
        if self.moving:
            raise Refused(f"{self.axis.name} moves; wait for DMOV, or stop it, before its frame is changed.")

    def _check_go(self) -> None:
        if self.field("SPMG").value not in ("Go", "Move"):
            raise Refused(f"{self.axis.name} is held by SPMG; set it to Go.")

    async def _check(self, dial: float, *, takeup: bool = True) -> None:
        """Refuse a place that is not allowed; LVIO says if limits were the reason."""
        low, high = self.soft
        beyond = dial - self._takeup_to(dial) if takeup else dial
        inside = all(math.isfinite(d) and low - 1e-9 <= d <= high + 1e-9 for d in (dial, beyond))
        await show(self.field("LVIO"), int(not inside))
        if not inside:
            by_way_of = f", by way of {self.user(beyond):g} (BDST)," if beyond != dial else ""
            raise Refused(
                f"{self.axis.name}: {self.user(dial):g}{by_way_of} is outside the limits of {self.span(self.soft)} "
                "(LLM, HLM)."
            )
        if any(np.ravel(self.field("DISP").value)) or self.field("CNEN").value == "Disable":
            raise Refused(f"{self.axis.name} is disabled (DISP, CNEN).")
        if self.switch and (dial - self.drive.dial) * self.switch > 0.0:
            raise Refused(f"{self.axis.name} stands on its limit switch; it can only go the other way.")
        if self.stage.linked and self.moving:
            raise Refused(
                f"{self.axis.name}: joints go together, and are under way. Wait for DMOV, or stop them."
            )

    # Motion

    def _takeup_to(self, goal: float) -> float:
        """BDST, where the goal (dial) would be come to from the wrong side; else 0."""
        takeup = float(self.field("BDST").value)
        return takeup if (goal - self.drive.dial) * takeup < 0.0 else 0.0

    async def _go(self, goal: float, speed: str, *, takeup: bool = True) -> None:
        """Go to a place (dial) at the speed of a field; returns when the motor is at rest, there or where it was stopped."""
        while self._arriving:  # so near the end of a motion that this is another one
            await self._until_rest()
        axis, start = self.axis, self.drive.dial
        steps = round(goal / axis.resolution) * axis.resolution
        goal = min(max(steps, axis.limits[0]), axis.limits[1])
        if self.stage.linked:
            await self._go_together(goal)
        else:
            # Against play: beyond the goal, and back to it always from the same side.
            via = self._takeup_to(goal) if takeup else 0.0
            stops = [start, goal - via, goal] if via else [start, goal]
            await self._set_out([
                Travel(a, b, float(self.field(name).value), float(self.field("ACCL").value),
                       axis.settle_s if b == goal else 0.0)
                for a, b, name in zip(stops[:-1], stops[1:], (speed, "BVEL"), strict=False)
            ])  # fmt: skip
        await self._until_rest()

    async def _go_together(self, goal: float) -> None:
        await show(self.field("DMOV"), 0)
        try:
            await self.stage.go_together(self.axis.name, goal)
        except Refused:
            await self.show_target(self.drive.dial)
            self._homing = self._jogging = False
            await show(self.field("DMOV"), 1)
            raise

    async def follow(self, way: Route) -> None:
        """Set out along a way that was found for all joints."""
        await self._set_out([way])

    async def _set_out(self, legs: Sequence[Travel | Route]) -> None:
        self._way = legs[-1].place(math.inf) - self.drive.dial
        if self.fault in ("stall", "short", "switch"):
            legs = [legs[0].cut(FAULT_SHARE)]
        self._stopped, self._paused, self._stalled = False, False, self.fault == "stall"
        self.drive.go(legs)
        if not self.moving:
            self.stage.depart(self.axis.name, self.drive)
            self._task = asyncio.create_task(self._run())

    async def _until_rest(self) -> None:
        if self._task is not None:
            await asyncio.shield(self._task)

    def stop(self) -> None:
        """Slow down and stand; nothing to a motor at rest."""
        if self.stage.linked:
            self.stage.halt()
        else:
            self.halt()

    def halt(self) -> None:
        """The same, for this motor alone."""
        if self.moving and not self._arriving:
            self.drive.brake()
            self._stopped, self._stalled, self._paused = True, False, False

    async def _run(self) -> None:
        drive = self.drive
        await self.show_start(self._way)
        while True:
            left, leg = drive.look(), drive.leg
            await self.show_place(drive.dial)
            if drive.moving != bool(self.field("MOVN").value):
                await show(self.field("MOVN"), int(drive.moving))
            if drive.leg is not leg:
                continue
            if left <= 0.0 and not self._stalled and not self._paused:
                if not drive.next_leg():
                    break
                continue
            wall = self.stage.wall_s(left)
            await asyncio.sleep(min(wall, TICK_S) if wall > 0.0 else TICK_S)
        self._arriving = True
        problem = ""
        try:
            drive.stand(await self.stage.arrive(self.axis.name))
        except Exception as error:  # axes that would meet, or anything else: the motor stands, and says so
            problem = str(error) or type(error).__name__
            drive.stand(float(self.stage.twin.positions[self.axis.name]))
        if self.fault == "switch" and not self._stopped:
            self.switch = 1 if self._way > 0.0 else -1
        elif self.switch and not problem:
            self.switch = 0
        if self._stopped or self._jogging or problem:
            await self.show_target(drive.dial)
        await self.show_place(drive.dial, whole=True)
        stalled = self._stopped and self.fault == "stall"
        await self.show_state(problem=bool(problem), stalled=stalled, homed=self._homing)
        if self.field("SPMG").value == "Move":
            await show(self.field("SPMG"), "Pause")
        await show(self.field("MOVN"), 0)
        self._arriving = self._homing = self._jogging = False
        await show(self.field("DMOV"), 1)

    async def set_fault(self, fault: str) -> None:
        """From the next motion on; ``none`` lets go of a switch, and clears the alarm."""
        if fault not in FAULTS:
            raise Refused(f"A motor's fault is one of {', '.join(FAULTS)}; {fault!r} came.")
        self.fault = fault
        self.switch = 0
        await self.show_place(self.drive.dial, whole=True)
        if not self.moving:
            await self.alarm_off()
            await self.show_state()
