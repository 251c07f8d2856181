from __future__ import annotations

import json
import logging
import threading
import time

import event_model
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.errors import HardwareError, MotionError
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.plans.settle import settle
from lauepilot.hardware.protocols import Agent, Observer
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.files.readers import read_frame
from lauepilot.perception.observation import Declare, Expose, GiveUp, Move
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.reach import reach
from lauepilot.simulator.twin import Twin


def by_name(documents, name):
    return [doc for kind, doc in documents if kind == name]


def stream(documents, name):
    uids = {d["uid"] for d in by_name(documents, "descriptor") if d["name"] == name}
    return [e["data"] for e in by_name(documents, "event") if e["descriptor"] in uids]


def play(engine, world, agent, target, **kwargs):
    plan = align_crystal(world.camera, world.goniometer, agent, target, observer=world.observer, **kwargs)
    return engine(plan).plan_result


@pytest.fixture
def happy(scripted, orientation):
    return scripted(
        Expose(2.0, "first look"),
        Move({"omega": 10.0, "chi": -5.0}, "towards the target"),
        Expose(3.0),
        Declare(orientation, "within 0.1 deg"),
    )


def test_a_whole_alignment(engine, world, happy, target, orientation, documents):
    assert isinstance(happy, Agent)
    assert isinstance(world.observer, Observer)
    result = play(engine, world, happy, target, md={"sample": "si 7"})
    assert (result.outcome, result.reason) == ("declared", "within 0.1 deg")
    assert result.orientation is orientation
    assert len(result.steps) == 4
    assert result.dose_s == 5.0
    assert result.clock_s == pytest.approx(2 + 2 + 3 + 2 + 10 / 5 + 1)
    assert result.axes == {"omega": 10.0, "chi": -5.0, "phi": 0.0}
    assert result.orientation_axes == result.axes
    assert happy.task.target is target
    # the agent saw the motors after the move, with the belief of the frame before it
    assert happy.seen[0].belief is None
    assert happy.seen[2].axes["omega"] == 10.0
    assert happy.seen[2].belief_axes["omega"] == 0.0
    assert happy.seen[2].n_exposures == 1
    # records
    start, stop = by_name(documents, "start")[0], by_name(documents, "stop")[0]
    assert start["uid"] == result.run_uid
    assert start["sample"] == "si 7"
    assert start["instrument"]["name"] == "lab"
    assert start["agent"]["name"] == "scripted"
    assert set(start["versions"]) >= {"lauepilot", "bluesky", "ophyd", "python"}
    assert start["target"]["primary"]["kind"] == "uvw"
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"decisions": 4, "primary": 2}
    decisions, frames = stream(documents, "decisions"), stream(documents, "primary")
    assert [d["align_decision"] for d in decisions] == ["Expose", "Move", "Expose", "Declare"]
    assert decisions[0]["align_reason"] == "first look"
    assert np.isnan(decisions[0]["align_confidence"])
    assert decisions[1]["align_confidence"] == 0.97
    np.testing.assert_array_equal(decisions[1]["align_wanted"], [10.0, -5.0, np.nan])
    np.testing.assert_array_equal(decisions[3]["align_orientation"], np.eye(3))
    assert frames[1]["camera_image"].shape == (48, 64)
    assert frames[1]["goniometer_omega"] == 10.0
    np.testing.assert_array_equal(frames[0]["camera_image"], world.observer.frames[0].counts)


