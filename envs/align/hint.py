"""How far which axis would have to turn: a quick answer, for observations.

Gauss-Newton from the present position, over the nearest symmetry equivalents, inside the limits. It is not the shortest
move (that is `lauepilot.simulator.reach`), but takes microseconds inside compiled loops, and is the same for the single and
the batched environment.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.target import Target

_ROUNDS = 25


class PackedTarget(NamedTuple):
    """A target for one crystal as numbers.

    Attributes
    ----------
    wanted
        (n, 3, 3) laboratory orientations that fulfil it, one for each symmetry operation (``L S^T``).
    primary
        (n, 3) the primary direction's equivalents in the crystal's frame.
    along
        (3,) where it is wanted in the laboratory.
    free
        Whether the turn about it is free.
    """

    wanted: FloatArray
    primary: FloatArray
    along: FloatArray
    free: bool


class PackedAxes(NamedTuple):
    """Rotation axes as numbers: unit ``directions`` (k, 3), ``low`` and ``high`` limits (k,), degrees."""

    directions: FloatArray
    low: FloatArray
    high: FloatArray


def pack_target(target: Target, crystal: Crystal) -> PackedTarget:
    """A target and a crystal's symmetry as numbers."""
    symmetry = np.asarray(crystal.symmetry, dtype=float)
    wanted = target.laboratory_u(crystal.b) @ np.swapaxes(symmetry, -1, -2)
    primary = symmetry @ target.primary.in_crystal(crystal.b)
    return PackedTarget(
        np.ascontiguousarray(wanted),
        np.ascontiguousarray(primary),
        target.primary.in_laboratory(),
        target.secondary is None,
    )


def pack_axes(goniometer: Goniometer) -> PackedAxes:
    """The rotation axes of a goniometer as numbers."""
    directions = np.array([a.direction for a in goniometer.rotations], dtype=float).reshape(-1, 3)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    limits = np.array([a.limits for a in goniometer.rotations], dtype=float).reshape(-1, 2)
    return PackedAxes(directions, np.ascontiguousarray(limits[:, 0]), np.ascontiguousarray(limits[:, 1]))


@njit(cache=True)
def turn_matrix(axis: FloatArray, angle: float, out: FloatArray) -> None:
    """Rotation (3, 3) about a unit axis (Rodrigues), into ``out``."""
    c, s = math.cos(angle), math.sin(angle)
    x, y, z = axis[0], axis[1], axis[2]
    d = 1.0 - c
    out[0, 0], out[0, 1], out[0, 2] = c + x * x * d, x * y * d - z * s, x * z * d + y * s
    out[1, 0], out[1, 1], out[1, 2] = y * x * d + z * s, c + y * y * d, y * z * d - x * s
    out[2, 0], out[2, 1], out[2, 2] = z * x * d - y * s, z * y * d + x * s, c + z * z * d


@njit(cache=True)
def times(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """Product of 3 x 3 matrices into ``out``, which is neither of them."""
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]


@njit(cache=True)
def chain(directions: FloatArray, degrees: FloatArray, z: FloatArray, columns: FloatArray) -> None:
    """``Z`` (3, 3) of a chain, outermost first, and its Jacobian's ``columns`` (3, k) per radian."""
    turn, product = np.empty((3, 3)), np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            z[i, j] = 1.0 if i == j else 0.0
    for a in range(directions.shape[0]):
        for i in range(3):
            columns[i, a] = (
                z[i, 0] * directions[a, 0] + z[i, 1] * directions[a, 1] + z[i, 2] * directions[a, 2]
            )
        turn_matrix(directions[a], math.radians(degrees[a]), turn)
        times(z, turn, product)
        z[:] = product


@njit(cache=True)
def rotation_vector_of(m: FloatArray, out: FloatArray) -> float:
    """Rotation vector (3,) of a rotation matrix into ``out``; returns its angle."""
    x, y, z = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    sine = 0.5 * math.sqrt(x * x + y * y + z * z)
    angle = math.atan2(sine, 0.5 * (m[0, 0] + m[1, 1] + m[2, 2] - 1.0))
    scale = 0.5
    if sine > 1e-7:
        scale = 0.5 * angle / sine
    elif angle > 1.0:  # half a turn: any axis will do for a step of Gauss and Newton
        out[0], out[1], out[2] = math.pi, 0.0, 0.0
        return angle
    out[0], out[1], out[2] = scale * x, scale * y, scale * z
    return angle


