from __future__ import annotations

import functools
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from lauepilot.agents.index_and_move import IndexAndMove
from lauepilot.cli.align import prepare
from lauepilot.perception.files.readers import read_any, read_frame
from lauepilot.perception.observation import Decision, Declare, Expose, GiveUp, Move
from lauepilot.simulator.conventions import rotation_angle
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import misorientation

#: Pictures take most of an alignment's time: one test looks at them, the others go without.
no_pictures = pytest.mark.usefixtures("without_pictures")

INSTRUMENTS = functools.lru_cache(load_instrument)


@pytest.fixture(autouse=True)
def one_instrument(monkeypatch):
    """The same instrument object in all runs, so that its ray tables are compiled once."""
    monkeypatch.setattr("lauepilot.cli.align.load_instrument", INSTRUMENTS)


def read_json(path):
    return json.loads(Path(path).read_text())


def test_aligns_and_leaves_the_folder(lauepilot):
    result = lauepilot("align", "--seed", 1, "--speed", 0, "--out", "run")
    assert result.exit_code == 0, result.stderr
    assert "Aligned" in result.stdout
    assert "written: run/" in result.stdout
    summary = read_json("run/summary.json")
    assert summary["outcome"] == "declared"
    assert summary["seed"] == 1
    assert summary["truth"]["within_tolerance"] is True
    assert summary["truth"]["target_missed_by_deg"] < 0.1
    assert summary["truth"]["misorientation_deg"] < 0.1
    assert summary["n_exposures"] == len(summary["files"]["frames"]) >= 1
    assert summary["versions"]["lauepilot"]
    # one line a step
    assert sum(
        line.split()[:1] == [str(s["step"])] for s in summary["steps"] for line in result.stdout.splitlines()
    ) >= len(summary["steps"])
    ub = read_json("run/ub.json")
    u, truth = np.array(ub["U"]), np.array(summary["truth"]["U"])
    assert np.rad2deg(misorientation(u, truth, load_crystal("si").symmetry)) < 0.1
    assert u @ np.array(ub["B"]) == pytest.approx(np.array(ub["UB"]))
    assert np.array(ub["covariance_deg2"]).shape == (3, 3)
    # [001], as it is written in the target, along the beam, by the matrix alone: a direct axis is a row of the inverse
    axis = 2 * np.pi * np.linalg.inv(np.array(ub["UB"])).T[:, 2]
    assert np.rad2deg(np.arctan2(np.linalg.norm(axis[:2]), axis[2])) < 0.1
    for name in ("first_pattern.png", "last_pattern.png"):
        with Image.open(f"run/{name}") as picture:
            assert min(picture.size) > 900
    for name in summary["files"]["frames"]:
        assert read_frame(f"run/{name}").counts.shape == (1000, 1000)
    documents = [json.loads(line) for line in Path("run/documents.jsonl").read_text().splitlines()]
    assert documents[0]["name"] == "start"
    assert documents[0]["doc"]["seed"] == 1
    assert documents[-1]["name"] == "stop"
    assert documents[-1]["doc"]["exit_status"] == "success"


@no_pictures
def test_its_frames_can_be_indexed(lauepilot, lauepilot_json):
    lauepilot("align", "--seed", 2, "--speed", 0, "--out", "run")
    ub = read_json("run/ub.json")
    last = sorted(Path("run/frames").iterdir())[-1]
    found, code = lauepilot_json("index", last, "--crystal", "si", "--instrument", "lab")
    assert code == 0
    apart = misorientation(np.array(found["U"]), np.array(ub["U"]), load_crystal("si").symmetry)
    assert np.rad2deg(apart) < 0.3  # the declared one is after a last small correction


