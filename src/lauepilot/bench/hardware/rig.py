"""A small instrument to break things on: an instant world under real devices, a real RunEngine, a real record.

Alignments on it take milliseconds, so that one can be interrupted at every message of its plan. Eyes and head are dummies: a
fault table is about hands and records.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lauepilot.bench.hardware.outcome import FaultOutcome
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.protocols import Task
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.observation import Belief, Decision, Declare, Expose, Move, Observation
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument, load_instrument
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.target import Alignment, Target

TARGET = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)))
ORIENTATION = Orientation(np.eye(3), 1.157 * np.eye(3), 1e-6 * np.eye(3))
#: What the usual agent of the table decides, in turn.
SCRIPT: tuple[Decision, ...] = (
    Expose(2.0, "first look"),
    Move({"omega": 10.0, "chi": -5.0}, "towards the target"),
    Expose(3.0, "second look"),
    Declare(ORIENTATION, "there"),
)
#: Wall seconds within which a run must have ended, whatever was done to it.
PATIENCE_S = 20.0


def small_instrument() -> Instrument:
    """The ``lab`` instrument with a detector of 48 x 64 pixels."""
    lab = load_instrument("lab")
    return lab.with_detector(lab.detector.binned((48, 64)))


class SmallWorld:
    """A `Backend` that acts at once; its attributes are the faults.

    Attributes
    ----------
    stands_at
        Axes that do not move beyond, or away from, this position.
    reads_off
        By how much an axis' read-back is wrong, degrees or mm.
    spoil
        Applied to each frame's counts.
    hang
        Waited for before each exposure or move ends; None does not wait.
    """

    def __init__(self) -> None:
        self.instrument = small_instrument()
        self.truth = dict.fromkeys(self.instrument.goniometer.names, 0.0)
        self.clock_s = 100.0
        self.dose_s = 7.0
        self.stands_at: dict[str, float] = {}
        self.reads_off: dict[str, float] = {}
        self.spoil: Callable[[NDArray[Any]], NDArray[Any]] = lambda counts: counts
        self.hang: threading.Event | None = None
        self.hang_in: tuple[str, ...] = ("expose",)

    def mend(self) -> None:
        """Nothing broken, all axes at zero; clock and dose go on."""
        self.truth.update(dict.fromkeys(self.truth, 0.0))
        self.stands_at.clear()
        self.reads_off.clear()
        self.spoil, self.hang = (lambda counts: counts), None

    @property
    def positions(self) -> dict[str, float]:
        """Read-back of all axes."""
        return {name: at + self.reads_off.get(name, 0.0) for name, at in self.truth.items()}

    def move(self, positions: Mapping[str, float]) -> Mapping[str, float]:
        """Go there, as far as one can."""
        if self.hang is not None and "move" in self.hang_in:
            self.hang.wait()
        self.clock_s += self.instrument.goniometer.move_time_s(self.truth, positions)
        for name, goal in positions.items():
            self.truth[name] = self.stands_at.get(name, goal)
        return self.positions

    def expose(self, seconds: float) -> Frame:
        """A frame of noise."""
        if self.hang is not None and "expose" in self.hang_in:
            self.hang.wait()
        self.clock_s += seconds + 2.0
        self.dose_s += seconds
        counts = np.random.default_rng(int(self.clock_s)).poisson(5.0, self.instrument.detector.shape)
        return Frame(self.spoil(counts.astype(np.uint16)), seconds, self.positions, "lab")


class DummyEyes:
    """An `Observer` that always believes the same."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument

    def start(self, axes: Mapping[str, float], *, clock_s: float, dose_s: float) -> Observation:
        """Before the first frame."""
        return Observation(dict(axes), self.instrument.goniometer, clock_s, dose_s, 0, 0.0)

    def moved(self, previous: Observation, axes: Mapping[str, float], *, clock_s: float) -> Observation:
        """After a move."""
        return dataclasses.replace(previous, axes=dict(axes), clock_s=clock_s)

    def observe(
        self, frame: Frame, *, axes: Mapping[str, float], clock_s: float, dose_s: float, n_exposures: int
    ) -> Observation:
        """After a frame, which is checked as the usual observer does."""
        frame.check(self.instrument.detector.shape)
        belief = Belief(ORIENTATION, 0.97, 31, 40, 0.3)
        return Observation(
            dict(axes), self.instrument.goniometer, clock_s, dose_s, n_exposures, frame.live_time_s,
            belief=belief, belief_axes=dict(frame.axes),
        )  # fmt: skip


