"""Commands that make an orientation of a frame."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from lauepilot.cli.options import InstrumentOption, JsonOption
from lauepilot.cli.output import Exit, UserError, guarded, print_json, run_folder, whole_folder


@guarded
def index(
    frames: Annotated[
        list[Path],
        typer.Argument(
            metavar="FRAME...",
            help="Detector image, HDF5/NeXus, .npy, or LaueTools list (.dat .cor .fit). Several with --lattice unknown.",
        ),
    ],
    instrument: InstrumentOption,
    crystal: Annotated[
        str | None,
        typer.Option(
            help="Name in the zoo (see 'lauepilot crystals') or path of a CIF; not with --lattice unknown."
        ),
    ] = None,
    lattice: Annotated[
        str, typer.Option(help="known; or unknown: find symmetry axes, family and axial ratios too.")
    ] = "known",
    photons: Annotated[
        bool,
        typer.Option("--photons", help="Score orientations on single photons, also where spots would do."),
    ] = False,
    grains: Annotated[
        str | None, typer.Option(help="Look for so many grains of the crystal, or 'auto'; one by default.")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Find the detector's pose and write an instrument file with it."),
    ] = False,
    refine_geometry: Annotated[
        bool,
        typer.Option("--refine-geometry", help="Refine the detector's pose even where the file gives it."),
    ] = False,
    refine_cell: Annotated[
        bool,
        typer.Option(
            "--refine-cell",
            help="Let the cell's shape move by 3e-3 (standard deviation; its size cannot be seen). Without it cells are "
            "let move by 5e-4 where the pose is exact, else not at all.",
        ),
    ] = False,
    geometry: Annotated[
        Path | None,
        typer.Option(help="File with the geometry to believe: LaueTools .det .cor .fit, own .h5."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Path of the image inside an HDF5 file.")] = None,
    number: Annotated[int, typer.Option(min=0, help="Which frame of a stack.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="New folder for UB, tables and pictures; lauepilot-runs/... by default, none with --json."
        ),
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Find the orientation of a crystal in a frame or in a list of spots; without a starting guess.

    Geometry stored in a LaueTools list is taken as exact; a raw frame's is refined from the instrument's drawing. Where a
    frame is too faint for spots, its photons are asked. The folder holds UB, tables, pictures and a page to look around in.
    """
    from rich.console import Console

    from lauepilot.cli.tables import console
    from lauepilot.simulator.crystal import load_crystal
    from lauepilot.simulator.instrument import load_instrument

    if lattice not in ("known", "unknown"):
        raise UserError(f"--lattice is known or unknown; {lattice!r} came.")
    if (crystal is None) != (lattice == "unknown"):
        raise UserError(
            "Name the crystal with --crystal, or say --lattice unknown; one of the two, and not both."
        )
    if len(frames) > 1 and lattice == "known":
        raise UserError("Several frames of a known crystal are indexed one by one: give one FRAME.")
    given = {
        "--photons": photons, "--grains": grains is not None, "--geometry": geometry is not None,
        "--refine-cell": refine_cell, "--calibrate": calibrate, "--refine-geometry": refine_geometry,
    }  # fmt: skip
    useless = [name for name, there in given.items() if there]
    if lattice == "unknown" and useless:
        raise UserError(f"--lattice unknown does nothing with {', '.join(useless)}: leave that out.")
    if calibrate and (useless := [x for x in useless if x not in ("--calibrate", "--refine-geometry")]):
        raise UserError(
            "--calibrate takes a frame of one known crystal, and starts from the instrument's drawing: leave "
            f"{', '.join(useless)} out."
        )
    if grains is not None:
        from lauepilot.cli.grains import parse_most

        parse_most(grains)  # a slip is told before anything is read
    final = None if json_output and out is None else run_folder(out, f"index-{frames[0].stem}")
    status = None if json_output else Console(stderr=True)
    machine = load_instrument(instrument)
    face: ModuleType
    if crystal is None:
        from lauepilot.cli import unknown as face

        found = face.index_unknown(frames, machine, dataset=dataset, number=number, screen=status)
    elif calibrate:
        from lauepilot.cli import calibrate as face

        found = face.calibrate_file(
            frames[0], load_crystal(crystal), machine, dataset=dataset, number=number, screen=status
        )
    else:
        from lauepilot.cli import answer as face

        indexed = face.index_file(
            frames[0], load_crystal(crystal), machine, stored_geometry=geometry, refine_geometry=refine_geometry,
            refine_cell=refine_cell, dataset=dataset, number=number, screen=status,
        )  # fmt: skip
        found = face.answer(indexed, photons=photons, grains=grains, screen=status)
    if final is not None:
        with whole_folder(final) as folder:
            face.write_folder(found, folder)
    if json_output:
        print_json({**face.record(found), "folder": final})
    else:
        screen = console()
        face.show(screen, found)
        screen.print(f"written: {final}/", soft_wrap=True)
    return Exit.DONE if found.sure else Exit.UNKNOWN
