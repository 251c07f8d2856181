"""How far a four-circle and its crystal stray from what is believed, by named levels, and what only referees know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.fourcircle import FourCircle

#: Named levels of `FourCircleFaults.named`.
Level = Literal["none", "lab", "harsh"]


@dataclass(frozen=True)
class FourCircleFaults:
    """How far the instrument and crystal stray: standard deviations of what is drawn, but for the mosaic's range.

    Attributes
    ----------
    zero_deg
        Zero of each axis.
    direction_deg
        Direction of each axis.
    detector_mm
        Place of the detector on its arm, both ways.
    energy
        Relative, of the beam's energy.
    intensity
        Of the logarithm of each intensity: extinction, an imperfect model.
    mosaic_deg
        Least and largest standard deviation of the mosaic.
    crystal_mm
        Size of the crystal (standard deviation of its shape).
    play
        Share of the believed backlash that is there.
    power, background
        Of the logarithm of the scattering power, and of the background over the believed one.
    grain, grain_share
        How often a second crystallite of any orientation is there, and its largest share of the first one's intensities.
    absorption
        Of an ellipsoid of random shape (axes by factors of about two): absorption along a path of its mean radius.
    """

    zero_deg: float = 0.03
    direction_deg: float = 0.01
    detector_mm: float = 0.05
    energy: float = 1e-4
    intensity: float = 0.25
    mosaic_deg: tuple[float, float] = (0.03, 0.12)
    crystal_mm: float = 0.1
    play: float = 1.0
    power: float = 0.0
    background: float = 0.0
    grain: float = 0.0
    grain_share: float = 0.3
    absorption: float = 0.0

    @classmethod
    def none(cls) -> FourCircleFaults:
        """A perfect instrument, and a crystal of 0.05 degrees."""
        return cls(0.0, 0.0, 0.0, 0.0, 0.0, (0.05, 0.05), 0.1, 0.0)

    @classmethod
    def named(cls, level: Level) -> FourCircleFaults:
        """The faults of a level.

        ``none`` is perfect. ``lab`` is the usual instrument with a crystal that nobody has measured: scattering power by a
        factor of 2, background by 1.5, one in ten with a second crystallite, some absorption. ``harsh`` has zeros and axes
        three times as far off, three times the play, mosaics up to 0.25 degrees, power by a factor of 4, background by 3,
        a second crystallite in half of all, and strong absorption.

        Raises
        ------
        ValueError
            If there is no such level.
        """
        if level not in get_args(Level):
            raise ValueError(f"No level {level!r}; there are {', '.join(get_args(Level))}.")
        if level == "none":
            return cls.none()
        if level == "lab":
            return cls(power=0.7, background=0.4, grain=0.1, grain_share=0.2, absorption=0.7)
        return cls(
            zero_deg=0.1, direction_deg=0.03, detector_mm=0.15, energy=3e-4, intensity=0.4, mosaic_deg=(0.03, 0.25),
            play=3.0, power=1.4, background=1.1, grain=0.5, grain_share=0.4, absorption=2.0,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class FourCircleTruth:
    """What only referees know.

    Attributes
    ----------
    u
        Orientation (3, 3) on the holder.
    zeros_deg, axes
        (4,) true angle less reading, degrees; (4, 3) directions at zero.
    detector_shift_mm, energy_kev, mosaic_deg
        The detector's place on its arm (2,), the beam's energy, the mosaic's standard deviation.
    """

    u: FloatArray
    zeros_deg: FloatArray
    axes: FloatArray
    detector_shift_mm: FloatArray
    energy_kev: float
    mosaic_deg: float


@dataclass(frozen=True, eq=False)
class Mounting:
    """What is particular to one crystal on one day.

    Attributes
    ----------
    power, background
        Over the believed ones.
    transmission
        (n,) of each reflection, the best is 1.
    grain, grain_share
        Rotation (3, 3) from the first crystallite to a second, or None, and its intensities over the first one's.
    """

    power: float
    background: float
    transmission: FloatArray
    grain: FloatArray | None
    grain_share: float


def draw_mounting(
    faults: FourCircleFaults, rng: np.random.Generator, instrument: FourCircle, q: FloatArray
) -> Mounting:
    """Draw what is particular; ``q`` (n, 3) on the holder. What is not asked for draws nothing."""
    power = float(np.exp(faults.power * rng.normal())) if faults.power > 0.0 else 1.0
    background = float(np.exp(faults.background * rng.normal())) if faults.background > 0.0 else 1.0
    transmission = np.ones(len(q))
    if faults.absorption > 0.0:
        turn = rotation_matrix(rng.normal(size=3))
        radii = np.exp(0.35 * rng.normal(size=3))
        transmission = _transmission(faults.absorption, turn / radii[:, None], instrument, q)
    grain, share = None, 0.0
    if faults.grain > 0.0 and rng.random() < faults.grain:
        # At an angle at which the two can be told apart, and otherwise anywhere.
        axis = rng.normal(size=3)
        grain = rotation_matrix(axis / np.linalg.norm(axis) * np.deg2rad(rng.uniform(3.0, 60.0)))
        share = float(rng.uniform(0.2, 1.0)) * faults.grain_share
    return Mounting(power, background, transmission, grain, share)


def _transmission(absorption: float, shape: FloatArray, instrument: FourCircle, q: FloatArray) -> FloatArray:
    """Transmission (n,) in the bisecting position, along the radii of an ellipsoid on which ``|shape s| = 1``."""
    length = np.linalg.norm(q, axis=1)
    v = q / length[:, None]
    # Tangent to the sphere, in the scattering plane of the bisecting position: where phi's motion takes the direction.
    phi = np.arctan2(v[:, 2], v[:, 1])
    along = np.stack([np.zeros_like(phi), -np.sin(phi), np.cos(phi)], axis=1)
    sine = np.minimum(0.5 * length / instrument.k, 1.0)[:, None]
    forth = np.sqrt(1.0 - sine**2) * along
    path = np.zeros(len(q))
    for ray in (forth - sine * v, forth + sine * v):
        path += 1.0 / np.linalg.norm(ray @ shape.T, axis=1)
    return np.asarray(np.exp(-absorption * (path - path.min())))
