"""An alignment on process variables: the very plan and agent that run in process, and no truth to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import RunEngine
from rich.console import Console

from lauepilot.agents.rules import RULES
from lauepilot.cli.align import Ended, carry_out
from lauepilot.cli.align_report import axes_of, draw_frame, step_record, ub_of_result
from lauepilot.cli.live import show_end
from lauepilot.cli.output import Exit, UserError, print_json, run_folder, write_json
from lauepilot.cli.tables import console
from lauepilot.cli.tiled import Copy, copied_to
from lauepilot.hardware.devices.config import (
    DevicesError,
    Library,
    load_devices,
    usual_devices,
    wait_connected,
)
from lauepilot.hardware.metadata import versions
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.protocols import Camera, Goniometer
from lauepilot.perception.observer import Observer
from lauepilot.perception.task import Task
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.target_text import parse_target


@dataclass(frozen=True, eq=False)
class PVSetup:
    """Everything that stands ready before the run.

    Attributes
    ----------
    camera, goniometer
        Not yet connected.
    task, observer
        What is asked, and what looks at the frames.
    target_text, where
        As typed: the target, and the prefix or file of the devices.
    agent
        Name of the rule that decides.
    """

    camera: Camera
    goniometer: Goniometer
    task: Task
    observer: Observer
    target_text: str
    where: str
    agent: str


def prepare_pvs(
    *,
    prefix: str | None,
    devices: Path | None,
    library: Library,
    crystal: str,
    instrument: str,
    target: str,
    agent: str,
) -> PVSetup:
    """Devices, crystal and target.

    Raises
    ------
    UserError, CrystalError, InstrumentError
        If something named does not exist.
    """
    if agent not in RULES:
        raise UserError(f"--agent is one of {', '.join(RULES)} on real motors; {agent!r} came.")
    if (prefix is None) == (devices is None):
        raise UserError("Give either --epics PREFIX or a file of devices, not both.")
    try:
        if devices is not None:
            camera, goniometer = load_devices(devices)
        else:
            camera, goniometer = usual_devices(str(prefix), load_instrument(instrument), library)
    except DevicesError as error:
        raise UserError(str(error)) from None
    wanted, body = parse_target(target), load_crystal(crystal)
    try:
        wanted.laboratory_u(body.b)
    except ValueError as error:
        raise UserError(f"--target {target!r}: {error}") from None
    machine = camera.instrument
    camera.crystal = body
    task = Task.usual(body, machine, wanted)
    return PVSetup(camera, goniometer, task, Observer(body, machine), target, str(devices or prefix), agent)


def align_on_pvs(
    *,
    prefix: str | None,
    devices: Path | None,
    library: Library,
    crystal: str,
    instrument: str,
    target: str,
    agent: str,
    out: Path | None,
    as_json: bool,
    tiled: str | None = None,
) -> int:
    """Play, record and report; the exit code."""
    setup = prepare_pvs(
        prefix=prefix, devices=devices, library=library, crystal=crystal, instrument=instrument, target=target,
        agent=agent,
    )  # fmt: skip
    folder = run_folder(out, Path(crystal).stem)
    screen = None if as_json else console()
    if screen is not None:
        screen.print(
            f"[bold]{setup.task.crystal.name}[/] on [bold]{setup.task.instrument.name}[/] ({setup.where}), "
            f"target {target}",
            markup=True,
        )
    with copied_to(tiled) as copy:
        ended = play_on_pvs(setup, folder, screen, copy)
    summary = _written(setup, ended, folder)
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


def play_on_pvs(setup: PVSetup, folder: Path, screen: Console | None, copy: Copy | None = None) -> Ended:
    """Connect and run the plan; whatever happens, the records of the run are in ``folder`` afterwards."""
    task = setup.task
    plan = align_crystal(
        setup.camera, setup.goniometer, RULES[setup.agent](), task.target, observer=setup.observer, crystal=task.crystal,
        max_steps=task.max_steps, max_dose_s=task.max_dose_s, max_exposure_s=task.max_exposure_s,
        md={"simulated": False, "where": setup.where},
    )  # fmt: skip

    def ready(engine: RunEngine) -> None:
        wait_connected(setup.camera, setup.goniometer, loop=engine.loop)

    return carry_out(plan, task, setup.goniometer, folder, screen, ready, copy)


def _written(setup: PVSetup, ended: Ended, folder: Path) -> dict[str, Any]:
    """UB, pictures and summary beside the run's documents and frames; the summary."""
    task, result = setup.task, ended.result
    frames = sorted((folder / "frames").glob("*.h5")) if (folder / "frames").is_dir() else []
    files: dict[str, Any] = {"frames": [f"frames/{frame.name}" for frame in frames]}
    for name, frame in {"first": frames[:1], "last": frames[1:][-1:]}.items():
        if frame:
            picture = folder / f"{name}_pattern.png"
            draw_frame(task, setup.observer.indexer, result, frame[0], picture, name)
            files[f"{name}_pattern"] = picture.name
    orientation = None if result is None else result.orientation
    if result is not None and orientation is not None:
        write_json(folder / "ub.json", ub_of_result(task.crystal, task.instrument, result, orientation))
        files["ub"] = "ub.json"
    for name in ("documents.jsonl", "documents.jsonl.part", "run.json"):
        if (folder / name).is_file():
            files.setdefault("documents" if "documents" in name else "run", name)
    files |= ended.also
    summary = summarise_pvs(setup, ended, files)
    write_json(folder / "summary.json", summary)
    return {**summary, "folder": str(folder)}


def summarise_pvs(setup: PVSetup, ended: Ended, files: Mapping[str, Any]) -> dict[str, Any]:
    """What ``summary.json`` holds: as in process, without a truth, which nobody knows here."""
    result, task = ended.result, setup.task
    orientation = None if result is None else result.orientation
    steps = [] if result is None else [step_record(n, s) for n, s in enumerate(result.steps, start=1)]
    return {
        "outcome": ended.outcome,
        "reason": ended.reason,
        "crystal": task.crystal.name,
        "instrument": task.instrument.name,
        "where": setup.where,
        "target": setup.target_text,
        "tolerance_deg": task.tolerance_deg,
        "agent": setup.agent,
        "axes": None if result is None else dict(result.axes),
        "clock_s": None if result is None else result.clock_s,
        "dose_s": None if result is None else result.dose_s,
        "wall_s": round(ended.wall_s, 3),
        "n_exposures": len(files["frames"]),
        "n_moves": None if result is None else sum(step["decision"] == "Move" for step in steps),
        "steps": steps,
        "U": None if orientation is None else orientation.u,
        "UB": None if orientation is None else orientation.ub,
        "U_axes": None if result is None or orientation is None else axes_of(result),
        "covariance_deg2": None if orientation is None else np.rad2deg(np.rad2deg(orientation.covariance)),
        "sigma_deg": None if orientation is None else orientation.sigma_deg,
        "truth": None,
        "versions": versions(),
        "files": dict(files),
    }
