"""One instrument, one run at a time, and any number of people who watch.

The RunEngine lives in a thread of its own (``context_managers=[]``: no signal handlers), so that a browser may pause and
abort it. Nobody who watches is needed: a run goes on when all browsers are closed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bluesky.run_engine import RunEngineResult
from bluesky.utils import RunEngineInterrupted

from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.page.job import Choice, Job, Maker
from lauepilot.hardware.page.journal import Journal
from lauepilot.hardware.page.rest import devices, stop, wait_for_rest
from lauepilot.hardware.page.standing import ACTIVE, BUSY, SILENT, NotNow, Sight, Standing, State, Watched
from lauepilot.hardware.plans.align import AlignResult, align_crystal
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.observation import Observation
from lauepilot.simulator.frame import Frame

#: So long after an abort the plan may take to stop the motors; then they are stopped past it, seconds.
PATIENCE_S = 0.2

#: So long a plan's cleanup may take, seconds.
CLOSING_S = 60.0

#: So long motors and shutter may take to come to rest in a pause, seconds.
REST_S = 20.0


class Session:
    """Prepares, runs, pauses and aborts, and tells how it stands.

    Parameters
    ----------
    maker
        Prepares runs.
    folder
        Where records go, a folder of its own for each run.
    consumers
        More of those who are called with each document.
    """

    def __init__(self, maker: Maker, folder: Path, consumers: Iterable[Any] = ()) -> None:
        self.maker = maker
        self.folder = Path(folder)
        self.journal = Journal()
        self.job: Job | None = None
        self._consumers = tuple(consumers)
        self._lock = threading.RLock()
        self._engine: Any = None
        self._commands: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._abort_asked: str | None = None
        self._thread: threading.Thread | None = None
        self._began = (0.0, 0.0)
        self._ended: tuple[float, float] | None = None
        self._progress = float("nan")
        self._axes: dict[str, float] = {}
        self._closed = False
        self._at = Standing(
            State.PREPARING, "Getting ready.", "", float("nan"), maker.first, {}, True, 0.0, 0.0, None, None, None, None, {},
        )  # fmt: skip
        self._begin(maker.first, run=False)

    # --------------------------------------------------------------------------------------------------- commands

    def start(self, choice: Choice) -> None:
        """Prepare and run.

        Raises
        ------
        NotNow
            If a run is on.
        ValueError
            If the choice cannot be made into a run.
        """
        with self._lock:
            self._refuse_if_busy()
        self.maker.check(choice)
        with self._lock:
            self._refuse_if_busy()
            self._begin(choice, run=True)

    def pause(self) -> None:
        """Stop motors and shutter, and wait for `resume` or `abort`; what was interrupted is done anew.

        Raises
        ------
        NotNow
            If nothing runs.
        """
        with self._lock:
            if self._at.state is not State.RUNNING or self._engine is None:
                raise NotNow(f"Only a run can be paused; the state is: {self._at.state}.")
            self._tell(State.PAUSING, "Stopping motors and shutter.")
            engine = self._engine
        self._insist(engine, lambda: engine.request_pause(defer=False), "pause")

    def resume(self) -> None:
        """Go on from the last checkpoint.

        Raises
        ------
        NotNow
            If nothing is paused.
        """
        with self._lock:
            if self._at.state is not State.PAUSED:
                raise NotNow(f"Only a paused run can go on; the state is: {self._at.state}.")
            self._tell(State.RUNNING, "")
        self.journal.say("resumed by the operator")
        self._commands.put(("resume", ""))

    def abort(self, reason: str = "aborted by the operator") -> str:
        """Stop motors and shutter now and close the record; always allowed, and says what it did.

        The plan stops them. Where it has not within `PATIENCE_S`, they are stopped past it.
        """
        with self._lock:
            state, engine = self._at.state, self._engine
            if state in BUSY and self._abort_asked is None:
                self._abort_asked = reason
                self._tell(State.ABORTING, "Stopping motors and shutter.")
                self.journal.say(f"abort: {reason}", "warning")
        if state is State.PAUSED:
            self._commands.put(("abort", reason))
        elif state is not State.PAUSING and state in ACTIVE and engine is not None:
            # Never while a pause is on its way: bluesky decides whether to wake its task before it knows of the pause, and
            # would sleep for ever, the record open. Whoever waits for the pause finds that an abort was asked for.
            command = (engine, lambda: engine.abort(reason), "abort")
            threading.Thread(target=self._insist, args=command, daemon=True).start()
        self._stop_devices(PATIENCE_S if state in ACTIVE else 0.0)
        if state in BUSY:
            return "Aborting: motors and shutter are being stopped."
        return "Nothing runs. Motors and shutter were told to stop."

    def close(self, timeout_s: float = 60.0) -> None:
        """Abort what runs, and wait for its thread."""
        self._closed = True
        if self._at.state in BUSY:
            self.abort("the page was closed")
        if self._thread is not None:
            self._thread.join(timeout_s)
        self.journal.close()

    # ---------------------------------------------------------------------------------------------------- watching

    def standing(self) -> Standing:
        """How it stands now."""
        with self._lock:
            at, job = self._at, self.job
            began, ended = self._began, self._ended
        if job is None:
            return at
        try:
            moving, exposing = bool(job.goniometer.busy), bool(job.camera.busy)
            axes = dict(job.goniometer.position)
            now = ended if ended is not None else (job.camera.clock_now_s, job.camera.dose_now_s)
        except (
            Exception
        ):  # an IOC that has gone: nobody knows where the motors are, so none is called at rest
            return replace(at, axes=self._axes, at_rest=False, activity=SILENT)
        self._axes = axes
        activity = "moving" if moving else "exposing" if exposing else "thinking"
        return replace(
            at,
            axes=axes,
            at_rest=not (moving or exposing),
            activity=activity if at.state is State.RUNNING or moving or exposing else "",
            progress=self._progress if moving or exposing else float("nan"),
            clock_s=now[0] - began[0],
            dose_s=now[1] - began[1],
        )

    def wait(self, *states: State, timeout_s: float = 60.0) -> Standing:
        """Block until one of ``states`` is reached (any end of a run if none is named).

        Raises
        ------
        TimeoutError
            If it is not after ``timeout_s``.
        """
        wanted = states or tuple(set(State) - BUSY)
        end = time.monotonic() + timeout_s
        while (at := self.standing()).state not in wanted:
            if time.monotonic() > end:
                raise TimeoutError(f"still {at.state!s} after {timeout_s:g} s ({at.words}); wanted {wanted}.")
            time.sleep(0.01)
        return at

    # ------------------------------------------------------------------------------------------------- in the thread

    def _refuse_if_busy(self) -> None:
        if self._closed:
            raise NotNow("The page is closing down.")
        if self._at.state in BUSY:
            raise NotNow(
                f"A run is on (state: {self._at.state}). Wait for its end or abort it, then start again."
            )

    def _begin(self, choice: Choice, *, run: bool) -> None:
        self._abort_asked = None
        self._at = replace(
            self._at, state=State.PREPARING, words="Getting ready (after an install some 30 s, to compile).",
            choice=choice, step=None, result=None, files={}, folder=None,
        )  # fmt: skip
        self._commands = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._work, args=(choice, run), name="lauepilot-run", daemon=True
        )
        self._thread.start()

    def _tell(self, state: State, words: str, **more: Any) -> None:
        with self._lock:
            self._at = replace(self._at, state=state, words=words, **more)

    def _saw(self, frame: Frame, observation: Observation, job: Job) -> None:
        with self._lock:
            number = 1 if self._at.sight is None else self._at.sight.number + 1
            self._at = replace(self._at, sight=Sight(number, frame, observation, job))

    def _work(self, choice: Choice, run: bool) -> None:
        recorder: LocalRecorder | None = None
        try:
            job = self.maker.make(choice)
            with self._lock:
                self.job, self._ended = job, None
                self._began = (job.camera.clock_now_s, job.camera.dose_now_s)
                if self._abort_asked is not None:
                    self._tell(State.ABORTED, "Aborted before anything moved. Press start when ready.")
                    return
                if not run:
                    self._tell(State.READY, "")
                    return
                recorder = LocalRecorder(self.folder, job.camera.instrument)
            outcome = self._run(job, recorder)
        except Exception as error:
            self.journal.say(f"{type(error).__name__}: {error}", "error")
            outcome = error
        self._end(outcome, recorder)

    def _run(self, job: Job, recorder: LocalRecorder) -> AlignResult | Exception | None:
        """Run the plan through pauses; its result, None after an abort."""
        observer = Watched(job.observer, lambda frame, seen: self._saw(frame, seen, job))
        plan = align_crystal(
            job.camera, job.goniometer, job.agent, job.target, observer=observer,
            crystal=job.crystal, md=job.md, **job.limits,
        )  # fmt: skip
        with run_engine(recorder, self._document, *self._consumers) as engine:
            engine.waiting_hook = self._waiting  # type: ignore[assignment]
            with self._lock:
                if self._abort_asked is not None:
                    return None
                self._engine = engine
                self._tell(State.RUNNING, "")
            step: Any = lambda: engine(plan)  # noqa: E731
            try:
                while True:
                    try:
                        finished = step()
                    except RunEngineInterrupted:
                        if _come_to(engine) != "paused":
                            return None
                        step = self._paused(engine)
                        continue
                    result = finished.plan_result if isinstance(finished, RunEngineResult) else None
                    return result if isinstance(result, AlignResult) else None
            finally:
                with self._lock:
                    self._engine = None

    def _paused(self, engine: Any) -> Any:
        """Wait for the operator; what to do next."""
        job = self.job
        moving = [] if job is None else wait_for_rest(job, REST_S)  # motors of EPICS need a while
        words = (
            f"Not at rest: {', '.join(moving)}. Look before you resume."
            if moving
            else "Motors and shutter are at rest."
        )
        with self._lock:
            if self._abort_asked is None:
                self._tell(State.PAUSED, f"{words} Resume goes on where it stopped.")
                self.journal.say("paused by the operator")
            else:  # the abort came while the pause was on its way, and may have met neither
                self._commands.put(("abort", self._abort_asked))
        command, reason = self._commands.get()
        return engine.resume if command == "resume" else lambda: engine.abort(reason)

    def _end(self, outcome: AlignResult | Exception | None, recorder: LocalRecorder | None) -> None:
        job, folder = self.job, None if recorder is None else recorder.path
        files: Mapping[str, str] = {}
        if job is not None:
            with suppress(Exception):  # who does not answer has no clock either
                self._ended = (job.camera.clock_now_s, job.camera.dose_now_s)
        moving = [] if job is None or recorder is None else wait_for_rest(job, 1.0)
        if moving:
            words = "" if outcome is None or isinstance(outcome, AlignResult) else f"{outcome} "
            words += (
                f"Not known to be at rest: {', '.join(moving)}. Look; if it moves, use the emergency stop."
            )
            self._tell(State.FAILED, words, folder=folder)
        elif self._abort_asked is not None and not isinstance(outcome, AlignResult):
            where = "" if folder is None else " The record up to here is kept."
            self._tell(
                State.ABORTED,
                f"{self._abort_asked[:1].upper()}{self._abort_asked[1:]}.{where}",
                folder=folder,
            )
        elif isinstance(outcome, AlignResult):
            state = {"declared": State.DECLARED, "gave_up": State.GAVE_UP, "refused": State.REFUSED}[
                outcome.outcome
            ]
            words = outcome.reason
            if job is not None and folder is not None:
                try:
                    files = job.finish(outcome, folder)
                except Exception as error:  # the run has ended as it has; what is missing is told
                    words += f" Its files could not all be written: {error}"
                    self.journal.say(f"writing beside the record: {error}", "error")
            self._tell(state, words, result=outcome, folder=folder, files=files)
        else:
            words = str(outcome) if outcome is not None else "The run ended without a result."
            self._tell(State.FAILED, words, folder=folder)

    # ------------------------------------------------------------------------------------------ devices and documents

    def _insist(self, engine: Any, command: Callable[[], object], name: str) -> None:
        """Give the RunEngine a command from outside, again while its plan has not quite begun."""
        end = time.monotonic() + 10.0
        while self._engine is engine and time.monotonic() < end:
            if engine.state == "paused":  # whoever waits there has been told, or will ask
                return
            try:
                command()
            except Exception as error:  # not begun, or just over (bluesky's TransitionError)
                if engine.state != "idle":
                    self.journal.say(f"{name}: {error}", "error")
                    return
                time.sleep(0.005)
            else:
                return

    def _stop_devices(self, patience_s: float) -> None:
        """Give the plan its time, then stop past it what is not at rest; without patience, all of it and at once."""
        job, engine = self.job, self._engine
        if job is None:
            return
        left = wait_for_rest(job, patience_s) if patience_s > 0.0 else [d.name for d in devices(job)]
        for device in devices(job):
            if device.name in left:
                loop = None if engine is None else engine.loop
                stop(device, loop, lambda text: self.journal.say(text, "error"))

    def _document(self, name: str, doc: Mapping[str, Any]) -> None:
        step = self.journal.document(name, doc)
        if step is not None:
            with self._lock:
                self._at = replace(self._at, step=step)

    def _waiting(self, statuses: Any) -> None:
        """The RunEngine's waiting hook: called with what is waited for, and with None at the end."""
        self._progress = float("nan")
        for status in statuses or ():
            if hasattr(status, "watch"):
                status.watch(self._advanced)

    def _advanced(self, *, fraction: float | None = None, **_: Any) -> None:
        if fraction is not None:
            self._progress = 1.0 - float(fraction)  # bluesky counts what is left


def _come_to(engine: Any) -> str:
    """The RunEngine's state once it is paused or over: its cleanup may still be running."""
    end = time.monotonic() + CLOSING_S
    while (state := str(engine.state)) not in ("paused", "idle", "panicked") and time.monotonic() < end:
        time.sleep(0.005)
    return state
