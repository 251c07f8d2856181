"""``lauepilot convert`` and ``lauepilot ub``: orientations for other programs, and UB from measured reflections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from lauepilot.cli.output import Exit, UserError, print_json, whole_file, write_json
from lauepilot.cli.report import ub_record
from lauepilot.cli.tables import console, matrix_lines
from lauepilot.perception.exchange.files import FORMATS, read_orientation, write_orientation
from lauepilot.perception.exchange.frames import libhkl_geometry, you_frame
from lauepilot.perception.exchange.stored import StoredOrientation
from lauepilot.perception.reflections.measured import Reflection, read_reflections
from lauepilot.perception.reflections.ub import UbResult, ub_from_reflections
from lauepilot.simulator.crystal import Crystal, CrystalError, load_crystal
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.instrument import Instrument, InstrumentError, load_instrument

CELLS: tuple[Literal["fixed", "system", "free"], ...] = ("fixed", "system", "free")

#: Relative difference of cell lengths, or degrees of angles, above which a file is of another crystal than the one named.
OTHER_CELL, OTHER_ANGLE_DEG = 0.05, 3.0

#: Relative difference of measured and calculated |Q| that is told of.
ODD_LENGTH = 0.01


def parse_axes(text: str | None, goniometer: Goniometer) -> dict[str, float] | None:
    """Positions as people write them, ``omega=10, chi=-5``: degrees and mm by name; None stays None.

    Raises
    ------
    UserError
        Says what cannot be read, or which axes there are.
    """
    if text is None:
        return None
    axes: dict[str, float] = {}
    for part in (p.strip() for p in text.replace(";", ",").split(",")):
        if not part:
            continue
        name, equals, value = (x.strip() for x in part.partition("="))
        try:
            axes[name] = float(value)
        except ValueError:
            axes[name] = float("nan")
        if not equals or not np.isfinite(axes[name]) or name not in goniometer.names:
            raise UserError(
                f"--axes: cannot use {part!r}. Write e.g. {goniometer.names[0]}=10; axes: {', '.join(goniometer.names)}."
            )
    return axes


def load_stored(
    source: Path, crystal: str | None, instrument: str | None, axes: str | None
) -> tuple[StoredOrientation, Crystal, Instrument, list[str]]:
    """An orientation with the crystal and instrument it is of; what the file does not tell, the options do.

    Returns
    -------
    Orientation (its ``axes`` as given where the file tells none), crystal, instrument with the file's detector, and
    notes for people.

    Raises
    ------
    UserError
        If crystal or instrument are not told, or the crystal is another one.
    """
    stored = read_orientation(source)
    body = _named(stored.crystal, crystal, "--crystal", source)
    machine = _named_instrument(stored.instrument, instrument, source)
    _check_cell(stored, body, source)
    notes = []
    given = parse_axes(axes, machine.goniometer)
    for name in stored.axes or {}:
        if name not in machine.goniometer.names:
            raise UserError(
                f"{source} speaks of an axis {name!r}; {machine.name} has {', '.join(machine.goniometer.names)}. "
                "Name the instrument that took the frame with --instrument."
            )
    if stored.of == "laboratory" and stored.axes is None:
        if given is None:
            notes.append("the file does not tell where the axes stood: all are taken as 0 (--axes tells)")
        stored = replace(stored, axes=given or dict.fromkeys(machine.goniometer.names, 0.0))
    if stored.detector is not None:
        own = machine.detector
        pose = stored.detector
        if pose.shape == own.shape:  # the file's pose; holes, sensor and background as in the instrument
            pose = replace(pose, blind=own.blind, sensor=own.sensor, background=own.background)
        machine = machine.with_detector(pose)
    return stored, body, machine, notes


def _named(told: str, given: str | None, option: str, source: Path) -> Crystal:
    if given is not None:
        return load_crystal(given)
    try:
        return load_crystal(told)
    except CrystalError:
        raise UserError(
            f"{source} names the crystal {told!r}, which is no built-in one: say {option} (name or CIF)."
        ) from None


def _named_instrument(told: str, given: str | None, source: Path) -> Instrument:
    if given is not None:
        return load_instrument(given)
    try:
        return load_instrument(told)
    except InstrumentError:
        raise UserError(
            f"{source} does not tell a shipped instrument ({told!r}): say --instrument (name or YAML file)."
        ) from None


def _check_cell(stored: StoredOrientation, crystal: Crystal, source: Path) -> None:
    here, there = stored.cell, np.array(crystal.cell)
    if (np.abs(here[:3] / there[:3] - 1.0) > OTHER_CELL).any() or (
        np.abs(here[3:] - there[3:]) > OTHER_ANGLE_DEG
    ).any():
        raise UserError(
            f"{source} is of a cell {_cell_text(here)}; {crystal.name} has {_cell_text(there)}. Name its own --crystal."
        )


def _cell_text(cell: Any) -> str:
    return ", ".join(f"{x:.4f}" for x in cell[:3]) + " A, " + ", ".join(f"{x:.2f}" for x in cell[3:]) + " deg"


def run_convert(
    source: Path,
    *,
    to: str,
    out: Path,
    crystal: str | None,
    instrument: str | None,
    axes: str | None,
    as_json: bool,
) -> int:
    """Read an orientation, write it for another program, and say what was written.

    Raises
    ------
    UserError, ExchangeError, LaueToolsError, FileNotFoundError
        The message says what is wrong and what to do.
    """
    kind = next((f for f in FORMATS if f == to), None)
    if kind is None:
        raise UserError(f"--to is one of {', '.join(FORMATS)}; {to!r} came.")
    if out.exists():
        raise UserError(f"{out} exists. Name another file with --out; nothing is overwritten.")
    stored, body, machine, notes = load_stored(source, crystal, instrument, axes)
    orientation, at = stored.orientation, stored.axes
    if stored.of == "holder":  # a crystal whose posture is not told stands with all axes at zero
        orientation = stored.in_laboratory(machine.goniometer)
        at = at or dict.fromkeys(machine.goniometer.names, 0.0)
    with whole_file(out) as part:
        written = write_orientation(part, orientation, body, machine, format=kind, axes=at)
    circles = ""
    if kind in {"diffcalc", "spec"}:
        circles = you_frame(machine.goniometer).words
    elif kind == "hklpy2":
        geometry, match = libhkl_geometry(machine.goniometer)
        circles = f"{geometry}: {match.words}"
    record = {
        "source": source,
        "source_format": stored.format,
        "source_frame": stored.frame,
        "file": out,
        "format": kind,
        "frame": written.frame,
        "two_pi": written.two_pi,
        "of": written.of,
        "axes": written.axes,
        "circles": circles,
        "cell": written.cell,
        "U": written.u,
        "UB": written.ub,
        "U_about": f"U and UB here are of the {written.of}, in NeXus' frame (+z along the beam, +y up), UB with 2 pi; the "
        "file holds them in the frame named above",
        "notes": notes,
    }
    if as_json:
        print_json(record)
    else:
        _show_convert(console(), record)
    return Exit.DONE


def _show_convert(out: Console, record: Mapping[str, Any]) -> None:
    out.print(f"{record['source']} ({record['source_format']}) -> {record['format']}", soft_wrap=True)
    what = (
        "sample holder, all axes at zero" if record["of"] == "holder" else "laboratory, as the crystal stood"
    )
    out.print(f"frame: {record['frame']}; UB {'with' if record['two_pi'] else 'without'} 2 pi; of the {what}")
    if record["circles"]:
        out.print(f"circles: {record['circles']}")
    if record["axes"]:
        out.print("crystal stood at " + ", ".join(f"{k} {v:g}" for k, v in record["axes"].items()))
    for note in record["notes"]:
        out.print(note, style="yellow", soft_wrap=True)
    out.print(f"written: {record['file']}", soft_wrap=True)


def run_ub(
    source: Path,
    *,
    crystal: str,
    instrument: str,
    cell: str,
    energy_kev: float | None,
    tolerance_deg: float,
    out: Path | None,
    as_json: bool,
) -> int:
    """UB from a list of reflections: U, cell, residuals, and a ``ub.json`` if ``out`` is given.

    Raises
    ------
    UserError, ReflectionError, FileNotFoundError
        The message says what is wrong, with the numbers.
    """
    kind = next((c for c in CELLS if c == cell), None)
    if kind is None:
        raise UserError(f"--cell is one of {', '.join(CELLS)}; {cell!r} came.")
    if not (np.isfinite(tolerance_deg) and tolerance_deg > 0.0):
        raise UserError(f"--tolerance must be a positive number of degrees; {tolerance_deg} came.")
    if out is not None and out.exists():
        raise UserError(f"{out} exists. Name another file with --out; nothing is overwritten.")
    body, machine = load_crystal(crystal), load_instrument(instrument)
    reflections = read_reflections(source, machine, energy_kev=energy_kev)
    found = ub_from_reflections(reflections, body, machine.goniometer, cell=kind, tolerance_deg=tolerance_deg)
    record = _ub_record(source, body, machine, reflections, found, kind)
    if out is not None:
        with whole_file(out) as part:
            write_json(part, record)
    if as_json:
        print_json({**record, "file": out})
    else:
        _show_ub(console(), reflections, found, out)
    return Exit.DONE


def _ub_record(
    source: Path,
    crystal: Crystal,
    instrument: Instrument,
    reflections: list[Reflection],
    found: UbResult,
    cell: str,
) -> dict[str, Any]:
    table = [
        {"hkl": r.hkl, "axes": r.axes, "residual_deg": off, "length_ratio": ratio}
        for r, off, ratio in zip(reflections, found.residual_deg, found.length_ratio, strict=True)
    ]
    return ub_record(
        crystal,
        found.orientation,
        {
            "instrument": instrument.name,
            "source": source,
            "axes": dict.fromkeys(instrument.goniometer.names, 0.0),
            "axes_about": "U and UB are those of the sample holder: of the laboratory with all axes at zero",
            "cell_refined": cell,
            "cell_sigma": found.cell_sigma,
            "reduced_chi2": found.reduced_chi2,
            "notes": _notes(reflections, found),
            "reflections": table,
        },
    )


def _notes(reflections: list[Reflection], found: UbResult) -> list[str]:
    ratio = found.length_ratio
    odd = [
        f"{r.name} ({x:.4f})" for r, x in zip(reflections, ratio, strict=True) if abs(x - 1.0) > ODD_LENGTH
    ]
    if not odd:
        return []
    return [f"|Q| as measured is not that of the indices: {', '.join(odd)}. Wrong indices, energy or cell?"]


def _show_ub(out: Console, reflections: list[Reflection], found: UbResult, path: Path | None) -> None:
    orientation = found.orientation
    for line in (*matrix_lines("U ", orientation.u), *matrix_lines("UB", orientation.ub)):
        out.print(line, style="cyan")
    out.print(
        "sample holder, all axes at zero; +z along the beam, +y up; UB with 2 pi, 1/angstrom", style="dim"
    )
    out.print(f"orientation known to {orientation.sigma_deg:.2g} deg")
    text = _cell_text(found.cell)
    if found.cell_sigma.any():
        s = found.cell_sigma
        text += (
            f"; sigma {', '.join(f'{x:.1g}' for x in s[:3])} A, {', '.join(f'{x:.1g}' for x in s[3:])} deg"
        )
    out.print(f"cell {text}")
    table = Table()
    for head in ("h k l", "off by deg", "|Q| measured / calculated"):
        table.add_column(head, justify="right")
    for r, off, ratio in zip(reflections, found.residual_deg, found.length_ratio, strict=True):
        table.add_row(r.name, f"{off:.4f}", f"{ratio:.5f}" if np.isfinite(ratio) else "")
    out.print(table)
    for note in _notes(reflections, found):
        out.print(note, style="yellow", soft_wrap=True)
    if np.isfinite(found.reduced_chi2):
        out.print(f"reduced chi2 {found.reduced_chi2:.2f} with the given standard deviations of angles")
    if path is not None:
        out.print(f"written: {path}", soft_wrap=True)
