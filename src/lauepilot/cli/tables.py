"""Tables and lines for the terminal (rich)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lauepilot.simulator.crystal import load_crystal, zoo_names
from lauepilot.simulator.instrument import instrument_names, load_instrument


def console() -> Console:
    """Standard output; as wide as a table needs where it is no terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=130)


def matrix_lines(name: str, matrix: Any, digits: int = 6) -> list[str]:
    """A 3 x 3 matrix as three lines of text."""
    rows = np.round(np.asarray(matrix, dtype=float), digits) + 0.0  # no minus zeros
    heads = [f"{name} = ", " " * (len(name) + 3), " " * (len(name) + 3)]
    return [head + "  ".join(f"{v: .{digits}f}" for v in row) for head, row in zip(heads, rows, strict=True)]


#: Colours of what `lauepilot.bench.figures_table` says of a goal.
VERDICTS = {"met": "green", "missed": "red", "too few to tell": "yellow"}


def show_bench(out: Console, result: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Figures of a benchmark, with goal and peer beside them.

    Parameters
    ----------
    out
        Where to print.
    result
        What `lauepilot.bench.run` returned.
    rows
        Its figures with their goals, from `lauepilot.bench.figures_table`.
    """
    table = Table(
        title=f"lauepilot bench {result['bench']} (version {result['version']})", title_justify="left"
    )
    for head in ("figure", "here", "95 %", "unit", "n", "goal", "", "peer"):
        table.add_column(head, justify="left" if head in {"figure", "unit", "peer"} else "right")
    for row in rows:
        peer, ci = row.get("peer"), row.get("ci95")
        verdict = str(row.get("verdict", ""))
        table.add_row(
            str(row["name"]),
            _number(row["value"]),
            f"{_number(ci[0])} .. {_number(ci[1])}" if ci else "",
            str(row.get("unit", "")),
            str(row.get("n", "")),
            _number(row.get("goal")),
            f"[{VERDICTS[verdict]}]{verdict}[/]" if verdict else "",
            f"{peer['name']}: {_number(peer['value'])}" if peer else "",
        )
    out.print(table)
    about = result.get("machine")
    text = ", ".join(f"{k} {v}" for k, v in about.items()) if isinstance(about, dict) else str(about)
    out.print(f"{text}; {_number(result.get('seconds'))} s in all", style="dim", soft_wrap=True)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def crystal_rows() -> list[dict[str, Any]]:
    """The zoo: name, crystal system, space group, formula, cell."""
    rows = []
    for name in zoo_names():
        crystal = load_crystal(name)
        rows.append(
            {
                "name": name,
                "system": crystal.system,
                "space_group": crystal.space_group,
                "formula": formula(crystal.atoms.counts()),
                "cell": crystal.cell,
            }
        )
    return rows


def formula(counts: dict[str, float]) -> str:
    """A formula from the atoms of a cell, divided by what the whole numbers among them have in common.

    >>> formula({"Si": 8.0}), formula({"Na": 4.0, "Cl": 4.0}), formula({"La": 3.76, "Sr": 0.24, "Cu": 2.0, "O": 8.0})
    ('Si', 'NaCl', 'La1.88Sr0.12CuO4')
    """
    whole = [round(v) for v in counts.values() if abs(v - round(v)) < 1e-3 and v > 0.5]
    divisor = math.gcd(*whole) or 1
    return "".join(
        e + ("" if abs(v / divisor - 1.0) < 1e-3 else f"{v / divisor:.3g}") for e, v in counts.items()
    )


def instrument_rows() -> list[dict[str, Any]]:
    """The shipped instruments: name, radiation, detector, title."""
    rows = []
    for name in instrument_names():
        instrument = load_instrument(name)
        detector = instrument.detector
        rows.append(
            {
                "name": name,
                "radiation": instrument.beam.radiation,
                "detector": f"{detector.kind} {detector.shape[0]} x {detector.shape[1]}, {detector.distance_mm:g} mm",
                "axes": [axis.name for axis in instrument.goniometer.axes],
                "title": instrument.title,
            }
        )
    return rows


def show_rows(out: Console, rows: Sequence[dict[str, Any]]) -> None:
    """A table with the rows' keys as heads."""
    table = Table()
    for head in rows[0]:
        table.add_column(head.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell_text(value) for value in row.values()))
    out.print(table)


def _cell_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)
