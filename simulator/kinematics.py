"""Inverse kinematics of rotation axes: from a wanted rotation to motor angles, in closed form.

A chain ``Z = R_1(t_1) R_2(t_2) R_3(t_3)`` about arbitrary unit axes ``a_1, a_2, a_3`` (Eulerian cradle, kappa, a stage
with two arcs) is solved by one projection and two Paden-Kahan subproblems (Murray, Li & Sastry 1994, *A Mathematical
Introduction to Robotic Manipulation*, section 3.3.2):

1. Rotations 1 and 3 leave their own axes alone, so ``a_1 . R_2(t_2) a_3 = a_1 . Z a_3``: a cosine in ``t_2``, with
   two roots. They are taken from half angles, which keeps all digits where the roots meet.
2. ``t_1`` turns ``R_2 a_3`` onto ``Z a_3``.
3. What is left of ``Z`` is a rotation about ``a_3``.

Where ``R_2 a_3`` comes to lie along ``a_1`` (gimbal lock), only a sum or difference of ``t_1`` and ``t_3`` is fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import FloatArray, nearest_rotation, rotation_angle
from lauepilot.simulator.goniometer import Axis, Goniometer

#: Sine of the angle between two axes below which they count as parallel (gimbal lock).
PARALLEL = 1e-9
FULL_TURN_DEG = 360.0


@dataclass(frozen=True, eq=False)
class Solutions:
    """Settings of a chain for a batch of wanted rotations, before limits and full turns.

    Attributes
    ----------
    angles
        (n, m, k) radians; NaN where the rotation cannot be reached.
    locked
        (n, m) +1 or -1 where only ``t_first + locked * t_last`` is fixed, else 0.
    """

    angles: FloatArray
    locked: NDArray[np.int_]


def chain_matrices(directions: FloatArray, angles: FloatArray) -> FloatArray:
    """``Z`` (..., 3, 3) of unit axes (k, 3) at angles (..., k) in radians (Rodrigues' formula, axis by axis)."""
    z = np.broadcast_to(np.eye(3), (*angles.shape[:-1], 3, 3))
    for i, axis in enumerate(directions):
        z = z @ about(axis, angles[..., i])
    return np.asarray(z)


def solve_chain(
    directions: FloatArray, z: FloatArray, held: FloatArray, tolerance: float = 1e-9, *, check: bool = True
) -> Solutions:
    """All settings of up to three unit axes (k, 3) for rotations (n, 3, 3), without limits.

    Parameters
    ----------
    directions
        (k, 3) unit vectors, outermost first.
    z
        (n, 3, 3) wanted rotations.
    held
        (k,) radians: where an axis stays that the rotation does not fix (the first axis in gimbal lock, the second
        where it is parallel to a neighbour).
    tolerance
        Radians by which a setting may miss; chains of fewer than three axes reach few rotations exactly.
    check
        Whether each setting of three axes is multiplied out and compared; a scan of thousands does without.

    Raises
    ------
    ValueError
        If there are more than three axes.
    """
    k, n = len(directions), len(z)
    if k > 3:
        raise ValueError(
            f"A closed form exists for up to three rotation axes; this goniometer has {k}. "
            "Give a goniometer with the axes that should move, and hold the others."
        )
    if k == 3:
        angles, locked = _three(directions, z, held)
    elif k == 2:
        angles, locked = _two(directions, z, held)
    elif k == 1:
        angles, locked = angle_about(directions[0], z)[:, None, None], np.zeros((n, 1), dtype=int)
    else:
        angles, locked = np.zeros((n, 1, 0)), np.zeros((n, 1), dtype=int)
    if check or k < 3:
        missed = rotation_angle(chain_matrices(directions, angles) @ np.swapaxes(z, -1, -2)[:, None])
        angles = np.where((missed <= tolerance)[..., None], angles, np.nan)
    return Solutions(angles, locked)


def solve_axes(
    goniometer: Goniometer,
    z: ArrayLike,
    *,
    held: Mapping[str, float] | None = None,
    tolerance_deg: float = 1e-6,
) -> list[dict[str, float]]:
    """All positions (degrees) of a goniometer's rotation axes that give the rotation ``Z`` (3, 3), within the limits.

    Every image by full turns that lies inside the limits is listed. In gimbal lock, where a whole line of settings
    gives ``Z``, members of the line are listed: one axis as in ``held``, the motion shared, or an axis at a limit.

    Parameters
    ----------
    goniometer
        The chain; its translations are ignored.
    z
        Wanted rotation (3, 3).
    held
        Positions (degrees) from which in gimbal lock as little as possible is moved; axes not named: 0.
    tolerance_deg
        How far ``Z`` may be missed, for chains of fewer than three axes.

    Returns
    -------
    Possible settings, none if ``Z`` is out of reach.

    Raises
    ------
    ValueError
        If ``z`` is not a rotation, or there are more than three rotation axes.
    """
    wanted = checked_rotation(z, "Z")
    axes = goniometer.rotations
    start = np.deg2rad([(held or {}).get(axis.name, 0.0) for axis in axes])
    solutions = solve_chain(unit_directions(axes), wanted[None], start, float(np.deg2rad(tolerance_deg)))
    settings: list[dict[str, float]] = []
    for angles in expand_locked(axes, solutions, start)[1]:
        images = [_images(axis, float(np.rad2deg(angle))) for axis, angle in zip(axes, angles, strict=True)]
        grid = np.stack(np.meshgrid(*images, indexing="ij"), axis=-1).reshape(-1, len(axes)) if axes else [()]
        for row in grid:
            setting = {axis.name: float(value) for axis, value in zip(axes, row, strict=True)}
            if not any(all(abs(s[name] - setting[name]) < 1e-7 for name in setting) for s in settings):
                settings.append(setting)
    return settings


def expand_locked(
    axes: tuple[Axis, ...], solutions: Solutions, held: FloatArray
) -> tuple[NDArray[np.intp], FloatArray]:
    """Valid solutions as rows: their index in the batch (r,), and angles (r, k) in radians.

    Of each gimbal-locked line the members are added that can be the shortest move from ``held`` (k,) radians.
    """
    valid = np.all(np.isfinite(solutions.angles), axis=-1)
    index, rows, lock = np.nonzero(valid)[0], solutions.angles[valid], solutions.locked[valid]
    where = np.nonzero(lock)[0]
    if len(where) == 0:
        return index, rows
    members = _lock_members(axes, rows[where], lock[where], held)
    return (
        np.concatenate([index, np.repeat(index[where], members.shape[1])]),
        np.concatenate([rows, members.reshape(-1, len(axes))]),
    )


def unit_directions(axes: tuple[Axis, ...]) -> FloatArray:
    """Directions (k, 3) of axes, of unit length."""
    directions = np.array([axis.direction for axis in axes], dtype=float).reshape(-1, 3)
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))


