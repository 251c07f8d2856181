"""Going on with an alignment whose process was killed, from its record alone and without repeating an exposure.

::

    plan = resume_run("lauepilot-runs/20261121T101500-si", camera, goniometer, IndexAndMove())
    result = RE(plan).plan_result

Every decision is recorded with what the agent held after it *before* it is carried out, every exposure as soon as it is
read out. What is found is therefore one of three: a decision whose exposure is recorded too (the agent is asked next), one
that was not carried out, or only begun (it is carried out again: moves go to absolute positions, and an exposure without a
frame is lost), or the end. Where the axes stand is compared with the record before anything moves.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.interlock import Collisions
from lauepilot.hardware.metadata import plain
from lauepilot.hardware.plans.align import Before, Step, align_crystal, usual_observer
from lauepilot.hardware.plans.settle import Plan
from lauepilot.hardware.protocols import Agent, Backend, Camera, Goniometer, Observer, Task
from lauepilot.hardware.records.dataset import without_device
from lauepilot.hardware.records.documents import (
    CLOSED,
    OPEN,
    RunRecord,
    find_run,
    frame_path,
    missing_stop,
    read_record,
    start_of,
)
from lauepilot.hardware.records.local import check_over, write_whole
from lauepilot.perception.files.readers import read_frame
from lauepilot.perception.observation import Decision, Expose, Move, Observation
from lauepilot.perception.plain import decision_of
from lauepilot.simulator.target import Alignment, Lattice, Target

logger = logging.getLogger("lauepilot.hardware")


@dataclass(frozen=True, eq=False)
class Entry:
    """One decision of a record, and what became of it.

    Attributes
    ----------
    number
        Of the step, from 1.
    decision
        None if what the agent returned was no decision.
    verdict
        ``allowed``, or why it was refused.
    axes
        Read-back when it was taken, degrees and mm.
    clock_s, dose_s, confidence
        As in `lauepilot.hardware.plans.align.Step`.
    agent_state
        What the agent held after it.
    frame
        File of the exposure that it led to; None if there is none.
    frame_axes, frame_clock_s, frame_dose_s
        Read-back, and time and dose since the start, after that exposure.
    """

    number: int
    decision: Decision | None
    verdict: str
    axes: dict[str, float]
    clock_s: float
    dose_s: float
    confidence: float
    agent_state: dict[str, Any] | None
    frame: Path | None = None
    frame_axes: Mapping[str, float] | None = None
    frame_clock_s: float = 0.0
    frame_dose_s: float = 0.0


def resume_run(
    folder: str | Path,
    camera: Camera,
    goniometer: Goniometer,
    agent: Agent,
    *,
    observer: Observer | None = None,
    crystal: Lattice | None = None,
    tolerance: Mapping[str, float] | None = None,
    reread: bool = False,
    md: Mapping[str, Any] | None = None,
    obstacles: Sequence[Collisions] = (),
) -> Plan:
    """Go on with an alignment from its record; a Bluesky plan, with the result of `align_crystal`.

    The old record is closed as aborted; the new run's start document names it under ``resumed_from``. Steps, time and dose
    count on from there.

    Parameters
    ----------
    folder
        Of the run.
    camera, goniometer, agent, observer, crystal, tolerance, md, obstacles
        As for `align_crystal`; the same instrument, crystal, agent and obstacles as before.
    reread
        Go on from where the axes stand now, and let the agent begin anew there: with a new exposure, and nothing that it
        believed. For axes that were moved meanwhile, and agents without ``restore``.

    Raises
    ------
    RecordError
        If the record is no alignment's, or was finished; if instrument, crystal or agent are others, or obstacles are
        missing; or if the axes do not stand where the record says: which, where, and what to do.
    """
    path = find_run(folder)
    check_over(path)
    record = read_record(path)
    if record.start.get("plan_name") != "align_crystal" or "began_at" not in record.start:
        raise RecordError(f"The run in {path} is no alignment that can be gone on with. Start it again.")
    if record.stop.get("exit_status") == "success":
        raise RecordError(
            f"The run in {path} came to its end: {record.stop.get('reason', '')}. There is nothing to go on with."
        )
    for source in (agent, camera):
        crystal = getattr(source, "crystal", None) if crystal is None else crystal
    allowed = record.start["allowed"]
    missing = Counter(allowed.get("obstacles", ())) - Counter(type(o).__name__ for o in obstacles)
    if missing:
        raise RecordError(
            f"The run was kept clear of obstacles that are not given now ({', '.join(missing)}). Give obstacles=[...] again."
        )
    task = _task(record, camera, crystal)
    eyes = usual_observer(task) if observer is None else observer
    before = _before(entries(path), record, camera, goniometer, agent, eyes, dict(tolerance or {}), reread)
    close_killed(path, "the process that ran it was killed; another run goes on with it")
    logger.info("going on with %s after step %d", record.uid, len(before.steps))
    return align_crystal(
        camera, goniometer, agent, task.target, observer=eyes, crystal=crystal,
        max_steps=int(allowed["steps"]), max_dose_s=float(allowed["dose_s"]), max_exposure_s=float(allowed["exposure_s"]),
        tolerance=tolerance, before=before, obstacles=obstacles,
        md={**(md or {}), "resumed_from": {"uid": record.uid, "folder": str(path.resolve())}},
    )  # fmt: skip


def _task(record: RunRecord, camera: Camera, crystal: Lattice | None) -> Task:
    """The recorded task, if this is the instrument and the crystal that it was on."""
    start = record.start
    mine, theirs = plain(camera.instrument), start["instrument"]
    differ = [key for key in mine if mine[key] != theirs.get(key)]
    if differ:
        raise RecordError(
            f"The run was on another instrument: {', '.join(differ)} differ from the record. Load the instrument of the run "
            "again, or start a new run."
        )
    then = start["crystal"].get("B_2pi_per_angstrom")
    now = None if crystal is None else np.asarray(crystal.b, dtype=float)
    if (then is None) != (now is None) or (
        now is not None and not np.allclose(now, then, rtol=1e-9, atol=0.0)
    ):
        raise RecordError(
            f"The run was on crystal {start['crystal']['name']!r}, whose cell is not that of the one given now. Give "
            "crystal=load_crystal(...) of the run."
        )
    target = start["target"]
    first, second = (None if target[k] is None else _alignment(target[k]) for k in ("primary", "secondary"))
    if first is None:
        raise RecordError("The record names no target. Start a new run.")
    allowed = start["allowed"]
    return Task(
        Target(first, second), crystal, camera.instrument, int(allowed["steps"]), float(allowed["dose_s"]),
        float(allowed["exposure_s"]),
    )  # fmt: skip


def _alignment(value: Mapping[str, Any]) -> Alignment:
    (h, k, l), (x, y, z) = value["indices"], value["direction"]
    return Alignment(value["kind"], (h, k, l), (x, y, z))


def entries(folder: str | Path) -> list[Entry]:
    """All decisions of a run, and of the runs that it went on from, in their order.

    Raises
    ------
    RecordError
        If a record is missing or damaged.
    """
    path = Path(folder)
    record = read_record(path)
    found: dict[int, Entry] = {}
    earlier = record.start.get("resumed_from")
    if earlier is not None:
        found = {entry.number: entry for entry in entries(_earlier(path, earlier))}
    for entry in _own_entries(path, record):
        found[entry.number] = entry
    return [found[number] for number in sorted(found)]


def _earlier(path: Path, name: Mapping[str, Any]) -> Path:
    """The folder of the run before: where it was, or beside this one if both were copied elsewhere."""
    for place in (Path(str(name["folder"])), path.parent / Path(str(name["folder"])).name):
        if ((place / CLOSED).is_file() or (place / OPEN).is_file()) and start_of(place).get("uid") == name[
            "uid"
        ]:
            return place
    raise RecordError(
        f"The run in {path} went on from {name['uid']}, whose record is not in {name['folder']} any more. Copy it there, or "
        f"beside {path.name}."
    )


def _own_entries(path: Path, record: RunRecord) -> list[Entry]:
    decisions, primary = record.streams.get("decisions"), record.streams.get("primary")
    if decisions is None:
        return []
    keys, began = record.start["keys"], record.start["began_at"]
    axes = keys["axes"]
    by_name = {
        without_device(key, described): key
        for key, described in decisions.data_keys.items()
        if key not in axes.values()
    }

    def value(what: str, row: int) -> Any:
        return decisions.columns[by_name[what]][row]

    shots = 0
    found = []
    for row in range(len(decisions.seq_num)):
        kept = json.loads(value("checkpoint", row))
        decision = None if kept["decision"]["kind"] == "none" else decision_of(kept["decision"])
        # Of a record's exposures only the last can be without a frame: frames and decisions come in one order.
        exposed = isinstance(decision, Expose) and value("verdict", row) == "allowed"
        shot: dict[str, Any] = {}
        if exposed and primary is not None and shots < len(primary.seq_num):
            pointer = primary.columns[keys["image"]][shots]
            shot = {
                "frame": frame_path(path, pointer),
                "frame_axes": {axis: float(primary.columns[key][shots]) for axis, key in axes.items()},
                "frame_clock_s": float(primary.columns[keys["clock_s"]][shots]) - began["clock_s"],
                "frame_dose_s": float(primary.columns[keys["dose_s"]][shots]) - began["dose_s"],
            }
            shots += 1
        confidence = value("confidence", row)
        found.append(
            Entry(
                int(value("step", row)),
                decision,
                str(value("verdict", row)),
                {axis: float(decisions.columns[key][row]) for axis, key in axes.items()},
                float(value("elapsed_s", row)),
                float(value("used_dose_s", row)),
                float("nan") if confidence is None else float(confidence),
                kept["agent"],
                **shot,
            )
        )
    return found


def _before(
    chain: list[Entry],
    record: RunRecord,
    camera: Camera,
    goniometer: Goniometer,
    agent: Agent,
    observer: Observer,
    tolerance: Mapping[str, float],
    reread: bool,
) -> Before:
    """Where to go on: the steps that are done, and what the agent knew."""
    here, uid = dict(goniometer.position), record.uid
    if not chain:
        return Before(uid, (), observer.start(here, clock_s=0.0, dose_s=0.0), None, None, 0, 0.0, 0.0)
    last = chain[-1]
    done = isinstance(last.decision, Expose) and last.frame is not None
    shots = [entry for entry in chain if entry.frame is not None]
    clock_s, dose_s = (last.frame_clock_s, last.frame_dose_s) if done else (last.clock_s, last.dose_s)
    # An exposure that was lost with the process has still struck the crystal, where the camera counts on.
    lost_s = camera.dose_now_s - float(record.start["began_at"]["dose_s"]) - dose_s
    dose_s += lost_s if lost_s > 1e-6 else 0.0
    steps = tuple(_step(entry) for entry in (chain if done else chain[:-1]))
    if reread:
        steps = tuple(_step(entry) for entry in chain if entry.decision is not None)
        anew = observer.start(here, clock_s=clock_s, dose_s=dose_s)
        return Before(uid, steps, anew, None, None, 0, clock_s, dose_s)
    if last.decision is None:
        raise RecordError(
            "The run ended with what was no decision of the agent's. Look anew with reread=True."
        )
    if not hasattr(agent, "restore") or last.agent_state is None:
        raise RecordError(
            f"{type(agent).__name__} cannot take up what it held: it has no restore(state). Look anew with reread=True."
        )
    _stands(last, done, goniometer, here, tolerance)
    observation = _observed(shots[-1:], observer, len(shots), last, done)
    return Before(
        uid, steps, observation, None if done else last.decision, last.agent_state, len(shots), clock_s, dose_s,
    )  # fmt: skip


def _step(entry: Entry) -> Step:
    if entry.decision is None:
        raise RecordError(f"Step {entry.number} was no decision. Look anew with reread=True.")
    return Step(entry.decision, entry.axes, entry.clock_s, entry.dose_s, entry.confidence)


def _observed(shots: list[Entry], observer: Observer, number: int, last: Entry, done: bool) -> Observation:
    """What the agent saw before the decision that comes next, or comes again: made from the frame on disk."""
    if not shots:
        observation = observer.start(last.axes, clock_s=0.0, dose_s=0.0)
    else:
        shot = shots[0]
        if shot.frame is None or shot.frame_axes is None:
            raise RecordError(f"Step {shot.number} has no frame.")
        observation = observer.observe(
            read_frame(shot.frame), axes=shot.frame_axes, clock_s=shot.frame_clock_s, dose_s=shot.frame_dose_s,
            n_exposures=number,
        )  # fmt: skip
    if not done and dict(observation.axes) != last.axes:
        observation = observer.moved(observation, last.axes, clock_s=last.clock_s)
    return observation


def _stands(
    last: Entry, done: bool, goniometer: Goniometer, here: Mapping[str, float], tolerance: Mapping[str, float]
) -> None:
    """Refuse to go on where an axis is neither where it was, nor on its way to where it was sent."""
    allowed = {
        a.name: tolerance.get(a.name, max(0.01, a.backlash + 2.0 * a.resolution))
        for a in goniometer.chain.axes
    }
    known = last.frame_axes if done and last.frame_axes is not None else last.axes
    sent = last.decision.axes if isinstance(last.decision, Move) else {}
    wrong = []
    for name, was in known.items():
        ends = sorted((was, float(sent.get(name, was))))
        if not ends[0] - allowed[name] <= here.get(name, float("nan")) <= ends[1] + allowed[name]:
            unit = goniometer.chain.axis(name).unit
            wrong.append(
                f"{name} stood at {was:.4f} {unit} and is at {here.get(name, float('nan')):.4f} {unit}"
            )
    if wrong:
        raise RecordError(
            f"Axes were moved since the run was killed: {'; '.join(wrong)}. Bring them back and resume again, or look anew "
            "from here with reread=True (--reread)."
        )


def close_killed(folder: str | Path, reason: str) -> None:
    """Give a run that nobody closed the end that its record lacks; a closed one stays as it is."""
    path = Path(folder)
    if (path / CLOSED).is_file():
        return
    record = read_record(path)
    stop = missing_stop(record, reason)
    whole = (path / OPEN).read_bytes().rpartition(b"\n")[0]
    line = json.dumps({"name": "stop", "doc": stop}).encode()
    write_whole(path / CLOSED, lambda part: part.write_bytes(whole + b"\n" + line + b"\n"))
    for done in (OPEN, ".reserve"):
        (path / done).unlink(missing_ok=True)
    summary = {
        "uid": record.uid, "began": record.start["time"], "ended": stop["time"], "exit_status": "abort", "reason": reason,
        "num_events": stop["num_events"],
        "frames": sorted(f"frames/{frame.name}" for frame in (path / "frames").glob("frame_*.h5")),
    }  # fmt: skip
    write_whole(path / "run.json", json.dumps(summary, indent=2))


def retrace(backend: Backend, folder: str | Path) -> None:
    """Lead a simulated instrument that died with its process through what a record says was done with it.

    A Twin of the same seed then stands where the old one stood, with the same dice in hand. A real instrument needs none.

    Raises
    ------
    RecordError
        If it does not give the recorded frames: then it is another one.
    """
    chain = entries(folder)
    for entry in chain:
        if isinstance(entry.decision, Move) and entry.verdict == "allowed" and entry is not chain[-1]:
            backend.move(entry.decision.axes)
        if isinstance(entry.decision, Expose) and entry.frame is not None:
            frame = backend.expose(entry.decision.seconds)
            if not np.array_equal(frame.counts, read_frame(entry.frame).counts):
                raise RecordError(
                    f"The simulated instrument does not give the frame of step {entry.number} again: its seed, crystal, "
                    "faults or version are others, or an exposure was interrupted. Start a new run."
                )
