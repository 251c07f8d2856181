"""A four-circle diffractometer with a monochromatic beam: what everybody believes it to be, and its angles.

The circles are You's (1999, J. Appl. Cryst. 32, 614) with mu = nu = 0, so the scattering plane is vertical: omega (his
eta), phi and tth (his delta) turn about -x of the laboratory, chi about the beam, +z; ``Z = R(omega) R(chi) R(phi)``.
In the bisecting position omega is half of tth, and the chi and phi that bring a direction into the diffracting position
are its latitude and longitude on the sample holder, with the pole along x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.simulator.conventions import BEAM, HC_KEV_A, FloatArray, axis_rotation
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.goniometer import Axis, Goniometer

#: Names of the axes, in the order of all arrays of angles: the sample's from the outermost, then the detector's arm.
AXES = ("omega", "chi", "phi", "tth")
#: Reflections with less than this share of the strongest one's integrated rate scatter nothing here.
WEAKEST = 1e-5
_DIRECTIONS: dict[str, tuple[float, float, float]] = {
    "omega": (-1.0, 0.0, 0.0),
    "chi": (0.0, 0.0, 1.0),
    "phi": (-1.0, 0.0, 0.0),
    "tth": (-1.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class PointDetector:
    """A counter behind an aperture on the arm.

    Attributes
    ----------
    distance_mm
        From the crystal to the aperture.
    open_mm, closed_mm
        Width (across the scattering plane) and height of the aperture for searching and for centring.
    background_per_s_mm2, dark_per_s
        Counts that are not the crystal's.
    dead_time_s
        After each count (not paralysable).
    """

    distance_mm: float = 500.0
    open_mm: tuple[float, float] = (6.0, 6.0)
    closed_mm: tuple[float, float] = (1.0, 1.0)
    background_per_s_mm2: float = 0.05
    dark_per_s: float = 0.5
    dead_time_s: float = 2e-6

    def aperture_mm(self, name: str) -> tuple[float, float]:
        """Width and height of the aperture ``open`` or ``closed``.

        Raises
        ------
        ValueError
            If it is called something else.
        """
        if name not in ("open", "closed"):
            raise ValueError(f"The aperture is 'open' or 'closed'; {name!r} came.")
        return self.open_mm if name == "open" else self.closed_mm


@dataclass(frozen=True)
class AreaDetector:
    """A small photon-counting area detector on the arm, its centre where the counter would be.

    Attributes
    ----------
    distance_mm, shape, pixel_mm
        Distance, rows and columns, pixel size. Columns count against x, rows against the arm's motion: row 0 is up.
    background_per_s
        Counts of one pixel that are not the crystal's.
    psf_px
        Standard deviation of the point spread, pixels.
    readout_s
        Between two frames of a sweep, and after one frame.
    """

    distance_mm: float = 200.0
    shape: tuple[int, int] = (128, 256)
    pixel_mm: float = 0.3
    background_per_s: float = 0.002
    psf_px: float = 0.5
    readout_s: float = 0.003

    @property
    def half_deg(self) -> tuple[float, float]:
        """Half of the angles (across, along the scattering plane) that it sees, degrees."""
        rows, cols = self.shape
        across, along = (0.5 * n * self.pixel_mm / self.distance_mm for n in (cols, rows))
        return float(np.rad2deg(np.arctan(across))), float(np.rad2deg(np.arctan(along)))

    def rays(self, pixels: ArrayLike, tth_deg: float) -> FloatArray:
        """Unit vectors (n, 3) in the laboratory towards pixels (n, 2; col, row), with the arm at ``tth_deg``."""
        p = np.asarray(pixels, dtype=float).reshape(-1, 2)
        rows, cols = self.shape
        x = (0.5 * (cols - 1) - p[:, 0]) * self.pixel_mm / self.distance_mm
        y = (0.5 * (rows - 1) - p[:, 1]) * self.pixel_mm / self.distance_mm
        local = np.stack([x, y, np.ones(len(p))], axis=1)
        turned = local @ axis_rotation(_DIRECTIONS["tth"], np.deg2rad(tth_deg)).T
        return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True))

    def pixels(self, rays: ArrayLike, tth_deg: float) -> FloatArray:
        """Pixels (n, 2; col, row) of rays (n, 3), with the arm at ``tth_deg``; NaN behind the detector's plane."""
        local = np.asarray(rays, dtype=float).reshape(-1, 3) @ axis_rotation(
            _DIRECTIONS["tth"], np.deg2rad(tth_deg)
        )
        ahead = np.where(local[:, 2] > 1e-3, local[:, 2], np.nan)
        scale = self.distance_mm / self.pixel_mm
        rows, cols = self.shape
        col = 0.5 * (cols - 1) - local[:, 0] / ahead * scale
        row = 0.5 * (rows - 1) - local[:, 1] / ahead * scale
        return np.stack([col, row], axis=1)


