"""The alignment as a Bluesky plan: decide, look twice, move or expose, check, observe; until the agent declares.

::

    RE = RunEngine(call_returns_result=True)
    result = RE(align_crystal(camera, goniometer, agent, target)).plan_result

The plan has no opinion on crystals, the agent no hold on motors. It ends with motors at rest and the run closed,
whatever happens: on ``RE.abort``, ``RE.stop``, a failed device or an exception of the agent, exit status and reason in
the stop document are those that happened.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import FailedStatus

from lauepilot.hardware.decisions import DecisionLog
from lauepilot.hardware.errors import HardwareError, InterlockError, blamed
from lauepilot.hardware.interlock import Collisions, Interlock, checked_move
from lauepilot.hardware.metadata import merged, run_metadata
from lauepilot.hardware.plans.settle import Plan, close_run, ready, settle
from lauepilot.hardware.protocols import Agent, Camera, Goniometer, Observer, Task
from lauepilot.perception.observation import Decision, Declare, Expose, GiveUp, Move, Observation
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.frame import FrameError
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.target import Lattice, Target

logger = logging.getLogger("lauepilot.hardware")


@dataclass(frozen=True, eq=False)
class Step:
    """One decision.

    Attributes
    ----------
    decision
        What was decided.
    axes
        Read-back before it was carried out, degrees and mm.
    clock_s, dose_s
        Time and open-shutter seconds since the start, before it was carried out.
    confidence
        Of the belief it was based on; NaN before the first frame.
    """

    decision: Decision
    axes: Mapping[str, float]
    clock_s: float
    dose_s: float
    confidence: float


@dataclass(frozen=True, eq=False)
class AlignResult:
    """How an alignment ended.

    Attributes
    ----------
    outcome
        ``declared``; ``gave_up`` (the agent, a limit on steps or dose, a useless frame); ``refused`` (a decision
        that the interlock did not let through).
    reason
        In words.
    orientation
        The declared laboratory orientation ``Z U``, else what was believed last, with covariance; None if nothing.
        Planes are named as in the target: of symmetry's equivalents, its indices as written lie nearest to their place.
    orientation_axes
        Read-back at which ``orientation`` holds, degrees and mm: ``axes`` if it was declared, else those of the last frame
        with a belief, which the agent may have left since. None without an orientation.
    steps
        All decisions in order.
    axes
        Read-back at the end, degrees and mm.
    clock_s, dose_s
        Time on the instrument's clock and open-shutter seconds since the start.
    run_uid
        Of the run in the records.
    """

    outcome: Literal["declared", "gave_up", "refused"]
    reason: str
    orientation: Orientation | None
    orientation_axes: Mapping[str, float] | None
    steps: tuple[Step, ...]
    axes: Mapping[str, float]
    clock_s: float
    dose_s: float
    run_uid: str


@dataclass(frozen=True, eq=False)
class Before:
    """Where an earlier run was left: what `lauepilot.hardware.resume` finds in its record.

    Attributes
    ----------
    uid
        Of that run.
    steps
        What was decided and carried out.
    observation
        What the next decision is made on.
    pending
        A decision that was taken and not carried out; None to ask the agent.
    agent_state
        What the agent held after its last decision; None to let it begin anew.
    n_exposures, clock_s, dose_s
        Frames, time and open-shutter seconds until then.
    """

    uid: str
    steps: tuple[Step, ...]
    observation: Observation
    pending: Decision | None
    agent_state: Mapping[str, Any] | None
    n_exposures: int
    clock_s: float
    dose_s: float


@dataclass(frozen=True)
class _End:
    outcome: Literal["declared", "gave_up", "refused"]
    reason: str


def align_crystal(
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
    tolerance: Mapping[str, float] | None = None,
    md: Mapping[str, Any] | None = None,
    before: Before | None = None,
    obstacles: Sequence[Collisions] = (),
) -> Plan:
    """Bring a crystal to a target; a Bluesky plan.

    Parameters
    ----------
    camera, goniometer
        Devices of any kind: on the Twin (`connect`) or on process variables (`load_devices`).
    agent
        Decides; ``agent.reset`` gets a `Task`.
    target
        Where the crystal is wanted.
    observer
        Turns frames into observations; None makes the usual one for the camera's instrument and the crystal.
    crystal
        Which crystal; None takes ``agent.crystal``, else ``camera.crystal``, which `connect` sets.
    max_steps, max_dose_s, max_exposure_s
        Limits of decisions, of open-shutter seconds in all, and of one exposure. The first two end with ``gave_up``.
    tolerance
        How far a read-back may be from its setpoint, by axis; the rest as in `Goniometer.tolerances`.
    md
        More for the start document; what the plan itself writes there is kept.
    before
        Where an earlier run was left, to go on from there: see `lauepilot.hardware.resume.resume_run`.
    obstacles
        Bodies that no move may hit, beside the instrument's forbidden regions.

    Returns
    -------
    An `AlignResult`: the plan's return value.

    Raises
    ------
    MotionError
        If an axis did not arrive.
    HardwareError
        If a device failed.
    """
    if max_steps < 1 or not max_dose_s > 0.0 or not max_exposure_s > 0.0:
        raise ValueError(
            f"max_steps, max_dose_s and max_exposure_s must be positive; got {max_steps}, {max_dose_s}, {max_exposure_s}."
        )
    for source in (agent, camera):
        crystal = getattr(source, "crystal", None) if crystal is None else crystal
    task = Task(target, crystal, camera.instrument, max_steps, max_dose_s, max_exposure_s)
    eyes = usual_observer(task) if observer is None else observer
    loop = _Loop(camera, goniometer, agent, eyes, task, dict(tolerance or {}), before, tuple(obstacles))
    metadata = merged(run_metadata(task, agent, camera, goniometer, obstacles), md)

    def at_rest() -> Plan:
        return (yield from settle(goniometer, camera))

    inner = bpp.contingency_wrapper(loop.run(metadata), final_plan=at_rest)  # type: ignore[no-untyped-call]
    try:
        result = yield from bpp.stage_wrapper(inner, [camera, goniometer])  # type: ignore[no-untyped-call]
    except FailedStatus as error:
        # str() of this exception is the repr of a status; what a person needs is its cause.
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
    return result


class _Loop:
    """The loop with what it holds between steps."""

    def __init__(
        self,
        camera: Camera,
        goniometer: Goniometer,
        agent: Agent,
        observer: Observer,
        task: Task,
        tolerance: dict[str, float],
        before: Before | None = None,
        obstacles: tuple[Collisions, ...] = (),
    ) -> None:
        self.before = before
        self.camera, self.goniometer, self.agent, self.observer, self.task = (
            camera,
            goniometer,
            agent,
            observer,
            task,
        )
        self.tolerance = tolerance
        self.interlock = Interlock.of(camera.instrument, task.max_exposure_s, obstacles)
        self.log = DecisionLog(name="align")
        self.steps: list[Step] = []
        self.n_exposures = 0
        self.began_s, self.began_dose_s = 0.0, 0.0  # read when the run begins

    @property
    def clock_s(self) -> float:
        return float(self.camera.clock_now_s - self.began_s)

    @property
    def dose_s(self) -> float:
        return float(self.camera.dose_now_s - self.began_dose_s)

    def run(self, metadata: Mapping[str, Any]) -> Plan:
        self.began_s, self.began_dose_s = self.camera.clock_now_s, self.camera.dose_now_s
        if self.before is not None:
            self.began_s -= self.before.clock_s
            self.began_dose_s -= self.before.dose_s
        # The clocks' zero stands in the record, so that a run can be taken up again from there.
        zero = {"clock_s": self.began_s, "dose_s": self.began_dose_s}
        uid = yield from bps.open_run({**metadata, "began_at": zero})
        observation, pending = self._begin()
        end: _End | None = None
        for _ in range(self.task.max_steps - len(self.steps)):
            yield from bps.checkpoint()
            # Since a decision that was left undone, the axes may have gone a part of their way.
            seen = None if pending is not None else observation.axes
            with blamed("agent", self.agent):
                decision = self.agent.decide(observation) if pending is None else pending
            pending = None
            decision, end = yield from self._judge(decision, observation, seen)
            if end is not None:
                break
            try:
                observation = yield from self._carry_out(decision, observation)
            except FrameError as error:
                end = _End("gave_up", f"The last frame cannot be used. {error}")
                break
            except InterlockError as error:  # after a pause: axes and regions are not as they were
                end = _End("refused", str(error))
                break
        if end is None:
            end = _End(
                "gave_up", f"Not declared after {self.task.max_steps} steps, which is all that was allowed."
            )
        # No clause for failures: a run left open is closed by the RunEngine, with the true exit status and reason.
        status = "fail" if end.outcome == "refused" else "success"
        yield from close_run(status, f"{end.outcome}: {end.reason}")
        return self._result(end, observation, str(uid))

    def _begin(self) -> tuple[Observation, Decision | None]:
        """The first observation, and a decision that an earlier run left undone."""
        self.agent.reset(self.task)
        if self.before is None:
            return self.observer.start(self.goniometer.position, clock_s=0.0, dose_s=0.0), None
        self.steps, self.n_exposures = list(self.before.steps), self.before.n_exposures
        if self.before.agent_state is not None:
            self.agent.restore(self.before.agent_state)  # type: ignore[attr-defined]
        return self.before.observation, self.before.pending

    def _judge(self, decision: Decision, observation: Observation, seen: Mapping[str, float] | None) -> Plan:
        """Look at a decision, record it; what of it may be carried out, and whether it is the end."""
        end: _End | None = None
        yield from ready(self.goniometer, self.camera)
        try:
            decision = self.interlock.check(decision, self.goniometer.position, seen)
        except InterlockError as error:
            end = _End("refused", str(error))
        if end is None:
            end = self._ending(decision)
        confidence = float("nan") if observation.belief is None else observation.belief.confidence
        self.steps.append(Step(decision, dict(observation.axes), self.clock_s, self.dose_s, confidence))
        verdict = f"refused: {end.reason}" if end is not None and end.outcome == "refused" else "allowed"
        with blamed("agent", self.agent):
            self.log.fill(len(self.steps), decision, observation, verdict, self.agent.state())
        yield from bps.create("decisions")
        yield from bps.read(self.log)
        yield from bps.read(self.goniometer)
        yield from bps.save()
        return decision, end

    def _ending(self, decision: Decision) -> _End | None:
        if isinstance(decision, Declare):
            return _End("declared", decision.reason or "the agent declared")
        if isinstance(decision, GiveUp):
            return _End("gave_up", decision.reason)
        if isinstance(decision, Expose) and self.dose_s + decision.seconds > self.task.max_dose_s:
            return _End(
                "gave_up",
                f"The next exposure of {decision.seconds:g} s would bring the dose to "
                f"{self.dose_s + decision.seconds:g} s; {self.task.max_dose_s:g} s (max_dose_s) are allowed.",
            )
        return None

    def _carry_out(self, decision: Decision, observation: Observation) -> Plan:
        yield from bps.checkpoint()
        yield from ready(self.goniometer, self.camera)
        if isinstance(decision, Move):
            wanted = {name: float(value) for name, value in decision.axes.items()}
            yield from checked_move(self.goniometer, wanted, self.interlock)
            self.goniometer.check_readback(wanted, self.tolerance)
            return self.observer.moved(observation, self.goniometer.position, clock_s=self.clock_s)
        if isinstance(decision, Expose):
            yield from bps.abs_set(self.camera.exposure_s, float(decision.seconds), wait=True)
            yield from bps.trigger_and_read([self.camera, self.goniometer])
            self.n_exposures += 1
            frame = self.camera.frame
            if frame is None:
                raise HardwareError(
                    f"{self.camera.name} was triggered, but holds no frame. Check its shutter and link."
                )
            axes, clock_s, dose_s = self.goniometer.position, self.clock_s, self.dose_s
            with blamed("observer", self.observer):
                return self.observer.observe(
                    frame, axes=axes, clock_s=clock_s, dose_s=dose_s, n_exposures=self.n_exposures
                )
        raise InterlockError(f"{type(decision).__name__} cannot be carried out.")

    def _result(self, end: _End, observation: Observation, uid: str) -> AlignResult:
        belief = observation.belief
        orientation = None if belief is None else belief.orientation
        # A belief is that of its frame; a declaration speaks of now.
        then = observation.axes if observation.belief_axes is None else observation.belief_axes
        last = self.steps[-1].decision
        if end.outcome == "declared" and isinstance(last, Declare):
            orientation, then = last.orientation, observation.axes
        if orientation is not None:
            orientation = self._as_written(orientation, then)
        logger.info("%s: %s", end.outcome, end.reason)
        return AlignResult(
            end.outcome,
            end.reason,
            orientation,
            None if orientation is None else dict(then),
            tuple(self.steps),
            self.goniometer.position,
            self.clock_s,
            self.dose_s,
            uid,
        )

    def _as_written(self, orientation: Orientation, then: Mapping[str, float]) -> Orientation:
        """Of the orientations that symmetry makes alike, the one in which the target's indices, as written, come to lie
        where the target wants them at the end.
        """
        if self.task.crystal is None:
            return orientation
        chain = self.goniometer.chain
        now = chain.matrix(self.goniometer.position) @ chain.matrix(then).T @ orientation.u
        return orientation.relabelled(self.task.target.as_written(now, self.task.crystal))


def usual_observer(task: Task) -> Observer:
    """The observer of perception, for the task's crystal and instrument."""
    if not isinstance(task.crystal, Crystal):
        raise ValueError(
            "align_crystal needs to know the crystal: give crystal=load_crystal(...) here or to connect(...), or an "
            f"agent with .crystal, or observer=...; got {task.crystal!r}."
        )
    # Here, since it loads the indexer's compiled code, which a plan with its own observer does not need.
    from lauepilot.perception.observer import Observer as UsualObserver

    return UsualObserver(task.crystal, task.instrument)
