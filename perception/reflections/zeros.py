"""Centred peaks of a four-circle, and UB from them with the zeros of its circles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike

from lauepilot.perception.reflections.measured import Reflection, ReflectionError
from lauepilot.perception.reflections.ub import UbResult, ub_from_reflections
from lauepilot.simulator.conventions import UP, FloatArray, axis_rotation, rotation_matrix
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.fourcircle import AXES, FourCircle
from lauepilot.simulator.goniometer import Goniometer

#: What to expect of `Zeros`, degrees (standard deviations).
PRIOR_DEG = (0.1, 0.1, 0.02, 0.03)
#: Smallest standard deviation of a centred angle: steps of the motors, spheres of confusion.
FLOOR_DEG = 0.004
#: Reflections from which zeros are fitted.
ENOUGH = 4


@dataclass(frozen=True, eq=False)
class Centred:
    """A peak that was centred.

    Attributes
    ----------
    angles_deg
        (4,) read-back there: omega, chi, phi, tth.
    azimuth_deg
        How far the diffracted beam is from the vertical plane, about the incident beam; 0 behind a centred aperture.
    tth_deg
        Its scattering angle as measured.
    sigma_deg
        Standard deviation of the angles.
    rate
        Counts a second times degrees, integrated over omega.
    hkl
        Its indices once they are known.
    """

    angles_deg: FloatArray
    azimuth_deg: float
    tth_deg: float
    sigma_deg: float
    rate: float
    hkl: tuple[int, int, int] | None = None

    def q_lab(self, tth_deg: float | None = None) -> FloatArray:
        """Unit vector (3,) along Q in the laboratory, for the measured or a better-known scattering angle."""
        theta = 0.5 * np.deg2rad(self.tth_deg if tth_deg is None else tth_deg)
        psi = np.deg2rad(self.azimuth_deg)
        return np.array([np.cos(theta) * np.sin(psi), np.cos(theta) * np.cos(psi), -np.sin(theta)])

    def direction(self, instrument: FourCircle) -> FloatArray:
        """Unit vector (3,) along Q on the sample holder, zeros left out."""
        return np.asarray(instrument.matrix(self.angles_deg).T @ self.q_lab())


@dataclass(frozen=True)
class Zeros:
    """By how much the circles are not what they should be, degrees.

    Attributes
    ----------
    omega_deg, chi_deg
        True angle less reading (that of phi belongs to U).
    across_deg
        The detector's shift across the scattering plane, seen from the crystal.
    tilt_deg
        Turn about +y of phi's axis at zero: what it lacks of a right angle to chi's.
    """

    omega_deg: float = 0.0
    chi_deg: float = 0.0
    across_deg: float = 0.0
    tilt_deg: float = 0.0

    def goniometer(self, instrument: FourCircle) -> Goniometer:
        """The sample's axes with the tilt."""
        return instrument.goniometer.turned(
            [np.eye(3), np.eye(3), axis_rotation(UP, np.deg2rad(self.tilt_deg))]
        )

    def on_holder(self, angles_deg: FloatArray, q: FloatArray, instrument: FourCircle) -> FloatArray:
        """Direction (3,) of the holder that points along ``q`` (3,) in the laboratory at these true angles (3,)."""
        named = dict(zip(AXES[:3], angles_deg, strict=True))
        return np.asarray(self.goniometer(instrument).matrix(named).T @ q)


@dataclass(frozen=True, eq=False)
class RefinedUb:
    """UB with the circles' zeros.

    Attributes
    ----------
    result
        As `ub_from_reflections` gives it, from angles with the zeros taken off.
    zeros
        The zeros.
    reflections
        What was used.
    """

    result: UbResult
    zeros: Zeros
    reflections: tuple[Reflection, ...]

    def motor_angles(self, hkl: ArrayLike, instrument: FourCircle) -> FloatArray:
        """Readings (4,) in degrees for a reflection in the bisecting position; NaN beyond the arm's reach."""
        q = self.result.orientation.ub @ np.asarray(hkl, dtype=float)
        length = float(np.linalg.norm(q))
        tth = float(instrument.tth_deg(length))
        angles = instrument.bisecting(q / length, tth)
        if not np.isfinite(tth):
            return angles
        # Where the axis is tilted, omega and chi make up for it: they move Q along and across the scattering plane.
        goniometer, wanted = self.zeros.goniometer(instrument), instrument.q_direction(tth)
        upright = np.cross(wanted, [1.0, 0.0, 0.0])
        for _ in range(3):
            named = dict(zip(AXES[:3], angles[:3], strict=True))
            there = goniometer.matrix(named) @ q / length
            angles[0] -= np.rad2deg(there @ upright)
            angles[1] += np.rad2deg(there[0])
        return np.asarray(angles - np.array([self.zeros.omega_deg, self.zeros.chi_deg, 0.0, 0.0]))

    def off_deg(self, peak: Centred, instrument: FourCircle) -> float:
        """How far an indexed peak's direction is from where this UB expects it, degrees; infinite beyond the arm's reach."""
        if peak.hkl is None:
            raise ReflectionError("The peak has no indices; assign them first.")
        q = self.result.orientation.ub @ np.array(peak.hkl, dtype=float)
        length = float(np.linalg.norm(q))
        tth = float(instrument.tth_deg(length))
        if not np.isfinite(tth):
            return float("inf")
        angles, ray = _corrected(peak, tth, self.zeros)
        found = self.zeros.on_holder(angles, ray, instrument)
        return float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(found, q)), found @ q)))


