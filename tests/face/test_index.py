from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from lauepilot import simulator
from lauepilot.cli.index import index_spots
from lauepilot.perception.files.lauetools import read_fit
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.indexing.refine import GeometryPrior, predict_pixels, strained
from lauepilot.perception.indexing.strain import strain_chance
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import predict_spots
from lauepilot.simulator.orientation import misorientation

KEYS = {
    "crystal", "instrument", "U", "UB", "covariance_deg2", "confidence", "n_spots", "n_indexed", "residual_px",
    "geometry", "spots",
}  # fmt: skip
SPOT_KEYS = {"col", "row", "counts", "hkl", "energy_kev", "predicted_col", "predicted_row", "residual_px"}


def read_json(path):
    return json.loads(Path(path).read_text())


def off_deg(u, other, crystal):
    return float(np.rad2deg(misorientation(np.array(u), np.array(other), load_crystal(crystal).symmetry)))


@pytest.mark.parametrize(
    ("name", "fit", "crystal"),
    [
        ("Ge_blanc_0000_LT_5.cor", "Ge_blanc_0000_LT_5.fit", "ge"),
        ("Ge0001.cor", "Ge0001.fit", "si"),
        ("3C-SiC_img_10066.fit", "3C-SiC_img_10066.fit", "3c-sic"),
    ],
)
def test_real_lists_give_the_accepted_orientations(lauepilot_json, shared_data, name, fit, crystal):
    found, code = lauepilot_json(
        "index", shared_data / "laue" / name, "--crystal", crystal, "--instrument", "bm32"
    )
    accepted = read_fit(shared_data / "laue" / fit)
    assert code == 0
    assert set(found) >= KEYS
    # their matrix holds a strain: its rotation is that of the polar decomposition
    rotation, _ = polar(accepted.ub @ np.linalg.inv(load_crystal(crystal).b))
    assert off_deg(found["U"], rotation, crystal) < 0.02
    assert found["n_indexed"] >= 0.9 * len(accepted.hkl)
    assert found["confidence"] > 0.99
    assert found["geometry"]["refined"] is False
    # Each spot's energy is Bragg's, from LaueTools' own angle to the beam, and a harmonic of their hkl.
    columns = zip(accepted.pixels, accepted.energy_kev, accepted.hkl, strict=True)
    theirs = {tuple(np.round(pixel, 1)): (energy, hkl) for pixel, energy, hkl in columns}
    compared = 0
    for spot in found["spots"]:
        match = theirs.get((round(spot["col"], 1), round(spot["row"], 1)))
        if match is not None:
            ratio = (spot["energy_kev"] / match[0]) * np.linalg.norm(match[1]) / np.linalg.norm(spot["hkl"])
            assert ratio == pytest.approx(1.0, abs=3e-3)
            compared += 1
    assert compared > 30


def test_raw_image_gives_orientation_and_geometry(lauepilot_json, shared_data):
    found, code = lauepilot_json(
        "index", shared_data / "laue" / "ge.jp2", "--crystal", "ge", "--instrument", "bm32"
    )
    assert code == 0
    assert found["geometry"]["refined"] is True
    assert found["residual_px"] < 0.25
    assert found["n_indexed"] >= 95
    # The manifest's rough geometry: about 77 mm, centre near (1020, 1080), tilts below 1 deg.
    assert found["geometry"]["distance_mm"] == pytest.approx(77.0, abs=2.0)
    assert found["geometry"]["centre_px"] == pytest.approx([1020, 1080], abs=60)
    normal, col, row = (np.array(found["geometry"][k]) for k in ("normal", "col_direction", "row_direction"))
    assert np.rad2deg(np.arccos(normal[1])) < 1.0
    assert np.array([col, row, normal]) @ np.array([col, row, normal]).T == pytest.approx(np.eye(3), abs=1e-9)
    assert 0.0 < found["geometry"]["sigma"]["distance_mm"] < 0.1


