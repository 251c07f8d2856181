"""``lauepilot align --tiled``: the record of a run in Tiled too, beside the folder that has it in any case."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lauepilot.hardware.engine import Spare
from lauepilot.hardware.records.tiled import catalogue, tiled_writer


class Copy(Spare):
    """A consumer of documents that writes them to Tiled; if it fails, the run goes on and ``problem`` says why.

    Parameters
    ----------
    where
        As typed.
    client
        Of Tiled.
    """

    def __init__(self, where: str, client: Any) -> None:
        super().__init__(tiled_writer(client))
        self.where = where

    def files(self, folder: Path) -> dict[str, str]:
        """What the list of a run's files says of it: where it is, and what is wrong with it; ``folder`` is the run's."""
        if self.problem is None:
            return {"tiled": self.where}
        again = shlex.join(["lauepilot", "records", "export", str(folder), "--tiled", self.where])
        what = f"{type(self.problem).__name__}: {self.problem}"
        return {
            "tiled": self.where,
            "tiled_problem": f"Not all of the run is in Tiled ({what}). Once it is mended, hand it over: {again}",
        }


@contextmanager
def copied_to(where: str | None) -> Iterator[Copy | None]:
    """A `Copy` for one block of code, in a folder with an embedded catalogue, made if missing, or on a server; or None.

    Raises
    ------
    RecordError
        If Tiled is not installed, no server answers, or the folder cannot be written: at once, before anything moves.
    """
    if where is None:
        yield None
        return
    with catalogue(where, create=True) as client:
        yield Copy(where, client)
