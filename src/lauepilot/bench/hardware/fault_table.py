"""The fault table: what can go wrong at an instrument, done to an alignment, and what is left afterwards.

After each fault the motors must rest within their limits, the record be closed with the exit status that is true, nothing
that was recorded be lost, and the alignment have gone on or the error have said what to do (`FaultOutcome`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lauepilot.bench.hardware.fault_runs import Fault, Maker, folders, run
from lauepilot.bench.hardware.faults import EPICS, SETTINGS
from lauepilot.bench.hardware.faults_records import small_disk
from lauepilot.bench.hardware.interruptions import at_every_message, ctrl_c, suspended, while_busy
from lauepilot.bench.hardware.outcome import FaultOutcome
from lauepilot.bench.hardware.rig import (
    SCRIPT,
    DummyEyes,
    ScriptedAgent,
    in_process,
    judge,
    when,
)
from lauepilot.perception.observation import GiveUp, Move

#: Modules with further ``FAULTS``: name -> function without arguments.
ELSEWHERE = ("lauepilot.bench.hardware.faults_records",)


def _broken(
    status: str, reason: str, says: str, agent: tuple[object, ...] = (), repair_s: float | None = None
) -> Fault:
    """A fault of the world, there from the beginning; repaired so long after the device concerned began to be busy."""

    def fault(name: str, make: Maker) -> FaultOutcome:
        rig = make(0.0)
        rig.break_it[name]()
        if repair_s is None:
            outcome = run(rig, ScriptedAgent(*agent))
        else:
            device = rig.camera if name.startswith("camera") else rig.goniometer
            with when(lambda: bool(device.busy), rig.break_it["repair"], repair_s):
                outcome = run(rig, ScriptedAgent(*agent))
        return judge(name, rig, outcome, status=status, reason=reason, says=says)

    return fault


def _stop_elsewhere(name: str, make: Maker) -> FaultOutcome:
    rig = make(10.0)
    stop = rig.break_it.get(name, lambda: rig.goniometer.stop(success=True))
    agent = ScriptedAgent(Move({"omega": 90.0}), GiveUp("not reached"))
    with when(lambda: agent.played >= 1 and rig.goniometer.busy, stop, 0.3):
        outcome = run(rig, agent)
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


def _full_disk(name: str, make: Maker) -> FaultOutcome:
    rig = make(0.0)
    with small_disk(frames=1):
        outcome = run(rig)
    return judge(name, rig, outcome, status="fail", reason="No space left", says="Make room")


def _ioc_goes(name: str, make: Maker) -> FaultOutcome:
    """The IOC dies or freezes while a motor moves; once it is back, an alignment on the same devices works."""
    rig = make(10.0)
    agent = ScriptedAgent(Move({"omega": 60.0}), GiveUp("not reached"))
    with when(lambda: agent.played >= 1 and rig.goniometer.busy, rig.break_it[name], 0.2):
        outcome = run(rig, agent)
    judged = judge(
        name,
        rig,
        outcome,
        status="fail",
        reason="answer|stopped|has not moved",
        says="records|start again|controller",
    )
    again = run(make(0.0))
    if again.result is None or again.result.outcome != "declared":
        return replace(
            judged, went_on_or_said=False, detail=f"no second alignment: {again.error}; {judged.detail}"
        )
    return judged


#: The faults of a world that can be broken, of the RunEngine and of the people around it.
FAULTS: dict[str, Fault] = {
    "motor stalls": _broken("fail", "stopped short|has not moved", "Look for an obstacle"),
    "motor stops short": _broken("fail", "stopped short|has not moved", "Look for an obstacle"),
    "limit switch": _broken("fail", "omega", "limit switch"),
    "read-back off by 1 deg": _broken("fail", "stopped short", "then start again"),
    "motor never answers": _broken("fail", "not answered", "Check its controller", repair_s=1.5),
    "camera never ready": _broken(
        "fail", "not answered|no image", "Check its (controller|link)", repair_s=1.5
    ),
    "camera: wrong shape": _broken("fail", "shape", "Check binning"),
    "camera: no image": _broken("fail", "without an image|no image", "ArrayCallbacks"),
    "camera: NaN frame": _broken("success", "gave_up: The last frame cannot be used", "NaN"),
    "STOP pressed elsewhere": _stop_elsewhere,
    "moved by hand": _by_hand,
    "IOC frozen": _ioc_goes,
    "IOC killed and restarted": _ioc_goes,
    "full disk": _full_disk,
    "agent raises": _raises("agent"),
    "observer raises": _raises("observer"),
    "agent returns nonsense": _nonsense,
    "agent sends an axis away": _beyond,
    "pause and resume in a motion": while_busy("resume"),
    "abort in a motion": while_busy("abort"),
    "stop in a motion": while_busy("stop"),
    "halt in a motion": while_busy("halt"),
    "Ctrl-C": ctrl_c,
    "suspender trips": suspended,
    "pause and resume at every message": at_every_message("resume"),
    "abort at every message": at_every_message("abort"),
}


def table(
    names: list[str] | None, settings: tuple[str, ...], say: Callable[[str], None]
) -> list[FaultOutcome]:
    """See `lauepilot.bench.hardware.faults.outcomes`."""
    for setting in settings:
        if setting not in (*SETTINGS, *EPICS):
            raise ValueError(f"There is no setting {setting!r}. Known: {', '.join((*SETTINGS, *EPICS))}.")
    known = {setting: _faults_in(setting) for setting in settings}
    every = dict.fromkeys(name for faults in known.values() for name in faults)
    for name in names or []:
        if name not in every:
            raise ValueError(f"There is no fault {name!r} here. Known: {', '.join(every)}.")
    rows = []
    with folders():
        for setting in settings:
            tried = {n: f for n, f in known[setting].items() if names is None or n in names}
            if not tried:
                continue
            with _maker(setting) as make:
                for name, fault in tried.items():
                    say(f"{setting}: {name}")
                    rows.append(_tried(name, setting, fault, make))
    return rows


@contextmanager
def _maker(setting: str) -> Iterator[Maker]:
    if setting in SETTINGS:
        yield in_process
    else:
        # Not before: it imports Channel Access.
        from lauepilot.bench.hardware.rig_epics import epics_maker

        with epics_maker(setting) as make:
            yield make


def _tried(name: str, setting: str, fault: Fault, make: Maker) -> FaultOutcome:
    try:
        return fault(name, make)
    except Exception as error:  # a fault that breaks its own referee was not survived
        return FaultOutcome(name, setting, False, False, False, False, f"{type(error).__name__}: {error}")


#: Faults that exist in some settings only: an integer is never NaN, a program has no IOC.
_WHERE: dict[str, tuple[str, ...]] = {
    "camera: NaN frame": SETTINGS,
    "motor never answers": SETTINGS,
    "camera: no image": EPICS,
    "full disk": EPICS,
    "IOC frozen": EPICS,
    "IOC killed and restarted": EPICS,
}


def applies(name: str, setting: str) -> bool:
    """Whether a fault exists in a setting."""
    return setting in _WHERE.get(name, (*SETTINGS, *EPICS))


def _alone(fault: Callable[[], FaultOutcome]) -> Fault:
    """A fault that brings its own rig."""
    return lambda name, make: fault()


def _faults_in(setting: str) -> dict[str, Fault]:
    """Those that exist in a setting, by name."""
    faults = {name: fault for name, fault in FAULTS.items() if applies(name, setting)}
    for module in ELSEWHERE if setting in SETTINGS else ():
        faults |= {name: _alone(fault) for name, fault in importlib.import_module(module).FAULTS.items()}
    return faults
