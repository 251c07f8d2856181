"""A RunEngine that leaves nothing behind: no signal handler, no thread, no open event loop."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bluesky import RunEngine, SupplementalData

from lauepilot.hardware.records.local import LocalRecorder

logger = logging.getLogger("lauepilot.hardware")
Consumer = Callable[[str, Any], object]


class Spare:
    """A consumer that may fail without ending the run: the record is safe elsewhere.

    Parameters
    ----------
    consumer
        Called with each document until it raises; then not before the next run.

    Attributes
    ----------
    problem
        What it raised in the present or last run; None if nothing.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.problem: Exception | None = None

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Hand a document on; what is raised is logged, once."""
        if name == "start":
            self.problem = None
        if self.problem is not None:
            return
        try:
            self._consumer(name, doc)
        except Exception as error:  # whatever it is, the run has a record and motors in motion
            self.problem = error
            what = getattr(self._consumer, "__name__", type(self._consumer).__name__)
            logger.error("%s failed and gets no more of this run: %s: %s", what, type(error).__name__, error)


@contextmanager
def run_engine(
    *consumers: Consumer, in_main_thread: bool = False, baseline: Sequence[Any] = ()
) -> Iterator[RunEngine]:
    """A RunEngine for one block of code; ``RE(plan)`` returns a result with ``plan_result``.

    Parameters
    ----------
    consumers
        Called with each document, as `LocalRecorder`. If that cannot write, the run ends; beside it, any other may fail
        and the run goes on without. With no `LocalRecorder`, each one's failure ends the run.
    in_main_thread
        Whether Ctrl-C pauses the plan (once: at the next checkpoint, thrice: now); only there can it be caught.
    baseline
        Devices that are read at the beginning and at the end of each run, into the stream ``baseline``.

    Examples
    --------
    ::

        with run_engine(LocalRecorder("records")) as RE:
            result = RE(align_crystal(camera, goniometer, agent, target)).plan_result
    """
    engine = RunEngine({}, call_returns_result=True, context_managers=None if in_main_thread else [])
    if baseline:
        engine.preprocessors.append(SupplementalData(baseline=list(baseline)))  # type: ignore[no-untyped-call]
    recorded = any(isinstance(consumer, LocalRecorder) for consumer in consumers)
    for consumer in consumers:
        spare = recorded and not isinstance(consumer, LocalRecorder)
        engine.subscribe(Spare(consumer) if spare else consumer)  # type: ignore[no-untyped-call]
    try:
        yield engine
    finally:
        if engine.state != "idle":
            engine.abort("the program left while the plan was paused")  # type: ignore[no-untyped-call]
        for consumer in consumers:
            if isinstance(consumer, LocalRecorder):
                consumer.close()
        loop, thread = engine.loop, engine._th
        if (
            "aioca" in sys.modules
        ):  # channels of ophyd-async would call into the loop when an IOC goes, long closed
            loop.call_soon_threadsafe(sys.modules["aioca"].purge_channel_caches)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
