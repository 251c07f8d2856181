"""A RunEngine that leaves nothing behind: no signal handler, no thread, no open event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bluesky import RunEngine

from lauepilot.hardware.records.local import LocalRecorder


@contextmanager
def run_engine(*consumers: Callable[[str, Any], object], in_main_thread: bool = False) -> Iterator[RunEngine]:
    """A RunEngine for one block of code; ``RE(plan)`` returns a result with ``plan_result``.

    Parameters
    ----------
    consumers
        Called with each document, as `LocalRecorder`.
    in_main_thread
        Whether Ctrl-C pauses the plan (once: at the next checkpoint, thrice: now); only there can it be caught.

    Examples
    --------
    ::

        with run_engine(LocalRecorder("records")) as RE:
            result = RE(align_crystal(camera, goniometer, agent, target)).plan_result
    """
    engine = RunEngine({}, call_returns_result=True, context_managers=None if in_main_thread else [])
    for consumer in consumers:
        engine.subscribe(consumer)  # type: ignore[no-untyped-call]
    try:
        yield engine
    finally:
        if engine.state != "idle":
            engine.abort("the program left while the plan was paused")  # type: ignore[no-untyped-call]
        for consumer in consumers:
            if isinstance(consumer, LocalRecorder):
                consumer.close()
        loop, thread = engine.loop, engine._th
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
