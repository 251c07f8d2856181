"""Orientations for diffractometer programs: diffcalc-core (JSON), hklpy2 (YAML), SPEC (header lines).

All three want the crystal on the sample holder, all circles at zero, and UB with 2 pi.

diffcalc-core
    The dictionary of ``UBCalculation.asdict``: ``UBCalculation.fromdict(json.load(file))`` takes it. You's frame.
hklpy2
    The configuration that ``diffractometer.export`` writes and ``restore`` reads (schema 2). libhkl's frame.
SPEC
    Header lines of a data file: ``#G1`` lattice and reciprocal lattice, ``#G3`` UB row by row. You's frame.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lauepilot.perception.exchange.frames import (
    LIBHKL_CIRCLES,
    TO_BEAM_X,
    TO_YOU,
    Match,
    libhkl_geometry,
)
from lauepilot.perception.exchange.stored import (
    ExchangeError,
    StoredOrientation,
    assembled,
    cell_of,
    from_note,
    note,
    note_text,
    with_two_pi,
)
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.goniometer import Goniometer

_NOTE = "#C lauepilot "
#: Where `#G1` of psic has two orienting reflections: indices, six angles each, wavelengths. Readers want the places filled.
_NO_REFLECTIONS = (0.0,) * 20
_YOU_WORDS = "You (1999): x up, y along the beam, z left (taken as usual; the file does not tell)"
_HKL_WORDS = "libhkl: x along the beam, y left, z up"
_REALS = {
    "E4CV": ("omega", "chi", "phi", "tth"),
    "E4CH": ("omega", "chi", "phi", "tth"),
    "E6C": ("mu", "omega", "chi", "phi", "gamma", "delta"),
}


def _rounded(cell: FloatArray) -> list[float]:
    """Six numbers without the noise of the last digits: 90 degrees are 90; UB beside them holds all digits."""
    return [float(x) for x in np.round(cell, 10)]


# ----------------------------------------------------------------------------------------------------- diffcalc


def write_diffcalc(path: Path, stored: StoredOrientation, match: Match, system: str) -> None:
    """A session of diffcalc-core, of a crystal system in its words; ``stored`` is of the holder."""
    u, ub = match.matrix @ stored.u, match.matrix @ stored.ub
    a, b, c, alpha, beta, gamma = _rounded(stored.cell)
    crystal = {"name": stored.crystal, "system": system, "a": a, "b": b, "c": c}
    session = {
        "name": stored.crystal or "crystal",
        "crystal": {**crystal, "alpha": alpha, "beta": beta, "gamma": gamma},
        "reflist": [],
        "orientlist": [],
        "reference": {"n_ref": [1, 0, 0], "rlv": False},
        "surface": {"n_ref": [0, 0, 1], "rlv": False},
        "u_matrix": u.tolist(),
        "ub_matrix": ub.tolist(),
        "lauepilot": note(stored, match.matrix, match.words),
    }
    path.write_text(json.dumps(session, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def diffcalc_system(system: str, cell: FloatArray) -> str:
    """The name of a crystal system in diffcalc-core; Triclinic where the cell does not obey its conditions to 1e-9."""
    a, b, c, alpha, beta, gamma = cell
    right, square = [alpha - 90.0, beta - 90.0, gamma - 90.0], [(a - b) / a]
    conditions = {
        "cubic": ("Cubic", [*right, *square, (a - c) / a]),
        "tetragonal": ("Tetragonal", [*right, *square]),
        "orthorhombic": ("Orthorhombic", right),
        "hexagonal": ("Hexagonal", [*right[:2], gamma - 120.0, *square]),
        "trigonal": ("Hexagonal", [*right[:2], gamma - 120.0, *square]),
        "monoclinic": ("Monoclinic", [right[0], right[2]]),
    }
    name, zeros = conditions.get(system, ("Triclinic", [0.0]))
    return name if np.abs(zeros).max() < 1e-9 else "Triclinic"


def read_diffcalc(path: Path, data: Mapping[str, Any]) -> StoredOrientation:
    """A session of diffcalc-core: ``UBCalculation.asdict``, or ``HklCalculation.asdict`` that holds one."""
    session = data.get("ubcalc", data)
    crystal = session.get("crystal")
    if not crystal:
        raise ExchangeError(
            f"{path}: this diffcalc session has no lattice; set_lattice(...) and save it again."
        )
    cell = [float(crystal[key]) for key in ("a", "b", "c", "alpha", "beta", "gamma")]
    if session.get("ub_matrix") is None:
        raise ExchangeError(
            f"{path}: this diffcalc session has no UB; calc_ub() or set_u(...) and save it again."
        )
    ub, two_pi = with_two_pi(session["ub_matrix"], cell, str(path))
    told = from_note(session.get("lauepilot"), TO_YOU, "holder", _YOU_WORDS, str(path), str(crystal["name"]))
    return assembled(ub, told, "diffcalc", two_pi)


# ------------------------------------------------------------------------------------------------------- hklpy2


def write_hklpy2(path: Path, stored: StoredOrientation, goniometer: Goniometer, radiation: str) -> None:
    """A configuration of hklpy2 with libhkl's geometry that fits the goniometer; ``stored`` is of the holder."""
    geometry, match = libhkl_geometry(goniometer)
    reals, pseudos = list(_REALS[geometry]), ["h", "k", "l"]
    limits = dict.fromkeys(reals, (-180.0, 180.0))
    for axis in goniometer.rotations:
        circle, sign = match.circles.get(axis.name, ("", 1))
        if circle:
            low, high = sorted(sign * limit for limit in axis.limits)
            limits[circle] = (max(low, -360.0), min(high, 360.0))
    name = stored.crystal or "crystal"
    lattice = dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), _rounded(stored.cell), strict=True))
    sample = {
        "name": name,
        "lattice": {**lattice, "digits": 6, "angle_units": "degrees", "length_units": "angstrom"},
        "reflections": {},
        "reflections_order": [],
        "U": (match.matrix @ stored.u).tolist(),
        "UB": (match.matrix @ stored.ub).tolist(),
        "digits": 6,
    }
    config = {
        "_header": {
            "datetime": str(datetime.now(UTC)),
            "hklpy2_version": "1.0.0",
            "python_class": "Hklpy2Diffractometer",
            "config_schema_version": 2,
            "comment": f"written by lauepilot; frame: {stored.frame}; UB with 2 pi; {match.words}",
        },
        "name": geometry.lower(),
        "axes": {
            "pseudo_axes": pseudos,
            "real_axes": reals,
            "axes_xref": {axis: axis for axis in pseudos + reals},
            "extra_axes": {},
            "auxiliary_axes": [],
        },
        "digits": 6,
        "sample_name": name,
        "samples": {name: sample},
        "constraints": {
            axis: {
                "label": axis, "low_limit": low, "high_limit": high, "cut_point": -180.0, "class": "LimitsConstraint",
            }
            for axis, (low, high) in limits.items()
        },
        "solver": {
            "name": "hkl_soleil",
            "geometry": geometry,
            "real_axes": list(reals),
            "engine": "hkl",
            "mode": "bissector_vertical" if geometry == "E6C" else "bissector",
        },
        # A Laue instrument has no wavelength to tell: that of the diffractometer stays.
        "beam": {
            "class": "Wavelength" if radiation == "neutron" else "WavelengthXray",
            "source_type": "Neutron Source" if radiation == "neutron" else "X-ray Source",
            "wavelength_units": "angstrom",
        },
        "presets": {},
        "lauepilot": note(stored, match.matrix, match.words),
    }  # fmt: skip
    text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=120)
    path.write_text("#hklpy2 configuration file\n\n" + text, encoding="utf-8")


