"""``lauepilot align``: the Bluesky plan on a simulated instrument, watched, recorded and compared with the truth."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from bluesky.run_engine import RunEngineResult
from bluesky.utils import RunEngineInterrupted
from rich.console import Console

from lauepilot.agents.baselines import Oracle, Random
from lauepilot.agents.index_and_move import IndexAndMove
from lauepilot.cli.index import index_spots, with_units
from lauepilot.cli.live import Bars, LiveTable, show_end
from lauepilot.cli.output import Exit, UserError, print_json, run_folder, whole_folder, write_json
from lauepilot.cli.report import draw, ub_record
from lauepilot.cli.simulate import fault_level
from lauepilot.cli.tables import console
from lauepilot.cli.targets import parse_target
from lauepilot.envs.world import World
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.metadata import versions
from lauepilot.hardware.plans.align import AlignResult, align_crystal
from lauepilot.hardware.protocols import Agent
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.files.readers import read_frame
from lauepilot.perception.indexing.indexer import IndexingError
from lauepilot.perception.indexing.labels import labelled_like
from lauepilot.perception.observation import Declare, Expose, Move
from lauepilot.perception.observer import Observer
from lauepilot.perception.spots.find import find_spots
from lauepilot.perception.task import Task
from lauepilot.pictures.pattern import draw_pattern
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal, load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import Instrument, load_instrument
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.twin import Twin

AGENTS = ("index-and-move", "oracle", "random")

#: Orientations that are tried until one is reachable.
_TRIES = 300


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything that stands ready before the run.

    Attributes
    ----------
    world
        Twin, observer and task; the referee.
    agent
        Who decides, and ``agent_name`` as typed.
    target_text, faults, seed, reachable
        As typed or drawn, and whether the true target is within reach.
    """

    world: World
    agent: Agent
    agent_name: str
    target_text: str
    faults: str
    seed: int
    reachable: bool

    @property
    def task(self) -> Task:
        """What is asked."""
        return self.world.task


@dataclass(frozen=True, eq=False)
class Ended:
    """How a run ended, the ways included that leave no `AlignResult`."""

    outcome: Literal["declared", "gave_up", "refused", "failed", "aborted"]
    reason: str
    result: AlignResult | None
    problem: Exception | None
    wall_s: float


def prepare(
    crystal: str,
    instrument: str,
    target: str,
    seed: int | None,
    agent: str,
    faults: str,
    exposure_s: float | None = None,
) -> Setup:
    """Crystal, instrument, Twin and agent; without a seed, one is drawn from which the target can be reached.

    ``exposure_s`` takes the place of the instrument's usual exposure.

    Raises
    ------
    CrystalError, InstrumentError, UserError
        If something named does not exist, or nothing can be reached at all.
    """
    if agent not in AGENTS:
        raise UserError(f"--agent is one of {', '.join(AGENTS)}; {agent!r} came.")
    level, wanted = fault_level(faults), parse_target(target)
    body, machine = load_crystal(crystal), load_instrument(instrument)
    if exposure_s is not None:
        machine = replace(machine, exposure_s=exposure_s)
    try:
        wanted.laboratory_u(body.b)
    except ValueError as error:
        raise UserError(f"--target {target!r}: {error}") from None
    task = Task.usual(body, machine, wanted)
    number = seed if seed is not None else _new_seed()
    twin = Twin(body, machine, rng=np.random.default_rng(number), faults=level)
    world = World(twin, Observer(body, machine), task)
    if seed is None:
        for _ in range(_TRIES):
            if world.reachable():
                break
            number = _new_seed()
            world.reset(np.random.default_rng(number))
        else:
            raise UserError(
                f"None of {_TRIES} random orientations of {crystal} lets {machine.name!r} reach {target!r}. "
                "Choose another --target or --instrument, or give a --seed to see why."
            )
    players: dict[str, Any] = {
        "index-and-move": IndexAndMove,
        "oracle": lambda: Oracle(world),
        "random": lambda: Random(np.random.default_rng([number, 1])),
    }
    return Setup(world, players[agent](), agent, target, faults, number, world.reachable())


def warm_up(setup: Setup) -> None:
    """Look at a frame of another, perfect Twin, so that kernels are compiled before the clock runs."""
    task = setup.task
    other = Twin(task.crystal, task.instrument, rng=np.random.default_rng(0), faults=Faults.none())
    frame = other.expose(0.05 * task.exposure_s)
    setup.world.observer.observe(frame, axes=other.positions, clock_s=0.0, dose_s=0.0, n_exposures=1)


def _new_seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])


