"""Commands around an instrument: its EPICS twin, its page, its calibration, its records, and what it survives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lauepilot.cli.options import (
    TARGET_HELP,
    CrystalOption,
    DevicesOption,
    FaultsOption,
    InstrumentOption,
    JsonOption,
    PrefixOption,
    SeedOption,
)
from lauepilot.cli.output import EXIT_HELP, Exit, guarded, print_json

records = typer.Typer(
    name="records", help="Runs that were recorded: list, show, export.", no_args_is_help=True
)

WhereArgument = Annotated[
    str, typer.Argument(help="Folder of runs, folder of a Tiled catalogue, or URL of a Tiled server.")
]
UidOption = Annotated[
    str | None, typer.Option("--run", help="First characters of the run's uid; the newest by default.")
]


@guarded
def ioc(
    crystal: CrystalOption = "si",
    instrument: InstrumentOption = "lab",
    prefix: Annotated[str, typer.Option(help="Before each process variable.")] = "lab:",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    faults: FaultsOption = "default",
    speed: Annotated[float, typer.Option(help="How many times faster than the wall its clock runs.")] = 1.0,
    names_only: Annotated[
        bool, typer.Option("--list", help="Print the names of the process variables and leave.")
    ] = False,
    anywhere: Annotated[
        bool, typer.Option("--anywhere", help="Let clients of other machines move its motors.")
    ] = False,
    autosave: Annotated[
        Path | None, typer.Option(help="File that keeps its motors' places and settings over restarts.")
    ] = None,
) -> int:
    """Serve a simulated instrument by EPICS: motor records and a camera, on this machine alone."""
    from lauepilot.cli.ioc import run_ioc

    return run_ioc(
        crystal, instrument, prefix=prefix, seed=seed, faults=faults, speed=speed, names_only=names_only,
        anywhere=anywhere, autosave=autosave,
    )  # fmt: skip


@guarded
def page(
    crystal: CrystalOption = "si",
    instrument: InstrumentOption = "lab",
    target: Annotated[str, typer.Option(help=TARGET_HELP)] = "[0 0 1] beam",
    exposure: Annotated[
        float | None, typer.Option(help="Seconds of the first exposure; the instrument's by default.")
    ] = None,
    faults: FaultsOption = "default",
    speed: Annotated[float, typer.Option(min=0.0, help="How many times faster than reality.")] = 10.0,
    seed: SeedOption = None,
    epics: PrefixOption = None,
    devices: DevicesOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but loopback needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 0,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LAUEPILOT_PAGE_TOKEN", help="Word that the browser has to bring; 'new' makes one."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the records; lauepilot-runs by default.")
    ] = None,
) -> int:
    """Open the operator's page: pattern, axes, the agent's reasons; start, pause, resume, abort."""
    from lauepilot.cli.page import run_page

    return run_page(
        crystal=crystal, instrument=instrument, target=target, exposure=exposure, faults=faults, speed=speed,
        seed=seed, host=host, port=port, token=token, out=out, epics=epics, devices=devices,
    )  # fmt: skip


@guarded
def calibrate_instrument(
    out: Annotated[Path, typer.Option(help="YAML file for the corrected instrument.")],
    crystal: CrystalOption = "si",
    instrument: InstrumentOption = "lab",
    faults: Annotated[
        str, typer.Option(help="Of the simulated instrument: none, default, harsh or far.")
    ] = "default",
    seed: SeedOption = None,
    frames: Annotated[int, typer.Option(min=4, help="How many frames.")] = 14,
    exposure: Annotated[
        float | None, typer.Option(help="Seconds of each; the instrument's by default.")
    ] = None,
    epics: PrefixOption = None,
    devices: DevicesOption = None,
    use_async: Annotated[bool, typer.Option("--async", help="By way of ophyd-async.")] = False,
    folder: Annotated[Path | None, typer.Option("--records", help="Folder for the records.")] = None,
    json_output: JsonOption = False,
) -> int:
    """Find the instrument's geometry from frames of a known crystal: detector, axes and their zeros."""
    from lauepilot.cli.instrument import run_calibrate_instrument

    return run_calibrate_instrument(
        crystal=crystal, instrument=instrument, out=out, faults=faults, seed=seed, frames=frames,
        exposure_s=exposure, prefix=epics, devices=devices, use_async=use_async, records=folder,
        as_json=json_output,
    )  # fmt: skip


