"""A search that thinks (`UbSearch.think`) as a player of the four-circle game."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from lauepilot.envs.mono.task import DeclareUb, MonoDecision, MonoTask
from lauepilot.envs.mono.world import MonoSeen
from lauepilot.perception.observation import GiveUp
from lauepilot.perception.reflections.looking import Path
from lauepilot.perception.reflections.search import UbAnswer, UbSearch
from lauepilot.simulator.fourcircle_twin import Sweep


class Thinking:
    """Plays what a search asks for, and declares its answer.

    Parameters
    ----------
    name
        As `state` tells it.
    make
        Makes a search for a task; a new one for every crystal.
    """

    def __init__(self, name: str, make: Callable[[MonoTask], UbSearch]) -> None:
        self.name = name
        self._make = make
        self.search: UbSearch | None = None
        self._thinking: Generator[Path, Sweep, UbAnswer] | None = None
        self._begun = False

    def reset(self, task: MonoTask) -> None:
        """Start on a new crystal."""
        self.search = self._make(task)
        self._thinking = self.search.think()
        self._begun = False

    def decide(self, seen: MonoSeen) -> MonoDecision:
        """The path that the search wants, or its answer.

        Raises
        ------
        ValueError
            If there is no task yet, or the last path was not counted.
        """
        if self._thinking is None:
            raise ValueError(f"{self.name} has no task yet: call reset(task) first.")
        try:
            if not self._begun:
                self._begun = True
                return next(self._thinking)
            if seen.sweep is None:
                raise ValueError(f"{self.name} asked for a path, and got no counts: it cannot go on.")
            return self._thinking.send(seen.sweep)
        except StopIteration as end:
            answer: UbAnswer = end.value
            return GiveUp(answer.reason) if answer.ub is None else DeclareUb(answer.ub, answer.reason)

    def state(self) -> dict[str, Any]:
        """What the agent holds, as plain JSON values: what it did, in words."""
        steps = [] if self.search is None else self.search.steps
        return {"agent": self.name, "steps": [[s.kind, s.what, list(s.angles_deg), s.rate] for s in steps]}


class Rule(Thinking):
    """The rule: `UbSearch`, stretches by belief, ways and reflections by what they tell a second."""

    def __init__(self) -> None:
        super().__init__("ub-search", lambda task: UbSearch(task.crystal, task.instrument, task.detector))
