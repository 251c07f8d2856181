"""The fields of a motor record as clients see them; what they do is `lauepilot.hardware.epics.motor`'s.

Positions that clients see (user) are ``sign * dial + OFF``; the dial is the instrument's axis.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from caproto import AlarmSeverity, AlarmStatus, ChannelAlarm
from caproto.server import PVGroup, pvproperty

from lauepilot.hardware.epics.values import Double, show
from lauepilot.simulator.goniometer import Axis

# Bits of MSTA.
DIRECTION, DONE, PLUS_SWITCH, SLIP, PRESENT = 0x1, 0x2, 0x4, 0x40, 0x100
PROBLEM, MOVING, MINUS_SWITCH, HOMED = 0x200, 0x400, 0x2000, 0x4000

#: What can be wrong with a motor: it hangs half-way until it is stopped; ends half-way and says that it is done; meets a
#: limit switch half-way; reads another place than the one it is at.
FAULTS = ("none", "stall", "short", "switch", "readback")

#: Fields that share the alarm of the record: those that only the record writes.
_ALARMED = ("RBV", "DRBV", "DMOV", "MOVN", "HLS", "LLS", "MSTA")


class MotorPVs(PVGroup):  # type: ignore[misc]
    """A record of type ``motor``: VAL, and all fields of it.

    Parameters
    ----------
    axis
        Of the instrument.

    Attributes
    ----------
    soft
        The limits of the record, on the dial: never beyond those of the axis.
    switch
        +1 or -1 on the dial: the side of the limit switch that it stands on; 0 for none.
    target
        Where VAL says that it goes, on the dial.
    fault
        One of `FAULTS`.
    readback_error
        By how much a motor with the fault ``readback`` reads wrong, degrees or mm.
    """

    motor = pvproperty(value=0.0, name="", record="motor", dtype=Double, precision=4)

    def __init__(self, *args: Any, axis: Axis, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.axis = axis
        self.soft = axis.limits
        self.switch = 0
        self.target = 0.0
        self.fault = "none"
        self.readback_error = 1.0
        for name in _ALARMED:
            self.field(name).alarm = self.motor.alarm

    def field(self, name: str) -> Any:
        """A field of the record by its EPICS name; ``VAL`` is the record itself."""
        return self.motor if name == "VAL" else self.motor.fields[name]

    def connect(self, **putters: Callable[[Any, Any], Awaitable[Any]]) -> None:
        """Say what puts of clients do, by field; what a putter returns is stored, and nothing for None."""
        for name, putter in putters.items():
            field = self.field(name)
            field.putter = putter if name == "VAL" else _storing_itself(putter)
            if name != "VAL":
                field.alarm = ChannelAlarm()  # a refused limit is no alarm of the record

    def user(self, dial: float) -> float:
        """What clients see where the axis is at ``dial``."""
        return self.sign * dial + self.offset

    def dial(self, user: float) -> float:
        """Where the axis is, if clients see ``user``."""
        return self.sign * (user - self.offset)

    @property
    def sign(self) -> float:
        """Of user positions over dial ones: DIR."""
        return -1.0 if self.field("DIR").value == "Neg" else 1.0

    @property
    def offset(self) -> float:
        """OFF: what clients see where the dial is at zero."""
        return float(self.field("OFF").value)

    def span(self, limits: tuple[float, float]) -> str:
        """Limits on the dial in words, as clients see them."""
        low, high = sorted(map(self.user, limits))
        return f"{low:g} to {high:g} {self.axis.unit}"

    async def show_start(self, way: float) -> None:
        """It sets out, in this direction of the dial."""
        up = way * self.sign > 0.0
        await show(self.field("DMOV"), 0)
        await show(self.field("TDIR"), int(up))
        await show(self.field("MSTA"), PRESENT | MOVING | (DIRECTION if up else 0))
        await self.alarm_off()

    async def show_target(self, dial: float) -> None:
        """Where it is to go."""
        self.target = dial
        await show(self.motor, self.user(dial))
        await show(self.field("DVAL"), dial)
        await show(self.field("RVAL"), round(dial / self.axis.resolution))

    async def show_place(self, dial: float, *, whole: bool = False) -> None:
        """Where it is; ``whole`` with all that is only looked at when it rests."""
        read = dial + (self.readback_error if self.fault == "readback" else 0.0)
        await show(self.field("RBV"), self.user(read))
        await show(self.field("DRBV"), read)
        if whole:
            await show(self.field("RRBV"), round(read / self.axis.resolution))
            await show(self.field("DIFF"), self.target - read)
            await show(self.field("ATHM"), int(abs(read) < self.axis.resolution))

    async def show_limits(self) -> None:
        """The limits, in their fields and as control limits of VAL: without those, clients know of none."""
        low, high = sorted(map(self.user, self.soft))
        limits = {
            "lower_ctrl_limit": low,
            "upper_ctrl_limit": high,
            "lower_disp_limit": low,
            "upper_disp_limit": high,
        }
        await self.motor.write_metadata(**limits)
        await self.field("RBV").write_metadata(**limits)
        for name, value in {"LLM": low, "HLM": high, "DLLM": self.soft[0], "DHLM": self.soft[1]}.items():
            await show(self.field(name), value)

    async def show_frame(self, dial: float) -> None:
        """All that another offset or direction changes; nothing has moved."""
        await self.show_limits()
        await self.show_target(dial)
        await self.show_place(dial, whole=True)

    async def show_state(self, *, problem: bool = False, stalled: bool = False, homed: bool = False) -> None:
        """How it rests: switches, MSTA, alarm."""
        side = self.switch * int(self.sign)
        await show(self.field("HLS"), int(side > 0))
        await show(self.field("LLS"), int(side < 0))
        bits = DONE | PRESENT | (PLUS_SWITCH if side > 0 else MINUS_SWITCH if side < 0 else 0)
        bits |= (PROBLEM if problem or side else 0) | (SLIP if stalled else 0) | (HOMED if homed else 0)
        await show(self.field("MSTA"), bits)
        if problem or side:
            await self.alarm_on(side)

    async def alarm_on(self, side: int) -> None:
        """The record is in a major alarm: on a limit switch (``side`` +1 or -1), or with a problem of its controller."""
        status = AlarmStatus.HIHI if side > 0 else AlarmStatus.LOLO if side < 0 else AlarmStatus.STATE
        await self.motor.alarm.write(status=status, severity=AlarmSeverity.MAJOR_ALARM)

    async def alarm_off(self) -> None:
        """The record is well."""
        await self.motor.alarm.write(status=AlarmStatus.NO_ALARM, severity=AlarmSeverity.NO_ALARM)


def _storing_itself(putter: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    """caproto stores what a field was sent, if its putter returns None; here None means that nothing is to be stored."""
    from caproto import SkipWrite

    async def put(instance: Any, value: Any) -> Any:
        result = await putter(instance, value)
        if result is None:
            raise SkipWrite
        return result

    return put