def read_hklpy2(path: Path, data: Mapping[str, Any]) -> StoredOrientation:
    """A configuration of hklpy2: the sample that is selected in it."""
    samples = data["samples"]
    name = data.get("sample_name") or next(iter(samples), None)
    if name not in samples:
        raise ExchangeError(f"{path}: sample {name!r} is not among {', '.join(map(str, samples)) or 'none'}.")
    geometry = data.get("solver", {}).get("geometry")
    if data.get("lauepilot") is None and data.get("solver", {}).get("name") != "hkl_soleil":
        raise ExchangeError(
            f"{path}: the solver is {data.get('solver', {}).get('name')!r}, whose frame is not known; only hkl_soleil's "
            f"(libhkl: {', '.join(LIBHKL_CIRCLES)}, ...) is read. Its geometry is {geometry!r}."
        )
    sample = samples[name]
    cell = [float(sample["lattice"][key]) for key in ("a", "b", "c", "alpha", "beta", "gamma")]
    if sample["lattice"].get("angle_units", "degrees") not in {"degrees", "degree", "deg"}:
        raise ExchangeError(
            f"{path}: lattice angles in {sample['lattice']['angle_units']!r}; degrees are wanted."
        )
    ub, two_pi = with_two_pi(sample["UB"], cell, str(path))
    told = from_note(data.get("lauepilot"), TO_BEAM_X, "holder", _HKL_WORDS, str(path), str(name))
    return assembled(ub, told, "hklpy2", two_pi)


