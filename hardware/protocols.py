"""What the plan needs of its partners. Nothing to inherit: what fits, fits.

`Camera` and `Goniometer` are the devices, whatever is under them: the Twin in this process, or process variables by way
of ophyd or ophyd-async. `Observer` turns frames into what an agent may know, `Agent` decides, and `Backend` is the world
under the devices in this process. The plan moves and never thinks; the agent thinks and never moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lauepilot.perception.observation import Decision, Observation
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.goniometer import Goniometer as AxisChain
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


class Camera(Protocol):
    """An area detector with its shutter: readable, triggerable and stageable by Bluesky.

    It also has the signals ``exposure_s`` (settable, s), ``image`` (rows, cols), ``live_time_s``, ``saturation_adu``,
    ``gain_adu``, ``offset_adu``, ``clock_s`` and ``dose_s`` (s), whose names are its data keys.
    """

    crystal: Lattice | None
    frame: Frame | None
    exposure_s: Any
    image: Any
    live_time_s: Any
    saturation_adu: Any
    gain_adu: Any
    offset_adu: Any
    clock_s: Any
    dose_s: Any

    @property
    def name(self) -> str:
        """Its name in records."""

    @property
    def instrument(self) -> Instrument:
        """The instrument as believed."""

    @property
    def clock_now_s(self) -> float:
        """Seconds on the instrument's clock now."""

    @property
    def dose_now_s(self) -> float:
        """Open-shutter seconds until now."""

    @property
    def busy(self) -> bool:
        """Whether an exposure is going on."""

    def trigger(self) -> Any:
        """A status of an exposure of ``exposure_s`` seconds; at its end the frame is in ``frame`` and ``image``."""

    def stop(self, success: bool = False) -> Any:
        """End an exposure now; it fails unless ``success``. A coroutine on ophyd-async's devices."""


class Goniometer(Protocol):
    """The sample's axes: readable, movable and stageable by Bluesky, with a movable attribute for each axis.

    The names of those attributes' devices are the data keys of the axes' read-backs.
    """

    @property
    def name(self) -> str:
        """Its name in records."""

    @property
    def chain(self) -> AxisChain:
        """The axes as believed."""

    @property
    def position(self) -> Mapping[str, float]:
        """Read-back of all axes, degrees and mm; on the way while they move."""

    @property
    def busy(self) -> bool:
        """Whether a motion is going on: true until every motor is at rest and says so."""

    def set(self, positions: Mapping[str, float], /) -> Any:
        """A status of a motion of the named axes together.

        A position that is unknown, not finite or outside the limits is refused before anything moves; a motion that
        ends elsewhere than it was sent fails.
        """

    def check_readback(
        self, wanted: Mapping[str, float], tolerance: Mapping[str, float] | None = None
    ) -> None:
        """Raise `MotionError` where axes are not where they were sent."""

    def stop(self, success: bool = False) -> Any:
        """Stop a motion now; it fails unless ``success``. A coroutine on ophyd-async's devices."""


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
