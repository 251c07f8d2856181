"""The rule: index a short frame, move there, look again, correct, declare.

A frame's belief is an orientation with an error bar and a probability. The agent carries it along as ``U`` on the
holder, adds what axes may have got wrong, and asks at each step the one question: does the target lie within
tolerance, error bar included, and am I sure enough of the indexing? If so it declares; if moving helps it moves;
else it exposes, as long as is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lauepilot.agents import memory
from lauepilot.agents.bookkeeping import (
    STILL,
    AxesTrust,
    combined,
    play_covariance,
    relevant_sigma_deg,
    travel_covariance,
)
from lauepilot.perception.observation import Decision, Declare, Expose, GiveUp, Move, Observation
from lauepilot.perception.task import Task
from lauepilot.simulator.orientation import Orientation, misorientation, nearest_equivalent
from lauepilot.simulator.reach import OutOfReachError, Reach, reach

_USUAL_TRUST = AxesTrust()


@dataclass(frozen=True)
class RuleSettings:
    """Numbers of the rule.

    Attributes
    ----------
    first_share
        First exposure over the usual one: short frames often suffice, and a longer one can follow.
    growth
        Factor on the exposure when a frame did not tell enough.
    move_confidence, declare_confidence
        Probability of the indexing that a move, and the end, want. A move may be made on less: the next frame tests it.
    sigmas
        Standard deviations of the miss that must fit within the tolerance. A direction has two of them: beyond 3.7 lies
        ``exp(-3.7^2 / 2)``, one in a thousand.
    aim
        Share of the tolerance beyond which a miss is always corrected; below, only if that lets the error bar fit.
    ample
        A verifying frame is made long enough for this share of the error that would do: a third frame costs more.
    trust
        How well axes do what they say.
    agree_deg
        Two frames agree if their orientations do within this and three standard deviations.
    tries
        Exposures at one position before another is tried.
    overshoot
        Plays of an axis by which a correcting move runs past, to come back from the side of the last move.
    """

    first_share: float = 1.0 / 30.0
    growth: float = 4.0
    move_confidence: float = 0.9
    declare_confidence: float = 0.999
    sigmas: float = 3.7
    aim: float = 0.3
    ample: float = 0.75
    trust: AxesTrust = _USUAL_TRUST
    agree_deg: float = 0.5
    tries: int = 3
    overshoot: float = 4.0


class IndexAndMove:
    """The classical player; fits the `Agent` protocol.

    Parameters
    ----------
    settings
        Numbers of the rule.
    """

    name = "index-and-move"

    def __init__(self, settings: RuleSettings | None = None) -> None:
        self.settings = RuleSettings() if settings is None else settings
        self._task: Task | None = None

    def reset(self, task: Any) -> None:
        """Forget all, and start on a task (`lauepilot.perception.task.Task`, or what has its fields)."""
        self._task = Task.of(task)
        self._log_odds = 0.0
        self._holder: Orientation | None = (
            None  # U on the holder, covariance in the laboratory at the frame's axes
        )
        self._frame_axes: dict[str, float] = {}
        self._best_frame = math.inf
        self._sense: dict[str, int] = {}
        self._slack: dict[str, float] = {
            a.name: a.backlash for a in self._task.instrument.goniometer.rotations
        }
        self._queue: list[Decision] = []
        self._seen = 0
        self._unsure = 0
        self._elsewhere = 0
        self._imprecise = 0
        self._strained = False
        self._floor_deg = 0.0  # what is missed at the nearest setting, where the axes cannot do better

    @property
    def task(self) -> Task:
        """What is asked.

        Raises
        ------
        ValueError
            Before `reset`.
        """
        if self._task is None:
            raise ValueError("IndexAndMove has no task yet: call reset(task) first.")
        return self._task

    def decide(self, observation: Observation) -> Decision:
        """The next step."""
        task = self.task
        if observation.n_exposures > self._seen:
            self._seen = observation.n_exposures
            self._learn(observation)
        if self._queue:
            decision = self._queue.pop(0)
        elif observation.n_exposures == 0:
            decision = Expose(self._clip(self.settings.first_share * task.exposure_s), "A short first look.")
        else:
            decision = self._think(observation)
        if isinstance(decision, Move):
            self._note(decision, observation)
        if isinstance(decision, Expose):
            return self._affordable(decision, observation)
        return decision

    def state(self) -> dict[str, Any]:
        """What the agent holds, as plain JSON values; `restore` takes it back."""
        held = self._holder if self._task is not None else None
        return {
            "agent": self.name,
            "settings": asdict(self.settings),
            "confidence": self._confidence() if self._task is not None else None,
            "u_holder": None if held is None else held.u.tolist(),
            "covariance_rad2": None if held is None else held.covariance.tolist(),
            "frames": self._seen if self._task is not None else 0,
            "memory": None
            if self._task is None
            else memory.written({name: getattr(self, f"_{name}") for name in memory.NAMES}),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Hold again what `state` told, after `reset` on the same task: decisions then go on as if nothing had been.

        Raises
        ------
        ValueError
            If it is another agent's state, other settings', or one from before any task.
        """
        for name, value in memory.read(state, self.name, asdict(self.settings)).items():
            setattr(self, f"_{name}", value)

    # ------------------------------------------------------------------------------------------------- knowledge

    def _confidence(self) -> float:
        return 0.0 if self._holder is None else 1.0 / (1.0 + math.exp(-self._log_odds))

    def _learn(self, observation: Observation) -> None:
        """Take a new frame's belief in: agreement of frames multiplies odds, disagreement divides them."""
        belief, axes = observation.belief, observation.belief_axes
        self._unsure += 1
        if belief is None or belief.orientation is None or axes is None:
            return
        goniometer, crystal = self.task.instrument.goniometer, self.task.crystal
        z = goniometer.matrix(axes)
        p = min(max(belief.confidence, 1e-6), 1.0 - 1e-6)
        odds = math.log(p / (1.0 - p))
        # The covariance stays in the laboratory: it is turned with the axes when it is used.
        found = Orientation(z.T @ belief.orientation.u, belief.orientation.b, belief.orientation.covariance)
        if self._holder is None:
            self._best_frame = float(np.trace(found.covariance))
        else:
            expected = self._predict(axes)
            apart = float(np.rad2deg(misorientation(belief.orientation.u, expected.u, crystal.symmetry)))
            allowed = self.settings.agree_deg + 3.0 * math.hypot(
                expected.sigma_deg, belief.orientation.sigma_deg
            )
            if apart <= allowed:
                odds = min(max(self._log_odds, 0.0) + max(odds, 0.0), 20.0)
                found = self._joined(found, axes, expected)
            elif odds <= self._log_odds:
                self._log_odds -= max(odds, 0.0)
                return
            else:
                odds -= max(self._log_odds, 0.0)
                self._best_frame = float(np.trace(found.covariance))
        self._holder, self._log_odds, self._frame_axes = found, odds, dict(axes)

    def _joined(self, found: Orientation, axes: Mapping[str, float], expected: Orientation) -> Orientation:
        """A frame and what was expected of it, weighted by their errors: after a short way both count."""
        z = self.task.instrument.goniometer.matrix(axes)
        seen = Orientation(z @ found.u, found.b, found.covariance)
        near, _ = nearest_equivalent(expected.u, seen.u, self.task.crystal.symmetry)
        both = combined(Orientation(near, expected.b, expected.covariance), seen)
        # What frames share (the detector's pose) does not average out: never below half the variance of the best of them.
        self._best_frame = min(self._best_frame, float(np.trace(found.covariance)))
        widen = max(1.0, 0.5 * self._best_frame / max(float(np.trace(both.covariance)), 1e-30))
        return Orientation(z.T @ both.u, both.b, both.covariance * widen)

    def _predict(self, axes: Mapping[str, float]) -> Orientation:
        """Laboratory orientation at ``axes``, from the last belief, with all that may have gone wrong on the way."""
        if self._holder is None:
            raise ValueError("Nothing is believed yet.")
        goniometer = self.task.instrument.goniometer
        z, then = goniometer.matrix(axes), goniometer.matrix(self._frame_axes)
        turned = (z @ then.T) @ self._holder.covariance @ (z @ then.T).T
        moved = {n for n, p in axes.items() if abs(p - self._frame_axes.get(n, 0.0)) > STILL}
        slack = {n: s for n, s in self._slack.items() if n in moved}
        covariance = (
            turned
            + travel_covariance(goniometer, self._frame_axes, axes, self.settings.trust)
            + play_covariance(goniometer, axes, slack)
        )
        return Orientation(z @ self._holder.u, self._holder.b, covariance)

    # -------------------------------------------------------------------------------------------------- decisions

    def _think(self, observation: Observation) -> Decision:
        settings, task = self.settings, self.task
        p = self._confidence()
        if self._holder is None or p < settings.move_confidence:
            return self._look_again(observation, p)
        now = self._predict(observation.axes)
        miss = float(np.rad2deg(task.target.error(now.u, task.crystal)))
        sigma = relevant_sigma_deg(task.target, now.covariance)
        fits = miss + settings.sigmas * sigma <= task.tolerance_deg
        said = f"{miss:.3f} deg off, standard deviation {sigma:.3f} deg, confidence {p:.4f}"
        if fits and p >= settings.declare_confidence:
            return Declare(now, f"On target: {said}; wanted within {task.tolerance_deg:g} deg.")
        # A correction costs a second or two, a frame twice as precise usually more.
        helps = miss > 0.02 * task.tolerance_deg and settings.sigmas * sigma <= 0.9 * task.tolerance_deg
        if miss > settings.aim * task.tolerance_deg or helps:
            move = self._move(observation, miss, p)
            if move is not None:
                return move
        if p < settings.declare_confidence and fits:
            return self._look_again(observation, p)
        return self._verify(observation, sigma, said)

    def _move(self, observation: Observation, miss: float, p: float) -> Decision | None:
        """The move to the target, or as near as the axes come within the tolerance; None if it is no use."""
        task, settings = self.task, self.settings
        if self._holder is None:
            return None
        self._floor_deg = 0.0
        try:
            goal = reach(
                task.instrument.goniometer, self._holder.u, task.target, task.crystal, observation.axes,
                tolerance_deg=0.2 * task.tolerance_deg,
            )  # fmt: skip
        except OutOfReachError as error:
            goal = error.nearest
            near = float(np.rad2deg(goal.error_rad))
            if near > task.tolerance_deg:
                if p < settings.declare_confidence:
                    return self._look_again(observation, p)
                sigma = self._predict(goal.positions).sigma_deg
                looked = self._strained and self._fresh(observation)
                if looked or near > task.tolerance_deg + 3.0 * sigma:
                    return GiveUp(str(error))
                # Within the error of the axes it may be reachable after all: go to the nearest place and look.
                self._strained = True
            self._floor_deg = near
            if miss - near < 0.5 * settings.aim * task.tolerance_deg:
                return None
        if all(abs(v - observation.axes.get(n, 0.0)) < STILL for n, v in goal.positions.items()):
            return None
        return self._approach(observation, goal, miss)

    def _approach(self, observation: Observation, goal: Reach, miss: float) -> Move:
        """Go there; small moves end in the direction of the axis' last motion, so that its play stays taken up."""
        first: dict[str, float] = {}
        rotations = self.task.instrument.goniometer.rotations
        # After a large move a frame follows in any case, and sees the play as it is.
        small = max(abs(goal.positions[a.name] - observation.axes.get(a.name, 0.0)) for a in rotations) < 3.0
        for axis in rotations:
            here, there = observation.axes.get(axis.name, 0.0), goal.positions[axis.name]
            sense = self._sense.get(axis.name, 0)
            backwards = (there - here) * sense < 0.0 or sense == 0
            if axis.backlash > 0.0 and small and abs(there - here) > 0.5 * axis.resolution and backwards:
                past = there - (sense or 1) * self.settings.overshoot * axis.backlash
                first[axis.name] = min(max(past, axis.limits[0]), axis.limits[1])
        text = ", ".join(f"{n} {v:.3f}" for n, v in goal.positions.items())
        final = Move(goal.positions, f"Target is {miss:.3f} deg away: to {text} ({goal.move_time_s:.1f} s).")
        if not first:
            return final
        self._queue.append(replace(final, reason=final.reason + " Second half: play taken up from one side."))
        return Move(
            goal.positions | first,
            f"Past the goal by {self.settings.overshoot:g} plays, to come back from one side.",
        )

    def _note(self, move: Move, observation: Observation) -> None:
        """Remember which flank each axis leans on, and how much play may be left in it."""
        for axis in self.task.instrument.goniometer.rotations:
            if axis.name not in move.axes:
                continue
            travel = move.axes[axis.name] - observation.axes.get(axis.name, 0.0)
            if abs(travel) < 0.5 * axis.resolution:
                continue
            sense = 1 if travel > 0.0 else -1
            same = self._sense.get(axis.name, 0) == sense
            taken_up = abs(travel) > 2.0 * axis.backlash
            # Relative to the last frame nothing is lost if the axis leans on the flank that it leant on then.
            if taken_up:
                self._slack[axis.name] = 0.0 if same or self._queue else axis.backlash
                self._sense[axis.name] = sense
            elif not same:
                self._slack[axis.name] = axis.backlash

    def _verify(self, observation: Observation, sigma: float, said: str) -> Decision:
        """A frame as long as the precision wants it; the last frame's tells how precise a second is."""
        task, settings = self.task, self.settings
        # What the axes cannot take away leaves less for the error bar.
        room = max(task.tolerance_deg - self._floor_deg, 0.05 * task.tolerance_deg)
        wanted = 0.9 * room / settings.sigmas
        frame = (
            relevant_sigma_deg(task.target, self._holder.covariance) if self._holder is not None else wanted
        )
        seconds = observation.exposure_s * min(
            max((frame / (settings.ample * wanted)) ** 2, 1.0), settings.growth
        )
        if self._fresh(observation):
            self._imprecise += 1
            seconds = max(seconds, 2.0 * observation.exposure_s)
            if self._imprecise > 2 * settings.tries:
                return GiveUp(f"{said}: frames do not become precise enough for {task.tolerance_deg:g} deg.")
            return Expose(self._clip(seconds), f"{said}: a longer frame for a smaller error.")
        return Expose(self._clip(seconds), f"{said} by dead reckoning: look where it is.")

    def _fresh(self, observation: Observation) -> bool:
        """Whether the axes stand where the last frame was taken that counted."""
        return all(abs(v - observation.axes.get(n, 0.0)) < STILL for n, v in self._frame_axes.items())

    def _look_again(self, observation: Observation, p: float) -> Decision:
        """Not sure of the indexing: longer, then from elsewhere, then give up."""
        task, settings = self.task, self.settings
        n = 0 if observation.spots is None else len(observation.spots)
        seconds = self._clip(observation.exposure_s * settings.growth)
        said = f"{n} spots, confidence {p:.3f}"
        if self._unsure < settings.tries or observation.exposure_s < 0.5 * task.exposure_s:
            return Expose(seconds, f"{said}: expose longer.")
        if n < 4 and observation.exposure_s >= 0.999 * self._clip(math.inf):
            return GiveUp(
                f"Too weak: {n} spots after {observation.exposure_s:g} s, the longest frame allowed."
            )
        if self._elsewhere >= 4:
            return GiveUp(
                f"{said} after {self._seen} frames at {self._elsewhere + 1} orientations: no sure indexing."
            )
        self._elsewhere += 1
        self._unsure = 0
        where = task.instrument.goniometer.elsewhere(observation.axes, self._elsewhere)
        self._queue.append(Expose(observation.exposure_s, "The same exposure from another side."))
        text = ", ".join(f"{k} {v:.1f}" for k, v in where.items())
        return Move(where, f"{said}: look from another side, {text}.")

    def _clip(self, seconds: float) -> float:
        return float(min(max(seconds, 1e-3), self.task.max_exposure_s))

    def _affordable(self, decision: Expose, observation: Observation) -> Decision:
        """What the task still pays for, or the end."""
        task = self.task
        if observation.n_exposures >= task.max_exposures:
            return GiveUp(
                f"Not sure after {observation.n_exposures} exposures, which is all that is allowed."
            )
        left = min(task.max_dose_s - observation.dose_s, task.max_time_s - observation.clock_s)
        if left < 0.5 * decision.seconds:
            return GiveUp(
                f"{left:.0f} s of time or dose are left, an exposure of {decision.seconds:.0f} s is needed."
            )
        return replace(decision, seconds=min(decision.seconds, left))