class ScriptedAgent:
    """Plays decisions in turn; an exception among them is raised."""

    name = "scripted"

    def __init__(self, *script: object) -> None:
        self.script = script or SCRIPT
        self.played = 0

    def reset(self, task: Task) -> None:
        """Begin anew."""
        self.played = 0

    def decide(self, observation: Observation) -> Any:
        """The next one."""
        step = self.script[self.played]
        self.played += 1
        if isinstance(step, Exception):
            raise step
        return step

    def state(self) -> dict[str, Any]:
        """How far it has played."""
        return {"played": self.played}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.played = int(state["played"])


@dataclass
class Rig:
    """Devices on a world that can be broken, and what is needed to align on them.

    Attributes
    ----------
    how
        The setting, as in `FaultOutcome`.
    camera, goniometer
        Devices of the kind under test.
    eyes
        The observer.
    positions
        Where the axes truly stand, asked of the world and not of the devices.
    resting
        Whether nothing moves or exposes, asked of the world too.
    break_it
        The faults that this world knows, by name; each starts to act when it is called.
    connect
        Called with the RunEngine before a run.
    anew
        Everything as when the rig was made: nothing broken, all axes at zero.
    """

    how: str
    camera: Any
    goniometer: Any
    eyes: DummyEyes
    positions: Callable[[], Mapping[str, float]]
    resting: Callable[[], bool]
    break_it: dict[str, Callable[[], object]] = field(default_factory=dict)
    connect: Callable[[Any], object] = lambda engine: None
    anew: Callable[[], object] = lambda: None


def in_process(speed: float = 0.0) -> Rig:
    """A rig on a `SmallWorld`; ``speed`` as in `connect`, where 0 is at once."""
    world = SmallWorld()
    camera, goniometer = connect(world, realtime_factor=speed)
    for device in (camera, goniometer):
        device.patience_s = 0.5

    def hangs(*where: str) -> None:
        world.hang, world.hang_in = threading.Event(), where

    def spoil(how: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        world.spoil = how

    breaks: dict[str, Callable[[], object]] = {
        "motor stalls": lambda: world.stands_at.update(omega=0.0),
        "motor stops short": lambda: world.stands_at.update(chi=-3.0),
        "limit switch": lambda: world.stands_at.update(omega=8.0),
        "read-back off by 1 deg": lambda: world.reads_off.update(chi=1.0),
        "camera never ready": lambda: hangs("expose"),
        "motor never answers": lambda: hangs("move"),
        "camera: wrong shape": lambda: spoil(lambda counts: counts[:10, :10]),
        "camera: NaN frame": lambda: spoil(lambda counts: np.full(counts.shape, np.nan)),
        "moved by hand": lambda: world.truth.update(chi=3.0),
        "repair": lambda: world.hang.set() if world.hang is not None else None,
    }
    return Rig(
        "in process", camera, goniometer, DummyEyes(world.instrument), lambda: world.truth,
        lambda: not (camera.busy or goniometer.busy), breaks, anew=world.mend,
    )  # fmt: skip


@dataclass
class Run:
    """How one run came out.

    Attributes
    ----------
    result
        Of the plan; None if it left none.
    error
        What the user saw raised; None if nothing.
    documents
        All that the engine emitted, in order.
    folder
        Of its record; None if it never began.
    """

    result: Any
    error: BaseException | None
    documents: list[tuple[str, dict[str, Any]]]
    folder: Path | None


@contextmanager
def when(ready: Callable[[], bool], act: Callable[[], object], delay_s: float = 0.05) -> Iterator[None]:
    """Do something from another thread as soon as ``ready()``, and ``delay_s`` later."""
    over = threading.Event()

    def watch() -> None:
        while not ready():
            if over.wait(0.002):
                return
        if not over.wait(delay_s):
            act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10.0 * PATIENCE_S)


