"""The fault table: what can go wrong at an instrument, done to an alignment, and what is left afterwards.

After each fault the motors must rest within their limits, the record be closed with the exit status that is true, nothing
that was recorded be lost, and the alignment have gone on or the error have said what to do (`FaultOutcome`).
"""

from __future__ import annotations

import importlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.run_engine import RunEngineResult
from bluesky.suspenders import SuspendBoolHigh
from bluesky.utils import Msg, RunEngineInterrupted
from ophyd import Signal

from lauepilot.bench.faults import FaultOutcome
from lauepilot.bench.figures import Figure, share
from lauepilot.bench.hardware_rig import (
    SCRIPT,
    DummyEyes,
    Rig,
    Run,
    ScriptedAgent,
    align,
    in_process,
    judge,
    recorded_engine,
    when,
)
from lauepilot.hardware.plans.align import AlignResult
from lauepilot.perception.observation import GiveUp, Move

#: A rig of one setting, at a speed of its clock: 0 is at once, where the setting can do that.
Maker = Callable[[float], Rig]
Fault = Callable[[str, Maker], FaultOutcome]

#: Modules with further ``FAULTS``: name -> function without arguments.
ELSEWHERE = ("lauepilot.bench.hardware_records",)


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
    with recorded_engine(folder, in_main_thread) as (engine, documents, recorder):
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
def _folders() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        _FOLDERS.append(folder)
        try:
            yield
        finally:
            _FOLDERS.pop()


def _broken(
    status: str, reason: str, says: str, agent: tuple[object, ...] = (), repair_s: float | None = None
) -> Fault:
    """A fault of the world, there from the beginning."""

    def fault(name: str, make: Maker) -> FaultOutcome:
        rig = make(0.0)
        rig.break_it[name]()
        repair = threading.Timer(repair_s, rig.break_it["repair"]) if repair_s is not None else None
        if repair is not None:
            repair.start()
        outcome = run(rig, ScriptedAgent(*agent))
        if repair is not None:
            repair.join()
        return judge(name, rig, outcome, status=status, reason=reason, says=says)

    return fault


def _stop_elsewhere(name: str, make: Maker) -> FaultOutcome:
    rig = make(10.0)
    stop = rig.break_it.get(name, lambda: rig.goniometer.stop(success=True))
    with when(lambda: rig.goniometer.busy, stop, 0.3):
        outcome = run(rig, ScriptedAgent(Move({"omega": 90.0}), GiveUp("not reached")))
    return judge(name, rig, outcome, status="fail", reason="stopped", says="start again")


def _by_hand(name: str, make: Maker) -> FaultOutcome:
    rig = make(0.0)

    class Distracted(ScriptedAgent):
        def decide(self, observation: Any) -> Any:
            decision = super().decide(observation)
            if self.played == len(SCRIPT):
                rig.break_it[name]()
            return decision

    return judge(
        name,
        rig,
        run(rig, Distracted()),
        status="fail",
        reason="somebody moved it",
        says="Start the alignment again",
    )


def _raises(who: str) -> Fault:
    def fault(name: str, make: Maker) -> FaultOutcome:
        rig = make(0.0)
        problem = ZeroDivisionError("float division by zero")
        how: dict[str, Any] = {}
        agent = ScriptedAgent(*SCRIPT[:2], problem) if who == "agent" else ScriptedAgent()
        if who == "observer":
            how["observer"] = _Blind(rig.eyes.instrument, problem)
        return judge(
            name,
            rig,
            run(rig, agent, **how),
            status="fail",
            reason=str(problem),
            says="go on from the record",
        )

    return fault


class _Blind(DummyEyes):
    def __init__(self, instrument: Any, problem: Exception) -> None:
        super().__init__(instrument)
        self.problem = problem

    def observe(self, *args: Any, **kwargs: Any) -> Any:
        raise self.problem


def _nonsense(name: str, make: Maker) -> FaultOutcome:
    rig = make(0.0)
    outcome = run(rig, ScriptedAgent(SCRIPT[0], {"omega": 1e9}))
    return judge(name, rig, outcome, status="fail", reason="refused", says="must return a Move")


def _beyond(name: str, make: Maker) -> FaultOutcome:
    rig = make(0.0)
    outcome = run(rig, ScriptedAgent(SCRIPT[0], Move({"omega": 1e9})))
    return judge(name, rig, outcome, status="fail", reason="refused", says="Choose a position inside them")


