"""The log that the page shows: what the documents of a run tell, what the session says, and warnings of the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Lines that are kept.
KEPT = 500


@dataclass(frozen=True)
class Line:
    """One line of the log.

    Attributes
    ----------
    number
        From 1, without gaps.
    time
        Seconds since 1970.
    level
        ``info``, ``warning`` or ``error``.
    text
        For people.
    """

    number: int
    time: float
    level: str
    text: str


@dataclass(frozen=True)
class Step:
    """The agent's last decision.

    Attributes
    ----------
    number
        From 1.
    decision, reason
        ``Move``, ``Expose``, ``Declare`` or ``GiveUp``, and why.
    verdict
        ``allowed``, or why it was refused.
    confidence
        Probability of the indexing it was based on; NaN before the first frame.
    wanted
        Where a move goes, degrees and mm.
    seconds
        Of an exposure; NaN otherwise.
    n_spots, n_indexed
        Spots found in the last frame, and explained.
    """

    number: int
    decision: str
    reason: str
    verdict: str
    confidence: float
    wanted: Mapping[str, float]
    seconds: float
    n_spots: int
    n_indexed: int

    def text(self) -> str:
        """One line: what, and why."""
        what = {"Declare": "declared", "GiveUp": "gave up"}.get(self.decision, self.decision)
        if self.decision == "Move":
            what = "move " + ", ".join(f"{name} to {value:.3f}" for name, value in self.wanted.items())
        elif self.decision == "Expose":
            what = f"expose {self.seconds:.4g} s"
        refused = "" if self.verdict == "allowed" else f" ({self.verdict})"
        return f"{self.number}. {what}{refused}. {self.reason}".rstrip()


class _Handler(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.say(record.getMessage(), "error" if record.levelno >= logging.ERROR else "warning")


class Journal:
    """Lines of the log, and the stream of decisions; may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[Line] = deque(maxlen=KEPT)
        self._count = 0
        self._streams: dict[str, Mapping[str, Any]] = {}
        self._axes: tuple[str, ...] = ()
        self._handler = _Handler(self)
        logging.getLogger("lauepilot").addHandler(self._handler)

    def say(self, text: str, level: str = "info") -> None:
        """Add a line."""
        with self._lock:
            self._count += 1
            self._lines.append(Line(self._count, time.time(), level, text))

    def after(self, number: int) -> tuple[Line, ...]:
        """The lines that came after line ``number``, as far as they are kept."""
        with self._lock:
            return tuple(line for line in self._lines if line.number > number)

    def close(self) -> None:
        """Listen no longer."""
        logging.getLogger("lauepilot").removeHandler(self._handler)

    def document(self, name: str, doc: Mapping[str, Any]) -> Step | None:
        """Take in a document of a run; the step, if it is one."""
        if name == "start":
            self._streams.clear()
            self._axes = tuple(doc.get("keys", {}).get("axes", {}))
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc
        elif name == "stop":
            level = "info" if doc["exit_status"] == "success" else "warning"
            self.say(
                f"run closed, exit status {doc['exit_status']}: {doc.get('reason', '')}".rstrip(": "), level
            )
        elif name == "event":
            described = self._streams.get(doc["descriptor"], {})
            if described.get("name") == "decisions":
                step = self._step(described, doc["data"])
                self.say(step.text())
                return step
        return None

    def _step(self, descriptor: Mapping[str, Any], data: Mapping[str, Any]) -> Step:
        # Names of data keys belong to the devices: a field is what follows the name of the device that has a "decision".
        fields: dict[str, Any] = {}
        for device, keys in descriptor["object_keys"].items():
            found = {key[len(device) + 1 :]: data[key] for key in keys}
            if "decision" in found and "reason" in found:
                fields = found
        wanted = np.asarray(fields["wanted"], dtype=float)
        return Step(
            int(fields["step"]),
            str(fields["decision"]),
            str(fields["reason"]),
            str(fields["verdict"]),
            float(fields["confidence"]),
            {name: float(v) for name, v in zip(self._axes, wanted, strict=False) if np.isfinite(v)},
            float(fields["seconds"]),
            int(fields["n_spots"]),
            int(fields["n_indexed"]),
        )
