"""Numbers for learners: actions to decisions, observations to arrays of fixed size within fixed bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from lauepilot.envs.align.hint import pack_axes, pack_target, suggested_changes
from lauepilot.perception.observation import Decision, Declare, Expose, GiveUp, Move, Observation
from lauepilot.perception.task import Task
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.orientation import Orientation

ObservationKind = Literal["spots", "image"]
Float32Array = NDArray[np.float32]

#: Spots in an observation, brightest first, and numbers of each.
SPOTS, SPOT_NUMBERS = 64, 6
#: Pixels of an image observation.
IMAGE = 84
#: Largest change of an axis in one action, degrees (or mm).
LARGEST_CHANGE = 180.0
#: Exposures that the action's ends stand for, over the usual one.
EXPOSURE_RANGE = (1.0 / 60.0, 4.0)
#: Parts of the selector -1..1, in order.
ACTS = ("give up", "expose", "move", "declare")
#: Numbers of the belief before the changes of the axes.
BELIEF = 8


def act_of(selector: float) -> int:
    """Index in `ACTS` of a selector in -1..1: its four equal parts."""
    return int(min(max((selector + 1.0) * 2.0, 0.0), 3.0))


def change_of(action: ArrayLike) -> FloatArray:
    """Change of an axis (degrees) for a number in -1..1: a cube, so that hundredths of a degree and half turns both fit."""
    return np.asarray(LARGEST_CHANGE * np.clip(action, -1.0, 1.0) ** 3)


def action_of(change: ArrayLike) -> FloatArray:
    """The inverse of `change_of`, within -1..1."""
    return np.asarray(np.clip(np.cbrt(np.asarray(change, dtype=float) / LARGEST_CHANGE), -1.0, 1.0))


def exposure_of(action: float, usual_s: float) -> float:
    """Seconds for a number in -1..1: logarithmic between `EXPOSURE_RANGE` times the usual exposure."""
    low, high = np.log(EXPOSURE_RANGE)
    return float(usual_s * np.exp(low + 0.5 * (np.clip(action, -1.0, 1.0) + 1.0) * (high - low)))


def exposure_number(seconds: float, usual_s: float) -> float:
    """Seconds as a number in 0..1, the inverse of `exposure_of` up to its range; 0 for none."""
    low, high = np.log(EXPOSURE_RANGE)
    return float(np.clip((np.log(max(seconds, 1e-9) / usual_s) - low) / (high - low), 0.0, 1.0))


def counts_number(counts: ArrayLike) -> FloatArray:
    """Photons as a number in 0..1: logarithm over that of a million."""
    return np.asarray(np.clip(np.log1p(np.maximum(counts, 0.0)) / np.log(1e6), 0.0, 1.0))


def image_bytes(photons: ArrayLike) -> NDArray[np.uint8]:
    """Photons as bytes: eleven steps for each doubling of ``1 + n``, so that single photons and bright spots both show."""
    values = 11.0 * np.log2(1.0 + np.maximum(photons, 0.0))
    return np.asarray(np.minimum(values, 255.0).astype(np.uint8))


class Coder:
    """Spaces of one task, and the way into and out of them.

    Parameters
    ----------
    task
        What is played.
    kind
        ``spots`` or ``image``.
    """

    def __init__(self, task: Task, kind: ObservationKind = "spots") -> None:
        if kind not in ("spots", "image"):
            raise ValueError(f"observation must be 'spots' or 'image'; {kind!r} came.")
        self.task = task
        self.kind = kind
        self.rotations = task.instrument.goniometer.rotations
        self.axes = pack_axes(task.instrument.goniometer)
        self.target = pack_target(task.target, task.crystal)

    @property
    def n_axes(self) -> int:
        """Rotation axes."""
        return len(self.rotations)

    def action_space(self) -> spaces.Box:
        """Selector, exposure, one change for each rotation axis; all in -1..1."""
        return spaces.Box(-1.0, 1.0, (2 + self.n_axes,), np.float32)

    def observation_space(self) -> spaces.Dict:
        """See the data sheet of `lauepilot.envs.align.env.LaueAlignEnv`."""
        k = self.n_axes
        parts: dict[str, spaces.Space[Any]] = {
            "axes": spaces.Box(-1.0, 1.0, (k,), np.float32),
            "limits": spaces.Box(-1.0, 1.0, (2 * k,), np.float32),
            "budget": spaces.Box(0.0, 1.0, (5,), np.float32),
            "belief": spaces.Box(-1.0, 1.0, (BELIEF + k,), np.float32),
        }
        if self.kind == "spots":
            parts["spots"] = spaces.Box(-1.0, 1.0, (SPOTS, SPOT_NUMBERS), np.float32)
        else:
            parts["image"] = spaces.Box(0, 255, (IMAGE, IMAGE, 1), np.uint8)
        return spaces.Dict(parts)

    # ------------------------------------------------------------------------------------------------- actions

    def decision(self, action: ArrayLike, observation: Observation) -> Decision:
        """The decision that an action stands for: moves are cut at the limits, exposures at what is allowed.

        A declaration without belief becomes giving up: there is nothing to declare.

        Raises
        ------
        ValueError
            If the action has the wrong shape or is not finite.
        """
        numbers = np.asarray(action, dtype=float).reshape(-1)
        if numbers.shape != (2 + self.n_axes,) or not np.all(np.isfinite(numbers)):
            raise ValueError(
                f"An action has {2 + self.n_axes} finite numbers; {np.asarray(action).tolist()} came."
            )
        act = ACTS[act_of(float(numbers[0]))]
        if act == "expose":
            seconds = exposure_of(float(numbers[1]), self.task.exposure_s)
            return Expose(min(seconds, self.task.max_exposure_s), "action")
        if act == "move":
            goal = {}
            for axis, change in zip(self.rotations, change_of(numbers[2:]), strict=True):
                goal[axis.name] = float(np.clip(observation.axes[axis.name] + change, *axis.limits))
            return Move(goal, "action")
        belief = self.present(observation)
        if act == "declare" and belief is not None:
            return Declare(belief, "action")
        return GiveUp("action" if act == "give up" else "declared without having indexed a frame")

    def encode(self, decision: Decision, observation: Observation) -> Float32Array:
        """The action nearest to a decision: for imitation."""
        out = np.zeros(2 + self.n_axes, dtype=np.float32)
        if isinstance(decision, GiveUp):
            out[0] = -0.75
        elif isinstance(decision, Declare):
            out[0] = 0.75
        elif isinstance(decision, Expose):
            out[0] = -0.25
            out[1] = 2.0 * exposure_number(decision.seconds, self.task.exposure_s) - 1.0
        else:
            out[0] = 0.25
            here = observation.axes
            change = [decision.axes.get(a.name, here[a.name]) - here[a.name] for a in self.rotations]
            out[2:] = action_of(change)
        return out

    # --------------------------------------------------------------------------------------------- observations

    def present(self, observation: Observation) -> Orientation | None:
        """The believed laboratory orientation at the present axes; None without belief."""
        belief, then = observation.belief, observation.belief_axes
        if belief is None or belief.orientation is None or then is None:
            return None
        goniometer = self.task.instrument.goniometer
        return belief.orientation.turned(goniometer.matrix(observation.axes) @ goniometer.matrix(then).T)

    def arrays(self, observation: Observation) -> dict[str, NDArray[Any]]:
        """An observation as a member of the observation space."""
        out = self.vectors(observation)
        if self.kind == "spots":
            out["spots"] = self._spots(observation)
        else:
            image = np.zeros((IMAGE, IMAGE)) if observation.image is None else observation.image
            out["image"] = image_bytes(image)[..., None]
        return out

    def vectors(self, observation: Observation) -> dict[str, NDArray[Any]]:
        """All parts but spots and image."""
        task = self.task
        at = np.array([observation.axes[a.name] for a in self.rotations])
        low, high = self.axes.low, self.axes.high
        budget = [
            observation.clock_s / task.max_time_s,
            observation.dose_s / task.max_dose_s,
            observation.n_exposures / task.max_exposures,
            exposure_number(observation.exposure_s, task.exposure_s),
            0.0 if observation.spots is None else len(observation.spots) / 500.0,
        ]
        return {
            "axes": np.clip(2.0 * (at - low) / (high - low) - 1.0, -1.0, 1.0).astype(np.float32),
            "limits": np.clip(np.concatenate([low, high]) / 360.0, -1.0, 1.0).astype(np.float32),
            "budget": np.clip(budget, 0.0, 1.0).astype(np.float32),
            "belief": self._belief(observation, at),
        }

    def _belief(self, observation: Observation, at: FloatArray) -> Float32Array:
        now, belief, then = self.present(observation), observation.belief, observation.belief_axes
        out = np.zeros(BELIEF + self.n_axes)
        if now is None or belief is None or then is None:
            return out.astype(np.float32)
        goniometer = self.task.instrument.goniometer
        changes, left = suggested_changes(
            self.axes, goniometer.matrix(observation.axes).T @ now.u, self.target, at
        )
        error = float(np.rad2deg(self.task.target.error(now.u, self.task.crystal)))
        travel = max((abs(observation.axes[n] - v) for n, v in then.items()), default=0.0)
        out[:] = belief_numbers(
            belief.confidence,
            belief.n_indexed,
            belief.n_expected,
            now.sigma_deg,
            error,
            travel,
            left,
            changes,
        )
        return out.astype(np.float32)

    def _spots(self, observation: Observation) -> Float32Array:
        out = np.zeros((SPOTS, SPOT_NUMBERS), dtype=np.float32)
        spots, normals, sigma = observation.spots, observation.normals, observation.normals_sigma_rad
        if spots is None or normals is None or sigma is None:
            return out
        order = np.argsort(-spots.counts, kind="stable")[:SPOTS]
        n = len(order)
        out[:n, :3] = np.clip(normals[order], -1.0, 1.0)
        out[:n, 3] = counts_number(spots.counts[order])
        out[:n, 4] = np.clip(np.rad2deg(sigma[order]), 0.0, 1.0)
        out[:n, 5] = 1.0
        return out


def belief_numbers(
    confidence: float,
    n_indexed: int,
    n_expected: int,
    sigma_deg: float,
    error_deg: float,
    travel: float,
    left_rad: float,
    changes: ArrayLike,
) -> FloatArray:
    """The belief as numbers (8 + k,) within -1..1; the last k are what `change_of` would make the suggested changes of."""
    head = [
        1.0,
        confidence,
        min(n_indexed / 300.0, 1.0),
        min(n_indexed / max(n_expected, 1), 1.0),
        min(float(np.cbrt(max(sigma_deg, 0.0) / LARGEST_CHANGE)), 1.0),
        min(float(np.cbrt(error_deg / LARGEST_CHANGE)), 1.0),
        min(float(np.cbrt(travel / LARGEST_CHANGE)), 1.0),
        1.0 if left_rad < 1e-4 else 0.0,
    ]
    return np.concatenate([head, action_of(changes)])


def flat(observation: Mapping[str, Any]) -> Float32Array:
    """The vector parts of an observation, one after another."""
    return np.concatenate([np.ravel(observation[k]) for k in ("axes", "limits", "budget", "belief")]).astype(
        np.float32
    )
