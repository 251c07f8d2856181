"""Compiled kinematics of arms: where links are, all joint settings of a pose, and steps where no closed form exists.

Arms whose last three axes meet in a point, and whose first axis is at right angles to the parallel second and third
(most six-axis arms), are solved in closed form: the wrist's place fixes joints 1 to 3 in up to four ways, the rotation
left over fixes joints 4 to 6 in two ways each (Pieper 1968; Paden-Kahan subproblems as in `lauepilot.simulator.kinematics`).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from lauepilot.simulator.conventions import FloatArray


@njit(cache=True)
def _turn(axis: FloatArray, angle: float, out: FloatArray) -> None:
    """Rotation (3, 3) about a unit axis, into ``out``."""
    c, s = math.cos(angle), math.sin(angle)
    x, y, z = axis[0], axis[1], axis[2]
    t = 1.0 - c
    out[0, 0] = c + x * x * t
    out[0, 1] = x * y * t - z * s
    out[0, 2] = x * z * t + y * s
    out[1, 0] = y * x * t + z * s
    out[1, 1] = c + y * y * t
    out[1, 2] = y * z * t - x * s
    out[2, 0] = z * x * t - y * s
    out[2, 1] = z * y * t + x * s
    out[2, 2] = c + z * z * t


@njit(cache=True)
def link_motions(axes: FloatArray, points: FloatArray, q: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rotations (n + 1, 3, 3) and shifts (n + 1, 3) that take each link from the zero pose to angles (n,) radians."""
    n = len(q)
    rotations, shifts = np.zeros((n + 1, 3, 3)), np.zeros((n + 1, 3))
    rotations[0] = np.eye(3)
    step = np.empty((3, 3))
    for j in range(n):
        _turn(axes[j], q[j], step)
        r = rotations[j]
        # E_j x = step (x - p) + p, carried by all before it.
        for a in range(3):
            shift = shifts[j, a]
            for b in range(3):
                value, left = 0.0, points[j, b]
                for c in range(3):
                    value += r[a, c] * step[c, b]
                    left -= step[b, c] * points[j, c]
                rotations[j + 1, a, b] = value
                shift += r[a, b] * left
            shifts[j + 1, a] = shift
    return rotations, shifts


@njit(cache=True)
def tip_jacobian(axes: FloatArray, points: FloatArray, tip: FloatArray, q: FloatArray) -> FloatArray:
    """(6, n): velocity of the tip (mm) and rotation vector, per radian of each joint."""
    n = len(q)
    rotations, shifts = link_motions(axes, points, q)
    place = rotations[n] @ tip + shifts[n]
    out = np.empty((6, n))
    for j in range(n):
        w = rotations[j] @ axes[j]
        arm = place - (rotations[j] @ points[j] + shifts[j])
        out[0, j] = w[1] * arm[2] - w[2] * arm[1]
        out[1, j] = w[2] * arm[0] - w[0] * arm[2]
        out[2, j] = w[0] * arm[1] - w[1] * arm[0]
        out[3:, j] = w
    return out


@njit(cache=True)
def _pose_error(
    axes: FloatArray, points: FloatArray, tip: FloatArray, q: FloatArray, z: FloatArray, place: FloatArray
) -> FloatArray:
    """(6,): mm and radians from where the tip is to where it is wanted."""
    n = len(q)
    rotations, shifts = link_motions(axes, points, q)
    out = np.empty(6)
    out[:3] = place - (rotations[n] @ tip + shifts[n])
    d = z @ rotations[n].T
    x, y, w = 0.5 * (d[2, 1] - d[1, 2]), 0.5 * (d[0, 2] - d[2, 0]), 0.5 * (d[1, 0] - d[0, 1])
    s, c = math.sqrt(x * x + y * y + w * w), 0.5 * (d[0, 0] + d[1, 1] + d[2, 2] - 1.0)
    angle = math.atan2(s, c)
    if s > 1e-12:
        f = angle / s
        out[3], out[4], out[5] = f * x, f * y, f * w
    elif c > 0.0:
        out[3], out[4], out[5] = x, y, w
    else:  # half a turn: any axis of the symmetric part will do for a step
        k = 0
        for i in range(1, 3):
            if d[i, i] > d[k, k]:
                k = i
        v = d[:, k].copy()
        v[k] += 1.0
        out[3:] = math.pi * v / np.sqrt(np.sum(v * v))
    return out


@njit(cache=True)
def improve(
    axes: FloatArray,
    points: FloatArray,
    tip: FloatArray,
    z: FloatArray,
    place: FloatArray,
    q: FloatArray,
    steps: int,
    length: float,
) -> float:
    """Damped least squares from ``q`` (changed in place); the miss left, radians, with ``length`` mm to a radian."""
    scale = np.array([1.0 / length, 1.0 / length, 1.0 / length, 1.0, 1.0, 1.0])
    error = _pose_error(axes, points, tip, q, z, place) * scale
    miss = math.sqrt(np.sum(error * error))
    damp = 1e-9 if miss < 1e-3 else 1e-3
    for _ in range(steps):
        if miss < 1e-12:
            break
        jac = tip_jacobian(axes, points, tip, q) * scale.reshape(6, 1)
        square = jac @ jac.T + damp * np.eye(6)
        change = jac.T @ np.linalg.solve(square, error)
        longest = np.max(np.abs(change))
        if longest > 0.5:
            change *= 0.5 / longest
        trial = q + change
        new = _pose_error(axes, points, tip, trial, z, place) * scale
        size = math.sqrt(np.sum(new * new))
        if size < miss:
            q[:] = trial
            error, miss, damp = new, size, max(0.2 * damp, 1e-14)
        else:
            damp = max(damp * 10.0, 1e-12)
            if damp > 1e3:
                break
    return miss