def _axis(name: str, limits: tuple[float, float], speed: float) -> Axis:
    return Axis(name, "rotation", _DIRECTIONS[name], limits, speed, 0.2, 0.001, 0.01)


@dataclass(frozen=True)
class FourCircle:
    """A four-circle diffractometer as believed.

    Attributes
    ----------
    energy_kev
        Of the beam; molybdenum K alpha by default.
    energy_spread, divergence_deg
        Standard deviations: relative, and of the beam's direction.
    mosaic_deg
        Standard deviation of the mosaic that is expected of a crystal; steps are sized by it.
    motors
        omega, chi, phi, tth.
    point, area
        The two detectors.
    """

    name: str = "four-circle"
    energy_kev: float = 17.479
    energy_spread: float = 3e-4
    divergence_deg: float = 0.03
    mosaic_deg: float = 0.08
    motors: Goniometer = field(
        default_factory=lambda: Goniometer(
            (
                _axis("omega", (-60.0, 60.0), 2.0),
                _axis("chi", (-100.0, 100.0), 4.0),
                _axis("phi", (-190.0, 190.0), 6.0),
                _axis("tth", (-5.0, 70.0), 2.0),
            )
        )
    )
    point: PointDetector = PointDetector()
    area: AreaDetector = AreaDetector()

    def __post_init__(self) -> None:
        if self.motors.names != AXES:
            raise ValueError(
                f"A four-circle has the axes {', '.join(AXES)}, in this order; got {', '.join(self.motors.names)}."
            )
        if not (np.isfinite(self.energy_kev) and self.energy_kev > 0.0):
            raise ValueError(
                f"The beam's energy must be positive; {self.energy_kev} keV came. Molybdenum has 17.479."
            )

    @property
    def goniometer(self) -> Goniometer:
        """The sample's three axes, outermost first."""
        return Goniometer(self.motors.axes[:3])

    @property
    def k(self) -> float:
        """Wave number ``2 pi / wavelength``, 1/angstrom."""
        return 2.0 * np.pi * self.energy_kev / HC_KEV_A

    @property
    def q_max(self) -> float:
        """Longest Q that the arm reaches, 1/angstrom."""
        return float(2.0 * self.k * np.sin(np.deg2rad(min(self.motors.axis("tth").limits[1], 180.0)) / 2.0))

    def tth_deg(self, q: ArrayLike) -> FloatArray:
        """Scattering angle (...) in degrees of lengths of Q (...), 1/angstrom; NaN where none is long enough."""
        sine = np.asarray(q, dtype=float) / (2.0 * self.k)
        return np.asarray(2.0 * np.rad2deg(np.arcsin(np.where(np.abs(sine) <= 1.0, sine, np.nan))))

    def q_length(self, tth_deg: ArrayLike) -> FloatArray:
        """Length (...) of Q in 1/angstrom at scattering angles (...) in degrees."""
        return np.asarray(2.0 * self.k * np.sin(np.deg2rad(np.asarray(tth_deg, dtype=float)) / 2.0))

    def q_direction(self, tth_deg: float) -> FloatArray:
        """Unit vector (3,) in the laboratory along the Q that the arm at ``tth_deg`` sees in its middle."""
        theta = np.deg2rad(tth_deg) / 2.0
        return np.array([0.0, np.cos(theta), -np.sin(theta)])

    def q_of_rays(self, rays: FloatArray) -> FloatArray:
        """Q (n, 3) in the laboratory, 1/angstrom, of elastically scattered rays (n, 3; unit vectors)."""
        return np.asarray(self.k * (rays - BEAM))

    def matrix(self, angles_deg: ArrayLike) -> FloatArray:
        """``Z`` (3, 3) at (omega, chi, phi, ...) in degrees."""
        values = np.asarray(angles_deg, dtype=float)
        return self.goniometer.matrix(dict(zip(AXES[:3], values[:3], strict=True)))

    def bisecting(self, direction: ArrayLike, tth_deg: float) -> FloatArray:
        """Angles (4,) in degrees that bring a direction (3,) of the sample holder into the diffracting position.

        Source: Busing & Levy (1967), Acta Cryst. 22, 457, eqs. 43-45, in You's axes.
        """
        v = np.asarray(direction, dtype=float)
        phi = np.arctan2(v[2], v[1])
        chi = np.arctan2(v[0], np.hypot(v[1], v[2]))
        return np.array([0.5 * tth_deg, np.rad2deg(chi), np.rad2deg(phi), tth_deg])

    def on_holder(self, angles_deg: ArrayLike) -> FloatArray:
        """Unit vector (3,) of the sample holder that diffracts into the middle of the detector at these four angles."""
        values = np.asarray(angles_deg, dtype=float)
        return np.asarray(self.matrix(values).T @ self.q_direction(float(values[3])))

    def width_deg(self, tth_deg: float, mosaic_deg: float | None = None) -> float:
        """Standard deviation in omega of a reflection at a scattering angle: mosaic, divergence and energy spread."""
        mosaic = self.mosaic_deg if mosaic_deg is None else mosaic_deg
        spread = np.rad2deg(np.tan(np.deg2rad(tth_deg) / 2.0) * self.energy_spread)
        return float(np.sqrt(mosaic**2 + self.divergence_deg**2 + spread**2))

    def allows(self, angles_deg: ArrayLike) -> bool:
        """Whether all four angles (4,) are within the limits."""
        values = np.asarray(angles_deg, dtype=float)
        return all(
            axis.limits[0] <= value <= axis.limits[1]
            for axis, value in zip(self.motors.axes, values, strict=True)
        )


