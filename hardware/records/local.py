"""Records of a run in a local folder, from Bluesky's documents alone: no server, and nothing half-written.

::

    FOLDER/20261121T101500-1a2b3c4d/
        documents.jsonl      every document, one JSON object a line; ``documents.jsonl.part`` until the run is closed
        frames/frame_0001.h5 one NeXus file for each exposure
        run.json             how it ended, written last

Frames appear under their name only when they are whole. A run that was killed leaves the ``.part`` file with all
documents until then, and no ``run.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from lauepilot.hardware.metadata import plain
from lauepilot.perception.files.readers import write_frame
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument

#: Arrays with more elements than this go into the HDF5 file of their frame, not into the JSON lines.
INLINE = 64


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
        Folder of the present or last run; None before the first.
    """

    def __init__(self, folder: str | Path, instrument: Instrument | None = None) -> None:
        self._instrument = instrument
        self._root = Path(folder)
        self.path: Path | None = None
        self._file: TextIO | None = None
        self._start: dict[str, Any] = {}
        self._frames: list[str] = []

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take in one document."""
        if name == "start":
            self._open(doc)
        if self._file is None:
            raise RuntimeError(
                f"A document {name!r} came before any start document; subscribe before the run begins."
            )
        if name == "event":
            doc = self._without_frames(doc)
        self._file.write(json.dumps({"name": name, "doc": plain(doc)}, allow_nan=False) + "\n")
        self._file.flush()
        if name == "stop":
            self._finish(doc)

    def close(self) -> None:
        """Close the file of a run that has not ended; it keeps its ``.part`` name."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, doc: Mapping[str, Any]) -> None:
        self.close()
        moment = datetime.fromtimestamp(doc["time"]).strftime("%Y%m%dT%H%M%S")
        self.path = self._root / f"{moment}-{doc['uid'][:8]}"
        (self.path / "frames").mkdir(parents=True)
        self._start, self._frames = dict(doc), []
        self._file = (self.path / "documents.jsonl.part").open("w", encoding="utf-8")

    def _finish(self, doc: Mapping[str, Any]) -> None:
        self.close()
        if self.path is None:
            return
        part = self.path / "documents.jsonl.part"
        os.replace(part, self.path / "documents.jsonl")
        summary = {
            "uid": self._start["uid"],
            "began": self._start["time"],
            "ended": doc["time"],
            "exit_status": doc["exit_status"],
            "reason": doc.get("reason", ""),
            "num_events": dict(doc.get("num_events", {})),
            "frames": self._frames,
        }
        text = json.dumps(plain(summary), indent=2)
        _whole(self.path / "run.json", lambda path: path.write_text(text, encoding="utf-8"))

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
        write_frame(self.path / name, self._frame(image, doc), self._instrument)
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


def _whole(target: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, and rename when it is whole."""
    part = target.with_name(target.name + ".part")
    try:
        write(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