def judge(
    name: str, rig: Rig, run: Run, *, status: str, reason: str, says: str, went_on: bool = False
) -> FaultOutcome:
    """Look at motors, record and message after a run.

    Parameters
    ----------
    name
        The fault.
    rig, run
        Where it was, and what came of it.
    status
        The exit status that is true; empty if the run must never have begun.
    reason
        A pattern of the reason that is true.
    says
        A pattern in the message that tells what to do, where the run did not go on.
    went_on
        Whether the alignment should have gone on to its declaration.
    """
    wrong: list[str] = []
    at_rest = _at_rest(rig, wrong)
    closed = _closed(run, status, reason, wrong)
    kept = _kept(run, wrong)
    text = "" if run.error is None else "\n".join([str(run.error), *getattr(run.error, "__notes__", [])])
    if run.result is not None:
        text = f"{run.result.outcome}: {run.result.reason}"
    if went_on:
        fine = run.result is not None and run.result.outcome == "declared"
        fine = fine and [type(s.decision).__name__ for s in run.result.steps] == [
            type(d).__name__ for d in SCRIPT
        ]
    else:
        fine = bool(text) and re.search(says, text) is not None
    if not fine:
        wrong.append(f"did not {'go on' if went_on else f'say {says!r}'}")
    detail = text if not wrong else f"{'; '.join(wrong)}. The message was: {text}"
    return FaultOutcome(name, rig.how, at_rest, closed, kept, fine, detail)


def _at_rest(rig: Rig, wrong: list[str]) -> bool:
    end = (
        time.monotonic() + 1.0
    )  # a motor that was told to stop slows down first, and RE.halt() waits for nobody
    while not rig.resting() and time.monotonic() < end:
        time.sleep(0.01)
    before = dict(rig.positions())
    time.sleep(0.05)
    after = dict(rig.positions())
    if not rig.resting() or before != after:
        wrong.append(f"not at rest: {before} became {after}")
        return False
    for axis in rig.goniometer.chain.axes:
        if not axis.limits[0] - 1e-6 <= after[axis.name] <= axis.limits[1] + 1e-6:
            wrong.append(f"{axis.name} stands at {after[axis.name]}, outside {axis.limits}")
            return False
    return True


def _closed(run: Run, status: str, reason: str, wrong: list[str]) -> bool:
    stops = [doc for name, doc in run.documents if name == "stop"]
    if not status:
        if run.documents:
            wrong.append("a run began that should not have")
        return not run.documents
    if run.folder is None or not (run.folder / "run.json").is_file():
        wrong.append("the record has no end (run.json)")
        return False
    told = json.loads((run.folder / "run.json").read_text("utf-8"))
    good = told["exit_status"] == status and re.search(reason, told["reason"]) is not None
    good = good and len(stops) == 1 and stops[0]["exit_status"] == status
    if not good:
        wrong.append(
            f"closed as {told['exit_status']!r} ({told['reason']!r}) instead of {status!r} ({reason!r})"
        )
    return good


def _kept(run: Run, wrong: list[str]) -> bool:
    """Whether all that was emitted stands in the folder, frames to the last count.

    What the record itself refused, on a full disk, comes to nobody.
    """
    if run.folder is None:
        return not run.documents
    path = run.folder / "documents.jsonl"
    if not path.is_file():
        path = run.folder / "documents.jsonl.part"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if [(x["name"], x["doc"].get("uid")) for x in lines] != [(n, d.get("uid")) for n, d in run.documents]:
        wrong.append(f"{len(lines)} of {len(run.documents)} documents are in the record")
        return False
    for line, (_, doc) in zip(lines, run.documents, strict=True):
        for key, value in doc.get("data", {}).items():
            if isinstance(value, np.ndarray) and value.ndim == 2 and value.size > 64:
                where = line["doc"]["data"][key]
                with h5py.File(run.folder / where["file"]) as file:
                    recorded = file[where["dataset"]][...]
                if not np.array_equal(recorded, value, equal_nan=value.dtype.kind == "f"):
                    wrong.append("a frame was recorded otherwise than it was taken")
                    return False
    return True


def align(rig: Rig, agent: ScriptedAgent, **how: Any) -> Any:
    """The plan on the rig."""
    return align_crystal(
        rig.camera, rig.goniometer, agent, TARGET, observer=how.pop("observer", rig.eyes), **how
    )


@contextmanager
def recorded_engine(
    folder: Path, instrument: Instrument | None = None, in_main_thread: bool = False
) -> Iterator[tuple[Any, list[Any], LocalRecorder]]:
    """A RunEngine with a record in a folder and a list of its documents."""
    documents: list[Any] = []
    recorder = LocalRecorder(folder, instrument)
    with run_engine(recorder, in_main_thread=in_main_thread) as engine:
        engine.subscribe(lambda name, doc: documents.append((name, doc)))  # type: ignore[no-untyped-call]
        yield engine, documents, recorder
