"""What a fault did to a run: one row of the fault table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class FaultOutcome:
    """One fault, injected into one alignment or other run, and how that came out.

    Attributes
    ----------
    name
        The fault, as it stands in the table: "full disk".
    how
        In which setting: "in process", "EPICS, ophyd", "EPICS, ophyd-async".
    at_rest
        Whether all motors stood still within their limits afterwards.
    closed_truthfully
        Whether the record of the run was closed with the exit status and reason that were true.
    nothing_lost
        Whether everything that was recorded before the fault can still be read.
    went_on_or_said
        Whether the run went on to its end, or an error said what to do.
    detail
        The message that the user saw, or what was wrong.
    """

    name: str
    how: str
    at_rest: bool
    closed_truthfully: bool
    nothing_lost: bool
    went_on_or_said: bool
    detail: str

    @property
    def passed(self) -> bool:
        """Whether all four hold."""
        return self.at_rest and self.closed_truthfully and self.nothing_lost and self.went_on_or_said


#: What a module of faults offers under the name FAULTS: each called without arguments.
Faults = dict[str, Callable[[], FaultOutcome]]
