"""The two players between which all others stand: chance, and one who is told the orientation."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from lauepilot.agents.mono.thinking import Thinking
from lauepilot.envs.mono.notes import Notes
from lauepilot.envs.mono.task import Centre, DeclareUb, MonoDecision, MonoTask
from lauepilot.envs.mono.world import MonoSeen, MonoWorld
from lauepilot.perception.observation import GiveUp
from lauepilot.perception.reflections.hypotheses import WIDE_TTH_DEG, Catalogue, Hypothesis
from lauepilot.perception.reflections.looking import BIN_DEG, SEARCH_S, Path, PointLook, look_of
from lauepilot.perception.reflections.search import UbAnswer, UbSearch
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.fourcircle_twin import Sweep


class _Told(UbSearch):
    """Needs no search: only the reflections of the refinement, for what the circles' zeros are."""

    def __init__(self, task: MonoTask, u: FloatArray) -> None:
        super().__init__(task.crystal, task.instrument, task.detector)
        self._u = u
        self.catalogue.tolerance_deg = WIDE_TTH_DEG

    def _think(self) -> Generator[Path, Sweep, UbAnswer]:
        answer = yield from self._refine(Hypothesis(self._u, 0.0, 0.0), [], 0)
        return self._give_up("The reflections do not fit.", []) if answer is None else answer


class Oracle(Thinking):
    """Knows the orientation, and so needs to find nothing; it still has to measure the circles' zeros, as everybody has.

    Its time is the floor for a UB that is centred: what is above it is search and doubt.

    Parameters
    ----------
    world
        Tells the truth.
    """

    def __init__(self, world: MonoWorld) -> None:
        super().__init__("oracle", lambda task: _Told(task, world.twin.truth.u))

    def state(self) -> dict[str, Any]:
        """What the agent holds, as plain JSON values: nothing of the truth."""
        return {"agent": self.name}


class Random:
    """Looks along stretches of phi anywhere, centres what it sees, and declares what its notebook makes of it.

    Parameters
    ----------
    rng
        Its dice.
    patience
        Stretches before it gives up.
    enough
        Indexed peaks at which it declares.
    """

    def __init__(self, rng: np.random.Generator, patience: int = 100, enough: int = 6) -> None:
        self._rng = rng
        self.patience, self.enough = patience, enough
        self._task: MonoTask | None = None
        self._notes: Notes | None = None
        self._looked = 0
        self._tried: FloatArray | None = None

    def reset(self, task: MonoTask) -> None:
        """Start on a new crystal."""
        self._task = task
        catalogue = Catalogue(task.crystal, task.instrument)
        self._look = look_of(task.detector, catalogue)
        self._notes = Notes(catalogue, self._look)
        self._looked, self._tried = 0, None

    def decide(self, seen: MonoSeen) -> MonoDecision:
        """Centre what is in the notebook, declare if that is enough, else look anywhere."""
        if self._notes is None or self._task is None:
            raise ValueError("Random has no task yet: call reset(task) first.")
        if self._looked:
            self._notes.take(seen, self._tried)
        self._tried = None
        named = sum(peak.hkl is not None for peak in self._notes.peaks)
        if self._notes.ub is not None and named >= self.enough:
            return DeclareUb(self._notes.ub, f"{named} peaks have indices.")
        places = [place for place in self._notes.candidates() if place.seen]
        if places:
            self._tried = places[0].angles_deg
            return Centre(self._tried, "A hit.")
        if self._looked >= self.patience:
            return GiveUp(f"No UB after {self._looked} stretches.")
        self._looked += 1
        return self._anywhere(self._task)

    def _anywhere(self, task: MonoTask) -> Path:
        tth = self._look.best_tth()[0]
        chi, start = self._rng.uniform(-90.0, 90.0), self._rng.uniform(-180.0, 90.0)
        point = isinstance(self._look, PointLook)
        step = BIN_DEG if point else 2.0
        points = np.tile([0.5 * tth, chi, 0.0, tth], (int(90.0 / step) + 1, 1))
        points[:, 2] = np.linspace(start, start + 90.0, len(points))
        return Path(points, SEARCH_S if point else step / 6.0, "open", "anywhere")

    def state(self) -> dict[str, Any]:
        """What the agent holds, as plain JSON values."""
        return {"agent": "random", "looked": self._looked}
