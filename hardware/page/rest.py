"""Whether devices are at rest, and how they are brought to it from outside of a plan."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from bluesky.run_engine import get_bluesky_event_loop

from lauepilot.hardware.page.job import Job


def devices(job: Job) -> tuple[Any, Any]:
    """What can move or be open: goniometer and camera."""
    return job.goniometer, job.camera


def busy(device: Any) -> bool:
    """Whether a device is not known to be at rest; one that does not answer is not."""
    try:
        return bool(device.busy)
    except Exception:
        return True


def wait_for_rest(job: Job, timeout_s: float) -> list[str]:
    """Names of the devices that are not known to be at rest after at most ``timeout_s``; none if all are."""
    end = time.monotonic() + timeout_s
    while True:
        names = [device.name for device in devices(job) if busy(device)]
        if not names or time.monotonic() >= end:
            return names
        time.sleep(0.005)


def stop(device: Any, loop: Any, complain: Callable[[str], None]) -> None:
    """Stop a device of any kind; ``loop`` is the RunEngine's, or None. What goes wrong is told, not raised."""
    try:
        stopping = device.stop()
        if inspect.iscoroutine(stopping):  # ophyd-async: on the loop where its signals live
            home = get_bluesky_event_loop() if loop is None else loop  # type: ignore[no-untyped-call]
            asyncio.run_coroutine_threadsafe(stopping, home).result(5.0)
    except Exception as error:
        complain(f"stopping {device.name}: {error}")
