from __future__ import annotations

import math

import numpy as np
import pytest

from lauepilot.perception.criteria import (
    Counts,
    Criterion,
    NetCounts,
    OrientationKnown,
    RelativeError,
    Seconds,
    summed,
)
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.observer import Observer
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.detector import Region
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.frame import Frame, FrameError
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

BOX = Region("rectangle", (9.5, 9.5), (10.0, 10.0))
BESIDE = Region("rectangle", (29.5, 9.5), (20.0, 10.0))


def frame(rng, seconds, signal=40.0, background=2.0, gain=2.0, offset=10.0):
    mean = np.full((20, 40), background * seconds)
    mean[5:15, 5:15] += signal * seconds
    return Frame(gain * rng.poisson(mean) + offset, seconds, gain=gain, offset=offset)


def test_sums_hold_what_the_parts_hold():
    rng = np.random.default_rng(0)
    parts = [frame(rng, 1.0), frame(rng, 2.0)]
    parts[1].counts[3, 3] = 70000.0
    whole = summed(parts)
    assert whole.live_time_s == 3.0
    assert whole.offset == 20.0
    assert whole.saturation == 2 * 65535.0
    assert whole.counts[3, 3] >= whole.saturation
    keep = np.ones((20, 40), bool)
    keep[3, 3] = False
    np.testing.assert_array_equal(whole.counts[keep], (parts[0].counts + parts[1].counts)[keep])
    with pytest.raises(FrameError, match="no frame"):
        summed([])
    with pytest.raises(FrameError, match="differ"):
        summed([parts[0], Frame(np.ones((4, 4)), 1.0)])


def test_sixteen_bits_do_not_run_over():
    full = Frame(np.full((8, 8), 60000, np.uint16), 1.0)
    assert summed([full] * 5).counts[0, 0] == 300000


def test_time():
    rng = np.random.default_rng(0)
    assert isinstance(Seconds(10.0), Criterion)
    first = Seconds(10.0).enough([])
    assert (first.enough, first.expected_s, first.exact) == (False, 10.0, True)
    assert Seconds(10.0).enough([frame(rng, 4.0)]).expected_s == 6.0
    assert Seconds(10.0).enough([frame(rng, 4.0), frame(rng, 6.0)]).enough


def test_counts_with_gain_and_offset():
    rng = np.random.default_rng(1)
    one = frame(rng, 1.0)
    assert math.isnan(Counts(1e4).enough([]).expected_s)
    verdict = Counts(40_000, BOX).enough([one])
    assert not verdict.enough
    # 100 pixels of 42 photons a second
    assert verdict.expected_s == pytest.approx((40_000 - 4200) / 4200, rel=0.05)
    assert Counts(4000, BOX).enough([one]).enough
    assert not Counts(4000, BESIDE).enough([one]).enough


def test_a_relative_error_is_that_of_repeated_counting():
    """The error that is told is the scatter of a hundred repetitions, and the time told brings what is wanted."""
    rng = np.random.default_rng(2)
    net = NetCounts(BOX, BESIDE)
    told, got = zip(*[net(frame(rng, 0.5, signal=1.0))[::-1] for _ in range(400)], strict=True)
    assert np.mean(got) == pytest.approx(50.0, rel=0.05)
    assert np.mean(told) == pytest.approx(np.std(got), rel=0.1)
    verdict = RelativeError(net, 0.02).enough([frame(rng, 1.0, signal=10.0)])
    again = RelativeError(net, 0.02).enough([frame(rng, 1.0 + verdict.expected_s, signal=10.0)])
    assert not verdict.enough
    assert again.enough or again.expected_s < 0.1 * verdict.expected_s
    nothing = RelativeError(net, 0.02).enough([frame(rng, 1.0, signal=0.0)])
    assert not nothing.enough
    assert math.isnan(nothing.expected_s)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf, "1", True])
def test_nonsense_is_refused(wrong):
    for make in (Seconds, Counts, lambda x: RelativeError(NetCounts(BOX), x)):
        with pytest.raises(ValueError, match="positive number"):
            make(wrong)


@pytest.fixture(scope="module")
def seen():
    lab, si = load_instrument("lab"), load_crystal("si")
    twin = Twin(si, lab, rng=np.random.default_rng(3), faults=Faults.none())
    return twin, Observer(si, lab, GeometryPrior(0.05, 0.05, 0.05))


def test_an_orientation_gets_as_sharp_as_told(seen):
    twin, observer = seen
    criterion = OrientationKnown(observer, 0.012)
    first = [twin.expose(1.0)]
    verdict = criterion.enough(first)
    assert not verdict.enough
    assert 0.1 < verdict.expected_s < 100.0
    assert criterion.enough([*first, twin.expose(1.5 * verdict.expected_s)]).enough
    half = criterion.enough([*first, twin.expose(max(0.3 * verdict.expected_s - 0.7, 0.05))])
    assert not half.enough


def test_a_pose_that_is_too_vague_makes_it_hopeless(seen):
    twin, observer = seen
    vague = Observer(observer.crystal, observer.instrument, GeometryPrior(2.0, 2.0, 1.0))
    verdict = OrientationKnown(vague, 1e-6).enough([twin.expose(20.0)])
    assert not verdict.enough
    assert math.isinf(verdict.expected_s) or verdict.expected_s > 1e4
    assert math.isnan(OrientationKnown(observer, 0.01).enough([twin.expose(1e-3)]).expected_s)
