"""Killed with SIGKILL, and gone on with: the same decisions as if nothing had been, and no exposure twice."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lauepilot.agents.index_and_move import IndexAndMove
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.records.documents import find_run, read_record
from lauepilot.hardware.records.local import LocalRecorder, still_written
from lauepilot.hardware.resume import close_killed, entries, resume_run, retrace
from lauepilot.perception.files.readers import read_frame
from lauepilot.perception.observation import Declare, Expose, GiveUp, Move
from lauepilot.perception.observer import Observer
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

SEED = 3
#: Messages at which the process dies: before a decision was recorded, in an exposure, before and after a move.
MESSAGES = (7, 15, 24, 31)
KILLED = Path(__file__).with_name("killed.py")


def kill(root, messages):
    """Run and kill; each run's folder is ``root / str(message)``, the whole one's ``root / "0"``."""
    told = subprocess.run(
        [sys.executable, str(KILLED), str(root), str(SEED), "0", *map(str, messages)],
        capture_output=True, text=True, timeout=500, check=True,
    )  # fmt: skip
    ended = dict(line.split() for line in told.stdout.splitlines())
    assert ended == {"0": "0", **{str(n): "-9" for n in messages}}
    return root


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders of the runs by message, 0 the whole one."""
    return kill(tmp_path_factory.mktemp("killed"), MESSAGES)


@pytest.fixture(scope="module")
def observer():
    return Observer(load_crystal("si"), load_instrument("lab"))


def told(folder):
    """What was decided, to far below a motor's step, and which frames were taken.

    Not to the last bit: another process may have compiled its loops otherwise.
    """

    def rounded(axes):
        return None if axes is None else {name: round(value, 6) for name, value in axes.items()}

    return [
        (
            type(e.decision).__name__, e.decision.reason, rounded(getattr(e.decision, "axes", None)), rounded(e.axes),
            round(e.clock_s, 6), round(e.dose_s, 6),
            None if e.frame is None else hashlib.sha256(read_frame(e.frame).counts).hexdigest(),
        )
        for e in entries(folder)
    ]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES)
def test_gone_on_with_as_if_nothing_had_been(killed, observer, message, tmp_path):
    gone_on_with(killed, observer, message, tmp_path)


@pytest.mark.slow
def test_killed_at_every_message(observer, tmp_path):
    whole = find_run(kill(tmp_path / "none", ()) / "0").parent
    commands = (whole / "messages").read_text().split("\n")
    # The third opens the run: before it there is nothing to go on with, and after its end neither.
    messages = range(4, commands.index("close_run") + 2)
    root = kill(tmp_path / "all", messages)
    for message in messages:
        gone_on_with(root, observer, message, tmp_path / "resumed" / str(message))


def gone_on_with(killed, observer, message, tmp_path):
    whole = find_run(killed / "0")
    part = find_run(killed / str(message))
    assert not (part / "run.json").exists()
    before = len([e for e in entries(part) if e.frame is not None])
    twin = Twin(load_crystal("si"), load_instrument("lab"), rng=np.random.default_rng(SEED))
    retrace(twin, part)
    camera, goniometer = connect(twin)
    recorder = LocalRecorder(tmp_path, twin.instrument)
    with run_engine(recorder) as engine:
        result = engine(resume_run(part, camera, goniometer, IndexAndMove(), observer=observer)).plan_result
    assert result.outcome == "declared"
    assert told(recorder.path) == told(whole)
    # no exposure twice: the new record has those only that the old one lacks
    frames = [e for e in entries(recorder.path) if e.frame is not None]
    assert len(list((recorder.path / "frames").iterdir())) == len(frames) - before
    # and the old record is closed, and says why
    ended = json.loads((part / "run.json").read_text())
    assert ended["exit_status"] == "abort"
    assert "killed" in ended["reason"]
    assert not list(part.glob("*.part"))
    assert read_record(recorder.path).start["resumed_from"]["uid"] == ended["uid"]
    assert result.dose_s == read_record(whole).streams["decisions"].columns["align_used_dose_s"][-1]


class Restored:
    """Plays from a script, and remembers where it was in it."""

    name = "scripted"

    def __init__(self, *script):
        self.script, self.place, self.seen = list(script), 0, []

    def reset(self, task):
        self.place = 0

    def decide(self, observation):
        self.seen.append(observation)
        self.place += 1
        step = self.script[self.place - 1]
        if isinstance(step, Exception):
            raise step
        return step

    def state(self):
        return {"place": self.place}

    def restore(self, state):
        self.place = state["place"]


