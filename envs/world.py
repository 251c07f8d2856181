"""The world of the alignment game: a crystal on the Twin, seen through the Observer.

The world carries decisions out and answers questions by name; it has no opinion on what is good. Answers on the truth
are for referees: rewards and benchmarks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.perception.observation import Decision, Expose, Move, Observation
from lauepilot.perception.observer import Observer
from lauepilot.perception.task import Task
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.frame import FrameError
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.orientation import misorientation
from lauepilot.simulator.reach import OutOfReachError, reach
from lauepilot.simulator.twin import Twin


class RefusedError(ValueError):
    """A decision that the world does not carry out: outside limits, or more than the task allows."""


class World:
    """A Twin with eyes.

    Parameters
    ----------
    twin
        The instrument with its faults.
    observer
        Makes observations of frames; made once, shared by episodes.
    task
        What agents are asked; its limits on exposures are kept here.
    """

    def __init__(self, twin: Twin, observer: Observer, task: Task) -> None:
        self.twin = twin
        self.observer = observer
        self.task = task
        self._start()

    def _start(self) -> None:
        self.n_exposures = 0
        self.n_moves = 0
        self.observation = self.observer.start(self.twin.positions)

    def reset(self, rng: np.random.Generator, u: ArrayLike | None = None) -> Observation:
        """Mount a crystal (at ``u`` (3, 3) in the holder, or at random), with new faults."""
        self.twin.reset(rng, u)
        self._start()
        return self.observation

    def apply(self, decision: Decision) -> Observation:
        """Carry a move or an exposure out; declarations and the end change nothing.

        Raises
        ------
        RefusedError
            If an axis does not exist or would leave its limits, or an exposure is longer than allowed; nothing happens then.
        """
        if isinstance(decision, Move):
            try:
                readback = self.twin.move(decision.axes)
            except (KeyError, ValueError) as error:
                raise RefusedError(str(error.args[0])) from None
            self.n_moves += 1
            self.observation = self.observer.moved(self.observation, readback, clock_s=self.twin.clock_s)
        elif isinstance(decision, Expose):
            self._check_exposure(decision.seconds)
            frame = self.twin.expose(decision.seconds)
            self.n_exposures += 1
            try:
                self.observation = self.observer.observe(
                    frame,
                    axes=self.twin.positions,
                    clock_s=self.twin.clock_s,
                    dose_s=self.twin.dose_s,
                    n_exposures=self.n_exposures,
                )
            except FrameError as error:
                raise RefusedError(f"The frame cannot be used: {error}") from None
        return self.observation

    def _check_exposure(self, seconds: float) -> None:
        task = self.task
        if not (np.isfinite(seconds) and 0.0 < seconds <= task.max_exposure_s):
            raise RefusedError(
                f"An exposure of {seconds:g} s was asked for; allowed are more than 0 and at most {task.max_exposure_s:g} s."
            )
        if self.n_exposures >= task.max_exposures:
            raise RefusedError(f"All {task.max_exposures} exposures of this task are used up.")
        if self.twin.dose_s + seconds > task.max_dose_s:
            raise RefusedError(
                f"{seconds:g} s more would bring the dose to {self.twin.dose_s + seconds:g} s; "
                f"allowed are {task.max_dose_s:g} s."
            )

    @property
    def clock_s(self) -> float:
        """Seconds since the crystal was mounted."""
        return self.twin.clock_s

    @property
    def dose_s(self) -> float:
        """Seconds with open shutter."""
        return self.twin.dose_s

    def miss_deg(self) -> float:
        """True angle to the target now, degrees."""
        return float(np.rad2deg(self.task.target.error(self.twin.u_lab(), self.twin.crystal)))

    def misorientation_deg(self, u_lab: ArrayLike) -> float:
        """Angle between a claimed laboratory orientation (3, 3) and the true one, over symmetry, degrees."""
        return float(np.rad2deg(misorientation(u_lab, self.twin.u_lab(), self.twin.crystal.symmetry)))

    def reachable(self) -> bool:
        """Whether the true axes can bring the true crystal within the tolerance, inside their limits."""
        truth = self.twin.truth
        try:
            reach(
                truth.instrument.goniometer,
                self.u_holder(),
                self.task.target,
                self.twin.crystal,
                self.twin.positions,
                tolerance_deg=self.task.tolerance_deg,
            )
        except OutOfReachError:
            return False
        return True

    def true_goniometer(self) -> Goniometer:
        """The axes as they truly are."""
        return self.twin.truth.instrument.goniometer

    def u_holder(self) -> FloatArray:
        """True orientation (3, 3) on the holder, with which the true axes at their read-back give that of now."""
        z = self.twin.truth.instrument.goniometer.matrix(self.twin.positions)
        return np.asarray(z.T @ self.twin.u_lab())
