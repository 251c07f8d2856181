"""What ``lauepilot index --calibrate`` and ``--grains`` leave behind."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from lauepilot.cli.calibrate import calibrate_file, show, write_folder
from lauepilot.cli.grains import grains_of, parse_most, show_grains, write_grains
from lauepilot.cli.index import index_file
from lauepilot.cli.output import UserError
from lauepilot.cli.unknown import IndexedUnknown
from lauepilot.perception.files.readers import read_any, write_frame
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import misorientation
from lauepilot.simulator.twin import Twin


def printed(how, *arguments) -> str:
    out = StringIO()
    how(Console(file=out, width=140), *arguments)
    return out.getvalue()


def test_calibration_writes_an_instrument_that_indexes_better(tmp_path) -> None:
    crystal, true = load_crystal("ge"), load_instrument("bm32")
    frame = Twin(crystal, true, rng=np.random.default_rng(3), faults=Faults.none()).expose(1.0)
    path, folder = tmp_path / "frame.tif", tmp_path / "out"
    folder.mkdir()
    write_frame(path, frame, true)
    drawn = replace(true, name="mine").with_detector(true.detector.moved(-8.0, 90.0, -60.0, 0.015, -0.015))
    done = calibrate_file(path, crystal, drawn)
    assert done.sure
    write_folder(done, folder)
    names = {p.name for p in folder.iterdir()}
    assert names == {"calibration.json", "pattern.png", "residuals.png", "instrument.yaml", "geometry.det"}
    record = json.loads((folder / "calibration.json").read_text())
    assert record["residual_px"] < 0.5 < record["residual_px_before"]
    assert abs(record["change"]["distance_mm"] - 8.0) < 5 * record["change_sigma"]["distance_mm"]
    again = load_instrument(folder / "instrument.yaml")
    assert again.name == "mine-calibrated"
    found = index_file(path, crystal, again)
    assert found.sure and abs(again.detector.distance_mm - 77.0) < 0.05
    stored = read_any(folder / "geometry.det").detector
    assert stored is not None and stored.distance_mm == pytest.approx(again.detector.distance_mm, abs=1e-4)
    with Image.open(folder / "residuals.png") as picture:
        assert picture.width > 800
    text = printed(show, done)
    assert "moved by" in text and "Not calibrated" not in text
    assert "A flip left to right cannot be noticed" in text
    made = done.calibration
    guess = replace(done, calibration=replace(made, result=replace(made.result, confidence=0.5)))
    (tmp_path / "guess").mkdir()
    write_folder(guess, tmp_path / "guess")
    assert not guess.sure and not (tmp_path / "guess" / "instrument.yaml").exists()
    assert "Not calibrated" in printed(show, guess)


def test_a_frame_without_spots_calibrates_nothing(lauepilot_json, lauepilot) -> None:
    """As for every other question to such a frame: "I do not know", and what to do; a list of three is wrong input."""
    np.save("frame.npy", np.random.default_rng(1).poisson(9, (1000, 1000)).astype(np.uint16))
    options = ("--crystal", "si", "--instrument", "lab", "--calibrate")
    said, code = lauepilot_json("index", "frame.npy", *options)
    assert code == 4 and set(said) == {"error"}
    assert "Was the shutter open" in said["error"] and "expose longer" in said["error"]
    with open("list.dat", "w") as file:
        file.write("peak_X peak_Y peak_I\n100.0 120.0 900\n400.0 510.0 800\n700.0 220.0 700\n")
    assert lauepilot("index", "list.dat", *options).exit_code == 2


def test_grains_leave_table_and_picture(tmp_path) -> None:
    crystal, instrument = load_crystal("si"), load_instrument("lab")
    rng = np.random.default_rng(5)
    truth = [random_rotation(rng) for _ in range(2)]
    shots = [
        Twin(crystal, instrument, rng=rng, faults=Faults.none(), u=u).expose(t)
        for u, t in zip(truth, (60.0, 20.0), strict=True)
    ]
    mixed = (shots[0].counts.astype(np.uint32) + shots[1].counts).astype(np.uint32)
    path, folder = tmp_path / "mixed.h5", tmp_path / "out"
    folder.mkdir()
    write_frame(path, replace(shots[0], counts=mixed, saturation=1e9), instrument)
    indexed = index_file(path, crystal, instrument)
    grains = grains_of(indexed, parse_most("auto"))
    assert len(grains) == 2
    for grain, u, share in zip(grains, truth, (0.75, 0.25), strict=True):
        assert misorientation(grain.orientation.u, u, crystal.symmetry) < np.deg2rad(0.1)
        assert abs(grain.share - share) < 0.08
    write_grains(indexed, grains, folder)
    record = json.loads((folder / "grains.json").read_text())["grains"]
    assert [len(g["spots"]) for g in record] == [len(g.refinement.spot) for g in grains]
    with (folder / "grains.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(g.refinement.spot) for g in grains)
    assert {row["grain"] for row in rows} == {"1", "2"}
    with Image.open(folder / "grains.png") as picture:
        assert picture.width > 800
    assert "2 grains" in printed(show_grains, indexed, grains)
    assert "no grain" in printed(show_grains, indexed, ())


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.5"])
def test_numbers_of_grains_that_make_no_sense(text: str) -> None:
    assert parse_most("3") == 3 and parse_most(" AUTO ") is None
    with pytest.raises(UserError, match="--grains takes a number"):
        parse_most(text)


@pytest.mark.parametrize(
    ("family", "ratio", "nearly"),
    [
        ("trigonal", 2.457, "cubic"),
        ("trigonal", 2.60, ""),
        ("tetragonal", 1.41, "cubic"),
        ("hexagonal", 1.0, ""),
    ],
)
def test_a_nearly_cubic_lattice_is_not_sure(family: str, ratio: float, nearly: str) -> None:
    """A frame of germanium, seen by a detector tilted by 0.3 degrees, was a rhombohedral lattice with c/a = 2.457."""
    best = SimpleNamespace(family=family, ratios=np.array([ratio]))
    result = SimpleNamespace(best=best, sure=True)
    found = IndexedUnknown(load_instrument("bm32"), ("x",), (), None, result)  # type: ignore[arg-type]
    assert (found.nearly, found.sure) == (nearly, not nearly)
