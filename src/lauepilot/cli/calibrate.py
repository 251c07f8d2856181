"""``lauepilot index --calibrate``: a frame of a known crystal to an instrument file with the detector's true pose."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lauepilot.cli.index import FEWEST_SPOTS, Indexed, with_units
from lauepilot.cli.output import NotKnown, UserError, write_json
from lauepilot.cli.report import draw, geometry_record
from lauepilot.perception.calibrate import (
    FEWEST,
    SURE,
    Calibration,
    CalibrationError,
    calibrate,
    drawing_prior,
    instrument_yaml,
    lauetools_det,
)
from lauepilot.perception.files.lauetools_text import LaueToolsError
from lauepilot.perception.files.readers import read_any
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.judge import few_spots, mirror_remark
from lauepilot.perception.observation import SpotList
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS
from lauepilot.simulator.instrument import Instrument


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A calibration, and the pattern that it comes from."""

    calibration: Calibration
    indexed: Indexed

    @property
    def sure(self) -> bool:
        """Whether the calibration may be used."""
        return self.calibration.sure


def calibrate_file(
    path: Path,
    crystal: Crystal,
    instrument: Instrument,
    *,
    dataset: str | None = None,
    number: int = 0,
    screen: Console | None = None,
) -> Calibrated:
    """Calibrate with a detector image or a list of spots, from the instrument's drawing on; ``screen`` is told meanwhile.

    Geometry that the file brings along is not used.

    Raises
    ------
    NotKnown
        If a frame holds fewer than four spots, or nothing stands out.
    FrameError, FrameFileError, LaueToolsError, IndexingError, FileNotFoundError, UserError
        If the file cannot be used; the message says why and what to do.
    """
    found = read_any(path, dataset=dataset, index=number)
    frame = None if found.frame is None else with_units(found.frame, instrument)
    seen = found.spots if frame is None else frame
    if seen is None:
        raise UserError(
            f"{path} holds no spots to calibrate with. Give a frame, or a list of spots (.dat .cor .fit)."
        )
    spots = seen if isinstance(seen, SpotList) else find_spots(seen, instrument.detector, found.mask)
    if frame is not None and len(spots) < FEWEST_SPOTS:
        raise NotKnown(few_spots(spots, frame).text)
    indexer = Indexer(crystal, instrument)
    with nullcontext() if screen is None else screen.status("searching orientation and pose together"):
        try:
            made = calibrate(crystal, instrument, spots, indexer=indexer)
        except CalibrationError as error:
            raise NotKnown(str(error)) from None
    indexed = Indexed(
        crystal,
        instrument,
        made.spots,
        made.result,
        frame,
        str(path),
        True,
        indexer.table,
        pixel_assumed=frame is None,
    )
    return Calibrated(made, indexed)


def record(done: Calibrated) -> dict[str, Any]:
    """The one JSON object of ``lauepilot index --calibrate --json``."""
    made = done.calibration
    _, before, after = made.residuals_px()
    return {
        "crystal": made.crystal.name,
        "instrument": done.indexed.instrument.name,
        "calibrated": made.instrument.name,
        "source": done.indexed.source,
        "sure": made.sure,
        "confidence": made.result.confidence,
        "n_spots": len(made.spots),
        "n_indexed": made.result.n_indexed,
        "residual_px": _rms(after),
        "residual_px_before": _rms(before),
        "geometry": geometry_record(done.indexed),
        "change": dict(zip(GEOMETRY_PARAMETERS, made.change, strict=True)),
        "change_sigma": dict(zip(GEOMETRY_PARAMETERS, made.sigma, strict=True)),
        "U": None if made.result.orientation is None else made.result.orientation.u,
    }


def _rms(residual: Any) -> float | None:
    return float(np.sqrt((residual**2).sum(axis=1).mean())) if len(residual) else None


