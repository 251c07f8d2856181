"""An agent as an optimizer of bluesky-adaptive 1.x, whose loop then drives it unchanged.

::

    problem = alignment_problem(camera, goniometer, agent, target)
    RE(bluesky_adaptive.optimize(problem, iterations=None))
    problem.optimizer.outcome, problem.optimizer.get_best_points()

Each of the agent's decisions is one point: the settings of all axes, and the seconds of an exposure there (0 for a move).
The loop asks for it by ``suggest``, moves or exposes, and has the frame looked at; on what comes back by ``ingest`` the
agent decides again. The decisions are those of `lauepilot.hardware.plans.align.align_crystal`, and pass the same
interlock. bluesky-adaptive ends its loop before it has recorded the last step: ``decisions`` holds all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp

from lauepilot.hardware.errors import HardwareError, InterlockError, blamed
from lauepilot.hardware.interlock import Collisions, Interlock, checked_move
from lauepilot.hardware.metadata import plain
from lauepilot.hardware.plans.align import usual_observer
from lauepilot.hardware.plans.settle import Plan, settle
from lauepilot.hardware.protocols import Agent, Camera, Goniometer, Observer, Task
from lauepilot.hardware.records.local import write_whole
from lauepilot.perception.observation import Decision, Declare, Expose, GiveUp, Move, Observation
from lauepilot.perception.plain import decision_plain
from lauepilot.simulator.frame import FrameError
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.target import Lattice, Target

#: Parameter of a point beside the axes: the exposure time, s.
EXPOSURE = "exposure_s"


@dataclass(frozen=True)
class Outcome:
    """How it ended: ``declared``, ``gave_up`` or ``refused`` (by the interlock), and why."""

    outcome: Literal["declared", "gave_up", "refused"]
    reason: str


class AlignOptimizer:
    """Fits bluesky-adaptive's ``Optimizer``, ``SupportsStoppingCriteria``, ``Checkpointable`` and ``TrialFaultAware``.

    Parameters
    ----------
    agent, observer
        Who decides, on what.
    task
        What is asked.
    camera, goniometer
        Read for where they stand; they are moved by bluesky-adaptive's plans alone.
    checkpoint_file
        Where `checkpoint` writes what the agent holds; None makes that an error.
    obstacles
        Bodies that no move may hit, beside the instrument's forbidden regions.

    Attributes
    ----------
    outcome
        None until the end.
    orientation
        The declared laboratory orientation, with its covariance; None until it was declared.
    decisions
        All that was decided, as carried out.
    failures
        Points that were suggested and not measured.
    """

    def __init__(
        self,
        agent: Agent,
        observer: Observer,
        task: Task,
        camera: Camera,
        goniometer: Goniometer,
        *,
        checkpoint_file: str | Path | None = None,
        obstacles: Sequence[Collisions] = (),
    ) -> None:
        self.agent, self.observer, self.task = agent, observer, task
        self.camera, self.goniometer = camera, goniometer
        self.outcome: Outcome | None = None
        self.orientation: Orientation | None = None
        self.decisions: list[Decision] = []
        self.failures: list[Mapping[str, Any]] = []
        self._file = None if checkpoint_file is None else Path(checkpoint_file)
        self._interlock = Interlock.of(camera.instrument, task.max_exposure_s, tuple(obstacles))
        self._measured: list[tuple[int, dict[str, float], dict[str, float]]] = []
        self._pending: dict[str, Any] | None = None
        self._next: Observation | None = None
        self._wanted: Decision | None = None
        self._n_exposures = 0
        self._began_s, self._began_dose_s = float(camera.clock_now_s), float(camera.dose_now_s)
        with blamed("agent", agent):
            agent.reset(task)
        self._think(observer.start(goniometer.position, clock_s=0.0, dose_s=0.0))

    def suggest(self, num_points: int | None = None) -> Sequence[Mapping[str, Any]]:
        """The one point that the agent wants next: all axes by name (degrees, mm), ``exposure_s``, and ``_id``.

        Raises
        ------
        ValueError
            If more than one is asked for: each decision depends on the frame before.
        HardwareError
            If the alignment has ended.
        """
        if num_points not in (None, 1):
            raise ValueError(
                f"{num_points} points were asked for; an alignment suggests one at a time, since each depends on the frame "
                "before. Use n_points=1."
            )
        if self.outcome is not None or self._wanted is None:
            raise HardwareError(
                f"The alignment has ended ({self.outcome}); make a new AlignOptimizer to begin another."
            )
        if self._pending is None:
            here = {name: float(value) for name, value in self.goniometer.position.items()}
            goal = dict(self._wanted.axes) if isinstance(self._wanted, Move) else {}
            seconds = self._wanted.seconds if isinstance(self._wanted, Expose) else 0.0
            self._pending = {"_id": len(self.decisions), **here, **goal, EXPOSURE: seconds}
        return [dict(self._pending)]

    def ingest(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Take in what became of the suggested point, and have the agent decide on it.

        Raises
        ------
        ValueError
            If it is not the point that was suggested last: an agent cannot learn from others' frames.
        """
        if self._pending is None or [point.get("_id") for point in points] != [self._pending["_id"]]:
            raise ValueError(
                f"Points {[point.get('_id') for point in points]} came; the one that was suggested, and is waited for, is "
                f"{None if self._pending is None else self._pending['_id']}."
            )
        parameters = {k: float(v) for k, v in self._pending.items() if k != "_id"}
        outcomes = {k: float(v) for k, v in points[0].items() if k != "_id"}
        self._measured.append((int(self._pending["_id"]), parameters, outcomes))
        self._pending = None
        if self.outcome is None and self._next is not None:
            self._think(self._next)

    def get_best_points(self) -> Sequence[tuple[Any, Mapping[str, Any], Mapping[str, Any]]]:
        """The last point with the highest confidence: ``_id``, parameters, outcomes; nothing before the first frame."""
        seen = [row for row in self._measured if row[2].get("exposed", 0.0) > 0.0]
        if not seen:
            return []
        return [max(seen, key=lambda row: (row[2]["confidence"], row[0]))]

    def should_stop(self) -> tuple[bool, str | None]:
        """Whether the alignment has ended, and why."""
        if self.outcome is None:
            return False, None
        return True, f"{self.outcome.outcome}: {self.outcome.reason}"

    def checkpoint(self) -> None:
        """Write decisions and the agent's state to ``checkpoint_file``, whole or not at all.

        Raises
        ------
        HardwareError
            If no file was named.
        """
        if self._file is None:
            raise HardwareError("No checkpoint_file was given to AlignOptimizer, so nothing can be written.")
        state = {
            "decisions": [decision_plain(decision) for decision in self.decisions],
            "agent": self.agent.state(),
            "points": [{"_id": n, **given, **told} for n, given, told in self._measured],
            "outcome": None if self.outcome is None else [self.outcome.outcome, self.outcome.reason],
        }
        write_whole(self._file, json.dumps(plain(state), indent=2, allow_nan=False))

    def register_failures(self, suggestions: Sequence[Mapping[str, Any]]) -> None:
        """Note points that could not be measured; the same point is suggested again, absolute as it is."""
        self.failures += [dict(suggestion) for suggestion in suggestions]

    def evaluate(self, uid: Any, suggestions: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """The evaluation function that belongs to it: look at the frame, if one was taken; outcomes in plain numbers."""
        previous, (suggestion,) = self._observation, suggestions
        axes, clock_s = self.goniometer.position, self.clock_s
        outcome = {"_id": suggestion["_id"], "exposed": 0.0}
        if suggestion[EXPOSURE] > 0.0:
            self._n_exposures += 1
            frame = self.camera.frame
            if frame is None:
                raise HardwareError(
                    f"{self.camera.name} was triggered, but holds no frame. Check its shutter and link."
                )
            outcome["exposed"] = 1.0
            try:
                with blamed("observer", self.observer):
                    self._next = self.observer.observe(
                        frame, axes=axes, clock_s=clock_s, dose_s=self.dose_s, n_exposures=self._n_exposures
                    )
            except FrameError as error:
                self.outcome = Outcome("gave_up", f"The last frame cannot be used. {error}")
                self._next = previous
        else:
            self._next = self.observer.moved(previous, axes, clock_s=clock_s)
        belief = self._next.belief
        return [
            {
                **outcome,
                "confidence": 0.0
                if belief is None or not math.isfinite(belief.confidence)
                else float(belief.confidence),
                "n_spots": 0.0 if self._next.spots is None else float(len(self._next.spots)),
                "dose_s": self.dose_s,
                "clock_s": clock_s,
            }
        ]

    @property
    def clock_s(self) -> float:
        """Seconds on the instrument's clock since the beginning."""
        return float(self.camera.clock_now_s) - self._began_s

    @property
    def dose_s(self) -> float:
        """Open-shutter seconds since the beginning."""
        return float(self.camera.dose_now_s) - self._began_dose_s

    def _think(self, observation: Observation) -> None:
        """Ask the agent, and note what it wants or how it ended."""
        self._observation = observation
        if len(self.decisions) >= self.task.max_steps:
            self.outcome = Outcome(
                "gave_up", f"Not declared after {self.task.max_steps} steps, which is all that was allowed."
            )
            return
        with blamed("agent", self.agent):
            decision = self.agent.decide(observation)
        try:
            decision = self._interlock.check(decision, self.goniometer.position, observation.axes)
        except InterlockError as error:
            self.outcome = Outcome("refused", str(error))
            return
        self.decisions.append(decision)
        if isinstance(decision, Declare):
            self.orientation = decision.orientation
            self.outcome = Outcome("declared", decision.reason or "the agent declared")
        elif isinstance(decision, GiveUp):
            self.outcome = Outcome("gave_up", decision.reason)
        elif isinstance(decision, Expose) and self.dose_s + decision.seconds > self.task.max_dose_s:
            self.outcome = Outcome(
                "gave_up", f"The next exposure would pass max_dose_s = {self.task.max_dose_s:g} s."
            )
        self._wanted = decision


def acquire(
    suggestions: Sequence[Mapping[str, Any]],
    actuators: Sequence[Any],
    sensors: Sequence[Any] | None = None,
    md: Mapping[str, Any] | None = None,
    *,
    obstacles: Sequence[Collisions] = (),
) -> Plan:
    """The acquisition plan that belongs to `AlignOptimizer`: a run with one verified move, or one exposure.

    Parameters
    ----------
    suggestions
        The one point.
    actuators, sensors
        The goniometer; the camera.
    md
        More for the start document.
    obstacles
        Bodies that no move may hit, beside the instrument's forbidden regions.

    Returns
    -------
    The run's uid.
    """
    (suggestion,), (goniometer,), (camera,) = suggestions, actuators, sensors or ()
    seconds = float(suggestion[EXPOSURE])
    goal = {name: float(suggestion[name]) for name in goniometer.chain.names}

    def inner() -> Plan:
        if seconds > 0.0:
            yield from bps.abs_set(camera.exposure_s, seconds, wait=True)
            yield from bps.trigger_and_read([camera, goniometer])
        else:
            interlock = Interlock.of(camera.instrument, math.inf, tuple(obstacles))
            yield from checked_move(goniometer, goal, interlock)
            goniometer.check_readback(goal)

    def at_rest() -> Plan:
        return (yield from settle(goniometer, camera))

    # A run within bluesky-adaptive's own; its key keeps them apart.
    start = {**dict(md or {}), "plan_name": "align_point", "suggestions": plain(list(suggestions))}
    staged = bpp.stage_wrapper(inner(), [camera, goniometer])  # type: ignore[no-untyped-call]
    run = bpp.run_wrapper(bpp.contingency_wrapper(staged, except_plan=lambda error: at_rest()), md=start)  # type: ignore[no-untyped-call]
    uid: str = yield from bpp.set_run_key_wrapper(run, "align_point")  # type: ignore[no-untyped-call]
    return uid


def alignment_problem(
    camera: Camera,
    goniometer: Goniometer,
    agent: Agent,
    target: Target,
    *,
    observer: Observer | None = None,
    crystal: Lattice | None = None,
    max_steps: int = 50,
    max_dose_s: float = 36_000.0,
    max_exposure_s: float = 3_600.0,
    checkpoint_file: str | Path | None = None,
    obstacles: Sequence[Collisions] = (),
) -> Any:
    """An ``OptimizationProblem`` of bluesky-adaptive: run it with ``optimize(problem, iterations=None)``.

    Arguments are those of `lauepilot.hardware.plans.align.align_crystal` and of `AlignOptimizer`.

    Raises
    ------
    ImportError
        If bluesky-adaptive is not installed.
    """
    try:
        from bluesky_adaptive.protocols import OptimizationProblem
    except ImportError:
        raise ImportError(
            "bluesky-adaptive 1.x is not installed. Type: pip install 'lauepilot[queue]'."
        ) from None
    for source in (agent, camera):
        crystal = getattr(source, "crystal", None) if crystal is None else crystal
    task = Task(target, crystal, camera.instrument, max_steps, max_dose_s, max_exposure_s)
    eyes = usual_observer(task) if observer is None else observer
    optimizer = AlignOptimizer(
        agent, eyes, task, camera, goniometer, checkpoint_file=checkpoint_file, obstacles=obstacles
    )

    def acquire_clear(*points_and_devices: Any, **more: Any) -> Plan:
        # What the decision was checked against is asked again before the move, and after a pause.
        return (yield from acquire(*points_and_devices, **more, obstacles=obstacles))

    return OptimizationProblem(optimizer, [goniometer], [camera], optimizer.evaluate, acquire_clear)
