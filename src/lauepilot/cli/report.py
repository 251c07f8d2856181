"""What ``lauepilot index`` leaves behind: the JSON object, tables, UB and picture of a pattern."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lauepilot.cli.index import FRAME_TEXT, SURE, Indexed, spot_table
from lauepilot.cli.output import write_json
from lauepilot.cli.overview import answer_layer
from lauepilot.cli.tables import matrix_lines
from lauepilot.perception.indexing.strain import strain_chance
from lauepilot.pictures.pattern import draw_pattern
from lauepilot.simulator.conventions import FloatArray, rotation_vector
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS
from lauepilot.simulator.orientation import Orientation

#: A strain is told of if chance makes one as large less often than this.
SIGNIFICANT = 1e-3


def geometry_record(indexed: Indexed) -> dict[str, Any]:
    """The detector's pose, and how far it was moved from the one believed before, as plain values."""
    detector, before = indexed.detector, indexed.instrument.detector
    turn = np.rad2deg(rotation_vector(detector.rotation @ before.rotation.T))
    record: dict[str, Any] = {
        "kind": detector.kind,
        "shape": detector.shape,
        "pixel_mm": detector.pixel_mm,
        "distance_mm": detector.distance_mm,
        "centre_px": detector.centre_px,
        "tilt_x_deg": turn[0],
        "tilt_y_deg": turn[1],
        "col_direction": detector.rotation[:, 0],
        "row_direction": detector.rotation[:, 1],
        "normal": detector.rotation[:, 2],
        "refined": indexed.geometry_refined and indexed.result.refinement is not None,
        "about": "centre_px: foot of the perpendicular from the sample (col, row), whole numbers at pixel centres; "
        "tilts: turn about the laboratory's x and y from the pose believed before; directions in the laboratory",
    }
    fit = indexed.result.refinement
    if indexed.geometry_refined and fit is not None:
        sigma = dict(zip(GEOMETRY_PARAMETERS, (float(s) for s in fit.geometry_sigma), strict=True))
        record["sigma"] = {
            "distance_mm": sigma["distance_mm"],
            "centre_px": [sigma["centre_col_px"], sigma["centre_row_px"]],
            "tilt_x_deg": np.rad2deg(sigma["tilt_x_rad"]),
            "tilt_y_deg": np.rad2deg(sigma["tilt_y_rad"]),
        }
    return record


def record(indexed: Indexed) -> dict[str, Any]:
    """The one JSON object of ``lauepilot index --json``."""
    result, orientation = indexed.result, indexed.result.orientation
    table = spot_table(indexed)
    left = np.setdiff1d(np.arange(len(indexed.spots)), table.spot)
    return {
        "crystal": indexed.crystal.name,
        "instrument": indexed.instrument.name,
        "source": indexed.source,
        "frame": FRAME_TEXT,
        "sure": indexed.sure,
        "confidence": result.confidence,
        **(
            {"U": None, "UB": None, "covariance_deg2": None, "cell": cell_of(indexed.crystal.b)}
            if orientation is None
            else orientation_record(orientation)
        ),
        "n_spots": len(indexed.spots),
        "n_indexed": len(table.spot),
        "residual_px": table.residual_px.mean() if len(table.spot) else None,
        "axes": {} if indexed.frame is None else indexed.frame.axes,
        "geometry": geometry_record(indexed),
        "alternatives": [other.u for other in result.alternatives],
        "findings": [{"kind": f.kind, "fault": f.fault, "text": f.text} for f in indexed.findings],
        "spots": [
            {
                "col": table.pixels[i, 0],
                "row": table.pixels[i, 1],
                "counts": table.counts[i],
                "hkl": table.hkl[i],
                "energy_kev": table.energy_kev[i],
                "predicted_col": table.predicted[i, 0],
                "predicted_row": table.predicted[i, 1],
                "residual_px": table.residual_px[i],
            }
            for i in range(len(table.spot))
        ],
        "unexplained": [
            {"col": spot[0], "row": spot[1], "counts": counts}
            for spot, counts in zip(indexed.spots.pixels[left], indexed.spots.counts[left], strict=True)
        ],
    }


def orientation_record(orientation: Orientation) -> dict[str, Any]:
    """What the JSON object tells of an orientation."""
    return {
        "U": orientation.u,
        "UB": orientation.ub,
        "covariance_deg2": np.rad2deg(np.rad2deg(orientation.covariance)),
        "cell": cell_of(orientation.b),
    }


