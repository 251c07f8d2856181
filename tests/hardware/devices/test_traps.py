"""What goes wrong with process variables and packages, each beside the naive way that falls for it.

The motors are caproto's own examples: they tell clients no control limits, have no put-completion and poll their stop.
Traps 3, 9, 10 and 11 have their tests where their parts are: tests/hardware/epics/test_ioc.py, drivers/test_ximc.py,
tests/hardware/test_adaptive.py and tests/envs/test_batch.py.
"""

from __future__ import annotations

import threading
import time
import tomllib
from contextlib import contextmanager

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import FailedStatus
from packaging.requirements import Requirement
from packaging.version import Version

from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.errors import HardwareError, MotionError, StoppedError
from lauepilot.hardware.plans.settle import settle
from lauepilot.simulator.goniometer import ReachError


@pytest.fixture
def naive(request, lab_of_pvs):
    """The motor of chi as people usually take it: the library's own device, and no more."""
    return lab_of_pvs.goniometer.chi.motor if lab_of_pvs.kind == "ophyd-async" else _own(lab_of_pvs, "m2")


def _own(lab, name):
    ophyd = pytest.importorskip("ophyd")
    motor = ophyd.EpicsMotor(f"{lab.prefix}{name}", name="own")
    motor.wait_for_connection(timeout=10)
    return motor


def failure(run, plan):
    with pytest.raises(Exception) as caught:  # noqa: PT011  (which one is what is asked)
        run(plan)
    error = caught.value
    return error.__cause__ or error if isinstance(error, FailedStatus) else error


def put(name, value):
    """As somebody else would, from another screen."""
    epics = pytest.importorskip("epics")
    assert epics.caput(name, value, wait=False) == 1


def get(name):
    epics = pytest.importorskip("epics")
    return epics.caget(name, use_monitor=False)


def later(seconds, action):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_limits_in_the_record_are_seen_where_the_setpoint_tells_none(lab_of_pvs):
    """Trap 1: phi may go to 20 on its motor, says its record; the instrument allows 180."""
    lab = lab_of_pvs
    if lab.kind == "ophyd":  # the naive way sees no limits, and would go
        motor = _own(lab, "m3")
        assert tuple(motor.limits) == (0, 0)
        motor.check_value(170.0)
    problem = failure(lab.run, bps.mv(lab.goniometer, {"chi": 5.0, "phi": 170.0}))
    assert isinstance(problem, ReachError)
    assert "LLM and HLM" in str(problem)
    assert lab.goniometer.position == {"omega": 0.0, "chi": 0.0, "phi": 0.0}
    # Limits that are drawn in meanwhile count at once, in the motor's own sense: omega = 30 - m1.
    put(f"{lab.prefix}m1.HLM", 50.0)
    try:
        time.sleep(0.2)
        problem = failure(lab.run, bps.mv(lab.goniometer, {"omega": -25.0}))
        assert isinstance(problem, ReachError)
        assert "55 on its motor" in str(problem)
        lab.run(bps.mv(lab.goniometer, {"omega": -19.0}))
    finally:
        put(f"{lab.prefix}m1.HLM", 100.0)


def test_a_move_ends_when_the_motor_does(lab_of_pvs, naive):
    """Trap 2: without put-completion the naive way is there before the motor."""
    lab = lab_of_pvs
    if lab.kind == "ophyd-async":
        lab.run(bps.mv(naive, 40.0))
        assert abs(get(f"{lab.prefix}m2.RBV") - 40.0) > 1.0
        while abs(get(f"{lab.prefix}m2.RBV") - 40.0) > 1e-6 or get(f"{lab.prefix}m2.DMOV") != 1:
            time.sleep(0.05)
        while lab.goniometer.busy:  # it is told by a client of its own
            time.sleep(0.05)
    lab.run(bps.mv(lab.goniometer, {"chi": -20.0}))
    assert get(f"{lab.prefix}m2.RBV") == pytest.approx(-20.0)
    assert get(f"{lab.prefix}m2.DMOV") == 1


