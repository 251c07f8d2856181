"""Fields of the motor record, faults, and what two clients see; each as a client sees it."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("caproto", reason="needs caproto: pip install lauepilot[epics]")

from lauepilot.cli.simulate import fault_level
from lauepilot.hardware.epics import ioc as ioc_module
from lauepilot.hardware.epics.autosave import Autosave
from lauepilot.hardware.epics.ioc import TwinIOC
from lauepilot.hardware.epics.process import running_ioc
from lauepilot.hardware.errors import HardwareError
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

MAJOR = 2


def test_slow_motions_are_charged_to_the_instruments_clock(client):
    client.put("omega", 0.0)
    full = client.get("omega.VELO")
    before = client.get("twin:Clock_RBV")
    client.put("omega", 10.0)
    quick = client.get("twin:Clock_RBV") - before
    assert quick == pytest.approx(10.0 / full + 1.0)  # as in process
    client.put("omega.VELO", 0.2 * full)
    before = client.get("twin:Clock_RBV")
    client.put("omega", 0.0)
    assert client.get("twin:Clock_RBV") - before == pytest.approx(50.0 / full + 1.0)
    client.put("omega.VELO", 2.0 * full)  # faster than it can
    assert client.get("omega.VELO") == pytest.approx(0.2 * full)
    client.put("omega.VELO", full)


def test_a_motor_that_starts_while_another_moves_prolongs_the_motion(client):
    client.put("omega", 0.0)
    client.put("chi", 0.0)
    before = client.get("twin:Clock_RBV")
    client.put("omega", 40.0, wait=False)
    end = time.monotonic() + 60.0
    while client.get("omega.RBV") < 20.0:
        assert time.monotonic() < end
    client.put("chi", 30.0)
    client.until("omega.DMOV", 1)
    # 9 s and 7 s alone; 4 s after the other at the earliest, and one after the other if this client sleeps.
    assert 4.0 + 7.0 <= client.get("twin:Clock_RBV") - before <= 9.0 + 7.0 + 1e-6


@pytest.mark.parametrize(("field", "sign"), [("JOGF", 1), ("JOGR", -1)])
def test_jog_until_told_otherwise_and_not_beyond_the_limit(client, field, sign):
    client.put("phi", 0.0)
    client.put("twin:Speed", 2.0)
    client.put(f"phi.{field}", 1, wait=False)
    client.until(f"phi.{field}", 1)
    client.until("phi.MOVN", 1)
    assert client.get("phi") == 0.0  # a jog has no goal
    client.put(f"phi.{field}", 0)
    client.until("phi.DMOV", 1)
    assert client.get(f"phi.{field}") == 0
    here = client.get("phi.RBV")
    assert 0.0 < sign * here < 180.0
    assert client.get("phi") == pytest.approx(here, abs=1e-3)
    limit, old = ("HLM", 180.0) if sign > 0 else ("LLM", -180.0)
    client.put(f"phi.{limit}", here + 2.0 * sign)
    client.put("twin:Speed", 20.0)
    client.put(f"phi.{field}", 1)  # complete when it stands
    assert client.get("phi.RBV") == pytest.approx(here + 2.0 * sign, abs=2e-3)
    assert client.get("phi") == pytest.approx(here + 2.0 * sign, abs=2e-3)
    client.put(f"phi.{field}", 1)
    assert client.get("phi.LVIO") == 1
    assert client.get("phi.DMOV") == 1
    client.put(f"phi.{limit}", old)


def test_tweaks_forward_and_back_within_limits(client):
    client.put("chi", 1.0)
    client.put("chi.TWV", 0.5)
    for field, wanted in (("TWF", 1.5), ("TWF", 2.0), ("TWR", 1.5)):
        client.put(f"chi.{field}", 1)
        assert client.get("chi.RBV") == pytest.approx(wanted, abs=1e-3)
        assert client.get(f"chi.{field}") == 0
    client.put("chi.TWV", 500.0)
    client.put("chi.TWF", 1)
    assert client.get("chi.RBV") == pytest.approx(1.5, abs=1e-3)
    assert client.get("chi.LVIO") == 1
    client.put("chi.TWV", 1.0)
    client.put("chi", 1.5)
    assert client.get("chi.LVIO") == 0


def path_of(client, axis, goal):
    """Read-backs that a monitor saw."""
    seen = []
    number = client.pv(f"{axis}.RBV").add_callback(lambda value, **_: seen.append(value))
    client.put(axis, goal)
    client.until(f"{axis}.DMOV", 1)
    client.pv(f"{axis}.RBV").remove_callback(number)
    return seen


@pytest.mark.parametrize("direction", ["Pos", "Neg"])
def test_play_is_taken_up_from_the_side_of_bdst(client, direction):
    client.put("chi", 0.0)
    client.put("chi.DIR", direction)
    sign = 1.0 if direction == "Pos" else -1.0
    client.put("twin:Speed", 10.0)
    client.put("chi.BDST", 1.0)  # on the dial: from below
    try:
        assert sign * min(sign * p for p in path_of(client, "chi", -4.0 * sign)) == pytest.approx(
            -5.0 * sign, abs=0.05
        )
        assert client.get("chi.DRBV") == pytest.approx(-4.0, abs=1e-3)
        up = [sign * p for p in path_of(client, "chi", -2.0 * sign)]
        assert max(up) <= -2.0 + 1e-3
        assert min(up) >= -4.0 - 1e-3
        client.put("chi", -99.5 * sign)  # its way round would pass the limit
        assert client.get("chi.LVIO") == 1
        assert client.get("chi.DRBV") == pytest.approx(-2.0, abs=1e-3)
    finally:
        client.put("chi.BDST", 0.0)
        client.put("chi.DIR", "Pos")


def test_play_taken_up_is_in_the_clock_at_its_own_speed(client):
    client.put("chi", 0.0)
    speed = client.get("chi.VELO")
    client.put("chi.BDST", 2.0)
    client.put("chi.BVEL", 0.5 * speed)
    before = client.get("twin:Clock_RBV")
    client.put("chi", -5.0)
    spent = client.get("twin:Clock_RBV") - before
    client.put("chi.BDST", 0.0)
    client.put("chi.BVEL", speed)
    ramps = client.get("chi.ACCL")
    assert spent == pytest.approx(7.0 / speed + ramps + 4.0 / speed + 1.0, abs=0.01)


def test_a_held_motor_neither_jogs_nor_goes_home(client):
    client.put("phi", 3.0)
    client.put("phi.SPMG", "Pause")
    for field in ("JOGF", "HOMF"):
        client.put(f"phi.{field}", 1)
        assert client.get("phi.RBV") == pytest.approx(3.0, abs=1e-3)
    client.put("phi.SPMG", "Go")


def test_alarms_reach_monitors(client):
    client.put("omega", 0.0)
    severities = []
    number = client.pv("omega.RBV").add_callback(lambda severity, **_: severities.append(severity))
    client.put("twin:FaultAxis", "omega")
    client.put("twin:FaultMotor", "switch")
    client.put("omega", -8.0)
    client.until("omega.SEVR", MAJOR)
    assert client.get("omega.LLS") == 1
    end = time.monotonic() + 30.0
    while MAJOR not in severities:
        assert time.monotonic() < end
        time.sleep(0.02)
    here = client.get("omega.RBV")
    client.put("omega", -8.0)  # not further onto the switch
    assert client.get("omega.RBV") == here
    client.put("twin:FaultMotor", "none")
    client.until("omega.SEVR", 0)
    client.pv("omega.RBV").remove_callback(number)


def test_a_dropped_client_comes_back(client):
    seen = []
    pv = client.pv("omega.RBV")
    pv.connection_callbacks.append(lambda conn, **_: seen.append(conn))
    client.put("twin:FaultDisconnect", 1, wait=False)
    end = time.monotonic() + 60.0
    while seen[:1] != [False] or not pv.connected:
        assert time.monotonic() < end, seen
        time.sleep(0.05)
    assert client.get("omega.DMOV") == 1


def test_a_frozen_ioc_answers_nobody_and_then_goes_on(client):
    client.get("omega.RBV")
    client.put("twin:FaultFreeze", 2.0, wait=False)
    with pytest.warns(UserWarning, match="timed out"):
        assert client.pv("omega.RBV").get(use_monitor=False, timeout=0.1) is None
    assert client.pv("omega.RBV").get(use_monitor=False, timeout=60.0) is not None
    assert client.get("omega.DMOV") == 1


def test_two_clients_at_once_see_the_same(client, ioc):
    """The second is another program's library: caproto's, on a circuit of its own."""
    from caproto.threading.client import Context

    with Context(timeout=10.0) as context:
        names = ["omega", "omega.RBV", "omega.DMOV", "cam1:AcquireTime"]
        value, rbv, done, seconds = context.get_pvs(*(ioc.prefix + name for name in names))
        for one in (value, rbv, done, seconds):
            one.wait_for_connection(timeout=10.0)
        seen = []

        def heard(_, response):  # held by a weak reference only
            seen.append(int(response.data[0]))

        done.subscribe().add_callback(heard)
        for goal in (6.0, -6.0):
            client.put("omega", goal)
            assert float(value.read().data[0]) == client.get("omega") == goal
            assert float(rbv.read().data[0]) == pytest.approx(goal, abs=1e-3)
        value.write([2.0], wait=True, timeout=30.0)
        assert client.get("omega.RBV") == pytest.approx(2.0, abs=1e-3)
        assert client.get("omega.DMOV") == 1
        seconds.write([0.25], wait=True, timeout=10.0)
        assert client.get("cam1:AcquireTime_RBV") == 0.25
        end = time.monotonic() + 10.0
        while seen[-1:] != [1] or seen.count(0) < 3:
            assert time.monotonic() < end, seen
            time.sleep(0.02)


def test_a_restarted_ioc_goes_on_from_its_file(client_of, tmp_path):
    file = tmp_path / "lab.json"
    with running_ioc(speed=100.0, autosave=file) as ioc:
        client = client_of(ioc.prefix)
        client.put("omega.OFF", 2.0)
        client.put("chi.DIR", "Neg")
        client.put("phi.HLM", 90.0)
        client.put("phi.VELO", 2.5)
        client.put("omega", 13.0)
        client.put("chi", 4.0)
        ioc.kill()  # at once: what DMOV said was saved before
        kept = json.loads(file.read_text())["axes"]
        assert kept["omega"]["dial"] == pytest.approx(11.0)
        assert kept["chi"]["dial"] == pytest.approx(-4.0)
        end = time.monotonic() + 60.0
        while client.pv("omega").connected:  # clients see that it has gone
            assert time.monotonic() < end
            time.sleep(0.05)
        ioc.start()
        fresh = client_of(ioc.prefix)
        wanted = {"omega": 13.0, "omega.RBV": 13.0, "omega.DRBV": 11.0, "chi": 4.0, "chi.RBV": 4.0, "phi.HLM": 90.0,
                  "phi.VELO": 2.5, "phi.RBV": 0.0}  # fmt: skip
        assert {name: fresh.get(name) for name in wanted} == pytest.approx(wanted, abs=2e-3)
        assert fresh.pv("phi").get_ctrlvars()["upper_ctrl_limit"] == 90.0


@pytest.fixture
def saved(tmp_path):
    """A file of the instrument ``lab``."""
    axis = {"dial": 11.0, "DLLM": -100.0, "DHLM": 100.0, "OFF": 2.0, "DIR": "Pos", "VELO": 5.0, "BVEL": 5.0, "HVEL": 5.0,
            "JVEL": 5.0, "ACCL": 0.2, "BDST": 0.0, "TWV": 1.0}  # fmt: skip
    (tmp_path / "lab.json").write_text(
        json.dumps({"instrument": "lab", "axes": dict.fromkeys(("omega", "chi", "phi"), axis)})
    )
    return tmp_path / "lab.json"


def test_a_file_is_written_whole_and_only_when_something_changed(saved):
    keeper = Autosave(saved, load_instrument("lab"))
    state = keeper.load()
    keeper.save(state)
    assert Autosave(saved, load_instrument("lab")).load() == state
    saved.unlink()
    keeper.save(state)
    assert not saved.exists()  # nothing new
    assert keeper.load() == {}
    keeper.save({**state, "chi": {**state["chi"], "dial": 1.0}})
    assert keeper.load()["chi"]["dial"] == 1.0
    assert [path.name for path in saved.parent.iterdir()] == ["lab.json"]


def test_a_place_is_in_the_file_before_the_motion_is_over(tmp_path):
    """Without the IOC's looks from time to time, which would save it later."""
    lab = load_instrument("lab")
    twin = Twin(load_crystal("si"), lab, rng=np.random.default_rng(1), table=SimpleNamespace())

    async def move():
        ioc = TwinIOC(twin, "saved:", 0.0, 1, Autosave(tmp_path / "lab.json", lab))
        for record in ioc.motors.values():
            await record.prepare()
        await ioc.motors["omega"].motor.write(3.0)

    asyncio.run(move())
    assert json.loads((tmp_path / "lab.json").read_text())["axes"]["omega"]["dial"] == 3.0


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("{", "", "line 1"),
        ('"lab"', '"koala"', "not of the instrument 'lab'"),
        ('"chi"', '"kappa"', "its axes are not omega, chi, phi"),
        ("11.0", "110.0", "omega"),
        ("11.0", "NaN", "omega"),
        ("11.0", '"11"', "omega"),
        ('"VELO": 5.0', '"VELO": 50.0', "omega"),
        ('"DHLM": 100.0', '"DHLM": 1000.0', "omega"),
        ("Pos", "Up", "omega"),
        (', "TWV": 1.0', "", "omega"),
    ],
)
def test_a_file_that_cannot_be_is_refused(saved, old, new, why):
    text = saved.read_text()
    assert old in text
    saved.write_text(text.replace(old, new))
    with pytest.raises(HardwareError, match=f"{why}.*Name another file, or remove this one"):
        Autosave(saved, load_instrument("lab")).load()


def test_levels_of_faults_mean_the_same_everywhere(monkeypatch):
    served = []
    monkeypatch.setattr(ioc_module, "serve", lambda *_, faults, **__: served.append(faults))
    for level in ("none", "default", "lab", "harsh"):
        assert ioc_module.main([f"--faults={level}"]) == 0
        assert served[-1] == fault_level(level)
    assert ioc_module.main([]) == 0
    assert served[-1] == fault_level("default")
