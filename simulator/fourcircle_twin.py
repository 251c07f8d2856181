"""The twin of a four-circle: a mosaic crystal in a monochromatic beam, a counter and a small area detector, and faults.

Asked what a real one is asked: go there, count, sweep. `FourCircleTwin.instrument` is what everybody believes, `truth` is
what is, and only referees look at it. Time passes on `clock_s`, not on the wall. All chance comes from one Generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import BEAM, FloatArray, random_rotation, rotation_matrix
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.fourcircle import (
    FourCircle,
    as_array,
    as_positions,
    check_seconds,
    integrated_rates,
    path_bins,
)
from lauepilot.simulator.fourcircle_faults import FourCircleFaults, FourCircleTruth, Mounting, draw_mounting
from lauepilot.simulator.fourcircle_kernels import carry_along, draw_beams, excited, through_aperture

__all__ = ["DetectorKind", "FourCircleFaults", "FourCircleTruth", "FourCircleTwin", "Sweep"]

DetectorKind = Literal["point", "area"]

#: Degrees of 2 theta beyond the detector's edge from which reflections still count.
_MARGIN_DEG = 1.5
#: Angles that are evaluated at once, so that memory stays small.
_CHUNK = 4000


@dataclass(frozen=True, eq=False)
class Sweep:
    """What was measured on a path.

    Attributes
    ----------
    angles_deg
        (n, 4) read-back in the middle of each bin.
    seconds
        (n,) live time of each bin.
    counts
        (n,) of the counter, as it gives them (dead time included); None for the area detector.
    frames
        (n, rows, cols) of the area detector; None for the counter.
    """

    angles_deg: FloatArray
    seconds: FloatArray
    counts: FloatArray | None
    frames: NDArray[np.uint32] | None


class FourCircleTwin:
    """A crystal on a four-circle.

    Parameters
    ----------
    crystal
        What is mounted.
    instrument
        As believed.
    rng
        Source of all random numbers.
    faults
        How far things stray; `FourCircleFaults.none` is perfect.
    u
        True orientation (3, 3) on the holder; None draws one.
    peak_rate_per_s
        Rate of the strongest reflection at the top of its peak if its standard deviation in omega is 0.1 degrees; 0 is a
        closed shutter.
    """

    def __init__(
        self,
        crystal: Crystal,
        instrument: FourCircle | None = None,
        *,
        rng: np.random.Generator,
        faults: FourCircleFaults | None = None,
        u: ArrayLike | None = None,
        peak_rate_per_s: float = 20_000.0,
    ) -> None:
        if not (np.isfinite(peak_rate_per_s) and peak_rate_per_s >= 0.0):
            raise ValueError(
                f"peak_rate_per_s must be 0 or a positive number; {peak_rate_per_s} counts a second came."
            )
        self.crystal = crystal
        self.instrument = FourCircle() if instrument is None else instrument
        self.faults = FourCircleFaults() if faults is None else faults
        self._peak_rate = peak_rate_per_s
        self.hkl, self._relative = integrated_rates(crystal, self.instrument)
        self.reset(rng, u)

    def reset(self, rng: np.random.Generator, u: ArrayLike | None = None) -> None:
        """Mount the crystal anew (at ``u``, or at random), draw new faults; axes to zero, clock to zero.

        Raises
        ------
        ValueError
            If ``u`` is not a rotation (3, 3).
        """
        self._rng = rng
        orientation = random_rotation(rng) if u is None else np.array(u, dtype=float)
        if (
            orientation.shape != (3, 3)
            or not np.allclose(orientation @ orientation.T, np.eye(3), atol=1e-6)
            or np.linalg.det(orientation) < 0.0
        ):
            raise ValueError(
                f"The orientation must be a rotation matrix (3, 3); it was {orientation.tolist()}."
            )
        f, believed = self.faults, self.instrument
        directions = np.array([axis.direction for axis in believed.motors.axes])
        errors = rotation_matrix(np.deg2rad(f.direction_deg) * rng.normal(size=(4, 3)))
        low, high = np.log(f.mosaic_deg)
        self.truth = FourCircleTruth(
            u=orientation,
            zeros_deg=f.zero_deg * rng.normal(size=4),
            axes=np.einsum("nij,nj->ni", errors, directions),
            detector_shift_mm=f.detector_mm * rng.normal(size=2),
            energy_kev=believed.energy_kev * (1.0 + f.energy * rng.normal()),
            mosaic_deg=float(np.exp(rng.uniform(low, high))),
        )
        self._k = believed.k * self.truth.energy_kev / believed.energy_kev
        scatter = np.exp(f.intensity * rng.normal(size=len(self.hkl)) - 0.5 * f.intensity**2)
        scale = self._peak_rate * np.sqrt(2.0 * np.pi) * np.deg2rad(0.1)
        self._strength = self._relative * scatter * scale
        self._q = self.hkl @ (orientation @ self.crystal.b).T
        self._play = 0.5 * f.play * np.array([axis.backlash for axis in believed.motors.axes])
        self._at = np.zeros(4)
        self._carried = self._at + rng.uniform(-1.0, 1.0, 4) * self._play
        # Drawn last, and only if asked for: so the faults of old keep their random numbers.
        self.mounting: Mounting = draw_mounting(f, rng, believed, self._q)
        self._strength = self._strength * self.mounting.transmission * self.mounting.power
        if self.mounting.grain is not None:
            self._q = np.concatenate([self._q, self._q @ self.mounting.grain.T])
            self._strength = np.concatenate([self._strength, self._strength * self.mounting.grain_share])
        self._tth_deg = 2.0 * np.rad2deg(
            np.arcsin(np.minimum(np.linalg.norm(self._q, axis=1) / 2.0 / self._k, 1.0))
        )
        self._clock_s = self._dose_s = 0.0
        self.n_counts = 0

    @property
    def positions(self) -> dict[str, float]:
        """Read-back of all axes, degrees."""
        return as_positions(self._at)

    @property
    def clock_s(self) -> float:
        """Seconds since the crystal was mounted: motion, counting, reading out."""
        return self._clock_s

    @property
    def dose_s(self) -> float:
        """Open-shutter seconds."""
        return self._dose_s

    def move(self, positions: Mapping[str, float]) -> dict[str, float]:
        """Move the named axes together; the read-back of all axes.

        Raises
        ------
        KeyError, ReachError
            If an axis is unknown or would leave its limits; then nothing moves.
        """
        motors = self.instrument.motors
        motors.check(positions)
        goal = as_array({**self.positions, **positions})
        resolution = np.array([axis.resolution for axis in motors.axes])
        goal = np.round(goal / resolution) * resolution
        self._clock_s += motors.move_time_s(self.positions, as_positions(goal))
        self._carry(goal)
        return self.positions

    def count(self, seconds: float, aperture: str = "open") -> float:
        """Counts of the counter in ``seconds``, axes at rest."""
        check_seconds(seconds)
        rate = self._rates(self._true(self._carried[None]), aperture)
        self._pass(seconds, 0.0)
        return float(self._counts(rate, np.array([seconds]))[0])

    def expose(self, seconds: float) -> NDArray[np.uint32]:
        """A frame (rows, cols) of the area detector, axes at rest."""
        check_seconds(seconds)
        expected = self._images(self._true(self._carried[None]), np.zeros(1), np.array([seconds]), 1)
        self._pass(seconds, self.instrument.area.readout_s)
        return np.asarray(self._noisy(expected, np.array([seconds]))[0])

    def sweep(
        self,
        points_deg: ArrayLike,
        seconds: float,
        *,
        detector: DetectorKind = "point",
        aperture: str = "open",
    ) -> Sweep:
        """Count while the axes move along a path, bin after bin, without stopping.

        Parameters
        ----------
        points_deg
            (n + 1, 4) corners of the path in the order of `AXES`; a bin lies between each and the next. The axes first
            move to the first.
        seconds
            Live time of a bin; longer where an axis is not fast enough.
        detector, aperture
            What counts.

        Raises
        ------
        ReachError, ValueError
            If a corner is outside the limits, or something is not a number; then nothing moves.
        """
        points, live = path_bins(self.instrument, points_deg, seconds)
        if detector not in ("point", "area"):
            raise ValueError(f"The detector is 'point' or 'area'; {detector!r} came.")
        self.move(as_positions(points[0]))
        width = 0.4 * np.sqrt(self.truth.mosaic_deg**2 + self.instrument.divergence_deg**2)
        n_sub = np.maximum(np.ceil(np.abs(np.diff(points, axis=0)).max(axis=1) / width), 1).astype(int)
        bin_of = np.repeat(np.arange(len(live)), n_sub)
        within = (np.arange(len(bin_of)) - np.repeat(np.cumsum(n_sub) - n_sub, n_sub) + 0.5) / n_sub[bin_of]
        asked = points[bin_of] + within[:, None] * np.diff(points, axis=0)[bin_of]
        carried = carry_along(asked, self._carried, self._play)
        self._carried = carried[-1]
        self._carry(points[-1])
        part = live[bin_of] / n_sub[bin_of]
        true = self._true(carried)
        middle = np.round(0.5 * (points[1:] + points[:-1]), 4)
        if detector == "point":
            rate = np.bincount(bin_of, self._rates(true, aperture) * part) / live
            for s in live:
                self._pass(float(s), 0.0)
            return Sweep(middle, live, self._counts(rate, live), None)
        expected = self._images(true, bin_of.astype(float), part, len(live))
        for s in live:
            self._pass(float(s), self.instrument.area.readout_s)
        return Sweep(middle, live, None, self._noisy(expected, live))

    # ------------------------------------------------------------------------------------------- for referees

    @property
    def crystallites(self) -> list[FloatArray]:
        """True orientations (3, 3) on the holder: of the crystal, and of a second crystallite if there is one."""
        grain = self.mounting.grain
        return [self.truth.u] if grain is None else [self.truth.u, grain @ self.truth.u]

    def off_bragg_deg(self, hkl: ArrayLike, angles_deg: ArrayLike, crystallite: int = 0) -> float:
        """Angle in degrees by which a reflection misses its excitation when motors read ``angles_deg`` (4,).

        Between the true Q and the direction that diffracts in the plane of the beam and of the arm as it truly turns: what
        is turned about the beam together with the arm is as excited, and as well seen, as before. Axes are taken to have
        come from below: what they carry lags by half of their play.
        """
        angles = np.deg2rad(np.asarray(angles_deg, dtype=float) - self._play + self.truth.zeros_deg)
        z = np.eye(3)
        for axis, angle in zip(self.truth.axes[:3], angles[:3], strict=True):
            z = z @ rotation_matrix(axis * angle)
        q = z @ self.crystallites[crystallite] @ self.crystal.b @ np.asarray(hkl, dtype=float)
        length = float(np.linalg.norm(q))
        sine = length / (2.0 * self._k)
        up = np.cross(self.truth.axes[3], BEAM)
        wanted = np.sqrt(1.0 - sine**2) * up / np.linalg.norm(up) - sine * BEAM
        return float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(q, wanted)), q @ wanted)))

    # ------------------------------------------------------------------------------------------- inside

    def _true(self, carried_deg: FloatArray) -> FloatArray:
        return np.deg2rad(carried_deg + self.truth.zeros_deg)

    def _carry(self, goal: FloatArray) -> None:
        """Play: the load stays until a flank takes it along."""
        self._carried = np.clip(self._carried, goal - self._play, goal + self._play)
        self._at = goal

    def _pass(self, seconds: float, readout_s: float) -> None:
        self._clock_s += seconds + readout_s
        self._dose_s += seconds
        self.n_counts += 1

    def _beams(self, angles: FloatArray, reach_deg: float, distance_mm: float) -> tuple[FloatArray, int]:
        arm = np.rad2deg(angles[:, 3])
        near = (self._tth_deg > arm.min() - reach_deg) & (self._tth_deg < arm.max() + reach_deg)
        out = np.empty((4 * len(angles) + 256, 7))
        for _ in range(2):
            n = excited(
                angles, self.truth.axes, self._q[near], self._strength[near], self._k,
                np.deg2rad(self.truth.mosaic_deg), np.deg2rad(self.instrument.divergence_deg),
                self.instrument.energy_spread, self.faults.crystal_mm / distance_mm, out,
            )  # fmt: skip
            if n <= len(out):
                break
            out = np.empty((n, 7))
        return out, n

    def _rates(self, angles: FloatArray, aperture: str) -> FloatArray:
        point = self.instrument.point
        width, height = point.aperture_mm(aperture)
        half = np.array([width, height]) / (2.0 * point.distance_mm)
        shift = self.truth.detector_shift_mm / point.distance_mm
        background = point.background_per_s_mm2 * self.mounting.background
        rates = np.full(len(angles), background * width * height + point.dark_per_s)
        reach = float(np.rad2deg(np.hypot(*half))) + _MARGIN_DEG
        for start in range(0, len(angles), _CHUNK):
            part = slice(start, start + _CHUNK)
            beams, n = self._beams(angles[part], reach, point.distance_mm)
            through_aperture(beams, n, half, shift, rates[part])
        return rates

    def _counts(self, rate: FloatArray, seconds: FloatArray) -> FloatArray:
        seen = rate / (1.0 + rate * self.instrument.point.dead_time_s)
        return self._rng.poisson(seen * seconds).astype(float)

    def _images(self, angles: FloatArray, frame_of: FloatArray, seconds: FloatArray, n: int) -> FloatArray:
        area = self.instrument.area
        images = np.zeros((n, *area.shape))
        reach = float(np.hypot(*area.half_deg)) + _MARGIN_DEG
        for start in range(0, len(angles), _CHUNK):
            part = slice(start, start + _CHUNK)
            beams, found = self._beams(angles[part], reach, area.distance_mm)
            shift = self.truth.detector_shift_mm / area.distance_mm
            draw_beams(
                beams, found, frame_of[part], seconds[part], area.distance_mm / area.pixel_mm, shift, area.psf_px, images
            )  # fmt: skip
        return images

    def _noisy(self, expected: FloatArray, seconds: FloatArray) -> NDArray[np.uint32]:
        frames = np.zeros(expected.shape, dtype=np.uint32)
        lit = expected > 0.0
        frames[lit] = self._rng.poisson(expected[lit])
        # The background is faint: its counts are strewn one by one, which costs less than a draw for each pixel.
        pixels = expected[0].size
        flat = frames.reshape(len(frames), pixels)
        for frame, live in zip(flat, seconds, strict=True):
            rate = self.instrument.area.background_per_s * self.mounting.background
            total = self._rng.poisson(rate * pixels * live)
            np.add.at(frame, self._rng.integers(0, pixels, total), 1)
        return frames
