"""Detectors: where a scattered ray lands, and what the sensor makes of the photons.

Pose
    ``rotation`` (3, 3) has the columns ``e_col, e_row, normal`` in the laboratory frame. ``e_col`` and ``e_row`` are the
    directions in which the pixel column and row grow (they need not form a right-handed set with the normal:
    images may be mirrored), ``normal`` points from the sample towards the detector.
    ``centre_px`` is the pixel (col, row), on the sensor or off it, where the line from the sample along ``normal`` meets
    the detector: the foot of the perpendicular, as in LaueTools. ``distance_mm`` is the length of that line;
    for a cylinder it is the radius, the axis runs along ``e_row`` through the sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import FloatArray, rotation_matrix

#: Order of the geometry parameters in refinements and covariances; units mm, px, px, rad, rad.
GEOMETRY_PARAMETERS = ("distance_mm", "centre_col_px", "centre_row_px", "tilt_x_rad", "tilt_y_rad")


@dataclass(frozen=True)
class Region:
    """A part of the sensor that sees nothing: a hole, a beam stop, a gap.

    Attributes
    ----------
    shape
        ``circle`` or ``rectangle``.
    centre_px
        Middle (col, row).
    size_px
        Full widths (col, row); for a circle the diameter, twice.
    """

    shape: Literal["circle", "rectangle"]
    centre_px: tuple[float, float]
    size_px: tuple[float, float]

    def covers(self, col: ArrayLike, row: ArrayLike) -> NDArray[np.bool_]:
        """Which of the pixels (...) lie inside."""
        u = 2.0 * (np.asarray(col, float) - self.centre_px[0]) / self.size_px[0]
        v = 2.0 * (np.asarray(row, float) - self.centre_px[1]) / self.size_px[1]
        if self.shape == "circle":
            return np.asarray(u * u + v * v <= 1.0)
        return np.asarray((np.abs(u) <= 1.0) & (np.abs(v) <= 1.0))


@dataclass(frozen=True)
class Background:
    """Expected counts that are not Bragg spots, in photons / s / mm^2 on the sensor.

    A flat part plus a dome: ``dome / (1 + (r / width)^2)^1.5`` with r the distance in mm from the pixel ``centre_px``
    (the detector's middle if None): the shape seen in real Laue frames, broad and without an edge.
    """

    flat_per_s_mm2: float = 0.0
    dome_per_s_mm2: float = 0.0
    dome_width_mm: float = 30.0
    centre_px: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sensor:
    """What the electronics make of photons: ``adu = offset + gain * photons + noise``, clipped and rounded.

    Attributes
    ----------
    gain_adu
        Units per photon.
    offset_adu
        Units added to each pixel.
    saturation_adu
        Largest value a pixel can show.
    bit_depth
        Bits of the stored number.
    readout_noise_adu
        Standard deviation of the electronics' noise.
    dark_per_s
        Thermal counts per pixel and second, in photons.
    readout_s
        Time from the end of an exposure until the frame is there.
    hot_fraction, dead_fraction
        Share of pixels that are always bright, or always zero.
    zingers_per_s
        Cosmic-ray hits a second on the whole sensor.
    point_spread_px
        Standard deviation of the point spread, in pixels.
    material, thickness_mm
        Sensor layer for the efficiency; an empty material counts every photon.
    """

    gain_adu: float = 1.0
    offset_adu: float = 0.0
    saturation_adu: float = 65535.0
    bit_depth: int = 16
    readout_noise_adu: float = 0.0
    dark_per_s: float = 0.0
    readout_s: float = 1.0
    hot_fraction: float = 0.0
    dead_fraction: float = 0.0
    zingers_per_s: float = 0.0
    point_spread_px: float = 1.0
    material: str = ""
    thickness_mm: float = 0.0


@dataclass(frozen=True, eq=False)
class Detector:
    """A flat or cylindrical area detector with its full pose.

    Attributes
    ----------
    name
        Used in records and messages.
    kind
        ``flat`` or ``cylinder``.
    shape
        Pixels (rows, cols).
    pixel_mm
        Pixel widths (along columns, along rows).
    distance_mm, centre_px, rotation
        The pose; see the module's text.
    blind
        Regions that see nothing.
    sensor, background
        Electronics, and expected background.
    """

    name: str
    kind: Literal["flat", "cylinder"]
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    distance_mm: float
    centre_px: tuple[float, float]
    rotation: FloatArray
    blind: tuple[Region, ...] = ()
    sensor: Sensor = field(default_factory=Sensor)
    background: Background = field(default_factory=Background)

    def rays_to_pixels(self, directions: ArrayLike) -> FloatArray:
        """Pixels (..., 2) as (col, row) where rays (..., 3) from the sample meet the detector's surface.

        Rays that fly away from a flat detector give NaN. The sensor's edge is not asked for: see `sees`.
        """
        d = np.asarray(directions, dtype=float) @ self.rotation
        along_col, along_row, along_normal = d[..., 0], d[..., 1], d[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "flat":
                scale = np.where(along_normal > 1e-9, self.distance_mm / along_normal, np.nan)
                u, v = along_col * scale, along_row * scale
            else:
                across = np.hypot(along_col, along_normal)
                u = self.distance_mm * np.arctan2(along_col, along_normal)
                v = np.where(across > 1e-9, along_row * self.distance_mm / across, np.nan)
        return np.stack(
            [self.centre_px[0] + u / self.pixel_mm[0], self.centre_px[1] + v / self.pixel_mm[1]], axis=-1
        )

    def pixels_to_positions(self, pixels: ArrayLike) -> FloatArray:
        """Laboratory positions (..., 3) in mm of pixels (..., 2) given as (col, row)."""
        p = np.asarray(pixels, dtype=float)
        u = (p[..., 0] - self.centre_px[0]) * self.pixel_mm[0]
        v = (p[..., 1] - self.centre_px[1]) * self.pixel_mm[1]
        if self.kind == "flat":
            local = np.stack([u, v, np.full_like(u, self.distance_mm)], axis=-1)
        else:
            phi = u / self.distance_mm
            local = np.stack([self.distance_mm * np.sin(phi), v, self.distance_mm * np.cos(phi)], axis=-1)
        return np.asarray(local @ self.rotation.T)

    def pixels_to_rays(self, pixels: ArrayLike) -> FloatArray:
        """Unit directions (..., 3) from the sample to pixels (..., 2) given as (col, row)."""
        position = self.pixels_to_positions(pixels)
        return np.asarray(position / np.linalg.norm(position, axis=-1, keepdims=True))

    def sees(self, pixels: ArrayLike) -> NDArray[np.bool_]:
        """Which pixels (..., 2) as (col, row) lie on the sensor and outside its blind regions; NaN is not seen."""
        p = np.asarray(pixels, dtype=float)
        col, row = p[..., 0], p[..., 1]
        with np.errstate(invalid="ignore"):
            seen = (col >= -0.5) & (col < self.shape[1] - 0.5) & (row >= -0.5) & (row < self.shape[0] - 0.5)
            for region in self.blind:
                seen &= ~region.covers(col, row)
        return np.asarray(seen)

    def mask(self) -> NDArray[np.bool_]:
        """Live pixels, (rows, cols): True where the sensor sees."""
        rows, cols = np.indices(self.shape)
        return self.sees(np.stack([cols, rows], axis=-1))

    def moved(
        self,
        distance_mm: float = 0.0,
        centre_col_px: float = 0.0,
        centre_row_px: float = 0.0,
        tilt_x_rad: float = 0.0,
        tilt_y_rad: float = 0.0,
    ) -> Detector:
        """This detector with a changed pose; all arguments are additions, in the order of `GEOMETRY_PARAMETERS`.

        The tilts turn the detector through the sample about the laboratory's x and y (one rotation vector). A turn about the
        beam is left out: a pattern shows only the detector's azimuth relative to the crystal's, so that the detector
        defines the azimuth of the laboratory.
        """
        turn = rotation_matrix([tilt_x_rad, tilt_y_rad, 0.0])
        return replace(
            self,
            distance_mm=self.distance_mm + distance_mm,
            centre_px=(self.centre_px[0] + centre_col_px, self.centre_px[1] + centre_row_px),
            rotation=turn @ self.rotation,
        )

    def binned(self, shape: tuple[int, int]) -> Detector:
        """The same detector read in coarser (or finer) pixels: (rows, cols). Blind regions and pose follow."""
        f_row, f_col = self.shape[0] / shape[0], self.shape[1] / shape[1]

        def pixel(centre: tuple[float, float]) -> tuple[float, float]:
            return ((centre[0] + 0.5) / f_col - 0.5, (centre[1] + 0.5) / f_row - 0.5)

        blind = tuple(
            replace(b, centre_px=pixel(b.centre_px), size_px=(b.size_px[0] / f_col, b.size_px[1] / f_row))
            for b in self.blind
        )
        dome = self.background.centre_px
        return replace(
            self,
            shape=shape,
            pixel_mm=(self.pixel_mm[0] * f_col, self.pixel_mm[1] * f_row),
            centre_px=pixel(self.centre_px),
            blind=blind,
            sensor=replace(self.sensor, point_spread_px=self.sensor.point_spread_px / np.sqrt(f_row * f_col)),
            background=replace(self.background, centre_px=None if dome is None else pixel(dome)),
        )