# --------------------------------------------------------------------------------------------------------- SPEC


def write_spec(path: Path, stored: StoredOrientation, match: Match) -> None:
    """Header lines of a SPEC data file with one scan without points; ``stored`` is of the holder."""
    # The reciprocal vectors are columns of B; what has B for its direct vectors has 2 pi B^-T for its B.
    reciprocal = cell_of(2.0 * np.pi * np.linalg.inv(stored.b).T)
    now = datetime.now(UTC)
    lines = [
        f"#F orientation {stored.crystal}".rstrip(),
        f"#E {int(now.timestamp())}",
        f"#D {now:%a %b %d %H:%M:%S %Y}",
        "#C orientation written by lauepilot, not by a scan: #G0 and #G4 are empty, reflections in #G1 are 0",
        f"#C frame: {stored.frame}",
        "#C #G3: UB row by row with 2 pi, 1/angstrom, circles at zero; #G1: lattice (angstrom, degrees), reciprocal lattice",
        f"#C {match.words}",
        _NOTE + note_text(note(stored, match.matrix, match.words)),
        "",
        f"#S 1  orientation {stored.crystal}".rstrip(),
        f"#D {now:%a %b %d %H:%M:%S %Y}",
        "#G0 0",
        "#G1 " + _row([*_rounded(stored.cell), *_rounded(reciprocal), *_NO_REFLECTIONS]),
        "#G3 " + _row((match.matrix @ stored.ub).ravel()),
        "#G4 0",
        "#N 1",
        "#L point",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(values: Any) -> str:
    return " ".join(repr(float(x) + 0.0) for x in values)


def read_spec(path: Path, lines: list[str]) -> StoredOrientation:
    """The last scan of a SPEC data file that has a lattice (``#G1``) and a UB (``#G3``)."""
    lattice = matrix = None
    pairs = []
    for line in lines:
        if line.startswith("#S "):
            lattice = matrix = None
        key, _, rest = line.partition(" ")
        if key in {"#G1", "#G3"}:
            try:
                values = [float(x) for x in rest.split()]
            except ValueError as error:
                raise ExchangeError(f"{path}: {key}: {error}.") from None
            lattice, matrix = (values[:6], matrix) if key == "#G1" else (lattice, values)
        if lattice is not None and matrix is not None:
            pairs.append((lattice, matrix))
            lattice = matrix = None
    good = [(cell, ub) for cell, ub in pairs if len(cell) == 6 and len(ub) == 9 and any(ub)]
    if not good:
        raise ExchangeError(
            f"{path}: none of its scans has both a lattice (#G1, six numbers or more) and a UB (#G3, nine numbers, not all "
            "zero). Was it taken with a diffractometer geometry?"
        )
    cell, ub = good[-1]
    full, two_pi = with_two_pi(np.reshape(ub, (3, 3)), cell, str(path))
    text = next((line[len(_NOTE) :] for line in lines if line.startswith(_NOTE)), None)
    try:
        value = None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise ExchangeError(f"{path}: lauepilot's own note in it is damaged ({error}).") from None
    return assembled(full, from_note(value, TO_YOU, "holder", _YOU_WORDS, str(path)), "spec", two_pi)
