"""Records of a run in a local folder, from Bluesky's documents alone: no server, and nothing half-written.

::

    FOLDER/20261121T101500-1a2b3c4d/
        documents.jsonl      every document, one JSON object a line; ``documents.jsonl.part`` until the run is closed
        frames/frame_0001.h5 one NeXus file for each exposure
        run.json             how it ended, written last

Frames appear under their name only when they are whole. A run that was killed leaves the ``.part`` file with all
documents until then, and no ``run.json``. Where a disk fills up, what was written stays whole, and a reserve that was
set aside at the beginning takes the end of the run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.metadata import plain
from lauepilot.perception.files.readers import write_frame
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("lauepilot.hardware")

#: Arrays with more elements than this go into the HDF5 file of their frame, not into the JSON lines.
INLINE = 64
#: Bytes set aside for the end of a run, should the disk be full by then: the stop document and ``run.json``.
RESERVE = 128 * 1024
#: Wall and monotonic clock that differ by more than this, s, were not left alone.
_JUMP_S = 1.0


class LocalRecorder:
    """A consumer of documents: ``RE.subscribe(LocalRecorder(folder))``.

    Parameters
    ----------
    folder
        Where each run gets a folder of its own; made if missing.
    instrument
        Its detector pose and axes are written into each frame; None leaves them to the start document.

    Attributes
    ----------
    path
        Folder of the present or last run, the outer one of several; None before the first.
    problem
        Why the present or last run's record is not complete; None if it is.
    """

    def __init__(self, folder: str | Path, instrument: Instrument | None = None) -> None:
        self._instrument = instrument
        self._root = Path(folder)
        self.path: Path | None = None
        self.problem: RecordError | None = None
        self._file: int | None = None
        self._start: dict[str, Any] = {}
        self._frames: list[str] = []
        self._began_s = 0.0
        self._within: dict[str, LocalRecorder] = {}
        self._run_of: dict[str, str] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take in one document; a run that begins before another one has ended gets a folder of its own too.

        Raises
        ------
        RecordError
            If it cannot be written: once, so that the run ends; how it ended is then written from the reserve.
        """
        other = self._other(name, doc)
        if other is not None:
            other(name, doc)
            return
        if name == "start":
            self._open(doc)
        if self._file is None:
            raise RuntimeError(
                f"A document {name!r} came before any start document; subscribe before the run begins."
            )
        if self.problem is not None:  # said already; what is left to write is the end
            if name == "stop":
                self._finish_on_reserve(doc)
            return
        try:
            self._write(name, doc)
            if name == "stop":
                self._finish(doc)
        except OSError as error:
            self.problem = self._explained(error)
            if name != "stop":
                raise self.problem from error
            self._finish_on_reserve(doc)

    def close(self) -> None:
        """Close the file of a run that has not ended; it keeps its ``.part`` name."""
        for inner in self._within.values():
            inner.close()
        self._within, self._run_of = {}, {}
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._free_reserve()

    def _other(self, name: str, doc: Mapping[str, Any]) -> LocalRecorder | None:
        """Who writes a document of a run within the present one, as bluesky-adaptive makes them; None for its own."""
        if name == "start" and self._file is not None:
            self._within[str(doc["uid"])] = LocalRecorder(self._root, self._instrument)
            return self._within[str(doc["uid"])]
        if name == "descriptor":
            self._run_of[str(doc["uid"])] = str(doc.get("run_start", ""))
        run = str(doc.get("run_start") or self._run_of.get(str(doc.get("descriptor")), ""))
        return self._within.pop(run, None) if name == "stop" else self._within.get(run)

    def _open(self, doc: Mapping[str, Any]) -> None:
        self.close()
        self._start, self._frames, self._began_s = dict(doc), [], time.monotonic()
        self.problem = None
        try:
            self.path = self._new_folder(doc)
            (self.path / "frames").mkdir()
            _set_aside(self.path / ".reserve")
            self._file = os.open(
                self.path / "documents.jsonl.part", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666
            )
            _hold(self._file)
        except OSError as error:
            raise self._explained(error) from error

    def _new_folder(self, doc: Mapping[str, Any]) -> Path:
        moment = datetime.fromtimestamp(doc["time"]).strftime("%Y%m%dT%H%M%S")
        # A uid is made by Bluesky, but whoever emits documents by hand may write anything.
        label = re.sub(r"[^0-9A-Za-z]", "_", str(doc["uid"])[:8])
        for n in range(1000):
            folder = self._root / (f"{moment}-{label}" + (f"-{n + 1}" if n else ""))
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if self._root.is_dir():
                    continue
                raise
            return folder
        raise FileExistsError(f"a thousand folders {moment}-{label}-* exist")

    def _explained(self, error: OSError) -> RecordError:
        place = self._root if self.path is None else self.path
        what = error.strerror or str(error)
        return RecordError(
            f"The record in {place} cannot be written: {what}. What was written until then is whole; the motors are "
            "stopped. Make room or choose another folder, then go on with resume_run, or start again."
        )

    def _write(self, name: str, doc: Mapping[str, Any]) -> None:
        if self._file is None:
            raise RuntimeError("No run is open.")
        if name == "event":
            doc = self._without_frames(doc)
        line = json.dumps({"name": name, "doc": plain(doc)}, allow_nan=False) + "\n"
        whole = os.lseek(self._file, 0, os.SEEK_END)
        rest = memoryview(line.encode())
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, whole)  # half a line would spoil the file for whoever reads it
            raise

    def _finish(self, doc: Mapping[str, Any]) -> None:
        self.close()
        if self.path is None:
            return
        os.replace(self.path / "documents.jsonl.part", self.path / "documents.jsonl")
        lasted = time.monotonic() - self._began_s
        jump = doc["time"] - self._start["time"] - lasted
        summary = {
            "uid": self._start["uid"],
            "began": self._start["time"],
            "ended": doc["time"],
            "duration_s": lasted,
            **({"clock_jumped_by_s": jump} if abs(jump) > _JUMP_S else {}),
            "exit_status": doc["exit_status"],
            "reason": doc.get("reason", ""),
            "num_events": dict(doc.get("num_events", {})),
            "frames": self._frames,
            **({"record_problem": str(self.problem)} if self.problem is not None else {}),
        }
        write_whole(self.path / "run.json", json.dumps(plain(summary), indent=2))

    def _finish_on_reserve(self, doc: Mapping[str, Any]) -> None:
        """The end of a run whose record has a hole; nothing is raised, since the run is over."""
        self._free_reserve()
        try:
            self._write("stop", doc)
            self._finish(doc)
        except OSError as error:
            self.close()
            logger.error("the end of the run cannot be recorded: %s", error)

    def _free_reserve(self) -> None:
        if self.path is not None:
            (self.path / ".reserve").unlink(missing_ok=True)

    def _without_frames(self, doc: Mapping[str, Any]) -> dict[str, Any]:
        """The event with each large array written to a file, and its place in the array's stead."""
        data = dict(doc["data"])
        for key, value in data.items():
            if isinstance(value, np.ndarray) and value.size > INLINE:
                data[key] = {"file": self._write_frame(value, doc), "dataset": "/entry/data/counts"}
        return {**doc, "data": data}

    def _write_frame(self, image: NDArray[Any], doc: Mapping[str, Any]) -> str:
        if self.path is None:
            raise RuntimeError("No run is open.")
        name = f"frames/frame_{len(self._frames) + 1:04d}.h5"
        try:
            write_frame(self.path / name, self._frame(image, doc), self._instrument)
            with (self.path / name).open("r+b") as file:  # before the event that names it, should power fail
                os.fsync(file.fileno())
        except RuntimeError as error:  # HDF5 tells some failures of the disk only so
            raise OSError(0, str(error)) from error
        self._frames.append(name)
        return name

    def _frame(self, image: NDArray[Any], doc: Mapping[str, Any]) -> Frame:
        """The exposure of an event, read with the names of data keys that the start document gives."""
        keys, data = self._start.get("keys", {}), doc["data"]

        def number(what: str, otherwise: float) -> float:
            return float(data.get(keys.get(what), otherwise))

        described = self._start.get("instrument")
        return Frame(
            counts=image,
            live_time_s=number("live_time_s", float("nan")),
            axes={axis: float(data[key]) for axis, key in keys.get("axes", {}).items() if key in data},
            instrument=str(described.get("name", "")) if isinstance(described, Mapping) else "",
            saturation=number("saturation", float("inf")),
            gain=number("gain", 1.0),
            offset=number("offset", 0.0),
            metadata={
                "run": self._start["uid"],
                "event": doc["uid"],
                "time": doc["time"],
                "clock_s": number("clock_s", float("nan")),
                "dose_s": number("dose_s", float("nan")),
            },
        )


def still_written(folder: Path) -> bool:
    """Whether a living process writes the record in a folder; False also where file systems cannot tell."""
    if fcntl is None:
        return False
    try:
        handle = os.open(folder / "documents.jsonl.part", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def check_over(folder: Path) -> None:
    """Refuse to go on with a run that is going on: two processes would move the axes.

    Raises
    ------
    RecordError
        If it is `still_written`.
    """
    if still_written(folder):
        raise RecordError(f"The run in {folder} is not over: a process still writes it. End that one first.")


def _hold(handle: int) -> None:
    """Tell `still_written` that it is; the mark goes with the process, however that ends."""
    if fcntl is not None:
        with suppress(OSError):  # of file systems without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_whole(target: Path, content: str | Callable[[Path], object]) -> None:
    """Write text, or what ``content`` writes to the path it is given, under a temporary name; rename when whole."""
    part = target.with_name(f".{target.stem}-{os.getpid()}.part{target.suffix}")
    try:
        if isinstance(content, str):
            part.write_text(content, encoding="utf-8")
        else:
            content(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _set_aside(path: Path) -> None:
    """A file of `RESERVE` bytes that are really taken on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, RESERVE)
        else:
            os.write(handle, bytes(RESERVE))
    finally:
        os.close(handle)
