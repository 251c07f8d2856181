"""The fault table as a figure, and its door: nothing of Channel Access is imported before its ports are set."""

from __future__ import annotations

from collections.abc import Callable

from lauepilot.bench.figures import Figure, share
from lauepilot.bench.hardware.outcome import FaultOutcome
from lauepilot.hardware.epics.environment import use_loopback

#: Settings in which faults are tried.
SETTINGS = ("in process",)
EPICS = ("EPICS, ophyd", "EPICS, ophyd-async")


def outcomes(
    names: list[str] | None = None,
    settings: tuple[str, ...] = SETTINGS,
    say: Callable[[str], None] = print,
) -> list[FaultOutcome]:
    """Rows of the fault table.

    Parameters
    ----------
    names
        Faults to try; None for all.
    settings
        Of `SETTINGS` and `EPICS`.
    say
        Told each fault before it is tried.

    Raises
    ------
    ValueError
        If there is no such fault or setting.
    HardwareError
        If a library of Channel Access was imported before, and could see machines of the network.
    """
    if set(settings) & set(EPICS):
        use_loopback()
    from lauepilot.bench.hardware.fault_table import table

    return table(names, settings, say)


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """The figure ``faults_survived``: the share of rows of the fault table in which all four things hold."""
    rows = outcomes(settings=(*SETTINGS, *EPICS), say=say)
    told = [
        {
            "fault": row.name, "how": row.how, "at_rest": row.at_rest, "closed_truthfully": row.closed_truthfully,
            "nothing_lost": row.nothing_lost, "went_on_or_said": row.went_on_or_said, "detail": row.detail,
        }
        for row in rows
    ]  # fmt: skip
    return [share("faults_survived", [row.passed for row in rows], {"rows": told})]
