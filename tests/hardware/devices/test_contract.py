"""What plans may ask of a camera and a goniometer, asked of every kind of them.

The EPICS kinds stand on an IOC that is not ours, with one axis that counts backwards from an offset.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky.protocols import HasHints, Movable, Readable, Stageable, Stoppable, Triggerable
from bluesky.utils import FailedStatus

from lauepilot.hardware.errors import HardwareError, MotionError, StoppedError
from lauepilot.hardware.plans.settle import settle
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.goniometer import ReachError


def cause(run, plan):
    """What a plan fails with, as its author would see it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  (which one is what is asked)
        run(plan)
    error = caught.value
    return error.__cause__ or error if isinstance(error, FailedStatus) else error


def after(seconds, action):
    """Something that happens meanwhile."""
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_members(lab):
    for device, protocols in (
        (lab.goniometer, (Movable, Readable, Stoppable, Stageable, HasHints)),
        (lab.goniometer.omega, (Movable, Readable, Stoppable, HasHints)),
        (lab.camera, (Triggerable, Readable, Stoppable, Stageable, HasHints)),
    ):
        for protocol in protocols:
            assert isinstance(device, protocol), (device, protocol)
    assert lab.goniometer.chain.names == ("omega", "chi", "phi")
    assert lab.goniometer.limits["phi"] == (-180.0, 180.0)
    assert lab.camera.instrument.name == "small"
    assert lab.camera.frame is None
    assert not lab.camera.busy
    assert not lab.goniometer.busy


def test_axes_arrive_together_and_are_recorded_by_their_keys(lab):
    def plan():
        yield from bps.open_run()
        yield from bps.mv(lab.goniometer, {"omega": 12.5, "chi": -7.0})
        yield from bps.mv(lab.goniometer.chi, -8.0)
        yield from bps.create()
        yield from bps.read(lab.goniometer)
        yield from bps.save()
        yield from bps.close_run()

    lab.run(plan())
    assert lab.goniometer.position == pytest.approx({"omega": 12.5, "chi": -8.0, "phi": 0.0}, abs=1e-6)
    assert not lab.goniometer.busy
    lab.goniometer.check_readback({"omega": 12.5})
    with pytest.raises(MotionError, match="'omega' stopped short"):
        lab.goniometer.check_readback({"omega": 13.0})
    documents = dict(lab.documents)
    data, keys = documents["event"]["data"], documents["descriptor"]["data_keys"]
    for axis, value in (("omega", 12.5), ("chi", -8.0), ("phi", 0.0)):
        key = getattr(lab.goniometer, axis).name
        assert data[key] == pytest.approx(value, abs=1e-6)
        assert keys[key]["units"] == "deg"
        assert keys[key]["dtype_numpy"] == "<f8"
    assert set(documents["descriptor"]["hints"]["goniometer"]["fields"]) <= set(keys)


def test_an_exposure_brings_a_frame_with_rows_columns_and_type(lab):
    def plan():
        yield from bps.stage(lab.camera)
        yield from bps.open_run()
        yield from bps.mv(lab.goniometer, {"omega": 5.0})
        for _ in range(2):
            yield from bps.abs_set(lab.camera.exposure_s, 0.2, wait=True)
            yield from bps.trigger_and_read([lab.camera, lab.goniometer])
        yield from bps.close_run()
        yield from bps.unstage(lab.camera)

    clock, dose = lab.camera.clock_now_s, lab.camera.dose_now_s
    lab.run(plan())
    frame = lab.camera.frame
    assert isinstance(frame, Frame)
    frame.check((48, 64))
    assert frame.live_time_s == pytest.approx(0.2)
    assert frame.axes == pytest.approx({"omega": 5.0, "chi": 0.0, "phi": 0.0}, abs=1e-6)
    assert lab.camera.dose_now_s - dose == pytest.approx(0.4)
    assert lab.camera.clock_now_s - clock >= 0.4
    documents = [doc for name, doc in lab.documents if name == "event"]
    descriptor = dict(lab.documents)["descriptor"]
    key = lab.camera.image.name
    assert descriptor["data_keys"][key]["shape"] == [48, 64]
    assert np.dtype(descriptor["data_keys"][key]["dtype_numpy"]) == np.uint16
    for event in documents:
        image = event["data"][key]
        assert image.shape == (48, 64)
        assert image.dtype == np.uint16
    np.testing.assert_array_equal(documents[1]["data"][key], frame.counts)
    assert np.any(documents[0]["data"][key] != documents[1]["data"][key])
    if lab.kind in (
        "ophyd",
        "ophyd-async",
    ):  # what its IOC counts: 16 bits, unsigned, though they travel as signed ones
        first = int(frame.counts[0, 0])
        assert first > 40_000
        np.testing.assert_array_equal(frame.counts[0, :3], [first, first + 1, first + 2])
    for name in ("live_time_s", "saturation_adu", "gain_adu", "offset_adu", "clock_s", "dose_s"):
        assert getattr(lab.camera, name).name in descriptor["data_keys"]


