"""What the plan needs of its partners. Nothing to inherit: what fits, fits.

`Backend` is the world under the devices (the Twin, a fake in a test), `Observer` turns frames into what an agent may
know, `Agent` decides. The plan moves and never thinks; the agent thinks and never moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lauepilot.perception.observation import Decision, Observation
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.target import Lattice, Target


@dataclass(frozen=True, eq=False)
class Task:
    """What an agent is asked to do on an instrument.

    Attributes
    ----------
    target
        Where the crystal is wanted.
    crystal
        Which crystal it is; None if nobody knows.
    instrument
        The instrument as believed.
    max_steps, max_dose_s, max_exposure_s
        What the plan will allow: decisions, open-shutter seconds in all, and in one exposure.
    """

    target: Target
    crystal: Lattice | None
    instrument: Instrument
    max_steps: int
    max_dose_s: float
    max_exposure_s: float


@runtime_checkable
class Agent(Protocol):
    """Whoever decides."""

    def reset(self, task: Any) -> None:
        """Start on a new task; see `Task` for what can be read from it."""

    def decide(self, observation: Observation) -> Decision:
        """The next step."""

    def state(self) -> dict[str, Any]:
        """What the agent holds, as plain JSON values, for records and checkpoints."""


@runtime_checkable
class Observer(Protocol):
    """Whoever turns frames into observations."""

    def start(self, axes: Mapping[str, float], *, clock_s: float, dose_s: float) -> Observation:
        """What is known before the first frame."""

    def moved(self, previous: Observation, axes: Mapping[str, float], *, clock_s: float) -> Observation:
        """What is known after a move: the last frame's belief, with new axes."""

    def observe(
        self, frame: Frame, *, axes: Mapping[str, float], clock_s: float, dose_s: float, n_exposures: int
    ) -> Observation:
        """What is known after a frame."""


@runtime_checkable
class Backend(Protocol):
    """The world under the devices: it moves and counts at once, and charges the time to its own clock."""

    @property
    def instrument(self) -> Instrument:
        """The instrument as believed."""

    @property
    def positions(self) -> Mapping[str, float]:
        """Read-back of all axes, degrees and mm."""

    @property
    def clock_s(self) -> float:
        """Seconds spent on moving, settling, exposing and reading out."""

    @property
    def dose_s(self) -> float:
        """Open-shutter seconds."""

    def move(self, positions: Mapping[str, float]) -> Mapping[str, float]:
        """Move the named axes together; the read-back of all axes."""

    def expose(self, seconds: float) -> Frame:
        """Take a frame."""
