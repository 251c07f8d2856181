"""``lauepilot faults``: what can go wrong at an instrument is done to alignments, and what is left of them is looked at."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict

from rich.table import Table

from lauepilot.bench.hardware.faults import EPICS, SETTINGS, outcomes
from lauepilot.cli.output import Exit, UserError, print_json
from lauepilot.cli.tables import console


def run_faults(*, names: list[str] | None, epics: bool, in_process: bool, as_json: bool) -> int:
    """Run the fault table and print it; the exit code.

    Parameters
    ----------
    names
        Faults to try; None or none for all.
    epics, in_process
        Only this setting; neither for all that can be had here.
    as_json
        Print one JSON object and nothing else.
    """
    if epics and in_process:
        raise UserError("--epics and --in-process leave out one another; give one, or neither for both.")
    settings = EPICS if epics else SETTINGS if in_process else (*SETTINGS, *EPICS)
    screen = None if as_json else console()
    try:
        # What goes wrong is meant to, and stands in the table; and the RunEngine prints, where one object is promised.
        aside = nullcontext() if screen is not None else redirect_stdout(sys.stderr)
        with _quiet("bluesky", "lauepilot.hardware", "ophyd"), aside:
            rows = outcomes(
                names or None, settings, say=screen.print if screen is not None else lambda text: None
            )
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from None
    survived = sum(row.passed for row in rows)
    if screen is None:
        print_json(
            {
                "survived": survived,
                "tried": len(rows),
                "rows": [{**asdict(row), "passed": row.passed} for row in rows],
            }
        )
    else:
        table = Table(title=f"{survived} of {len(rows)} faults survived")
        for head in (
            "fault",
            "how",
            "at rest",
            "closed truthfully",
            "nothing lost",
            "went on or said",
            "message",
        ):
            table.add_column(head)
        for row in rows:
            four = (row.at_rest, row.closed_truthfully, row.nothing_lost, row.went_on_or_said)
            table.add_row(row.name, row.how, *("yes" if good else "NO" for good in four), row.detail)
        screen.print(table)
    return Exit.DONE if survived == len(rows) else Exit.INSTRUMENT


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """These loggers say nothing inside; afterwards all is as it was."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
