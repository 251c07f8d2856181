"""``lauepilot align --resume``: an alignment whose process was killed, from its record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lauepilot.cli.output import UserError, run_folder
from lauepilot.cli.records import resumable
from lauepilot.cli.tables import console
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.plans.settle import Plan
from lauepilot.hardware.resume import resume_run, retrace

if TYPE_CHECKING:
    from lauepilot.cli.align import Setup


def plan_of(setup: Setup, camera: Any, goniometer: Any, resumed: Path | None, reread: bool) -> Plan:
    """The plan that plays a setup, from its beginning or from a record."""
    world, task = setup.world, setup.task
    typed = {name: getattr(setup, name) for name in ("crystal", "instrument", "faults")}
    typed |= {"target": setup.target_text, "agent": setup.agent_name}
    md = {"seed": setup.seed, "simulated": True, "faults": setup.faults, "typed": typed}
    if resumed is not None:
        return resume_run(
            resumed, camera, goniometer, setup.agent, observer=world.observer, crystal=task.crystal, reread=reread, md=md
        )  # fmt: skip
    return align_crystal(
        camera, goniometer, setup.agent, task.target, observer=world.observer, crystal=task.crystal,
        max_steps=task.max_steps, max_dose_s=task.max_dose_s, max_exposure_s=task.max_exposure_s, md=md,
    )  # fmt: skip


def run_resume(
    *,
    folder: Path,
    speed: float,
    out: Path | None,
    as_json: bool,
    reread: bool = False,
    tiled: str | None = None,
) -> int:
    """Go on with a killed ``lauepilot align``; the exit code.

    Parameters
    ----------
    folder
        Of the run, or one above it: then its newest run.
    speed, out, as_json, tiled
        As for a new run; the records go into a folder of their own.
    reread
        Look anew from where the axes stand, instead of from where they were.

    Raises
    ------
    RecordError, UserError
        If there is no such run, it came to its end, or another instrument answers.
    """
    from lauepilot.cli.align import finish, prepare, warm_up

    path, start = resumable(folder)
    typed = start["typed"]
    final = run_folder(out, "resumed")
    setup = prepare(
        typed["crystal"],
        typed["instrument"],
        typed["target"],
        int(start["seed"]),
        typed["agent"],
        typed["faults"],
    )
    if final.resolve() == path.resolve():
        raise UserError(f"The new records cannot go into {path} itself. Name another --out.")
    screen = None if as_json else console()
    warm_up(setup)
    # The simulated instrument died with the process; it is led to where it stood.
    retrace(setup.world.twin, path)
    if screen is not None:
        screen.print(f"going on with {path}", markup=False, soft_wrap=True)
    return finish(
        setup, final, screen, speed=speed, as_json=as_json, resumed=path, reread=reread, tiled=tiled
    )
