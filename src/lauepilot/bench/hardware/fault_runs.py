"""One alignment on a rig, with whatever is done to it, and what came of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bluesky.run_engine import RunEngineResult
from bluesky.utils import RunEngineInterrupted

from lauepilot.bench.hardware.outcome import FaultOutcome
from lauepilot.bench.hardware.rig import Rig, Run, ScriptedAgent, align, recorded_engine
from lauepilot.hardware.plans.align import AlignResult

#: A rig of one setting, at a speed of its clock: 0 is at once, where the setting can do that.
Maker = Callable[[float], Rig]
Fault = Callable[[str, Maker], FaultOutcome]


def run(
    rig: Rig,
    agent: ScriptedAgent | None = None,
    *,
    interrupted: Callable[[Any], object] | None = None,
    mutate: Callable[[Any], Any] = lambda plan: plan,
    in_main_thread: bool = False,
    prepare: Callable[[Any], object] = lambda engine: None,
    **how: Any,
) -> Run:
    """One alignment on a rig, in a folder that the caller's `judge` may read until the process ends.

    Parameters
    ----------
    agent
        None for the usual script.
    interrupted
        Called with the RunEngine when the run was interrupted (paused); its result counts.
    mutate
        Makes another plan of the alignment's.
    prepare
        Called with the RunEngine before the run.
    """
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS[-1]))
    result: Any = None
    error: BaseException | None = None
    with recorded_engine(folder, rig.eyes.instrument, in_main_thread) as (engine, documents, recorder):
        rig.connect(engine)
        prepare(engine)
        try:
            finished = engine(mutate(align(rig, agent or ScriptedAgent(), **how)))
        except RunEngineInterrupted as interruption:
            error, finished = interruption, None
            if interrupted is not None and engine.state == "paused":
                error = None
                try:
                    finished = interrupted(engine)
                except Exception as failure:  # what the user would see
                    error = failure
        except Exception as failure:
            error, finished = failure, None
        if isinstance(finished, RunEngineResult):
            result = finished.plan_result if isinstance(finished.plan_result, AlignResult) else None
    return Run(result, error, documents, recorder.path)


_FOLDERS: list[str | None] = [None]


@contextmanager
def folders() -> Iterator[None]:
    """A folder for the records of all runs of one block of code."""
    with tempfile.TemporaryDirectory() as folder:
        _FOLDERS.append(folder)
        try:
            yield
        finally:
            _FOLDERS.pop()
