"""Orientation files: there and back, and read as the programs read them (diffcalc-core, libhkl's frame, LaueTools, SPEC)."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lauepilot.perception.exchange.files import FORMATS, read_orientation, write_orientation
from lauepilot.perception.exchange.frames import (
    TO_BEAM_X,
    TO_YOU,
    YOU_CIRCLES,
    libhkl_geometry,
    you_frame,
)
from lauepilot.perception.exchange.stored import canonical, cell_of
from lauepilot.perception.files.lauetools import read_fit
from lauepilot.simulator.conventions import BEAM, axis_rotation, random_rotation, rotation_angle
from lauepilot.simulator.crystal import busing_levy_b, load_crystal
from lauepilot.simulator.goniometer import Axis, Goniometer
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation

CRYSTALS = ("si", "quartz", "jarosite", "ca2ruo4", "feps3", "kyanite")
SIX = Goniometer(
    tuple(Axis(n, "rotation", tuple(np.array(d) @ TO_YOU), (-180.0, 180.0), 1.0) for n, d in YOU_CIRCLES)
)
SIX_CIRCLE = dataclasses.replace(load_instrument("lab"), goniometer=SIX)
HKLS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (3, -2, 5), (-7, 1, 4)], dtype=float)
seeds = st.integers(0, 2**32 - 1)


def drawn(seed, name, instrument, strain=0.0):
    rng = np.random.default_rng(seed)
    crystal, covariance = load_crystal(name), rng.normal(size=(3, 3)) * 1e-4
    b = (np.eye(3) + strain * rng.normal(size=(3, 3))) @ crystal.b
    axes = {a.name: float(rng.uniform(*np.clip(a.limits, -80, 80))) for a in instrument.goniometer.axes}
    return crystal, Orientation(random_rotation(rng), b, covariance @ covariance.T), axes


# ---------------------------------------------------------------------------------------------- there and back


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    st.sampled_from(CRYSTALS),
    st.sampled_from([f for f in FORMATS if f != "fit"]),
    st.sampled_from(["lab", "bm32", "koala", "lab-toronto"]),
    st.booleans(),
)
def test_the_same_hkl_come_back(seed, name, kind, instrument_name, strained):
    instrument = load_instrument(instrument_name)
    crystal, orientation, axes = drawn(seed, name, instrument, 1e-4 * strained)
    q = HKLS @ orientation.ub.T
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "orientation")
        written = write_orientation(path, orientation, crystal, instrument, format=kind, axes=axes)
        back = read_orientation(path)
    assert back.format == kind
    assert back.two_pi == written.two_pi == (kind != "nexus")
    assert back.axes == axes
    assert (back.crystal, back.space_group) == (crystal.name, crystal.space_group)
    lab = back.in_laboratory(instrument.goniometer)
    np.testing.assert_allclose(np.linalg.solve(lab.ub, q.T).T, HKLS, atol=1e-9)
    np.testing.assert_allclose(lab.covariance, orientation.covariance, atol=1e-18)
    np.testing.assert_allclose(back.cell, cell_of(canonical(orientation.ub)[1]), rtol=1e-12)
    np.testing.assert_allclose(back.detector.rotation, instrument.detector.rotation, atol=1e-12)


@pytest.mark.parametrize("turn_deg", [0.0, 0.7])
def test_fit_files_come_back_with_detector_and_azimuth(tmp_path, turn_deg):
    instrument = load_instrument("bm32")
    detector = instrument.detector.moved(1.5, 10.0, -20.0, 0.01, -0.02)
    turned = dataclasses.replace(
        detector, rotation=axis_rotation(BEAM, np.deg2rad(turn_deg)) @ detector.rotation
    )
    instrument = instrument.with_detector(turned)
    crystal, orientation, axes = drawn(3, "ge", instrument, 1e-4)
    path = tmp_path / "a.fit"
    write_orientation(path, orientation, crystal, instrument, format="fit", axes=axes)
    back = read_orientation(path)
    assert (back.of, back.two_pi, back.axes) == ("laboratory", False, axes)
    np.testing.assert_allclose(np.linalg.solve(back.ub, orientation.ub), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(back.detector.rotation, turned.rotation, atol=1e-12)
    # by LaueTools' own numbers alone: each spot lies where UB and detector of the file put it
    fit = read_fit(path)
    theirs = fit.geometry.to_detector()
    q = fit.hkl @ fit.ub.T
    k_out = BEAM - 2 * (q @ BEAM)[:, None] * q / np.sum(q * q, axis=1)[:, None]
    np.testing.assert_allclose(theirs.rays_to_pixels(k_out), fit.predicted_px, atol=1e-5)


# ------------------------------------------------------------------------------------------------ the programs


def test_circles_are_found_where_they_are():
    lab = load_instrument("lab").goniometer
    assert you_frame(lab).circles == {"omega": ("eta", 1), "chi": ("chi", 1), "phi": ("phi", 1)}
    np.testing.assert_allclose(you_frame(lab).matrix @ [0, -1, 0], [0, 0, 1], atol=1e-12)
    assert you_frame(SIX).circles == {name: (name, 1) for name, _ in YOU_CIRCLES}
    np.testing.assert_array_equal(you_frame(SIX).matrix, TO_YOU)
    assert libhkl_geometry(lab)[0] == "E4CH"
    assert libhkl_geometry(SIX)[0] == "E6C"
    assert libhkl_geometry(Goniometer(SIX.axes[1:]))[0] == "E4CV"
    tilted = Goniometer((Axis("phi", "rotation", (0.5, 0.5, 0.7), (-10.0, 10.0), 1.0),))
    assert you_frame(tilted).circles == {}
    assert "other axes" in you_frame(tilted).words
    assert libhkl_geometry(tilted)[1].circles == {}


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    st.sampled_from(
        [load_instrument(n) for n in ("lab", "bm32", "koala", "lab-toronto", "aps34")] + [SIX_CIRCLE]
    ),
)
def test_circles_turn_as_the_axes_do(seed, instrument):
    """The program's own rotation at its angles is that of the goniometer at the motors' in the program's frame."""
    goniometer, rng = instrument.goniometer, np.random.default_rng(seed)
    match = you_frame(goniometer)
    assert match.circles or instrument.name == "aps34"
    if not match.circles:
        return
    at = {axis.name: rng.uniform(-90, 90) for axis in goniometer.rotations}
    theirs = np.eye(3)
    for name, direction in YOU_CIRCLES:
        angle = sum(sign * at[axis] for axis, (circle, sign) in match.circles.items() if circle == name)
        theirs = theirs @ axis_rotation(direction, np.deg2rad(angle))
    np.testing.assert_allclose(theirs, match.matrix @ goniometer.matrix(at) @ match.matrix.T, atol=1e-12)