def test_pictures_name_planes_as_the_result_does(lauepilot, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "lauepilot.cli.align_report.draw", lambda indexed, path, title: drawn.append(indexed.result)
    )
    lauepilot("align", "--seed", 1, "--speed", 0, "--faults", "none", "--out", "run")
    u_holder = np.array(read_json("run/ub.json")["U_holder"])
    goniometer = INSTRUMENTS("lab").goniometer
    frames = [read_frame(f"run/{name}") for name in read_json("run/summary.json")["files"]["frames"]]
    assert len(drawn) == 2
    for frame, result in zip((frames[0], frames[-1]), drawn, strict=True):
        there = goniometer.matrix(frame.axes) @ u_holder
        assert np.rad2deg(rotation_angle(result.orientation.u @ there.T)) < 0.5


@no_pictures
def test_json_is_the_summary(lauepilot_json):
    found, code = lauepilot_json("align", "--seed", 3, "--crystal", "quartz", "--speed", 0)
    assert code == 0
    folder = Path(found.pop("folder"))
    assert folder.parent == Path("lauepilot-runs")
    assert folder.name.endswith("-quartz")
    assert read_json(folder / "summary.json") == found


@no_pictures
def test_same_seed_same_run(lauepilot_json):
    runs = [lauepilot_json("align", "--seed", 9, "--speed", 0)[0] for _ in range(2)]
    for key in ("steps", "axes", "clock_s", "U", "truth"):
        assert runs[0][key] == runs[1][key]


@no_pictures
def test_full_target_and_without_faults(lauepilot_json):
    found, code = lauepilot_json(
        "align", "--seed", 3, "--target", "[0 0 1] beam, (1 0 0) up", "--faults", "none", "--speed", 0
    )
    assert code == 0
    assert found["truth"]["target_missed_by_deg"] < 0.1


@no_pictures
def test_oracle_needs_no_more_than_the_rule(lauepilot_json):
    rule, _ = lauepilot_json("align", "--seed", 4, "--speed", 0)
    oracle, code = lauepilot_json("align", "--seed", 4, "--agent", "oracle", "--speed", 0)
    assert code == 0
    assert oracle["truth"]["within_tolerance"] is True
    assert oracle["clock_s"] <= rule["clock_s"]


@no_pictures
def test_out_of_reach_is_an_honest_end(lauepilot_json):
    """Two fixed directions against limits of 100 deg: some seeds cannot be reached, and are reported as such."""
    target = "(1 0 0) up, [0 0 1] right"
    world = prepare("kyanite", "lab", target, 0, "index-and-move", "default").world
    for seed in range(200):
        world.reset(np.random.default_rng(seed))
        if not world.reachable():
            break
    found, code = lauepilot_json(
        "align", "--crystal", "kyanite", "--seed", seed, "--target", target, "--speed", 0
    )
    assert found["truth"]["reachable"] is False
    assert (found["outcome"], code) == ("gave_up", 3)
    for word in ("cannot be reached", "limit", "nearest reachable"):
        assert word in found["reason"]
    assert Path(found["folder"], "summary.json").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--crystal", "sii"), "si"),
        (("--crystal", "none.cif"), "none.cif"),
        (("--instrument", "labb"), "lab"),
        (("--agent", "me"), "index-and-move"),
        (("--faults", "many"), "harsh"),
        (("--target", "up the hill"), "--target"),
        (("--target", "[0 0 0] beam"), "indices"),
        (("--target", "[0 0 1] beam, [0 0 2] up"), "parallel"),
        (("--target", "[0 0 1] north"), "direction"),
    ],
)
def test_bad_input_leaves_nothing(lauepilot_json, tmp_path, options, said):
    found, code = lauepilot_json("align", *options)
    assert code == 2
    assert said in found["error"]
    assert list(tmp_path.iterdir()) == []


