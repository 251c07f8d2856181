"""The stream ``decisions``: what was decided, why, and what was believed, one event for each step."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from ophyd import Component, Device, Kind

from lauepilot.hardware.devices.parts import Value
from lauepilot.hardware.metadata import plain
from lauepilot.perception.observation import Declare, Expose, GiveUp, Move, Observation
from lauepilot.perception.plain import decision_plain
from lauepilot.simulator.orientation import Orientation

_UNKNOWN = np.full((3, 3), np.nan)


class DecisionLog(Device):  # type: ignore[misc]
    """A soft device that holds one step; the plan fills and reads it.

    Numbers that a step does not have are NaN. ``orientation`` is ``Z U`` (3, 3) in the laboratory at the axes of the
    last frame, or the declared one; ``covariance_rad2`` its covariance (rotation vector, radians squared). ``checkpoint``
    is JSON: the decision to the last bit, and what the agent held after it; `lauepilot.hardware.resume` goes on from it.
    """

    step = Component(Value, value=0, kind=Kind.hinted)
    decision = Component(Value, value="", kind=Kind.hinted)
    reason = Component(Value, value="", kind=Kind.normal)
    verdict = Component(Value, value="", kind=Kind.normal)
    wanted = Component(Value, value=np.empty(0), kind=Kind.normal)
    seconds = Component(Value, value=np.nan, unit="s", kind=Kind.normal)
    confidence = Component(Value, value=np.nan, kind=Kind.hinted)
    n_spots = Component(Value, value=0, kind=Kind.normal)
    n_indexed = Component(Value, value=0, kind=Kind.normal)
    n_expected = Component(Value, value=0, kind=Kind.normal)
    residual_px = Component(Value, value=np.nan, unit="px", kind=Kind.normal)
    orientation = Component(Value, value=_UNKNOWN, kind=Kind.normal)
    covariance_rad2 = Component(Value, value=_UNKNOWN, unit="rad^2", kind=Kind.normal)
    elapsed_s = Component(Value, value=0.0, unit="s", kind=Kind.normal)
    used_dose_s = Component(Value, value=0.0, unit="s", kind=Kind.normal)
    checkpoint = Component(Value, value="", kind=Kind.normal)

    def fill(
        self,
        step: int,
        decision: object,
        observation: Observation,
        verdict: str,
        agent_state: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in one step.

        Parameters
        ----------
        step
            Its number, from 1.
        decision, observation
            What was decided, on what.
        verdict
            ``allowed``, or why it was refused.
        agent_state
            What the agent holds now.
        """
        belief = observation.belief
        known: Orientation | None = belief.orientation if belief is not None else None
        names = observation.goniometer.names
        try:
            told = _told(decision, names, known, agent_state)
        except Exception:  # one that was refused may be anything, even an object that raises when it is read
            told = _told(GiveUp(""), names, known, agent_state)
        values: dict[str, Any] = {
            **told,
            "step": step,
            "decision": type(decision).__name__,
            "verdict": verdict,
            "confidence": float("nan") if belief is None else float(belief.confidence),
            "n_spots": 0 if observation.spots is None else len(observation.spots),
            "n_indexed": 0 if belief is None else int(belief.n_indexed),
            "n_expected": 0 if belief is None else int(belief.n_expected),
            "residual_px": float("nan") if belief is None else float(belief.residual_px),
            "elapsed_s": float(observation.clock_s),
            "used_dose_s": float(observation.dose_s),
        }
        now = time.time()
        for name, value in values.items():
            getattr(self, name).put(value, timestamp=now)


def _told(
    decision: object,
    names: tuple[str, ...],
    known: Orientation | None,
    agent_state: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What a decision itself says, in the log's words."""
    if isinstance(decision, Declare):
        known = decision.orientation
    wanted = decision.axes if isinstance(decision, Move) else {}
    return {
        "reason": str(getattr(decision, "reason", "")),
        "wanted": np.array([_number(wanted.get(name)) for name in names]),
        "seconds": _number(decision.seconds) if isinstance(decision, Expose) else float("nan"),
        "orientation": _matrix(None if known is None else known.u),
        "covariance_rad2": _matrix(None if known is None else known.covariance),
        "checkpoint": json.dumps(
            plain({"decision": decision_plain(decision), "agent": agent_state}), allow_nan=False
        ),
    }


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _matrix(value: object) -> Any:
    array = np.full((3, 3), np.nan) if value is None else np.asarray(value, dtype=float)
    return array if array.shape == (3, 3) else np.full((3, 3), np.nan)
