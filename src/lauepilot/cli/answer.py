"""What ``lauepilot index`` does with one frame of a known crystal: spots first, photons where they do not tell, grains on
request; and what of it goes to disk and to the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lauepilot.cli import grains as grain_face
from lauepilot.cli import overview, report
from lauepilot.cli.index import Indexed, index_file
from lauepilot.cli.output import UserError, write_json
from lauepilot.cli.photons import IndexedPhotons, index_photons, spots_hopeless
from lauepilot.cli.tables import matrix_lines
from lauepilot.perception.grains.find import Grain
from lauepilot.perception.indexing.indexer import IndexResult
from lauepilot.pictures import overview as overview_picture
from lauepilot.pictures import page
from lauepilot.simulator.orientation import Orientation, misorientation

__all__ = ["Answer", "answer", "index_file", "record", "show", "write_folder"]


@dataclass(frozen=True, eq=False)
class Answer:
    """One frame, and all that was made of it.

    Attributes
    ----------
    indexed
        By spots.
    photons
        By photons; None if they were not asked.
    grains
        All grains, strongest first; None if they were not asked for.
    """

    indexed: Indexed
    photons: IndexedPhotons | None = None
    grains: tuple[Grain, ...] | None = None

    @property
    def by_photons(self) -> bool:
        """Whether the photons are what is told: they were asked, and the spots do not tell better."""
        return self.photons is not None and not self.indexed.sure

    @property
    def sure(self) -> bool:
        """Whether there is an orientation to stand by."""
        return self.photons.sure if self.photons is not None and self.by_photons else self.indexed.sure

    @property
    def from_photons(self) -> Orientation | None:
        """The orientation that only the photons tell; None if they do not, or the spots do."""
        return (
            self.photons.result.orientation
            if self.photons is not None and self.by_photons and self.sure
            else None
        )

    @property
    def spots(self) -> Indexed:
        """The spots' side of the answer: without their guess and its faults where the photons tell better."""
        if self.from_photons is None:
            return self.indexed
        findings = tuple(finding for finding in self.indexed.findings if not finding.fault)
        return replace(self.indexed, result=IndexResult(None, 0.0, 0.0, 0, None), findings=findings)


def answer(indexed: Indexed, *, photons: bool, grains: str | None, screen: Console | None = None) -> Answer:
    """Ask photons and grains as far as they are wanted.

    Parameters
    ----------
    indexed
        What the spots told.
    photons
        Ask the photons in any case; else only where the frame is faint and the spots did not tell.
    grains
        As ``--grains``; None for one.
    screen
        Is told what takes long.

    Raises
    ------
    UserError
        If the photons of a list of spots are asked for, or ``grains`` is no number.
    """
    most = None if grains is None else grain_face.parse_most(grains)
    frame = indexed.frame
    if photons and frame is None:
        raise UserError("--photons needs a frame: a list of spots holds no photons.")
    seen = None
    if frame is not None and (photons or spots_hopeless(indexed, frame)):
        if screen is not None:
            screen.print("scoring orientations on the photons", style="dim")
        seen = index_photons(
            frame, indexed.crystal, indexed.instrument, prior=indexed.prior, live=indexed.live, source=indexed.source
        )  # fmt: skip
    every = None if grains is None else grain_face.grains_of(indexed, most)
    return Answer(indexed, seen, every)


def record(found: Answer) -> dict[str, Any]:
    """The one JSON object of ``lauepilot index --json``."""
    out = {**report.record(found.spots), "sure": found.sure}
    if found.photons is not None:
        out["photons"] = found.photons.record()
        if (told := found.from_photons) is not None:
            out |= {"confidence": found.photons.result.confidence, **report.orientation_record(told)}
    if found.grains is not None:
        out["grains"] = grain_face.grain_record(found.indexed, found.grains)
    return out


def write_folder(found: Answer, folder: Path) -> None:
    """UB, tables, pictures and the page of a pattern."""
    indexed, photons, told = found.spots, found.photons, found.from_photons
    report.write_folder(indexed, folder, note="" if told is None or photons is None else photons.lines()[-1])
    write_json(folder / "index.json", record(found))
    grains: Sequence[Grain] = found.grains or ()
    if photons is not None and found.by_photons and indexed.frame is not None:
        view = overview.view_of_photons(photons.result, indexed.table, indexed.frame, indexed.source)
        if told is not None:
            extra = {"confidence": photons.result.confidence, **report.circumstances(indexed)}
            write_json(folder / "ub.json", report.ub_record(indexed.crystal, told, extra))
    else:
        view = overview.view_of(indexed, grains=[grain.as_result() for grain in grains[1:]])
    overview_picture.draw_overview(view, folder / "overview.png")
    page.write_html(view, folder / "pattern.html")
    if found.grains is not None:
        grain_face.write_grains(indexed, found.grains, folder)


def show(out: Console, found: Answer) -> None:
    """What `lauepilot index` prints for people."""
    indexed, photons = found.indexed, found.photons
    if photons is None or not found.by_photons:
        report.show_index(out, indexed, grains=found.grains is not None)
        if photons is not None:
            for line in photons.lines():
                out.print(line, soft_wrap=True)
            _compare(out, indexed, photons)
    else:
        out.print(
            f"[bold]{indexed.crystal.name}[/] on [bold]{indexed.instrument.name}[/]: {len(indexed.spots)} spots found, "
            "which do not tell the orientation; its photons:"
        )
        for line in photons.lines():
            out.print(line, soft_wrap=True)
        if (told := found.from_photons) is not None:
            for line in (*matrix_lines("U ", told.u), *matrix_lines("UB", told.ub)):
                out.print(line, style="cyan")
    if found.grains is not None:
        grain_face.show_grains(out, indexed, found.grains)
    for finding in found.spots.findings:
        out.print(finding.text, style="yellow" if finding.fault else "dim", soft_wrap=True)


def _compare(out: Console, indexed: Indexed, photons: IndexedPhotons) -> None:
    spots, other = indexed.result.orientation, photons.result.orientation
    if spots is None or other is None or not photons.sure:
        return
    apart = np.rad2deg(misorientation(spots.u, other.u, indexed.crystal.symmetry))
    # The photons' pose is the drawing's, which turns their answer by some tenths of a degree.
    agree = apart < max(1.0, 5.0 * other.sigma_deg)
    out.print(
        f"the photons' orientation is {apart:.2g} deg from the spots', which stands above"
        + ("" if agree else ": one of the two is wrong, or there are two grains"),
        style="dim" if agree else "yellow",
    )
