from __future__ import annotations

import json
import threading

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted

from lauepilot.cli import build_ub as cli
from lauepilot.cli.build_ub import run_build_ub
from lauepilot.cli.output import UserError
from lauepilot.hardware.devices.fourcircle import SweepDetector, connect_four_circle
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.errors import HardwareError, InterlockError, MotionError, StoppedError
from lauepilot.hardware.plans.build_ub import build_ub
from lauepilot.hardware.records.documents import find_run, read_record
from lauepilot.perception.reflections.drive import drive, worst_miss_deg
from lauepilot.perception.reflections.looking import Path, along
from lauepilot.perception.reflections.search import UbSearch
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.fourcircle import AreaDetector, FourCircle
from lauepilot.simulator.fourcircle_twin import FourCircleFaults, FourCircleTwin
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.orientation import misorientation

#: An area detector with few, large pixels: what is tested here does not need more.
COARSE = FourCircle(area=AreaDetector(shape=(64, 128), pixel_mm=0.6))


def twin_of(name="si", seed=1, **kwargs):
    return FourCircleTwin(load_crystal(name), COARSE, rng=np.random.default_rng(seed), **kwargs)


def stream(documents, name):
    uids = {d["uid"] for kind, d in documents if kind == "descriptor" and d["name"] == name}
    found = [doc["data"] for kind, doc in documents if kind == "event" and doc["descriptor"] in uids]
    for kind, doc in documents:
        if kind == "event_page" and doc["descriptor"] in uids:
            keys = list(doc["data"])
            found += [dict(zip(keys, row, strict=True)) for row in zip(*doc["data"].values(), strict=True)]
    return found


@pytest.mark.parametrize("detector", ["point", "area"])
def test_from_a_random_orientation_to_ub(engine, documents, detector):
    twin = twin_of("ca2ruo4")
    axes, counter = connect_four_circle(twin, detector=detector)
    assert isinstance(counter, SweepDetector)
    run = engine(build_ub(axes, counter, md={"sample": "nr 3"})).plan_result
    assert run.answer.outcome == "found"
    assert worst_miss_deg(run.answer.ub, twin, np.random.default_rng(2)) < 0.05
    orientation = run.answer.ub.result.orientation
    off = np.rad2deg(misorientation(orientation.u, twin.truth.u, twin.crystal.symmetry))
    assert off < 0.1  # phi's zero belongs to U
    assert np.abs(run.answer.ub.result.length_ratio - 1.0).max() < 0.01
    start, stop = documents[0][1], documents[-1][1]
    assert start["plan_name"] == "build_ub"
    assert start["sample"] == "nr 3"
    assert stop["exit_status"] == "success"
    bins = stream(documents, "bins")
    assert len(bins) == run.n_counts == twin.n_counts
    assert stream(documents, "ub")[0]["ub_ub"] == pytest.approx(orientation.ub)
    assert sum(f["finding_kind_of"] == "indexed" for f in stream(documents, "findings")) == len(
        run.answer.peaks
    )
    if detector == "area":
        frames = stream(documents, "frames")
        assert len(frames) == run.n_counts
        assert frames[0][start["keys"]["image"]].shape == twin.instrument.area.shape
    # The plan is thin: the same search without Bluesky counts and finds the same.
    twin.reset(np.random.default_rng(1))
    answer = drive(UbSearch(twin.crystal, twin.instrument, detector), twin)
    assert twin.n_counts == run.n_counts
    assert answer.ub.result.orientation.u == pytest.approx(orientation.u)


def test_it_gives_up_where_there_is_no_beam(engine):
    twin = twin_of(peak_rate_per_s=0.0)
    axes, counter = connect_four_circle(twin, detector="area")
    run = engine(build_ub(axes, counter)).plan_result
    assert run.answer.outcome == "gave_up"
    assert "nothing rose above the background" in run.answer.reason
    assert run.answer.ub is None


