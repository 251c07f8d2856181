"""UB from reflections measured with motor angles, on monochromatic instruments.

Two reflections give ``U`` after Busing & Levy (1967), Acta Cryst. 22, 457, eqs. 23-27: the first exactly, the second as
near as the first allows. More reflections give it by least squares on directions (Wahba's problem, solved by SVD: Markley
1988, J. Astronaut. Sci. 36, 245), with covariance; and the cell on request, by least squares on directions and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy.optimize
import scipy.stats

from lauepilot.perception.reflections.measured import Reflection, ReflectionError
from lauepilot.simulator.conventions import FloatArray, rotation_matrix, rotation_vector
from lauepilot.simulator.crystal import Crystal, busing_levy_b
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.orientation import Orientation

#: Smallest angle between the reflections that fix the turn about each other, degrees.
PARALLEL_DEG = 1.0

#: Standard deviations (relative, degrees) above which a cell parameter counts as not determined.
LOOSE_LENGTH, LOOSE_ANGLE_DEG = 0.05, 3.0

_WIDEN = 0.01  # residuals that chance makes as large less often than this widen the covariance
_NAMES = ("a", "b", "c", "alpha", "beta", "gamma")


@dataclass(frozen=True, eq=False)
class UbResult:
    """What reflections tell.

    Attributes
    ----------
    orientation
        ``U`` on the sample holder, ``B`` of the refined (or given) cell, covariance of the rotation vector.
    cell, cell_sigma
        (6,) angstrom and degrees; standard deviations are 0 where the cell was held. The wavelength counts as exact:
        its relative error is that of the lengths.
    residual_deg
        (n,) angle between each measured and calculated Q.
    length_ratio
        (n,) measured over calculated length of Q; NaN where the wavelength is not known.
    reduced_chi2
        Of the fit, with the standard deviations of the reflections; NaN without redundancy. Where it is too large for
        chance, the covariances hold this factor.
    """

    orientation: Orientation
    cell: FloatArray
    cell_sigma: FloatArray
    residual_deg: FloatArray
    length_ratio: FloatArray
    reduced_chi2: float


def ub_from_two(
    first: Reflection,
    second: Reflection,
    b: FloatArray,
    goniometer: Goniometer,
    *,
    tolerance_deg: float = 1.0,
) -> Orientation:
    """``U`` on the sample holder from two reflections (Busing & Levy 1967, eqs. 23-27).

    Parameters
    ----------
    first
        Its Q is met exactly.
    second
        Fixes the turn about it.
    b
        ``B`` (3, 3) with 2 pi.
    goniometer
        Whose axes the reflections name.
    tolerance_deg
        By how much the angle between the two may differ from that of the cell.

    Raises
    ------
    ReflectionError
        If they are parallel, or the angle between them is not that of the cell.
    """
    pair = (first, second)
    measured = _on_holder(pair, goniometer)
    lattice = _lattice(pair, b)
    _check_spread(pair, measured, lattice)
    wanted, got = (_angle_deg(v[0], v[1]) for v in (lattice, measured))
    if abs(wanted - got) > tolerance_deg:
        raise ReflectionError(
            f"{_odd_angle(pair, wanted, got)} (more than {tolerance_deg:g} deg). Check indices, cell and motor signs."
        )
    u = _from_two(measured, lattice)
    steps = []
    for i, reflection in enumerate(pair):  # how U follows each angle that was measured
        for across in _across(measured[i]):
            moved = measured.copy()
            moved[i] += 1e-6 * across
            steps.append(
                rotation_vector(_from_two(moved, lattice) @ u.T) * (np.deg2rad(reflection.sigma_deg) / 1e-6)
            )
    jacobian = np.array(steps)
    return Orientation(u, np.asarray(b, dtype=float), np.asarray(jacobian.T @ jacobian))


def ub_from_reflections(
    reflections: Sequence[Reflection],
    crystal: Crystal,
    goniometer: Goniometer,
    *,
    cell: Literal["fixed", "system", "free"] = "fixed",
    tolerance_deg: float = 1.0,
) -> UbResult:
    """``U`` on the sample holder by least squares, and the cell on request; of two reflections as by `ub_from_two`.

    Parameters
    ----------
    reflections
        Two or more.
    crystal
        Its cell (the start of a refinement) and crystal system.
    goniometer
        Whose axes the reflections name.
    cell
        ``fixed``; ``system`` refines what the crystal system leaves free; ``free`` all six. Sizes need wavelengths.
    tolerance_deg
        How far a measured direction may be from the calculated one.

    Raises
    ------
    ReflectionError
        If there are too few, they are parallel, do not fit one crystal, or do not determine the cell; with the numbers.
    """
    if len(reflections) < 2:
        raise ReflectionError(f"UB needs two reflections or more; {len(reflections)} came.")
    measured, lattice = _on_holder(reflections, goniometer), _lattice(reflections, crystal.b)
    sigma = np.deg2rad([r.sigma_deg for r in reflections])
    if len(reflections) == 2 and cell == "fixed":
        first, second = reflections
        orientation = ub_from_two(first, second, crystal.b, goniometer, tolerance_deg=tolerance_deg)
        wanted, got = (np.deg2rad(_angle_deg(v[0], v[1])) for v in (lattice, measured))
        chi2 = float((wanted - got) ** 2 / np.sum(sigma**2))
        orientation = replace(orientation, covariance=orientation.covariance * _widened(chi2, 1))
        return _result(reflections, measured, orientation, np.array(crystal.cell), np.zeros(6), chi2, 1)
    _check_spread(reflections, measured, lattice)
    u = _wahba(measured, lattice, sigma)
    _check_hand(measured, lattice, sigma, u, tolerance_deg)
    if cell == "fixed":
        _check_fit(reflections, measured, lattice, sigma, u, tolerance_deg)
        off = _angles(measured, lattice @ u.T)
        chi2, degrees = float(np.sum((off / sigma) ** 2)), 2 * len(off) - 3
        information = np.einsum(
            "n,nij->ij", sigma**-2, np.eye(3) - measured[:, :, None] * measured[:, None, :]
        )
        covariance = np.linalg.inv(information) * _widened(chi2, degrees)
        orientation = Orientation(u, crystal.b, covariance)
        return _result(reflections, measured, orientation, np.array(crystal.cell), np.zeros(6), chi2, degrees)
    return _refine_cell(reflections, measured, sigma, u, crystal, cell, tolerance_deg)


# ------------------------------------------------------------------------------------------------ orientation only


def _on_holder(reflections: Sequence[Reflection], goniometer: Goniometer) -> FloatArray:
    for reflection in reflections:
        for name in reflection.axes:
            goniometer.axis(name)
    return np.stack([r.on_holder(goniometer.matrix(r.axes)) for r in reflections])


def _lattice(reflections: Sequence[Reflection], b: FloatArray) -> FloatArray:
    vectors = np.array([r.hkl for r in reflections], dtype=float) @ np.asarray(b, dtype=float).T
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _from_two(measured: FloatArray, lattice: FloatArray) -> FloatArray:
    triads = []
    for one, two in (measured, lattice):
        normal = np.cross(one, two)
        triads.append([one, np.cross(normal, one), normal])
    holder, crystal = (np.array([v / np.linalg.norm(v) for v in triad]).T for triad in triads)
    return np.asarray(holder @ crystal.T)


def _wahba(measured: FloatArray, lattice: FloatArray, sigma: FloatArray, *, hand: float = 1.0) -> FloatArray:
    profile = (measured / sigma[:, None] ** 2).T @ lattice
    left, _, right = np.linalg.svd(profile)
    sign = hand * np.sign(np.linalg.det(left @ right))
    return np.asarray(left @ np.diag([1.0, 1.0, sign]) @ right)


def _check_spread(reflections: Sequence[Reflection], measured: FloatArray, lattice: FloatArray) -> None:
    """Refuse reflections that all lie along one line: they leave the turn about it open."""
    for vectors, told in ((lattice, "of the lattice"), (measured, "as measured")):
        spread = np.linalg.svd(vectors, compute_uv=False)[1] / np.sqrt(len(vectors) / 2.0)
        if spread < np.sin(np.deg2rad(PARALLEL_DEG)):
            angles = [min(a, 180.0 - a) for a in (_angle_deg(vectors[0], v) for v in vectors[1:])]
            raise ReflectionError(
                f"Reflections {', '.join(r.name for r in reflections)} are parallel ({told}: within {max(angles):.4f} "
                "deg), and do not fix the turn about themselves. Measure one at a larger angle, best near 90 deg."
            )


def _check_hand(
    measured: FloatArray, lattice: FloatArray, sigma: FloatArray, u: FloatArray, tolerance_deg: float
) -> None:
    """Refuse indices of the other hand: three or more reflections that fit a mirror image, and no rotation."""
    mirrored = _wahba(measured, lattice, sigma, hand=-1.0)
    here, there = (float(np.rad2deg(_angles(measured, lattice @ m.T).max())) for m in (u, mirrored))
    if here > tolerance_deg >= there:
        raise ReflectionError(
            f"No rotation fits these reflections (worst {here:.3f} deg), but a mirror image does ({there:.3f} deg): the "
            "indices, or the sign of a motor, are of the other hand. Change the sign of all indices or of that motor."
        )


def _check_fit(
    reflections: Sequence[Reflection],
    measured: FloatArray,
    lattice: FloatArray,
    sigma: FloatArray,
    u: FloatArray,
    tolerance_deg: float,
) -> None:
    """Refuse reflections that do not fit one crystal; of three or more, say which of them is the odd one."""
    off = np.rad2deg(_angles(measured, lattice @ u.T))
    if (off.sum() if len(off) == 2 else off.max()) <= tolerance_deg:
        return
    if len(off) == 2:
        wanted, got = (_angle_deg(v[0], v[1]) for v in (lattice, measured))
        raise ReflectionError(f"{_odd_angle(reflections, wanted, got)}. Check indices, cell and motor signs.")
    rest = []
    for i in range(len(off)):
        keep = np.arange(len(off)) != i
        others = _wahba(measured[keep], lattice[keep], sigma[keep])
        rest.append(float(np.rad2deg(_angles(measured[keep], lattice[keep] @ others.T).max())))
    odd = int(np.argmin(rest))
    listing = "; ".join(f"{r.name}: {a:.3f} deg" for r, a in zip(reflections, off, strict=True))
    raise ReflectionError(
        f"The reflections do not fit one crystal within {tolerance_deg:g} deg ({listing}). Without {reflections[odd].name} "
        f"the others agree to {rest[odd]:.3f} deg. Check its indices and angles, or refine the cell."
    )


# ------------------------------------------------------------------------------------------------ with the cell


def free_parameters(crystal: Crystal, cell: Literal["system", "free"]) -> list[tuple[str, tuple[int, ...]]]:
    """Names of the cell parameters that may move, with the places (of a, b, c, alpha, beta, gamma) that each one fills."""
    every: list[tuple[str, tuple[int, ...]]] = [(name, (i,)) for i, name in enumerate(_NAMES)]
    lengths = every[:3]
    if cell == "free" or crystal.system == "triclinic":
        return every
    if crystal.system == "cubic":
        return [("a", (0, 1, 2))]
    rhombohedral = crystal.system == "trigonal" and abs(crystal.cell[5] - 120.0) > 1e-3
    if rhombohedral:
        return [("a", (0, 1, 2)), ("alpha", (3, 4, 5))]
    if crystal.system in {"tetragonal", "hexagonal", "trigonal"}:
        return [("a", (0, 1)), lengths[2]]
    if crystal.system == "orthorhombic":
        return lengths
    away = [abs(angle - 90.0) for angle in crystal.cell[3:]]
    unique = int(np.argmax(away)) if max(away) > 1e-6 else 1
    return [*lengths, every[3 + unique]]


def _refine_cell(
    reflections: Sequence[Reflection],
    measured: FloatArray,
    sigma: FloatArray,
    u: FloatArray,
    crystal: Crystal,
    cell: Literal["system", "free"],
    tolerance_deg: float,
) -> UbResult:
    free = free_parameters(crystal, cell)
    hkl = np.array([r.hkl for r in reflections], dtype=float)
    lengths = np.array([r.length for r in reflections])
    told = np.isfinite(lengths)
    names = ", ".join(name for name, _ in free)
    if not told.any():
        raise ReflectionError(f"The cell ({names}) needs lengths of Q: give energy_kev or wavelength_a.")
    sine = np.clip([r.sin_theta for r in reflections], 1e-6, 1.0)
    # Of ln |Q| = ln(sin theta) + const; at theta = 90 deg the second order is what is left.
    radial = np.hypot(np.sqrt(1.0 - sine**2) / sine * sigma / 2.0, sigma**2)
    across = np.stack([_across(m) for m in measured])
    start = np.array(crystal.cell, dtype=float)

    def cell_at(x: FloatArray) -> FloatArray:
        six = start.copy()
        for value, (_, places) in zip(x, free, strict=True):
            for place in places:
                six[place] = start[place] * np.exp(value) if place < 3 else start[place] + np.rad2deg(value)
        return six

    def misses(x: FloatArray) -> FloatArray:
        six = cell_at(x[3:])
        if not _possible(six):
            return np.full(2 * len(hkl) + int(told.sum()), 1e6)
        q = hkl @ (rotation_matrix(x[:3]) @ u @ busing_levy_b([float(v) for v in six])).T
        size = np.linalg.norm(q, axis=1)
        sideways = np.einsum("nij,nj->ni", across, q / size[:, None]) / sigma[:, None]
        along = np.log(size[told] / lengths[told]) / radial[told]
        return np.concatenate([sideways.ravel(), along])

    n = 3 + len(free)
    count = 2 * len(hkl) + int(told.sum())
    if count < n:
        raise ReflectionError(
            f"{len(hkl)} reflections give {count} numbers; U and the cell ({names}) need {n}. Measure more, or hold it."
        )
    fit = scipy.optimize.least_squares(
        misses, np.zeros(n), jac="3-point", x_scale=1e-2, xtol=1e-14, ftol=1e-14, gtol=1e-14
    )
    jacobian = np.asarray(fit.jac)
    values, rows = np.linalg.svd(jacobian, full_matrices=False)[1:]
    covariance = (rows.T / np.maximum(values, 1e-12 * values[0]) ** 2) @ rows
    spread = np.sqrt(np.diag(covariance)[3:])
    loose = [
        f"{name} (+- {s:.2g}{' relative' if places[0] < 3 else ' rad'})"
        for s, (name, places) in zip(spread, free, strict=True)
        if s > (LOOSE_LENGTH if places[0] < 3 else np.deg2rad(LOOSE_ANGLE_DEG))
    ]
    if loose:
        raise ReflectionError(
            f"These {len(hkl)} reflections do not determine {', '.join(loose)}. Add reflections along other axes, or hold "
            "the cell, or refine what its system leaves free only."
        )
    six = cell_at(fit.x[3:])
    b = busing_levy_b([float(v) for v in six])
    turned = rotation_matrix(fit.x[:3]) @ u
    _check_fit(reflections, measured, _lattice(reflections, b), sigma, turned, tolerance_deg)
    chi2, degrees = float(np.sum(fit.fun**2)), count - n
    covariance *= _widened(chi2, degrees)
    cell_sigma = np.zeros(6)
    for value, (_, places) in zip(np.sqrt(np.diag(covariance)[3:]), free, strict=True):
        for place in places:
            cell_sigma[place] = value * six[place] if place < 3 else np.rad2deg(value)
    orientation = Orientation(turned, b, covariance[:3, :3])
    return _result(reflections, measured, orientation, six, cell_sigma, chi2, degrees)


def _odd_angle(pair: Sequence[Reflection], wanted: float, got: float) -> str:
    return (
        f"The angle between {pair[0].name} and {pair[1].name} is {wanted:.3f} deg in this cell, but {got:.3f} deg between "
        f"the measured directions: {got - wanted:+.3f} deg"
    )


def _possible(cell: FloatArray) -> bool:
    angles = np.sort(cell[3:])
    return bool(np.all(cell > 0.0) and angles[2] < angles[0] + angles[1] and angles.sum() < 360.0)


def _widened(chi2: float, degrees: int) -> float:
    return chi2 / degrees if degrees > 0 and scipy.stats.chi2.sf(chi2, degrees) < _WIDEN else 1.0


def _result(
    reflections: Sequence[Reflection],
    measured: FloatArray,
    orientation: Orientation,
    cell: FloatArray,
    cell_sigma: FloatArray,
    chi2: float,
    degrees: int,
) -> UbResult:
    q = np.array([r.hkl for r in reflections], dtype=float) @ orientation.ub.T
    ratio = np.array([r.length for r in reflections]) / np.linalg.norm(q, axis=1)
    off = np.rad2deg(_angles(measured, q))
    return UbResult(
        orientation, cell, cell_sigma, off, ratio, chi2 / degrees if degrees > 0 else float("nan")
    )


def _across(direction: FloatArray) -> FloatArray:
    """Two unit vectors (2, 3) at right angles to a unit vector and each other."""
    first = np.cross(direction, np.eye(3)[int(np.argmin(np.abs(direction)))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(direction, first)])


def _angles(a: FloatArray, b: FloatArray) -> FloatArray:
    """Angles (n,) in radians between vectors (n, 3), accurate for small ones too."""
    return np.asarray(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.sum(a * b, axis=1)))


def _angle_deg(a: FloatArray, b: FloatArray) -> float:
    return float(np.rad2deg(_angles(a[None], b[None])[0]))
