"""Orientation files: our own, and those that cannot be read or written."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from lauepilot.perception.exchange.files import FORMATS, read_orientation, write_orientation
from lauepilot.perception.exchange.stored import ExchangeError, cell_of
from lauepilot.perception.files.lauetools import LaueToolsError
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation


def drawn(seed, name, instrument, strain=0.0):
    """A crystal with a random orientation and axes within 45 degrees of zero."""
    rng = np.random.default_rng(seed)
    crystal, root = load_crystal(name), 1e-4 * rng.normal(size=(3, 3))
    bent = (np.eye(3) + strain * rng.normal(size=(3, 3))) @ crystal.b
    axes = {a.name: float(rng.uniform(*np.clip(a.limits, -45, 45))) for a in instrument.goniometer.axes}
    return crystal, Orientation(random_rotation(rng), bent, root @ root.T), axes


def own(orientation, crystal, **more):
    covariance = np.rad2deg(np.rad2deg(orientation.covariance))
    record = {"crystal": crystal.name, "cell": cell_of(orientation.b).tolist(), "U": orientation.u.tolist()}
    return record | {"UB": orientation.ub.tolist(), "covariance_deg2": covariance.tolist()} | more


def test_own_files_are_read(tmp_path):
    instrument = load_instrument("lab")
    crystal, orientation, axes = drawn(8, "si", instrument, 1e-4)
    path = tmp_path / "ub.json"
    path.write_text(json.dumps(own(orientation, crystal, axes=axes)))
    found = read_orientation(path)
    assert (found.of, found.format) == ("laboratory", "lauepilot")
    holder = found.on_holder(instrument.goniometer)
    np.testing.assert_allclose(instrument.goniometer.matrix(axes) @ holder.ub, orientation.ub, atol=1e-12)
    np.testing.assert_allclose(found.covariance, orientation.covariance, rtol=1e-9, atol=1e-20)
    assert read_orientation(path).detector is None


@pytest.mark.parametrize("unknown", [0.0, np.nan])
@pytest.mark.parametrize("kind", FORMATS)
def test_an_unknown_covariance_stays_unknown(tmp_path, kind, unknown):
    instrument = load_instrument("bm32")
    crystal, orientation, axes = drawn(2, "ge", instrument)
    bare = Orientation(orientation.u, orientation.b, np.full((3, 3), unknown))
    write_orientation(tmp_path / "a", bare, crystal, instrument, format=kind, axes=axes)
    assert read_orientation(tmp_path / "a").covariance is None


def broken(record, **changes):
    return json.dumps({**record, **changes})


def test_bad_files_say_what_is_wrong(tmp_path):
    crystal, orientation, _ = drawn(8, "ca2ruo4", load_instrument("lab"))
    good = own(orientation, crystal)
    other = own(drawn(9, "ca2ruo4", load_instrument("lab"))[1], crystal)
    diffcalc = {"name": "x", "crystal": None, "u_matrix": None, "ub_matrix": None}
    cases = {
        "{": "neither JSON",
        "[1, 2]": "holds no orientation",
        '{"a": 1}': "holds keys a",
        broken(good, U=None, UB=None): "no orientation was found",
        broken(good, U=other["U"]): "do not belong together",
        broken(good, UB=np.transpose(good["UB"]).tolist()): "transposed, stale",
        broken(good, UB=(-np.array(good["UB"])).tolist()): "determinant",
        broken(good, UB=[[1, 2], [3, 4]]): "3 x 3 finite",
        broken(good, UB=[[float("nan")] * 3] * 3): "3 x 3 finite",
        broken(good, cell=[1, 2, 3]): "six positive numbers",
        broken(good, cell=None): "missing or damaged|six positive",
        json.dumps(diffcalc): "has no lattice",
        json.dumps(
            {
                **diffcalc,
                "crystal": dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), crystal.cell, strict=True)),
            }
        ): "has no UB",
        "#S 1 ascan\n#G0 0\n": "none of its scans",
        "#G1 1 2 x\n": "could not convert",
        "axes: {}\nsamples: {}\n": "sample None is not among",
        "axes: {}\nsamples: {a: {}}\nsolver: {name: th_tth}\n": "frame is not known",
        "axes: {}\nsamples: {a: {}}\nsolver: {name: hkl_soleil}\n": "missing or damaged",
    }
    for text, match in cases.items():
        (tmp_path / "bad").write_text(text)
        with pytest.raises(ExchangeError, match=match):
            read_orientation(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(b"\x00\xff\xfe")
    with pytest.raises(ExchangeError, match="neither HDF5 nor text"):
        read_orientation(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 100)
    with pytest.raises(ExchangeError, match="cannot be read as HDF5"):
        read_orientation(tmp_path / "bad")
    with h5py.File(tmp_path / "bad", "w") as file:
        file["a"] = 1
    with pytest.raises(ExchangeError, match="no NXsample"):
        read_orientation(tmp_path / "bad")
    with pytest.raises(FileNotFoundError, match="json"):
        read_orientation(tmp_path / "none")


@pytest.mark.parametrize("kind", ["diffcalc", "hklpy2", "nexus", "spec"])
def test_a_damaged_note_is_told(tmp_path, kind):
    instrument = load_instrument("lab")
    crystal, orientation, axes = drawn(8, "si", instrument)
    path = tmp_path / "a"
    write_orientation(path, orientation, crystal, instrument, format=kind, axes=axes)
    if kind == "nexus":
        with h5py.File(path, "a") as file:
            del file["entry/sample/lauepilot"]
            file["entry/sample/lauepilot"] = '{"to_frame": 3}'
    else:
        path.write_text(path.read_text().replace("to_frame", "from_frame"))
    with pytest.raises(ExchangeError, match="note in it is damaged"):
        read_orientation(path)


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    instrument = load_instrument("lab")
    crystal, orientation, axes = drawn(8, "si", instrument)
    with pytest.raises(LaueToolsError, match="look down on the sample"):
        write_orientation(tmp_path / "a.fit", orientation, crystal, instrument, format="fit", axes=axes)
    with pytest.raises(ExchangeError, match="There is no format 'xml'"):
        write_orientation(tmp_path / "a", orientation, crystal, instrument, format="xml")
    with pytest.raises(KeyError, match="eta"):
        write_orientation(tmp_path / "a", orientation, crystal, instrument, format="spec", axes={"eta": 1.0})
    assert not list(tmp_path.iterdir())
