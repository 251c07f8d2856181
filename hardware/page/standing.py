"""How a session stands: all that there is to show of it, as it was at one moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lauepilot.hardware.page.job import Choice, Job
from lauepilot.hardware.page.journal import Step
from lauepilot.hardware.plans.align import AlignResult
from lauepilot.hardware.protocols import Observer
from lauepilot.perception.observation import Observation
from lauepilot.simulator.frame import Frame


class State(StrEnum):
    """Where the session stands; the last five are ends of runs, from which a new one may start."""

    PREPARING = "getting ready"
    READY = "ready"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    ABORTING = "aborting"
    DECLARED = "declared"
    GAVE_UP = "gave up"
    REFUSED = "refused"
    ABORTED = "aborted"
    FAILED = "failed"


BUSY = frozenset({State.PREPARING, State.RUNNING, State.PAUSING, State.PAUSED, State.ABORTING})
ACTIVE = frozenset({State.RUNNING, State.PAUSING, State.PAUSED})


#: An activity: the devices do not answer, and nobody knows what they do.
SILENT = "no answer"


class NotNow(ValueError):
    """A command that does not fit the state; the message says what fits."""


@dataclass(frozen=True, eq=False)
class Sight:
    """A frame with what was made of it; ``number`` counts the frames of the session."""

    number: int
    frame: Frame
    observation: Observation
    job: Job


@dataclass(frozen=True, eq=False)
class Standing:
    """All that there is to show, but the pictures.

    Attributes
    ----------
    state, words
        Where the session stands; why, or what to do, in a sentence.
    activity, progress
        ``moving``, ``exposing``, ``thinking``, `SILENT` or nothing, and the share that is done (NaN if unknown).
    choice
        What was chosen last.
    axes
        Read-back of all axes, degrees and mm; empty while nothing is connected.
    at_rest
        Whether neither motors nor shutter are busy.
    clock_s, dose_s
        Since the run began, on the instrument's clock.
    step, sight, result
        The last decision, the last frame, and how the run ended; None where there is none.
    folder, files
        Of the record; the folder is None before the first run.
    """

    state: State
    words: str
    activity: str
    progress: float
    choice: Choice
    axes: Mapping[str, float]
    at_rest: bool
    clock_s: float
    dose_s: float
    step: Step | None
    sight: Sight | None
    result: AlignResult | None
    folder: Path | None
    files: Mapping[str, str]

    @property
    def busy(self) -> bool:
        """Whether a run is on or on its way."""
        return self.state in BUSY


class Watched:
    """An observer that also tells what it saw.

    Parameters
    ----------
    inner
        Who observes.
    saw
        Called with each frame and its observation.
    """

    def __init__(self, inner: Observer, saw: Callable[[Frame, Observation], None]) -> None:
        self._inner, self._saw = inner, saw

    def start(self, axes: Mapping[str, float], *, clock_s: float, dose_s: float) -> Observation:
        """As the inner one."""
        return self._inner.start(axes, clock_s=clock_s, dose_s=dose_s)

    def moved(self, previous: Observation, axes: Mapping[str, float], *, clock_s: float) -> Observation:
        """As the inner one."""
        return self._inner.moved(previous, axes, clock_s=clock_s)

    def observe(
        self, frame: Frame, *, axes: Mapping[str, float], clock_s: float, dose_s: float, n_exposures: int
    ) -> Observation:
        """As the inner one, and tell."""
        seen = self._inner.observe(frame, axes=axes, clock_s=clock_s, dose_s=dose_s, n_exposures=n_exposures)
        self._saw(frame, seen)
        return seen
