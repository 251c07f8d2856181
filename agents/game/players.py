"""Players of the game: one who knows nothing, one who knows everything, and one who solves what the picture shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lauepilot.agents.game.plan import best_actions, shortest
from lauepilot.agents.game.solve import Guess, follow, frames_of, nats, not_met, search, sky_of
from lauepilot.agents.game.spots import find
from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.rules import NAMES, STEP_DEG, TOLERANCE_DEG
from lauepilot.perception.observation import SpotList
from lauepilot.perception.unknown.settle import Batch, joined
from lauepilot.simulator.conventions import FloatArray, axis_rotation

Action = NDArray[np.float32]
Observation = Mapping[str, NDArray[Any]]

#: Nats a spot: from which on a search ends; from which on its best answer is believed, and only followed from then on; below
#: which it is no longer believed. Right answers were seen from 4 (spoilt pictures) to 7.4, false ones seldom above 4.
SURE, ENOUGH, HOLDS = 4.3, 4.0, 3.6
#: Nats a spot from which on one picture's answer is enough.
CLEAR = 4.6
#: So many nats a spot less in later pictures, and an answer is doubted: the right one explains all alike.
FALLS = 0.35
#: Pictures that are joined at most: the last ones.
JOINED = 3
#: Degrees within the tolerance at which an axis must have won the game, if it were one.
REFUTED_DEG = 0.2


class Player(Protocol):
    """Who plays one game after the other."""

    def reset(self) -> None:
        """A new game begins."""

    def decide(self, observation: Observation) -> Action:
        """The next action (2,)."""


class Random:
    """Turns anywhere.

    Parameters
    ----------
    rng
        Its dice.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def reset(self) -> None:
        """There is nothing to forget."""

    def decide(self, observation: Observation) -> Action:
        """Any action, each as likely."""
        return self._rng.uniform(-1.0, 1.0, 2).astype(np.float32)


class Oracle:
    """Knows the truth and takes the shortest way: the floor of moves.

    Parameters
    ----------
    batch, game
        Whose truth.
    """

    def __init__(self, batch: BatchGame, game: int = 0) -> None:
        self._batch, self._game = batch, game

    def reset(self) -> None:
        """There is nothing to forget."""

    def decide(self, observation: Observation) -> Action:
        """The first step of the shortest way."""
        k = slice(self._game, self._game + 1)
        actions, _ = best_actions(self._batch.true_u()[k], self._batch.true_family()[k])
        return np.asarray(actions[0])


class SolveAndMove:
    """Solves the picture for the crystal's axes and takes the shortest way; joins pictures where one does not decide.

    It knows the rules: three families of lattices, a film at 39 to 61 mm, turns about two axes. Of lattice constants,
    structure factors and numbers of spots it knows nothing; it uses the spots' places alone.

    Parameters
    ----------
    family
        Told beforehand, or None.
    """

    def __init__(self, family: str | None = None) -> None:
        if family is not None and family not in NAMES:
            raise ValueError(f"family must be None or one of {', '.join(NAMES)}; {family!r} came.")
        self.families: Sequence[str] = NAMES if family is None else (family,)
        self.reset()

    def reset(self) -> None:
        """A new game begins."""
        self._spots: list[SpotList] = []
        self._turns: list[FloatArray] = []
        self.guess = Guess.none()
        #: Searches made in this game: one, unless a picture does not decide.
        self.searches = 0

    def decide(self, observation: Observation) -> Action:
        """Look, solve or follow, and take the first step of the shortest way."""
        moved = np.deg2rad(STEP_DEG) * np.asarray(observation["moved"], dtype=float)
        x, y = axis_rotation((1, 0, 0), moved[0]), axis_rotation((0, 1, 0), moved[1])
        before = self._turns[-1] if self._turns else np.eye(3)
        self._turns.append(x @ y @ before)
        self._spots.append(find(observation["image"]))
        self._look()
        if not self.guess.found:
            # Nothing to go by: another view.
            return np.array([1.0, 1.0], dtype=np.float32)
        return shortest(self.guess.axes() @ self._turns[-1].T)[0]

    def _look(self) -> None:
        """Bring the guess up to the newest picture."""
        frames = frames_of(self._spots[-JOINED:], self._turns[-JOINED:])
        together = sky_of(frames)
        if together is None:
            return
        believed = self.guess.nats >= ENOUGH
        kept = self._open(follow(self.guess.batch, together))
        now = nats(kept, together)
        # Lattices that nearly coincide come close to the right one: another search, on another picture, shows them up.
        clear = self.guess.nats >= CLEAR or self.searches >= 2
        if believed and clear and now >= max(HOLDS, self.guess.nats - FALLS):
            self.guess = Guess(kept.take(np.arange(min(len(kept), 3))), max(now, self.guess.nats))
            return
        self.searches += 1
        alone = sky_of(frames[-1:])
        found = kept if alone is None else joined(kept, self._open(search(alone, SURE, self.families)))
        found = self._open(follow(found, together))
        if len(frames) > 1 and nats(found, together) < ENOUGH:
            found = self._open(follow(joined(found, search(together, SURE, self.families)), together))
        self.guess = Guess(found, nats(found, together))

    def _open(self, batch: Batch) -> Batch:
        """Without those whose axis would have won the game already."""
        return not_met(batch, self._turns[-1], TOLERANCE_DEG - REFUTED_DEG)
