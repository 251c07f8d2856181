"""The documents of a run in a local folder, as they were emitted: of a closed, a failed or a killed one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lauepilot.hardware.errors import RecordError

CLOSED, OPEN = "documents.jsonl", "documents.jsonl.part"


@dataclass(frozen=True, eq=False)
class Stream:
    """One stream of events.

    Attributes
    ----------
    name
        ``primary``, ``decisions``, ``baseline`` ...
    data_keys
        As described.
    seq_num, time
        Number, from 1, and time (s since 1970) of each event.
    columns
        By data key, one value an event.
    """

    name: str
    data_keys: dict[str, dict[str, Any]]
    seq_num: list[int] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What was recorded of a run.

    Attributes
    ----------
    start, stop
        Its documents; an empty ``stop`` is that of a run that has not ended, or was killed.
    streams
        By name.
    folder
        Where its frames lie; None if they are in the streams already.
    """

    start: dict[str, Any]
    stop: dict[str, Any]
    streams: dict[str, Stream]
    folder: Path | None = None

    @property
    def uid(self) -> str:
        """Of the run."""
        return str(self.start["uid"])

    def image(self, pointer: Any) -> NDArray[Any]:
        """The array that an event holds, or points to in the run's folder.

        Raises
        ------
        RecordError
            If its file is missing, damaged, or not inside the folder.
        """
        if not isinstance(pointer, Mapping):
            return np.asarray(pointer)
        if self.folder is None:
            raise RecordError(f"The run {self.uid} points to a file {pointer!r}, but has no folder.")
        path = frame_path(self.folder, pointer)
        try:
            with h5py.File(path, "r") as file:
                return np.asarray(file[str(pointer["dataset"])][()])
        except (OSError, KeyError) as error:
            raise RecordError(
                f"The frame {path} cannot be read: {error}. Copy the whole folder again."
            ) from error


def frame_path(folder: Path, pointer: Mapping[str, Any]) -> Path:
    """The file that an event points to, if it is inside the run's folder.

    Raises
    ------
    RecordError
        If it is not: records come from anywhere, and must not make us read elsewhere.
    """
    path = (folder / str(pointer.get("file", ""))).resolve()
    if not path.is_relative_to(folder.resolve()) or path == folder.resolve():
        raise RecordError(
            f"The record in {folder} points to {pointer.get('file')!r}, outside of it. Do not trust it."
        )
    return path


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run's documents."""
    return (folder / CLOSED).is_file() or (folder / OPEN).is_file()


def run_folders(root: Path) -> list[Path]:
    """Folders of runs at ``root`` and up to two levels below, oldest first by name."""
    if is_run(root):
        return [root]
    found = [path for depth in ("*", "*/*") for path in root.glob(depth) if path.is_dir() and is_run(path)]
    return sorted(found, key=lambda path: path.name)


def find_run(root: str | Path, uid: str | None = None) -> Path:
    """The folder of a run: the one whose uid begins with ``uid``, the newest if None.

    Raises
    ------
    RecordError
        If there is none, or several.
    """
    folder = Path(root)
    runs = run_folders(folder)
    if uid is not None:
        runs = [run for run in runs if str(start_of(run).get("uid", "")).startswith(uid)]
    if not runs:
        wanted = "" if uid is None else f" whose uid begins with {uid!r}"
        raise RecordError(
            f"No run{wanted} in {folder}. Give the folder that holds documents.jsonl, or one above it."
        )
    if uid is not None and len(runs) > 1:
        raise RecordError(
            f"{len(runs)} runs in {folder} begin with {uid!r}: {', '.join(run.name for run in runs[:5])}. Type more of it."
        )
    return max(runs, key=lambda run: float(start_of(run).get("time", 0.0)))


def lines_of(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents in their order, frames as pointers; half a line at the end, of a killed process, is left out.

    Raises
    ------
    RecordError
        If there are none, or one in the middle is damaged.
    """
    path = folder / CLOSED if (folder / CLOSED).is_file() else folder / OPEN
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecordError(f"No documents of a run in {folder}: {error.strerror}. Check the path.") from error
    lines = text.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was never finished
        try:
            item = json.loads(line)
            yield str(item["name"]), dict(item["doc"])
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{path}, line {number} is damaged: {error}. Copy the file again.") from error


def start_of(folder: Path) -> dict[str, Any]:
    """The start document; empty if none was written."""
    for name, doc in lines_of(folder):
        if name == "start":
            return doc
    return {}


def read_record(folder: str | Path) -> RunRecord:
    """All of a run; events that were taken again after a pause count once, as they were last.

    Raises
    ------
    RecordError
        If there is no run, or its documents are damaged.
    """
    path = Path(folder)
    start: dict[str, Any] = {}
    stop: dict[str, Any] = {}
    streams: dict[str, Stream] = {}
    names: dict[str, str] = {}
    events: dict[str, dict[int, dict[str, Any]]] = {}
    for name, doc in lines_of(path):
        if name == "start":
            start = doc
        elif name == "stop":
            stop = doc
        elif name == "descriptor":
            names[doc["uid"]] = doc["name"]
            streams.setdefault(doc["name"], Stream(doc["name"], doc["data_keys"]))
            events.setdefault(doc["name"], {})
        elif name == "event":
            events[names[doc["descriptor"]]][int(doc["seq_num"])] = doc
    if not start:
        raise RecordError(f"{path} holds no start document: the run was killed before it began.")
    for name, stream in streams.items():
        for number, doc in sorted(events[name].items()):
            stream.seq_num.append(number)
            stream.time.append(float(doc["time"]))
            for key in stream.data_keys:
                stream.columns.setdefault(key, []).append(doc["data"].get(key))
    return RunRecord(start, stop, streams, path)


def replay(folder: str | Path, consumer: Any) -> str:
    """Hand a recorded run's documents to a consumer, frames included, as if it happened now; its uid.

    A run that was killed is given the end that its record lacks.
    """
    path = Path(folder)
    record = read_record(path)
    ended = False
    described: dict[str, dict[str, Any]] = {}
    for name, doc in lines_of(path):
        if name == "descriptor":
            described[doc["uid"]] = doc["data_keys"]
        if name == "event":
            keys = described[doc["descriptor"]]
            doc["data"] = {key: _emitted(record, keys[key], value) for key, value in doc["data"].items()}
        consumer(name, doc)
        ended = ended or name == "stop"
    if not ended:
        consumer("stop", missing_stop(record, "the process that ran it was killed"))
    return record.uid


def _emitted(record: RunRecord, described: Mapping[str, Any], value: Any) -> Any:
    """A value as it was emitted: frames from their files, and null as the NaN that JSON does not know."""
    if described.get("dtype") == "array":
        array = record.image(value)
        return array.astype(float) if array.dtype.kind == "O" else array
    return math.nan if value is None and described.get("dtype") == "number" else value


def missing_stop(record: RunRecord, reason: str) -> dict[str, Any]:
    """The stop document of a run that nobody closed: aborted, when its last event was written."""
    last = max((t for stream in record.streams.values() for t in stream.time), default=record.start["time"])
    return {
        "uid": f"{record.uid}-stop",
        "run_start": record.uid,
        "time": last,
        "exit_status": "abort",
        "reason": reason,
        "num_events": {name: len(stream.seq_num) for name, stream in record.streams.items()},
    }
