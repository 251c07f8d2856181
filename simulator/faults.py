"""What is wrong with a real instrument, drawn anew for each Twin: the difference between what is and what is believed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.goniometer import Axis
from lauepilot.simulator.instrument import Instrument


@dataclass(frozen=True)
class Faults:
    """How far a real instrument strays from its description. Lengths and angles are standard deviations of normal draws.

    The defaults are those of a usual laboratory: a detector put back by hand, axes that were aligned by optics.

    Attributes
    ----------
    centre_mm
        Of the detector's centre, along each of its directions.
    distance_mm
        Of the detector's distance.
    tilt_deg
        Of the detector's tilt about each of its two directions.
    axis_misdirection_deg
        Of each axis' direction, about each of two directions at right angles to it.
    axis_zero_deg
        Of each rotation axis' zero. (The crystal's orientation is unknown anyhow; this moves the inner axes.)
    sphere_of_confusion_mm
        Diameter of the sphere in which the crystal wanders when axes move; it is drawn anew at each move.
    backlash
        Factor on the play of the axes.
    second_grain_fraction
        Share of the crystal that belongs to a second grain, 0..1.
    second_grain_deg
        Misorientation of that grain, about a random axis.
    shaded_fraction
        Share of the sensor, from a random side, that something in the way shades, with a soft edge.
    power_factor, power_sigma
        Scattering power over that of the perfect description, and the standard deviation of its logarithm.
    mosaic_deg
        Full width at half maximum of the crystal's mosaic; None takes the instrument's usual one.
    """

    centre_mm: float = 0.3
    distance_mm: float = 0.3
    tilt_deg: float = 0.3
    axis_misdirection_deg: float = 0.1
    axis_zero_deg: float = 0.0
    sphere_of_confusion_mm: float = 0.02
    backlash: float = 1.0
    second_grain_fraction: float = 0.0
    second_grain_deg: float = 3.0
    shaded_fraction: float = 0.0
    power_factor: float = 1.0
    power_sigma: float = 0.0
    mosaic_deg: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is negative, not finite, or a share above one."""
        for item in fields(self):
            value = getattr(self, item.name)
            share = item.name.endswith("_fraction")
            if value is None and item.name == "mosaic_deg":
                continue
            if not (math.isfinite(value) and value >= 0.0 and (not share or value <= 1.0)):
                allowed = "between 0 and 1" if share else "a finite number that is not negative"
                raise ValueError(f"Faults: {item.name} must be {allowed}; {value} came.")

    @classmethod
    def none(cls) -> Faults:
        """A perfect instrument."""
        return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

    @classmethod
    def harsh(cls) -> Faults:
        """Everything at once: the worst day."""
        return cls(
            centre_mm=1.0, distance_mm=1.0, tilt_deg=0.8, axis_misdirection_deg=0.3, axis_zero_deg=0.2,
            sphere_of_confusion_mm=0.1, backlash=3.0, second_grain_fraction=0.25, second_grain_deg=3.0,
            shaded_fraction=0.25, power_factor=0.5, power_sigma=0.5, mosaic_deg=0.4,
        )  # fmt: skip

    def draw(self, instrument: Instrument, rng: np.random.Generator) -> DrawnFaults:
        """One instrument with its faults."""
        detector = instrument.detector
        mm = rng.normal(size=3) * (self.centre_mm, self.centre_mm, self.distance_mm)
        tilt = np.deg2rad(rng.normal(size=2) * self.tilt_deg)
        # A draw that would put the sample into the detector is a broken instrument, not an inaccurate one.
        mm[2] = max(mm[2], -0.5 * detector.distance_mm)
        moved = detector.moved(
            float(mm[2]),
            float(mm[0] / detector.pixel_mm[0]),
            float(mm[1] / detector.pixel_mm[1]),
            *map(float, tilt),
        )
        axes = instrument.goniometer.axes
        turns = [
            rotation_matrix(_across(axis, rng) * np.deg2rad(self.axis_misdirection_deg)) for axis in axes
        ]
        zeros = {a.name: float(rng.normal() * self.axis_zero_deg) for a in instrument.goniometer.rotations}
        goniometer = instrument.goniometer.turned(turns)
        goniometer = replace(
            goniometer, axes=tuple(replace(a, backlash=a.backlash * self.backlash) for a in goniometer.axes)
        )
        mosaic = instrument.sample.mosaic_deg if self.mosaic_deg is None else self.mosaic_deg
        axis = rng.normal(size=3)
        return DrawnFaults(
            instrument=replace(
                instrument.with_detector(moved),
                goniometer=goniometer,
                sample=replace(instrument.sample, mosaic_deg=mosaic),
            ),
            axis_zero_deg=zeros,
            sphere_of_confusion_mm=self.sphere_of_confusion_mm,
            second_grain_fraction=self.second_grain_fraction,
            second_grain=rotation_matrix(axis / np.linalg.norm(axis) * np.deg2rad(self.second_grain_deg)),
            transmission=_shade(detector.shape, self.shaded_fraction, rng)
            if self.shaded_fraction > 0.0
            else None,
            power=float(self.power_factor * np.exp(rng.normal() * self.power_sigma)),
            sensor_serial=int(rng.integers(2**31)),
        )


@dataclass(frozen=True, eq=False)
class DrawnFaults:
    """One instrument as it truly is.

    Attributes
    ----------
    instrument
        True detector pose, axis directions, play and mosaic.
    axis_zero_deg
        Added to the position of each rotation axis.
    sphere_of_confusion_mm
        Diameter of the sphere in which the crystal wanders.
    second_grain_fraction, second_grain
        Share of the crystal, and the rotation (3, 3) on the sample holder that turns the first grain into the second.
    transmission
        (rows, cols) share of photons that reach each pixel; None if nothing shades.
    power
        Factor on all spots.
    sensor_serial
        Seed of the sensor's fixed pattern.
    """

    instrument: Instrument
    axis_zero_deg: dict[str, float]
    sphere_of_confusion_mm: float
    second_grain_fraction: float
    second_grain: FloatArray
    transmission: NDArray[np.float32] | None
    power: float
    sensor_serial: int


def _across(axis: Axis, rng: np.random.Generator) -> FloatArray:
    """A normal 2-vector (3,) at right angles to an axis."""
    d = np.asarray(axis.direction, dtype=float)
    d = d / np.linalg.norm(d)
    v = rng.normal(size=3)
    return np.asarray(v - d * (d @ v))


def _shade(shape: tuple[int, int], share: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Transmission (rows, cols): a soft edge at a random angle; the darkest ``share`` of the sensor is below one half."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    x = np.linspace(-1.0, 1.0, shape[1])[None, :] * np.cos(angle)
    y = np.linspace(-1.0, 1.0, shape[0])[:, None] * np.sin(angle)
    depth = x + y
    edge = float(np.quantile(depth[:: max(1, shape[0] // 128), :: max(1, shape[1] // 128)], share))
    return np.asarray(0.05 + 0.95 / (1.0 + np.exp(-(depth - edge) / 0.05)), dtype=np.float32)