def test_documents_are_valid(engine, world, happy, target, documents):
    play(engine, world, happy, target)
    for name, doc in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    for descriptor in by_name(documents, "descriptor"):
        events = [e for e in by_name(documents, "event") if e["descriptor"] == descriptor["uid"]]
        for key, described in descriptor["data_keys"].items():
            for event in events:
                value = event["data"][key]
                assert list(np.shape(value)) == list(described["shape"]), key
                if "dtype_numpy" in described:
                    assert np.asarray(value).dtype.str == described["dtype_numpy"], key


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (Move({"omega": 1000.0}), "limits are -100 to 100 deg"),
        (Move({"omega": float("nan")}), "not a finite number"),
        (Move({"omega": "ten"}), "not a finite number"),
        (Move({"kappa": 1.0}), "has omega, chi, phi"),
        (Move({}), "named no axis"),
        (Expose(0.0), "more than 0"),
        (Expose(-3.0), "more than 0"),
        (Expose(float("nan")), "more than 0"),
        (Expose(1e9), "up to 3600 s"),
        (Declare(Orientation(2 * np.eye(3), np.eye(3), np.eye(3))), "no rotation"),
        ("left a bit", "must return a Move"),
        (None, "must return a Move"),
    ],
)
def test_wild_decisions_are_refused_and_recorded(
    engine, world, scripted, target, documents, decision, message, caplog
):
    with caplog.at_level(logging.ERROR, logger="lauepilot.hardware"):
        result = play(engine, world, scripted(decision), target)
    assert result.outcome == "refused"
    assert message in result.reason
    assert message in caplog.text
    assert world.backend.moves == []
    assert world.backend.dose_s == 7.0
    stop = by_name(documents, "stop")[0]
    assert stop["exit_status"] == "fail"
    assert message in stop["reason"]
    assert message in stream(documents, "decisions")[-1]["align_verdict"]


def test_limits_on_steps_and_dose_end_honestly(engine, world, scripted, target, documents):
    result = play(engine, world, scripted(*[Expose(1.0)] * 9), target, max_steps=3)
    assert (result.outcome, len(result.steps), result.dose_s) == ("gave_up", 3, 3.0)
    assert "3 steps" in result.reason
    result = play(engine, world, scripted(*[Expose(2.0)] * 9), target, max_dose_s=5.0)
    assert (result.outcome, result.dose_s) == ("gave_up", 4.0)
    assert "max_dose_s" in result.reason
    result = play(engine, world, scripted(GiveUp("no spots")), target)
    assert (result.outcome, result.reason) == ("gave_up", "no spots")
    assert [s["exit_status"] for s in by_name(documents, "stop")] == ["success"] * 3
    with pytest.raises(ValueError, match="must be positive"):
        play(engine, world, scripted(), target, max_steps=0)
    with pytest.raises(ValueError, match="needs to know the crystal"):
        engine(align_crystal(world.camera, world.goniometer, scripted(), target))


def test_a_motor_that_stops_short_fails_the_run(engine, world, scripted, target, documents):
    world.backend.stuck = ("chi", 4.0)
    with pytest.raises(MotionError, match="wanted 20"):
        play(engine, world, scripted(Move({"chi": 20.0})), target)
    stop = by_name(documents, "stop")[0]
    assert stop["exit_status"] == "fail"
    assert "'chi' stopped short" in stop["reason"]


def test_an_exception_in_the_agent_closes_the_run(engine, world, scripted, target, documents):
    with pytest.raises(ZeroDivisionError, match="head broke"):
        play(engine, world, scripted(Expose(1.0), ZeroDivisionError("head broke")), target)
    stop = by_name(documents, "stop")[0]
    assert (stop["exit_status"], stop["reason"]) == ("fail", "head broke")
    assert not world.goniometer.moving


def test_a_broken_camera_is_named(engine, world, scripted, target, documents):
    world.backend.error = HardwareError("the shutter does not open")
    with pytest.raises(HardwareError, match="shutter does not open"):
        play(engine, world, scripted(Expose(1.0)), target)
    assert by_name(documents, "stop")[0]["reason"] == "the shutter does not open"


def test_a_useless_frame_ends_honestly(engine, world, scripted, target, documents):
    world.backend.expose = lambda seconds: Frame(np.zeros((48, 64), np.uint16), seconds)
    result = play(engine, world, scripted(Expose(1.0)), target)
    assert result.outcome == "gave_up"
    assert "no photon" in result.reason
    assert len(stream(documents, "primary")) == 1


class TurnOnce:
    """Exposes, moves by the reach of the target, exposes and declares what the usual observer believes."""

    def __init__(self, crystal):
        self.crystal = crystal
        self.n = 0

    def reset(self, task):
        self.task = task

    def state(self):
        return {"n": self.n}

    def decide(self, observation):
        self.n += 1
        if observation.belief is None or self.n == 3:
            return Expose(60.0)
        orientation = observation.belief.orientation
        if orientation is None:
            return GiveUp("nothing indexed")
        if self.n == 4:
            return Declare(orientation)
        chain = observation.goniometer
        u = chain.matrix(observation.belief_axes).T @ orientation.u
        return Move(reach(chain, u, self.task.target, self.crystal, observation.axes).positions)


