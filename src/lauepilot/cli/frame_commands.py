"""Commands that make an orientation of a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lauepilot.cli.options import CrystalOption, InstrumentOption, JsonOption
from lauepilot.cli.output import Exit, guarded, print_json, run_folder, whole_folder


@guarded
def index(
    frame: Annotated[
        Path, typer.Argument(help="Detector image, HDF5/NeXus, .npy, or LaueTools list (.dat .cor .fit).")
    ],
    crystal: CrystalOption,
    instrument: InstrumentOption,
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
            help="New folder for UB, tables and picture; lauepilot-runs/... by default, none with --json."
        ),
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Find the orientation of a known crystal in a frame or in a list of spots.

    Geometry stored in a LaueTools list is taken as exact; a raw frame's is refined from the instrument's drawing.
    """
    from rich.console import Console

    from lauepilot.cli import index as face
    from lauepilot.cli import report
    from lauepilot.simulator.crystal import load_crystal
    from lauepilot.simulator.instrument import load_instrument

    final = None if json_output and out is None else run_folder(out, f"index-{frame.stem}")
    found = face.index_file(
        frame, load_crystal(crystal), load_instrument(instrument), stored_geometry=geometry, refine_geometry=refine_geometry,
        refine_cell=refine_cell, dataset=dataset, number=number,
        screen=None if json_output else Console(stderr=True),
    )  # fmt: skip
    if final is not None:
        with whole_folder(final) as folder:
            report.write_folder(found, folder)
    if json_output:
        print_json({**report.record(found), "folder": final})
    else:
        from lauepilot.cli.tables import console

        screen = console()
        report.show_index(screen, found)
        screen.print(f"written: {final}/", soft_wrap=True)
    return Exit.DONE if found.sure else Exit.UNKNOWN
