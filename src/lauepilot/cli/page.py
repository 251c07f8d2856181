"""``lauepilot page``: the operator's page, on a simulated instrument in this process or on process variables."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lauepilot.agents.index_and_move import IndexAndMove
from lauepilot.cli.align import Setup, prepare, warm_up
from lauepilot.cli.align_report import ub_of_result
from lauepilot.cli.index import Indexed
from lauepilot.cli.output import RUNS, Exit, UserError, write_json
from lauepilot.cli.overview import answer_layer
from lauepilot.cli.simulate import fault_level
from lauepilot.cli.tables import console
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.epics.environment import loopback_unless_told
from lauepilot.hardware.page.guard import check_door, is_loopback, new_token
from lauepilot.hardware.page.job import Choice, Job, Maker, Predicted
from lauepilot.hardware.page.session import Session
from lauepilot.hardware.plans.align import AlignResult
from lauepilot.perception.indexing.indexer import IndexResult
from lauepilot.perception.indexing.labels import relabelled
from lauepilot.perception.observation import Observation
from lauepilot.perception.observer import USUAL_PRIOR, Observer
from lauepilot.perception.task import Task
from lauepilot.simulator.crystal import Crystal, load_crystal, zoo_names
from lauepilot.simulator.faults import LEVELS
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument, load_instrument
from lauepilot.simulator.target_text import parse_target

FAULTS = tuple(LEVELS)

#: Have a token drawn.
NEW = "new"


class ShownObserver(Observer):
    """The usual observer, which also keeps the indexer's whole answer on the last frame: its spots are what is shown."""

    def __init__(self, crystal: Crystal, instrument: Instrument) -> None:
        super().__init__(crystal, instrument)
        self.indexer = _Keeping(self.indexer)  # type: ignore[assignment]
        self._last: tuple[Observation, IndexResult | None] | None = None

    def observe(self, frame: Frame, **circumstances: Any) -> Observation:
        """As of the usual observer."""
        keeping: Any = self.indexer
        keeping.result = None
        seen = super().observe(frame, **circumstances)
        self._last = (seen, keeping.result)
        return seen

    def result_of(self, observation: Observation) -> IndexResult | None:
        """The indexer's answer behind an observation, if it is that of the last frame."""
        return self._last[1] if self._last is not None and self._last[0] is observation else None


class _Keeping:
    """An indexer that keeps its last answer."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.result: IndexResult | None = None

    def index(self, *args: Any, **kwargs: Any) -> IndexResult:
        found: IndexResult = self._inner.index(*args, **kwargs)
        self.result = found
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class AlignMaker:
    """What the simulated and the real instrument have in common: crystals that may be chosen, and what is written.

    Attributes
    ----------
    title, simulated, crystals, faults, first
        As `Maker` has them.
    """

    simulated = False
    faults: tuple[str, ...] = ()

    def __init__(self, instrument: Instrument, first: Choice) -> None:
        self.title = instrument.name
        self.instrument = instrument
        self.first = first
        # A browser may choose among these; it never names a file on this machine.
        self.crystals = tuple(dict.fromkeys((*zoo_names(), first.crystal)))

    def check(self, choice: Choice) -> None:
        """Refuse what cannot be made into a run, in words."""
        if choice.crystal not in self.crystals:
            raise UserError(
                f"There is no crystal {choice.crystal!r} to choose. Own ones are named when the page is started: --crystal."
            )
        if not np.isfinite(choice.exposure_s) or not 0.0 < choice.exposure_s <= 36_000.0:
            raise UserError(
                f"The usual exposure must be more than 0 and at most 36,000 s; {choice.exposure_s:g} came."
            )
        wanted = parse_target(choice.target)
        try:
            wanted.laboratory_u(load_crystal(choice.crystal).b)
        except ValueError as error:
            raise UserError(f"Target {choice.target!r}: {error}") from None

    def finish(self, crystal: Crystal, result: AlignResult, folder: Path) -> Mapping[str, str]:
        """UB beside the record."""
        if result.orientation is None:
            return {}
        ub = ub_of_result(crystal, self.instrument, result, result.orientation)
        write_json(folder / "ub.json", ub)
        return {"ub": "ub.json"}


class TwinMaker(AlignMaker):
    """A simulated instrument in this process: each run mounts a crystal at a new random orientation."""

    simulated = True
    faults: tuple[str, ...] = FAULTS

    def __init__(self, instrument: str, first: Choice, seed: int | None) -> None:
        machine = load_instrument(instrument)
        super().__init__(machine, first)
        self._named = instrument
        self._seed = seed
        self._warm: set[str] = set()

    def check(self, choice: Choice) -> None:
        """As `AlignMaker`, and the simulation's own choices."""
        super().check(choice)
        fault_level(choice.faults)
        if not np.isfinite(choice.speed) or choice.speed < 0.0:
            raise UserError(f"The clock's speed is 0 (at once) or a positive number; {choice.speed:g} came.")

    def make(self, choice: Choice) -> Job:
        """Mount a crystal on a new Twin."""
        self.check(choice)
        setup = prepare(
            choice.crystal, self._named, choice.target, self._seed, "index-and-move", choice.faults, choice.exposure_s
        )  # fmt: skip
        if choice.crystal not in self._warm:
            warm_up(setup)
            self._warm.add(choice.crystal)
        return self._job(setup, choice)

    def _job(self, setup: Setup, choice: Choice) -> Job:
        task = setup.task
        camera, goniometer = connect(setup.world.twin, realtime_factor=choice.speed)
        observer = ShownObserver(task.crystal, task.instrument)
        md = {"seed": setup.seed, "simulated": True, "faults": setup.faults, "from": "page"}
        return job_of(self, task, camera, goniometer, observer, md)


