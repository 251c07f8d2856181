"""Small pieces of the page as text and HTML: axes, time, the end of a run. All that comes from elsewhere is escaped."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Mapping

from lauepilot.hardware.page.journal import Line
from lauepilot.hardware.page.standing import SILENT, Standing, State
from lauepilot.pictures.view import percent
from lauepilot.simulator.goniometer import Goniometer

#: The large word, and the class of its colour: one colour for each of "moves", "waits for you", "well", "not well".
WORDS: Mapping[State, tuple[str, str]] = {
    State.PREPARING: ("GETTING READY", "quiet"),
    State.READY: ("READY", "quiet"),
    State.RUNNING: ("RUNNING", "live"),
    State.PAUSING: ("PAUSING", "held"),
    State.PAUSED: ("PAUSED", "held"),
    State.ABORTING: ("ABORTING", "bad"),
    State.DECLARED: ("ON TARGET", "good"),
    State.GAVE_UP: ("GAVE UP", "held"),
    State.REFUSED: ("REFUSED", "bad"),
    State.ABORTED: ("ABORTED", "held"),
    State.FAILED: ("FAILED", "bad"),
}

#: Colour is never alone: each kind has a sign.
SIGNS = {"quiet": "○", "live": "▶", "held": "❚❚", "good": "✓", "bad": "✕"}


def under_the_word(at: Standing) -> str:
    """The sentence under the state's word: what goes on, or why it ended and what to do."""
    if at.activity == SILENT:
        return f"The instrument does not answer: is its IOC running? Axes are shown as last read. {at.words}".strip()
    if at.state is State.RUNNING:
        step = at.step
        if at.activity == "moving" and step is not None and step.wanted:
            return "Moving " + ", ".join(f"{name} to {value:.2f}" for name, value in step.wanted.items())
        if at.activity == "exposing" and step is not None and step.decision == "Expose":
            return f"Exposing {step.seconds:.3g} s"
        return {"moving": "Moving", "exposing": "Exposing"}.get(at.activity, "Thinking")
    if at.state is State.READY:
        return "Choose crystal and target, then start."
    return at.words


def axes_html(goniometer: Goniometer, at: Standing) -> str:
    """A bar for each axis from limit to limit, with the read-back, and where the last move was sent."""
    rows = []
    wanted = at.step.wanted if at.step is not None and at.busy else {}
    for axis in goniometer.axes:
        here = at.axes.get(axis.name, float("nan"))
        low, high = axis.limits
        name, unit = html.escape(axis.name), "°" if axis.unit == "deg" else f" {html.escape(axis.unit)}"

        def share(value: float, low: float = low, high: float = high) -> float:
            return 100.0 * min(max((value - low) / (high - low), 0.0), 1.0) if math.isfinite(value) else 0.0

        near = not low + 0.02 * (high - low) <= here <= high - 0.02 * (high - low)
        goal = (
            f'<i class="goal" style="left:{share(wanted[axis.name]):.2f}%"></i>'
            if axis.name in wanted
            else ""
        )
        rows.append(
            f'<div class="axis{" near" if near else ""}"><b>{name}</b><output>{here:.3f}{unit}</output>'
            f'<span class="bar" role="meter" aria-label="{name}" aria-valuemin="{low:g}" aria-valuemax="{high:g}" '
            f'aria-valuenow="{here:.3f}"><i class="zero" style="left:{share(0.0):.2f}%"></i>{goal}'
            f'<i class="here" style="left:{share(here):.2f}%"></i></span>'
            f"<small>{low:g}{unit}</small>"
            f'<small class="high">{"near its limit · " if near else ""}{high:g}{unit}</small></div>'
        )
    return "".join(rows)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(3725.4), duration(62.0)
    ('1:02:05', '1:02')
    """
    whole = int(max(seconds, 0.0))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def step_words(at: Standing) -> tuple[str, str, str]:
    """Headline, reason and confidence of the agent's last decision."""
    step = at.step
    if step is None:
        return "No decision yet", "", ""
    what = {
        "Move": "move",
        "Expose": f"expose {step.seconds:.3g} s",
        "Declare": "on target",
        "GiveUp": "give up",
    }
    head = f"Step {step.number}: {what.get(step.decision, step.decision)}"
    if step.verdict != "allowed":
        return head, f"{step.verdict}. {step.reason}", ""
    if not math.isfinite(step.confidence):
        return head, step.reason, "nothing seen yet"
    return head, step.reason, f"{percent(step.confidence)}, {step.n_indexed} of {step.n_spots} spots"


def ending_html(at: Standing) -> str:
    """UB with its error bar, and where the record is; empty while there is neither."""
    rows = []
    orientation = None if at.result is None else at.result.orientation
    if orientation is not None:
        name = (
            "UB"
            if at.result is not None and at.result.outcome == "declared"
            else "UB, last believed (not declared)"
        )
        matrix = "".join(
            "<tr>" + "".join(f"<td>{v:+.5f}</td>" for v in row) + "</tr>" for row in orientation.ub
        )
        rows.append(
            f'<div class="ub"><b>{name}</b> <span>± {orientation.sigma_deg:.2g}°</span>'
            f'<table aria-label="UB matrix">{matrix.replace("-", "−")}</table>'
            "<small>1/Å with 2π; laboratory: z along the beam, y up</small></div>"
        )
    if at.folder is not None and not at.busy:
        rows.append(f'<div class="folder"><b>Record</b> <code>{html.escape(str(at.folder))}</code></div>')
    return "".join(rows)


def line_html(line: Line) -> str:
    """One line of the log."""
    clock = time.strftime("%H:%M:%S", time.localtime(line.time))
    mark = {"warning": "! ", "error": "✕ "}.get(line.level, "")
    return f'<p class="{line.level}"><time>{clock}</time> {mark}{html.escape(line.text)}</p>'