def checked_rotation(matrix: ArrayLike, name: str) -> FloatArray:
    """The matrix (3, 3) made exactly orthogonal.

    Raises
    ------
    ValueError
        If it is not a rotation to 1e-4.
    """
    array = np.asarray(matrix, dtype=float)
    if array.shape != (3, 3) or not np.all(np.isfinite(array)):
        raise ValueError(
            f"{name} must be a rotation matrix of shape (3, 3) without NaN; shape {array.shape} came."
        )
    if not np.allclose(array @ array.T, np.eye(3), atol=1e-4) or np.linalg.det(array) < 0:
        raise ValueError(
            f"{name} is not a proper rotation: R R^T must be 1 and det +1, it is {np.linalg.det(array):g}. "
            "Give U, not UB."
        )
    return nearest_rotation(array)


def _three(a: FloatArray, z: FloatArray, held: FloatArray) -> tuple[FloatArray, NDArray[np.int_]]:
    alpha, gamma = _between(a[0], a[1]), _between(a[1], a[2])
    rho = float(np.sin(alpha) * np.sin(gamma))
    if rho < PARALLEL:  # two neighbours are one axis: the second stays, and commutes with that neighbour
        fixed = about(a[1], held[1])
        reduced = fixed.T @ z if np.sin(alpha) < PARALLEL else z @ fixed.T
        outer, locked = _two(a[[0, 2]], reduced, held[[0, 2]])
        return np.insert(outer, 1, held[1], axis=-1), locked
    target = z @ a[2]  # (n, 3)
    beta = _between(a[0], target)
    # cos(beta) = cos(alpha) cos(gamma) + rho cos(t), written in half angles
    sine2 = np.sin((beta - alpha + gamma) / 2) * np.sin((beta + alpha - gamma) / 2) / rho
    cosine2 = np.sin((alpha + gamma - beta) / 2) * np.sin((alpha + gamma + beta) / 2) / rho
    half = 2.0 * np.arctan2(np.sqrt(np.maximum(sine2, 0.0)), np.sqrt(np.maximum(cosine2, 0.0)))
    phase = np.arctan2(a[0] @ np.cross(a[1], a[2]), a[0] @ a[2] - (a[0] @ a[1]) * (a[1] @ a[2]))
    half = np.where(np.minimum(sine2, cosine2) < -1e-9, np.nan, half)
    t2 = phase + np.stack([half, -half], axis=1)  # (n, 2)
    t1, sign = _turn_onto(a[0], _turned(a[1], t2, a[2]), target[:, None], float(held[0]))
    # what is left is a rotation about a_3; it is seen on a vector across it
    side = np.cross(a[2], np.eye(3)[int(np.argmin(np.abs(a[2])))])
    rest = _turned(a[1], -t2, _turned(a[0], -t1, (z @ side)[:, None]))
    t3 = np.arctan2(rest @ np.cross(a[2], side), rest @ side)
    return np.stack([t1, t2, t3], axis=-1), sign


