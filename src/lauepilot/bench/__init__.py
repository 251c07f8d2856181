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


def run(what: str, quick: bool = False, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure all figures of one benchmark.

    Parameters
    ----------
    what
        One of `WHATS`.
    quick
        Fewer trials; ``n`` of each figure says how many.
    progress
        Called with a line of text now and then.

    Returns
    -------
    ``bench``, ``version``, ``machine``, ``seconds`` and ``figures``; each figure with ``name``, ``value``, ``unit``, ``n``,
    ``ci95`` (two numbers or None), ``peer`` (``name`` and ``value``, or None) and ``settings``.

    Raises
    ------
    ValueError
        If there is no such benchmark.
    """
    if what not in WHATS:
        raise ValueError(f"There is no benchmark {what!r}. Known: {', '.join(WHATS)}.")
    module = importlib.import_module(f"lauepilot.bench.{what}")
    start = time.perf_counter()
    figures: list[Figure] = module.measure(quick, progress or (lambda text: None))
    return {
        "bench": what,
        "version": lauepilot.__version__,
        "machine": machine(),
        "seconds": time.perf_counter() - start,
        "figures": [figure.plain() for figure in figures],
    }


def figures_table(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for a table: each figure with its goal, and whether it is met; None where there is no goal."""
    goals = GOALS[result["bench"]]
    rows = []
    for figure in result["figures"]:
        goal = goals.get(figure["name"])
        met = None
        if goal is not None:
            met = figure["value"] <= goal.value if goal.better == "lower" else figure["value"] >= goal.value
        rows.append({**figure, "goal": None if goal is None else goal.value, "met": met})
    return rows