@pytest.mark.slow
def test_on_the_real_twin_with_the_usual_observer(engine, target, tmp_path):
    crystal, rng = load_crystal("si"), np.random.default_rng(4)
    twin = Twin(crystal, load_instrument("lab"), rng=rng, faults=Faults.none())
    camera, goniometer = connect(twin)
    result = engine(align_crystal(camera, goniometer, TurnOnce(crystal), target)).plan_result
    assert result.outcome == "declared"
    assert np.rad2deg(target.error(twin.u_lab(), crystal)) < 0.5


def interrupted(engine, world, agent, target, action, ready):
    """Run the plan, and call ``action`` from another thread as soon as ``ready()``."""

    def watch():
        end = time.monotonic() + 10.0
        while not ready() and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.1)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return play(engine, world, agent, target)
    finally:
        thread.join()


@pytest.mark.parametrize("what", ["move", "exposure"])
def test_abort_leaves_motors_at_rest_and_says_so(engine, slow_world, scripted, target, documents, what):
    world = slow_world
    agent = scripted(Move({"omega": 90.0})) if what == "move" else scripted(Expose(100.0))
    device = world.goniometer if what == "move" else world.camera
    with pytest.raises(RunEngineInterrupted):
        interrupted(engine, world, agent, target, lambda: engine.abort("door opened"), lambda: device.busy)
    assert engine.state == "idle"
    stop = by_name(documents, "stop")[0]
    assert (stop["exit_status"], stop["reason"]) == ("abort", "door opened")
    assert not device.busy
    here = dict(world.backend.positions)
    if what == "move":
        assert 0.0 < here["omega"] < 90.0
    else:
        assert 0.0 < world.backend.dose_s - 7.0 < 100.0
    time.sleep(0.2)
    assert world.backend.positions == here
    # and the next run goes as if nothing had been
    result = play(engine, world, scripted(Move({"omega": here["omega"] + 1.0}), GiveUp("enough")), target)
    assert result.outcome == "gave_up"
    assert len(by_name(documents, "stop")) == 2


@pytest.mark.parametrize(("how", "status"), [("stop", "success"), ("halt", "abort")])
def test_stop_and_halt_also_come_to_rest(engine, slow_world, scripted, target, documents, how, status):
    world = slow_world
    with pytest.raises(RunEngineInterrupted):
        interrupted(
            engine,
            world,
            scripted(Move({"omega": 90.0})),
            target,
            getattr(engine, how),
            lambda: world.goniometer.moving,
        )
    assert by_name(documents, "stop")[0]["exit_status"] == status
    assert not world.goniometer.moving


def test_a_motion_stopped_by_somebody_else_does_not_count(engine, slow_world, scripted, target, documents):
    world = slow_world
    with pytest.raises(HardwareError, match=r"stopped (after|short)"):
        interrupted(
            engine,
            world,
            scripted(Move({"omega": 90.0}), GiveUp("not reached")),
            target,
            lambda: world.goniometer.stop(success=True),
            lambda: world.goniometer.moving,
        )
    assert by_name(documents, "stop")[0]["exit_status"] == "fail"


@pytest.mark.parametrize("what", ["move", "exposure"])
def test_pause_and_resume_do_the_step_again(engine, slow_world, scripted, target, documents, what):
    world = slow_world
    first = Move({"omega": 20.0}) if what == "move" else Expose(5.0)
    device = world.goniometer if what == "move" else world.camera
    with pytest.raises(RunEngineInterrupted):
        interrupted(
            engine,
            world,
            scripted(first, GiveUp("enough")),
            target,
            engine.request_pause,
            lambda: device.busy,
        )
    assert engine.state == "paused"
    assert not device.busy
    result = engine.resume().plan_result
    assert result.outcome == "gave_up"
    assert [type(s.decision).__name__ for s in result.steps] == [type(first).__name__, "GiveUp"]
    assert stop_status(documents) == "success"
    if what == "move":
        assert result.axes["omega"] == 20.0
    else:
        assert result.dose_s > 5.0
        assert len(world.observer.frames) == 1


def stop_status(documents):
    return by_name(documents, "stop")[0]["exit_status"]


