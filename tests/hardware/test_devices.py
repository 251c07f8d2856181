from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky.protocols import HasHints, Movable, Pausable, Readable, Stageable, Stoppable, Triggerable
from bluesky.utils import FailedStatus

from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.errors import HardwareError, MotionError, StoppedError
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.protocols import Backend
from lauepilot.perception.observation import GiveUp
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.twin import Twin


def test_protocols_of_bluesky_are_satisfied(world):
    assert isinstance(world.backend, Backend)
    for device in (world.goniometer, world.goniometer.omega):
        for protocol in (Movable, Readable, Stoppable, HasHints):
            assert isinstance(device, protocol), (device, protocol)
    for protocol in (Readable, Triggerable, Stageable, Stoppable, Pausable, HasHints):
        assert isinstance(world.camera, protocol), protocol


def test_descriptions_have_true_shapes_and_types(world):
    world.camera.trigger().wait(5)
    key = world.camera.describe()["camera_image"]
    reading = world.camera.read()["camera_image"]["value"]
    assert key["shape"] == [48, 64] == list(reading.shape)
    assert np.dtype(key["dtype_numpy"]) == reading.dtype
    assert world.goniometer.describe()["goniometer_omega"]["units"] == "deg"
    assert set(world.goniometer.read()) == {"goniometer_omega", "goniometer_chi", "goniometer_phi"}
    assert world.goniometer.limits["omega"] == (-100.0, 100.0)
    assert world.goniometer.omega.limits == (-100.0, 100.0)
    for device in (world.camera, world.goniometer):
        assert set(device.hints["fields"]) <= set(device.describe())
        assert device.hints["fields"]


def test_axes_move_together_and_the_clock_counts_the_slowest(world):
    before = world.backend.clock_s
    world.goniometer.set({"omega": 10.0, "chi": -20.0}).wait(5)
    assert world.goniometer.position == {"omega": 10.0, "chi": -20.0, "phi": 0.0}
    assert world.backend.clock_s - before == pytest.approx(20.0 / 5.0 + 1.0)
    assert len(world.backend.moves) == 1


def test_one_axis_in_a_plan(world, engine):
    engine(bps.mv(world.goniometer.omega, 12.0, group="a"))
    assert world.goniometer.omega.position == 12.0


@pytest.mark.parametrize("position", [100.1, -1e6, np.nan, np.inf])
def test_positions_outside_the_limits_are_refused_before_anything_moves(world, position):
    with pytest.raises(ReachError, match="omega"):
        world.goniometer.set({"chi": 3.0, "omega": position})
    with pytest.raises(ReachError):
        world.goniometer.omega.set(position)
    assert world.backend.moves == []
    with pytest.raises(KeyError, match="it has omega, chi, phi"):
        world.goniometer.set({"theta": 1.0})


def test_an_axis_that_runs_beyond_its_limits_fails_the_move(world):
    world.backend.stuck = ("phi", 200.0)
    with pytest.raises(MotionError, match="outside its limits"):
        world.goniometer.set({"omega": 1.0}).wait(5)


def test_a_short_stop_is_named(world):
    world.backend.stuck = ("omega", 3.0)
    world.goniometer.set({"omega": 10.0}).wait(5)
    with pytest.raises(MotionError, match=r"'omega' stopped short: wanted 10\.0000 deg, reached 3\.0000 deg"):
        world.goniometer.check_readback({"omega": 10.0})
    world.goniometer.check_readback({"omega": 3.005})
    with pytest.raises(MotionError):
        world.goniometer.check_readback({"omega": float("nan")})


def test_stop_stops_half_way_and_the_clock_knows(slow_world):
    goniometer, backend = slow_world.goniometer, slow_world.backend
    status = goniometer.set({"omega": 50.0})
    time.sleep(0.3)
    underway = goniometer.omega.position
    assert goniometer.moving
    with pytest.raises(HardwareError, match="moving"):
        goniometer.set({"omega": 0.0})
    goniometer.omega.stop()
    assert not goniometer.moving
    stopped = goniometer.position["omega"]
    assert 0.0 < underway <= stopped < 50.0
    with pytest.raises(StoppedError, match="stopped after"):
        status.wait(5)
    time.sleep(0.1)
    assert goniometer.position["omega"] == stopped == backend.positions["omega"]
    assert backend.clock_s - 100.0 == pytest.approx(stopped / 5.0 + 1.0)
    goniometer.stop()
    goniometer.set({"omega": stopped}).wait(5)