@pytest.mark.parametrize("wrong", [{"chi": 3.0, "omega": 100.5}, {"chi": 3.0, "phi": float("nan")}])
def test_what_the_instrument_forbids_is_refused_and_nothing_moves(lab, wrong):
    assert isinstance(cause(lab.run, bps.mv(lab.goniometer, wrong)), ReachError)
    assert lab.goniometer.position == {"omega": 0.0, "chi": 0.0, "phi": 0.0}
    assert isinstance(cause(lab.run, bps.mv(lab.goniometer, {"theta": 1.0})), KeyError)
    assert not lab.goniometer.busy


def test_a_stop_ends_a_motion_half_way_and_fails_it(lab):
    goal = {"chi": 90.0}
    timer = after(0.4, lambda: lab.ask(lab.goniometer.stop()))
    problem = cause(lab.run, bps.mv(lab.goniometer, goal))
    timer.join()
    assert isinstance(problem, StoppedError)
    lab.run(settle(lab.goniometer))
    here = lab.goniometer.position["chi"]
    assert 2.0 < here < 80.0
    time.sleep(0.1)
    assert lab.goniometer.position["chi"] == here
    # A stop at rest does not spoil the next motion.
    lab.run(settle(lab.goniometer))
    lab.run(bps.mv(lab.goniometer, {"chi": here + 1.0}))
    assert lab.goniometer.position["chi"] == pytest.approx(here + 1.0, abs=0.01)


def test_only_one_motion_at_a_time(lab):
    def plan():
        yield from bps.abs_set(lab.goniometer, {"chi": 60.0}, group="first")
        yield from bps.sleep(0.1)
        yield from bps.abs_set(lab.goniometer, {"chi": 0.0}, group="second")

    assert isinstance(cause(lab.run, plan()), HardwareError)
    lab.run(settle(lab.goniometer))


def test_clean_up_after_an_abort_arrives(lab):
    """Trap 5: what is to be moved after an interrupted motion is moved."""

    def plan():
        import bluesky.preprocessors as bpp

        def clean_up():
            yield from settle(lab.goniometer)
            yield from bps.mv(lab.goniometer, {"chi": 0.0})

        yield from bps.open_run()
        yield from bpp.finalize_wrapper(bps.mv(lab.goniometer, {"chi": 60.0}), clean_up)

    timer = after(0.4, lambda: lab.run.abort("tested"))
    with pytest.raises(Exception):  # noqa: B017, PT011  (Bluesky's choice)
        lab.run(plan())
    timer.join()
    assert lab.goniometer.position["chi"] == pytest.approx(0.0, abs=0.01)
    assert dict(lab.documents)["stop"]["exit_status"] == "abort"


def test_an_exposure_can_be_stopped(lab):
    def plan():
        yield from bps.stage(lab.camera)
        yield from bps.abs_set(lab.camera.exposure_s, 300.0, wait=True)
        yield from bps.trigger(lab.camera, wait=True)

    timer = after(0.4, lambda: lab.ask(lab.camera.stop()))
    problem = cause(lab.run, plan())
    timer.join()
    assert isinstance(problem, StoppedError)  # in minutes it would be a frame
    lab.run(settle(lab.camera))
    assert not lab.camera.busy


def test_a_stop_just_after_the_start_of_an_exposure_is_not_lost(lab):
    def plan():
        yield from bps.stage(lab.camera)
        yield from bps.abs_set(lab.camera.exposure_s, 300.0, wait=True)
        yield from bps.trigger(lab.camera, group="shot")
        yield from bps.stop(lab.camera)
        yield from bps.wait("shot")

    assert isinstance(cause(lab.run, plan()), StoppedError)  # in minutes it would be a frame
    lab.run(settle(lab.camera, timeout_s=10.0))
    assert not lab.camera.busy


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_exposures_of_no_time_are_refused(lab, seconds):
    def plan():
        yield from bps.abs_set(lab.camera.exposure_s, seconds, wait=True)
        yield from bps.trigger(lab.camera, wait=True)

    problem = cause(lab.run, plan())
    assert isinstance(problem, ValueError)
    assert "positive time" in str(problem)
