"""Options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TARGET_HELP = (
    "What goes where: '[0 0 1] beam' puts a zone axis along the beam, '(1 1 0) up' a plane's normal up; a second one after "
    "a comma fixes the turn about the first. Directions: beam, -beam, up, down, left, right, or three numbers."
)

CrystalOption = Annotated[
    str, typer.Option(help="Name in the zoo (see 'lauepilot crystals') or path of a CIF.")
]
InstrumentOption = Annotated[
    str, typer.Option(help="Shipped name (see 'lauepilot instruments') or path of a YAML file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Seed of all random numbers; a new one by default.")
]
FaultsOption = Annotated[
    str, typer.Option(help="How far the instrument strays from its drawing: none, default, harsh.")
]
PrefixOption = Annotated[
    str | None,
    typer.Option(
        "--epics",
        metavar="PREFIX",
        help="Use process variables named as those of 'lauepilot ioc', below this prefix.",
    ),
]
DevicesOption = Annotated[
    Path | None, typer.Option(help="YAML file of one's own process variables (docs: own-devices).")
]
