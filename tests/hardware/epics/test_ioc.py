"""The IOC over real Channel Access on loopback; what example IOCs do fails here, trap by trap."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("caproto", reason="needs caproto: pip install lauepilot[epics]")
epics = pytest.importorskip("epics", reason="needs pyepics: pip install lauepilot[epics]")

from lauepilot.hardware.epics import ioc as ioc_module  # noqa: E402
from lauepilot.hardware.epics.environment import loopback, only_loopback, use_loopback  # noqa: E402
from lauepilot.hardware.epics.process import running_ioc  # noqa: E402
from lauepilot.hardware.errors import HardwareError  # noqa: E402
from lauepilot.simulator.crystal import load_crystal  # noqa: E402
from lauepilot.simulator.instrument import load_instrument  # noqa: E402
from lauepilot.simulator.twin import Twin  # noqa: E402


def test_clients_see_the_limits_and_nothing_moves_beyond_them(client):
    limits = client.pv("omega").get_ctrlvars()
    assert (limits["lower_ctrl_limit"], limits["upper_ctrl_limit"]) == (-100.0, 100.0)
    assert (client.get("omega.LLM"), client.get("omega.HLM")) == (-100.0, 100.0)
    before = client.get("omega.RBV")
    client.put("omega", 500.0)
    assert client.get("omega.DMOV") == 1 and client.get("omega.RBV") == before
    client.put("omega.HLM", 20.0)
    assert client.pv("omega").get_ctrlvars()["upper_ctrl_limit"] == 20.0
    client.put("omega", 30.0)
    assert client.get("omega.RBV") == before
    client.put("omega.HLM", 5000.0)  # beyond the hard one
    assert client.get("omega.HLM") == 20.0
    client.put("omega.HLM", 100.0)


def test_a_put_is_complete_when_the_motor_is_at_rest(client):
    start = client.get("chi.RBV")
    goal = start + 20.0 if start < 0.0 else start - 20.0
    began = client.get("twin:Clock_RBV")
    client.put("chi", goal)
    assert client.get("chi.RBV") == pytest.approx(goal, abs=1e-3)
    assert client.get("chi.DMOV") == 1 and client.get("chi.MOVN") == 0
    assert client.get("twin:Clock_RBV") - began >= 20.0 / client.get("chi.VELO")


def test_read_backs_on_the_way_and_stop_in_motion(client):
    client.put("twin:Speed", 1.0)
    client.put("omega", -80.0 if client.get("omega.RBV") > 0.0 else 80.0, wait=False)
    client.until("omega.MOVN", 1)
    assert client.get("omega.DMOV") == 0
    one = client.get("omega.RBV")
    time.sleep(0.1)
    assert client.get("omega.RBV") != one
    client.put("omega.STOP", 1)
    client.until("omega.DMOV", 1)
    here = client.get("omega.RBV")
    assert abs(here) < 80.0
    assert client.get("omega") == pytest.approx(here, abs=1e-3)
    assert client.get("omega.STOP") == 0


def test_a_stop_at_rest_does_not_kill_the_next_motion(client):
    """Trap 3: the naive way polls a flag, finds it up when the next motion begins, and stops that."""
    client.put("chi.STOP", 1)
    goal = 7.0 if client.get("chi.RBV") < 0.0 else -7.0
    client.put("chi", goal)
    assert client.get("chi.RBV") == pytest.approx(goal, abs=1e-3)


def test_another_goal_on_the_way(client):
    client.put("twin:Speed", 2.0)
    client.put("omega", 60.0, wait=False)
    client.until("omega.MOVN", 1)
    client.put("omega", 2.0)
    assert client.get("omega.RBV") == pytest.approx(2.0, abs=1e-3)


def test_tweak_home_offset_and_direction(client):
    client.put("phi", 1.0)
    client.put("phi.TWV", 0.5)
    client.put("phi.TWF", 1)
    client.until("phi.DMOV", 1)
    assert client.get("phi.RBV") == pytest.approx(1.5, abs=1e-3)
    client.put("phi.OFF", 10.0)
    assert client.get("phi.RBV") == pytest.approx(11.5, abs=1e-3)
    assert client.get("phi.DRBV") == pytest.approx(1.5, abs=1e-3)
    client.put("phi.DIR", 1)
    assert client.get("phi.RBV") == pytest.approx(8.5, abs=1e-3)
    low, high = client.get("phi.LLM"), client.get("phi.HLM")
    assert low < high
    client.put("phi.DIR", 0)
    client.put("phi.OFF", 0.0)
    client.put("phi.HOMF", 1)
    client.until("phi.DMOV", 1)
    assert client.get("phi.RBV") == pytest.approx(0.0, abs=1e-3)


def test_paused_motors_do_not_move(client):
    before = client.get("chi.RBV")
    client.put("chi.SPMG", "Stop")
    client.put("chi", before + 1.0)
    assert client.get("chi.RBV") == before
    client.put("chi.SPMG", "Go")  # what was asked for meanwhile
    client.until("chi.DMOV", 1)
    assert client.get("chi.RBV") == pytest.approx(before + 1.0, abs=1e-3)


@pytest.mark.parametrize(("fault", "reached"), [("short", 0.5), ("switch", 0.5)])
def test_motors_that_do_not_arrive(client, fault, reached):
    client.put("omega", 0.0)
    client.put("twin:FaultAxis", "omega")
    client.put("twin:FaultMotor", fault)
    client.put("omega", 20.0)
    assert client.get("omega.DMOV") == 1
    assert client.get("omega.RBV") == pytest.approx(20.0 * reached, abs=0.01)
    assert client.get("omega.HLS") == int(fault == "switch")
    assert (client.get("omega.SEVR") == 2) is (fault == "switch")
    client.put("twin:FaultMotor", 0)
    assert client.get("omega.HLS") == 0 and client.get("omega.SEVR") == 0


def test_a_motor_that_hangs_can_be_stopped(client):
    client.put("omega", 0.0)
    client.put("twin:FaultAxis", "omega")
    client.put("twin:FaultMotor", "stall")
    client.put("omega", 10.0, wait=False)
    client.until("omega.RBV", 5.0)
    time.sleep(0.2)
    assert client.get("omega.DMOV") == 0
    client.put("omega.STOP", 1)
    client.until("omega.DMOV", 1)


def test_wrong_read_backs_and_several_motors_at_once(client):
    goals = {"omega": 4.0, "chi": -3.0, "phi": 2.0}
    threads = [threading.Thread(target=client.pv(axis).put, args=(goal,), kwargs={"wait": True})
               for axis, goal in goals.items()]  # fmt: skip
    for thread in threads:
        epics.ca.use_initial_context()
        thread.start()
    for thread in threads:
        thread.join(20.0)
    for axis, goal in goals.items():
        client.until(f"{axis}.DMOV", 1)
        assert client.get(f"{axis}.RBV") == pytest.approx(goal, abs=1e-3)
    client.put("twin:FaultAxis", "omega")
    client.put("twin:FaultMotor", "readback")
    assert client.get("omega.RBV") == pytest.approx(5.0, abs=1e-3)


#: As many pixels as the sensors of beamlines have.
LARGE = """
name: large
title: Four million pixels
exposure_s: 1
beam:
  radiation: xray
  spectrum: {kind: tungsten_tube, kv: 35, current_ma: 10, distance_mm: 500, filtration_mm: {Be: 0.5, air: 500}}
  size_mm: [0.5, 0.5]