@pytest.mark.parametrize("instrument", [load_instrument("lab"), SIX_CIRCLE], ids=["lab", "six"])
@pytest.mark.parametrize("name", ["si", "quartz", "ca2ruo4", "feps3", "kyanite"])
def test_diffcalc_computes_the_same_angles(tmp_path, instrument, name):
    """Its angles for a reflection, put into our goniometer and arm, bring that reflection there."""
    calc = pytest.importorskip("diffcalc.ub.calc", reason="diffcalc-core is not installed")
    hkl_calc = pytest.importorskip("diffcalc.hkl.calc")
    constraints = pytest.importorskip("diffcalc.hkl.constraints")
    crystal, orientation, _ = drawn(5, name, instrument)
    path = tmp_path / "session.json"
    write_orientation(path, orientation, crystal, instrument, format="diffcalc")
    session = calc.UBCalculation.fromdict(json.loads(path.read_text()))
    match = you_frame(instrument.goniometer)
    np.testing.assert_allclose(session.UB, match.matrix @ orientation.ub, atol=1e-12)
    np.testing.assert_allclose(session.U @ session.crystal.B, session.UB, atol=1e-9)
    assert session.crystal.system.lower() == {"trigonal": "hexagonal"}.get(crystal.system, crystal.system)
    hklcalc = hkl_calc.HklCalculation(session, constraints.Constraints({"mu": 0, "nu": 0, "bisect": True}))
    wavelength, found = 0.7, 0
    for hkl in ((1, 0, 2), (0, 2, 1), (2, 2, -1)):
        for position, _ in hklcalc.get_position(*hkl, wavelength):
            at = {axis: sign * getattr(position, circle) for axis, (circle, sign) in match.circles.items()}
            q = instrument.goniometer.matrix(at) @ orientation.ub @ hkl
            out = match.matrix.T @ axis_rotation((0, 0, -1), np.deg2rad(position.delta)) @ [0, 1, 0]
            np.testing.assert_allclose(q, 2 * np.pi / wavelength * (out - BEAM), atol=1e-12)
            found += 1
    assert found >= 3
    # and what diffcalc saves is read
    path.write_text(json.dumps(hklcalc.asdict))
    foreign = read_orientation(path)
    upright = canonical(TO_YOU.T @ session.UB)[0]
    np.testing.assert_allclose(foreign.u, upright, atol=1e-9)
    assert "does not tell" in foreign.frame


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(CRYSTALS))
def test_libhkls_ub_is_c_times_yous(seed, name):
    crystal, orientation, _ = drawn(seed, name, SIX_CIRCLE)
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder, kind) for kind in ("hklpy2", "diffcalc", "spec")}
        for kind, path in files.items():
            write_orientation(path, orientation, crystal, SIX_CIRCLE, format=kind)
        you = np.array(json.loads(files["diffcalc"].read_text())["ub_matrix"])
        config = yaml.safe_load(files["hklpy2"].read_text())
        spec = next(s for s in files["spec"].read_text().splitlines() if s.startswith("#G3 "))
    hkl = np.array(config["samples"][crystal.name]["UB"])
    np.testing.assert_allclose(hkl, np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]) @ you, atol=1e-8)
    np.testing.assert_allclose(np.array(spec.split()[1:], float).reshape(3, 3), you, atol=1e-12)


