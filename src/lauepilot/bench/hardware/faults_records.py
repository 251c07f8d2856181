"""Faults of what a run is recorded on and lives in: a full disk, a process that is killed, a clock that jumps."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from lauepilot.agents.index_and_move import IndexAndMove
from lauepilot.bench.hardware.outcome import FaultOutcome, Faults
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.plans.align import AlignResult, align_crystal
from lauepilot.hardware.records import local
from lauepilot.hardware.records.documents import find_run, lines_of, read_record
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.hardware.resume import entries, resume_run, retrace
from lauepilot.perception.files import readers
from lauepilot.perception.files.readers import read_frame
from lauepilot.perception.observer import Observer
from lauepilot.perception.task import usual_target
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

SEED = 3
_HOW = "in process"
#: The message at which the process is killed: the second exposure of this seed is going on.
_KILLED_AT = 40
#: Seconds by which the clock is put back in the middle of the run.
_JUMP_S = -3600.0


@dataclass(frozen=True, eq=False)
class _Played:
    """What a run left."""

    result: AlignResult | None
    problem: Exception | None
    folder: Path | None
    at_rest: bool


def play(
    folder: Path, *, resumed: Path | None = None, at_message: Callable[[int], None] | None = None
) -> _Played:
    """Align silicon on the laboratory's Twin, always the same; ``at_message`` gets each message's number."""
    crystal, lab = load_crystal("si"), load_instrument("lab")
    twin = Twin(crystal, lab, rng=np.random.default_rng(SEED))
    if resumed is not None:
        retrace(twin, resumed)
    camera, goniometer = connect(twin)
    eyes, agent = Observer(crystal, lab), IndexAndMove()
    count = 0

    def watch(_: Any) -> None:
        nonlocal count
        count += 1
        if at_message is not None:
            at_message(count)

    recorder = LocalRecorder(folder, lab)
    result: AlignResult | None = None
    problem: Exception | None = None
    with run_engine(recorder) as engine:
        engine.msg_hook = watch  # type: ignore[assignment]
        try:
            if resumed is None:
                plan = align_crystal(camera, goniometer, agent, usual_target(), observer=eyes)
            else:
                plan = resume_run(resumed, camera, goniometer, agent, observer=eyes)
            result = engine(plan).plan_result  # type: ignore[union-attr]
        except Exception as error:  # what the user would see
            problem = error
    here = goniometer.position
    within = all(a.limits[0] <= here[a.name] <= a.limits[1] for a in lab.goniometer.axes)
    return _Played(result, problem, recorder.path, within and not goniometer.busy and not camera.busy)


def full_disk() -> FaultOutcome:
    """The disk takes no more in the middle of the second exposure's frame."""
    with tempfile.TemporaryDirectory() as name, small_disk(frames=1):
        played = play(Path(name))
        record = read_record(played.folder or name)
        frames = sorted((record.folder or Path(name)).glob("frames/*.h5"))
        said = str(played.problem)
        return FaultOutcome(
            "full disk",
            _HOW,
            at_rest=played.at_rest,
            closed_truthfully=record.stop.get("exit_status") == "fail"
            and "No space left" in str(record.stop.get("reason"))
            and json.loads(((record.folder or Path(name)) / "run.json").read_text())["exit_status"] == "fail",
            nothing_lost=len(frames) == 1
            and bool(read_frame(frames[0]).counts.any())
            and bool(len(record.streams["decisions"].seq_num) == 3),
            went_on_or_said=isinstance(played.problem, RecordError) and "Make room" in said,
            detail=said,
        )


def small_disk(frames: int) -> Any:
    """Frames beyond so many find no room, as HDF5 would say it."""
    real, taken = readers.write_frame, [0]

    def write_frame(path: str | Path, *args: Any) -> None:
        taken[0] += 1
        if taken[0] > frames:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, *args)

    return patch.object(local, "write_frame", write_frame)


def killed_then_resumed() -> FaultOutcome:
    """SIGKILL in the second exposure; then another process goes on, and is compared with a run that was left alone."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        status = _other_process("killed", root / "killed")
        part = find_run(root / "killed")
        before = [entry for entry in entries(part) if entry.frame is not None]
        played = play(root / "resumed", resumed=part)
        whole = play(root / "whole")
        if played.folder is None or whole.folder is None:
            raise RecordError("A run of the fault table left no record.")
        steps, wanted = entries(played.folder), entries(whole.folder)
        same = [(e.number, e.decision and e.decision.reason, e.axes, e.dose_s) for e in steps] == [
            (e.number, e.decision and e.decision.reason, e.axes, e.dose_s) for e in wanted
        ]
        ended = json.loads((part / "run.json").read_text())
        return FaultOutcome(
            "killed process then resume",
            _HOW,
            at_rest=played.at_rest,
            closed_truthfully=status == -signal.SIGKILL
            and ended["exit_status"] == "abort"
            and "killed" in ended["reason"]
            and read_record(played.folder).stop["exit_status"] == "success",
            nothing_lost=all(
                entry.frame is not None and read_frame(entry.frame).counts.any() for entry in before
            )
            and len(before) == 1,
            went_on_or_said=played.result is not None and played.result.outcome == "declared" and same,
            detail=str(
                played.problem or f"{played.result and played.result.reason} (same as undisturbed: {same})"
            ),
        )


def clock_jump() -> FaultOutcome:
    """The wall's clock is put back by an hour while the run goes on, as a time server may do."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        status = _other_process("clock", root / "jumped")
        folder = find_run(root / "jumped")
        ended = json.loads((folder / "run.json").read_text())
        record = read_record(folder)
        jumped = ended.get("clock_jumped_by_s", 0.0)
        return FaultOutcome(
            "clock jump",
            _HOW,
            at_rest=status == 0,  # the process says so itself, see `main`
            closed_truthfully=ended["exit_status"] == "success" and record.stop["exit_status"] == "success",
            nothing_lost=len(list((folder / "frames").iterdir())) == len(record.streams["primary"].seq_num)
            and 0.0 < ended["duration_s"] < 600.0
            and abs(jumped - _JUMP_S) < 5.0,
            went_on_or_said=ended["reason"].startswith("declared"),
            detail=f"{ended['reason']}; took {ended['duration_s']:.1f} s, the clock jumped by {jumped:.1f} s",
        )


#: In the other process, before anything of ours or Bluesky's is imported and takes hold of the clock.
_PRELUDE = """
import sys, time
real, time.jump = time.time, [0.0]
time.time = lambda: real() + time.jump[0]
from lauepilot.bench.hardware.faults_records import main
sys.exit(main(sys.argv[1], sys.argv[2]))
"""


def _other_process(fault: str, folder: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE, fault, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode


def main(fault: str, folder: str) -> int:
    """What the other process does: die in the midst of a run, or play on while its clock jumps; 0 if it ended at rest."""
    import time

    def watch(message: int) -> None:
        if message == _KILLED_AT:
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.jump[0] = _JUMP_S  # type: ignore[attr-defined]

    played = play(Path(folder), at_message=watch)
    names = [name for name, _ in lines_of(played.folder)] if played.folder is not None else []
    return 0 if played.at_rest and played.result is not None and names[-1] == "stop" else 1


FAULTS: Faults = {
    "full disk": full_disk,
    "killed process then resume": killed_then_resumed,
    "clock jump": clock_jump,
}