SCRIPT = (Expose(2.0), Move({"omega": 10.0}), Expose(3.0), Move({"chi": 4.0}), GiveUp("enough"))


def play(world, target, folder, agent):
    recorder = LocalRecorder(folder, world.backend.instrument)
    with run_engine(recorder) as engine:
        plan = align_crystal(world.camera, world.goniometer, agent, target, observer=world.observer)
        return engine(plan).plan_result, recorder.path


def broken(world, target, folder, step):
    """A run that ended with an exception before a step; its folder."""
    script = [*SCRIPT[:step], RuntimeError("head broke")]
    recorder = LocalRecorder(folder, world.backend.instrument)
    plan = align_crystal(world.camera, world.goniometer, Restored(*script), target, observer=world.observer)
    with run_engine(recorder) as engine, pytest.raises(RuntimeError, match="head broke"):
        engine(plan)
    return recorder.path


def resume(world, path, folder, agent, **kwargs):
    recorder = LocalRecorder(folder, world.backend.instrument)
    with run_engine(recorder) as engine:
        plan = resume_run(path, world.camera, world.goniometer, agent, observer=world.observer, **kwargs)
        return engine(plan).plan_result, recorder.path


def test_a_failed_run_can_be_gone_on_with_twice(world, target, tmp_path):
    first = broken(world, target, tmp_path / "a", 2)
    clock = world.backend.clock_s
    recorder = LocalRecorder(tmp_path / "b", world.backend.instrument)
    agent = Restored(*SCRIPT[:3], RuntimeError("again"))
    plan = resume_run(first, world.camera, world.goniometer, agent, observer=world.observer)
    with run_engine(recorder) as engine, pytest.raises(RuntimeError, match="again"):
        engine(plan)
    result, third = resume(world, recorder.path, tmp_path / "c", Restored(*SCRIPT))
    assert (result.outcome, result.reason) == ("gave_up", "enough")
    assert [type(s.decision).__name__ for s in result.steps] == ["Expose", "Move", "Expose", "Move", "GiveUp"]
    assert result.dose_s == 5.0
    assert world.backend.dose_s == 7.0 + 5.0
    assert world.backend.clock_s > clock
    assert [e.number for e in entries(third)] == [1, 2, 3, 4, 5]
    # copied elsewhere together, the runs still find each other
    for n, path in enumerate((first, recorder.path, third)):
        path.rename(tmp_path / f"{n}").rename(tmp_path / "c" / path.name)
    assert len(entries(tmp_path / "c" / third.name)) == 5
    (tmp_path / "c" / first.name).rename(tmp_path / "gone")
    with pytest.raises(RecordError, match="Copy it there"):
        entries(tmp_path / "c" / third.name)


def test_axes_that_were_moved_meanwhile_are_refused_or_looked_at_anew(world, target, tmp_path):
    path = broken(world, target, tmp_path, 2)
    world.backend.positions["chi"] = 5.0
    with pytest.raises(RecordError, match=r"chi stood at 0.0000 deg and is at 5.0000 deg.*reread=True"):
        resume_run(path, world.camera, world.goniometer, Restored(*SCRIPT), observer=world.observer)
    agent = Restored(Expose(1.0), GiveUp("looked"))
    result, _ = resume(world, path, tmp_path / "b", agent, reread=True)
    assert result.reason == "looked"
    assert (agent.seen[0].n_exposures, agent.seen[0].belief, agent.seen[0].axes["chi"]) == (0, None, 5.0)
    assert result.dose_s == 3.0  # what the crystal had before counts on
    assert len(result.steps) == 4


def test_half_way_of_a_move_is_no_surprise(world, target, tmp_path):
    """The motor went on, or stopped on its way, when the process died: the move is carried out again."""
    world.backend.stuck = ("omega", 6.0)
    recorder = LocalRecorder(tmp_path, world.backend.instrument)
    plan = align_crystal(world.camera, world.goniometer, Restored(*SCRIPT), target, observer=world.observer)
    with run_engine(recorder) as engine, pytest.raises(RuntimeError, match="stopped short"):
        engine(plan)
    world.backend.stuck = None
    result, _ = resume(world, recorder.path, tmp_path / "b", Restored(*SCRIPT))
    assert result.reason == "enough"
    assert result.axes["omega"] == 10.0
    assert len(result.steps) == 5