def test_it_gives_up_when_its_time_is_over(engine, documents):
    twin = twin_of(peak_rate_per_s=0.0)
    axes, counter = connect_four_circle(twin)
    run = engine(build_ub(axes, counter, max_clock_s=100.0)).plan_result
    assert run.answer.outcome == "gave_up"
    assert "max_clock_s" in run.answer.reason
    assert run.clock_s < 130.0
    assert documents[-1][1]["reason"].startswith("gave_up")


@pytest.mark.parametrize(("mounted", "said"), [("quartz", "si"), ("si", "ca2ruo4")])
def test_another_crystal_is_not_called_found(mounted, said):
    twin = twin_of(mounted)
    answer = drive(UbSearch(load_crystal(said), twin.instrument, "area"), twin)
    assert answer.outcome == "gave_up"
    assert answer.reason


def test_near_symmetric_orientations_are_told_apart_by_weak_reflections():
    twin = twin_of("fepse3", 2)
    answer = drive(UbSearch(twin.crystal, twin.instrument, "area"), twin)
    assert answer.outcome == "found"
    assert answer.rivals == 0
    assert (
        np.rad2deg(misorientation(answer.ub.result.orientation.u, twin.truth.u, twin.crystal.symmetry)) < 0.1
    )


def test_limits_are_looked_at_before_anything_moves(engine):
    twin = twin_of()
    axes, counter = connect_four_circle(twin)
    beyond = Path(along([5.0, 99.0, 0.0, 10.0], "chi", 2.0, 0.5), 0.1, "open", "too far")
    with pytest.raises(ReachError, match="chi"):
        counter.prepare(beyond)
    with pytest.raises(ReachError, match="tth"):
        axes.set({"omega": 1.0, "tth": 80.0})
    assert twin.clock_s == 0.0
    with pytest.raises(HardwareError, match="no path"):
        counter.kickoff()


def test_a_flight_that_is_stopped_fails_and_keeps_what_it_counted():
    twin = twin_of()
    _, counter = connect_four_circle(twin, realtime_factor=1.0)
    counter.prepare(Path(along([5.0, 0.0, 0.0, 10.0], "phi", 40.0, 0.5), 1.0, "open", "long"))
    counter.kickoff()
    status = counter.complete()
    threading.Event().wait(1.3)
    counter.stop()
    with pytest.raises(StoppedError):
        status.wait(5.0)
    assert not counter.busy
    assert 1 <= len(counter.sweep.angles_deg) < 10


def test_abort_leaves_axes_at_rest_and_the_record_closed():
    documents = []
    twin = twin_of()
    axes, counter = connect_four_circle(twin, realtime_factor=30.0)
    with run_engine(lambda name, doc: documents.append((name, doc))) as run:
        begun = threading.Event()
        run.subscribe(lambda *_: begun.set(), "descriptor")

        def interrupt():
            begun.wait(20.0)
            run.abort("enough")

        helper = threading.Thread(target=interrupt)
        helper.start()
        with pytest.raises(Exception, match=r"(?i)abort|interrupt|enough"):
            run(build_ub(axes, counter))
        helper.join(20.0)
    assert not axes.busy
    assert not counter.busy
    assert documents[-1][0] == "stop"
    assert documents[-1][1]["exit_status"] == "abort"


def test_a_pause_stops_a_flight():
    axes, counter = connect_four_circle(twin_of(), realtime_factor=1.0)
    path = Path(along([5.0, 0.0, 0.0, 10.0], "phi", 40.0, 0.5), 1.0, "open", "long")
    flown = []

    def plan():
        yield from bps.open_run()
        yield from bps.checkpoint()
        yield from bps.prepare(counter, path, wait=True)
        yield from bps.kickoff(counter, wait=True)
        counter.realtime_factor = 0.0  # when it is flown again
        yield from bps.complete(counter, wait=True)
        flown.append(len(counter.sweep.angles_deg))
        yield from bps.close_run()

    with run_engine() as run:
        timer = threading.Timer(0.5, run.request_pause)
        timer.start()
        with pytest.raises(RunEngineInterrupted):
            run(plan())
        timer.join()
        assert not counter.busy  # it would have gone on for a minute
        run.resume()
    assert flown == [len(path.points_deg) - 1]
    assert not axes.busy