def test_a_motion_stopped_elsewhere_fails(lab_of_pvs, naive):
    """Trap 4, bluesky/ophyd#734: the naive way takes it for a success."""
    lab = lab_of_pvs
    stop = f"{lab.prefix}m2.STOP"
    timer = later(0.4, lambda: put(stop, 1))
    if lab.kind == "ophyd":
        lab.run(bps.mv(naive, 90.0))  # no complaint
        assert get(f"{lab.prefix}m2.RBV") < 80.0
        timer.join()
        timer = later(0.4, lambda: put(stop, 1))
    problem = failure(lab.run, bps.mv(lab.goniometer, {"chi": -90.0}))
    timer.join()
    assert isinstance(problem, MotionError)
    assert "'chi' stopped short" in str(problem)
    assert not lab.goniometer.busy


def test_busy_until_record_and_library_say_so(lab_of_pvs):
    """Trap 5: a motor that somebody else moves is busy, and `settle` brings it to rest."""
    lab = lab_of_pvs
    put(f"{lab.prefix}m2", 60.0)
    end = time.monotonic() + 5.0
    while not lab.goniometer.busy:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert isinstance(failure(lab.run, bps.mv(lab.goniometer, {"phi": 1.0})), HardwareError)
    lab.run(settle(lab.goniometer))
    assert get(f"{lab.prefix}m2.DMOV") == 1
    assert abs(get(f"{lab.prefix}m2.RBV")) < 59.0


def test_a_clean_up_after_an_abort_is_carried_out(lab_of_pvs, naive):
    """Trap 5: the naive way leaves the motor where it was interrupted."""
    lab = lab_of_pvs

    def interrupted(motion, clean_up):
        timer = later(0.4, lambda: lab.run.abort("tested"))
        with pytest.raises(Exception):  # noqa: B017, PT011  (Bluesky's choice)
            lab.run(bpp.run_wrapper(bpp.finalize_wrapper(motion, clean_up)))
        timer.join()
        time.sleep(0.1)
        return get(f"{lab.prefix}m2.RBV")

    if lab.kind == "ophyd":
        assert abs(interrupted(bps.mv(naive, 60.0), bps.mv(naive, 0.0))) > 1.0
        lab.run(settle(lab.goniometer))
        lab.run(bps.mv(lab.goniometer, {"chi": 0.0}))

    def after_settling():
        yield from settle(lab.goniometer)
        yield from bps.mv(lab.goniometer, {"chi": 0.0})

    assert interrupted(bps.mv(lab.goniometer, {"chi": 60.0}), after_settling) == pytest.approx(0.0, abs=0.01)


def test_a_run_engine_in_a_thread_takes_an_abort():
    """Trap 6: the naive one wants to catch signals, which only the main thread may."""

    def in_a_thread(engine_of):
        caught, documents = [], []

        def work():
            try:
                with engine_of(lambda name, doc: documents.append((name, doc))) as engine:
                    later(0.3, lambda: engine.state == "running" and engine.abort("from another thread"))
                    engine(bpp.run_wrapper(bps.sleep(20.0)))
            except Exception as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10.0)
        assert not thread.is_alive()
        return caught[0], documents

    @contextmanager
    def naive_engine(consumer):
        with run_engine(consumer, in_main_thread=True) as engine:
            yield engine

    assert isinstance(in_a_thread(naive_engine)[0], ValueError)
    _, documents = in_a_thread(run_engine)
    assert documents[-1][1]["exit_status"] == "abort"


def test_fake_motors_of_ophyd_never_arrive():
    """Trap 7: why these tests stand on a real IOC."""
    sim = pytest.importorskip("ophyd.sim")
    ophyd = pytest.importorskip("ophyd")
    motor = sim.make_fake_device(ophyd.EpicsMotor)("x", name="fake")
    motor.user_readback.sim_put(0.0)
    motor.user_setpoint.sim_put(0.0)
    motor.user_setpoint.sim_set_limits((-10.0, 10.0))
    status = motor.set(1.0)
    time.sleep(0.1)
    assert not status.done


