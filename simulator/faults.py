"""What is wrong with a real instrument, drawn anew for each Twin: the difference between what is and what is believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.goniometer import Axis
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.laue import RayTable


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
    power_spread
        Ratio of the largest to the least power that occurs, evenly spread in logarithm about ``power_factor``.
    background_factor, background_spread
        The same of the background, over that of the description.
    factor_sigma
        Standard deviation of the logarithm of each ray's intensity over the calculated one.
    missing_fraction
        Share of the crystal's rays that are not there.
    stray_fraction
        So many rays, over the crystal's own, at random directions in the holder: glue, dirt, splinters.
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
    power_spread: float = 1.0
    background_factor: float = 1.0
    background_spread: float = 1.0
    factor_sigma: float = 0.0
    missing_fraction: float = 0.0
    stray_fraction: float = 0.0

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
            if item.name.endswith("_spread") and value < 1.0:
                raise ValueError(f"Faults: {item.name} is a ratio of at least 1; {value} came.")

    @classmethod
    def lab(cls) -> Faults:
        """A usual laboratory with crystals of any strength: power over a factor of 100, background of 10."""
        return cls(
            power_factor=0.1, power_spread=100.0, background_factor=math.sqrt(10.0), background_spread=10.0,
            factor_sigma=0.3, missing_fraction=0.02, stray_fraction=0.02,
        )  # fmt: skip

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
            shaded_fraction=0.25, power_factor=0.1, power_spread=100.0, mosaic_deg=0.4,
            background_factor=math.sqrt(10.0), background_spread=10.0,
            factor_sigma=0.5, missing_fraction=0.1, stray_fraction=0.1,
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
            power=float(self.power_factor * np.exp(rng.normal() * self.power_sigma))
            * _even(self.power_spread, rng),
            sensor_serial=int(rng.integers(2**31)),
            background=self.background_factor * _even(self.background_spread, rng),
            factor_sigma=self.factor_sigma,
            missing_fraction=self.missing_fraction,
            stray_fraction=self.stray_fraction,
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
    background
        Factor on the background.
    factor_sigma, missing_fraction, stray_fraction
        As in `Faults`: what is wrong with the crystal's rays.
    """

    instrument: Instrument
    axis_zero_deg: dict[str, float]
    sphere_of_confusion_mm: float
    second_grain_fraction: float
    second_grain: FloatArray
    transmission: NDArray[np.float32] | None
    power: float
    sensor_serial: int
    background: float
    factor_sigma: float
    missing_fraction: float
    stray_fraction: float

    def spoiled(self, table: RayTable, rng: np.random.Generator) -> RayTable:
        """The rays as they truly are: intensities off, some missing, others that are not the crystal's."""
        if self.factor_sigma == self.missing_fraction == self.stray_fraction == 0.0:
            return table
        n = len(table)
        factor = np.exp(self.factor_sigma * rng.normal(size=n)) * (
            rng.uniform(size=n) >= self.missing_fraction
        )
        # As bright as rays of the crystal are, each somewhere else: chosen among all, so that bright ones are as rare.
        stray = np.flatnonzero(rng.uniform(size=n) < self.stray_fraction)
        direction = rng.normal(size=(len(stray), 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        rows = np.concatenate([np.arange(n), stray])
        rate = np.concatenate([table.rate * factor[:, None].astype(np.float32), table.rate[stray]])
        return replace(
            table,
            hkl=table.hkl[rows],
            direction=np.ascontiguousarray(np.concatenate([table.direction, direction])),
            q_length=table.q_length[rows],
            rate=np.ascontiguousarray(rate, dtype=np.float32),
            order=table.order[rows],
        )


#: Levels of difficulty by name.
LEVELS: Mapping[str, Callable[[], Faults]] = {
    "none": Faults.none,
    "default": Faults,
    "lab": Faults.lab,
    "harsh": Faults.harsh,
}


def named_faults(faults: str | Faults) -> Faults:
    """Faults of a level of `LEVELS`; `Faults` pass through.

    Raises
    ------
    ValueError
        If there is no such level.
    """
    if isinstance(faults, Faults):
        return faults
    if faults not in LEVELS:
        raise ValueError(f"No faults {faults!r}; there are {', '.join(LEVELS)}, or give a Faults object.")
    return LEVELS[faults]()


def _even(spread: float, rng: np.random.Generator) -> float:
    """A factor evenly spread in logarithm over a ratio, about one; nothing is drawn for a ratio of one."""
    return 1.0 if spread == 1.0 else float(spread ** (rng.uniform() - 0.5))


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