class EpicsMaker(AlignMaker):
    """Camera and goniometer on process variables: connected at the first need, kept for all runs.

    Parameters
    ----------
    devices
        Camera and goniometer of ophyd, not yet connected.
    first
        As `Maker` has it.
    where
        The prefix or file that they came from, for the record.
    """

    def __init__(self, devices: tuple[Any, Any], first: Choice, where: str) -> None:
        super().__init__(devices[0].instrument, first)
        self._devices, self._where, self._known = devices, where, False

    def make(self, choice: Choice) -> Job:
        """A run on what the process variables lead to."""
        self.check(choice)
        crystal = load_crystal(choice.crystal)
        camera, goniometer = self._connected()
        machine = replace(self.instrument, exposure_s=choice.exposure_s)
        camera.crystal = crystal
        task = Task.usual(crystal, machine, parse_target(choice.target))
        observer = ShownObserver(crystal, machine)
        return job_of(self, task, camera, goniometer, observer, {"where": self._where, "from": "page"})

    def _connected(self) -> tuple[Any, Any]:
        from lauepilot.hardware.devices.config import wait_connected

        # Channel Access looks but rarely for what was there and has gone: an IOC that was started anew is given a minute.
        timeout_s, self._known = 60.0 if self._known else 10.0, True
        wait_connected(*self._devices, timeout_s=timeout_s)
        return self._devices


def devices_for_page(epics: str | None, devices: Path | None, instrument: str) -> tuple[Any, Any] | None:
    """Camera and goniometer on process variables, not yet connected; None if neither a prefix nor a file is given.

    Raises
    ------
    UserError
        If both are, the file is wrong, or its devices are those of ophyd-async.
    """
    if epics is None and devices is None:
        return None
    if epics is not None and devices is not None:
        raise UserError("Give either --epics PREFIX or --devices FILE, not both.")
    loopback_unless_told(os.environ)
    from lauepilot.hardware.devices.config import DevicesError, load_devices, usual_devices

    try:
        if devices is None:
            return usual_devices(str(epics), load_instrument(instrument))
        made = load_devices(devices)
    except DevicesError as error:
        raise UserError(str(error)) from None
    if asyncio.iscoroutinefunction(getattr(made[0], "connect", None)):
        raise UserError(
            f"{devices} says library: ophyd-async, whose devices live in one run's event loop; the page keeps them from run "
            "to run. Say library: ophyd there, or align with lauepilot align --devices."
        )
    return made


class ExposureChosen(IndexAndMove):
    """The usual agent, told of the operator's usual exposure in place of the instrument's."""

    def __init__(self, exposure_s: float) -> None:
        super().__init__()
        self._usual_s = exposure_s

    def reset(self, task: Any) -> None:
        """As the usual agent."""
        super().reset(replace(Task.of(task), exposure_s=self._usual_s))