def test_hklpy2_restores_the_file(tmp_path):
    hklpy2 = pytest.importorskip("hklpy2", reason="hklpy2 is not installed")
    pytest.importorskip("hklpy2.backends.hkl_soleil", reason="libhkl is not installed", exc_type=Exception)
    instrument = load_instrument("lab")
    crystal, orientation, _ = drawn(11, "ca2ruo4", instrument)
    path = tmp_path / "e4ch.yml"
    write_orientation(path, orientation, crystal, instrument, format="hklpy2")
    simulated = hklpy2.simulator_from_config(str(path))
    at = {"omega": 12.0, "chi": -34.0, "phi": 56.0}
    out = axis_rotation((0, 1, 0), np.deg2rad(30.0)) @ BEAM
    ours = np.linalg.solve(instrument.goniometer.matrix(at) @ orientation.ub, 2 * np.pi * (out - BEAM))
    np.testing.assert_allclose(list(simulated.inverse({**at, "tth": 30.0})), ours, atol=2e-6)


def lauetools_module(name, monkeypatch):
    # A name of old numpy that LaueTools 3.2 still imports from.
    monkeypatch.setattr(np.linalg, "linalg", np.linalg, raising=False)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(f"LaueTools.{name}")
        except Exception as error:
            return pytest.skip(f"LaueTools does not import here: {error}")


def test_lauetools_reads_our_fit(tmp_path, monkeypatch):
    lauetools = lauetools_module("IOLaueTools", monkeypatch)
    instrument = load_instrument("bm32")
    crystal, orientation, axes = drawn(4, "ge", instrument)
    path = tmp_path / "a.fit"
    write_orientation(path, orientation, crystal, instrument, format="fit", axes=axes)
    found = lauetools.readfitfile_multigrains(str(path), readmore=True)
    u = np.asarray(found[3]).reshape(3, 3)
    np.testing.assert_allclose(u, TO_BEAM_X @ orientation.u, atol=1e-6)  # it keeps single precision
    comments = lauetools.readfitfile_comments(str(path))
    pose = np.array(comments["detectorparameters"].strip("[]").split(","), dtype=float)
    np.testing.assert_allclose(pose[:3], [77.0, 1020.0, 1080.0], atol=1e-9)


def test_lauetools_puts_the_spots_where_the_file_says(tmp_path, monkeypatch):
    """LaueTools' own geometry turns pixels of the file into angles; its UB turns hkl into the same angles."""
    geometry = lauetools_module("LaueGeometry", monkeypatch)
    instrument = load_instrument("bm32")
    crystal, orientation, axes = drawn(4, "ge", instrument)
    path = tmp_path / "a.fit"
    write_orientation(path, orientation, crystal, instrument, format="fit", axes=axes)
    fit = read_fit(path)
    g = fit.geometry
    pose = [g.distance_mm, g.xcen_px, g.ycen_px, g.xbet_deg, g.xgam_deg]
    two_theta, chi = geometry.calc_uflab(*fit.pixels.T, pose, returnAngles=1, pixelsize=g.pixel_mm)
    q = fit.hkl @ (fit.ub_lauetools @ fit.b0_lauetools).T
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    out = np.array([1.0, 0, 0]) - 2 * q[:, :1] * q
    np.testing.assert_allclose(np.rad2deg(np.arccos(out[:, 0])), two_theta, atol=2e-5)
    np.testing.assert_allclose(np.rad2deg(np.arctan2(out[:, 1], out[:, 2])), chi, atol=2e-5)


@pytest.mark.parametrize("name", ["Ge0001.fit", "Ge_blanc_0000_LT_5.fit", "3C-SiC_img_10066.fit"])
def test_real_fit_files_are_read(shared_data, name):
    path = shared_data / "laue" / name
    found, fit = read_orientation(path), read_fit(path)
    np.testing.assert_allclose(found.ub, fit.ub, atol=1e-12)
    assert (found.of, found.axes, found.covariance) == ("laboratory", None, None)
    assert rotation_angle(found.u @ fit.u_lab.T) < 1e-12