@guarded
def build_ub(
    crystal: CrystalOption = "si",
    seed: SeedOption = None,
    detector: Annotated[str, typer.Option(help="point or area.")] = "point",
    faults: Annotated[str, typer.Option(help="default or none.")] = "default",
    speed: Annotated[
        float, typer.Option(min=0.0, help="How many times faster than reality; 0 is at once.")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(help="New folder for the records.")] = None,
    json_output: JsonOption = False,
) -> int:
    """Find UB on a simulated four-circle with a monochromatic beam, from an unknown orientation."""
    from lauepilot.cli.build_ub import run_build_ub

    return run_build_ub(
        crystal=crystal, seed=seed, detector=detector, faults=faults, speed=speed, out=out,
        as_json=json_output,
    )  # fmt: skip


@guarded
def arm(
    instrument: InstrumentOption = "lab-arm",
    turn: Annotated[
        tuple[float, float, float],
        typer.Option(help="Rotation vector in the laboratory from the pose at rest, degrees."),
    ] = (0.0, 0.0, 0.0),
    picture: Annotated[Path | None, typer.Option(help="PNG file for a picture of both poses.")] = None,
    json_output: JsonOption = False,
) -> int:
    """How a six-axis arm can hold the crystal: joints, paths and what is in the way."""
    from lauepilot.cli.arm import run_arm
    from lauepilot.cli.tables import console

    found = run_arm(instrument, turn, picture)
    if json_output:
        print_json(found)
    else:
        console().print(found)
    return Exit.DONE


@guarded
def queue_startup(
    folder: Annotated[Path, typer.Argument(help="Folder for the startup file.")] = Path("lauepilot-queue"),
    crystal: CrystalOption = "si",
    instrument: InstrumentOption = "lab",
    devices: DevicesOption = None,
    out: Annotated[Path, typer.Option("--records", help="Folder for the records of runs.")] = Path(
        "lauepilot-runs"
    ),
    speed: Annotated[float, typer.Option(min=0.0, help="Of a simulated instrument.")] = 10.0,
    four_circle: Annotated[
        bool, typer.Option("--four-circle", help="Simulate a four-circle beside it, for build_ub.")
    ] = False,
    json_output: JsonOption = False,
) -> int:
    """Write a startup folder for bluesky-queueserver, and say how to start it."""
    from lauepilot.cli.queue import run_queue_startup

    return run_queue_startup(
        folder=folder, crystal=crystal, instrument=instrument, devices=devices, records=out, speed=speed,
        four_circle=four_circle, as_json=json_output,
    )  # fmt: skip


@guarded
def faults(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all by default.")] = None,
    epics: Annotated[bool, typer.Option("--epics", help="Only those over Channel Access.")] = False,
    in_process: Annotated[bool, typer.Option("--in-process", help="Only those in process.")] = False,
    json_output: JsonOption = False,
) -> int:
    """Break an alignment in every way of the fault table, and tell what became of motors and records."""
    from lauepilot.cli.faults import run_faults

    return run_faults(names=names, epics=epics, in_process=in_process, as_json=json_output)


@records.command("list", epilog=EXIT_HELP)
@guarded
def records_list(where: WhereArgument = "lauepilot-runs", json_output: JsonOption = False) -> int:
    """All runs, oldest first."""
    from lauepilot.cli.records import run_records_list

    run_records_list(where=where, as_json=json_output)
    return Exit.DONE


@records.command("show", epilog=EXIT_HELP)
@guarded
def records_show(
    where: WhereArgument = "lauepilot-runs", uid: UidOption = None, json_output: JsonOption = False
) -> int:
    """How one run began, what was decided, and how it ended."""
    from lauepilot.cli.records import run_records_show

    run_records_show(where=where, uid=uid, as_json=json_output)
    return Exit.DONE


@records.command("export", epilog=EXIT_HELP)
@guarded
def records_export(
    where: WhereArgument = "lauepilot-runs",
    uid: UidOption = None,
    nexus: Annotated[Path | None, typer.Option(help="NeXus file to write.")] = None,
    tiled: Annotated[str | None, typer.Option(help="Tiled catalogue: a folder, or a URL.")] = None,
    json_output: JsonOption = False,
) -> int:
    """Write a run into a NeXus file, or into a Tiled catalogue."""
    from lauepilot.cli.records import run_records_export

    run_records_export(where=where, uid=uid, nexus=nexus, tiled=tiled, as_json=json_output)
    return Exit.DONE