def _while_busy(act: str) -> Fault:
    """Paused in the middle of a motion, and then ended by ``act`` of the RunEngine, or resumed."""

    def fault(name: str, make: Maker) -> FaultOutcome:
        rig = make(10.0)

        def then(engine: Any) -> Any:
            return (
                engine.resume()
                if act == "resume"
                else getattr(engine, act)(*(["by hand"] if act == "abort" else []))
            )

        engines: list[Any] = []
        with when(lambda: rig.goniometer.busy, lambda: engines[0].request_pause()):
            outcome = run(rig, interrupted=then, prepare=engines.append)
        expected = {
            "abort": ("abort", "by hand"),
            "halt": ("abort", ""),
            "stop": ("success", ""),
            "resume": ("success", ""),
        }
        status, reason = expected[act]
        if act != "resume" and outcome.error is None and outcome.result is None:
            outcome.error = RunEngineInterrupted(f"ended by RE.{act}()")
        return judge(
            name, rig, outcome, status=status, reason=reason, says=f"RE.{act}()", went_on=act == "resume"
        )

    return fault


def _ctrl_c(name: str, make: Maker) -> FaultOutcome:
    rig = make(10.0)
    if threading.current_thread() is not threading.main_thread():
        return FaultOutcome(
            name, rig.how, False, False, False, False, "needs the main thread, where Python takes signals"
        )
    with when(lambda: rig.goniometer.busy, lambda: os.kill(os.getpid(), signal.SIGINT)):
        outcome = run(rig, interrupted=lambda engine: engine.abort("Ctrl-C"), in_main_thread=True)
    if outcome.error is None and outcome.result is None:
        outcome.error = RunEngineInterrupted("RE.abort() after Ctrl-C")
    return judge(name, rig, outcome, status="abort", reason="Ctrl-C", says="RE.abort()")


def _suspended(name: str, make: Maker) -> FaultOutcome:
    rig = make(10.0)
    shutter = Signal(name="beam_lost", value=0)

    def trip() -> None:
        shutter.put(1)
        threading.Timer(0.3, lambda: shutter.put(0)).start()

    with when(lambda: rig.camera.busy, trip):
        outcome = run(rig, prepare=lambda engine: engine.install_suspender(SuspendBoolHigh(shutter, sleep=0)))
    return judge(name, rig, outcome, status="success", reason="declared", says="", went_on=True)


def _with_pause_at(plan: Any, number: int, seen: list[int]) -> Any:
    """The plan with a pause before its message ``number``; ``seen`` gets one entry for each message."""

    def insert(message: Msg) -> tuple[Any, None]:
        seen.append(1)
        if len(seen) != number + 1:
            return None, None

        def both() -> Any:
            yield Msg("pause", defer=False)
            return (yield message)

        return both(), None

    return bpp.plan_mutator(plan, insert)  # type: ignore[no-untyped-call]


def at_every_message(act: str, every: int = 1) -> Fault:
    """Paused before each message of the plan in turn, and resumed or aborted: as many alignments as there are messages.

    Parameters
    ----------
    act
        ``resume`` or ``abort``.
    every
        Only at each so-many-th message.
    """

    def fault(name: str, make: Maker) -> FaultOutcome:
        number, worst, tried = 0, None, range(0)
        while True:
            rig, seen = make(0.0), []  # type: ignore[var-annotated]

            def then(engine: Any) -> Any:
                return engine.resume() if act == "resume" else engine.abort("by hand")

            def mutate(plan: Any, number: int = number, seen: list[int] = seen) -> Any:
                return _with_pause_at(plan, number, seen)

            outcome = run(rig, interrupted=then, mutate=mutate)
            if len(seen) <= number:  # the plan had no such message: all were tried
                break
            stops = [doc for kind, doc in outcome.documents if kind == "stop"]
            if act == "resume":
                judged = judge(name, rig, outcome, status="success", reason="declared", says="", went_on=True)
            else:
                # Before the run is open there is nothing to close, after it is closed it is what it was.
                closed_before = bool(stops) and stops[0]["exit_status"] == "success"
                status = "" if not outcome.documents else "success" if closed_before else "abort"
                outcome.error, outcome.result = RunEngineInterrupted("ended by RE.abort()"), None
                reason = "declared" if closed_before else "by hand" if status else ""
                judged = judge(name, rig, outcome, status=status, reason=reason, says="RE.abort()")
            if not judged.passed and worst is None:
                worst = (number, judged)
            number += every
        tried = range(0, number, every)
        how = f"{name} ({len(tried)} messages)"
        if worst is None:
            return FaultOutcome(how, rig.how, True, True, True, True, f"each of {len(tried)} messages")
        at, row = worst
        return FaultOutcome(
            how, row.how, row.at_rest, row.closed_truthfully, row.nothing_lost, row.went_on_or_said,
            f"at message {at}: {row.detail}",
        )  # fmt: skip

    return fault


