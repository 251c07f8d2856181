"""The two players between which all others stand: one who knows nothing, and one who knows everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from lauepilot.perception.observation import Decision, Declare, Expose, GiveUp, Move, Observation
from lauepilot.perception.task import Task
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.reach import OutOfReachError, reach


class Random:
    """Moves at random and exposes; declares when the indexer happens to believe that the target is met.

    Parameters
    ----------
    rng
        Its dice.
    patience
        Moves before it gives up.
    """

    def __init__(self, rng: np.random.Generator, patience: int = 10) -> None:
        self._rng = rng
        self.patience = patience
        self._task: Task | None = None
        self._moves = 0
        self._look = True

    def reset(self, task: Any) -> None:
        """Start on a task."""
        self._task = Task.of(task)
        self._moves = 0
        self._look = True

    def decide(self, observation: Observation) -> Decision:
        """Look, declare if it fits, else move anywhere."""
        task = self._task
        if task is None:
            raise ValueError("Random has no task yet: call reset(task) first.")
        if self._look:
            self._look = False
            return Expose(min(task.exposure_s / 6.0, task.max_exposure_s), "Look.")
        belief = observation.belief
        if belief is not None and belief.orientation is not None and belief.confidence > 0.99:
            miss = np.rad2deg(task.target.error(belief.orientation.u, task.crystal))
            if miss < task.tolerance_deg:
                return Declare(belief.orientation, f"By chance {miss:.3f} deg from the target.")
        if self._moves >= self.patience or observation.n_exposures >= task.max_exposures:
            return GiveUp(f"Not there after {self._moves} random moves.")
        self._moves += 1
        self._look = True
        axes = {a.name: float(self._rng.uniform(*a.limits)) for a in task.instrument.goniometer.rotations}
        return Move(axes, "Anywhere.")

    def state(self) -> dict[str, Any]:
        """What the agent holds, as plain JSON values."""
        return {"agent": "random", "moves": self._moves}


class Referee(Protocol):
    """What the all-knowing player is told; `lauepilot.envs.world.World` fits."""

    def u_holder(self) -> FloatArray:
        """True orientation (3, 3) on the holder."""

    def miss_deg(self) -> float:
        """True angle to the target now."""

    def true_goniometer(self) -> Goniometer:
        """The axes as they truly are."""


class Oracle:
    """Knows the truth: one shortest move, one shortest frame, declare. The floor of time and moves.

    Parameters
    ----------
    referee
        Tells the truth.
    exposures
        Frames that are taken all the same, as a record.
    exposure_s
        Their length.
    """

    def __init__(self, referee: Referee, exposures: int = 1, exposure_s: float = 1.0) -> None:
        self._referee = referee
        self.exposures = exposures
        self.exposure_s = exposure_s
        self._task: Task | None = None
        self._moves = 0

    def reset(self, task: Any) -> None:
        """Start on a task."""
        self._task = Task.of(task)
        self._moves = 0

    def decide(self, observation: Observation) -> Decision:
        """Move until the truth fits, then look and declare."""
        task = self._task
        if task is None:
            raise ValueError("Oracle has no task yet: call reset(task) first.")
        miss = self._referee.miss_deg()
        if miss > 0.5 * task.tolerance_deg and self._moves < 5:
            try:
                axes = self._goal(task, observation.axes)
            except OutOfReachError as error:
                if np.rad2deg(error.nearest.error_rad) > task.tolerance_deg:
                    return GiveUp(str(error))
                axes = error.nearest.positions
            self._moves += 1
            return Move(axes, f"Truly {miss:.3f} deg away.")
        if observation.n_exposures < self.exposures:
            return Expose(min(self.exposure_s, task.max_exposure_s), "For the record.")
        u = self._referee.true_goniometer().matrix(observation.axes) @ self._referee.u_holder()
        return Declare(
            Orientation(u, task.crystal.b, np.zeros((3, 3))), f"Truly {miss:.3f} deg from the target."
        )

    def _goal(self, task: Task, axes: Mapping[str, float]) -> dict[str, float]:
        goal = reach(
            self._referee.true_goniometer(), self._referee.u_holder(), task.target, task.crystal, axes,
            tolerance_deg=0.5 * task.tolerance_deg,
        )  # fmt: skip
        return goal.positions

    def state(self) -> dict[str, Any]:
        """What the agent holds, as plain JSON values: nothing of the truth."""
        return {"agent": "oracle", "moves": self._moves}
