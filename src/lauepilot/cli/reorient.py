"""``lauepilot reorient``: where the motors have to go for a target, or why they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lauepilot.cli.exchange import load_stored, parse_axes
from lauepilot.cli.output import Exit, UserError, print_json
from lauepilot.cli.tables import console
from lauepilot.simulator.advice import Advice, Way, advise
from lauepilot.simulator.target import Alignment
from lauepilot.simulator.target_text import parse_target

#: Ways that are listed on the terminal; --json lists all.
LISTED = 12


def run_reorient(
    source: Path, *, target: str, crystal: str | None, instrument: str | None, axes: str | None, as_json: bool
) -> int:
    """Advice for an orientation in a file.

    The axes stand at ``axes`` now; by default where the file says the crystal stood. Of a file that tells no axes, the frame
    was taken at ``axes`` too.

    Raises
    ------
    UserError, ExchangeError, ReachError, FileNotFoundError
        The message says what is wrong and what to do.
    """
    wanted = parse_target(target)
    stored, body, machine, notes = load_stored(source, crystal, instrument, axes)
    try:
        wanted.laboratory_u(body.b)
    except ValueError as error:
        raise UserError(f"--target {target!r}: {error}") from None
    now = parse_axes(axes, machine.goniometer) or dict(stored.axes or {})
    advice = advise(stored.on_holder(machine.goniometer), wanted, machine.goniometer, now, body)
    if as_json:
        print_json(advice_record(advice, source, body.name, machine.name, target, notes))
    else:
        show_advice(console(), advice, f"{body.name} on {machine.name}, target {target}", notes)
    return Exit.DONE if advice.ways else Exit.GAVE_UP


def advice_record(
    advice: Advice, source: Path, crystal: str, instrument: str, target: str, notes: list[str]
) -> dict[str, Any]:
    """The one JSON object of ``lauepilot reorient --json``."""
    return {
        "source": source,
        "crystal": crystal,
        "instrument": instrument,
        "target": target,
        "reachable": bool(advice.ways),
        "axes_now": advice.axes_now,
        "missed_now_by_deg": np.rad2deg(advice.error_now_rad),
        "ways": [_way_record(way, advice) for way in advice.ways],
        "nearest": None if advice.nearest is None else _way_record(advice.nearest, advice),
        "why_not": advice.why_not,
        "notes": notes,
    }


def _way_record(way: Way, advice: Advice) -> dict[str, Any]:
    return {
        "axes": way.positions,
        "move_time_s": way.move_time_s,
        "missed_by_deg": np.rad2deg(way.error_rad),
        "primary": _named(advice.target.primary, way.primary),
        "secondary": None
        if advice.target.secondary is None or way.secondary is None
        else _named(advice.target.secondary, way.secondary),
        "U_lab": way.u_lab,
    }


def _named(alignment: Alignment, indices: tuple[float, float, float]) -> str:
    """Indices in the brackets of their kind: ``[0 0 1]`` for zones, ``(1 0 0)`` for planes."""
    text = " ".join(f"{x:g}" for x in indices)
    return f"[{text}]" if alignment.kind == "uvw" else f"({text})"


def show_advice(out: Console, advice: Advice, title: str, notes: list[str]) -> None:
    """What ``lauepilot reorient`` prints for people."""
    out.print(title, markup=False)
    for note in notes:
        out.print(note, style="yellow", soft_wrap=True)
    out.print(f"now at {_axes_text(advice.axes_now)}: missed by {np.rad2deg(advice.error_now_rad):.3f} deg")
    if advice.ways:
        _show_ways(out, advice)
        return
    out.print("Cannot.", style="bold red")
    out.print(advice.why_not, markup=False, soft_wrap=True)
    if advice.nearest is not None:
        used = _named(advice.target.primary, advice.nearest.primary)
        out.print(f"there {used} comes nearest to its place", markup=False)


def _show_ways(out: Console, advice: Advice) -> None:
    listed = advice.ways[:LISTED]
    table = Table(title=f"{len(listed)} of {len(advice.ways)} ways, the soonest first", title_justify="left")
    names = list(listed[0].positions)
    written = [a for a in (advice.target.primary, advice.target.secondary) if a is not None]
    # rich reads square brackets as markup
    heads = [_named(a, a.indices).replace("[", r"\[") for a in written]
    for head in ("", *(f"{name} deg" for name in names), "move s", *(f"{h} is" for h in heads)):
        table.add_column(head, justify="right")
    for number, way in enumerate(listed, start=1):
        used = [way.primary] if way.secondary is None else [way.primary, way.secondary]
        table.add_row(
            str(number),
            *(f"{way.positions[name] + 0.0:.3f}" for name in names),
            f"{way.move_time_s:.1f}",
            *(_named(a, i).replace("[", r"\[") for a, i in zip(written, used, strict=True)),
        )
    out.print(table)
    if any(way.primary != advice.target.primary.indices for way in listed):
        out.print("where an equivalent is used, its indices in the file's labels are given", style="dim")


def _axes_text(axes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in axes.items()) or "no rotation axes"