@njit(cache=True)
def miss(u: FloatArray, target: PackedTarget, which: int, out: FloatArray) -> float:
    """Rotation vector (3,) from laboratory orientation ``u`` to equivalent ``which`` of the target; returns its angle."""
    if target.free:
        p = target.primary[which]
        a = target.along
        x = u[0, 0] * p[0] + u[0, 1] * p[1] + u[0, 2] * p[2]
        y = u[1, 0] * p[0] + u[1, 1] * p[1] + u[1, 2] * p[2]
        z = u[2, 0] * p[0] + u[2, 1] * p[1] + u[2, 2] * p[2]
        out[0], out[1], out[2] = y * a[2] - z * a[1], z * a[0] - x * a[2], x * a[1] - y * a[0]
        sine = math.sqrt(out[0] ** 2 + out[1] ** 2 + out[2] ** 2)
        angle = math.atan2(sine, x * a[0] + y * a[1] + z * a[2])
        if sine > 1e-12:
            for i in range(3):
                out[i] *= angle / sine
        return angle
    m = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            for k in range(3):
                m[i, j] += target.wanted[which, i, k] * u[j, k]
    return rotation_vector_of(m, out)


@njit(cache=True)
def least_miss(u: FloatArray, target: PackedTarget, out: FloatArray) -> tuple[float, int]:
    """Least angle (radians) to the target over its equivalents, and which; its rotation vector goes into ``out``."""
    best, which = 1e9, 0
    for n in range(target.primary.shape[0]):
        angle = miss(u, target, n, out)
        if angle < best - 1e-12:
            best, which = angle, n
    miss(u, target, which, out)
    return best, which


@njit(cache=True)
def _descend(
    axes: PackedAxes, u_holder: FloatArray, target: PackedTarget, which: int, at: FloatArray
) -> float:
    """Move ``at`` (k,) degrees towards one equivalent; returns the angle that is left."""
    k = at.size
    z, u, columns = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, k))
    r, step, trial = np.empty(3), np.empty(k), np.empty(k)
    damping = 1e-4
    chain(axes.directions, at, z, columns)
    times(z, u_holder, u)
    left = miss(u, target, which, r)
    for _ in range(_ROUNDS):
        if left < 1e-7:
            break
        if target.free:  # turns about the wanted direction do not matter
            for a in range(k):
                dot = (
                    columns[0, a] * target.along[0]
                    + columns[1, a] * target.along[1]
                    + columns[2, a] * target.along[2]
                )
                for i in range(3):
                    columns[i, a] -= dot * target.along[i]
        normal = np.empty((k, k))
        for a in range(k):
            step[a] = columns[0, a] * r[0] + columns[1, a] * r[1] + columns[2, a] * r[2]
            for b in range(k):
                normal[a, b] = (
                    columns[0, a] * columns[0, b]
                    + columns[1, a] * columns[1, b]
                    + columns[2, a] * columns[2, b]
                )
            normal[a, a] += damping
        step[:] = np.linalg.solve(normal, step)
        for a in range(k):
            change = min(max(math.degrees(step[a]), -60.0), 60.0)
            trial[a] = min(max(at[a] + change, axes.low[a]), axes.high[a])
        chain(axes.directions, trial, z, columns)
        times(z, u_holder, u)
        now = miss(u, target, which, r)
        if now < left:
            at[:] = trial
            left = now
            damping = max(damping * 0.2, 1e-9)
        else:
            damping = max(damping * 20.0, 1e-3)
            if damping > 100.0:
                break
            chain(axes.directions, at, z, columns)
            times(z, u_holder, u)
            left = miss(u, target, which, r)
    return left


@njit(cache=True)
def changes_to_target(
    axes: PackedAxes, u_holder: FloatArray, target: PackedTarget, degrees: FloatArray, out: FloatArray
) -> float:
    """Changes ``out`` (k,) in degrees that bring a crystal ``u_holder`` (3, 3) to the target from ``degrees`` (k,).

    Returns the angle (radians) that is left: above 1e-4 where the target was not reached from here.
    """
    k = degrees.size
    z, u, columns, r = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, k)), np.empty(3)
    chain(axes.directions, degrees, z, columns)
    times(z, u_holder, u)
    n = target.primary.shape[0]
    angles = np.empty(n)
    for i in range(n):
        angles[i] = miss(u, target, i, r)
    best = 1e9
    at = np.empty(k)
    for _ in range(min(n, 6)):
        which = int(np.argmin(angles))
        angles[which] = 1e9
        at[:] = degrees
        left = _descend(axes, u_holder, target, which, at)
        if left < best:
            best = left
            for a in range(k):
                out[a] = at[a] - degrees[a]
        if best < 1e-5:
            break
    return best


def suggested_changes(
    axes: PackedAxes, u_holder: ArrayLike, target: PackedTarget, degrees: ArrayLike
) -> tuple[FloatArray, float]:
    """`changes_to_target` for ordinary code: changes (k,) in degrees and the angle left, radians."""
    at = np.ascontiguousarray(degrees, dtype=float)
    out = np.zeros(len(at))
    left = changes_to_target(axes, np.ascontiguousarray(u_holder, dtype=float), target, at, out)
    return out, float(left)
