from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted

from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.plans.count import count_until, criterion_from
from lauepilot.perception.criteria import Counts, Criterion, Seconds, Verdict
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

#: The fake backend counts 5 photons a pixel, 48 x 64 pixels, however long it is exposed: here they come with time.
RATE = 5.0 * 48 * 64


@pytest.fixture
def steady(world, monkeypatch):
    rng = np.random.default_rng(0)
    backend = world.backend

    def expose(seconds):
        backend.clock_s += seconds + 2.0
        backend.dose_s += seconds
        counts = rng.poisson(5.0 * seconds, backend.instrument.detector.shape)
        return Frame(counts.astype(np.uint16), seconds, dict(backend.positions), "lab")

    monkeypatch.setattr(backend, "expose", expose)
    return world


def stop(documents):
    return next(d for kind, d in documents if kind == "stop")


@dataclass(frozen=True)
class Scripted:
    """Says what it is told to say."""

    verdicts: tuple[Verdict, ...]

    def enough(self, frames, /):
        return self.verdicts[min(len(frames), len(self.verdicts) - 1)]


def test_counts_are_reached_without_much_in_vain(engine, steady, documents):
    result = engine(count_until(steady.camera, Counts(40.0 * RATE), max_s=1000.0)).plan_result
    assert result.outcome == "enough"
    assert 40.0 <= result.frame.counts.sum() / RATE < 40.0 * 1.03
    assert result.seconds == pytest.approx(40.0, rel=0.03)
    assert result.n_exposures <= 4
    assert result.frame.live_time_s == result.seconds
    assert stop(documents)["reason"].startswith("enough: ")
    remarks = [d["data"] for kind, d in documents if kind == "event" and "count_text" in d["data"]]
    assert len(remarks) == result.n_exposures
    assert "photons" in remarks[-1]["count_text"]
    assert steady.backend.moves == []


def test_a_time_known_beforehand_is_one_exposure(engine, steady):
    result = engine(count_until(steady.camera, Seconds(33.0), max_s=100.0)).plan_result
    assert (result.n_exposures, result.seconds) == (1, 33.0)
    split = engine(
        count_until(steady.camera, {"kind": "time", "seconds": 33.0}, max_s=100.0, max_exposure_s=10.0)
    ).plan_result
    assert [v.enough for v in split.verdicts] == [False, False, False, True]
    assert split.seconds == pytest.approx(33.0)


def test_the_time_allowed_ends_it(engine, steady, documents):
    result = engine(count_until(steady.camera, Counts(1e12), max_s=20.0)).plan_result
    assert result.outcome == "limit"
    assert result.seconds == pytest.approx(20.0)
    assert steady.backend.dose_s == pytest.approx(27.0)
    assert "limit" in stop(documents)["reason"]


def test_hopeless_ends_it_at_once(engine, steady):
    never = Scripted((Verdict(False, "?", math.nan), Verdict(False, "calibrate first", math.inf)))
    assert isinstance(never, Criterion)
    result = engine(count_until(steady.camera, never, max_s=500.0)).plan_result
    assert (result.outcome, result.reason, result.n_exposures) == ("hopeless", "calibrate first", 1)


def test_without_an_estimate_exposures_double(engine, steady):
    blind = Scripted((Verdict(False, "?", math.nan),) * 5 + (Verdict(True, "now", 0.0),))
    result = engine(count_until(steady.camera, blind, max_s=500.0, first_s=1.0)).plan_result
    assert result.seconds == 16.0
    assert result.n_exposures == 5


def test_wild_estimates_are_not_believed(engine, steady):
    wild = Scripted((Verdict(False, "?", 1e9), Verdict(False, "?", 1e9), Verdict(True, "now", 0.0)))
    result = engine(count_until(steady.camera, wild, max_s=1e5, first_s=1.0)).plan_result
    assert result.seconds == 9.0
    short = Scripted(
        (Verdict(False, "?", 1.0, True),) + (Verdict(False, "?", 1e-9),) * 9 + (Verdict(True, "!", 0),)
    )
    assert engine(count_until(steady.camera, short, max_s=1e5)).plan_result.n_exposures == 10


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "luck"}, "one of time, counts, relative_error, orientation"),
        ({}, "one of time"),
        ({"kind": "time"}, "takes seconds; nothing came"),
        ({"kind": "counts", "photons": 1e5, "speed": 1}, "may take region"),
        ({"kind": "counts", "photons": -1}, "positive number"),
        ({"kind": "counts", "photons": 1e5, "region": {"shape": "star"}}, "A region is"),
        ({"kind": "orientation", "sigma_deg": 0.01}, "needs to know the crystal"),
    ],
)
def test_bad_descriptions_say_what_is_allowed(world, description, message):
    with pytest.raises(ValueError, match=message):
        criterion_from(description, world.camera)


def test_bad_arguments(engine, world):
    for kwargs in (
        {"max_s": 0.0},
        {"max_s": 10.0, "first_s": -1.0},
        {"max_s": 10.0, "max_exposure_s": math.nan},
    ):
        with pytest.raises(ValueError, match="positive number of seconds"):
            engine(count_until(world.camera, Seconds(1.0), **kwargs))
    with pytest.raises(ValueError, match="method enough"):
        engine(count_until(world.camera, object(), max_s=1.0))


def test_regions_by_description(engine, steady):
    region = {"shape": "rectangle", "centre_px": [9.5, 9.5], "size_px": [10, 10]}
    beside = {"shape": "rectangle", "centre_px": [39.5, 19.5], "size_px": [20, 20]}
    counts = {"kind": "counts", "photons": 5000, "region": region}
    result = engine(count_until(steady.camera, counts, max_s=100.0)).plan_result
    assert result.seconds == pytest.approx(10.0, rel=0.1)
    net = {"kind": "relative_error", "error": 0.5, "region": region, "background": beside}
    assert engine(count_until(steady.camera, net, max_s=10.0)).plan_result.outcome == "limit"


@pytest.mark.parametrize("how", ["abort", "resume"])
def test_interrupted_at_any_message(engine, steady, documents, interrupting, how):
    def plan():
        return count_until(steady.camera, Counts(20.0 * RATE), max_s=100.0, goniometer=steady.goniometer)

    n = interrupting.count(plan())
    for at in range(4, n, 6):
        documents.clear()
        with pytest.raises(RunEngineInterrupted):
            engine(interrupting(at)(plan()))
        ended = getattr(engine, how)()
        if how == "resume":
            assert ended.plan_result.outcome == "enough"
        assert not steady.camera.busy
        assert len([1 for kind, _ in documents if kind == "stop"]) == len(
            [1 for kind, _ in documents if kind == "start"]
        )


@pytest.mark.slow
def test_an_orientation_on_the_twin(engine):
    si, lab = load_crystal("si"), load_instrument("lab")
    twin = Twin(si, lab, rng=np.random.default_rng(5), faults=Faults.none())
    camera, _ = connect(twin)
    criterion = {"kind": "orientation", "sigma_deg": 0.02}
    result = engine(count_until(camera, criterion, max_s=600.0)).plan_result
    assert result.outcome == "enough"
    assert result.seconds < 200.0
