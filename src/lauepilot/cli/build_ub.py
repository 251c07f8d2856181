"""``lauepilot build-ub``: the plan that finds UB on a simulated four-circle, recorded and compared with the truth."""

from __future__ import annotations

import csv
import math
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from bluesky.utils import RunEngineInterrupted
from rich.console import Console

from lauepilot.cli.output import Exit, UserError, print_json, run_folder, write_json
from lauepilot.cli.report import ub_record
from lauepilot.cli.tables import console, matrix_lines
from lauepilot.hardware.devices.fourcircle import connect_four_circle
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.plans.build_ub import UbRun, build_ub
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.reflections.drive import worst_miss_deg
from lauepilot.perception.reflections.search import UbStep
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.fourcircle import AXES
from lauepilot.simulator.fourcircle_twin import FourCircleFaults, FourCircleTwin
from lauepilot.simulator.orientation import misorientation

#: Marks of what was done, by kind: colour, marker, size, words.
MARKS = {
    "searched": ("#bbbbbb", ".", 10, "searched"),
    "hit": ("#e69f00", "o", 40, "a hit"),
    "nothing": ("#d55e00", "x", 30, "nothing there"),
    "centred": ("#56b4e9", "s", 26, "centred"),
    "indexed": ("#0072b2", "*", 90, "indexed and used"),
}


def run_build_ub(
    *,
    crystal: str,
    seed: int | None,
    detector: str,
    faults: str,
    speed: float,
    out: Path | None,
    as_json: bool,
) -> int:
    """Find UB from a random orientation, and report; the exit code.

    Raises
    ------
    CrystalError, UserError
        If something named does not exist.
    """
    if detector not in ("point", "area"):
        raise UserError(f"--detector is point or area; {detector!r} came.")
    if faults not in ("default", "none"):
        raise UserError(f"--faults is default or none; {faults!r} came.")
    if not math.isfinite(speed) or speed < 0.0:
        raise UserError(f"--speed must be 0 or a positive number; {speed} came.")
    body = load_crystal(crystal)
    number = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    level = FourCircleFaults() if faults == "default" else FourCircleFaults.none()
    twin = FourCircleTwin(body, rng=np.random.default_rng(number), faults=level)
    screen = None if as_json else console()
    if screen is not None:
        screen.print(
            f"[bold]{body.name}[/] on a [bold]four-circle[/] (simulated), {detector} detector, faults {faults}, "
            f"seed {number}"
        )
    folder = run_folder(out, f"ub-{body.name}")
    # Not hidden until it is whole: a run that fails or is interrupted leaves its record.
    folder.mkdir(parents=True, exist_ok=True)
    axes, counter = connect_four_circle(
        twin, detector=cast(Literal["point", "area"], detector), realtime_factor=speed
    )
    recorder = LocalRecorder(folder)
    main = threading.current_thread() is threading.main_thread()
    with run_engine(recorder, _Live(screen), in_main_thread=main) as engine:
        md = {"seed": number, "simulated": True, "faults": faults}
        try:
            run: UbRun = engine(build_ub(axes, counter, md=md)).plan_result  # type: ignore[union-attr]
        except RunEngineInterrupted:
            engine.abort("interrupted by Ctrl-C")  # type: ignore[no-untyped-call]
            raise KeyboardInterrupt from None
    summary = _write(run, twin, recorder, folder, number, detector)
    summary["folder"] = str(folder)
    if as_json:
        print_json(summary)
    elif screen is not None:
        _show(screen, run, summary)
    return Exit.DONE if run.answer.outcome == "found" else Exit.GAVE_UP


class _Live:
    """Prints findings as they come."""

    def __init__(self, screen: Console | None) -> None:
        self._screen = screen
        self._last = ""

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        if self._screen is None or name != "event" or "finding_what" not in doc["data"]:
            return
        data = doc["data"]
        if data["finding_kind_of"] == "searched" and data["finding_what"] == self._last:
            return
        self._last = data["finding_what"]
        at = "  ".join(f"{axis} {x:8.3f}" for axis, x in zip(AXES, data["finding_angles_deg"], strict=True))
        self._screen.print(
            f"{data['finding_clock_s']:7.0f} s  {data['finding_kind_of']:9s} {at}  {self._last}",
            soft_wrap=True,
        )


