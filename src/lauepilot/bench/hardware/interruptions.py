"""Faults of people and of the RunEngine: pauses, aborts, halts, Ctrl-C and suspenders, in a motion and at every message."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.suspenders import SuspendBoolHigh
from bluesky.utils import Msg, RunEngineInterrupted
from ophyd import Signal

from lauepilot.bench.hardware.fault_runs import Fault, Maker, Session, run, session
from lauepilot.bench.hardware.outcome import FaultOutcome
from lauepilot.bench.hardware.rig import Rig, Run, ScriptedAgent, judge, when

#: The clock's speed where alignments are interrupted at every message: slow enough that the one after a motion's start comes
#: while it goes on.
MESSAGES_SPEED = 50.0


def while_busy(act: str) -> Fault:
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
        agent = ScriptedAgent()
        with when(lambda: agent.played >= 2 and rig.goniometer.busy, lambda: engines[0].request_pause()):
            outcome = run(rig, agent, interrupted=then, prepare=engines.append)
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


def ctrl_c(name: str, make: Maker) -> FaultOutcome:
    """One Ctrl-C in a motion, and then the abort that a program makes of it."""
    rig = make(10.0)
    if threading.current_thread() is not threading.main_thread():
        return FaultOutcome(
            name, rig.how, False, False, False, False, "needs the main thread, where Python takes signals"
        )
    agent = ScriptedAgent()
    with when(lambda: agent.played >= 2 and rig.goniometer.busy, lambda: os.kill(os.getpid(), signal.SIGINT)):
        outcome = run(rig, agent, interrupted=lambda engine: engine.abort("Ctrl-C"), in_main_thread=True)
    if outcome.error is None and outcome.result is None:
        outcome.error = RunEngineInterrupted("RE.abort() after Ctrl-C")
    return judge(name, rig, outcome, status="abort", reason="Ctrl-C", says="RE.abort()")


def suspended(name: str, make: Maker) -> FaultOutcome:
    """The beam is lost in an exposure, and comes back."""
    rig = make(10.0)
    shutter = Signal(name="beam_lost", value=0)

    def trip() -> None:
        shutter.put(1)
        threading.Timer(0.3, lambda: shutter.put(0)).start()

    agent = ScriptedAgent()
    loss = SuspendBoolHigh(shutter, sleep=0)  # type: ignore[no-untyped-call]
    with when(lambda: agent.played >= 1 and rig.camera.busy, trip):
        outcome = run(rig, agent, prepare=lambda engine: engine.install_suspender(loss))
    return judge(name, rig, outcome, status="success", reason="declared", says="", went_on=True)


def _with_pause_at(plan: Any, number: int, seen: list[int]) -> Any:
    """The plan with a pause before its message ``number``; ``seen`` gets one entry for each message."""

    def insert(message: Msg) -> tuple[Any, None]:
        seen.append(1)
        if len(seen) != number + 1:
            return None, None

        def both() -> Any:
            yield Msg("pause", defer=False)  # type: ignore[no-untyped-call]
            return (yield message)

        return both(), None

    return bpp.plan_mutator(plan, insert)  # type: ignore[no-untyped-call]


def at_every_message(act: str, every: int = 1) -> Fault:
    """Paused before each message of the plan in turn, and resumed or aborted: as many alignments as there are messages.

    They follow one another on the same devices and the same RunEngine, as a user's do: what an interruption leaves behind
    is the next one's trouble.

    Parameters
    ----------
    act
        ``resume`` or ``abort``.
    every
        Only at each so-many-th message.
    """

    def fault(name: str, make: Maker) -> FaultOutcome:
        number, worst = 0, None
        rig = make(MESSAGES_SPEED)
        with session(rig) as alignments:
            while True:
                seen: list[int] = []
                outcome = _interrupted_at(alignments, act, number, seen)
                all_tried = len(seen) <= number  # the plan had no such message, and was left alone
                judged = _judged(name, rig, outcome, "resume" if all_tried else act)
                if not judged.passed and worst is None:
                    worst = (number, judged)
                if all_tried:
                    break
                number += every
                rig.anew()
        tried = len(range(0, number, every))
        how = f"{name} ({tried} messages)"
        if worst is None:
            return FaultOutcome(how, rig.how, True, True, True, True, f"each of {tried} messages")
        at, row = worst
        return FaultOutcome(
            how, row.how, row.at_rest, row.closed_truthfully, row.nothing_lost, row.went_on_or_said,
            f"at message {at}: {row.detail}",
        )  # fmt: skip

    return fault


def _interrupted_at(alignments: Session, act: str, number: int, seen: list[int]) -> Run:
    return alignments.run(
        interrupted=lambda engine: engine.resume() if act == "resume" else engine.abort("by hand"),
        mutate=lambda plan: _with_pause_at(plan, number, seen),
    )


def _judged(name: str, rig: Rig, outcome: Run, act: str) -> FaultOutcome:
    if act == "resume":
        return judge(name, rig, outcome, status="success", reason="declared", says="", went_on=True)
    # Before the run is open there is nothing to close, after it is closed it is what it was.
    stops = [doc for kind, doc in outcome.documents if kind == "stop"]
    closed_before = bool(stops) and stops[0]["exit_status"] == "success"
    status = "" if not outcome.documents else "success" if closed_before else "abort"
    outcome.error, outcome.result = RunEngineInterrupted("ended by RE.abort()"), None
    reason = "declared" if closed_before else "by hand" if status else ""
    return judge(name, rig, outcome, status=status, reason=reason, says="RE.abort()")
