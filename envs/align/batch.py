"""Many games of ``lauepilot/LaueAlign-v0`` at a time, in compiled loops: for training.

Same spaces, actions, rules and kinematics as `lauepilot.envs.align.env.LaueAlignEnv`; frames are quicker:

- Spots come from the forward model (ray table, structure factors, spectrum, pose faults) with counting noise, a
  detection limit and noisy centroids, measured to be those of `Observer` on full frames; spots that overlap are not
  merged, and there are no false ones. No 1000 x 1000 frame is made.
- Images are made directly in 84 x 84 pixels, every pixel a Poisson number.
- The belief is not an indexer's but the truth with an error of the size that the indexer was measured to make with
  such spots; with few spots it may be false, and says a low confidence.
- Left out of the faults: the second grain, shading, mosaic, the sphere of confusion, the sensor's defects, and
  what is wrong with the crystal's rays. Giving up a target that is out of reach costs as much as any other giving up.

What is trained here must be judged on the full environment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.envs.align.coding import (
    BELIEF,
    EXPOSURE_RANGE,
    IMAGE,
    SPOTS,
    Coder,
    Float32Array,
    ObservationKind,
)
from lauepilot.envs.align.kernels import OUTCOMES, advance_all, mount_some
from lauepilot.envs.align.state import FRAMES, HAS_BELIEF, STEPS, Games, Stage, empty_games, true_miss
from lauepilot.envs.tasks import Align
from lauepilot.perception.indexing.sphere import on_sphere
from lauepilot.perception.observation import SpotList
from lauepilot.perception.observer import USUAL_PRIOR
from lauepilot.perception.task import Task
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.image import background_rate
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.kernels import pack_detector
from lauepilot.simulator.laue import cached_table
from lauepilot.simulator.poisson import new_stream
from lauepilot.simulator.spots_shape import instrument_covariances

#: Rays below this rate over the brightest one's are never seen in exposures of `EXPOSURE_RANGE`.
_WEAKEST = 2e-3


def stage(task: Task, faults: Faults, coder: Coder) -> Stage:
    """What all games of a batch share: crystal, instrument and faults as numbers."""
    instrument = task.instrument
    table = cached_table(task.crystal, instrument, _WEAKEST)
    detector = instrument.detector
    rotations = instrument.goniometer.rotations
    pixels = _grid(instrument)
    rays = detector.pixels_to_rays(pixels)
    c = instrument_covariances(instrument, rays).reshape(IMAGE, IMAGE, 2, 2)
    col, row = np.round(pixels).astype(int).T
    binned = detector.binned((IMAGE, IMAGE))
    deg = np.deg2rad
    return Stage(
        directions=np.ascontiguousarray(table.direction.T),
        rate=table.rate,
        s_min=table.sin_theta_min,
        s_step=table.sin_theta_step,
        polarisation=-2.0 if table.polarisation is None else float(table.polarisation),
        detector=pack_detector(detector),
        axes=coder.axes,
        target=coder.target,
        speed=np.array([a.speed for a in rotations]),
        settle=np.array([a.settle_s for a in rotations]),
        resolution=np.array([a.resolution for a in rotations]),
        play=np.array([a.backlash * faults.backlash for a in rotations]),
        covariance=np.ascontiguousarray(np.stack([c[..., 0, 0], c[..., 0, 1], c[..., 1, 1]], axis=-1)),
        background=np.ascontiguousarray(
            background_rate(detector)[row, col].reshape(IMAGE, IMAGE), dtype=np.float64
        ),
        pose_sigma=_pose_sigma(instrument, pixels),
        coarse_background=np.ascontiguousarray(background_rate(binned), dtype=np.float64),
        readout_s=detector.sensor.readout_s,
        detect=5.5,
        floor=6.0,
        indexed_spots=8.0,
        pose_floor=float(deg(0.005)),
        spread=np.array(
            [
                faults.centre_mm,
                faults.distance_mm,
                deg(faults.tilt_deg),
                deg(faults.axis_misdirection_deg),
                faults.axis_zero_deg,
                faults.power_sigma,
                faults.power_factor,
                np.log(faults.power_spread),
                faults.background_factor,
                np.log(faults.background_spread),
            ]
        ),
        tables=new_stream(np.random.default_rng(0)).tables,
    )


def _grid(instrument: Instrument) -> NDArray[np.float64]:
    """Middles (n, 2) of coarse pixels, as fine (col, row)."""
    rows, cols = instrument.detector.shape
    x = (np.arange(IMAGE) + 0.5) * cols / IMAGE - 0.5
    y = (np.arange(IMAGE) + 0.5) * rows / IMAGE - 0.5
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _pose_sigma(instrument: Instrument, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(h, w) radians that the pose's uncertainty adds to normals, by the observer's own formula."""
    n = len(pixels)
    zero = np.zeros(n)
    spots = SpotList(pixels, np.zeros((n, 2, 2)), zero + 1.0, zero, np.zeros(n, dtype=bool))
    sphere = on_sphere(spots, instrument.detector, USUAL_PRIOR)
    return np.ascontiguousarray(sphere.sigma.reshape(IMAGE, IMAGE))