def run_align(
    *,
    crystal: str,
    instrument: str,
    target: str,
    seed: int | None,
    agent: str,
    faults: str,
    speed: float,
    out: Path | None,
    as_json: bool,
) -> int:
    """Play, record and report; the exit code."""
    if not np.isfinite(speed):
        raise UserError(f"--speed must be a finite number; {speed} came.")
    final = run_folder(out, crystal if "/" not in crystal else Path(crystal).stem)
    screen = None if as_json else console()
    with (
        screen.status("getting ready (after an install some 30 s, to compile)")
        if screen is not None
        else nullcontext()
    ):
        setup = prepare(crystal, instrument, target, seed, agent, faults)
        warm_up(setup)
    if screen is not None:
        screen.print(
            f"[bold]{setup.task.crystal.name}[/] on [bold]{setup.task.instrument.name}[/] (simulated), target {target}, "
            f"agent {agent}, faults {faults}, seed {setup.seed}",
            markup=True,
        )
    with whole_folder(final) as folder:
        ended = play(setup, folder, speed, screen)
        summary = write_records(setup, ended, folder)
    summary["folder"] = str(final)
    if ended.problem is not None:
        if screen is not None:
            screen.print(f"The record up to there: {final}/", soft_wrap=True)
        raise ended.problem
    if as_json:
        print_json(summary)
    elif screen is not None:
        show_end(screen, summary)
    codes = {
        "declared": Exit.DONE,
        "gave_up": Exit.GAVE_UP,
        "refused": Exit.INSTRUMENT,
        "aborted": Exit.INTERRUPTED,
    }
    return codes[ended.outcome]


def play(setup: Setup, folder: Path, speed: float, screen: Console | None) -> Ended:
    """Run the plan; whatever happens, the records of the run are in ``folder`` afterwards."""
    for name in (
        "bluesky",
        "lauepilot.hardware",
    ):  # what goes wrong is told once, in one line, and is in the records
        logging.getLogger(name).addHandler(logging.NullHandler())
    world, task = setup.world, setup.task
    camera, goniometer = connect(world.twin, realtime_factor=speed)
    recorder = LocalRecorder(folder, task.instrument)
    consumers: list[Any] = [recorder]
    if screen is not None:
        consumers.append(LiveTable(screen, task.crystal, task.instrument, task.target))
    plan = align_crystal(
        camera, goniometer, setup.agent, task.target, observer=world.observer, crystal=task.crystal,
        max_steps=task.max_steps, max_dose_s=task.max_dose_s, max_exposure_s=task.max_exposure_s,
        md={"seed": setup.seed, "simulated": True, "faults": setup.faults},
    )  # fmt: skip
    began = time.monotonic()
    result: AlignResult | None = None
    problem: Exception | None = None
    aborted = False
    try:
        with ExitStack() as stack:
            main = threading.current_thread() is threading.main_thread()
            engine = stack.enter_context(run_engine(*consumers, in_main_thread=main))
            if screen is not None:
                engine.waiting_hook = stack.enter_context(Bars(screen))  # type: ignore[assignment]
            try:
                finished = engine(plan)
                result = finished.plan_result if isinstance(finished, RunEngineResult) else None
            except RunEngineInterrupted:
                aborted = True
                engine.abort("interrupted by Ctrl-C")  # type: ignore[no-untyped-call]
    except Exception as error:  # a device's or an agent's failure belongs into the record before it is raised
        problem = error
    _flatten(folder, recorder.path)
    wall = time.monotonic() - began
    if result is not None:
        return Ended(result.outcome, result.reason, result, None, wall)
    if aborted:
        return Ended("aborted", "Interrupted by Ctrl-C; the motors were stopped.", None, None, wall)
    return Ended("failed", str(problem), None, problem, wall)


def _flatten(folder: Path, records: Path | None) -> None:
    """The recorder makes a folder for each run; here there is one run, and its files lie beside the others."""
    if records is None or not records.is_dir():
        return
    for item in sorted(records.iterdir()):
        item.rename(folder / item.name)
    records.rmdir()


def write_records(setup: Setup, ended: Ended, folder: Path) -> dict[str, Any]:
    """UB, pictures and summary beside the run's documents and frames; the summary."""
    frames = sorted((folder / "frames").glob("*.h5")) if (folder / "frames").is_dir() else []
    files: dict[str, Any] = {"frames": [f"frames/{frame.name}" for frame in frames]}
    ends = {"first": 0, "last": -1} if len(frames) > 1 else {"first": 0} if frames else {}
    for name, which in ends.items():
        try:
            told = name if len(frames) > 1 else "only"
            _picture(setup, ended.result, frames[which], folder / f"{name}_pattern.png", told)
        except (
            Exception
        ) as error:  # a picture that cannot be drawn must not take the record of the run with it
            files[f"{name}_pattern_problem"] = f"{type(error).__name__}: {error}"
            (folder / f"{name}_pattern.png").unlink(missing_ok=True)
        else:
            files[f"{name}_pattern"] = f"{name}_pattern.png"
    orientation = None if ended.result is None else ended.result.orientation
    if ended.result is not None and orientation is not None:
        task = setup.task
        ub = ub_of_result(task.crystal, task.instrument, ended.result, orientation)
        write_json(folder / "ub.json", ub)
        files["ub"] = "ub.json"
    for name in ("documents.jsonl", "documents.jsonl.part", "run.json"):
        if (folder / name).is_file():
            files.setdefault("documents" if "documents" in name else "run", name)
    summary = summarise(setup, ended, files)
    write_json(folder / "summary.json", summary)
    return summary


