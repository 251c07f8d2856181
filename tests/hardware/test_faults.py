from __future__ import annotations

import json
import logging

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky.utils import IllegalMessageSequence, Msg, RunEngineInterrupted

from lauepilot.bench.hardware import fault_table, faults
from lauepilot.bench.hardware.fault_table import FAULTS
from lauepilot.bench.hardware.faults import outcomes
from lauepilot.bench.hardware.interruptions import at_every_message
from lauepilot.bench.hardware.rig import Run, ScriptedAgent, align, in_process, judge, recorded_engine
from lauepilot.cli.faults import run_faults
from lauepilot.cli.output import UserError
from lauepilot.hardware.devices.parts import Axes
from lauepilot.hardware.plans import align as plan_module

INSIDE = [name for name in FAULTS if fault_table.applies(name, "in process")]
QUICK = [name for name in INSIDE if "every message" not in name]
#: Over Channel Access: those whose world is another one there, and one interruption.
OUTSIDE = [
    "motor stalls", "limit switch", "read-back off by 1 deg", "camera never ready", "camera: no image",
    "STOP pressed elsewhere", "IOC frozen", "IOC killed and restarted", "full disk", "abort in a motion",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL + 1)


@pytest.mark.parametrize("name", QUICK)
def test_each_fault_is_survived(name):
    (row,) = outcomes([name])
    assert row.passed, row.detail
    assert row.how == "in process"


@pytest.mark.parametrize("act", ["resume", "abort"])
def test_interrupted_at_messages(act, monkeypatch):
    monkeypatch.setitem(FAULTS, "every 12th", at_every_message(act, every=12))
    (row,) = outcomes(["every 12th"])
    assert row.passed, row.detail
    assert "each of" in row.detail
    assert int(row.detail.split()[2]) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(INSIDE) - set(QUICK)))
def test_interrupted_at_every_message(name):
    (row,) = outcomes([name])
    assert row.passed, row.detail


@pytest.mark.slow
@pytest.mark.parametrize("setting", faults.EPICS)
def test_faults_over_channel_access(setting, monkeypatch):
    for package in ("caproto", "epics") if setting.endswith("ophyd") else ("caproto", "ophyd_async", "aioca"):
        pytest.importorskip(package, reason=f"needs {package}: pip install lauepilot[epics]")
    for act in ("resume", "abort"):
        monkeypatch.setitem(FAULTS, f"{act} at every 9th", at_every_message(act, every=9))
    rows = outcomes([*OUTSIDE, "resume at every 9th", "abort at every 9th"], (setting,))
    assert len(rows) == len(OUTSIDE) + 2
    assert {row.how for row in rows} == {setting}
    assert [(row.name, row.detail) for row in rows if not row.passed] == []


def test_the_table_has_twenty_faults_in_each_setting():
    for setting in (*faults.SETTINGS, *faults.EPICS):
        assert sum(fault_table.applies(name, setting) for name in FAULTS) >= 20


# The referee is not blind: with the cure taken away, the rows fail.


def test_without_the_look_at_readbacks_a_short_motion_is_told(monkeypatch):
    monkeypatch.setattr(Axes, "check_readback", lambda *args: None)
    for name in ("motor stops short", "read-back off by 1 deg", "STOP pressed elsewhere"):
        (row,) = outcomes([name])
        assert not row.passed


def pause_after_closing(plan):
    closed = []

    def insert(message):
        if message.command == "close_run":
            closed.append(message)
        elif closed and closed.pop():
            return (m for m in [Msg("pause", defer=False), message]), None
        return None, None

    return bpp.plan_mutator(plan, insert)


def test_a_pause_after_the_end_is_not_replayed_into_the_record(monkeypatch, tmp_path):
    def late():
        with recorded_engine(tmp_path) as (engine, documents, _):
            with pytest.raises(RunEngineInterrupted):
                engine(pause_after_closing(align(in_process(), ScriptedAgent())))
            engine.resume()
        return documents

    assert [name for name, _ in late()][-1] == "stop"
    monkeypatch.setattr(
        plan_module, "close_run", lambda status, why: bps.close_run(exit_status=status, reason=why)
    )
    with pytest.raises(IllegalMessageSequence):
        late()


def test_the_referee_sees_motion_and_places_outside(tmp_path):
    rig = in_process()
    fine = Run(None, ValueError("Check it."), [], None)
    assert judge("x", rig, fine, status="", reason="", says="Check").passed
    rig.break_it["moved by hand"]()
    rig.positions().update(omega=2000.0)
    row = judge("x", rig, fine, status="", reason="", says="Check")
    assert not row.at_rest
    assert "outside" in row.detail
    row = judge("x", in_process(), fine, status="fail", reason="", says="nothing like it")
    assert not row.closed_truthfully
    assert not row.went_on_or_said


def test_a_run_that_fails_early_is_not_the_end_of_its_messages():
    def make(speed):
        rig = in_process(speed)
        rig.anew = rig.break_it["motor stalls"]
        rig.anew()
        return rig

    row = at_every_message("resume", every=25)("stalls", make)
    assert not row.passed
    assert row.detail.startswith("at message 0: closed as 'fail'")


def test_a_fault_that_breaks_the_referee_is_not_survived(monkeypatch):
    def broken(name, make):
        raise RuntimeError("oops")

    monkeypatch.setitem(FAULTS, "broken", broken)
    (row,) = outcomes(["broken"])
    assert not row.passed
    assert "oops" in row.detail


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"no setting 'on Mars'\. Known: in process, EPICS"):
        outcomes(["limit switch"], ("on Mars",))
    with pytest.raises(ValueError, match="no fault 'IOC frozen' here"):
        outcomes(["IOC frozen"])


def test_the_referee_sees_a_hole_in_the_record(tmp_path):
    rig = in_process()
    with recorded_engine(tmp_path) as (engine, documents, recorder):
        engine(align(rig, ScriptedAgent()))
    said = Run(None, ValueError("Make room."), documents, recorder.path)
    how = {"status": "success", "reason": "declared", "says": "Make room"}
    assert judge("x", rig, said, **how).passed
    file = recorder.path / "documents.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-2] + lines[-1:]))
    assert not judge("x", rig, said, **how).nothing_lost


def test_the_command(capsys):
    assert run_faults(names=["limit switch"], epics=False, in_process=True, as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["survived"], said["tried"]) == (1, 1)
    assert said["rows"][0]["passed"] is True
    with pytest.raises(UserError, match="no fault 'rain'"):
        run_faults(names=["rain"], epics=False, in_process=True, as_json=True)
    with pytest.raises(UserError, match="leave out one another"):
        run_faults(names=None, epics=True, in_process=True, as_json=True)


def test_the_figure(monkeypatch):
    monkeypatch.setattr(fault_table, "FAULTS", {"limit switch": FAULTS["limit switch"]})
    monkeypatch.setattr(fault_table, "ELSEWHERE", ())
    monkeypatch.setattr(faults, "EPICS", ())
    (figure,) = faults.measure(True, lambda text: None)
    assert (figure.name, figure.value, figure.n) == ("faults_survived", 1.0, 1)
    assert figure.settings["rows"][0]["fault"] == "limit switch"
