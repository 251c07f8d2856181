"""The commands and their options; each imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lauepilot.cli import frame_commands, instrument_commands, orientation_commands
from lauepilot.cli.options import (
    TARGET_HELP,
    CrystalOption,
    DevicesOption,
    FaultsOption,
    InstrumentOption,
    JsonOption,
    PrefixOption,
    SeedOption,
    TiledOption,
    WithTiled,
)
from lauepilot.cli.output import EXIT_HELP, Exit, UserError, guarded, print_json, whole_file

if TYPE_CHECKING:
    import numpy as np

app = typer.Typer(
    name="lauepilot",
    help="Aligns crystals by Laue diffraction, and decides how long to count.",
    epilog=EXIT_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script ``lauepilot``."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        from lauepilot import __version__

        typer.echo(f"lauepilot {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Aligns crystals by Laue diffraction, and decides how long to count."""


def _generator(seed: int | None) -> tuple[int, np.random.Generator]:
    import numpy

    number = int(numpy.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    return number, numpy.random.default_rng(number)


@app.command(cls=WithTiled, epilog=EXIT_HELP)
@guarded
def align(
    crystal: CrystalOption = "si",
    instrument: InstrumentOption = "lab",
    target: Annotated[str, typer.Option(help=TARGET_HELP)] = "[0 0 1] beam",
    seed: SeedOption = None,
    agent: Annotated[
        str, typer.Option(help="Who decides: index-and-move, smart-expose, oracle, random.")
    ] = "index-and-move",
    faults: FaultsOption = "default",
    speed: Annotated[
        float, typer.Option(min=0.0, help="How many times faster than reality; 0 is at once.")
    ] = 10.0,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the records; lauepilot-runs/... by default.")
    ] = None,
    epics: PrefixOption = None,
    devices: DevicesOption = None,
    use_async: Annotated[
        bool, typer.Option("--async", help="With --epics: by way of ophyd-async instead of ophyd.")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with a simulated run that was killed: its folder of records.")
    ] = None,
    reread: Annotated[
        bool, typer.Option("--reread", help="With --resume: look anew from where the axes stand now.")
    ] = False,
    tiled: TiledOption = None,
    json_output: JsonOption = False,
) -> int:
    """Align a crystal that a simulated instrument holds at a random orientation, or one on motors of EPICS.

    Runs the Bluesky plan on Ophyd devices and leaves frames, pictures, UB, documents and a summary in a folder.
    Without --seed the orientation is one from which the target can be reached; a given seed is taken as it comes.
    """
    if resume is not None:
        if epics is not None or devices is not None:
            raise UserError(
                "--resume builds a simulated instrument again. On real motors go on from Python, by "
                "lauepilot.hardware.resume.resume_run (docs: resume)."
            )
        from lauepilot.cli.resume import run_resume

        return run_resume(
            folder=resume, speed=speed, out=out, as_json=json_output, reread=reread, tiled=tiled
        )
    if epics is not None or devices is not None:
        from lauepilot.cli.epics import run_align_epics

        return run_align_epics(
            prefix=epics, devices=devices, use_async=use_async, crystal=crystal, instrument=instrument,
            target=target, agent=agent, out=out, as_json=json_output, tiled=tiled,
        )  # fmt: skip
    from lauepilot.cli.align import run_align

    return run_align(
        crystal=crystal, instrument=instrument, target=target, seed=seed, agent=agent, faults=faults,
        speed=speed, out=out, as_json=json_output, tiled=tiled,
    )  # fmt: skip


for _command in (
    frame_commands.index,
    orientation_commands.reorient,
    orientation_commands.convert,
    orientation_commands.ub,
    instrument_commands.ioc,
    instrument_commands.page,
    instrument_commands.calibrate_instrument,
    instrument_commands.build_ub,
    instrument_commands.arm,
    instrument_commands.queue_startup,
    instrument_commands.faults,
):
    app.command(epilog=EXIT_HELP)(_command)
app.add_typer(instrument_commands.records)