def _two(a: FloatArray, z: FloatArray, held: FloatArray) -> tuple[FloatArray, NDArray[np.int_]]:
    t1, sign = _turn_onto(a[0], np.broadcast_to(a[1], (len(z), 3)), z @ a[1], float(held[0]))
    t2 = angle_about(a[1], np.swapaxes(about(a[0], t1), -1, -2) @ z)
    return np.stack([t1, t2], axis=-1)[:, None], sign[:, None]


def _turn_onto(
    axis: FloatArray, v: FloatArray, w: FloatArray, held: float
) -> tuple[FloatArray, NDArray[np.int_]]:
    """Angle about ``axis`` that turns ``v`` onto ``w`` (Paden-Kahan 1), and lock signs.

    Where the vectors lie along the axis, the angle is ``held``, and the sign +1 or -1 (parallel or opposite), else 0.
    """
    cross, along = v @ _cross_matrix(axis).T, v @ axis
    angle = np.arctan2(np.sum(cross * w, axis=-1), np.sum(v * w, axis=-1) - along * (w @ axis))
    locked = np.sum(cross * cross, axis=-1) < PARALLEL**2
    return np.where(locked, held, angle), np.where(locked, np.where(along > 0, 1, -1), 0)


def angle_about(axis: FloatArray, matrix: FloatArray) -> FloatArray:
    """Angle (...) of the rotation about ``axis`` that is nearest to matrices (..., 3, 3) in the Frobenius norm."""
    odd = np.stack(
        [
            matrix[..., 2, 1] - matrix[..., 1, 2],
            matrix[..., 0, 2] - matrix[..., 2, 0],
            matrix[..., 1, 0] - matrix[..., 0, 1],
        ],
        axis=-1,
    )
    return np.asarray(np.arctan2(odd @ axis, np.trace(matrix, axis1=-2, axis2=-1) - (matrix @ axis) @ axis))


def about(axis: FloatArray, angle: FloatArray | float) -> FloatArray:
    """Rotations (..., 3, 3) about one unit axis by angles (...)."""
    k = _cross_matrix(axis)
    t = np.asarray(angle, dtype=float)[..., None, None]
    return np.asarray(np.eye(3) + np.sin(t) * k + 2.0 * np.sin(t / 2) ** 2 * (k @ k))


def _turned(axis: FloatArray, angle: FloatArray, v: FloatArray) -> FloatArray:
    """Vectors (..., 3) turned about one unit axis by angles (...) (Rodrigues' formula)."""
    along = (v @ axis)[..., None] * axis
    c, s = np.cos(angle)[..., None], np.sin(angle)[..., None]
    return np.asarray(along + c * (v - along) + s * (v @ _cross_matrix(axis).T))


def _cross_matrix(axis: FloatArray) -> FloatArray:
    x, y, z = axis
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def _between(a: FloatArray, b: FloatArray) -> FloatArray:
    """Angle (...) between unit vectors, accurate near 0 and pi."""
    return np.asarray(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), b @ a))


def _images(axis: Axis, angle_deg: float) -> list[float]:
    """The angle plus whole turns, where inside the limits."""
    low, high = axis.limits
    first = int(np.ceil((low - angle_deg - 1e-9) / FULL_TURN_DEG))
    last = int(np.floor((high - angle_deg + 1e-9) / FULL_TURN_DEG))
    return [float(np.clip(angle_deg + FULL_TURN_DEG * i, low, high)) for i in range(first, last + 1)]


def _lock_members(
    axes: tuple[Axis, ...], angles: FloatArray, sign: NDArray[np.int_], held: FloatArray
) -> FloatArray:
    """Members (r, m, k) of lines ``t_first + sign t_last = const``.

    The motion from ``held`` shared by speed, one axis held, or one at a limit.
    """
    first, last = axes[0], axes[-1]
    s = sign[:, None]
    total = angles[:, :1] + s * angles[:, -1:]
    turns = 2.0 * np.pi * np.arange(-1, 2)
    rest = (total - held[0] - s * held[-1] + np.pi) % (2.0 * np.pi) - np.pi + turns
    share = 1.0 if np.isinf(first.speed) else first.speed / (first.speed + last.speed)
    starts = [held[0] + rest * share, held[0] + rest, np.full_like(total, held[0])]
    starts += [np.full_like(total, limit) for limit in np.deg2rad(first.limits) if np.isfinite(limit)]
    starts += [total + turns - s * limit for limit in np.deg2rad(last.limits) if np.isfinite(limit)]
    t1 = np.concatenate(starts, axis=1)
    members = np.repeat(angles[:, None], t1.shape[1], axis=1)
    members[..., 0] = t1
    members[..., -1] = s * (total - t1)
    return members