@no_pictures
def test_moved_and_given_up_tells_where_the_orientation_holds(lauepilot, monkeypatch):
    """One look, one long move, the end: U belongs to the frame, and on the holder it is the crystal's true one."""
    script: list[Decision] = []

    def decide(self, observation):
        return script.pop(0)

    monkeypatch.setattr(IndexAndMove, "decide", decide)
    script += [Expose(30.0), Move({"omega": 20.0, "chi": -15.0, "phi": 40.0}), GiveUp("enough")]
    result = lauepilot("align", "--seed", 1, "--speed", 0, "--faults", "none", "--out", "run")
    assert result.exit_code == 3
    assert "the axes have moved since" in result.stdout
    summary, ub = read_json("run/summary.json"), read_json("run/ub.json")
    there = {"omega": 20.0, "chi": -15.0, "phi": 40.0}
    assert summary["axes"] == ub["axes_at_end"] == pytest.approx(there, abs=0.01)
    assert summary["U_axes"] == ub["axes"] == pytest.approx(dict.fromkeys(there, 0.0), abs=0.01)
    chain, symmetry = INSTRUMENTS("lab").goniometer, load_crystal("si").symmetry
    truth = chain.matrix(summary["axes"]).T @ np.array(summary["truth"]["U"])
    for claimed in (np.array(ub["U_holder"]), chain.matrix(ub["axes"]).T @ np.array(ub["U"])):
        assert np.rad2deg(misorientation(claimed, truth, symmetry)) < 0.1
    assert summary["truth"]["misorientation_deg"] < 0.1


@no_pictures
def test_frames_hold_pose_and_axes(lauepilot):
    """A frame alone tells where detector and axes stand (NeXus), as drawn."""
    lauepilot("align", "--seed", 1, "--speed", 0, "--out", "run")
    found = read_any("run/frames/frame_0001.h5")
    own = INSTRUMENTS("lab").detector
    assert found.detector is not None
    assert found.detector.distance_mm == pytest.approx(own.distance_mm)
    np.testing.assert_allclose(found.detector.rotation, own.rotation, atol=1e-9)
    with h5py.File("run/frames/frame_0001.h5") as file:
        omega = dict(file["/entry/sample/transformations/omega"].attrs)
    assert omega["vector"].tolist() == [0.0, 1.0, 0.0]


@no_pictures
def test_a_failing_agent_closes_the_record_truthfully(lauepilot, monkeypatch):
    def fail(self, observation):
        raise RuntimeError("the head is lost")

    monkeypatch.setattr(IndexAndMove, "decide", fail)
    result = lauepilot("align", "--seed", 1, "--speed", 0, "--out", "run")
    assert result.exit_code == 1
    assert "the head is lost" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    summary = read_json("run/summary.json")
    assert summary["outcome"] == "failed"
    stop = json.loads(Path("run/documents.jsonl").read_text().splitlines()[-1])
    assert (stop["name"], stop["doc"]["exit_status"]) == ("stop", "fail")


@no_pictures
def test_a_disk_that_fails_keeps_what_was_recorded(lauepilot, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lauepilot.cli.align_report.write_json", full)
    result = lauepilot("align", "--seed", 1, "--speed", 0, "--out", "run")
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["exit_status"] == "success"
    assert not (tmp_path / "run/summary.json").exists()


@no_pictures
@pytest.mark.parametrize("looks_again", [False, True])
def test_one_frame_one_picture_and_dead_reckoning_is_told(lauepilot, monkeypatch, looks_again):
    script = ["look", "move", *(["look"] if looks_again else []), "declare"]

    def decide(self, observation):
        step = script.pop(0)
        if step == "declare":
            return Declare(observation.belief.orientation)
        return Expose(5.0) if step == "look" else Move({"omega": 1.0})

    monkeypatch.setattr(IndexAndMove, "decide", decide)
    result = lauepilot("align", "--seed", 1, "--speed", 0, "--faults", "none", "--out", "run")
    assert result.exit_code == 0, result.stderr
    assert ("dead reckoning" in result.stdout) is not looks_again
    assert Path("run/first_pattern.png").is_file()
    assert Path("run/last_pattern.png").is_file() is looks_again
    assert ("last_pattern" in read_json("run/summary.json")["files"]) is looks_again
