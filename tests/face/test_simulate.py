from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from lauepilot.perception.files.readers import read_frame

OUT = ("frame.h5", "frame.tif", "frame.edf", "frame.png", "frame.npy")


@pytest.mark.parametrize("name", OUT)
def test_every_format_holds_the_same_counts(lauepilot_json, name):
    facts, code = lauepilot_json("simulate", "--crystal", "cu", "--seed", 8, "--exposure", 1, "--out", name)
    assert code == 0
    assert facts["file"] == name
    lauepilot_json("simulate", "--crystal", "cu", "--seed", 8, "--exposure", 1, "--out", "again.npy")
    counts = read_frame(name).counts
    assert np.array_equal(counts, np.load("again.npy"))
    assert counts.shape == tuple(facts["shape"]) == (1000, 1000)


def test_picture_and_words(lauepilot):
    result = lauepilot("simulate", "--crystal", "quartz", "--seed", 2, "--out", "a.tif", "--picture", "a.png")
    assert result.exit_code == 0
    assert "written: a.tif" in result.stdout
    with Image.open("a.png") as picture:
        assert min(picture.size) > 900


def test_counts_grow_with_exposure_as_poisson(lauepilot_json):
    sums = []
    for seconds in (1, 4):
        lauepilot_json("simulate", "--seed", 3, "--exposure", seconds, "--out", f"{seconds}.npy")
        counts = np.load(f"{seconds}.npy").astype(float)
        # hot pixels and cosmic rays are the sensor's, not the beam's; after four seconds no spot is as bright
        sums.append(counts[counts < 1000].sum())
    assert sums[1] / sums[0] == pytest.approx(4.0, rel=0.05)


def test_ub_file_as_orientation(lauepilot_json, tmp_path):
    u = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    (tmp_path / "ub.json").write_text(json.dumps({"U": u}))
    facts, _ = lauepilot_json("simulate", "--orientation", "ub.json", "--exposure", 0.1, "--out", "f.npy")
    assert np.array(facts["U"]) == pytest.approx(np.array(u), abs=1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--out", "frame.doc"), "suffix"),
        (("--out", "no/where/frame.h5"), "no folder"),
        (("--exposure", "-1"), "positive"),
        (("--exposure", "nan"), "positive"),
        (("--orientation", "euler:1,2"), "three numbers"),
        (("--orientation", "[[1,0,0],[0,1,0],[0,0,2]]"), "rotation"),
        (("--orientation", "none.json"), "none.json"),
        (("--faults", "some"), "harsh"),
        (("--picture", "a.jpg"), ".png"),
        (("--crystal", "unobtainium"), "Built in"),
    ],
)
def test_bad_input(lauepilot_json, tmp_path, options, said):
    found, code = lauepilot_json("simulate", *options)
    assert code == 2
    assert said in found["error"]
    assert list(tmp_path.iterdir()) == []
