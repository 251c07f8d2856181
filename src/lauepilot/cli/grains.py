"""``lauepilot index --grains``: the other grains of a pattern, their table and picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lauepilot.cli.index import USUAL_STRAIN, Indexed
from lauepilot.cli.output import UserError, write_json
from lauepilot.cli.report import ub_record
from lauepilot.perception.grains.find import Grain, index_grains
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.observer import USUAL_PRIOR
from lauepilot.simulator.orientation import misorientation

#: Colours of the grains in the picture, strongest first (Okabe & Ito), and marks once these are used up.
COLOURS, MARKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"), "osD^"


def parse_most(text: str) -> int | None:
    """``--grains``: a number of grains, or None for ``auto``.

    Raises
    ------
    UserError
        If it is neither.
    """
    if text.strip().lower() == "auto":
        return None
    if not text.strip().isdigit() or int(text) < 1:
        raise UserError(f"--grains takes a number of grains from 1 on, or 'auto'; got {text!r}.")
    return int(text)


def grains_of(indexed: Indexed, most: int | None, indexer: Indexer | None = None) -> tuple[Grain, ...]:
    """All grains of an indexed pattern, strongest first; the pose that the strongest gave is where the others start.

    Where the pattern itself is not sure, no grain's confidence is above the pattern's.
    """
    if indexed.result.orientation is None or len(indexed.spots) < 4:
        return ()
    ix = Indexer(indexed.crystal, indexed.instrument) if indexer is None else indexer
    free = indexed.geometry_refined
    grains = index_grains(
        ix,
        indexed.spots,
        indexed.detector,
        most,
        prior=USUAL_PRIOR if free else GeometryPrior(),
        cell_sigma=0.0 if free else USUAL_STRAIN,
        first=indexed.result,
    )
    if indexed.sure:
        return grains
    # That a grain stands out from chance does not make it a grain of this crystal.
    most_sure = indexed.result.confidence
    return tuple(replace(grain, confidence=min(grain.confidence, most_sure)) for grain in grains)


def grain_record(indexed: Indexed, grains: Sequence[Grain]) -> list[dict[str, Any]]:
    """The value of ``grains`` in the JSON object: a list, strongest first."""
    return [
        {
            **ub_record(indexed.crystal, grain.orientation),
            "confidence": grain.confidence,
            "gain": grain.gain,
            "volume_share": grain.share,
            "volume_share_sigma": grain.share_sigma,
            "n_indexed": len(grain.refinement.spot),
            "n_expected": grain.n_expected,
            "residual_px": grain.refinement.mean_residual_px,
            "alternatives": [other.u for other in grain.alternatives],
            "spots": [
                {
                    "spot": int(grain.refinement.spot[i]),
                    "hkl": grain.refinement.hkl[i],
                    "belongs": grain.belongs[i],
                }
                for i in range(len(grain.refinement.spot))
            ],
        }
        for grain in grains
    ]


def write_grains(indexed: Indexed, grains: Sequence[Grain], folder: Path) -> None:
    """``grains.json``, ``grains.csv`` (a line for each spot of each grain) and ``grains.png``."""
    write_json(folder / "grains.json", {"grains": grain_record(indexed, grains)})
    with (folder / "grains.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["grain", "h", "k", "l", "col", "row", "counts", "belongs", "residual_px"])
        for number, grain in enumerate(grains, start=1):
            fit = grain.refinement
            for i, spot in enumerate(fit.spot):
                col, row = indexed.spots.pixels[spot]
                writer.writerow(
                    [
                        number,
                        *(int(n) for n in fit.hkl[i]),
                        f"{col:.4f}",
                        f"{row:.4f}",
                        f"{indexed.spots.counts[spot]:.1f}",
                        f"{grain.belongs[i]:.4f}",
                        f"{np.linalg.norm(fit.residual_px[i]):.4f}",
                    ]
                )
    draw_grains(indexed, grains, folder / "grains.png")


def draw_grains(indexed: Indexed, grains: Sequence[Grain], path: Path) -> None:
    """The frame with the spots of each grain in a colour of its own, and those of none as thin dashed circles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from lauepilot.pictures.pattern import draw_sensor, save_small

    rows, cols = indexed.instrument.detector.shape
    scale = 8.0 / max(rows, cols)
    figure = Figure(
        figsize=(cols * scale + 1.2, rows * scale + 1.6), dpi=130, facecolor="white", layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_sensor(axes, indexed.instrument.detector, None if indexed.frame is None else indexed.frame.counts)
    left = np.ones(len(indexed.spots), dtype=bool)
    for k, grain in enumerate(grains):
        left[grain.refinement.spot] = False
        mine = indexed.spots.pixels[grain.refinement.spot]
        # A spot of two grains gets a ring of each, one within the other.
        axes.scatter(
            mine[:, 0], mine[:, 1], s=80 - 12 * (k % 3),
            marker=MARKS[k // len(COLOURS) % len(MARKS)], facecolors="none",
            edgecolors=COLOURS[k % len(COLOURS)], linewidths=1.2,
            label=f"grain {k + 1}: {len(grain.refinement.spot)} spots, {100 * grain.share:.0f} % of the volume",
        )  # fmt: skip
    if left.any():
        rest = indexed.spots.pixels[left]
        axes.scatter(
            rest[:, 0], rest[:, 1], s=40, facecolors="none", edgecolors="#777777", linewidths=0.7,
            linestyles=(0, (1.5, 1.5)), label=f"no grain's: {left.sum()}",
        )  # fmt: skip
    axes.set_title(f"{_counted(grains)} of {indexed.crystal.name} on {indexed.instrument.name}")
    if len(grains) or left.any():
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save_small(figure, path, *COLOURS)


def _counted(grains: Sequence[Grain]) -> str:
    return f"{len(grains)} grain{'' if len(grains) == 1 else 's'}"


def show_grains(out: Console, indexed: Indexed, grains: Sequence[Grain]) -> None:
    """A line for each grain."""
    if not grains:
        out.print("no grain stands out from chance in the spots.", style="yellow")
        return
    if not indexed.sure:
        out.print("grains if the crystal is the right one, which is not sure:", style="yellow")
    mine = np.unique(np.concatenate([grain.refinement.spot for grain in grains]))
    listing = Table(
        title=f"{_counted(grains)}, {len(mine)} of {len(indexed.spots)} spots explained",
        title_justify="left",
    )
    for head in (
        "grain",
        "spots",
        "expected",
        "volume %",
        "residual px",
        "known to deg",
        "confidence",
        "from grain 1, deg",
    ):
        listing.add_column(head, justify="right")
    first = grains[0].orientation
    for number, grain in enumerate(grains, start=1):
        apart = (
            np.rad2deg(misorientation(first.u, grain.orientation.u, indexed.crystal.symmetry))
            if number > 1
            else 0.0
        )
        listing.add_row(
            str(number),
            str(len(grain.refinement.spot)),
            str(grain.n_expected),
            f"{100 * grain.share:.1f} ± {100 * grain.share_sigma:.1f}",
            f"{grain.refinement.mean_residual_px:.3f}",
            f"{grain.orientation.sigma_deg:.2g}",
            f"{grain.confidence:.6f}" + (f" ({len(grain.alternatives)} ties)" if grain.alternatives else ""),
            f"{apart:.3f}" if number > 1 else "",
        )
    out.print(listing)