def job_of(
    maker: AlignMaker,
    task: Task,
    camera: Any,
    goniometer: Any,
    observer: ShownObserver,
    md: Mapping[str, Any],
) -> Job:
    """A run of the usual agent on devices."""
    told = camera.instrument.exposure_s == task.exposure_s
    return Job(
        camera,
        goniometer,
        IndexAndMove() if told else ExposureChosen(task.exposure_s),
        observer,
        task.target,
        task.crystal,
        task.tolerance_deg,
        limits={
            "max_steps": task.max_steps,
            "max_dose_s": task.max_dose_s,
            "max_exposure_s": task.max_exposure_s,
        },
        md=md,
        predict=lambda frame, seen: predicted(observer, task, frame, seen),
        finish=lambda result, folder: maker.finish(task.crystal, result, folder),
    )


def predicted(observer: ShownObserver, task: Task, frame: Frame, seen: Observation) -> Predicted:
    """Spots of the indexer's answer on the pose that it refined; of a guess none are shown."""
    spots, result = seen.spots, observer.result_of(seen)
    m = 0 if spots is None else len(spots)
    nothing = Predicted(np.zeros((0, 2)), np.zeros((0, 3), np.int64), np.zeros(m, dtype=bool))
    if spots is None or result is None or result.orientation is None or result.refinement is None:
        return nothing
    # Named as in the target, as everywhere on the page.
    written = task.target.as_written(result.orientation.u, task.crystal)
    named = relabelled(result, written, task.crystal.b)
    indexed = Indexed(
        task.crystal,
        task.instrument,
        spots,
        named,
        frame,
        "",
        True,
        observer.indexer.table,
        prior=USUAL_PRIOR,
    )
    layer = answer_layer(indexed)
    explained = np.zeros(m, dtype=bool)
    explained[result.refinement.spot] = True
    return Predicted(layer.pixels, layer.hkl, explained)


def run_page(
    *,
    crystal: str,
    instrument: str,
    target: str,
    exposure: float | None,
    faults: str,
    speed: float,
    seed: int | None,
    host: str,
    port: int,
    token: str | None,
    out: Path | None,
    epics: str | None = None,
    devices: Path | None = None,
) -> int:
    """Serve the page until Ctrl-C; the exit code. What runs then is aborted."""
    drawn = token == NEW
    key = new_token() if drawn else token
    check_door(host, key)
    if not 0 <= port <= 65_535:
        raise UserError(f"--port is a number from 0 (any free one) to 65535; {port} came.")
    real = devices_for_page(epics, devices, instrument)
    machine = load_instrument(instrument) if real is None else real[0].instrument
    usual = machine.exposure_s if exposure is None else exposure
    maker: Maker
    if real is None:
        maker = TwinMaker(instrument, Choice(crystal, target, usual, faults, speed), seed)
    else:
        maker = EpicsMaker(real, Choice(crystal, target, usual), str(devices or epics))
    first = maker.first
    maker.check(first)
    folder = RUNS if out is None else out
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Name a folder for the records with --out.")
    from lauepilot.page.serve import serve

    for name in ("bluesky", "lauepilot"):  # what goes wrong is told once: on the page
        logging.getLogger(name).addHandler(logging.NullHandler())
    session = Session(maker, folder)
    try:
        serve(session, host, port, key, lambda address: _tell(console(), address, key, drawn, host))
    finally:
        session.close()
    return Exit.DONE


def _tell(screen: Console, address: str, token: str | None, drawn: bool, host: str) -> None:
    """Where the page is; a drawn token is shown here, once, and nowhere else."""
    if drawn:
        screen.print(f"{address}?token={token}", soft_wrap=True, highlight=False, markup=False)
        screen.print(
            "The token opens the page once for each browser; who has it can move the motors.", style="dim"
        )
    elif token is not None:
        screen.print(f"{address}?token=...", soft_wrap=True, highlight=False, markup=False)
    else:
        screen.print(address, soft_wrap=True, highlight=False, markup=False)
    if not is_loopback(host):
        screen.print("Not encrypted: on a network that you do not trust, use ssh -L instead.", style="yellow")
    screen.print("Ctrl-C ends it and aborts what runs; closing the browser does not.", style="dim")