class Wall:
    """Nothing may go beyond omega = 5."""

    def problem(self, start, goal):
        return "the wall" if max(start["omega"], goal["omega"]) > 5.0 else ""


def test_obstacles_are_wanted_again_and_asked_again(world, target, tmp_path):
    recorder = LocalRecorder(tmp_path, world.backend.instrument)
    agent = Restored(Expose(1.0), RuntimeError("head broke"))
    plan = align_crystal(
        world.camera, world.goniometer, agent, target, observer=world.observer, obstacles=[Wall()]
    )
    with run_engine(recorder) as engine, pytest.raises(RuntimeError, match="head broke"):
        engine(plan)
    agent = Restored(Expose(1.0), Move({"omega": 10.0}))
    with pytest.raises(RecordError, match=r"kept clear of obstacles .*\(Wall\)"):
        resume(world, recorder.path, tmp_path / "b", agent)
    result, _ = resume(world, recorder.path, tmp_path / "b", agent, obstacles=[Wall()])
    assert (result.outcome, "the wall" in result.reason) == ("refused", True)
    assert world.backend.moves == []


def test_a_run_that_is_still_going_on_is_left_alone(world, target, tmp_path):
    """Else two processes move the same axes, and what the first still writes is lost."""
    said = []

    class Impatient(Restored):
        def decide(self, observation):
            with pytest.raises(RecordError, match="a process still writes it") as refused:
                resume_run(
                    tmp_path, world.camera, world.goniometer, Restored(*SCRIPT), observer=world.observer
                )
            said.append(refused)
            return super().decide(observation)

    result, path = play(world, target, tmp_path, Impatient(*SCRIPT))
    assert (result.reason, len(said)) == ("enough", len(SCRIPT))
    assert not still_written(path)


def test_what_cannot_be_gone_on_with_says_so(world, target, tmp_path, scripted):
    with pytest.raises(RecordError, match="No run in"):
        resume(world, tmp_path, tmp_path, Restored())
    _, whole = play(world, target, tmp_path / "whole", Restored(*SCRIPT))
    with pytest.raises(RecordError, match="came to its end: gave_up: enough"):
        resume(world, whole, tmp_path, Restored())
    path = broken(world, target, tmp_path / "a", 2)
    with pytest.raises(RecordError, match=r"ScriptedAgent cannot take up.*reread=True"):
        resume(world, path, tmp_path, scripted())
    with pytest.raises(RecordError, match=r"on crystal None"):
        resume(world, path, tmp_path, Restored(), crystal=load_crystal("si"))
    lab = world.backend.instrument
    world.backend.instrument = lab.with_detector(lab.detector.binned((24, 32)))
    with pytest.raises(RecordError, match="detectors differ"):
        resume(world, path, tmp_path, Restored())


def test_half_a_line_at_the_end_is_left_out(world, target, tmp_path):
    recorder = LocalRecorder(tmp_path)
    recorder("start", {"uid": "0123456789", "time": 5.0, "plan_name": "count"})
    recorder.close()
    file = recorder.path / "documents.jsonl.part"
    file.write_bytes(file.read_bytes() + b'{"name": "event", "doc": {"uid"')
    assert read_record(recorder.path).start["uid"] == "0123456789"
    close_killed(recorder.path, "killed")
    record = read_record(recorder.path)
    assert (record.stop["exit_status"], record.stop["time"]) == ("abort", 5.0)
    with pytest.raises(RecordError, match="no alignment"):
        resume(world, recorder.path, tmp_path, Restored())
    damaged = recorder.path / "documents.jsonl"
    damaged.write_bytes(b'{"na\n' + damaged.read_bytes())
    with pytest.raises(RecordError, match="line 1 is damaged"):
        read_record(recorder.path)


def test_another_simulated_instrument_is_noticed(killed):
    part = find_run(killed / "0")
    other = Twin(load_crystal("si"), load_instrument("lab"), rng=np.random.default_rng(SEED + 1))
    with pytest.raises(RecordError, match="frame of step 1"):
        retrace(other, part)
    assert isinstance(entries(part)[-1].decision, Declare)