def test_an_axis_that_stops_short_is_noticed(engine):
    twin = twin_of()
    axes, counter = connect_four_circle(twin)
    honest = twin.move
    twin.move = lambda goal: honest({name: 0.5 * value for name, value in goal.items()})
    with pytest.raises(MotionError, match="stopped short"):
        engine(build_ub(axes, counter))


@pytest.mark.parametrize("wrong", [{"crystal": "si"}, {"max_clock_s": 0.0}, {"reflections": 2}])
def test_arguments_that_make_no_sense(wrong):
    axes, counter = connect_four_circle(twin_of())
    with pytest.raises(ValueError, match=r"load_crystal|positive|three reflections"):
        next(build_ub(axes, counter, **wrong))


def test_the_command_leaves_ub_reflections_picture_and_record(tmp_path, capsys):
    folder = tmp_path / "run"
    code = run_build_ub(
        crystal="quartz", seed=2, detector="point", faults="default", speed=0.0, out=folder, as_json=True
    )
    assert code == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["truth"]["worst_of_ten_deg"] < 0.05
    for name in ("ub.json", "reflections.csv", "build_ub.png", "summary.json", "documents.jsonl", "run.json"):
        assert (folder / name).is_file(), name
    assert (folder / "build_ub.png").stat().st_size < 150_000
    with pytest.raises(UserError, match="--detector"):
        run_build_ub(crystal="si", seed=1, detector="line", faults="none", speed=0.0, out=None, as_json=True)


def test_ctrl_c_leaves_the_record_closed_as_aborted(tmp_path, monkeypatch):
    plan = cli.build_ub

    def interrupted(*devices, **more):
        yield from bpp.plan_mutator(plan(*devices, **more), pause_at_kickoff)

    def pause_at_kickoff(message):
        return (bps.pause() if message.command == "kickoff" else None), None

    monkeypatch.setattr(cli, "build_ub", interrupted)
    how = {"crystal": "si", "seed": 1, "detector": "point", "faults": "none", "speed": 0.0, "as_json": True}
    with pytest.raises(KeyboardInterrupt):
        run_build_ub(out=tmp_path / "run", **how)
    record = read_record(find_run(tmp_path / "run"))
    assert (record.stop["exit_status"], record.stop["reason"]) == ("abort", "interrupted by Ctrl-C")


def test_play_does_not_matter_since_every_axis_comes_from_below():
    twin = twin_of("si", faults=FourCircleFaults(play=15.0, zero_deg=0.0, direction_deg=0.0))
    answer = drive(UbSearch(twin.crystal, twin.instrument, "area"), twin)
    assert answer.outcome == "found"
    # Coming from below the load lags by half of the play (0.075 deg) everywhere: it becomes a zero.
    assert answer.ub.zeros.omega_deg == pytest.approx(-0.075, abs=0.02)
    assert worst_miss_deg(answer.ub, twin, np.random.default_rng(3)) < 0.05


def test_what_is_in_the_way_is_asked_before_moves_and_paths(engine, documents):
    """A cable on chi: the search wants to go there, is refused, and nothing has moved beyond."""
    twin = twin_of("ca2ruo4")
    axes, counter = connect_four_circle(twin, detector="point")
    seen = []

    class Cable:
        def problem(self, start, end):
            seen.append((start, end))
            low, high = sorted((start["chi"], end["chi"]))
            return "a cable hangs between chi 20 and 25" if low < 25.0 and high > 20.0 else ""

    with pytest.raises(InterlockError, match="a cable hangs"):
        engine(build_ub(axes, counter, obstacles=[Cable()]))
    assert twin.positions["chi"] <= 20.0
    assert len(seen) > 1
    assert documents[-1][0] == "stop"
    assert documents[-1][1]["exit_status"] == "fail"