def as_array(positions: Mapping[str, float]) -> FloatArray:
    """Positions by name as an array (4,) in the order of `AXES`."""
    return np.array([positions[name] for name in AXES], dtype=float)


def as_positions(angles_deg: ArrayLike) -> dict[str, float]:
    """An array (4,) in the order of `AXES` as positions by name."""
    return {name: float(value) for name, value in zip(AXES, np.asarray(angles_deg, dtype=float), strict=True)}


def integrated_rates(crystal: Crystal, instrument: FourCircle) -> tuple[FloatArray, FloatArray]:
    """Reflections (n, 3) that the arm reaches and their rates (n,), integrated over omega; the strongest is 1.

    Kinematical: |F|^2 with dispersion, Lorentz 1/sin(2 theta), polarisation of an unpolarised beam.
    """
    hkl = crystal.reflections(instrument.q_max).astype(float)
    two_theta = np.deg2rad(instrument.tth_deg(crystal.q_length(hkl)))
    f = np.abs(crystal.structure_factors(hkl, "xray", instrument.energy_kev))
    rate = f**2 * (1.0 + np.cos(two_theta) ** 2) / 2.0 / np.sin(two_theta)
    keep = rate > WEAKEST * rate.max()
    return hkl[keep], rate[keep] / rate.max()


def path_bins(instrument: FourCircle, points_deg: ArrayLike, seconds: float) -> tuple[FloatArray, FloatArray]:
    """A path's corners (n + 1, 4), checked and on the motors' steps, and the live times (n,) of its bins.

    Raises
    ------
    ReachError, ValueError
        If a corner is outside the limits, or something is not a number.
    """
    points = np.array(points_deg, dtype=float)
    if points.ndim != 2 or points.shape[1] != len(AXES) or len(points) < 2 or not np.all(np.isfinite(points)):
        raise ValueError(
            f"A path needs two corners or more of {len(AXES)} finite angles ({', '.join(AXES)}); an array of shape "
            f"{points.shape} came."
        )
    check_seconds(seconds)
    for corner in points:
        instrument.motors.check(as_positions(corner))
    speeds = np.array([axis.speed for axis in instrument.motors.axes])
    live = np.maximum(seconds, (np.abs(np.diff(points, axis=0)) / speeds).max(axis=1))
    return points, live


def ready_after(axis: Axis, here: float, start: float) -> float | None:
    """Where an axis must go first so that it comes to ``start`` from below, its play always on one side; None if it does."""
    if start > here + 1e-9 or axis.backlash == 0.0 or abs(start - here) < 1e-9:
        return None
    return max(start - 20.0 * axis.backlash, axis.limits[0])


def check_seconds(seconds: float) -> None:
    """Refuse a counting time that is not positive."""
    if not (np.isfinite(seconds) and seconds > 0.0):
        raise ValueError(f"Counting needs a positive time; {seconds} s came.")


def travel_s(instrument: FourCircle, here_deg: FloatArray, there_deg: FloatArray) -> float:
    """Seconds from one place (4,) to another, all axes at once, settling included."""
    ways = np.abs(np.asarray(there_deg) - np.asarray(here_deg))
    times = [
        way / axis.speed + axis.settle_s
        for way, axis in zip(ways, instrument.motors.axes, strict=True)
        if way > 0.0
    ]
    return max(times, default=0.0)
