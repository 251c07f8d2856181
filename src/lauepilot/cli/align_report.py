"""What ``lauepilot align`` leaves beside a run's documents and frames: UB, pictures and a summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lauepilot.cli.index import index_spots, with_units
from lauepilot.cli.output import write_json
from lauepilot.cli.report import draw, ub_record
from lauepilot.hardware.metadata import versions
from lauepilot.hardware.plans.align import AlignResult
from lauepilot.perception.files.readers import read_frame
from lauepilot.perception.indexing.indexer import IndexingError
from lauepilot.perception.indexing.labels import labelled_like
from lauepilot.perception.observation import Declare, Expose, Move
from lauepilot.perception.spots.find import find_spots
from lauepilot.perception.task import Task
from lauepilot.pictures.pattern import draw_pattern
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.orientation import Orientation

if TYPE_CHECKING:
    from lauepilot.cli.align import Ended, Setup


def write_records(setup: Setup, ended: Ended, folder: Path) -> dict[str, Any]:
    """UB, pictures and summary beside the run's documents and frames; the summary."""
    frames = sorted((folder / "frames").glob("*.h5")) if (folder / "frames").is_dir() else []
    files: dict[str, Any] = {"frames": [f"frames/{frame.name}" for frame in frames]}
    ends = {"first": 0, "last": -1} if len(frames) > 1 else {"first": 0} if frames else {}
    for name, which in ends.items():
        try:
            told = name if len(frames) > 1 else "only"
            draw_frame(
                setup.task,
                setup.world.observer.indexer,
                ended.result,
                frames[which],
                folder / f"{name}_pattern.png",
                told,
            )
        except (
            Exception
        ) as error:  # a picture that cannot be drawn must not take the record of the run with it
            files[f"{name}_pattern_problem"] = f"{type(error).__name__}: {error}"
            (folder / f"{name}_pattern.png").unlink(missing_ok=True)
        else:
            files[f"{name}_pattern"] = f"{name}_pattern.png"
    orientation = None if ended.result is None else ended.result.orientation
    if ended.result is not None and orientation is not None:
        task = setup.task
        ub = ub_of_result(task.crystal, task.instrument, ended.result, orientation)
        write_json(folder / "ub.json", ub)
        files["ub"] = "ub.json"
    for name in ("documents.jsonl", "documents.jsonl.part", "run.json"):
        if (folder / name).is_file():
            files.setdefault("documents" if "documents" in name else "run", name)
    files |= ended.also
    summary = summarise(setup, ended, files)
    write_json(folder / "summary.json", summary)
    return summary


def draw_frame(
    task: Task, indexer: Any, result: AlignResult | None, frame_file: Path, path: Path, which: str
) -> None:
    """A frame with its predicted spots, named as in the result's orientation."""
    frame = with_units(read_frame(frame_file), task.instrument)
    spots = find_spots(frame, task.instrument.detector)
    title = f"{task.crystal.name} on {task.instrument.name}: the {which} pattern ({frame.live_time_s:.3g} s)"
    try:
        indexed = index_spots(spots, indexer, frame=frame, source=frame_file.name)
        if result is not None and result.orientation is not None:
            chain = task.instrument.goniometer
            there = chain.matrix(frame.axes) @ chain.matrix(axes_of(result)).T @ result.orientation.u
            indexed = replace(indexed, result=labelled_like(indexed.result, there, task.crystal))
        draw(indexed, path, title)
    except IndexingError as error:
        draw_pattern(
            path,
            task.instrument.detector,
            title=title,
            note=str(error),
            counts=frame.counts,
            found=spots.pixels,
        )


def ub_of_result(
    crystal: Crystal, instrument: Instrument, result: AlignResult, orientation: Orientation
) -> dict[str, Any]:
    """What ``ub.json`` holds after an alignment: in the laboratory at the axes where it holds, and on the holder."""
    then = axes_of(result)
    z = instrument.goniometer.matrix(then)
    return ub_record(
        crystal,
        orientation,
        {
            "declared": result.outcome == "declared",
            "instrument": instrument.name,
            "axes": then,
            "axes_at_end": dict(result.axes),
            "axes_units": {axis.name: axis.unit for axis in instrument.goniometer.axes},
            "axes_about": "U and UB above are those of the laboratory at axes (Z U): where the run ended if it was "
            "declared, else where the last indexed frame was taken; on the holder, all axes at zero:",
            "U_holder": z.T @ orientation.u,
            "UB_holder": z.T @ orientation.ub,
        },
    )


def axes_of(result: AlignResult) -> dict[str, float]:
    """Axes at which the orientation of a result holds."""
    return dict(result.axes if result.orientation_axes is None else result.orientation_axes)


def _at_end(setup: Setup, result: AlignResult, orientation: Orientation) -> FloatArray:
    """The laboratory orientation (3, 3) that a result's orientation predicts for the axes at the end."""
    goniometer = setup.task.instrument.goniometer
    return np.asarray(goniometer.matrix(result.axes) @ goniometer.matrix(axes_of(result)).T @ orientation.u)


def summarise(setup: Setup, ended: Ended, files: Mapping[str, Any]) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    result, task, world = ended.result, setup.task, setup.world
    steps = [] if result is None else [step_record(n, s) for n, s in enumerate(result.steps, start=1)]
    orientation = None if result is None else result.orientation
    miss = world.miss_deg()
    truth = {
        "about": "known because it is a simulation; no agent sees it",
        "reachable": setup.reachable,
        "target_missed_by_deg": miss,
        "within_tolerance": miss <= task.tolerance_deg,
        "misorientation_deg": None
        if result is None or orientation is None
        else world.misorientation_deg(_at_end(setup, result, orientation)),
        "U": world.twin.u_lab(),
    }
    return {
        "outcome": ended.outcome,
        "reason": ended.reason,
        "crystal": task.crystal.name,
        "instrument": task.instrument.name,
        "target": setup.target_text,
        "tolerance_deg": task.tolerance_deg,
        "agent": setup.agent_name,
        "faults": setup.faults,
        "seed": setup.seed,
        "axes": dict(world.twin.positions),
        "clock_s": world.twin.clock_s,
        "dose_s": world.twin.dose_s,
        "wall_s": round(ended.wall_s, 3),
        "n_exposures": len(files["frames"]),
        # What was decided before a failure or an abort stands in the documents.
        "n_moves": None if result is None else sum(step["decision"] == "Move" for step in steps),
        "steps": steps,
        "U": None if orientation is None else orientation.u,
        "UB": None if orientation is None else orientation.ub,
        "U_axes": None if result is None or orientation is None else axes_of(result),
        "covariance_deg2": None if orientation is None else np.rad2deg(np.rad2deg(orientation.covariance)),
        "sigma_deg": None if orientation is None else orientation.sigma_deg,
        "truth": truth,
        "versions": versions(),
        "files": dict(files),
    }


def step_record(number: int, step: Any) -> dict[str, Any]:
    """One decision in ``summary.json``."""
    decision = step.decision
    record: dict[str, Any] = {
        "step": number,
        "decision": type(decision).__name__,
        "reason": str(getattr(decision, "reason", "")),
        "axes_before": dict(step.axes),
        "clock_s": step.clock_s,
        "dose_s": step.dose_s,
        "confidence": step.confidence,
    }
    if isinstance(decision, Move):
        record["wanted"] = dict(decision.axes)
    if isinstance(decision, Expose):
        record["seconds"] = float(decision.seconds)
    if isinstance(decision, Declare):
        record["sigma_deg"] = decision.orientation.sigma_deg
    return record