def cell_of(b: FloatArray) -> FloatArray:
    """a, b, c in angstrom and alpha, beta, gamma in degrees of ``B`` (3, 3) with 2 pi."""
    direct = 2.0 * np.pi * np.linalg.inv(b).T
    lengths = np.linalg.norm(direct, axis=0)
    cosine = (direct.T @ direct) / np.outer(lengths, lengths)
    angles = np.rad2deg(np.arccos(np.clip([cosine[1, 2], cosine[0, 2], cosine[0, 1]], -1.0, 1.0)))
    return np.concatenate([lengths, angles])


def draw(indexed: Indexed, path: Path, title: str = "", note: str = "") -> None:
    """The overlay picture: frame, found spots, predicted spots with their indices; ``note`` where these tell nothing."""
    result = indexed.result
    layer = answer_layer(indexed)
    explained = np.zeros(len(indexed.spots), dtype=bool)
    note = note or f"{len(indexed.spots)} spots found; no orientation stands out"
    if result.refinement is not None and result.orientation is not None:
        explained[result.refinement.spot] = True
        note = (
            f"{explained.sum()} of {len(explained)} spots explained, mean residual "
            f"{result.refinement.mean_residual_px:.2f} px, confidence {result.confidence:.4f}, "
            + (
                f"orientation known to {result.orientation.sigma_deg:.2g}°"
                if indexed.sure
                else "a guess: not known"
            )
        )
    draw_pattern(
        path,
        indexed.instrument.detector,
        title=title or f"{indexed.crystal.name} on {indexed.instrument.name}: {Path(indexed.source).name}",
        note=note,
        counts=None if indexed.frame is None else indexed.frame.counts,
        found=indexed.spots.pixels,
        indexed=explained,
        predicted=layer.pixels,
        hkl=layer.hkl,
    )


def write_table(indexed: Indexed, path: Path) -> None:
    """The explained spots as CSV."""
    table = spot_table(indexed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "h",
                "k",
                "l",
                "col",
                "row",
                "counts",
                "energy_kev",
                "predicted_col",
                "predicted_row",
                "residual_px",
            ]
        )
        for i in range(len(table.spot)):
            writer.writerow(
                [
                    *(int(n) for n in table.hkl[i]),
                    *(f"{v:.4f}" for v in table.pixels[i]),
                    f"{table.counts[i]:.1f}",
                    f"{table.energy_kev[i]:.4f}",
                    *(f"{v:.4f}" for v in table.predicted[i]),
                    f"{table.residual_px[i]:.4f}",
                ]
            )


