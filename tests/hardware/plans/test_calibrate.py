"""calibrate_instrument on the Twin: at rest, refusing, writing; the numerics are in tests/perception."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted

from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.errors import InterlockError
from lauepilot.hardware.plans import calibrate as module
from lauepilot.hardware.plans.calibrate import approach_deg, calibrate_instrument
from lauepilot.perception import instrument_fit_file as file_module
from lauepilot.perception.instrument_fit_file import write_instrument
from lauepilot.perception.instrument_fit_result import InstrumentFitError
from lauepilot.simulator.conventions import rotation_angle
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.forbidden import Forbidden
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

FAR = Faults(centre_mm=2.0, distance_mm=2.0, tilt_deg=1.0, axis_misdirection_deg=2.0, axis_zero_deg=5.0)


def stop(documents):
    return next(d for kind, d in documents if kind == "stop")


@pytest.fixture(scope="module")
def si():
    return load_crystal("si")


@pytest.fixture
def twin(si):
    return Twin(si, load_instrument("lab"), rng=np.random.default_rng(4), faults=FAR)


def test_the_old_file_is_kept_on_file_systems_without_second_names_too(tmp_path, monkeypatch):
    def link(old, new):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(file_module.os, "link", link)
    monkeypatch.setattr(file_module, "comment", lambda fit: "found")
    old = tmp_path / "my.yaml"
    old.write_text("# my comments\n", encoding="utf-8")
    kept = write_instrument(SimpleNamespace(good=True, instrument=load_instrument("lab")), old)
    assert kept.read_text(encoding="utf-8") == "# my comments\n"
    assert load_instrument(old).name.startswith("lab")


def test_a_faulty_twin_is_calibrated_and_written(engine, documents, twin, tmp_path):
    camera, goniometer = connect(twin)
    old = tmp_path / "my.yaml"
    old.write_text("# my comments\n", encoding="utf-8")
    plan = calibrate_instrument(camera, goniometer, frames=8, exposure_s=40.0, out=old)
    result = engine(plan).plan_result
    assert result.outcome == "calibrated", result.reason
    assert result.n_frames == 8
    assert result.dose_s == pytest.approx(320.0)
    # what was written is what is: commanded rotations come out as they truly are
    mine = load_instrument(result.written)
    assert result.kept.read_text(encoding="utf-8") == "# my comments\n"
    assert result.kept.name.startswith("my.before-")
    assert mine.name == "lab-calibrated"
    assert "zeros" in old.read_text(encoding="utf-8")
    true = twin.truth.instrument.detector
    assert mine.detector.distance_mm == pytest.approx(true.distance_mm, abs=0.02)
    assert mine.detector.centre_px == pytest.approx(true.centre_px, abs=0.3)
    zeros, chain = twin.truth.faults.axis_zero_deg, twin.truth.instrument.goniometer
    rng = np.random.default_rng(0)

    def truly(p):
        # Coming from below, what an axis carries lags by half its play.
        return chain.matrix({n: v + zeros[n] - 0.5 * chain.axis(n).backlash for n, v in p.items()})

    for _ in range(10):
        one, two = (dict(zip(chain.names, rng.uniform(-90, 90, 3), strict=True)) for _ in range(2))
        said = mine.goniometer.matrix(two) @ mine.goniometer.matrix(one).T
        assert np.rad2deg(rotation_angle(truly(two) @ truly(one).T @ said.T)) < 0.02
    # limits and speeds stay
    for axis, before in zip(mine.goniometer.axes, twin.instrument.goniometer.axes, strict=True):
        assert (axis.limits, axis.speed, axis.backlash) == (before.limits, before.speed, before.backlash)
    # records
    remark = next(d["data"] for kind, d in documents if kind == "event" and "calibrate_details" in d["data"])
    told = json.loads(remark["calibrate_details"])
    assert len(told["frames"]) == 8
    assert set(told["parameters"]) == set(result.fit.names)
    assert stop(documents)["exit_status"] == "success"
    assert {p.name for p in tmp_path.iterdir()} == {"my.yaml", result.kept.name}


def test_axes_come_from_below(engine, twin):
    camera, goniometer = connect(twin)
    moves = []
    original = twin.move
    twin.move = lambda positions: moves.append(dict(positions)) or original(positions)
    engine(calibrate_instrument(camera, goniometer, positions={"omega": [0.0, 5.0, -5.0]}, exposure_s=1.0))
    away = approach_deg(twin.instrument.goniometer)
    assert away == {"omega": 0.1, "chi": 0.1, "phi": 0.1}
    assert [m["omega"] for m in moves] == pytest.approx([-0.1, 0.0, 4.9, 5.0, -5.1, -5.0])


def test_no_crystal_in_the_beam_ends_it_early_and_writes_nothing(engine, documents, world, si, tmp_path):
    plan = calibrate_instrument(world.camera, world.goniometer, si, out=tmp_path / "my.yaml")
    result = engine(plan).plan_result
    assert result.outcome == "refused"
    assert "in the beam" in result.reason
    assert result.n_frames == 3
    assert result.written is None
    assert list(tmp_path.iterdir()) == []
    assert stop(documents)["exit_status"] == "fail"


def test_a_bad_fit_writes_nothing(engine, documents, twin, tmp_path):
    """Axes that never move cannot be told."""
    camera, goniometer = connect(twin)
    places = [{"phi": float(x)} for x in (-150, -90, -30, 30, 90, 150)]
    out = tmp_path / "my.yaml"
    result = engine(
        calibrate_instrument(camera, goniometer, positions=places, exposure_s=20.0, out=out)
    ).plan_result
    assert result.outcome == "refused"
    assert "do not tell" in result.reason
    assert result.fit is not None
    assert not out.exists()
    assert stop(documents)["exit_status"] == "fail"
    with pytest.raises(InstrumentFitError, match="Nothing was written"):
        write_instrument(result.fit, out)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"exposure_s": 0.0}, ValueError, "exposure_s"),
        ({"frames": 2}, ValueError, "n = 2"),
        ({"positions": [{"omega": 500.0}]}, InterlockError, "limits are -100 to 100"),
        ({"positions": [{"omega": -100.0}]}, InterlockError, "limits are -100 to 100"),
        ({"positions": []}, ValueError, "no positions"),
        ({"out": "nowhere/at/all.yaml"}, ValueError, "no folder"),
        ({"out": "my.txt"}, ValueError, "ends in .yaml"),
    ],
)
def test_nonsense_is_refused_before_anything_moves(engine, documents, world, si, kwargs, error, message):
    with pytest.raises(error, match=message):
        engine(calibrate_instrument(world.camera, world.goniometer, si, **kwargs))
    assert world.backend.moves == []
    assert documents == []


def test_an_unknown_crystal_is_refused(engine, world):
    with pytest.raises(ValueError, match="needs to know the crystal"):
        engine(calibrate_instrument(world.camera, world.goniometer))


def test_ways_go_round_what_is_forbidden(world, si):
    zone = Forbidden({"chi": (20.0, 100.0), "omega": (-100.0, 0.0)}, "the cryostat's hose")
    interlock = module.usual_interlock(world.camera, 1.0, [zone])
    places = module._route(world.goniometer, interlock, 8, None)
    here = world.goniometer.position
    for p in places:
        first = {**here, **module.below(world.goniometer.chain, p)}
        assert zone.problem(here, first) == ""
        assert zone.problem(first, p) == ""
        here = p


@pytest.mark.parametrize("how", ["abort", "stop", "halt", "resume"])
def test_interrupted_at_several_messages(engine, documents, world, si, interrupting, how, monkeypatch):
    """At rest and closed, wherever it is interrupted; nothing is indexed here."""
    monkeypatch.setattr(
        module._Run, "_nothing_seen", lambda self: "nothing seen" if self.n_frames == 3 else ""
    )

    def plan():
        return calibrate_instrument(world.camera, world.goniometer, si, frames=4, exposure_s=1.0)

    n = interrupting.count(plan())
    for at in range(3, n, 16):
        documents.clear()
        with pytest.raises(RunEngineInterrupted):
            engine(interrupting(at)(plan()))
        ended = getattr(engine, how)()
        if how == "resume":
            assert ended.plan_result.n_frames == 3
        assert engine.state == "idle"
        assert not world.goniometer.busy
        assert not world.camera.busy
        assert len([1 for kind, _ in documents if kind == "start"]) == len(
            [1 for kind, _ in documents if kind == "stop"]
        )


def test_an_exception_in_the_fit_closes_the_run_as_failed(engine, documents, world, si, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the fit broke")

    monkeypatch.setattr(module, "fit_instrument", broken)
    monkeypatch.setattr(module._Run, "_nothing_seen", lambda self: "")
    with pytest.raises(RuntimeError, match="the fit broke"):
        engine(calibrate_instrument(world.camera, world.goniometer, si, frames=4, exposure_s=1.0))
    assert (stop(documents)["exit_status"], stop(documents)["reason"]) == ("fail", "the fit broke")
    assert not world.goniometer.busy
