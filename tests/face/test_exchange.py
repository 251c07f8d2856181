"""convert, ub and reorient as a user meets them: files in, files and one JSON object out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lauepilot.cli.exchange import parse_axes, run_convert, run_ub
from lauepilot.cli.output import Exit, UserError, write_json
from lauepilot.cli.reorient import run_reorient
from lauepilot.cli.report import ub_record
from lauepilot.perception.exchange.files import FORMATS, read_orientation
from lauepilot.perception.reflections.measured import ReflectionError, read_reflections
from lauepilot.simulator.conventions import HC_KEV_A, random_rotation, rotation_angle
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation

LAB = load_instrument("lab")
AXES = {"omega": 10.0, "chi": -20.0, "phi": 30.0}


@pytest.fixture
def ub_file(tmp_path):
    """What align leaves behind, of silicon on lab."""
    crystal = load_crystal("si")
    orientation = Orientation(random_rotation(np.random.default_rng(1)), crystal.b, 1e-9 * np.eye(3))
    path = tmp_path / "ub.json"
    write_json(path, ub_record(crystal, orientation, {"axes": AXES, "instrument": "lab"}))
    return path, orientation


def convert(source, to, out, capsys, crystal=None, instrument=None, axes=None):
    code = run_convert(
        source, to=to, out=out, crystal=crystal, instrument=instrument, axes=axes, as_json=True
    )
    return json.loads(capsys.readouterr().out), code


@pytest.mark.parametrize("kind", [f for f in FORMATS if f != "fit"])
def test_convert_and_back(ub_file, tmp_path, capsys, kind):
    source, orientation = ub_file
    told, code = convert(source, kind, tmp_path / "out", capsys)
    assert code == Exit.DONE
    assert told["format"] == kind
    assert told["of"] == "holder"
    assert told["axes"] == AXES
    assert told["notes"] == []
    z = LAB.goniometer.matrix(AXES)
    np.testing.assert_allclose(z @ told["UB"], orientation.ub, atol=1e-9)
    # from that format to another, and the orientation is still there
    again, _ = convert(tmp_path / "out", "nexus" if kind != "nexus" else "spec", tmp_path / "again", capsys)
    assert again["source_format"] == kind
    back = read_orientation(tmp_path / "again").in_laboratory(LAB.goniometer)
    np.testing.assert_allclose(back.ub, orientation.ub, atol=1e-9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "out", "ub.json"]


def test_convert_tells_people_frame_and_circles(ub_file, tmp_path, capsys):
    run_convert(
        ub_file[0],
        to="hklpy2",
        out=tmp_path / "a.yml",
        crystal=None,
        instrument=None,
        axes=None,
        as_json=False,
    )
    text = capsys.readouterr().out
    for said in (
        "libhkl: x along the beam, y left, z up; UB with 2 pi",
        "E4CH: omega = omega",
        "omega 10",
        "a.yml",
    ):
        assert said in text


def test_convert_a_fit_of_lauetools(tmp_path, capsys):
    """A file that tells no axes: all at zero, and it says so; with --axes they are taken off."""
    crystal, bm32 = load_crystal("ge"), load_instrument("bm32")
    orientation = Orientation(random_rotation(np.random.default_rng(2)), crystal.b, 1e-9 * np.eye(3))
    record = ub_record(crystal, orientation)
    write_json(tmp_path / "ub.json", record)
    told, _ = convert(tmp_path / "ub.json", "fit", tmp_path / "a.fit", capsys, instrument="bm32")
    assert "all are taken as 0" in told["notes"][0]
    own = (tmp_path / "a.fit").read_text()
    foreign = tmp_path / "b.fit"
    foreign.write_text("\n".join(s for s in own.splitlines() if not s.startswith("#lauepilot")))
    told, _ = convert(foreign, "spec", tmp_path / "c", capsys, instrument="bm32", axes="theta=40, x=1")
    assert told["notes"] == []
    z = bm32.goniometer.matrix({"theta": 40.0})
    assert rotation_angle(z @ told["U"] @ orientation.u.T) < 1e-9


def test_bad_conversions(ub_file, tmp_path, capsys):
    source, _ = ub_file
    data = json.loads(source.read_text())
    anonymous = tmp_path / "anonymous.json"
    anonymous.write_text(json.dumps({**data, "crystal": "sample 7", "instrument": "mine"}))
    (tmp_path / "there").write_text("precious")
    cases = [
        (source, "xml", "out", {}, "--to is one of"),
        (source, "spec", "there", {}, "nothing is overwritten"),
        (source, "spec", "none/out", {}, "no folder"),
        (source, "spec", "out", {"axes": "omega"}, "--axes: cannot use 'omega'"),
        (source, "spec", "out", {"axes": "eta=1"}, "axes: omega, chi, phi"),
        (source, "spec", "out", {"crystal": "quartz"}, "is of a cell"),
        (source, "spec", "out", {"instrument": "bm32"}, "speaks of an axis 'omega'"),
        (anonymous, "spec", "out", {}, "say --crystal"),
        (anonymous, "spec", "out", {"crystal": "si"}, "say --instrument"),
    ]
    for path, kind, out, more, said in cases:
        with pytest.raises(UserError, match=said):
            convert(path, kind, tmp_path / out, capsys, **more)
    with pytest.raises(ValueError, match="look down on the sample"):
        convert(source, "fit", tmp_path / "out", capsys)
    assert (tmp_path / "there").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["anonymous.json", "there", "ub.json"]
    assert parse_axes(None, LAB.goniometer) is None
    assert parse_axes("omega = 1; phi=-2,", LAB.goniometer) == {"omega": 1.0, "phi": -2.0}


# ---------------------------------------------------------------------------------------------------------- ub


@pytest.fixture
def reflections_file(tmp_path):
    """Pixels of Laue spots of quartz, each as a monochromatic beam of its energy would have found it."""
    crystal = load_crystal("quartz")
    rng = np.random.default_rng(5)
    u = random_rotation(rng)
    rows = ["h,k,l,omega,chi,phi,nu,delta,energy_kev"]
    while len(rows) < 7:
        hkl = rng.integers(-4, 5, 3)
        at = rng.uniform(-90, 90, 3)
        q = LAB.goniometer.matrix(dict(zip(("omega", "chi", "phi"), at, strict=True))) @ u @ crystal.b @ hkl
        size = np.linalg.norm(q)
        if size == 0 or -q[2] / size < 0.1:
            continue
        sine = -q[2] / size
        energy = HC_KEV_A * size / (4 * np.pi * sine)
        out = np.array([0, 0, 1]) + 2 * sine * q / size
        nu, delta = np.rad2deg([np.arctan2(out[0], out[2]), np.arcsin(out[1])])
        rows.append(",".join(repr(float(x)) for x in (*hkl, *at, nu, delta, energy)))
    path = tmp_path / "reflections.csv"
    path.write_text("\n".join(rows) + "\n")
    return path, u


def ub(source, capsys, out=None, cell="fixed", tolerance=1.0, as_json=True):
    code = run_ub(
        source, crystal="quartz", instrument="lab", cell=cell, energy_kev=None, tolerance_deg=tolerance,
        out=out, as_json=as_json,
    )  # fmt: skip
    text = capsys.readouterr().out
    return json.loads(text) if as_json else text, code


@pytest.mark.parametrize("cell", ["fixed", "system", "free"])
def test_ub_from_a_list(reflections_file, tmp_path, capsys, cell):
    source, u = reflections_file
    told, code = ub(source, capsys, tmp_path / "ub.json", cell)
    assert code == Exit.DONE
    assert rotation_angle(np.array(told["U"]) @ u.T) < 1e-8
    np.testing.assert_allclose(told["cell"], load_crystal("quartz").cell, rtol=1e-8)
    assert max(row["residual_deg"] for row in told["reflections"]) < 1e-6
    assert any(told["cell_sigma"]) == (cell != "fixed")
    assert told["notes"] == []
    # the file is one that convert and reorient read
    assert read_orientation(tmp_path / "ub.json").instrument == "lab"
    made, _ = convert(tmp_path / "ub.json", "diffcalc", tmp_path / "session.json", capsys)
    assert rotation_angle(np.array(made["U"]) @ u.T) < 1e-8


def test_ub_tells_people(reflections_file, tmp_path, capsys):
    text, _ = ub(reflections_file[0], capsys, tmp_path / "ub.json", "system", as_json=False)
    for said in ("sample holder", "orientation known to", "sigma", "off by deg", "1.00000", "ub.json"):
        assert said in text
    source = tmp_path / "wrong.csv"
    rows = reflections_file[0].read_text().splitlines()
    source.write_text("\n".join(rows[:3]).replace(rows[1].split(",")[0] + ",", "9.0,", 1))
    with pytest.raises(ReflectionError, match="deg in this cell"):
        ub(source, capsys)
    source.write_text("\n".join(rows[:4]).replace(rows[1].split(",")[-1], "9.0", 1))
    told, _ = ub(source, capsys)
    assert "|Q| as measured" in told["notes"][0]
    for more, said in (({"cell": "cubic"}, "--cell is one of"), ({"tolerance": 0.0}, "--tolerance must be")):
        with pytest.raises(UserError, match=said):
            ub(reflections_file[0], capsys, **more)
    with pytest.raises(UserError, match="nothing is overwritten"):
        ub(reflections_file[0], capsys, tmp_path / "ub.json")
    assert len(read_reflections(reflections_file[0], LAB)) == 6


# ---------------------------------------------------------------------------------------------------- reorient


def reorient(source, target, capsys, axes=None, as_json=True, **more):
    arguments = {"crystal": None, "instrument": None} | more
    code = run_reorient(source, target=target, axes=axes, as_json=as_json, **arguments)
    text = capsys.readouterr().out
    return json.loads(text) if as_json else text, code


def test_reorient_lists_all_ways(ub_file, capsys):
    source, orientation = ub_file
    told, code = reorient(source, "[0 0 1] beam", capsys)
    assert code == Exit.DONE
    assert told["axes_now"] == AXES
    assert len(told["ways"]) == 6
    u_holder = LAB.goniometer.matrix(AXES).T @ orientation.u
    for way in told["ways"]:
        named = np.array([float(x) for x in way["primary"].strip("[]").split()])
        there = LAB.goniometer.matrix(way["axes"]) @ u_holder @ named
        np.testing.assert_allclose(there, [0, 0, 1], atol=1e-8)
        np.testing.assert_allclose(np.array(way["U_lab"])[:, 2], [0, 0, 1], atol=1e-8)
    best = told["ways"][0]["axes"]
    again, _ = reorient(source, "[0 0 1] beam", capsys, ",".join(f"{k}={v!r}" for k, v in best.items()))
    assert again["ways"][0]["move_time_s"] == 0.0
    assert again["missed_now_by_deg"] < 1e-6


def test_reorient_tells_people(ub_file, capsys):
    text, code = reorient(ub_file[0], "[0 0 1] beam, (1 0 0) up", capsys, as_json=False)
    assert code == Exit.DONE
    for said in (
        "si on lab",
        "now at omega 10, chi -20, phi 30",
        "omega deg",
        "[0 0 1] is",
        "(1 0 0) is",
        "12 of",
    ):
        assert said in text


def test_reorient_says_why_not(tmp_path, capsys):
    crystal = load_crystal("ca2ruo4")
    orientation = Orientation(random_rotation(np.random.default_rng(0)), crystal.b, 1e-9 * np.eye(3))
    write_json(tmp_path / "ub.json", ub_record(crystal, orientation))
    more = {"instrument": "bm32"}
    told, code = reorient(tmp_path / "ub.json", "[0 0 1] beam, (1 0 0) up", capsys, **more)
    assert code == Exit.GAVE_UP
    assert not told["reachable"]
    assert "beyond its" in told["why_not"]
    assert told["nearest"]["missed_by_deg"] > 1.0
    assert f"{told['nearest']['missed_by_deg']:.3f} deg off" in told["why_not"]
    text, _ = reorient(tmp_path / "ub.json", "[0 0 1] beam, (1 0 0) up", capsys, as_json=False, **more)
    assert "Cannot." in text
    assert "comes nearest" in text
    with pytest.raises(UserError, match="must not be parallel"):
        reorient(tmp_path / "ub.json", "[0 0 1] beam, (0 0 1) up", capsys, **more)
    with pytest.raises(ReachError, match="theta"):
        reorient(tmp_path / "ub.json", "[0 0 1] beam", capsys, axes="theta=90", **more)