SPEC_FILE = """#F old
#D Mon Feb 23 07:16:59 2009

#S 16  hklscan  -0.000113467 -0.000113467  0.000280176 0.000280176  6.06 6.56  9 300
#G0 0 0 1 0.003991574459 0.0007565094145 1 0 0 0 0 0 0 50 0 0 1 4 4 5 4 0 0
#G1 8.094 4.988 6.071 90 90 90 0.7762769097 1.259660246 1.034950635 90 90 90 0 0 4 2 0 2.481 -0.0009 0.0008 -0.1244
#G3 -0.2392618672 1.198330644 -0.002648198747 -0.7384726 -0.3882605276 -0.0050577973 -0.0042211909 0.0011688413 1.034934888
#G4 -0.0001134668114 0.0002801762336 5.940014158 0.835801
#N 1
#L H
-0.000113467

#S 17  ascan  eta 0 1 10 1
#G1 8.094 4.988 6.071 90 90 90
#G3 0 0 0 0 0 0 0 0 0
"""


def test_a_spec_file_of_an_instrument_is_read(tmp_path):
    """A psic header of 2009: its lattice is that of its UB, and its first reflection lies where its angles put it."""
    path = tmp_path / "old"
    path.write_text(SPEC_FILE)
    found = read_orientation(path)
    assert (found.format, found.two_pi, found.of) == ("spec", True, "holder")
    np.testing.assert_allclose(found.cell, [8.094, 4.988, 6.071, 90, 90, 90], rtol=2e-7)
    at = {"mu": 16.27375, "eta": 0.0008, "chi": -0.1244, "phi": 175.2192}
    q = SIX.matrix(at) @ found.ub @ [0, 0, 4]
    nu, delta = np.deg2rad([31.965, -0.0009])
    out = axis_rotation((0, 1, 0), nu) @ axis_rotation((-1, 0, 0), delta) @ BEAM
    wanted = (out - BEAM) / np.linalg.norm(out - BEAM)
    assert np.linalg.norm(q / np.linalg.norm(q) - wanted) < 1e-6
    # the reciprocal lattice that we write has the 2 pi of theirs
    again = tmp_path / "again"
    write_orientation(again, found.orientation, load_crystal("ca2ruo4"), SIX_CIRCLE, format="spec")
    line = next(s for s in again.read_text().splitlines() if s.startswith("#G1 "))
    values = np.array(line.split()[1:], float)
    np.testing.assert_allclose(values[6:9], [0.7762769097, 1.259660246, 1.034950635], rtol=2e-7)
    assert len(values) == 32  # as psic's: lattices, two reflections with six angles each, two wavelengths
    assert not values[12:].any()


def test_nexus_file_has_the_fields_of_nxsample(tmp_path):
    instrument = load_instrument("bm32")
    crystal, orientation, axes = drawn(2, "quartz", instrument)
    path = tmp_path / "a.nxs"
    write_orientation(path, orientation, crystal, instrument, format="nexus", axes=axes)
    with h5py.File(path) as file:
        sample = file["entry/sample"]
        assert sample.attrs["NX_class"] == "NXsample"
        u, ub = sample["orientation_matrix"][0], sample["ub_matrix"][0]
        cell = sample["unit_cell"][0]
        assert not sample["ub_matrix"].attrs["two_pi"]
        # the chain of transformations, followed as NeXus says, is the goniometer's Z
        z, at = np.eye(3), sample["depends_on"].asstr()[()]
        while at != ".":
            node = file[at]
            if node.attrs["transformation_type"] == "rotation":
                z = axis_rotation(node.attrs["vector"], np.deg2rad(node[()])) @ z
            at = node.attrs["depends_on"]
    np.testing.assert_allclose(u @ busing_levy_b(cell) / (2 * np.pi), ub, atol=1e-12)
    np.testing.assert_allclose(2 * np.pi * z @ ub, orientation.ub, atol=1e-12)


@pytest.mark.parametrize("stored", ["ub", "u", "u as ub", "two pi"])
def test_nexus_files_of_others_are_read(tmp_path, stored):
    crystal, orientation, _ = drawn(2, "ca2ruo4", load_instrument("lab"))
    ub = orientation.ub / (2 * np.pi)
    names = {"ub": {"ub_matrix": ub}, "u": {"orientation_matrix": orientation.u[None]}}
    names |= {"u as ub": {"orientation_matrix": ub}, "two pi": {"ub_matrix": 2 * np.pi * ub[None]}}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("raw/crystal")
        group.attrs["NX_class"] = np.bytes_("NXsample")
        group["unit_cell_abc"], group["unit_cell_alphabetagamma"] = crystal.cell[:3], crystal.cell[3:]
        for name, value in names[stored].items():
            group[name] = value
    found = read_orientation(tmp_path / "a.h5")
    np.testing.assert_allclose(found.ub, orientation.ub, atol=1e-9)
    assert found.two_pi == (stored in {"u", "two pi"})
