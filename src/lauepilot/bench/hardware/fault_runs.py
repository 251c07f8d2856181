"""Alignments on a rig, with whatever is done to them, and what came of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bluesky.run_engine import RunEngineResult
from bluesky.utils import RunEngineInterrupted

from lauepilot.bench.hardware.outcome import FaultOutcome
from lauepilot.bench.hardware.rig import Rig, Run, ScriptedAgent, align, recorded_engine
from lauepilot.hardware.plans.align import AlignResult
from lauepilot.hardware.records.local import LocalRecorder

#: A rig of one setting, at a speed of its clock: 0 is at once, where the setting can do that.
Maker = Callable[[float], Rig]
Fault = Callable[[str, Maker], FaultOutcome]


@dataclass
class Session:
    """A rig with one RunEngine and one pair of devices, for one alignment after the other; make one with `session`."""

    rig: Rig
    engine: Any
    documents: list[tuple[str, dict[str, Any]]]
    recorder: LocalRecorder

    def run(
        self,
        agent: ScriptedAgent | None = None,
        *,
        interrupted: Callable[[Any], object] | None = None,
        mutate: Callable[[Any], Any] = lambda plan: plan,
        **how: Any,
    ) -> Run:
        """One alignment.

        Parameters
        ----------
        agent
            None for the usual script.
        interrupted
            Called with the RunEngine when the run was interrupted (paused); its result counts.
        mutate
            Makes another plan of the alignment's.
        """
        self.documents.clear()
        engine, finished = self.engine, None
        error: BaseException | None = None
        try:
            finished = engine(mutate(align(self.rig, agent or ScriptedAgent(), **how)))
        except RunEngineInterrupted as interruption:
            error = interruption
            if interrupted is not None and engine.state == "paused":
                error = None
                try:
                    finished = interrupted(engine)
                except Exception as failure:  # what the user would see
                    error = failure
        except Exception as failure:
            error = failure
        if engine.state != "idle":
            engine.abort("left while the plan was paused")
        result = finished.plan_result if isinstance(finished, RunEngineResult) else None
        return Run(
            result if isinstance(result, AlignResult) else None,
            error,
            list(self.documents),
            self.recorder.path if self.documents else None,
        )


@contextmanager
def session(rig: Rig, in_main_thread: bool = False) -> Iterator[Session]:
    """Alignments on a rig, one after the other, in a folder that the caller's `judge` may read until the process ends."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS[-1]))
    with recorded_engine(folder, rig.eyes.instrument, in_main_thread) as (engine, documents, recorder):
        rig.connect(engine)
        yield Session(rig, engine, documents, recorder)


def run(
    rig: Rig,
    agent: ScriptedAgent | None = None,
    *,
    in_main_thread: bool = False,
    prepare: Callable[[Any], object] = lambda engine: None,
    **how: Any,
) -> Run:
    """One alignment in a session of its own; ``prepare`` gets the RunEngine before, the rest is `Session.run`'s."""
    with session(rig, in_main_thread) as alone:
        prepare(alone.engine)
        return alone.run(agent, **how)


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