def test_json_can_be_projected_without_us(lauepilot_json, shared_data):
    """UB, hkl and geometry alone put the spots where they are said to be: plain Laue geometry, nothing of ours."""
    found, _ = lauepilot_json(
        "index", shared_data / "laue" / "ge.jp2", "--crystal", "ge", "--instrument", "bm32"
    )
    ub, geometry = np.array(found["UB"]), found["geometry"]
    hkl = np.array([spot["hkl"] for spot in found["spots"]])
    q = hkl @ ub.T
    g = q / np.linalg.norm(q, axis=1, keepdims=True)
    k_out = np.array([0, 0, 1]) - 2 * g[:, 2:] * g
    normal, col, row = (np.array(geometry[k]) for k in ("normal", "col_direction", "row_direction"))
    on_plane = k_out * (geometry["distance_mm"] / (k_out @ normal))[:, None]
    pixel = np.stack([on_plane @ col, on_plane @ row], axis=1) / geometry["pixel_mm"] + geometry["centre_px"]
    assert pixel == pytest.approx(
        np.array([[s["predicted_col"], s["predicted_row"]] for s in found["spots"]]), abs=1e-3
    )
    distance = np.linalg.norm(pixel - [[s["col"], s["row"]] for s in found["spots"]], axis=1)
    assert distance == pytest.approx(np.array([s["residual_px"] for s in found["spots"]]), abs=2e-3)
    assert distance.mean() == pytest.approx(found["residual_px"], abs=1e-3)


def simulated(lauepilot_json, name, crystal="si", instrument="lab", *more):
    facts, code = lauepilot_json(
        "simulate", "--crystal", crystal, "--instrument", instrument, "--seed", 5, "--out", name, *more
    )
    assert code == 0
    return facts


@pytest.mark.parametrize("suffix", [".h5", ".tif", ".npy"])
def test_simulated_frames_come_back(lauepilot_json, suffix):
    truth = simulated(lauepilot_json, f"frame{suffix}")
    found, code = lauepilot_json("index", f"frame{suffix}", "--crystal", "si", "--instrument", "lab")
    assert code == 0
    assert set(found["spots"][0]) == SPOT_KEYS
    assert off_deg(found["U"], truth["U"], "si") < 0.05
    covariance = np.array(found["covariance_deg2"])
    assert np.all(np.linalg.eigvalsh(covariance) > 0)
    assert np.array(found["UB"]) == pytest.approx(np.array(found["U"]) @ load_crystal("si").b, abs=1e-9)


