"""Orientations to and from files: one call to write any format, one to read it, whichever it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from lauepilot.perception.exchange.diffractometers import (
    diffcalc_system,
    read_diffcalc,
    read_hklpy2,
    read_spec,
    write_diffcalc,
    write_hklpy2,
    write_spec,
)
from lauepilot.perception.exchange.fit import read_lauetools, write_lauetools
from lauepilot.perception.exchange.frames import TO_BEAM_X, in_words, you_frame
from lauepilot.perception.exchange.nexus_sample import read_nexus, write_nexus
from lauepilot.perception.exchange.stored import (
    ExchangeError,
    Of,
    StoredOrientation,
    canonical,
    detector_from,
    with_two_pi,
)
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.orientation import Orientation

Format = Literal["diffcalc", "hklpy2", "nexus", "spec", "fit"]
FORMATS: tuple[Format, ...] = get_args(Format)

_OURS = "laboratory: x left, y up, z along the beam"


def write_orientation(
    path: str | Path,
    orientation: Orientation,
    crystal: Crystal,
    instrument: Instrument,
    *,
    format: Format,
    axes: Mapping[str, float] | None = None,
) -> StoredOrientation:
    """Write an orientation for another program.

    Parameters
    ----------
    path
        The file; one that exists is replaced.
    orientation
        Of the laboratory at ``axes``; of the sample holder if they are None. A covariance of zeros or NaN is not known, and
        is not written.
    crystal
        Names, crystal system, and for ``fit`` the spots to predict.
    instrument
        Whose goniometer holds the crystal, and whose (first) detector is stored.
    format
        ``diffcalc``, ``hklpy2``, ``nexus`` and ``spec`` hold the crystal on the holder, all axes at zero; ``fit`` as it
        stands at ``axes``.
    axes
        Positions (degrees, mm) at which the crystal stood.

    Returns
    -------
    What was written: U, B and covariance in our frame, the file's frame in words, and whether its UB holds 2 pi.

    Raises
    ------
    ExchangeError
        If the format is not known, or ``UB`` is that of no crystal.
    LaueToolsError
        If LaueTools cannot hold the detector.
    KeyError
        If an axis is not on the goniometer.
    """
    if format not in FORMATS:
        raise ExchangeError(f"There is no format {format!r}; there are {', '.join(FORMATS)}.")
    path, goniometer = Path(path), instrument.goniometer
    for name in axes or {}:
        goniometer.axis(name)
    of: Of = "laboratory" if format == "fit" else "holder"
    turn = np.eye(3) if axes is None or of == "laboratory" else goniometer.matrix(axes).T
    turned = orientation.turned(turn)
    u, b = canonical(turned.ub)
    known = bool(np.all(np.isfinite(turned.covariance))) and bool(np.any(turned.covariance))
    covariance = turned.covariance if known else None
    match = you_frame(goniometer)
    words = {
        "diffcalc": f"You (1999): {in_words(match.matrix)}",
        "spec": f"You (1999): {in_words(match.matrix)}",
        "hklpy2": f"libhkl: {in_words(TO_BEAM_X)}",
        "nexus": f"NeXus (McStas): {in_words(np.eye(3))}",
        "fit": f"LaueTools: {in_words(TO_BEAM_X)}",
    }[format]
    stored = StoredOrientation(
        u, b, of, None if axes is None else dict(axes), covariance, instrument.detector, crystal.name,
        crystal.space_group, format, words, format not in {"nexus", "fit"}, instrument.name,
    )  # fmt: skip
    if format == "diffcalc":
        write_diffcalc(path, stored, match, diffcalc_system(crystal.system, stored.cell))
    elif format == "hklpy2":
        write_hklpy2(path, stored, goniometer, instrument.beam.radiation)
    elif format == "spec":
        write_spec(path, stored, match)
    elif format == "nexus":
        write_nexus(path, stored, goniometer)
    else:
        write_lauetools(path, stored, crystal, instrument)
    return stored


def read_orientation(path: str | Path) -> StoredOrientation:
    """The orientation in a file of diffcalc-core, hklpy2, NeXus, SPEC, LaueTools (.fit), or our own ``ub.json``.

    The content tells the format, not the name. Files of others are taken to be in their program's usual frame; with or
    without 2 pi follows from the lattice beside UB.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ExchangeError, LaueToolsError
        If it is none of these, is damaged, or holds a UB that is not that of its own lattice.
    """
    path = Path(path)
    if path.is_dir() and (path / "ub.json").is_file():
        raise ExchangeError(f"{str(path)!r} is a folder: give its {str(path / 'ub.json')!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"No file {str(path)!r}. Give a ub.json, or a file of {', '.join(FORMATS)}.")
    with path.open("rb") as file:
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            return read_nexus(path)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ExchangeError(f"{path} is neither HDF5 nor text: no orientation can be read from it.") from None
    lines = text.splitlines()
    if any("spot_index" in line for line in lines) and any(line.startswith("#UB matrix") for line in lines):
        return read_lauetools(path)
    if any(line.startswith(("#G1 ", "#G3 ", "#S ")) for line in lines):
        return read_spec(path, lines)
    data = _mapping(path, text)
    try:
        if "samples" in data and "axes" in data:
            return read_hklpy2(path, data)
        if "ubcalc" in data or "u_matrix" in data:
            return read_diffcalc(path, data)
        if "U" in data and "UB" in data:
            return _read_own(path, data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ExchangeError):
            raise
        raise ExchangeError(
            f"{path}: {type(error).__name__} {error}: something is missing or damaged."
        ) from None
    raise ExchangeError(
        f"{path} holds keys {', '.join(map(str, list(data)[:8]))}: neither a ub.json of ours (U, UB, cell) nor a file of "
        f"{', '.join(FORMATS)}."
    )


def _mapping(path: Path, text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise ExchangeError(f"{path} is neither JSON, YAML, SPEC nor .fit: {first}.") from None
    if not isinstance(data, Mapping):
        raise ExchangeError(
            f"{path} holds no orientation. Give a ub.json, or a file of {', '.join(FORMATS)}."
        )
    return data


def _read_own(path: Path, data: Mapping[str, Any]) -> StoredOrientation:
    """``ub.json`` (or ``index.json``) of lauepilot: the laboratory's, at ``axes`` if they are there."""
    if data["U"] is None or data["UB"] is None:
        raise ExchangeError(
            f"{path}: no orientation was found in that frame (U is null): there is nothing to convert."
        )
    if data.get("sure") is False:
        raise ExchangeError(
            f"{path}: its orientation is a guess (sure is false, confidence {data.get('confidence')}): it is not handed on. "
            "Index the frame anew, or take another one."
        )
    ub, two_pi = with_two_pi(data["UB"], data["cell"], str(path))
    u, b = canonical(ub)
    given = np.asarray(data["U"], dtype=float)
    if given.shape != (3, 3) or np.abs(given - u).max() > 0.01:
        raise ExchangeError(f"{path}: U and UB do not belong together (they differ by more than a strain).")
    covariance: FloatArray | None = None
    if data.get("covariance_deg2") is not None:
        covariance = np.deg2rad(np.deg2rad(np.asarray(data["covariance_deg2"], dtype=float).reshape(3, 3)))
    axes = data.get("axes")
    geometry = data.get("geometry")
    stored = StoredOrientation(
        u, b, "laboratory", None, covariance, None if geometry is None else detector_from(geometry),
        str(data.get("crystal", "")), str(data.get("space_group", "")), "lauepilot", str(data.get("frame", _OURS)), two_pi,
        str(data.get("instrument", "")),
    )  # fmt: skip
    return stored if not axes else replace(stored, axes={str(k): float(v) for k, v in axes.items()})
