"""The alignment as it happens: one line a step, and a bar while the instrument exposes or moves.

Both listen only: to the documents of the run, and to the statuses that the RunEngine waits for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lauepilot.cli.tables import matrix_lines
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.target import Target

_COLUMNS = (("step", 4), ("decision", 8), ("axes (deg)", 0), ("exposure", 8), ("spots", 5), ("indexed", 7),
            ("confidence", 10), ("to target", 9), ("clock", 8))  # fmt: skip
_STYLE = {"Expose": "cyan", "Move": "yellow", "Declare": "bold green", "GiveUp": "bold red"}


class LiveTable:
    """A consumer of documents that prints a line for each step, when it is known what the step brought.

    Parameters
    ----------
    screen
        Where to print.
    crystal, instrument, target
        What is aligned where.
    """

    def __init__(self, screen: Console, crystal: Crystal, instrument: Instrument, target: Target) -> None:
        self._screen = screen
        self._crystal, self._instrument, self._target = crystal, instrument, target
        self._axes = [axis.name for axis in instrument.goniometer.rotations]
        self._axes_width = max(11 * len(self._axes) - 1, len("axes (deg)"))
        self._keys: Mapping[str, str] = {}
        self._streams: dict[str, str] = {}
        self._frame_axes: dict[str, float] = {}
        self._pending: tuple[int, str, str] | None = None

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take in one document."""
        if name == "start":
            self._keys = doc["keys"]["axes"]
            self._line([head for head, _ in _COLUMNS], "bold")
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
        elif name == "event":
            stream, data = self._streams.get(doc["descriptor"], ""), doc["data"]
            if stream == "primary":
                self._frame_axes = self._positions(data)
            elif stream == "decisions":
                self._step(data)

    def _positions(self, data: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(data[self._keys[name]]) for name in self._axes}

    def _step(self, data: Mapping[str, Any]) -> None:
        d = {key.removeprefix("align_"): value for key, value in data.items()}
        self._flush(d, data)
        decision = str(d["decision"])
        exposure = f"{float(d['seconds']):.4g} s" if decision == "Expose" else ""
        self._pending = (int(d["step"]), decision, exposure)
        if decision in {"Declare", "GiveUp"} or d["verdict"] != "allowed":
            self._flush(d, data)

    def _flush(self, d: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Print the step that is over, with what is known after it."""
        if self._pending is None:
            return
        step, decision, exposure = self._pending
        self._pending = None
        axes = " ".join(f"{value:10.3f}" for value in self._positions(data).values())
        seen = decision == "Expose"
        confidence = float(d["confidence"])
        cells = [
            str(step),
            decision,
            axes,
            exposure,
            str(int(d["n_spots"])) if seen else "",
            str(int(d["n_indexed"])) if seen else "",
            f"{confidence:.5f}" if seen and np.isfinite(confidence) else "",
            self._error(d, data, decision),
            f"{float(d['elapsed_s']):.1f} s",
        ]
        self._line(cells, _STYLE.get(decision, ""))

    def _error(self, d: Mapping[str, Any], data: Mapping[str, Any], decision: str) -> str:
        """Angle to the target as believed, by dead reckoning from the last frame where axes moved since."""
        u = np.asarray(d["orientation"], dtype=float)
        if u.shape != (3, 3) or not np.all(np.isfinite(u)):
            return ""
        if decision != "Declare":
            chain = self._instrument.goniometer
            u = chain.matrix(self._positions(data)) @ chain.matrix(self._frame_axes).T @ u
        return f"{np.rad2deg(self._target.error(u, self._crystal)):.3f}°"

    def _line(self, cells: Sequence[str], style: str) -> None:
        parts = []
        for (_, width), cell in zip(_COLUMNS, cells, strict=True):
            room = width or self._axes_width
            parts.append(cell.ljust(room) if cell == cells[1] else cell.rjust(room))
        self._screen.print("  ".join(parts), style=style, soft_wrap=True)


class Bars:
    """A waiting hook for the RunEngine: ``RE.waiting_hook = Bars(screen)``; a bar for each exposure and motion."""

    def __init__(self, screen: Console) -> None:
        self._progress = Progress(
            TextColumn("      {task.description}"),
            BarColumn(bar_width=40),
            TextColumn("{task.completed:.1f} of {task.total:.1f} s"),
            console=screen,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, statuses: Any) -> None:
        """Called with what is waited for, and with None when the waiting is over."""
        if statuses is None:
            for task in self._tasks.values():
                self._progress.remove_task(task)
            self._tasks.clear()
            return
        for status in statuses:
            if hasattr(status, "watch"):
                status.watch(self._update)

    def _update(self, *, name: str, current: float = 0.0, target: float = 0.0, **_: Any) -> None:
        # ophyd's watchers may be called with the name alone once the device is done
        if target <= 0.0:
            return
        if name not in self._tasks:
            text = "exposing" if name == "camera" else "moving"
            self._tasks[name] = self._progress.add_task(text, total=target)
        self._progress.update(self._tasks[name], completed=current)

    def __enter__(self) -> Bars:
        """Show bars where there is a terminal."""
        if self._progress.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove them."""
        self._progress.stop()


def show_end(screen: Console, summary: Mapping[str, Any]) -> None:
    """The last lines for people."""
    truth, outcome = summary["truth"], summary["outcome"]
    words = {
        "declared": ("Aligned", "bold green"),
        "gave_up": ("Gave up", "bold red"),
        "refused": ("Refused", "bold red"),
        "aborted": ("Interrupted", "bold red"),
    }
    word, style = words[outcome]
    screen.print()
    screen.print(f"{word}: {summary['reason']}", style=style, soft_wrap=True)
    if summary["UB"] is not None:
        for line in matrix_lines("UB", summary["UB"]):
            screen.print(line, style="cyan")
        screen.print(
            f"laboratory frame (+z beam, +y up), 2 pi, 1/angstrom; known to {summary['sigma_deg']:.2g} deg",
            style="dim",
        )
        if summary["U_axes"] != summary["axes"]:
            there = ", ".join(f"{name} {value:.3f}" for name, value in summary["U_axes"].items())
            screen.print(
                f"that of the last indexed frame, at {there}; the axes have moved since", style="dim"
            )
    acts = [step["decision"] for step in summary["steps"] if step["decision"] in ("Move", "Expose")]
    if outcome == "declared" and acts and acts[-1] == "Move":
        screen.print("no frame after the last move: by dead reckoning from the frame before", style="dim")
    if truth is not None:
        said = truth["misorientation_deg"]
        screen.print(
            f"The truth (it is a simulation): the target is missed by {truth['target_missed_by_deg']:.4f} deg"
            + ("" if said is None else f", the orientation stated is off by {said:.4f} deg"),
            style="" if truth["within_tolerance"] or outcome != "declared" else "bold red",
        )
    moves = "" if summary["n_moves"] is None else f", {summary['n_moves']} moves"
    clock = (
        ""
        if summary["clock_s"] is None
        else f"{summary['clock_s']:.0f} s on the instrument's clock, {summary['dose_s']:.0f} s of them in the beam; "
    )
    screen.print(f"{summary['n_exposures']} exposures{moves}: {clock}{summary['wall_s']:.1f} s here")
    screen.print(f"written: {summary['folder']}/", soft_wrap=True)
    for name in ("first_pattern", "last_pattern", "ub", "documents"):
        if name in summary["files"]:
            screen.print(f"         {summary['files'][name]}", style="dim")
    screen.print(f"         frames/ ({len(summary['files']['frames'])}), summary.json", style="dim")
    if "tiled_problem" in summary["files"]:
        screen.print(summary["files"]["tiled_problem"], style="bold red", soft_wrap=True, markup=False)
    elif "tiled" in summary["files"]:
        screen.print(f"and in Tiled: {summary['files']['tiled']}", soft_wrap=True, markup=False)
