"""The calibration of an instrument from the terminal: carried out, recorded, told and drawn."""

from __future__ import annotations

import csv
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from rich.console import Console

from lauepilot.cli.output import Exit, UserError, print_json, run_folder, write_json
from lauepilot.cli.simulate import fault_level
from lauepilot.cli.tables import console
from lauepilot.hardware.devices.config import (
    DevicesError,
    Library,
    load_devices,
    usual_devices,
    wait_connected,
)
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.plans.calibrate import CalibrateResult, calibrate_instrument, described
from lauepilot.hardware.protocols import Camera, Goniometer
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.instrument_fit_file import check_target
from lauepilot.perception.instrument_fit_result import InstrumentFit, InstrumentFitError
from lauepilot.simulator.crystal import Crystal, load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

#: A diffractometer that nobody has measured yet.
FAR = Faults(centre_mm=2.0, distance_mm=2.0, tilt_deg=1.0, axis_misdirection_deg=2.0, axis_zero_deg=5.0)


@dataclass(frozen=True, eq=False)
class Setup:
    """Devices that stand ready, the crystal, and words on where they are."""

    camera: Camera
    goniometer: Goniometer
    crystal: Crystal
    where: str
    connected: bool


def prepare(
    *,
    crystal: str,
    instrument: str,
    faults: str,
    seed: int | None,
    prefix: str | None,
    devices: Path | None,
    library: Library,
) -> Setup:
    """Devices on the Twin or on process variables.

    Raises
    ------
    UserError, CrystalError, InstrumentError
        If something named does not exist.
    """
    if prefix is not None and devices is not None:
        raise UserError("Give either --epics PREFIX or --devices FILE, not both.")
    body = load_crystal(crystal)
    if prefix is None and devices is None:
        level = FAR if faults == "far" else fault_level(faults)
        number = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        twin = Twin(body, load_instrument(instrument), rng=np.random.default_rng(number), faults=level)
        camera, goniometer = connect(twin)
        return Setup(camera, goniometer, body, f"simulated, faults {faults}, seed {number}", True)
    try:
        if devices is not None:
            eye, axes = load_devices(devices)
        else:
            eye, axes = usual_devices(str(prefix), load_instrument(instrument), library)
    except DevicesError as error:
        raise UserError(str(error)) from None
    eye.crystal = body
    return Setup(eye, axes, body, str(devices or prefix), False)


def calibrate(
    *,
    crystal: str,
    instrument: str,
    out: Path,
    faults: str,
    seed: int | None,
    frames: int,
    exposure_s: float | None,
    prefix: str | None,
    devices: Path | None,
    library: Library,
    records: Path | None,
    as_json: bool,
) -> int:
    """Carry out, record and report; the exit code."""
    try:
        check_target(out)
    except InstrumentFitError as error:
        raise UserError(str(error)) from None
    setup = prepare(
        crystal=crystal, instrument=instrument, faults=faults, seed=seed, prefix=prefix, devices=devices, library=library
    )  # fmt: skip
    screen = None if as_json else console()
    if screen is not None:
        screen.print(
            f"[bold]{setup.crystal.name}[/] on [bold]{setup.camera.instrument.name}[/] ({setup.where}), {frames} frames"
        )
    folder = run_folder(records, f"calibrate-{Path(crystal).stem}")
    folder.mkdir(parents=True, exist_ok=True)
    result = carry_out(setup, folder, out, frames, exposure_s, screen)
    if result is None:
        raise KeyboardInterrupt
    summary = write_summary(setup, result, folder)
    if as_json:
        print_json(summary)
    elif screen is not None:
        show(screen, result, folder)
    return Exit.DONE if result.outcome == "calibrated" else Exit.GAVE_UP


def carry_out(
    setup: Setup,
    folder: Path,
    out: Path | None,
    frames: int,
    exposure_s: float | None,
    screen: Console | None,
) -> CalibrateResult | None:
    """Run the plan with its records in ``folder``; None if Ctrl-C ended it, with axes at rest."""
    for name in ("bluesky", "lauepilot.hardware"):  # told once, in one line, and in the records
        logging.getLogger(name).addHandler(logging.NullHandler())
    recorder = LocalRecorder(folder, setup.camera.instrument)
    main = threading.current_thread() is threading.main_thread()
    with run_engine(recorder, _Live(screen), in_main_thread=main) as engine:
        if not setup.connected:
            wait_connected(setup.camera, setup.goniometer, loop=engine.loop)
        plan = calibrate_instrument(
            setup.camera, setup.goniometer, setup.crystal, frames=frames, exposure_s=exposure_s, out=out,
            md={"simulated": setup.connected, "where": setup.where},
        )  # fmt: skip
        return _run(engine, plan)


def _run(engine: RunEngine, plan: Any) -> CalibrateResult | None:
    try:
        ended: Any = engine(plan)
    except RunEngineInterrupted:
        engine.abort("interrupted by Ctrl-C")  # type: ignore[no-untyped-call]
        return None
    finally:
        plan.close()
    result: CalibrateResult = ended.plan_result
    return result