def refine_ub(peaks: Sequence[Centred], crystal: Crystal, instrument: FourCircle) -> RefinedUb:
    """U by least squares from indexed peaks, and the zeros if there are enough of them.

    Scattering angles are those of the cell, so that the arm's zero does not mix with omega's; the lengths of the reflections
    keep what was measured.

    Raises
    ------
    ReflectionError
        If a peak has no indices, there are too few, or they do not fit one crystal.
    """
    if any(peak.hkl is None for peak in peaks):
        raise ReflectionError("A peak has no indices; assign them first.")
    zeros = Zeros()
    first = _reflections(peaks, crystal, instrument, zeros)
    result = ub_from_reflections(first, crystal, instrument.goniometer)
    if len(peaks) >= ENOUGH:
        zeros = _fit_zeros(peaks, crystal, instrument, result.orientation.u)
        first = _reflections(peaks, crystal, instrument, zeros)
        result = ub_from_reflections(first, crystal, zeros.goniometer(instrument))
    return RefinedUb(result, zeros, tuple(first))


def without_outliers(
    peaks: Sequence[Centred], crystal: Crystal, instrument: FourCircle, limit_deg: float = 0.08
) -> tuple[RefinedUb, tuple[Centred, ...]]:
    """`refine_ub`, leaving out, one by one, peaks more than ``limit_deg`` off, while five are left; what was kept."""
    kept = list(peaks)
    refined = refine_ub(kept, crystal, instrument)
    while len(kept) > ENOUGH + 1 and refined.result.residual_deg.max() > limit_deg:
        kept.pop(int(np.argmax(refined.result.residual_deg)))
        refined = refine_ub(kept, crystal, instrument)
    return refined, tuple(kept)


def _corrected(peak: Centred, tth_deg: float, zeros: Zeros) -> tuple[FloatArray, FloatArray]:
    """Angles (3,) of the sample's axes and direction (3,) of Q in the laboratory, both freed of zeros."""
    shift = np.deg2rad(zeros.across_deg) / (2.0 * np.sin(np.deg2rad(tth_deg) / 2.0))
    q = peak.q_lab(tth_deg) - shift * np.array([1.0, 0.0, 0.0])
    angles = peak.angles_deg[:3] + np.array([zeros.omega_deg, zeros.chi_deg, 0.0])
    return angles, q / np.linalg.norm(q)


def _reflections(
    peaks: Sequence[Centred], crystal: Crystal, instrument: FourCircle, zeros: Zeros
) -> list[Reflection]:
    made = []
    for peak in peaks:
        h, k, ell = peak.hkl or (0, 0, 0)
        tth = float(instrument.tth_deg(crystal.q_length((h, k, ell))))
        angles, q = _corrected(peak, tth, zeros)
        axes = {name: float(a) for name, a in zip(AXES[:3], angles, strict=True)}
        length = float(instrument.q_length(peak.tth_deg))
        sigma = float(np.hypot(peak.sigma_deg, FLOOR_DEG))
        made.append(Reflection((h, k, ell), axes, q, length, sigma))
    return made


def _fit_zeros(peaks: Sequence[Centred], crystal: Crystal, instrument: FourCircle, u: FloatArray) -> Zeros:
    hkl = np.array([peak.hkl for peak in peaks], dtype=float)
    lattice = hkl @ crystal.b.T
    lattice /= np.linalg.norm(lattice, axis=1, keepdims=True)
    tth = instrument.tth_deg(crystal.q_length(hkl))
    # Spheres of confusion and tilts that are not fitted: no peak is trusted beyond a few thousandths of a degree.
    sigma = np.deg2rad([np.hypot(peak.sigma_deg, 0.006) for peak in peaks])

    def misses(x: FloatArray) -> FloatArray:
        zeros = Zeros(*(np.rad2deg(x[3:])))
        turned = rotation_matrix(x[:3]) @ u
        parts = [x[3:] / np.deg2rad(PRIOR_DEG)]
        for peak, ideal, angle, s in zip(peaks, lattice, tth, sigma, strict=True):
            angles, q = _corrected(peak, float(angle), zeros)
            parts.append((zeros.on_holder(angles, q, instrument) - turned @ ideal) / s)
        return np.concatenate(parts)

    start = np.zeros(3 + len(PRIOR_DEG))
    fit = scipy.optimize.least_squares(misses, start, x_scale=1e-3, loss="soft_l1", f_scale=3.0)
    return Zeros(*(float(v) for v in np.rad2deg(fit.x[3:])))


def information(angles_deg: FloatArray, instrument: FourCircle) -> FloatArray:
    """What a reflection in a bisecting position (4,) tells of U's rotation vector and `Zeros`: a matrix (7, 7)."""
    none = np.zeros(len(PRIOR_DEG))
    peak = Centred(angles_deg, 0.0, float(angles_deg[3]), 0.01, 1.0)
    v = peak.direction(instrument)
    columns = [np.cross(axis, v) for axis in np.eye(3)]
    for i in range(len(none)):
        step = none.copy()
        step[i] = 1e-3
        angles, q = _corrected(peak, peak.tth_deg, Zeros(*step))
        # A zero turns the measured direction; a rotation of U turns the calculated one.
        columns.append((v - Zeros(*step).on_holder(angles, q, instrument)) / np.deg2rad(1e-3))
    jacobian = np.stack(columns, axis=1)
    return np.asarray(jacobian.T @ jacobian / np.deg2rad(0.01) ** 2)


def nothing_known() -> FloatArray:
    """The information (7, 7) before the first reflection: that zeros are small."""
    return np.diag([1.0, 1.0, 1.0, *(np.deg2rad(PRIOR_DEG) ** -2)])


def indexed(peak: Centred, hkl: ArrayLike) -> Centred:
    """The peak with its indices."""
    h, k, ell = (int(v) for v in np.rint(np.asarray(hkl, dtype=float)))
    return replace(peak, hkl=(h, k, ell))
