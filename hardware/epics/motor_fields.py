"""The fields of a motor record as clients see them; what they do is `lauepilot.hardware.epics.motor`'s."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from caproto import AlarmSeverity, AlarmStatus, ChannelAlarm
from caproto.server import PVGroup, pvproperty

from lauepilot.hardware.epics.values import Double

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

    Attributes
    ----------
    fault
        One of `FAULTS`.
    readback_error
        By how much a motor with the fault ``readback`` reads wrong, degrees or mm.
    """

    motor = pvproperty(value=0.0, name="", record="motor", dtype=Double, precision=4)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
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
