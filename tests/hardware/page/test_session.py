"""The session behind the page: a RunEngine in a thread, commanded from others; no browser needed."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time

import numpy as np
import pytest

from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.page.job import Choice, Job
from lauepilot.hardware.page.session import Session
from lauepilot.hardware.page.standing import BUSY, NotNow, State
from lauepilot.perception.observation import Declare, Expose, GiveUp, Move
from lauepilot.simulator.crystal import load_crystal

logging.getLogger("bluesky").addHandler(logging.NullHandler())


class FakeMaker:
    """Runs of a scripted agent on the fake backend; motions take a twentieth of their time."""

    title, simulated, crystals, faults = "fake", True, ("si",), ()
    first = Choice("si", "[0 0 1] beam", 1.0)

    def __init__(self, world, scripted, target, observer):
        self.world, self.scripted, self.target, self.observer = world, scripted, target, observer
        self.script = [GiveUp("nothing to do")]
        self.hold = threading.Event()
        self.hold.set()
        self.problem = None

    def check(self, choice):
        if choice.crystal != "si":
            raise ValueError("There is only si.")

    def make(self, choice):
        self.hold.wait(10.0)
        if self.problem:
            raise self.problem
        camera, goniometer = self.world
        return Job(
            camera, goniometer, self.scripted(*self.script), self.observer, self.target, load_crystal("si")
        )


@pytest.fixture
def maker(slow_world, scripted, target):
    camera, goniometer = connect(slow_world.backend, realtime_factor=5.0)
    return FakeMaker((camera, goniometer), scripted, target, slow_world.observer)


@pytest.fixture
def session(maker, tmp_path):
    made = Session(maker, tmp_path / "records")
    made.wait(State.READY)
    yield made
    made.close()


FAR = Move({"omega": 90.0, "chi": -60.0}, "far away")


def until_moving(session):
    end = time.monotonic() + 10.0
    while session.standing().activity != "moving":
        assert time.monotonic() < end, session.standing()
        time.sleep(0.002)


def stop_document(folder):
    lines = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
    assert lines[-1]["name"] == "stop"
    return lines[-1]["doc"]


def test_from_start_to_declared(session, maker, orientation):
    maker.script = [Expose(0.5, "look"), Move({"omega": 2.0}, "there"), Declare(orientation, "on target")]
    assert session.standing().axes == {"omega": 0.0, "chi": 0.0, "phi": 0.0}
    session.start(maker.first)
    at = session.wait()
    assert (at.state, at.words) == (State.DECLARED, "on target")
    assert at.result.orientation is not None
    assert at.axes["omega"] == 2.0
    assert at.dose_s == 0.5
    assert at.step.decision == "Declare"
    assert at.sight.number == 1
    assert stop_document(at.folder)["exit_status"] == "success"
    said = [line.text for line in session.journal.after(0)]
    assert said[:2] == ["1. expose 0.5 s. look", "2. move omega to 2.000. there"]
    assert next(line.number for line in session.journal.after(1)) == 2


def test_abort_in_motion_stops_the_motors_and_closes_the_record(session, maker, orientation):
    maker.script = [FAR, Declare(orientation)]
    session.start(maker.first)
    until_moving(session)
    assert "being stopped" in session.abort()
    assert session.standing().at_rest  # bench hardware measures how soon
    at = session.wait()
    assert at.state is State.ABORTED
    assert 0.0 < at.axes["omega"] < 90.0
    stop = stop_document(at.folder)
    assert (stop["exit_status"], stop["reason"]) == ("abort", "aborted by the operator")
    assert session.standing().axes == at.axes


def test_abort_stops_motors_though_the_run_engine_hangs(session, maker, monkeypatch, orientation):
    maker.script = [FAR, Declare(orientation)]
    session.start(maker.first)
    until_moving(session)
    let_go = threading.Event()
    session._engine.loop.call_soon_threadsafe(let_go.wait, 60.0)  # an agent or a device that blocks
    session.abort()
    assert session.standing().at_rest  # though the RunEngine is still stuck
    let_go.set()
    at = session.wait()
    assert at.state is State.ABORTED
    assert stop_document(at.folder)["exit_status"] in {"abort", "fail"}


def test_pause_and_resume(session, maker, orientation):
    maker.script = [FAR, Declare(orientation, "there")]  # long enough to be met in motion on a slow machine
    session.start(maker.first)
    until_moving(session)
    session.pause()
    at = session.wait(State.PAUSED)
    assert at.at_rest
    assert 0.0 < at.axes["omega"] < 90.0
    with pytest.raises(NotNow, match="Only a run can be paused"):
        session.pause()
    session.resume()
    assert session.wait().state is State.DECLARED
    assert session.standing().axes["omega"] == 90.0


def test_abort_of_a_paused_run(session, maker, orientation):
    maker.script = [FAR, Declare(orientation)]
    session.start(maker.first)
    until_moving(session)
    session.pause()
    session.wait(State.PAUSED)
    session.abort("lunch")
    at = session.wait()
    assert (at.state, at.words.startswith("Lunch.")) == (State.ABORTED, True)
    assert stop_document(at.folder)["exit_status"] == "abort"


def test_pause_and_abort_at_once(session, maker, orientation):
    """The two in any order, as fast as two browsers can press."""
    for first, second in (("pause", "abort"), ("abort", "pause")) * 2:
        maker.script = [Move({"omega": 50.0}), Move({"omega": 0.0}), Declare(orientation)]
        session.start(maker.first)
        until_moving(session)
        threads = [threading.Thread(target=_quietly, args=(getattr(session, n),)) for n in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        at = session.wait()
        assert at.state is State.ABORTED
        assert at.at_rest
        assert stop_document(at.folder)["exit_status"] == "abort"


def test_an_abort_while_a_pause_is_on_its_way(session, maker, monkeypatch, orientation):
    """Both commands at once and the RunEngine sleeps for ever: the pause is let arrive first."""
    maker.script = [FAR, Declare(orientation)]
    session.start(maker.first)
    until_moving(session)
    commands, gate, insist = [], threading.Event(), session._insist

    def slow(engine, command, name):
        commands.append(name)
        gate.wait(60.0)
        insist(engine, command, name)

    monkeypatch.setattr(session, "_insist", slow)
    pressed = threading.Thread(target=session.pause)
    pressed.start()
    session.wait(State.PAUSING)
    session.abort()
    assert session.standing().at_rest
    assert commands == ["pause"]
    gate.set()
    pressed.join()
    at = session.wait()
    assert at.state is State.ABORTED
    assert stop_document(at.folder)["exit_status"] == "abort"


def _quietly(command):
    with contextlib.suppress(NotNow):
        command()


def test_abort_right_after_start_is_never_lost(session, maker, orientation):
    for pause_s in (0.0, 0.003, 0.01, 0.02):
        maker.script = [FAR, Declare(orientation)]
        session.start(maker.first)
        time.sleep(pause_s)  # lands before, within and after the RunEngine's beginning
        session.abort()
        at = session.wait(timeout_s=10.0)
        assert at.state is State.ABORTED
        assert at.at_rest


def test_one_run_at_a_time(session, maker, orientation):
    maker.hold.clear()
    session.start(maker.first)
    assert session.standing().state is State.PREPARING
    with pytest.raises(NotNow, match="A run is on"):
        session.start(maker.first)
    session.abort()  # before anything moves
    maker.hold.set()
    at = session.wait()
    assert at.state is State.ABORTED
    assert at.folder is None
    maker.script = [FAR, Declare(orientation)]
    refused = []

    def start():
        try:
            session.start(maker.first)
        except NotNow as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    until_moving(session)
    with pytest.raises(NotNow):
        session.start(maker.first)


def test_what_ends_otherwise_says_why(session, maker, orientation):
    maker.script = [Move({"omega": 1000.0})]
    session.start(maker.first)
    at = session.wait()
    assert at.state is State.REFUSED
    assert "limits are -100 to 100" in at.words
    assert "refused" in at.step.verdict
    maker.script = [GiveUp("too weak")]
    session.start(maker.first)
    assert session.wait().words == "too weak"
    maker.script = [RuntimeError("the agent fell over")]
    session.start(maker.first)
    at = session.wait()
    assert (at.state, at.words) == (State.FAILED, "the agent fell over")
    assert stop_document(at.folder)["exit_status"] == "fail"
    maker.problem = OSError("no such PV")
    session.start(maker.first)
    at = session.wait()
    assert (at.state, at.words, at.folder) == (State.FAILED, "no such PV", None)
    maker.problem, maker.script = None, [Declare(orientation, "well")]
    session.start(maker.first)
    assert session.wait().state is State.DECLARED
    with pytest.raises(ValueError, match="only si"):
        session.start(Choice("ge", "", 1.0))


def test_abort_with_nothing_on_tells_devices_to_stop(session, maker):
    goniometer = maker.world[1]
    status = goniometer.set({"omega": 50.0})  # somebody else moves it
    assert "Nothing runs" in session.abort()
    assert not goniometer.busy
    with pytest.raises(Exception, match="stopped"):
        status.wait(5.0)
    assert session.standing().state is State.READY


def test_commands_that_do_not_fit(session):
    with pytest.raises(NotNow, match="Only a paused run"):
        session.resume()
    with pytest.raises(NotNow, match="Only a run"):
        session.pause()


def test_closing_aborts_and_leaves_no_thread(maker, tmp_path, orientation):
    before = set(threading.enumerate())
    session = Session(maker, tmp_path)
    session.wait(State.READY)
    maker.script = [FAR, Declare(orientation)]
    session.start(maker.first)
    until_moving(session)
    session.close()
    assert session.standing().state is State.ABORTED
    assert session.standing().state not in BUSY
    with pytest.raises(NotNow, match="closing"):
        session.start(maker.first)
    left = {t for t in set(threading.enumerate()) - before if t.name.startswith("lauepilot")}
    assert not left
    assert not np.isnan(session.standing().clock_s)