@njit(cache=True)
def _angle_between(axis: FloatArray, start: FloatArray, end: FloatArray) -> float:
    """Turn about ``axis`` that takes the direction of ``start`` across it to that of ``end``; 0 where either vanishes."""
    cross = np.array(
        [
            start[1] * end[2] - start[2] * end[1],
            start[2] * end[0] - start[0] * end[2],
            start[0] * end[1] - start[1] * end[0],
        ]
    )
    sine = np.sum(axis * cross)
    cosine = np.sum(start * end) - np.sum(axis * start) * np.sum(axis * end)
    if abs(sine) < 1e-12 and abs(cosine) < 1e-12:
        return 0.0
    return math.atan2(sine, cosine)


@njit(cache=True)
def _two_roots(a: float, b: float, value: float) -> tuple[int, float, float]:
    """Angles ``t`` with ``a cos t + b sin t = value``: how many, and two of them."""
    size = math.hypot(a, b)
    if size < 1e-12 or abs(value) > size * (1.0 + 1e-9):
        return 0, 0.0, 0.0
    middle = math.atan2(b, a)
    half = math.acos(min(max(value / size, -1.0), 1.0))
    return 2, middle + half, middle - half


@njit(cache=True)
def solve_wrist_arm(
    axes: FloatArray, points: FloatArray, wrist: FloatArray, tip: FloatArray, z: FloatArray, place: FloatArray
) -> tuple[int, FloatArray]:
    """Up to 8 settings (8, 6) radians, without limits, that turn the tool by ``z`` from the zero pose, its tip at ``place``.

    ``wrist`` is where the last three axes meet at the zero pose.
    """
    out = np.empty((8, 6))
    count = 0
    turn = np.empty((3, 3))
    centre = z @ (wrist - tip) + place
    w1, w2 = axes[0], axes[1]
    x = centre - points[0]
    across = np.array(
        [w1[1] * w2[2] - w1[2] * w2[1], w1[2] * w2[0] - w1[0] * w2[2], w1[0] * w2[1] - w1[1] * w2[0]]
    )
    n1, a1, b1 = _two_roots(np.sum(x * w2), np.sum(x * across), np.sum((wrist - points[0]) * w2))
    for i in range(n1):
        q1 = a1 if i == 0 else b1
        _turn(w1, -q1, turn)
        y = turn @ x + points[0]
        first = turn.copy()
        # In the plane across axis 2: turn the wrist about axis 3 until it is as far from axis 2 as y is.
        lever, hinge, goal = wrist - points[2], points[2] - points[1], y - points[1]
        lever = lever - np.sum(lever * w2) * w2
        hinge = hinge - np.sum(hinge * w2) * w2
        goal = goal - np.sum(goal * w2) * w2
        side = np.array(
            [
                w2[1] * lever[2] - w2[2] * lever[1],
                w2[2] * lever[0] - w2[0] * lever[2],
                w2[0] * lever[1] - w2[1] * lever[0],
            ]
        )
        value = 0.5 * (np.sum(goal * goal) - np.sum(lever * lever) - np.sum(hinge * hinge))
        sign = 1.0 if np.sum(axes[2] * w2) > 0.0 else -1.0
        n3, a3, b3 = _two_roots(np.sum(hinge * lever), np.sum(hinge * side), value)
        for k in range(n3):
            t3 = a3 if k == 0 else b3
            _turn(w2, t3, turn)
            q2 = _angle_between(w2, hinge + turn @ lever, goal)
            third = turn.copy()
            _turn(w2, -q2, turn)
            left = third.T @ (turn @ (first @ z))
            # What is left over is R4 R5 R6.
            w4, w5, w6 = axes[3], axes[4], axes[5]
            aside = np.array(
                [w5[1] * w6[2] - w5[2] * w6[1], w5[2] * w6[0] - w5[0] * w6[2], w5[0] * w6[1] - w5[1] * w6[0]]
            )
            fixed = np.sum(w4 * w5) * np.sum(w5 * w6)
            goal6 = left @ w6
            n5, a5, b5 = _two_roots(np.sum(w4 * w6) - fixed, np.sum(w4 * aside), np.sum(w4 * goal6) - fixed)
            for m in range(n5):
                q5 = a5 if m == 0 else b5
                _turn(w5, q5, turn)
                q4 = _angle_between(w4, turn @ w6, goal6)
                fifth = turn.copy()
                _turn(w4, -q4, turn)
                rest = fifth.T @ (turn @ left)
                probe = w5 - np.sum(w5 * w6) * w6
                q6 = _angle_between(w6, probe, rest @ probe)
                out[count, 0], out[count, 1], out[count, 2] = q1, q2, sign * t3
                out[count, 3], out[count, 4], out[count, 5] = q4, q5, q6
                count += 1
    return count, out


@njit(cache=True)
def solve_by_steps(
    axes: FloatArray,
    points: FloatArray,
    tip: FloatArray,
    z: FloatArray,
    place: FloatArray,
    starts: FloatArray,
    length: float,
) -> tuple[int, FloatArray]:
    """What damped least squares finds from each of ``starts`` (s, n): settings (s, n), the first ``count`` of them valid."""
    out = np.empty_like(starts)
    count = 0
    for start in starts:
        q = start.copy()
        if improve(axes, points, tip, z, place, q, 60, length) < 1e-9:
            out[count] = q
            count += 1
    return count, out