def _write(
    run: UbRun, twin: FourCircleTwin, recorder: LocalRecorder, folder: Path, seed: int, detector: str
) -> dict[str, Any]:
    if recorder.path is not None:
        for item in sorted(recorder.path.iterdir()):
            item.rename(folder / item.name)
        recorder.path.rmdir()
    answer = run.answer
    draw_search(
        answer.steps, folder / "build_ub.png", f"{twin.crystal.name}, {detector} detector: {answer.outcome}"
    )
    truth: dict[str, Any] = {
        "about": "known because it is a simulation; the search does not see it",
        "U": twin.truth.u,
    }
    if answer.ub is not None:
        orientation = answer.ub.result.orientation
        truth["misorientation_deg"] = float(
            np.rad2deg(misorientation(orientation.u, twin.truth.u, twin.crystal.symmetry))
        )
        truth["worst_of_ten_deg"] = worst_miss_deg(answer.ub, twin, np.random.default_rng([seed, 1]))
        extra = {
            "about": "U and UB are those of the sample holder, all axes at zero",
            "covariance_about": "rotation vector w in the holder's frame: U_true = exp(w) U",
            "instrument": twin.instrument.name,
            "zeros_deg": asdict(answer.ub.zeros),
            "measured_over_calculated_q": answer.ub.result.length_ratio,
        }
        write_json(folder / "ub.json", ub_record(twin.crystal, orientation, extra))
        _write_reflections(run, twin, folder / "reflections.csv")
    summary = {
        "outcome": answer.outcome,
        "reason": answer.reason,
        "crystal": twin.crystal.name,
        "detector": detector,
        "seed": seed,
        "clock_s": run.clock_s,
        "counts": run.n_counts,
        "sigma_deg": None if answer.ub is None else answer.ub.result.orientation.sigma_deg,
        "rivals": answer.rivals,
        "truth": truth,
        "files": sorted(item.name for item in folder.iterdir()),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _write_reflections(run: UbRun, twin: FourCircleTwin, path: Path) -> None:
    """The reflections that were used, as `lauepilot ub` reads them for an instrument with these axes; zeros left in."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["h", "k", "l", *AXES[:3], "delta", "energy_kev", "sigma_deg"])
        for peak in run.answer.peaks:
            angles = [f"{angle:.4f}" for angle in (*peak.angles_deg[:3], peak.tth_deg)]
            table.writerow([*(peak.hkl or ()), *angles, twin.instrument.energy_kev, f"{peak.sigma_deg:.4f}"])


def draw_search(steps: tuple[UbStep, ...], path: Path, title: str) -> None:
    """The search on the map of chi and phi: where was looked, what was found, what was used.

    Parameters
    ----------
    steps
        Of a `UbAnswer`.
    path
        PNG to write.
    title
        Above the map.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from lauepilot.pictures.pattern import save_small

    figure = Figure(figsize=(8.0, 4.6), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    walk = np.array([step.angles_deg[1:3] for step in steps if step.kind in ("searched", "hit", "centred")])
    if len(walk):
        axes.plot(walk[:, 1], walk[:, 0], color="#dddddd", linewidth=0.8, zorder=1)
    for kind, (colour, mark, size, words) in MARKS.items():
        places = np.array([step.angles_deg[1:3] for step in steps if step.kind == kind])
        if len(places):
            axes.scatter(
                places[:, 1],
                places[:, 0],
                s=size,
                c=colour,
                marker=mark,
                label=words,
                zorder=2,
                linewidths=1.0,
            )
    for step in steps:
        if step.kind == "indexed":
            place = (step.angles_deg[2], step.angles_deg[1])
            axes.annotate(step.what, place, fontsize=7, xytext=(4, 4), textcoords="offset points")
    axes.set(xlim=(-190, 190), ylim=(-95, 95), xlabel="phi (deg)", ylabel="chi (deg)")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_small(figure, path)


def _show(out: Console, run: UbRun, summary: Mapping[str, Any]) -> None:
    answer, truth = run.answer, summary["truth"]
    colour = "green" if answer.outcome == "found" else "yellow"
    out.print(f"[bold {colour}]{answer.outcome}[/]: {answer.reason}", soft_wrap=True)
    if answer.ub is not None:
        zeros = ", ".join(
            f"{name.removesuffix('_deg')} {value:+.3f}" for name, value in asdict(answer.ub.zeros).items()
        )
        for line in matrix_lines("UB (2 pi/angstrom, holder)", answer.ub.result.orientation.ub):
            out.print(line)
        out.print(f"U is known to {summary['sigma_deg']:.4f} deg; zeros (deg): {zeros}")
        out.print(
            f"truth: misorientation {truth['misorientation_deg']:.3f} deg; of ten other reflections the worst is "
            f"{truth['worst_of_ten_deg']:.3f} deg off"
        )
    out.print(
        f"{summary['counts']} counts, {summary['clock_s']:.0f} s on the instrument's clock; {summary['folder']}/",
        soft_wrap=True,
    )