detectors:
  - {name: film, kind: flat, shape: [2048, 2048], pixel_mm: [0.05, 0.05], distance_mm: 40, centre_px: [1023.5, 1023.5],
     normal: [0, 0, -1], col_direction: [1, 0, 0], row_direction: [0, -1, 0], sensor: {readout_s: 0.1}}
goniometer:
  - {name: omega, direction: [0, 1, 0], limits: [-100, 100], speed: 5, settle_s: 1, resolution: 0.001, backlash: 0.02}
  - {name: chi, direction: [0, 0, 1], limits: [-100, 100], speed: 5, settle_s: 1, resolution: 0.001, backlash: 0.02}
  - {name: phi, direction: [0, 1, 0], limits: [-180, 180], speed: 5, settle_s: 1, resolution: 0.001, backlash: 0.02}
"""


def test_the_image_is_the_twins(client_of, tmp_path):
    """The same seed in process: the same motions and exposures give the same pixels, bit by bit, four million of them."""
    file = tmp_path / "large.yaml"
    file.write_text(LARGE)
    twin = Twin(load_crystal("si"), load_instrument(file), rng=np.random.default_rng(11))
    twin.move({"omega": 5.0, "phi": -4.0})
    twin.move({"chi": 3.0})
    wanted = twin.expose(2.0)
    with running_ioc(instrument=str(file), speed=200.0, seed=11) as fresh:
        client = client_of(fresh.prefix)
        for axis in ("omega", "phi"):  # told together: no connecting between them
            client.pv(axis)
        client.put("omega", 5.0, wait=False)
        client.put("phi", -4.0)
        client.until("omega.DMOV", 1)
        client.put("chi", 3.0)
        client.put("cam1:AcquireTime", 2.0)
        client.put("cam1:Acquire", 1)
        rows, cols = client.get("cam1:ArraySizeY_RBV"), client.get("cam1:ArraySizeX_RBV")
        assert (rows, cols) == (2048, 2048)
        image = client.get("image1:ArrayData").astype(np.uint16).reshape(rows, cols)
        assert np.array_equal(image, wanted.counts)
        assert client.get("twin:Clock_RBV") == pytest.approx(twin.clock_s)
        assert client.get("twin:Dose_RBV") == pytest.approx(2.0)
        assert client.get("twin:Gain_RBV") == wanted.gain


def test_an_exposure_can_be_cut_short_and_a_camera_can_hang(client):
    client.put("twin:Speed", 1.0)
    client.put("cam1:AcquireTime", 60.0)
    client.put("cam1:Acquire", 1, wait=False)
    client.until("cam1:Acquire_RBV", 1)
    client.put("cam1:Acquire", 0)
    assert client.get("cam1:Acquire_RBV") == 0 and client.get("twin:LiveTime_RBV") < 20.0
    client.put("twin:FaultCamera", "never")
    client.put("cam1:AcquireTime", 0.1)
    client.put("cam1:Acquire", 1, wait=False)
    client.until("cam1:Acquire_RBV", 1)
    time.sleep(0.4)
    assert client.get("cam1:Acquire_RBV") == 1
    client.put("cam1:Acquire", 0)
    assert client.get("cam1:Acquire_RBV") == 0


def test_ophyds_own_areadetector_classes(ioc):
    ophyd = pytest.importorskip("ophyd")
    from ophyd.areadetector.trigger_mixins import SingleTrigger

    class Detector(SingleTrigger, ophyd.SimDetector):
        image = ophyd.Component(ophyd.ImagePlugin, "image1:")

    detector = Detector(ioc.prefix, name="detector")
    detector.wait_for_connection(timeout=10.0)
    detector.cam.acquire_time.put(0.5)
    detector.stage()
    detector.trigger().wait(20.0)
    # Not .image: for two dimensions ophyd asks for depth x height pixels, of which there are none.
    size = detector.image.array_size.get()
    assert (size.height, size.width) == (1000, 1000)
    assert detector.image.array_data.get(count=1_000_000).reshape(1000, 1000).max() > 0
    detector.unstage()


def test_loopback_only(monkeypatch):
    assert only_loopback(loopback(1, 2))
    assert not only_loopback({})
    assert not only_loopback({"EPICS_CAS_INTF_ADDR_LIST": "0.0.0.0"})
    environ = {}
    with pytest.raises(HardwareError, match="imported before"):
        use_loopback(5000, 5001, environ)
    assert use_loopback(environ={"EPICS_CA_SERVER_PORT": "77"})["EPICS_CA_SERVER_PORT"] == "77"


def test_another_crystal_is_mounted_by_its_seed(client):
    seed, speed = client.get("twin:Seed"), client.get("twin:Speed")
    client.put("omega", 60.0, wait=False)
    client.until("omega.DMOV", 0)
    client.put("twin:Seed", 9)
    assert client.get("twin:Seed_RBV") == seed  # not while it moves
    client.put("twin:Speed", 1000.0)
    client.until("omega.DMOV", 1)
    client.put("twin:Seed", -1)
    assert client.get("twin:Seed_RBV") == seed
    client.put("twin:Seed", 9)
    twin = Twin(load_crystal("si"), load_instrument("lab"), rng=np.random.default_rng(9))
    assert client.get("twin:Seed_RBV") == client.get("twin:Seed") == 9
    assert np.allclose(client.get("twin:TrueU_RBV"), twin.u_lab().ravel(), atol=1e-12)
    assert [client.get(name) for name in ("omega.RBV", "omega", "omega.DVAL", "omega.DMOV")] == [0, 0, 0, 1]
    assert (client.get("twin:Clock_RBV"), client.get("twin:Dose_RBV")) == (0.0, 0.0)
    client.put("twin:Seed", seed)
    client.put("twin:Speed", speed)


def test_answers_leave_at_once(monkeypatch):
    async def nothing(self, client, addr):
        return None

    monkeypatch.setattr(ioc_module.Context, "tcp_handler", nothing)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as accepted,
    ):
        writer = SimpleNamespace(get_extra_info={"socket": accepted}.get)
        served = object.__new__(ioc_module._Server)
        asyncio.run(served.tcp_handler(SimpleNamespace(writer=writer), None))
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
