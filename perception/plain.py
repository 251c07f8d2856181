"""Decisions and orientations as plain JSON values and back, for records and checkpoints: exact to the last bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lauepilot.perception.observation import Decision, Declare, Expose, GiveUp, Move
from lauepilot.simulator.orientation import Orientation


def orientation_plain(orientation: Orientation) -> dict[str, Any]:
    """``u``, ``b`` and ``covariance`` as nested lists."""
    return {
        "u": np.asarray(orientation.u, dtype=float).tolist(),
        "b": np.asarray(orientation.b, dtype=float).tolist(),
        "covariance": np.asarray(orientation.covariance, dtype=float).tolist(),
    }


def orientation_of(value: Mapping[str, Any]) -> Orientation:
    """The orientation that `orientation_plain` wrote."""
    u, b, covariance = (_matrix(value[name]) for name in ("u", "b", "covariance"))
    return Orientation(u, b, covariance)


def _matrix(rows: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    # What is not a finite number is null in JSON.
    return np.array([[math.nan if x is None else float(x) for x in row] for row in rows])


def decision_plain(decision: object) -> dict[str, Any]:
    """Kind, reason and contents; of anything that is no decision, its text."""
    reason = str(getattr(decision, "reason", ""))
    if isinstance(decision, Move):
        try:
            return {
                "kind": "Move",
                "reason": reason,
                "axes": {str(k): float(v) for k, v in decision.axes.items()},
            }
        except (TypeError, ValueError):
            pass
    if isinstance(decision, Expose) and isinstance(decision.seconds, int | float | np.number):
        return {"kind": "Expose", "reason": reason, "seconds": float(decision.seconds)}
    if isinstance(decision, Declare):
        return {
            "kind": "Declare",
            "reason": reason,
            "orientation": orientation_plain(decision.orientation),
        }
    if isinstance(decision, GiveUp):
        return {"kind": "GiveUp", "reason": reason}
    return {"kind": "none", "text": repr(decision)}


def decision_of(value: Mapping[str, Any]) -> Decision:
    """The decision that `decision_plain` wrote.

    Raises
    ------
    ValueError
        If it was none.
    """
    kind, reason = value.get("kind"), str(value.get("reason", ""))
    if kind == "Move":
        return Move({k: math.nan if v is None else float(v) for k, v in value["axes"].items()}, reason)
    if kind == "Expose":
        seconds = value["seconds"]
        return Expose(math.nan if seconds is None else float(seconds), reason)
    if kind == "Declare":
        return Declare(orientation_of(value["orientation"]), reason)
    if kind == "GiveUp":
        return GiveUp(reason)
    raise ValueError(
        f"A recorded decision is a Move, Expose, Declare or GiveUp; {value.get('text', value)!r} is none of them."
    )
