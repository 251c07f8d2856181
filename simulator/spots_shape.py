"""How large and how streaky a Laue spot is: from mosaic, beam, divergence and point spread to pixels.

Everything that blurs a spot is a small change of the ray that makes it. For a ray ``k`` (unit, from the sample) that meets
the detector at a distance ``L`` from the sample, `ray_jacobian` gives the matrix ``J`` (2, 3) from a change of ``k`` to a
change of the pixel; since pixels depend on the direction alone, ``J k = 0``, and a source that is displaced by ``p`` moves
the spot by ``J p / L``. So the covariance of a spot is ``J C J^T`` plus the point spread, with ``C`` the sum of

mosaic
    A plane normal that tilts by ``delta`` moves ``k`` by ``2 delta`` in the plane of scattering, by
    ``2 sin(theta) delta`` across it: spots at small angles streak towards the beam.
divergence
    A mirror keeps the spread of an isotropic beam: ``s^2`` in both directions across ``k``.
beam
    The lit volume has the beam's widths in x and y, and a depth along z: its covariance over ``L^2``.

Widths given as full widths are taken as uniform (variance ``w^2 / 12``), the mosaic as normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.simulator.conventions import BEAM, FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.instrument import Instrument

#: Full width at half maximum of a normal distribution, in standard deviations.
FWHM_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


@dataclass(frozen=True)
class SpotProfile:
    """Shape of a spot of given covariance: a normal core and a wider halo of the same form.

    ``(1 - halo) N(C / f) + halo N(width^2 C / f)`` with ``f = 1 - halo + halo width^2``, so that ``C`` is the covariance
    of the whole profile. The defaults are what the 6,561 windows of one spot measured at ESRF BM32 want
    (`tests/simulator/test_image.py`): a plain normal leaves out the skirt between two and four pixels.

    Attributes
    ----------
    halo
        Share of the photons in the halo; 0 gives a plain normal.
    width
        Standard deviation of the halo over that of the core.
    """

    halo: float = 0.28
    width: float = 2.0

    def __post_init__(self) -> None:
        """Refuse shares outside 0..1 and widths below 1."""
        if not 0.0 <= self.halo < 1.0 or not self.width >= 1.0:
            raise ValueError(
                f"A spot profile has 0 <= halo < 1 and width >= 1; {self.halo} and {self.width} came. "
                "SpotProfile(halo=0) is a plain normal."
            )

    @property
    def core_scale(self) -> float:
        """Covariance of the core over that of the whole."""
        return 1.0 / (1.0 - self.halo + self.halo * self.width**2)


def ray_jacobian(detector: Detector, directions: ArrayLike) -> FloatArray:
    """Derivative (n, 2, 3) of the pixel (col, row) after a ray's direction (n, 3) in the laboratory.

    Directions may have any length ``s``: the derivative goes with ``1 / s``. Rays that never meet the detector give NaN.
    """
    local = np.atleast_2d(np.asarray(directions, dtype=float)) @ detector.rotation
    c, r, n = local[:, 0], local[:, 1], local[:, 2]
    jacobian = np.zeros((len(local), 2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        if detector.kind == "flat":
            n = np.where(n > 1e-9, n, np.nan)
            jacobian[:, 0, 0] = 1.0 / n
            jacobian[:, 0, 2] = -c / n**2
            jacobian[:, 1, 1] = 1.0 / n
            jacobian[:, 1, 2] = -r / n**2
        else:
            across = np.hypot(c, n)
            across = np.where(across > 1e-9, across, np.nan)
            jacobian[:, 0, 0] = n / across**2
            jacobian[:, 0, 2] = -c / across**2
            jacobian[:, 1, 0] = -r * c / across**3
            jacobian[:, 1, 1] = 1.0 / across
            jacobian[:, 1, 2] = -r * n / across**3
    per_pixel = detector.distance_mm / np.asarray(detector.pixel_mm)
    return np.asarray((jacobian * per_pixel[:, None]) @ detector.rotation.T)


def displacement_px(detector: Detector, pixels: ArrayLike, offset_mm: ArrayLike) -> FloatArray:
    """Shift (n, 2) in pixels of spots at ``pixels`` (n, 2) when the crystal is displaced by ``offset_mm`` (3,)."""
    position = detector.pixels_to_positions(np.atleast_2d(np.asarray(pixels, dtype=float)))
    return np.asarray(ray_jacobian(detector, position) @ np.asarray(offset_mm, dtype=float))


def mosaic_spread(directions: ArrayLike) -> FloatArray:
    """Covariance (n, 3, 3) of rays (n, 3, unit) for a mosaic whose tilts have a standard deviation of one radian.

    For the mirror ``k = b - 2 (b.n) n``: four times the projector on the direction in the plane of scattering, plus
    ``4 sin^2(theta)`` times the one across.
    """
    k = np.atleast_2d(np.asarray(directions, dtype=float))
    across = np.cross(BEAM, k)
    length = np.linalg.norm(across, axis=1, keepdims=True)
    # Straight back every direction across the ray is in a plane of scattering: choose x.
    across = np.where(
        length > 1e-12, across / np.where(length > 1e-12, length, 1.0), np.array([1.0, 0.0, 0.0])
    )
    radial = np.cross(across, k)
    sine_squared = 0.5 * (1.0 - k @ BEAM)
    return np.asarray(
        4.0 * radial[:, :, None] * radial[:, None, :]
        + 4.0 * sine_squared[:, None, None] * across[:, :, None] * across[:, None, :]
    )


def spot_covariances(
    detector: Detector,
    directions: ArrayLike,
    *,
    mosaic_deg: float = 0.0,
    beam_mm: tuple[float, float] = (0.0, 0.0),
    depth_mm: float = 0.0,
    divergence_deg: float = 0.0,
) -> FloatArray:
    """Covariances (n, 2, 2) of spots in pixels squared, order (col, row), for rays (n, 3, unit) from the sample.

    Parameters
    ----------
    detector
        Pose, pixels and point spread.
    directions
        Scattered rays; one that misses the detector gives NaN.
    mosaic_deg
        Full width at half maximum of the tilts of the plane normals.
    beam_mm
        Full widths of the beam (x, y).
    depth_mm
        Depth along the beam from which spots come.
    divergence_deg
        Full width of the beam's directions.
    """
    k = np.atleast_2d(np.asarray(directions, dtype=float))
    pixels = detector.rays_to_pixels(k)
    length = np.linalg.norm(detector.pixels_to_positions(pixels), axis=1)
    mosaic = np.deg2rad(mosaic_deg) / FWHM_SIGMA
    lit = np.diag(np.square([beam_mm[0], beam_mm[1], depth_mm]) / 12.0)
    spread = mosaic**2 * mosaic_spread(k) + lit / np.square(length)[:, None, None]
    spread = spread + np.deg2rad(divergence_deg) ** 2 / 12.0 * np.eye(3)
    jacobian = ray_jacobian(detector, k)
    point = detector.sensor.point_spread_px**2 * np.eye(2)
    return np.asarray(jacobian @ spread @ jacobian.transpose(0, 2, 1) + point)


def instrument_covariances(
    instrument: Instrument,
    directions: ArrayLike,
    detector: Detector | None = None,
    mosaic_deg: float | None = None,
) -> FloatArray:
    """`spot_covariances` with the beam and sample of an instrument; another detector (binned) or mosaic may be given.

    X-rays come from a skin much thinner than the detector's pixels see, neutrons from the whole crystal.
    """
    return spot_covariances(
        instrument.detector if detector is None else detector,
        directions,
        mosaic_deg=instrument.sample.mosaic_deg if mosaic_deg is None else mosaic_deg,
        beam_mm=instrument.beam.size_mm,
        depth_mm=instrument.sample.thickness_mm if instrument.beam.radiation == "neutron" else 0.0,
        divergence_deg=instrument.beam.divergence_deg,
    )
