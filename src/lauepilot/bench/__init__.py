"""Benchmarks: our figures, repeated on the user's own machine, with peers in the same run.

``run("simulator")`` gives the object that ``lauepilot bench simulator --json`` prints. A figure that was not measured is
absent. ``benchmarks/README.md`` in the source says how peers are set up and holds recorded results.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import lauepilot
from lauepilot.bench.figures import GOALS, Figure
from lauepilot.bench.timing import machine

__all__ = ["GOALS", "WHATS", "figures_table", "run"]

#: What can be measured.
WHATS = tuple(GOALS)

#: Benchmarks that are measured in parts, each a module of its own.
PARTS = {
    "align": ("align", "game", "mono"),
    "indexing": ("indexing", "unknown", "grains"),
    "hardware": tuple(
        f"hardware.{part}" for part in ("faults", "limits", "epics", "page", "arm", "calibrate", "build_ub")
    ),
}


#: Benchmarks whose trials can be spread over processes.
SPREAD = ("precision",)


def run(
    what: str, quick: bool = False, progress: Callable[[str], None] | None = None, jobs: int = 1
) -> dict[str, Any]:
    """Measure all figures of one benchmark.

    Parameters
    ----------
    what
        One of `WHATS`.
    quick
        Fewer trials; ``n`` of each figure says how many.
    progress
        Called with a line of text now and then.
    jobs
        Processes of one thread each that share the trials, for those of `SPREAD`. Same seeds and results; times are those of
        cores with neighbours.

    Returns
    -------
    ``bench``, ``version``, ``machine``, ``seconds`` and ``figures``; each figure with ``name``, ``value``, ``unit``, ``n``,
    ``ci95`` (two numbers or None), ``peer`` (``name`` and ``value``, or None) and ``settings``.

    Raises
    ------
    ValueError
        If there is no such benchmark, or if it is not one whose trials can be spread.
    """
    if what not in WHATS:
        raise ValueError(f"There is no benchmark {what!r}. Known: {', '.join(WHATS)}.")
    if jobs != 1 and (jobs < 1 or what not in SPREAD):
        raise ValueError(
            f"bench {what} was asked for in {jobs} processes. More than one: {', '.join(SPREAD)} only; leave --jobs out."
        )
    start = time.perf_counter()
    figures: list[Figure] = []
    for part in PARTS.get(what, (what,)):
        module = importlib.import_module(f"lauepilot.bench.{part}")
        spread = {"jobs": jobs} if what in SPREAD else {}
        figures += module.measure(quick, progress or (lambda text: None), **spread)
    return {
        "bench": what,
        "version": lauepilot.__version__,
        "machine": machine(),
        "seconds": time.perf_counter() - start,
        "figures": [figure.plain() for figure in figures],
    }


def figures_table(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for a table: each figure with its goal, whether it is met, and the ``verdict`` in words.

    ``met`` is None where there is no goal, and where a share would meet it but its interval holds the goal as well: the
    verdict is then "too few to tell". The peer's name says the ratio for equal lists, where the figure is one for others.
    """
    goals = GOALS[result["bench"]]
    rows = []
    for figure in result["figures"]:
        goal = goals.get(figure["name"])
        met = None
        verdict = ""
        if goal is not None:
            met = goal.reached(figure["value"])
            verdict = "met" if met else "missed"
            interval = figure["ci95"] if figure["unit"] == "fraction" else None
            if met and interval is not None and not all(goal.reached(end) for end in interval):
                met, verdict = None, "too few to tell"
        rows.append(
            {
                **figure,
                "peer": _peer_said(figure),
                "goal": None if goal is None else goal.value,
                "met": met,
                "verdict": verdict,
            }
        )
    return rows


def _peer_said(figure: dict[str, Any]) -> dict[str, Any] | None:
    """The peer, with the like-for-like ratio in its name where the settings hold one."""
    peer: dict[str, Any] | None = figure["peer"]
    equal = figure["settings"].get("with_every_spot_of_theirs")
    if peer is None or equal is None:
        return peer
    return {**peer, "name": f"ratio {equal['ratio']:.0f} with every spot of theirs; {peer['name']}"}