def write_folder(done: Calibrated, folder: Path) -> None:
    """``calibration.json``, ``pattern.png``, ``residuals.png``; ``instrument.yaml`` and ``geometry.det`` where it is sure.

    ``geometry.det`` is left out where LaueTools cannot hold the detector.
    """
    made = done.calibration
    write_json(folder / "calibration.json", record(done))
    draw(done.indexed, folder / "pattern.png")
    draw_residuals(made, folder / "residuals.png")
    if not made.sure:
        return
    sigma = made.sigma
    comment = (
        f"{done.indexed.instrument.name} calibrated with {made.crystal.name} from {Path(done.indexed.source).name}: "
        f"{made.result.n_indexed} spots\n"
        f"standard deviations: distance {sigma[0]:.4f} mm, centre {sigma[1]:.3f}, {sigma[2]:.3f} px, "
        f"tilts {np.rad2deg(sigma[3]):.4f}, {np.rad2deg(sigma[4]):.4f} deg; they hold together, not one by one"
    )
    (folder / "instrument.yaml").write_text(instrument_yaml(made.instrument, comment), encoding="utf-8")
    try:
        (folder / "geometry.det").write_text(lauetools_det(made), encoding="utf-8")
    except LaueToolsError:
        return  # a cylinder, or not above the sample: LaueTools has no such detectors


def draw_residuals(made: Calibration, path: Path) -> None:
    """Found minus predicted with the drawn pose and with the one found: arrows, each panel with its scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from lauepilot.pictures.pattern import draw_sensor, save_small

    rows, cols = made.detector.shape
    pixels, before, after = made.residuals_px()
    wide = cols > 1.5 * rows
    panel = (
        (8.0, 8.0 * rows / cols + 0.9)
        if wide
        else (4.6 * cols / max(rows, cols), 4.6 * rows / max(rows, cols) + 0.9)
    )
    grid = (2, 1) if wide else (1, 2)
    figure = Figure(
        figsize=(panel[0] * grid[1] + 0.6, panel[1] * grid[0]),
        dpi=130,
        facecolor="white",
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    both = ((before, made.drawn, "pose of the drawing"), (after, made.detector, "pose found"))
    for axes, (arrows, detector, name) in zip(figure.subplots(*grid), both, strict=True):
        draw_sensor(axes, detector, None)
        if len(arrows) == 0:
            axes.set_title(f"{name}: nothing explained", fontsize=10)
            continue
        typical = float(np.median(np.linalg.norm(arrows, axis=1)))
        times = 0.03 * max(rows, cols) / max(typical, 1e-9)
        axes.quiver(
            *pixels.T, *(times * arrows).T, angles="xy", scale_units="xy", scale=1.0, color="#d55e00", width=0.003,
        )  # fmt: skip
        axes.scatter(*pixels.T, s=4, color="#0072b2", linewidths=0)
        axes.set_title(f"{name}: rms {_rms(arrows):.3g} px, arrows × {times:.2g}", fontsize=10)
    save_small(figure, path)


def show(out: Console, done: Calibrated) -> None:
    """What `lauepilot index --calibrate` prints for people."""
    made = done.calibration
    detector, sigma, change = made.detector, made.sigma, made.change
    _, before, after = made.residuals_px()
    out.print(
        f"[bold]{made.crystal.name}[/] on [bold]{done.indexed.instrument.name}[/]: {made.result.n_indexed} of "
        f"{len(made.spots)} spots explained, confidence {made.result.confidence:.6f}"
    )
    if not made.sure:
        out.print(
            f"[bold red]Not calibrated:[/] a confidence of {SURE} and {FEWEST} explained spots are needed. "
            "Is it this crystal? Expose longer, or take a crystal with more spots.",
            soft_wrap=True,
        )
    out.print(
        f"residual (rms) {_rms(before):.2f} px with the pose of the drawing, [bold]{_rms(after):.3f} px[/] with the one "
        "found"
    )
    centre = detector.centre_px
    rows = (
        ("distance", f"{detector.distance_mm:.4f} mm", f"{change[0]:+.4f}", f"{sigma[0]:.4f} mm"),
        ("centre column", f"{centre[0]:.3f} px", f"{change[1]:+.3f}", f"{sigma[1]:.3f} px"),
        ("centre row", f"{centre[1]:.3f} px", f"{change[2]:+.3f}", f"{sigma[2]:.3f} px"),
        ("tilt about x", "", f"{np.rad2deg(change[3]):+.4f}", f"{np.rad2deg(sigma[3]):.4f} deg"),
        ("tilt about y", "", f"{np.rad2deg(change[4]):+.4f}", f"{np.rad2deg(sigma[4]):.4f} deg"),
    )
    for name, value, moved, error in rows:
        out.print(f"{name:14s} {value:>14s}  moved by {moved:>10s}  ± {error}", style="cyan")
    out.print(
        "the distance scales with the pixel size of the instrument file; tilts are from the drawing",
        style="dim",
    )
    if made.sure:
        out.print(mirror_remark(made.drawn, drawing_prior(made.drawn)), style="dim", soft_wrap=True)
