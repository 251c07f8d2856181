"""What the operator chooses, and what is made of it: the contract between the page and whoever prepares runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lauepilot.hardware.plans.align import AlignResult
from lauepilot.hardware.protocols import Agent, Camera, Goniometer, Observer
from lauepilot.perception.observation import Observation
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.target import Lattice, Target


@dataclass(frozen=True)
class Choice:
    """What the operator chose.

    Attributes
    ----------
    crystal
        Name in the zoo or path of a CIF.
    target
        As written: ``[0 0 1] beam``.
    exposure_s
        The usual exposure, seconds.
    faults, speed
        Of a simulated instrument: how far it strays, and how many times faster than the wall its clock runs (0: at once).
        Real instruments have neither.
    """

    crystal: str
    target: str
    exposure_s: float
    faults: str = ""
    speed: float = 1.0


@dataclass(frozen=True, eq=False)
class Predicted:
    """Where spots were expected.

    Attributes
    ----------
    pixels
        (n, 2) as (col, row).
    hkl
        (n, 3) indices of the strongest harmonic.
    explained
        (m,) which of the found spots are explained.
    """

    pixels: FloatArray
    hkl: NDArray[np.int64]
    explained: NDArray[np.bool_]


def nothing_predicted(_: Frame, observation: Observation) -> Predicted:
    """No expectation at all."""
    m = 0 if observation.spots is None else len(observation.spots)
    return Predicted(np.zeros((0, 2)), np.zeros((0, 3), np.int64), np.zeros(m, dtype=bool))


def nothing_written(_: AlignResult, __: Path) -> Mapping[str, str]:
    """No files beside the records."""
    return {}


@dataclass(frozen=True, eq=False)
class Job:
    """A run that stands ready.

    Attributes
    ----------
    camera, goniometer, agent, observer, target, crystal
        As for `align_crystal`.
    tolerance_deg
        How far from the target a declaration may be.
    limits
        ``max_steps``, ``max_dose_s``, ``max_exposure_s`` for the plan.
    md
        More for the start document.
    predict
        Where spots were expected on a frame, for the picture; called with the last frame and its observation.
    finish
        Writes what else belongs into the record's folder once the run has ended well, and tells names and files.
    """

    camera: Camera
    goniometer: Goniometer
    agent: Agent
    observer: Observer
    target: Target
    crystal: Lattice
    tolerance_deg: float = 0.1
    limits: Mapping[str, Any] = field(default_factory=dict)
    md: Mapping[str, Any] = field(default_factory=dict)
    predict: Callable[[Frame, Observation], Predicted] = nothing_predicted
    finish: Callable[[AlignResult, Path], Mapping[str, str]] = nothing_written


class Maker(Protocol):
    """Whoever prepares runs on one instrument.

    Attributes
    ----------
    title
        The instrument's name, for people.
    simulated
        Whether it is one that exists in memory only.
    crystals, faults
        What may be chosen; no ``faults`` for a real instrument.
    first
        What is chosen when the page opens.
    """

    title: str
    simulated: bool
    crystals: tuple[str, ...]
    faults: tuple[str, ...]
    first: Choice

    def check(self, choice: Choice) -> None:
        """Raise `ValueError`, in words for the operator, if a choice cannot be made into a run."""

    def make(self, choice: Choice) -> Job:
        """Prepare a run: crystal, devices, agent. May take a while; raises as `check`, or what the devices raise."""