def _picture(setup: Setup, result: AlignResult | None, frame_file: Path, path: Path, which: str) -> None:
    """A frame with its predicted spots, named as in the result's orientation."""
    task = setup.task
    frame = with_units(read_frame(frame_file), task.instrument)
    spots = find_spots(frame, task.instrument.detector)
    title = f"{task.crystal.name} on {task.instrument.name}: the {which} pattern ({frame.live_time_s:.3g} s)"
    try:
        indexed = index_spots(spots, setup.world.observer.indexer, frame=frame, source=frame_file.name)
        if result is not None and result.orientation is not None:
            chain = task.instrument.goniometer
            there = chain.matrix(frame.axes) @ chain.matrix(_axes_of(result)).T @ result.orientation.u
            indexed = replace(indexed, result=labelled_like(indexed.result, there, task.crystal))
        draw(indexed, path, title)
    except IndexingError as error:
        draw_pattern(
            path,
            task.instrument.detector,
            title=title,
            note=str(error),
            counts=frame.counts,
            found=spots.pixels,
        )


def ub_of_result(
    crystal: Crystal, instrument: Instrument, result: AlignResult, orientation: Orientation
) -> dict[str, Any]:
    """What ``ub.json`` holds after an alignment: in the laboratory at the axes where it holds, and on the holder."""
    then = _axes_of(result)
    z = instrument.goniometer.matrix(then)
    return ub_record(
        crystal,
        orientation,
        {
            "declared": result.outcome == "declared",
            "instrument": instrument.name,
            "axes": then,
            "axes_at_end": dict(result.axes),
            "axes_units": {axis.name: axis.unit for axis in instrument.goniometer.axes},
            "axes_about": "U and UB above are those of the laboratory at axes (Z U): where the run ended if it was "
            "declared, else where the last indexed frame was taken; on the holder, all axes at zero:",
            "U_holder": z.T @ orientation.u,
            "UB_holder": z.T @ orientation.ub,
        },
    )


def _axes_of(result: AlignResult) -> dict[str, float]:
    """Axes at which the orientation of a result holds."""
    return dict(result.axes if result.orientation_axes is None else result.orientation_axes)


def _at_end(setup: Setup, result: AlignResult, orientation: Orientation) -> FloatArray:
    """The laboratory orientation (3, 3) that a result's orientation predicts for the axes at the end."""
    goniometer = setup.task.instrument.goniometer
    return np.asarray(goniometer.matrix(result.axes) @ goniometer.matrix(_axes_of(result)).T @ orientation.u)


def summarise(setup: Setup, ended: Ended, files: Mapping[str, Any]) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    result, task, world = ended.result, setup.task, setup.world
    steps = [] if result is None else [_step(n, s) for n, s in enumerate(result.steps, start=1)]
    orientation = None if result is None else result.orientation
    miss = world.miss_deg()
    truth = {
        "about": "known because it is a simulation; no agent sees it",
        "reachable": setup.reachable,
        "target_missed_by_deg": miss,
        "within_tolerance": miss <= task.tolerance_deg,
        "misorientation_deg": None
        if result is None or orientation is None
        else world.misorientation_deg(_at_end(setup, result, orientation)),
        "U": world.twin.u_lab(),
    }
    return {
        "outcome": ended.outcome,
        "reason": ended.reason,
        "crystal": task.crystal.name,
        "instrument": task.instrument.name,
        "target": setup.target_text,
        "tolerance_deg": task.tolerance_deg,
        "agent": setup.agent_name,
        "faults": setup.faults,
        "seed": setup.seed,
        "axes": dict(world.twin.positions),
        "clock_s": world.twin.clock_s,
        "dose_s": world.twin.dose_s,
        "wall_s": round(ended.wall_s, 3),
        "n_exposures": len(files["frames"]),
        # What was decided before a failure or an abort stands in the documents.
        "n_moves": None if result is None else sum(step["decision"] == "Move" for step in steps),
        "steps": steps,
        "U": None if orientation is None else orientation.u,
        "UB": None if orientation is None else orientation.ub,
        "U_axes": None if result is None or orientation is None else _axes_of(result),
        "covariance_deg2": None if orientation is None else np.rad2deg(np.rad2deg(orientation.covariance)),
        "sigma_deg": None if orientation is None else orientation.sigma_deg,
        "truth": truth,
        "versions": versions(),
        "files": dict(files),
    }


def _step(number: int, step: Any) -> dict[str, Any]:
    decision = step.decision
    record: dict[str, Any] = {
        "step": number,
        "decision": type(decision).__name__,
        "reason": str(getattr(decision, "reason", "")),
        "axes_before": dict(step.axes),
        "clock_s": step.clock_s,
        "dose_s": step.dose_s,
        "confidence": step.confidence,
    }
    if isinstance(decision, Move):
        record["wanted"] = dict(decision.axes)
    if isinstance(decision, Expose):
        record["seconds"] = float(decision.seconds)
    if isinstance(decision, Declare):
        record["sigma_deg"] = decision.orientation.sigma_deg
    return record