#: The faults of a world that can be broken, of the RunEngine and of the people around it.
FAULTS: dict[str, Fault] = {
    "motor stalls": _broken("fail", "stopped short", "Look for an obstacle"),
    "motor stops short": _broken("fail", "stopped short", "Look for an obstacle"),
    "limit switch": _broken("fail", "omega", "limit switch"),
    "read-back off by 1 deg": _broken("fail", "stopped short", "then start again"),
    "motor never answers": _broken("fail", "not answered", "Check its controller", repair_s=1.5),
    "camera never ready": _broken("fail", "not answered", "Check its controller", repair_s=1.5),
    "camera: wrong shape": _broken("fail", "shape", "Check binning"),
    "camera: NaN frame": _broken("success", "gave_up: The last frame cannot be used", "NaN"),
    "STOP pressed elsewhere": _stop_elsewhere,
    "moved by hand": _by_hand,
    "agent raises": _raises("agent"),
    "observer raises": _raises("observer"),
    "agent returns nonsense": _nonsense,
    "agent sends an axis away": _beyond,
    "pause and resume in a motion": _while_busy("resume"),
    "abort in a motion": _while_busy("abort"),
    "stop in a motion": _while_busy("stop"),
    "halt in a motion": _while_busy("halt"),
    "Ctrl-C": _ctrl_c,
    "suspender trips": _suspended,
    "pause and resume at every message": at_every_message("resume"),
    "abort at every message": at_every_message("abort"),
}


def outcomes(
    names: list[str] | None = None,
    settings: tuple[str, ...] = ("in process",),
    say: Callable[[str], None] = print,
) -> list[FaultOutcome]:
    """Rows of the fault table.

    Parameters
    ----------
    names
        Faults to try; None for all.
    settings
        Of ``in process``, ``EPICS, ophyd`` and ``EPICS, ophyd-async``.
    say
        Told each fault before it is tried.

    Raises
    ------
    ValueError
        If there is no such fault or setting.
    """
    rows = []
    known = _all_faults()
    for name in names or []:
        if name not in known:
            raise ValueError(f"There is no fault {name!r}. Known: {', '.join(known)}.")
    with _folders():
        for setting in settings:
            for name, fault in known.items():
                if names is not None and name not in names:
                    continue
                if setting in _WHERE.get(name, SETTINGS):
                    say(f"{setting}: {name}")
                    rows.append(_tried(name, setting, fault))
    return rows


def _tried(name: str, setting: str, fault: Fault) -> FaultOutcome:
    try:
        return fault(name, _MAKERS[setting])
    except Exception as error:  # a fault that breaks its own referee was not survived
        return FaultOutcome(name, setting, False, False, False, False, f"{type(error).__name__}: {error}")


#: Settings in which faults can be tried.
SETTINGS = ("in process",)
EPICS: tuple[str, ...] = ()
_MAKERS: dict[str, Maker] = {"in process": in_process}
#: Faults that are tried in some settings only.
_WHERE: dict[str, tuple[str, ...]] = {}


def _all_faults() -> dict[str, Fault]:
    faults = dict(FAULTS)
    for module in ELSEWHERE:
        try:
            found = importlib.import_module(module).FAULTS
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            continue
        for name, fault in found.items():
            faults[name] = lambda name, make, fault=fault: fault()
            _WHERE[name] = ("in process",)
    return faults


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """The figure ``faults_survived``: the share of rows of the fault table in which all four things hold."""
    rows = outcomes(settings=(*SETTINGS, *EPICS), say=say)
    table = [
        {
            "fault": row.name, "how": row.how, "at_rest": row.at_rest, "closed_truthfully": row.closed_truthfully,
            "nothing_lost": row.nothing_lost, "went_on_or_said": row.went_on_or_said, "detail": row.detail,
        }
        for row in rows
    ]  # fmt: skip
    return [share("faults_survived", [row.passed for row in rows], {"rows": table})]
