"""What an agent is asked to do: the one question that environment and instrument put to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.target import Alignment, Target


@dataclass(frozen=True, eq=False)
class Task:
    """Bring a known crystal on a known instrument to a target.

    Attributes
    ----------
    target
        Where the crystal is wanted.
    crystal
        The known lattice.
    instrument
        The instrument as believed.
    tolerance_deg
        How far from the target a declaration may be.
    exposure_s
        A usual exposure here; agents may choose others.
    max_steps
        Decisions allowed.
    max_exposures
        Frames allowed.
    max_time_s
        Time allowed on the clock.
    max_dose_s
        Open-shutter seconds allowed in all.
    max_exposure_s
        Seconds allowed in one exposure.
    """

    target: Target
    crystal: Crystal
    instrument: Instrument
    tolerance_deg: float = 0.1
    exposure_s: float = 60.0
    max_steps: int = 50
    max_exposures: int = 15
    max_time_s: float = 3600.0
    max_dose_s: float = 3600.0
    max_exposure_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse limits that are not positive."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"Task: {item.name} must be positive and finite; {value} came.")

    @classmethod
    def usual(
        cls, crystal: Crystal, instrument: Instrument, target: Target | None = None, **limits: Any
    ) -> Task:
        """A task with the limits that suit an instrument: 60 usual exposures of time, 40 of dose, 10 in one frame.

        ``target`` None takes `usual_target`; ``limits`` override.
        """
        nominal = instrument.exposure_s
        values: dict[str, Any] = {
            "exposure_s": nominal,
            "max_time_s": 60.0 * nominal + 600.0,
            "max_dose_s": 40.0 * nominal,
            "max_exposure_s": 10.0 * nominal,
        }
        return cls(usual_target() if target is None else target, crystal, instrument, **(values | limits))

    @classmethod
    def of(cls, question: Any) -> Task:
        """A `Task` from any object with at least ``target``, ``crystal`` and ``instrument`` (the Bluesky plan's own).

        Raises
        ------
        ValueError
            If one of these is missing.
        """
        if isinstance(question, cls):
            return question
        needed: dict[str, Any] = {
            name: getattr(question, name, None) for name in ("target", "crystal", "instrument")
        }
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            raise ValueError(
                f"An agent's task needs target, crystal and instrument; {', '.join(missing)} did not come."
            )
        limits = {
            item.name: getattr(question, item.name)
            for item in fields(cls)
            if item.name not in needed and getattr(question, item.name, None) is not None
        }
        return cls.usual(needed["crystal"], needed["instrument"], needed["target"], **limits)


def usual_target() -> Target:
    """The zone [001] along the beam, its turn about the beam left free: where most experiments start."""
    return Target(Alignment("uvw", (0.0, 0.0, 1.0), (0.0, 0.0, 1.0)))
