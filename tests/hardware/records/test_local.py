"""Records on disks that are full, folders that are none, and clocks that jump."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lauepilot.bench.hardware.faults_records import FAULTS
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.records.documents import find_run, lines_of, read_record, run_folders
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.observation import Expose, GiveUp, Move


def test_on_a_disk_that_is_really_full(tmp_path):
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*own, "mount", "-t", "tmpfs", "none", str(tmp_path)]).returncode
    ):
        pytest.skip("a small disk needs unshare and mount, which this system does not allow")
    program = Path(__file__).with_name("full_disk.py")
    done = subprocess.run(
        [*own, sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["whole"], done.stderr
    assert "Make room or choose another folder" in done.stdout


def test_a_line_that_does_not_fit_is_not_left_half(tmp_path, monkeypatch):
    recorder = LocalRecorder(tmp_path)
    recorder("start", {"uid": "0123456789", "time": 5.0})
    real = os.write

    def short(handle, data):
        monkeypatch.setattr("os.write", full)
        return real(handle, bytes(data)[:10])

    def full(handle, data):
        monkeypatch.setattr("os.write", real)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", short)
    with pytest.raises(RecordError, match="No space left"):
        recorder("descriptor", {"uid": "d", "name": "primary", "data_keys": {}})
    recorder("event", {"uid": "e", "descriptor": "d", "data": {}})  # said once; the run is being ended
    recorder("stop", {"time": 6.0, "exit_status": "fail", "reason": "full"})
    assert [name for name, _ in lines_of(recorder.path)] == ["start", "stop"]
    ended = json.loads((recorder.path / "run.json").read_text())
    assert ended["exit_status"] == "fail"
    assert "No space left" in ended["record_problem"]


def test_a_frame_is_on_the_disk_before_the_event_that_names_it(
    world, scripted, target, tmp_path, monkeypatch
):
    forced, fsync = [], os.fsync

    def noted(handle):
        forced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr("lauepilot.hardware.records.local.os.fsync", noted)
    recorder = LocalRecorder(tmp_path, world.backend.instrument)
    with run_engine(recorder) as engine:
        agent = scripted(Expose(1.0), GiveUp("enough"))
        engine(align_crystal(world.camera, world.goniometer, agent, target, observer=world.observer))
    frame, lines = (
        (recorder.path / name).stat().st_ino for name in ("frames/frame_0001.h5", "documents.jsonl")
    )
    at = forced.index(frame)
    events = [name for name, _ in lines_of(recorder.path)]
    assert forced[:at].count(lines) < len(events)
    assert forced[at + 1] == lines


def test_folders_that_cannot_be_written_stop_the_run_before_anything_moves(world, scripted, target, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with run_engine(LocalRecorder(root)) as engine:
            plan = align_crystal(
                world.camera,
                world.goniometer,
                scripted(Move({"omega": 5.0})),
                target,
                observer=world.observer,
            )
            with pytest.raises(RecordError, match="choose another folder"):
                engine(plan)
    assert world.backend.moves == []


def test_names_never_leave_the_folder_and_never_meet(tmp_path):
    recorder = LocalRecorder(tmp_path / "in")
    for uid in ("../../../../etc", "../../../../etc", "a/b/c/d/e/f", "..", "ab"):
        recorder("start", {"uid": uid, "time": 5.0, "sample": "../../x"})
        recorder("stop", {"time": 5.0, "exit_status": "success"})
    assert len(run_folders(tmp_path / "in")) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert all(path.parent == tmp_path / "in" for path in run_folders(tmp_path / "in"))
    with pytest.raises(RecordError, match="2 runs"):
        find_run(tmp_path, "../")


def test_a_spare_consumer_may_fail_and_the_run_goes_on(world, scripted, target, tmp_path, caplog):
    heard = []

    def broken(name, doc):
        heard.append(name)
        if name == "event":
            raise ConnectionError("server gone")

    recorder = LocalRecorder(tmp_path)
    agent = scripted(Expose(1.0), Move({"omega": 5.0}), GiveUp("enough"))
    with caplog.at_level(logging.ERROR, "lauepilot.hardware"), run_engine(recorder, broken) as engine:
        result = engine(
            align_crystal(world.camera, world.goniometer, agent, target, observer=world.observer)
        ).plan_result
    assert result.reason == "enough"
    assert heard.count("event") == 1
    assert caplog.text.count("server gone") == 1
    assert len(read_record(recorder.path).streams["decisions"].seq_num) == 3
    assert json.loads((recorder.path / "run.json").read_text())["exit_status"] == "success"


def test_without_a_record_a_consumer_that_fails_ends_the_run_at_rest(slow_world, scripted, target, documents):
    world = slow_world

    def broken(name, doc):
        documents.append((name, doc))
        if name == "event" and len(documents) > 6:
            raise ConnectionError("server gone")

    agent = scripted(Expose(0.2), Move({"omega": 1.0}), GiveUp("enough"))
    plan = align_crystal(world.camera, world.goniometer, agent, target, observer=world.observer)
    with run_engine(broken) as engine, pytest.raises(ConnectionError):
        engine(plan)
    stop = documents[-1][1]
    assert (documents[-1][0], stop["exit_status"], stop["reason"]) == ("stop", "fail", "server gone")
    assert not world.goniometer.busy


def test_durations_are_those_of_a_clock_that_nobody_sets(tmp_path):
    recorder = LocalRecorder(tmp_path)
    recorder("start", {"uid": "0123456789", "time": 10_000.0})
    recorder("stop", {"time": 6_400.0, "exit_status": "success"})
    ended = json.loads((recorder.path / "run.json").read_text())
    assert 0.0 <= ended["duration_s"] < 5.0
    assert ended["clock_jumped_by_s"] == pytest.approx(-3600.0, abs=5.0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault):
    outcome = FAULTS[fault]()
    assert outcome.passed, outcome
    assert outcome.name == fault
