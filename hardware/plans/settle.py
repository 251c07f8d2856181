"""At rest, whatever happened before: the clean-up that every plan of ours ends with."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import FailedStatus, Msg

from lauepilot.hardware.errors import HardwareError

logger = logging.getLogger("lauepilot.hardware")
Plan = Generator[Msg, Any, Any]

#: Wall seconds that an IOC which has gone may take to come back before a plan ends without it.
LOST_S = 5.0


def settle(*devices: Any, timeout_s: float = 60.0) -> Plan:
    """Stop devices and wait until they are at rest, also while the RunEngine aborts.

    A motion that was interrupted fails its status *after* the abort was thrown into the plan; the RunEngine throws that
    failure at the next message, and a clean-up that does not expect it is lost (FACTS of ophyd v1: bluesky/ophyd#734
    and its kin). Here such late failures are logged and left behind.
    """
    problem: HardwareError | None = None
    for device in devices:
        try:
            yield from _patiently(lambda device=device: bps.stop(device))
        except HardwareError as error:  # told when the others are stopped too
            logger.error("%s: %s", device.name, error)
            problem = problem or error
    waited = 0.0
    while any(device.busy for device in devices):
        lost = [device.name for device in devices if device.busy and not getattr(device, "reachable", True)]
        if lost and waited > LOST_S:
            raise HardwareError(
                f"{', '.join(lost)} does not answer: whether all is at rest there is not known. Look at the motors and the "
                "shutter, restart the IOC, and then start again; what was measured until here is in the records."
            )
        if waited > timeout_s:
            names = ", ".join(device.name for device in devices if device.busy)
            raise HardwareError(f"{names} not at rest {timeout_s:g} s after a stop. Use the emergency stop.")
        yield from _patiently(lambda: bps.sleep(0.02))
        waited += 0.02
    for _ in range(2):  # a status finishes on a thread of its own, a little after its device
        yield from _patiently(lambda: bps.sleep(0.05))
    if problem is not None:
        raise problem


def ready(*devices: Any, timeout_s: float = 30.0) -> Plan:
    """Wait until devices are free, and let their monitors catch up.

    After a pause the engine says the same messages again, at once: a motor that was stopped may still be coming to rest
    then. This one message is said again too, and waits. Devices of ophyd-async hear nothing while an agent thinks, since
    both live in the engine's loop: what they read is of now only after it.
    """

    async def free() -> None:
        end = time.monotonic() + timeout_s
        await asyncio.sleep(0.01)
        while any(device.busy for device in devices):
            if time.monotonic() > end:
                names = ", ".join(device.name for device in devices if device.busy)
                raise HardwareError(
                    f"{names} is busy since {timeout_s:g} s. Look who moves or exposes there, and stop it."
                )
            await asyncio.sleep(0.01)

    tasks = yield from bps.wait_for([free])
    for task in tasks or ():  # nothing comes back where the messages are only read
        task.result()


def close_run(exit_status: str, reason: str) -> Plan:
    """Close the run, once: whoever pauses just then resumes after it, instead of recording into a closed run."""

    def end() -> Plan:
        return (yield from bps.close_run(exit_status=exit_status, reason=reason))

    yield from bps.checkpoint()
    yield from bpp.rewindable_wrapper(end(), False)  # type: ignore[no-untyped-call]


def _patiently(stub: Any) -> Plan:
    try:
        yield from stub()
    except FailedStatus as error:
        logger.info("a motion or exposure ended early during clean-up: %s", error.__cause__ or error)