class BatchAlign:
    """A batch of games, without opinion on when to start again; see the module's text.

    Parameters
    ----------
    n
        Games.
    task
        What is played.
    faults
        What they draw from.
    observation
        ``spots`` or ``image``.

    Attributes
    ----------
    terms
        (n, 5) of the last step: time, refused, right, wrong, gave_up.
    """

    TERMS = ("time", "refused", "right", "wrong", "gave_up")

    def __init__(self, n: int, task: Task, faults: Faults, observation: ObservationKind = "spots") -> None:
        if n < 1:
            raise ValueError(f"A batch needs at least one game; {n} came.")
        self.n = n
        self.task = task
        self.coder = Coder(task, observation)
        self.action_space = self.coder.action_space()
        self.observation_space = self.coder.observation_space()
        k = self.coder.n_axes
        self._stage = stage(task, faults, self.coder)
        self._games: Games = empty_games(n, k, SPOTS, IMAGE)
        low, high = np.log(EXPOSURE_RANGE)
        self._limits = np.array(
            [
                task.max_time_s,
                task.max_dose_s,
                task.max_exposures,
                task.exposure_s,
                low,
                high,
                task.max_exposure_s,
                task.max_steps,
            ],
            dtype=float,
        )  # fmt: skip
        rules = Align(time_unit_s=10.0 * task.exposure_s)
        self._rules = np.array(
            [
                np.deg2rad(task.tolerance_deg),
                rules.time_unit_s,
                rules.refused,
                rules.right,
                rules.wrong,
                rules.gave_up,
            ]
        )
        self._vectors = np.zeros((n, k + 5 + BELIEF + k), dtype=np.float32)
        self._axis_limits = np.tile(
            np.clip(np.concatenate([self.coder.axes.low, self.coder.axes.high]) / 360.0, -1, 1).astype(
                np.float32
            ),
            (n, 1),
        )
        self._work = np.zeros(self._stage.directions.shape[1])
        self._image = np.zeros((IMAGE, IMAGE))
        self.terms = np.zeros((n, 5))
        self._outcome = np.zeros(n, dtype=np.int64)
        self._nobody = np.zeros(n, dtype=bool)

    def seed(self, rng: np.random.Generator) -> None:
        """Give each game a stream of random numbers of its own."""
        for i, child in enumerate(rng.spawn(self.n)):
            stream = new_stream(child)
            self._games.place[i], self._games.step[i] = stream.position, stream.step

    def reset(self, which: ArrayLike | None = None) -> None:
        """Mount new crystals in the games of a mask (n,), or in all."""
        mask = np.ones(self.n, dtype=bool) if which is None else np.asarray(which, dtype=bool)
        mount_some(self._stage, self._games, mask, self._limits, self._vectors)

    def step(
        self, actions: ArrayLike, skip: NDArray[np.bool_] | None = None
    ) -> tuple[Float32Array, NDArray[np.bool_], NDArray[np.bool_]]:
        """One action (n, 2 + k) of each game but those to ``skip``: rewards, terminated, truncated, each (n,).

        Raises
        ------
        ValueError
            If actions have the wrong shape or are not finite.
        """
        numbers = np.ascontiguousarray(actions, dtype=np.float32)
        wanted = (self.n, 2 + self.coder.n_axes)
        if numbers.shape != wanted or not np.isfinite(numbers).all():
            raise ValueError(f"Actions must be finite and of shape {wanted}; {numbers.shape} came.")
        advance_all(
            self._stage,
            self._games,
            numbers,
            self._nobody if skip is None else skip,
            self._limits,
            self._rules,
            self.coder.kind == "image",
            self._work,
            self._image,
            self.terms,
            self._outcome,
            self._vectors,
        )
        reward = self.terms.sum(axis=1).astype(np.float32)
        return reward, (self._outcome > 0) & (self._outcome < 4), self._outcome == 4

    def observations(self) -> dict[str, NDArray[Any]]:
        """All observations now, as members of the batched observation space; copies."""
        k = self.coder.n_axes
        v = self._vectors
        out: dict[str, NDArray[Any]] = {
            "axes": v[:, :k].copy(),
            "limits": self._axis_limits.copy(),
            "budget": v[:, k : k + 5].copy(),
            "belief": v[:, k + 5 :].copy(),
        }
        if self.coder.kind == "spots":
            out["spots"] = self._games.spots.copy()
        else:
            out["image"] = self._games.image.copy()
        return out

    def outcome(self, i: int) -> str:
        """How game ``i`` ended with the last step; empty while it goes on."""
        return OUTCOMES[int(self._outcome[i])]

    def miss_deg(self, i: int) -> float:
        """True angle of game ``i`` to the target, degrees: for referees."""
        return float(np.rad2deg(true_miss(self._stage, self._games, i)))

    def ended(self, i: int) -> dict[str, Any]:
        """What a referee says of game ``i`` at its end."""
        g = self._games
        return {
            "outcome": self.outcome(i),
            "miss_deg": self.miss_deg(i),
            "seconds": float(g.clock[i]),
            "dose_s": float(g.dose[i]),
            "steps": int(g.counters[i, STEPS]),
            "exposures": int(g.counters[i, FRAMES]),
            "indexed": bool(g.counters[i, HAS_BELIEF]),
        }