def test_files_that_index_leaves(lauepilot, lauepilot_json):
    simulated(lauepilot_json, "frame.h5", "quartz")
    result = lauepilot("index", "frame.h5", "--crystal", "quartz", "--instrument", "lab", "--out", "here")
    assert result.exit_code == 0
    assert "explained" in result.stdout
    assert "UB = " in result.stdout
    record = read_json("here/index.json")
    with open("here/spots.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == record["n_indexed"] > 20
    assert float(rows[0]["counts"]) >= float(rows[-1]["counts"])
    ub = read_json("here/ub.json")
    assert ub["two_pi"] is True
    assert ub["UB"] == record["UB"]
    picture = Image.open("here/pattern.png")
    assert min(picture.size) > 900
    picture.load()
    # nothing is overwritten, and nothing changed by trying
    again = lauepilot("index", "frame.h5", "--crystal", "quartz", "--instrument", "lab", "--out", "here")
    assert again.exit_code == 2
    assert "not an empty folder" in again.stderr
    assert read_json("here/index.json") == record


def test_json_leaves_no_files_unless_asked(lauepilot_json, tmp_path):
    simulated(lauepilot_json, "frame.h5")
    before = sorted(tmp_path.iterdir())
    lauepilot_json("index", "frame.h5", "--crystal", "si", "--instrument", "lab")
    assert sorted(tmp_path.iterdir()) == before


def test_the_wrong_crystal_is_not_known(lauepilot_json):
    simulated(lauepilot_json, "frame.h5", "kyanite")
    found, code = lauepilot_json("index", "frame.h5", "--crystal", "4h-sic", "--instrument", "lab")
    assert code == 4
    assert found["confidence"] < 0.95
    assert found["sure"] is False


def test_cell_shape_and_geometry_on_request(lauepilot_json, shared_data):
    path = shared_data / "laue" / "Ge_blanc_0000_LT_5.cor"
    found, code = lauepilot_json(
        "index", path, "--crystal", "ge", "--instrument", "bm32", "--refine-geometry", "--refine-cell"
    )
    assert code == 0
    assert found["geometry"]["refined"] is True
    assert found["cell"][:3] == pytest.approx([5.658] * 3, abs=0.02)
    assert found["cell"] != [found["cell"][0]] * 3 + [90.0] * 3


# --------------------------------------------------------------------------------------------------- bad input


def broken_cif(path):
    path.write_text("data_x\n_cell_length_a 5\n")


def nan_frame(path):
    frame = np.ones((1000, 1000))
    frame[3, 4] = np.nan
    np.save(path, frame)


def nine_spots(path):
    path.write_text("peak_X peak_Y peak_Isub\n" + "".join(f"{71 * i} {53 * i} 3\n" for i in range(9)))


BAD = {
    "no file": (lambda p: None, "nothing.tif", (), "nothing.tif"),
    "unknown format": (lambda p: p.write_text("x"), "frame.xyz", (), "xyz"),
    "not an image": (lambda p: p.write_bytes(b"II*\x00rubbish"), "frame.tif", (), "frame.tif"),
    "wrong size": (lambda p: np.save(p, np.ones((50, 60), np.uint16)), "frame.npy", (), "1000 x 1000"),
    "empty": (lambda p: np.save(p, np.zeros((1000, 1000), np.uint16)), "frame.npy", (), "no photon"),
    "saturated": (lambda p: np.save(p, np.r_[np.zeros((2, 1000)), np.full((998, 1000), 65535)].astype(np.uint16)),
                  "frame.npy", (), "saturated"),
    "NaN": (nan_frame, "frame.npy", (), "NaN"),
    "two detectors": (lambda p: np.save(p, np.ones((1000, 2000), np.uint16)), "frame.npy", (), "2 detectors side by side"),
    "photons of a list": (nine_spots,
                          "spots.dat", ("--photons",), "needs a frame"),
    "number of grains": (lambda p: None, "frame.npy", ("--grains", "some"), "'auto'"),
    "no such frame": (lambda p: np.save(p, np.ones((1000, 1000), np.uint16)), "frame.npy", ("--number", "3"), "1 frames"),
    "no datasets": (lambda p: np.save(p, np.ones((1000, 1000), np.uint16)), "frame.npy", ("--dataset", "/a"), "no HDF5"),
    "calibration with a free cell": (lambda p: None, "frame.npy", ("--calibrate", "--refine-cell"), "--refine-cell out"),
    "crystal and no crystal": (lambda p: None, "frame.npy", ("--lattice", "unknown"), "one of the two"),
    "unknown crystal": (lambda p: None, "frame.npy", ("--crystal", "quarz"), "quartz"),
    "unknown instrument": (lambda p: None, "frame.npy", ("--instrument", "bm23"), "bm32"),
    "missing CIF": (lambda p: None, "frame.npy", ("--crystal", "mine.cif"), "mine.cif"),
    "broken CIF": (lambda p: broken_cif(p.with_name("bad.cif")), "frame.npy", ("--crystal", "bad.cif"), "bad.cif"),
    "broken instrument": (lambda p: p.with_name("i.yaml").write_text("name: [x"), "frame.npy", ("--instrument", "i.yaml"),
                          "i.yaml"),
    "no list": (lambda p: p.write_text("peak_X peak_Y peak_Isub\n1 2\n"), "spots.dat", (), "spots.dat"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(lauepilot, lauepilot_json, tmp_path, case):
    make, name, more, said = BAD[case]
    make(tmp_path / name)
    before = sorted(tmp_path.iterdir())
    options = ["--crystal", "si", "--instrument", "lab", *more]
    found, code = lauepilot_json("index", name, *options)
    assert code == 2
    assert set(found) == {"error"}
    assert said in found["error"]
    result = lauepilot("index", name, *options)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert re.search(re.escape(said), result.stderr)
    assert "Traceback" not in result.stdout + result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_drawing_that_is_far_off_is_found_out(lauepilot_json):
    simulated(lauepilot_json, "frame.tif")
    text = Path(simulator.__file__).with_name("instruments").joinpath("lab.yaml").read_text()
    for true, drawn in (
        ("distance_mm: 40\n", "distance_mm: 48\n"),
        ("centre_px: [499.5, 499.5]\n    normal", "centre_px: [570, 450]\n    normal"),
    ):
        assert true in text
        text = text.replace(true, drawn)
    Path("mine.yaml").write_text(text)
    found, code = lauepilot_json("index", "frame.tif", "--crystal", "si", "--instrument", "mine.yaml")
    assert code == 0
    assert found["geometry"]["distance_mm"] == pytest.approx(40.0, abs=0.05)
    assert found["geometry"]["centre_px"] == pytest.approx([499.5, 499.5], abs=0.5)


def test_a_frame_of_background_is_not_known(lauepilot_json):
    np.save("frame.npy", np.random.default_rng(1).poisson(9, (1000, 1000)).astype(np.uint16))
    found, code = lauepilot_json("index", "frame.npy", "--crystal", "si", "--instrument", "lab")
    assert code == 4
    assert found["UB"] is None
    assert [finding["kind"] for finding in found["findings"]] == ["background"]


def test_several_images_in_a_file_are_listed(lauepilot_json):
    with h5py.File("stack.h5", "w") as file:
        file["one"] = np.ones((10, 10))
        file["two"] = np.ones((10, 10))
    found, code = lauepilot_json("index", "stack.h5", "--crystal", "si", "--instrument", "lab")
    assert code == 2
    assert "one" in found["error"]
    assert "two" in found["error"]


def test_orientation_texts(lauepilot_json):
    for text, u in (
        ("euler:10,20,30", Rotation.from_euler("ZXZ", [10, 20, 30], degrees=True).as_matrix()),
        ("rotvec:0,90,0", [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
        ("[[0,0,1],[0,1,0],[-1,0,0]]", [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
    ):
        facts, code = lauepilot_json(
            "simulate", "--orientation", text, "--out", "f.npy", "--exposure", 0.1, "--seed", 1
        )
        assert code == 0
        assert np.array(facts["U"]) == pytest.approx(np.array(u), abs=1e-9)


def test_strain_is_told_where_chance_does_not_make_it():
    """A list rendered with noise of 0.1 px from the CIF's cell, and one from a cell strained by 1e-3."""
    crystal, instrument = load_crystal("si"), load_instrument("lab")
    indexer = Indexer(crystal, instrument, GeometryPrior())
    rng = np.random.default_rng(7)
    u = random_rotation(rng)
    spots = predict_spots(indexer.table, u)
    bright = np.argsort(-spots.rate_per_s)[:60]
    rays = indexer.table.direction[spots.ray[bright]]
    for strain, told in ((0.0, False), (1e-3, True)):
        pixels = predict_pixels(u, strained(rays, np.diag([strain, -strain, 0.0])), instrument.detector)
        pixels = pixels + rng.normal(0.0, 0.1, pixels.shape)
        n = len(pixels)
        listed = SpotList(
            pixels, np.tile(0.01 * np.eye(2), (n, 1, 1)), np.full(n, 1e3), np.full(n, 30.0), np.zeros(n, bool)
        )
        found = index_spots(listed, indexer)
        assert found.sure
        assert (strain_chance(found.crystal, found.result.refinement) < 1e-3) is told


def test_what_a_list_without_calibration_leaves_open_is_said(lauepilot, shared_data):
    path = shared_data / "laue" / "Ge_blanc_0000_LT_5.dat"
    said = lauepilot("index", path, "--crystal", "ge", "--instrument", "bm32").stdout
    assert "does not show the size of the cell" in said
    assert "one assumed (0.0734 mm)" in said
    assert "only" not in said.split("size of the cell")[0]


def test_many_unexplained_spots_and_guesses_are_told(lauepilot, lauepilot_json):
    simulated(lauepilot_json, "frame.h5", "kyanite")
    said = lauepilot("index", "frame.h5", "--crystal", "4h-sic", "--instrument", "lab").stdout
    assert "I do not know" in said
    assert "orientation known to" not in said


def test_a_geometry_of_another_size_is_blamed_on_its_option(lauepilot_json, tmp_path):
    np.save(tmp_path / "frame.npy", np.ones((50, 60), np.uint16))
    (tmp_path / "calib.det").write_text("70, 1000, 1000, 0, 0, 0.08, 2048, 2048\n")
    found, code = lauepilot_json(
        "index", "frame.npy", "--crystal", "si", "--instrument", "lab", "--geometry", "calib.det"
    )
    assert code == 2
    assert "--geometry calib.det" in found["error"]
    assert "2048 x 2048" in found["error"]
    assert "50 x 60" in found["error"]


def test_an_unknown_lattice_takes_no_options_in_silence(lauepilot_json):
    found, code = lauepilot_json(
        "index", "frame.h5", "--instrument", "lab", "--lattice", "unknown", "--photons", "--refine-cell"
    )
    assert code == 2
    assert "--photons, --refine-cell" in found["error"]
    np.save("dark.npy", np.random.default_rng(1).poisson(2, (1000, 1000)).astype(np.uint16))
    found, code = lauepilot_json("index", "dark.npy", "--instrument", "lab", "--lattice", "unknown")
    assert code == 4  # the frame is in order, and does not hold the answer
    found, code = lauepilot_json(
        "index", "dark.npy", "./dark.npy", "--instrument", "lab", "--lattice", "unknown"
    )
    assert code == 2
    assert "twice" in found["error"]


def test_what_the_photons_tell_is_the_answer_everywhere(lauepilot, lauepilot_json):
    truth, _ = lauepilot_json(
        "simulate",
        "--crystal",
        "si",
        "--instrument",
        "lab",
        "--seed",
        "5",
        "--exposure",
        "0.002",
        "--out",
        "faint.h5",
    )
    options = ("index", "faint.h5", "--crystal", "si", "--instrument", "lab", "--out")
    found, code = lauepilot_json(*options, "one")
    assert code == 0
    assert found["n_spots"] < 4
    assert found["confidence"] == found["photons"]["confidence"] > 0.95
    u = np.array(found["U"])
    assert misorientation(u, np.array(truth["U"]), load_crystal("si").symmetry) < np.deg2rad(1.0)
    assert found["findings"] == []  # columns without a photon are no gap between panels
    assert found["geometry"]["refined"] is False
    stored = read_json("one/ub.json")
    assert stored["UB"] == found["UB"] == read_json("one/index.json")["UB"]
    assert stored["confidence"] == found["confidence"]


def test_a_guess_is_not_handed_on(lauepilot, lauepilot_json):
    simulated(lauepilot_json, "frame.h5", "ca2ruo4")
    options = ("--crystal", "si", "--instrument", "lab", "--grains", "auto", "--out", "here")
    found, code = lauepilot_json("index", "frame.h5", *options)
    assert code == 4
    assert all(grain["confidence"] <= found["confidence"] < 0.95 for grain in found["grains"])
    told = lauepilot("convert", "here/index.json", "--to", "spec", "--out", "guess.spec")
    assert told.exit_code == 2
    assert "is a guess" in told.stderr
    assert not Path("guess.spec").exists()
    told = lauepilot("index", "frame.h5", "--crystal", "si", "--instrument", "lab", "--calibrate")
    assert told.exit_code == 4
