"""The Meca500's driver, through its vendor's package, on a fake that speaks the robot's protocol."""

from __future__ import annotations

import gc
import socket
import time
from dataclasses import replace

import numpy as np
import pytest

from lauepilot.hardware.drivers.meca500_fake import VERSION, FakeMeca500
from lauepilot.hardware.drivers.stage import ControllerError, stage_device
from lauepilot.hardware.errors import MotionError, StoppedError
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.instrument import load_instrument

pytest.importorskip("mecademicpy", reason="pip install mecademicpy (extra arm)")

from mecademicpy.robot import Robot

from lauepilot.hardware.drivers.meca500 import connect_meca500

LAB = load_instrument("lab-arm")
ARM = LAB.goniometer


@pytest.fixture
def fake():
    with FakeMeca500(speedup=20.0) as robot:
        yield robot


@pytest.fixture
def stage(fake):
    fake.joints = np.array(list(ARM.rest.values()))
    device = stage_device(LAB, connect_meca500(fake.address, ARM, speed_percent=20.0))
    yield device
    device.controller.disconnect()


def goal():
    return ARM.elsewhere(ARM.rest, 1)


def underway(stage):
    start = stage.position
    while stage.position == start:
        time.sleep(0.002)


def test_the_vendors_package_takes_the_fake_for_a_robot(fake):
    robot = Robot()
    robot.Connect(fake.address, disconnect_on_exception=False)
    try:
        assert str(robot.GetRobotInfo()).endswith(f"Meca500 R3 m500-fake v{VERSION}.0-fake")
        robot.ActivateRobot()
        robot.Home()
        robot.WaitHomed(timeout=2)
        # The pose of the flange at the zero position, as the maker's manual has it.
        robot.MovePose(190, 0, 308, 0, 90, 0)
        robot.WaitIdle(timeout=5)
        assert np.allclose(robot.GetRtJointPos(), 0.0, atol=1e-3)
        robot.MoveLin(190, 40, 280, 0, 90, 0)
        robot.WaitIdle(timeout=5)
        robot.MoveJoints(0, 200, 0, 0, 0, 0)
        robot.WaitForError(timeout=2)
        assert fake.error == 1007
        robot.ResetError()
        robot.WaitErrorReset(timeout=2)
    finally:
        robot.Disconnect()


def test_the_monitoring_port_tells_status_and_joints(fake):
    with socket.create_connection(("127.0.0.1", fake.monitor_port), timeout=2) as monitor:
        text = b""
        while b"[2026]" not in text:
            text += monitor.recv(1000)
    assert text.startswith(b"[3000][Connected to Meca500 R3") and b"[2007][0,0,0,0,0,1,1]" in text


def test_it_goes_the_checked_way_and_reads_back(stage, fake):
    there = goal()
    stage.set(there).wait(20)
    assert stage.position == pytest.approx(there, abs=1e-3)
    assert ARM.beam_distance_mm(stage.position) < 0.05
    moves = [text for text in fake.received if text.startswith("MoveJoints")]
    assert len(moves) == len(ARM.waypoints(ARM.rest, there))  # about the crystal, not straight
    assert len(moves) > 5
    assert stage.j1.position == stage.position["j1"]


@pytest.mark.parametrize("wild", [{"j2": 95.0}, {"j4": 20.0}, {"j1": float("nan")}, {"j7": 0.0}])
def test_what_leaves_limits_or_beam_is_refused_before_anything_moves(stage, fake, wild):
    with pytest.raises((ReachError, KeyError)):
        stage.set(wild)
    assert not any(text.startswith("MoveJoints") for text in fake.received)
    assert fake.error == 0


def test_a_stop_is_at_once_and_the_next_move_goes(stage, fake):
    fake.speedup = 2.0
    status = stage.set(goal())
    underway(stage)
    stage.stop()
    assert not stage.busy
    assert not fake.moving
    with pytest.raises(StoppedError):
        status.wait(5)
    fake.speedup = 20.0
    stage.set(ARM.rest).wait(20)
    assert stage.position == pytest.approx(ARM.rest, abs=1e-3)


def test_somebody_elses_stop_is_no_arrival(stage, fake):
    fake.speedup = 2.0
    status = stage.set(goal())
    underway(stage)
    fake.press_stop()
    with pytest.raises(MotionError, match="stopped short"):
        status.wait(5)


def test_an_error_fails_the_move_until_it_is_reset(stage, fake):
    fake.speedup = 2.0
    status = stage.set(goal())
    underway(stage)
    fake.fail()
    with pytest.raises(ControllerError, match="in error"):
        status.wait(5)
    with pytest.raises(ControllerError, match="reset"):
        stage.set(ARM.rest)
    stage.controller.reset()
    fake.speedup = 20.0
    stage.set(ARM.rest).wait(20)


def test_a_pulled_cable_fails_the_move(stage, fake, monkeypatch):
    monkeypatch.setattr("lauepilot.hardware.drivers.meca500._TIMEOUT_S", 1.0)
    fake.speedup = 2.0
    status = stage.set(goal())
    underway(stage)
    fake.drop()
    with pytest.raises(ControllerError):
        status.wait(10)
    with pytest.raises(ControllerError, match="connect"):
        stage.set(ARM.rest)
    assert not fake.moving


def test_our_limits_may_not_be_wider_than_the_robots(fake):
    fake.limits[2] = (-100.0, 50.0)
    with pytest.raises(ControllerError, match="'j3' may go from -135 to 70"):
        connect_meca500(fake.address, ARM)
    axes = tuple(replace(a, limits=(-100.0, 50.0)) if a.name == "j3" else a for a in ARM.axes)
    connect_meca500(fake.address, replace(ARM, axes=axes)).disconnect()


# The vendor's package leaves a socket open for each try that fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ControllerError, match="No Meca500 answers"):
        connect_meca500(f"127.0.0.1:{port}", ARM)
    gc.collect()