def ub_record(
    crystal: Crystal, orientation: Orientation, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a ``ub.json`` holds: U and UB in the laboratory, with covariance, cell, frame and units."""
    return {
        "crystal": crystal.name,
        "space_group": crystal.space_group,
        "cell": cell_of(orientation.b),
        "cell_units": "a, b, c in angstrom; alpha, beta, gamma in degrees",
        "frame": FRAME_TEXT,
        "two_pi": True,
        "U": orientation.u,
        "UB": orientation.ub,
        "B": orientation.b,
        "covariance_deg2": np.rad2deg(np.rad2deg(orientation.covariance)),
        "covariance_about": "rotation vector w in the laboratory: U_true = exp(w) U",
        "sigma_deg": orientation.sigma_deg,
        **dict(extra or {}),
    }


def circumstances(indexed: Indexed) -> dict[str, Any]:
    """How a pattern was taken, for its ``ub.json``."""
    return {
        "instrument": indexed.instrument.name,
        "axes": {} if indexed.frame is None else dict(indexed.frame.axes),
        "geometry": geometry_record(indexed),
    }


def write_folder(indexed: Indexed, folder: Path, note: str = "") -> None:
    """UB, tables and picture of a pattern; ``note`` as in `draw`."""
    draw(indexed, folder / "pattern.png", note=note)
    write_json(folder / "index.json", record(indexed))
    write_table(indexed, folder / "spots.csv")
    orientation = indexed.result.orientation
    if indexed.sure and orientation is not None:
        extra = {"confidence": indexed.result.confidence, **circumstances(indexed)}
        write_json(folder / "ub.json", ub_record(indexed.crystal, orientation, extra))


def show_index(out: Console, indexed: Indexed, rows: int = 25, *, grains: bool = False) -> None:
    """What `lauepilot index` prints for people; ``grains``: a table of further grains follows."""
    result, orientation = indexed.result, indexed.result.orientation
    out.print(
        f"[bold]{indexed.crystal.name}[/] on [bold]{indexed.instrument.name}[/]: {len(indexed.spots)} spots found"
    )
    if orientation is None:
        out.print("[bold red]I do not know:[/] no orientation stands out from chance.")
        return
    table = spot_table(indexed)
    if not indexed.sure:
        out.print(
            f"[bold red]I do not know:[/] confidence {result.confidence:.3f} is below {SURE}. "
            "What follows is the best guess, not an answer."
        )
    out.print(
        f"{len(table.spot)} explained, mean residual {table.residual_px.mean():.3f} px, confidence "
        f"{result.confidence:.6f}"
        + (f", orientation known to {orientation.sigma_deg:.2g} deg" if indexed.sure else "")
    )
    if not result.finished:
        out.print(
            "the search was stopped at its limit of work: too many spots are nobody's. Give the strongest only, or "
            "--geometry.",
            style="yellow",
            soft_wrap=True,
        )
    if not grains and 2 * len(table.spot) < len(indexed.spots):
        out.print(
            f"only {len(table.spot)} of {len(indexed.spots)} spots explained: a second grain (--grains auto), a wrong "
            "crystal, or a wider spectrum than the instrument's?",
            style="yellow",
            soft_wrap=True,
        )
    for line in (*matrix_lines("U ", orientation.u), *matrix_lines("UB", orientation.ub)):
        out.print(line, style="cyan")
    out.print("laboratory frame: +z along the beam, +y up; UB with 2 pi, 1/angstrom", style="dim")
    cell = cell_of(orientation.b)
    out.print(
        "cell "
        + ", ".join(f"{v:.4f}" for v in cell[:3])
        + " A; "
        + ", ".join(f"{v:.3f}" for v in cell[3:])
        + " deg"
    )
    out.print("a Laue pattern does not show the size of the cell, only its shape", style="dim")
    fit = result.refinement
    if fit is not None and (chance := strain_chance(indexed.crystal, fit)) < SIGNIFICANT:
        out.print(
            f"the cell's shape differs from the CIF's by up to {np.abs(np.linalg.eigvalsh(fit.strain)).max():.1e} "
            f"(principal strain; by chance: {chance:.0e})"
        )
    _show_geometry(out, indexed)
    if result.alternatives:
        out.print(f"{len(result.alternatives)} other orientations fit about as well.", style="yellow")
    if indexed.frame is not None and indexed.last_fit:
        out.print(f"fitted to the found spots alone: {indexed.last_fit}", style="dim", soft_wrap=True)
    listing = Table(
        title=f"the brightest {min(rows, len(table.spot))} of {len(table.spot)}", title_justify="left"
    )
    for head in ("h k l", "column", "row", "counts", "energy keV", "residual px"):
        listing.add_column(head, justify="right")
    for i in range(min(rows, len(table.spot))):
        listing.add_row(
            " ".join(str(int(n)) for n in table.hkl[i]),
            f"{table.pixels[i, 0]:.2f}",
            f"{table.pixels[i, 1]:.2f}",
            f"{table.counts[i]:.0f}",
            f"{table.energy_kev[i]:.3f}",
            f"{table.residual_px[i]:.3f}",
        )
    out.print(listing)


def _show_geometry(out: Console, indexed: Indexed) -> None:
    detector, fit = indexed.detector, indexed.result.refinement
    text = f"detector: {detector.distance_mm:.3f} mm, centre ({detector.centre_px[0]:.2f}, {detector.centre_px[1]:.2f}) px"
    if not indexed.geometry_refined or fit is None:
        out.print(text + ", taken as exact")
        return
    s = fit.geometry_sigma
    out.print(
        f"{text}, refined; sigma {s[0]:.1g} mm, ({s[1]:.1g}, {s[2]:.1g}) px, "
        f"tilts ({np.rad2deg(s[3]):.1g}, {np.rad2deg(s[4]):.1g}) deg",
        soft_wrap=True,
    )
    if indexed.pixel_assumed:
        out.print(
            f"the file tells no pixel size: the distance scales with the one assumed ({detector.pixel_mm[0]:g} mm)",
            style="dim",
        )