def test_records_in_a_folder(world, happy, target, tmp_path):
    recorder = LocalRecorder(tmp_path, world.backend.instrument)
    with run_engine(recorder) as engine:
        result = play(engine, world, happy, target)
    files = sorted(str(p.relative_to(recorder.path)) for p in recorder.path.rglob("*") if p.is_file())
    assert files == ["documents.jsonl", "frames/frame_0001.h5", "frames/frame_0002.h5", "run.json"]
    summary = json.loads((recorder.path / "run.json").read_text())
    assert summary["uid"] == result.run_uid
    assert summary["exit_status"] == "success"
    lines = [json.loads(line) for line in (recorder.path / "documents.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines][0::12] == ["start"]
    assert lines[-1]["name"] == "stop"
    pointers = [
        line["doc"]["data"]["camera_image"] for line in lines if "camera_image" in line["doc"].get("data", {})
    ]
    assert pointers[1]["file"] == "frames/frame_0002.h5"
    frame = read_frame(recorder.path / pointers[1]["file"])
    np.testing.assert_array_equal(frame.counts, world.observer.frames[1].counts)
    assert frame.counts.dtype == np.uint16
    assert frame.axes == {"omega": 10.0, "chi": -5.0, "phi": 0.0}
    assert (frame.live_time_s, frame.gain, frame.saturation) == (3.0, 1.0, 65535.0)
    assert frame.metadata["dose_s"] == 12.0
    with h5py.File(recorder.path / pointers[1]["file"]) as file:
        assert file[pointers[1]["dataset"]].shape == (48, 64)
        assert file["entry/sample/transformations/omega"].attrs["units"] == "deg"


def test_records_of_failed_and_of_killed_runs_say_so(world, scripted, target, tmp_path):
    recorder = LocalRecorder(tmp_path)
    with run_engine(recorder) as engine, pytest.raises(RuntimeError, match="head broke"):
        play(engine, world, scripted(Expose(1.0), RuntimeError("head broke")), target)
    summary = json.loads((recorder.path / "run.json").read_text())
    assert (summary["exit_status"], summary["reason"]) == ("fail", "head broke")
    assert len(summary["frames"]) == 1
    killed = LocalRecorder(tmp_path / "killed")
    killed("start", {"uid": "0123456789", "time": 0.0})
    killed.close()
    assert [p.name for p in killed.path.iterdir() if p.is_file()] == ["documents.jsonl.part"]
    with pytest.raises(RuntimeError, match="subscribe before"):
        LocalRecorder(tmp_path)("stop", {})


def test_the_plan_is_messages_that_can_be_read_without_an_engine(world, scripted, target):
    agent = scripted(GiveUp("dry run"))
    plan = align_crystal(world.camera, world.goniometer, agent, target, observer=world.observer)
    commands = [message.command for message in plan]
    assert commands[:3] == ["stage", "stage", "open_run"]
    assert "close_run" in commands
    assert isinstance(RunEngine, type)


def test_a_belief_keeps_the_axes_of_its_frame(engine, world, scripted, target, orientation):
    """Moved after the last frame and given up: the orientation is told with the axes at which it was seen."""
    agent = scripted(
        Move({"chi": 3.0}), Expose(1.0), Move({"omega": 10.0, "chi": -5.0}), GiveUp("cannot be reached")
    )
    result = play(engine, world, agent, target)
    assert result.orientation is orientation
    assert result.orientation_axes == {"omega": 0.0, "chi": 3.0, "phi": 0.0}
    assert result.axes == {"omega": 10.0, "chi": -5.0, "phi": 0.0}
    blind = play(engine, world, scripted(Move({"chi": 3.0}), GiveUp("no")), target)
    assert blind.orientation is None
    assert blind.orientation_axes is None


def test_a_device_that_cannot_be_stopped_does_not_keep_the_others_from_it(engine):
    told = []

    class Part:
        parent, busy = None, False

        def __init__(self, name, error=None):
            self.name, self.error = name, error

        def stop(self, *, success=False):
            told.append(self.name)
            if self.error is not None:
                raise self.error

    with pytest.raises(HardwareError, match="the robot is gone"):
        engine(settle(Part("goniometer", HardwareError("the robot is gone")), Part("camera")))
    assert told[:2] == ["goniometer", "camera"]