@app.command(epilog=EXIT_HELP)
@guarded
def simulate(
    crystal: CrystalOption = "si",
    instrument: InstrumentOption = "lab",
    orientation: Annotated[
        str | None,
        typer.Option(
            help="euler:P1,P,P2 or rotvec:X,Y,Z in degrees, a 3 x 3 JSON matrix, or a JSON file with U."
        ),
    ] = None,
    seed: SeedOption = None,
    exposure: Annotated[
        float | None, typer.Option(help="Seconds; the instrument's usual exposure by default.")
    ] = None,
    faults: FaultsOption = "none",
    out: Annotated[
        Path, typer.Option(help="Image file; the suffix tells the format: .h5 .nxs .tif .edf .cbf .png .npy.")
    ] = Path("frame.h5"),
    picture: Annotated[
        Path | None, typer.Option(help="PNG for people, with the indices of the brightest spots.")
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Render a crystal on an instrument to an image file, with counting noise."""
    from lauepilot.cli import simulate as face
    from lauepilot.perception.files.readers import write_frame
    from lauepilot.simulator.crystal import load_crystal
    from lauepilot.simulator.instrument import load_instrument

    u_lab = None if orientation is None else face.parse_orientation(orientation)
    body, machine, level = load_crystal(crystal), load_instrument(instrument), face.fault_level(faults)
    number, rng = _generator(seed)
    seconds = machine.exposure_s if exposure is None else exposure
    if picture is not None and picture.suffix.lower() != ".png":
        raise UserError(f"--picture writes PNG; give a name that ends in .png, not {picture.name!r}.")
    shot = face.simulate(body, machine, u_lab=u_lab, seconds=seconds, rng=rng, faults=level)
    write_frame(out, shot.frame, machine)
    if picture is not None:
        with whole_file(picture) as part:
            face.draw(shot, part)
    facts = {
        "crystal": body.name, "instrument": machine.name, "U": shot.u_lab, "UB": shot.u_lab @ body.b, "seed": number,
        "exposure_s": seconds, "shape": shot.frame.counts.shape, "n_spots": len(shot.spots),
        "brightest": int(shot.frame.counts.max()), "file": out, "picture": picture,
    }  # fmt: skip
    if json_output:
        print_json(facts)
        return Exit.DONE
    from lauepilot.cli.tables import console, matrix_lines

    screen = console()
    screen.print(
        f"{body.name} on {machine.name}, {seconds:g} s, seed {number}: {len(shot.spots)} spots on the detector, "
        f"brightest pixel {facts['brightest']}"
    )
    for line in matrix_lines("U", shot.u_lab):
        screen.print(line, style="cyan")
    for path in (out, picture):
        if path is not None:
            screen.print(f"written: {path}", soft_wrap=True)
    return Exit.DONE


@app.command(epilog=EXIT_HELP)
@guarded
def bench(
    what: Annotated[str, typer.Argument(help="simulator, indexing, precision or align.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions; the same figures.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes (precision only).")] = 1,
    json_output: JsonOption = False,
) -> int:
    """Repeat our figures on this machine, with goals and peers beside them."""
    from lauepilot.bench import SPREAD, WHATS, figures_table, run

    if what not in WHATS:
        raise UserError(f"There is no benchmark {what!r}. Known: {', '.join(WHATS)}.")
    if jobs > 1 and what not in SPREAD:
        raise UserError(f"bench {what} runs in one process. --jobs is for {', '.join(SPREAD)}: leave it out.")
    if json_output:
        print_json(run(what, quick, lambda text: typer.echo(text, err=True), jobs))
        return Exit.DONE
    from lauepilot.cli.tables import console, show_bench

    screen = console()
    result = run(what, quick, lambda text: screen.print(text, style="dim"), jobs)
    show_bench(screen, result, figures_table(result))
    return Exit.DONE


@app.command(epilog=EXIT_HELP)
@guarded
def crystals(json_output: JsonOption = False) -> int:
    """List the built-in crystals."""
    from lauepilot.cli import tables

    rows = tables.crystal_rows()
    if json_output:
        print_json({"crystals": rows})
    else:
        tables.show_rows(tables.console(), rows)
    return Exit.DONE


@app.command(epilog=EXIT_HELP)
@guarded
def instruments(json_output: JsonOption = False) -> int:
    """List the shipped instruments."""
    from lauepilot.cli import tables

    rows = tables.instrument_rows()
    if json_output:
        print_json({"instruments": rows})
    else:
        tables.show_rows(tables.console(), rows)
    return Exit.DONE