def test_progress_is_reported(slow_world):
    seen = []
    status = slow_world.goniometer.set({"omega": 10.0})
    status.watch(lambda **report: seen.append(report))
    status.wait(5)
    fractions = [r["fraction"] for r in seen if "fraction" in r]
    assert fractions[-1] == 0.0
    assert fractions == sorted(fractions, reverse=True)
    assert len(fractions) > 5
    slow_world.goniometer.settle(1.0)


def test_the_wall_waits_for_the_scaled_time(slow_world):
    """By the progress that is reported: so many seconds of the instrument's in so many of the wall's."""
    camera, told = slow_world.camera, []
    camera.exposure_s.put(6.0)
    began = time.monotonic()
    status = camera.trigger()
    status.watch(lambda **r: told.append((r["current"], r["time_elapsed"])) if "current" in r else None)
    status.wait(60)
    assert time.monotonic() - began >= 0.6
    assert camera.frame.live_time_s == 6.0
    steps = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(told[:-1])]
    assert np.median(steps) == pytest.approx(10.0, rel=0.3)


def test_an_exposure_stopped_half_way_charges_what_it_used(slow_world):
    camera = slow_world.camera
    camera.exposure_s.put(100.0)
    status = camera.trigger()
    with pytest.raises(HardwareError, match="busy"):
        camera.trigger()
    time.sleep(0.2)
    camera.stop()
    with pytest.raises(StoppedError):
        status.wait(5)
    assert 7.0 < slow_world.backend.dose_s < 30.0


def test_wrong_exposures_frames_and_factors_are_refused(world):
    for seconds in (0.0, -1.0, float("nan")):
        world.camera.exposure_s.put(seconds)
        with pytest.raises(ValueError, match="positive time"):
            world.camera.trigger()
    with pytest.raises(ValueError, match="realtime_factor"):
        connect(world.backend, realtime_factor=-1.0)
    world.camera.exposure_s.put(1.0)
    world.backend.instrument = world.backend.instrument.with_detector(
        world.backend.instrument.detector.binned((32, 32))
    )
    small = world.backend.expose
    world.backend.expose = lambda seconds: type(f := small(seconds))(f.counts[:5], seconds)
    with pytest.raises(HardwareError, match="rows, cols"):
        world.camera.trigger().wait(5)


def test_a_failing_backend_fails_the_status(world, engine):
    world.backend.error = OSError("link down")
    with pytest.raises(FailedStatus) as caught:
        engine(bps.trigger(world.camera, wait=True))
    assert "link down" in str(caught.value.__cause__)


def test_no_thread_is_left(world):
    before = set(threading.enumerate())  # the operator's page of other tests may be served still
    world.goniometer.set({"omega": 5.0}).wait(5)
    world.goniometer.settle()
    time.sleep(0.05)
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("lauepilot-")]


def test_the_crystal_is_the_callers_the_agents_or_the_cameras(engine, world, scripted, target, documents):
    si, ge, sic = (load_crystal(name) for name in ("si", "ge", "3c-sic"))
    camera, goniometer = connect(world.backend, crystal=si)

    def told(agent, **known):
        engine(align_crystal(camera, goniometer, agent, target, observer=world.observer, **known))
        return agent.task.crystal

    assert told(scripted(GiveUp("enough"))) is si
    with_own = scripted(GiveUp("enough"))
    with_own.crystal = ge
    assert told(with_own) is ge
    with_own.script = [GiveUp("enough")]
    assert told(with_own, crystal=sic) is sic
    twin = Twin(ge, world.backend.instrument, rng=np.random.default_rng(1))
    assert connect(twin)[0].crystal is ge
    del documents[:]
    camera, goniometer = connect(world.backend)
    with pytest.raises(ValueError, match="needs to know the crystal"):
        engine(align_crystal(camera, goniometer, scripted(), target))
    assert not documents
