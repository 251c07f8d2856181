"""The four-circle game in numbers: actions of a Box, observations of fixed size."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from lauepilot.envs.mono.notes import CANDIDATES, PEAKS, Notes
from lauepilot.envs.mono.task import Centre, DeclareUb, MonoDecision, MonoTask
from lauepilot.envs.mono.world import MonoSeen
from lauepilot.perception.observation import GiveUp, Move
from lauepilot.perception.reflections.looking import Path
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.fourcircle import AXES, as_array, as_positions

Float32Array = NDArray[np.float32]

#: What the selector chooses among, in equal parts of -1..1.
ACTS = ("give up", "move", "count", "scan", "centre", "declare")
#: Numbers of an action: selector, candidate, time, scanned axis, half range, and a change of each axis.
WIDTH = 5 + len(AXES)
#: Ranges, logarithmic: seconds of a count or a bin, half range of a scan in degrees.
SECONDS, HALF_DEG = (0.02, 10.0), (0.2, 90.0)
#: Bins of the profile of the last path that are told; steps of a scan, degrees: finest, and coarsest of counter and area.
PROFILE, FINEST_DEG, COARSEST_DEG = 64, 0.04, {"point": 0.5, "area": 2.0}
#: Largest index, rate and time that are scaled to 1.
_INDEX, _RATE = 20.0, 1e5


def change_number(change_deg: ArrayLike) -> FloatArray:
    """Changes (4,) of the axes in degrees as numbers of an action."""
    x = np.asarray(change_deg, dtype=float) / 180.0
    return np.asarray(np.clip(np.cbrt(x), -1.0, 1.0))


def log_number(value: float, span: tuple[float, float]) -> float:
    """A value of a logarithmic range as a number of an action, -1..1."""
    low, high = np.log(span)
    return float(np.clip(2.0 * (np.log(value) - low) / (high - low) - 1.0, -1.0, 1.0))


def action_of(
    act: str,
    *,
    candidate: int = 0,
    seconds: float = 0.1,
    axis: str = "omega",
    half_deg: float = 1.0,
    change_deg: ArrayLike = (0.0, 0.0, 0.0, 0.0),
) -> Float32Array:
    """The numbers (9,) that stand for an act of `ACTS`; what an act does not use is left where it is."""
    middle = [(2.0 * i + 1.0) / n - 1.0 for i, n in (
        (ACTS.index(act), len(ACTS)), (candidate, CANDIDATES), (AXES.index(axis), len(AXES))
    )]  # fmt: skip
    numbers = [middle[0], middle[1], log_number(seconds, SECONDS), middle[2], log_number(half_deg, HALF_DEG)]
    return np.array([*numbers, *change_number(change_deg)], dtype=np.float32)


class MonoCoder:
    """Turns actions into decisions, and what is seen and noted into arrays."""

    def __init__(self, task: MonoTask) -> None:
        self.task = task
        self._low, self._high = (
            np.array([axis.limits[i] for axis in task.instrument.motors.axes]) for i in (0, 1)
        )

    def action_space(self) -> spaces.Box:
        """Of one game."""
        return spaces.Box(-1.0, 1.0, (WIDTH,), np.float32)

    def observation_space(self) -> spaces.Dict:
        """Of one game."""
        shapes = {
            "axes": (4,), "scan": (9,), "profile": (PROFILE,), "peaks": (PEAKS, 11), "candidates": (CANDIDATES, 7),
            "belief": (6,), "budget": (3,),
        }  # fmt: skip
        return spaces.Dict({name: spaces.Box(-1.0, 1.0, shape, np.float32) for name, shape in shapes.items()})

    def decision(self, action: ArrayLike, seen: MonoSeen, notes: Notes) -> MonoDecision:
        """What an action (9,) means now.

        Raises
        ------
        ValueError
            If it is not nine finite numbers.
        """
        x = np.asarray(action, dtype=float)
        if x.shape != (WIDTH,) or not np.all(np.isfinite(x)):
            raise ValueError(
                f"An action is {WIDTH} finite numbers of -1 to 1; {np.asarray(action).tolist()} came."
            )
        x = np.clip(x, -1.0, 1.0)
        act = ACTS[_part(x[0], len(ACTS))]
        here = as_array(seen.positions)
        if act == "move":
            return Move(as_positions(np.clip(here + 180.0 * x[5:] ** 3, self._low, self._high)))
        if act == "count":
            return Path(np.stack([here, here]), _from_log(x[2], SECONDS), "open", "count")
        if act == "scan":
            return self._scan(here, _part(x[3], 4), _from_log(x[4], HALF_DEG), _from_log(x[2], SECONDS))
        if act == "centre":
            places = notes.candidates()
            chosen = _part(x[1], CANDIDATES)
            return Centre(places[chosen].angles_deg if chosen < len(places) else here)
        if act == "declare":
            if notes.ub is None:
                return GiveUp("declared without a UB")
            return DeclareUb(notes.ub)
        return GiveUp("chosen")

    def _scan(self, here: FloatArray, axis: int, half_deg: float, seconds: float) -> Path:
        low, high = max(here[axis] - half_deg, self._low[axis]), min(here[axis] + half_deg, self._high[axis])
        step = float(np.clip(2.0 * half_deg / PROFILE, FINEST_DEG, COARSEST_DEG[self.task.detector]))
        n = max(int(np.ceil((high - low) / step)), 8)
        points = np.tile(here, (n + 1, 1))
        points[:, axis] = np.linspace(low, high, n + 1)
        return Path(points, seconds, "open", f"scan of {AXES[axis]}")

    def arrays(self, seen: MonoSeen, notes: Notes, n_steps: int) -> dict[str, NDArray[Any]]:
        """The observation."""
        task, span = self.task, self._high - self._low
        here = as_array(seen.positions)
        out = {
            "axes": 2.0 * (here - self._low) / span - 1.0,
            "scan": np.zeros(9),
            "profile": np.zeros(PROFILE),
            "peaks": np.zeros((PEAKS, 11)),
            "candidates": np.zeros((CANDIDATES, 7)),
            "belief": notes.belief(),
            "budget": np.array(
                [seen.clock_s / task.max_time_s, n_steps / task.max_steps, float(task.detector == "area")]
            ),
        }
        if seen.path is not None and seen.sweep is not None:
            start, end = seen.path.points_deg[0], seen.path.points_deg[-1]
            out["scan"] = np.array([*(start / 190.0), *(end / 190.0), log_number(seen.path.seconds, SECONDS)])
            out["profile"] = np.log1p(notes.profile(seen, PROFILE)) / np.log(1e6)
        for row, peak in zip(out["peaks"], notes.peaks, strict=False):
            index = np.zeros(3) if peak.hkl is None else np.array(peak.hkl) / _INDEX
            row[:] = [
                1.0, *peak.direction(task.instrument), peak.tth_deg / 90.0, np.log1p(max(peak.rate, 0.0)) / np.log(_RATE),
                peak.sigma_deg, float(peak.hkl is not None), *index,
            ]  # fmt: skip
        for row, place in zip(out["candidates"], notes.candidates(), strict=False):
            row[:] = [
                1.0, float(place.seen), np.log1p(place.rate) / np.log(_RATE), *change_number(place.angles_deg - here)
            ]  # fmt: skip
        return {name: np.clip(x, -1.0, 1.0).astype(np.float32) for name, x in out.items()}


def _part(x: float, n: int) -> int:
    return min(int((x + 1.0) / 2.0 * n), n - 1)


def _from_log(x: float, span: tuple[float, float]) -> float:
    low, high = np.log(span)
    return float(np.exp(low + 0.5 * (x + 1.0) * (high - low)))
