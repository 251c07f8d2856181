"""The Twin: a diffractometer in memory, with a crystal that is not where one thinks and faults that one does not know.

It is asked what a real instrument is asked: where do the axes stand, go there, expose. `Twin.instrument` is what everybody
believes; `Twin.truth` is what is, and only referees look at it. Time passes on `Twin.clock_s`, not on the wall.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.simulator.conventions import FloatArray, random_rotation
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.electronics import fixed_pattern, read_out
from lauepilot.simulator.faults import DrawnFaults, Faults
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.image import DEFAULT_PROFILE, check_seconds, expected_image
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.laue import RayTable, cached_table, predict_spots
from lauepilot.simulator.spots_shape import SpotProfile, displacement_px, instrument_covariances

#: Rate of the weakest rays over that of the strongest that the Twin's own table holds: finer than what an indexer needs, so
#: that spots fade into the background, as they do in real frames, instead of ending.
WEAKEST = 3e-4

#: Sigmas beyond the sensor's edge from which spots still spill in; the halo is up to twice as wide.
_SPILL = 6.0


@dataclass(frozen=True, eq=False)
class Truth:
    """What only referees know.

    Attributes
    ----------
    u
        Orientation (3, 3) of the crystal on the sample holder.
    instrument
        The instrument as it is.
    faults
        All that was drawn.
    """

    u: FloatArray
    instrument: Instrument
    faults: DrawnFaults


class Twin:
    """A crystal on an instrument with faults.

    Parameters
    ----------
    crystal
        What is mounted.
    instrument
        What everybody believes the instrument to be.
    faults
        How far it strays; the default is a usual laboratory, `Faults.none` a perfect one.
    rng
        Source of all random numbers of this Twin.
    u
        True orientation (3, 3) on the sample holder; None draws one.
    table
        Ray table of crystal and instrument; None takes the shared one, which is made at the first need (seconds).
    profile
        Shape of the spots.
    """

    def __init__(
        self,
        crystal: Crystal,
        instrument: Instrument,
        *,
        rng: np.random.Generator,
        faults: Faults | None = None,
        u: ArrayLike | None = None,
        table: RayTable | None = None,
        profile: SpotProfile = DEFAULT_PROFILE,
    ) -> None:
        self.crystal = crystal
        self.instrument = instrument
        self.faults = Faults() if faults is None else faults
        self.table = cached_table(crystal, instrument, WEAKEST) if table is None else table
        self.profile = profile
        self.reset(rng, u)

    def reset(self, rng: np.random.Generator, u: ArrayLike | None = None) -> None:
        """Mount the crystal anew (at ``u``, or at random), draw new faults, put axes and clock to zero.

        Axes whose limits exclude zero start at the limit next to it.

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
            or (np.linalg.det(orientation) < 0.0)
        ):
            raise ValueError(
                f"The crystal's orientation must be a rotation matrix (3, 3); it was {orientation.tolist()}."
            )
        drawn = self.faults.draw(self.instrument, rng)
        self.truth = Truth(orientation, drawn.instrument, drawn)
        self._rays = drawn.spoiled(self.table, rng)
        self._positions = self.instrument.goniometer.rest
        self._carried = {
            a.name: self._positions[a.name] + rng.uniform(-0.5, 0.5) * a.backlash
            for a in drawn.instrument.goniometer.axes
        }
        self._clock_s = 0.0
        self._dose_s = 0.0
        self._wander()

    @property
    def positions(self) -> dict[str, float]:
        """Read-back of all axes, degrees and mm: where the motors stand."""
        return dict(self._positions)

    @property
    def clock_s(self) -> float:
        """Seconds since the crystal was mounted."""
        return self._clock_s

    @property
    def dose_s(self) -> float:
        """Seconds that the crystal was in the beam."""
        return self._dose_s

    @property
    def offset_mm(self) -> FloatArray:
        """Where in the sphere of confusion the crystal is now (3,), laboratory: for referees."""
        return self._offset_mm.copy()

    def u_lab(self) -> FloatArray:
        """True laboratory orientation (3, 3) now: for referees."""
        angles = {n: p + self.truth.faults.axis_zero_deg.get(n, 0.0) for n, p in self._carried.items()}
        return np.asarray(self.truth.instrument.goniometer.matrix(angles) @ self.truth.u)

    def move(self, positions: Mapping[str, float], *, seconds: float | None = None) -> dict[str, float]:
        """Move axes by name (degrees, mm), all at once, and return the read-back of all axes.

        The motors go to the nearest multiple of their resolution; what they carry lags by the play of the axis. It takes
        as long as they need at their own speeds, or ``seconds``, for controllers that drive them more slowly.

        Raises
        ------
        KeyError, ReachError
            If an axis is unknown or would leave its limits; then nothing moves.
        """
        goniometer = self.instrument.goniometer
        goniometer.check({**self._positions, **positions})
        goal = {}
        for name, position in positions.items():
            axis = goniometer.axis(name)
            steps = round(position / axis.resolution) * axis.resolution
            goal[name] = float(min(max(steps, axis.limits[0]), axis.limits[1]))
        self._clock_s += goniometer.move_time_s(self._positions, goal) if seconds is None else seconds
        moved = False
        for name, position in goal.items():
            moved |= position != self._positions[name]
            # Play: the load stays where it is until a flank takes it along.
            half = 0.5 * self.truth.instrument.goniometer.axis(name).backlash
            self._carried[name] = min(max(self._carried[name], position - half), position + half)
            self._positions[name] = position
        if moved:
            self._wander()
        return self.positions

    def expose(self, seconds: float) -> Frame:
        """Open the shutter for ``seconds`` and read the first detector out.

        Raises
        ------
        ValueError
            If the exposure is not a positive finite number.
        """
        check_seconds(seconds)
        faults, detector = self.truth.faults, self.truth.instrument.detector
        started = self._clock_s
        counts = read_out(
            self.expected(seconds),
            detector.sensor,
            seconds,
            self._rng,
            fixed_pattern(detector.shape, detector.sensor, faults.sensor_serial),
        )
        self._clock_s += seconds + detector.sensor.readout_s
        self._dose_s += seconds
        return Frame(
            counts=counts,
            live_time_s=float(seconds),
            axes=self.positions,
            instrument=self.instrument.name,
            saturation=min(detector.sensor.saturation_adu, 2.0**detector.sensor.bit_depth - 1.0),
            gain=detector.sensor.gain_adu,
            offset=detector.sensor.offset_adu,
            metadata={"started_s": started, "clock_s": self._clock_s, "dose_s": self._dose_s},
        )

    def expected(self, seconds: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Photons (rows, cols) that an exposure now would have on average: for referees and figures."""
        faults, detector = self.truth.faults, self.truth.instrument.detector
        u = self.u_lab()
        pixels, rates, covariances = self._spots(u)
        share = faults.second_grain_fraction
        if share > 0.0:
            # The second grain sits on the same holder: its misorientation turns with the goniometer.
            z = u @ self.truth.u.T
            other = self._spots(z @ faults.second_grain @ self.truth.u)
            pixels = np.concatenate([pixels, other[0]])
            rates = np.concatenate([(1.0 - share) * rates, share * other[1]])
            covariances = np.concatenate([covariances, other[2]])
        return expected_image(
            detector,
            pixels,
            rates * faults.power,
            covariances,
            seconds,
            profile=self.profile,
            transmission=faults.transmission,
            background=faults.background,
        )

    def _spots(self, u_lab: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Pixels (n, 2), rates (n,) and covariances (n, 2, 2) of what falls on the true sensor or spills onto it."""
        instrument = self.truth.instrument
        detector = instrument.detector
        spots = predict_spots(self._rays, u_lab, detector, on_sensor=False)
        # Only spots near the sensor cost more: far ones may be thousands of pixels away.
        col, row = spots.pixels[:, 0], spots.pixels[:, 1]
        margin = 0.1 * max(detector.shape)
        near = (
            (col > -margin)
            & (row > -margin)
            & (col < detector.shape[1] + margin)
            & (row < detector.shape[0] + margin)
        )
        pixels, k_out, rates = spots.pixels[near], spots.k_out[near], spots.rate_per_s[near]
        covariances = instrument_covariances(instrument, k_out, detector)
        reach = _SPILL * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
        inside = np.all(
            (pixels > -0.5 - reach) & (pixels < np.array(detector.shape[::-1]) - 0.5 + reach), axis=1
        )
        pixels = pixels[inside]
        return pixels + displacement_px(detector, pixels, self._offset_mm), rates[inside], covariances[inside]

    def _wander(self) -> None:
        """Draw where in the sphere of confusion the crystal is, uniform in its volume."""
        direction = self._rng.normal(size=3)
        radius = 0.5 * self.truth.faults.sphere_of_confusion_mm * self._rng.uniform() ** (1.0 / 3.0)
        self._offset_mm: FloatArray = direction / np.linalg.norm(direction) * radius
