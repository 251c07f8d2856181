"""An arm behind motor records: its joints go together along a way that was looked at, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("caproto", reason="needs caproto: pip install lauepilot[epics]")

from lauepilot.hardware.epics.process import running_ioc
from lauepilot.simulator.instrument import load_instrument

ARM = load_instrument("lab-arm").goniometer


@pytest.fixture(scope="module")
def arm_ioc(client_of):
    with running_ioc(instrument="lab-arm", speed=20.0, seed=4, faults="none") as running:
        yield running


@pytest.fixture
def arm(arm_ioc, client_of):
    client = client_of(arm_ioc.prefix)
    for joint in ARM.names:  # told together later: no connecting between them
        client.pv(joint), client.pv(f"{joint}.RBV"), client.pv(f"{joint}.DMOV")
    client.put("twin:Speed", 20.0)
    if positions(client) != pytest.approx(ARM.rest, abs=2e-3):
        send(client, ARM.rest)
    assert positions(client) == pytest.approx(ARM.rest, abs=2e-3)
    return client


def positions(client):
    return {joint: client.get(f"{joint}.RBV") for joint in ARM.names}


def tell(client, goal):
    """Each joint its goal, at once; complete when the last one rests, or was refused."""
    *first, last = goal
    for joint in first:
        client.put(joint, goal[joint], wait=False)
    client.put(last, goal[last])


def send(client, goal):
    """The same until it is there: a client that is held up between two joints is refused, and asks again."""
    for _ in range(5):
        tell(client, goal)
        for joint in goal:
            client.until(f"{joint}.DMOV", 1)
        if positions(client) == pytest.approx(goal, abs=2e-3):
            return
    pytest.fail(f"the arm stands at {positions(client)}")


def other_pose():
    """Another pose with the crystal in the beam, with a clear way that is not straight."""
    grid = ARM.grid()
    for q in grid[1::37]:
        goal = dict(zip(ARM.names, np.round(np.rad2deg(q), 3).tolist(), strict=True))
        if not ARM.problem(ARM.rest, goal) and len(ARM.path(ARM.rest, goal).points) > 3:
            return goal
    raise AssertionError


def test_a_joint_alone_would_take_the_crystal_out_of_the_beam(arm):
    arm.put("j4", 30.0)
    assert arm.get("j4.DMOV") == 1
    assert arm.get("j4") == pytest.approx(ARM.rest["j4"], abs=2e-3)
    assert positions(arm) == pytest.approx(ARM.rest, abs=2e-3)


def test_a_way_into_a_body_is_refused(arm):
    tell(arm, {"j1": 0.0, "j2": 60.0, "j3": 60.0, "j4": 0.0, "j5": 0.0, "j6": 0.0})
    for joint in ARM.names:
        arm.until(f"{joint}.DMOV", 1)
    assert positions(arm) == pytest.approx(ARM.rest, abs=2e-3)


def test_joints_follow_the_checked_way_and_a_stop_stops_all(arm):
    goal = other_pose()
    seen = {joint: [] for joint in ARM.names}
    numbers = {
        joint: arm.pv(f"{joint}.RBV").add_callback(lambda value, joint=joint, **_: seen[joint].append(value))
        for joint in ARM.names
    }
    before = arm.get("twin:Clock_RBV")
    send(arm, goal)
    for joint, number in numbers.items():
        arm.pv(f"{joint}.RBV").remove_callback(number)
    assert arm.get("twin:Clock_RBV") - before == pytest.approx(ARM.move_time_s(ARM.rest, goal), rel=1e-3)
    points = np.rad2deg(ARM.path(ARM.rest, goal).points)
    for k, joint in enumerate(
        ARM.names
    ):  # each within what the way asks of it: no straight short cuts beyond
        assert points[:, k].min() - 0.01 <= min(seen[joint])
        assert max(seen[joint]) <= points[:, k].max() + 0.01
    arm.put("twin:Speed", 0.5)
    for joint, value in ARM.rest.items():
        arm.put(joint, value, wait=False)
    arm.until("j1.MOVN", 1)
    arm.put("j6.STOP", 1)
    for joint in ARM.names:
        arm.until(f"{joint}.DMOV", 1)
    here = positions(arm)
    assert here != pytest.approx(ARM.rest, abs=0.1)
    assert ARM.beam_distance_mm(here) < 0.2  # still on the way
    assert {joint: arm.get(joint) for joint in ARM.names} == pytest.approx(here, abs=2e-3)


def test_speeds_and_take_up_belong_to_all_joints(arm):
    for field, value in (("VELO", 1.0), ("BDST", 1.0)):
        before = arm.get(f"j2.{field}")
        arm.put(f"j2.{field}", value)
        assert arm.get(f"j2.{field}") == before


def test_the_usual_devices_move_it(arm, arm_ioc):
    pytest.importorskip("ophyd")
    from bluesky import plan_stubs as bps

    from lauepilot.hardware.devices.config import usual_devices, wait_connected
    from lauepilot.hardware.engine import run_engine

    camera, goniometer = usual_devices(arm_ioc.prefix, load_instrument("lab-arm"), "ophyd")
    goal = other_pose()
    with run_engine() as run:
        wait_connected(camera, goniometer, timeout_s=60.0, loop=run.loop)
        run(bps.mv(goniometer, goal))
        assert goniometer.position == pytest.approx(goal, abs=2e-3)
