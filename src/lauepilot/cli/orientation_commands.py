"""Commands that use an orientation: advice for the motors, files for other programs, UB from measured reflections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lauepilot.cli.options import TARGET_HELP, CrystalOption, InstrumentOption, JsonOption
from lauepilot.cli.output import guarded

StoredArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Orientation: our ub.json, or a file of diffcalc-core, hklpy2, SPEC, NeXus or LaueTools.",
    ),
]
OtherCrystalOption = Annotated[
    str | None, typer.Option(help="Name in the zoo or CIF, where the file does not name a built-in one.")
]
OtherInstrumentOption = Annotated[
    str | None, typer.Option(help="Shipped name or YAML file, where the file does not name a shipped one.")
]


@guarded
def reorient(
    source: StoredArgument,
    target: Annotated[str, typer.Option(help=TARGET_HELP)],
    crystal: OtherCrystalOption = None,
    instrument: OtherInstrumentOption = None,
    axes: Annotated[
        str | None, typer.Option(help="Where the axes stand, 'omega=10, chi=-20'; as in the file by default.")
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Tell where the motors have to go to bring a plane or zone where it is wanted, or why they cannot.

    All ways within the limits, by symmetry too, the soonest first. Nothing moves.
    """
    from lauepilot.cli.reorient import run_reorient

    return run_reorient(
        source, target=target, crystal=crystal, instrument=instrument, axes=axes, as_json=json_output
    )


@guarded
def convert(
    source: StoredArgument,
    to: Annotated[str, typer.Option(help="diffcalc, hklpy2, nexus, spec or fit (LaueTools).")],
    out: Annotated[Path, typer.Option(help="New file.")],
    crystal: OtherCrystalOption = None,
    instrument: OtherInstrumentOption = None,
    axes: Annotated[
        str | None, typer.Option(help="Where the axes stood, 'omega=10, chi=-20', if the file does not tell.")
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Write an orientation for another program; the file states its frame and whether 2 pi is in."""
    from lauepilot.cli.exchange import run_convert

    return run_convert(
        source, to=to, out=out, crystal=crystal, instrument=instrument, axes=axes, as_json=json_output
    )


@guarded
def ub(
    reflections: Annotated[
        Path,
        typer.Argument(
            help="CSV with h, k, l, the axes in degrees, where the beam went (delta and nu, col and row, or qx, qy, qz), "
            "and energy_kev or wavelength_a."
        ),
    ],
    crystal: CrystalOption,
    instrument: InstrumentOption,
    cell: Annotated[
        str, typer.Option(help="fixed, system (what the crystal system leaves free) or free.")
    ] = "fixed",
    energy: Annotated[
        float | None, typer.Option(help="keV, of all reflections, if the file has no column for it.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Degrees by which two reflections may disagree.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="New ub.json; none by default.")] = None,
    json_output: JsonOption = False,
) -> int:
    """UB from two or more reflections measured on a monochromatic instrument (Busing and Levy)."""
    from lauepilot.cli.exchange import run_ub

    return run_ub(
        reflections, crystal=crystal, instrument=instrument, cell=cell, energy_kev=energy, tolerance_deg=tolerance,
        out=out, as_json=json_output,
    )  # fmt: skip
