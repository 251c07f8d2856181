"""Options that commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lauepilot.cli.output import RUNS

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
    str,
    typer.Option(help="How far the instrument strays from its drawing: none, default, lab, harsh."),
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

#: Folder of the embedded Tiled catalogue, where ``--tiled`` names no other.
CATALOGUE = str(RUNS / "catalogue")

TiledOption = Annotated[
    str | None,
    typer.Option(
        metavar="[WHERE]",
        help=f"Record in Tiled too: folder of an embedded catalogue ({CATALOGUE} if none is named), or a server's URL.",
    ),
]


class WithTiled(TyperCommand):
    """A command whose ``--tiled`` may stand without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual, with the usual catalogue named."""
        return super().parse_args(ctx, with_value(args, "--tiled", CATALOGUE))


def with_value(arguments: Sequence[str], option: str, usual: str) -> list[str]:
    """The arguments of a command, with the usual value after an option that stands there without any.

    >>> with_value(["--tiled", "--seed", "1"], "--tiled", "there")
    ['--tiled', 'there', '--seed', '1']
    >>> with_value(["--tiled", "here"], "--tiled", "there")
    ['--tiled', 'here']
    >>> with_value([], "--tiled", "there")
    []
    """
    found: list[str] = []
    for argument, following in zip(arguments, [*arguments, "-"][1:], strict=True):
        found.append(argument)
        if argument == option and following.startswith("-"):
            found.append(usual)
    return found
