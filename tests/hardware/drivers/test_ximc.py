"""Standa's driver on its vendor's virtual axes."""

from __future__ import annotations

import time

import pytest

from lauepilot.hardware.drivers.stage import ControllerError, stage_device
from lauepilot.hardware.errors import MotionError, StoppedError
from lauepilot.simulator.goniometer import Axis, Goniometer, ReachError
from lauepilot.simulator.instrument import load_instrument

pytest.importorskip("libximc", reason="pip install 'libximc!=3.1.2' (extra arm)")

from dataclasses import replace

from lauepilot.hardware.drivers.ximc import connect_ximc

CHAIN = Goniometer(
    (
        Axis("omega", "rotation", (0.0, 1.0, 0.0), (-20.0, 20.0), 40.0, settle_s=0.0),
        Axis("x", "translation", (1.0, 0.0, 0.0), (-5.0, 5.0), 10.0, settle_s=0.0),
    )
)
STEPS = {"omega": 100.0, "x": -200.0}


@pytest.fixture
def stage(tmp_path):
    uris = {name: f"xi-emu:///{tmp_path}/{name}.bin" for name in CHAIN.names}
    controller = connect_ximc(uris, STEPS, CHAIN)
    device = stage_device(replace(load_instrument("lab"), goniometer=CHAIN), controller)
    yield device
    device.disconnect()


def raw(stage, name):
    return stage.controller._axes[name]


def test_moves_and_reads_back(stage):
    stage.set({"omega": 7.3, "x": -1.25}).wait(10)
    assert stage.position == pytest.approx({"omega": 7.3, "x": -1.25}, abs=0.01)
    assert raw(stage, "omega").get_position().Position == 730
    assert raw(stage, "x").get_position().Position == 250  # counts the other way
    stage.omega.set(-2.505).wait(10)
    assert stage.position["omega"] == pytest.approx(-2.505, abs=1e-4)


def test_the_emulator_goes_past_its_borders_and_we_do_not(stage):
    # Trap 9: with borders set, the vendor's own driver is sent outside and goes.
    axis = raw(stage, "x")
    edges = axis.get_edges_settings()
    assert sorted((edges.LeftBorder, edges.RightBorder)) == [-1000, 1000]
    axis.command_move(1100, 0)
    axis.command_wait_for_stop(10)
    assert axis.get_position().Position == 1100
    with pytest.raises(MotionError, match="outside its limits"):
        stage.set({"omega": 1.0})
    axis.command_move(0, 0)
    axis.command_wait_for_stop(10)
    for wild in ({"omega": 20.5}, {"omega": 1.0, "x": 6.0}, {"omega": float("nan")}):
        with pytest.raises(ReachError):
            stage.set(wild)
        with pytest.raises(ReachError):
            stage.controller.start([wild])
    assert stage.position == pytest.approx({"omega": 0.0, "x": 0.0})


def test_a_stop_ends_the_motion_and_fails_it(stage):
    status = stage.set({"omega": 20.0})
    while stage.position["omega"] < 0.5:
        time.sleep(0.005)
    stage.stop()
    assert not stage.busy
    with pytest.raises(StoppedError):
        status.wait(5)
    assert 0.5 <= stage.position["omega"] < 19.0


def test_a_stop_from_elsewhere_is_no_arrival(stage):
    status = stage.set({"omega": 20.0})
    while stage.position["omega"] < 0.5:
        time.sleep(0.005)
    raw(stage, "omega").command_stop()
    with pytest.raises(MotionError, match="stopped short"):
        status.wait(5)


def test_one_motion_at_a_time_and_none_after_the_end(stage):
    status = stage.set({"x": 4.0})
    with pytest.raises(Exception, match="is moving"):
        stage.set({"x": 0.0})
    stage.stop(success=True)
    status.wait(5)
    stage.disconnect()
    with pytest.raises(ControllerError, match="Connect again"):
        stage.set({"x": 0.0})


def test_names_must_fit(tmp_path):
    with pytest.raises(ControllerError, match="for each of omega, x"):
        connect_ximc({"omega": f"xi-emu:///{tmp_path}/a.bin"}, STEPS, CHAIN)
