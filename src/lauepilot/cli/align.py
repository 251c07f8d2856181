"""``lauepilot align``: the Bluesky plan on a simulated instrument, watched, recorded and compared with the truth."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from bluesky import RunEngine
from bluesky.run_engine import RunEngineResult
from bluesky.utils import RunEngineInterrupted
from rich.console import Console

from lauepilot.agents.baselines import Oracle, Random
from lauepilot.agents.rules import RULES
from lauepilot.cli.align_report import write_records
from lauepilot.cli.live import Bars, LiveTable, show_end
from lauepilot.cli.output import Exit, UserError, print_json, run_folder
from lauepilot.cli.resume import plan_of
from lauepilot.cli.simulate import fault_level
from lauepilot.cli.tables import console
from lauepilot.cli.tiled import Copy, copied_to
from lauepilot.envs.world import World
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.plans.align import AlignResult
from lauepilot.hardware.protocols import Agent, Goniometer
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.observer import Observer
from lauepilot.perception.task import Task
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.target_text import parse_target
from lauepilot.simulator.twin import Twin

AGENTS = (*RULES, "oracle", "random")

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
    target_text, faults, seed, reachable, crystal, instrument
        As typed or drawn, and whether the true target is within reach.
    """

    world: World
    agent: Agent
    agent_name: str
    target_text: str
    faults: str
    seed: int
    reachable: bool
    crystal: str
    instrument: str

    @property
    def task(self) -> Task:
        """What is asked."""
        return self.world.task


@dataclass(frozen=True, eq=False)
class Ended:
    """How a run ended, the ways included that leave no `AlignResult`; ``also`` says where else it is recorded."""

    outcome: Literal["declared", "gave_up", "refused", "failed", "aborted"]
    reason: str
    result: AlignResult | None
    problem: Exception | None
    wall_s: float
    also: Mapping[str, str] = field(default_factory=dict)


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
        **RULES,
        "oracle": lambda: Oracle(world),
        "random": lambda: Random(np.random.default_rng([number, 1])),
    }
    return Setup(
        world, players[agent](), agent, target, faults, number, world.reachable(), crystal, instrument
    )


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
    tiled: str | None = None,
) -> int:
    """Play, record (in Tiled too, if ``tiled`` says where) and report; the exit code."""
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
    return finish(setup, final, screen, speed=speed, as_json=as_json, tiled=tiled)


def finish(
    setup: Setup,
    folder: Path,
    screen: Console | None,
    *,
    speed: float,
    as_json: bool,
    resumed: Path | None = None,
    reread: bool = False,
    tiled: str | None = None,
) -> int:
    """Play what stands ready (from the record in ``resumed``, if given), record and report; the exit code."""
    with copied_to(tiled) as copy:
        ended = play(setup, folder, speed, screen, resumed, reread, copy)
    summary = write_records(setup, ended, folder)
    summary["folder"] = str(folder)
    if ended.problem is not None:
        if screen is not None:
            screen.print(f"The record up to there: {folder}/", soft_wrap=True)
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


def play(
    setup: Setup,
    folder: Path,
    speed: float,
    screen: Console | None,
    resumed: Path | None = None,
    reread: bool = False,
    copy: Copy | None = None,
) -> Ended:
    """Run the plan; whatever happens, the records of the run are in ``folder`` afterwards."""
    camera, goniometer = connect(setup.world.twin, realtime_factor=speed)
    plan = plan_of(setup, camera, goniometer, resumed, reread)
    return carry_out(plan, setup.task, goniometer, folder, screen, copy=copy)


def carry_out(
    plan: Any,
    task: Task,
    goniometer: Goniometer,
    folder: Path,
    screen: Console | None,
    ready: Callable[[RunEngine], None] = lambda engine: None,
    copy: Copy | None = None,
) -> Ended:
    """Run a plan of alignment on any devices, watched and recorded; ``ready`` is called before it, to connect them."""
    for name in (
        "bluesky",
        "lauepilot.hardware",
    ):  # what goes wrong is told once, in one line, and is in the records
        logging.getLogger(name).addHandler(logging.NullHandler())
    # Not hidden until it is whole: a process that is killed leaves a record, and that wants to be found.
    folder.mkdir(parents=True, exist_ok=True)
    recorder = LocalRecorder(folder, task.instrument)
    consumers: list[Any] = [recorder, *([] if copy is None else [copy])]
    if screen is not None:
        consumers.append(LiveTable(screen, task.crystal, task.instrument, task.target))
    began = time.monotonic()
    result: AlignResult | None = None
    problem: Exception | None = None
    aborted = False
    try:
        with ExitStack() as stack:
            main = threading.current_thread() is threading.main_thread()
            engine = stack.enter_context(run_engine(*consumers, in_main_thread=main, baseline=[goniometer]))
            ready(engine)
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
    plan.close()  # where it never ran, so that nobody waits for it
    flatten(folder, recorder.path)
    wall, also = time.monotonic() - began, {} if copy is None else copy.files(folder)
    if result is not None:
        return Ended(result.outcome, result.reason, result, None, wall, also)
    if aborted:
        return Ended("aborted", "Interrupted by Ctrl-C; the motors were stopped.", None, None, wall, also)
    return Ended("failed", str(problem), None, problem, wall, also)


def flatten(folder: Path, records: Path | None) -> None:
    """The recorder makes a folder for each run; here there is one run, and its files lie beside the others."""
    if records is None or not records.is_dir():
        return
    for item in sorted(records.iterdir()):
        item.rename(folder / item.name)
    records.rmdir()