def test_images_are_described_as_they_are(lab_of_pvs):
    """Trap 8: the naive way gives a flat shape and no type."""
    lab = lab_of_pvs
    if lab.kind == "ophyd":
        ophyd = pytest.importorskip("ophyd")
        plain = ophyd.EpicsSignalRO(f"{lab.prefix}image1:ArrayData", name="plain")
        plain.wait_for_connection(timeout=10)
        key = plain.describe()["plain"]
        assert len(key["shape"]) == 1
        assert "dtype_numpy" not in key
        key = lab.camera.describe()["camera_image"]
    else:
        key = lab.ask(lab.camera.describe())["camera-image"]
    assert key["shape"] == [48, 64]
    assert np.dtype(key["dtype_numpy"]) == np.uint16


@pytest.mark.parametrize("broken", [1, 2])
def test_a_camera_without_an_image_fails_in_time(lab_of_pvs, broken):
    """Never ready; and ready, but without an image."""
    lab = lab_of_pvs

    def plan():
        yield from bps.stage(lab.camera)
        yield from bps.abs_set(lab.camera.exposure_s, 0.2, wait=True)
        yield from bps.trigger(lab.camera, wait=True)

    put(f"{lab.prefix}cam1:Broken", broken)
    try:
        problem = failure(lab.run, plan())  # without an end of its own it would never come back
        assert isinstance(problem, HardwareError)
        assert "image" in str(problem)
        lab.run(settle(lab.camera))
        assert lab.camera.frame is None
    finally:
        put(f"{lab.prefix}cam1:Broken", 0)
    lab.run(plan())
    assert lab.camera.frame is not None


def test_an_exposure_that_somebody_cut_short_is_no_whole_one(lab_of_pvs):
    """Cameras that give the image until then, and do not tell for how long it was exposed."""
    lab = lab_of_pvs

    def plan():
        yield from bps.stage(lab.camera)
        yield from bps.abs_set(lab.camera.exposure_s, 0.5, wait=True)
        yield from bps.trigger(lab.camera, wait=True)

    put(f"{lab.prefix}cam1:Broken", 3)
    try:
        problem = failure(lab.run, plan())
        assert isinstance(problem, StoppedError)
        assert "stopped elsewhere" in str(problem)
        assert lab.camera.frame is None
    finally:
        put(f"{lab.prefix}cam1:Broken", 0)
    lab.run(plan())
    assert lab.camera.frame is not None


def test_an_image_of_another_shape_is_refused(lab_of_pvs):
    lab = lab_of_pvs
    put(f"{lab.prefix}image1:ArraySize1_RBV", 47)
    try:
        problem = failure(lab.run, bps.trigger(lab.camera, wait=True))
    finally:
        put(f"{lab.prefix}image1:ArraySize1_RBV", 48)
    assert isinstance(problem, HardwareError)
    assert "(47, 64)" in str(problem)
    assert "(rows, cols) = (48, 64)" in str(problem)


def test_nothing_that_we_ask_for_pins_gymnasium_back(project):
    """Trap 12: ``ray[rllib]`` wants gymnasium 1.2.2; the naive way is to list it. And trap 9: libximc 3.1.2 has no Linux."""
    written = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [
        *written["dependencies"],
        *(line for extra in written["optional-dependencies"].values() for line in extra),
    ]
    asked = {(r := Requirement(line)).name: r for line in lines}
    assert "ray" not in asked or not asked["ray"].extras
    assert asked["gymnasium"].specifier.contains("1.4.0")
    assert not asked["libximc"].specifier.contains("3.1.2")
    pins = (project / "constraints.txt").read_text("utf-8").splitlines()
    (gymnasium,) = [line.partition("==")[2] for line in pins if line.startswith("gymnasium==")]
    assert Version(gymnasium) > Version("1.2.2")