class _Live:
    """Tells of frames as they come."""

    def __init__(self, screen: Console | None) -> None:
        self._screen = screen
        self._wanted = 0
        self._keys: Mapping[str, str] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        if self._screen is None:
            return
        if name == "start":
            self._wanted, self._keys = int(doc.get("num_points", 0)), doc["keys"]["axes"]
        elif name == "event" and set(self._keys.values()) <= set(doc["data"]):
            place = "  ".join(f"{axis} {float(doc['data'][key]):9.3f}" for axis, key in self._keys.items())
            self._screen.print(f"frame {doc['seq_num']:3d} of {self._wanted}   {place}", style="dim")


def write_summary(setup: Setup, result: CalibrateResult, folder: Path) -> dict[str, Any]:
    """``calibration.json``, ``frames.csv`` and ``residuals.png``; the summary."""
    fit = result.fit
    summary = {
        "outcome": result.outcome,
        "reason": result.reason,
        "crystal": setup.crystal.name,
        "instrument": setup.camera.instrument.name,
        "where": setup.where,
        "written": result.written,
        "kept": result.kept,
        "n_frames": result.n_frames,
        "clock_s": result.clock_s,
        "dose_s": result.dose_s,
        "axes": result.axes,
        "fit": None if fit is None else described(fit),
        "folder": folder,
    }
    write_json(folder / "calibration.json", summary)
    if fit is not None:
        draw(fit, folder / "residuals.png")
        with (folder / "frames.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            names = list(fit.rows[0].axes)
            table.writerow(
                [
                    *names,
                    "spots",
                    "explained",
                    "used",
                    "before_px",
                    "after_px",
                    "x_mm",
                    "y_mm",
                    "z_mm",
                    "turn_deg",
                ]
            )
            for row in fit.rows:
                table.writerow(
                    [
                        *(f"{row.axes[n]:.4f}" for n in names), row.n_spots, row.n_matched, int(row.used),
                        f"{row.before_px:.3f}", f"{row.after_px:.3f}", *(f"{x:.4f}" for x in row.offset_mm),
                        f"{np.linalg.norm(row.turn_deg):.4f}",
                    ]
                )  # fmt: skip
    return summary


def draw(fit: InstrumentFit, path: Path) -> None:
    """Residuals of each frame before and after, and where the axes point, as a small PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from lauepilot.pictures.pattern import save_small

    figure = Figure(figsize=(9.6, 4.0), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1.0])
    number = np.arange(1, len(fit.rows) + 1)
    left.plot(number, [r.before_px for r in fit.rows], "o", color="#d55e00", label="as described")
    left.plot(number, [r.after_px for r in fit.rows], "o", color="#0072b2", label="as found")
    left.axhline(1.0, color="#bbbbbb", linewidth=0.8)
    left.set(yscale="log", xlabel="frame", ylabel="found minus predicted, rms (px)")
    left.set_title(f"residuals: {fit.rms_px:.3f} px in all", fontsize=10)
    left.legend(fontsize=8, loc="center right")
    at = len(fit.values) - 3 - 2 * len(fit.zeros_deg)
    tilts = np.rad2deg(fit.values[at:-3]).reshape(-1, 2)
    reach = 1.25 * max(float(np.abs(tilts).max()), 0.1)
    for (x, y), name, colour in zip(
        tilts, fit.zeros_deg, ("#0072b2", "#e69f00", "#009e73") * len(tilts), strict=False
    ):
        label = f"{name}, zero {fit.zeros_deg[name]:+.2f}°"
        right.plot([0.0, x], [0.0, y], "-", color=colour, linewidth=1.2)
        right.plot([x], [y], "o", color=colour, label=label)
    right.legend(fontsize=8)
    right.plot([0.0], [0.0], "+", color="black", markersize=10)
    right.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="deg", ylabel="deg")
    right.set_title("axes at read-back zero, from the description (+)", fontsize=10)
    save_small(figure, path, "#009e73", "#e69f00")


def show(screen: Console, result: CalibrateResult, folder: Path) -> None:
    """What a person is told."""
    fit = result.fit
    if fit is not None:
        screen.print(
            f"residual [bold]{fit.rms_px:.3f} px[/] (as described: "
            f"{np.nanmedian([r.before_px for r in fit.rows]):.1f} px), sphere of confusion {fit.sphere_mm:.3f} mm"
        )
        for name, value, sigma in zip(fit.names, fit.values, fit.sigma, strict=True):
            if name.startswith("crystal_"):
                continue
            degrees = name.endswith("_rad")
            factor, unit = (np.rad2deg(1.0), "deg") if degrees else (1.0, name.rpartition("_")[2])
            screen.print(
                f"{name.rpartition('_')[0]:16s} moved by {factor * value:+10.4f}  ± {factor * sigma:.4f} {unit}",
                style="cyan",
            )
        zeros = ", ".join(f"{n} {z:+.3f} deg" for n, z in fit.zeros_deg.items())
        screen.print(f"of the axes' tilts, zeros are likely: {zeros}", style="dim", soft_wrap=True)
        for text in fit.conventions:
            screen.print(f"not told by any frame: {text}", style="dim", soft_wrap=True)
    if result.outcome == "refused":
        screen.print(f"[bold red]Not calibrated:[/] {result.reason}", soft_wrap=True)
    else:
        kept = "" if result.kept is None else f" (the old one: {result.kept})"
        screen.print(f"[bold]{result.written}[/] holds the corrected instrument{kept}.", soft_wrap=True)
    screen.print(f"records, table of frames and picture: {folder}/", soft_wrap=True)
