"""Poses of an arm for many rotations of its tool at once, the crystal in the beam's point: the inner loops."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.arm.collision import Packed, nearest_pair
from lauepilot.simulator.arm.kernels import improve, link_motions, solve_wrist_arm
from lauepilot.simulator.conventions import FloatArray


def even_rotations(n: int) -> FloatArray:
    """Rotations (n, 3, 3) spread evenly (Shoemake's map of Roberts' sequence of three shares)."""
    root = 1.2207440846057596  # x^4 = x + 1
    a, b, c = ((0.5 + np.arange(n)[:, None] * root ** -np.arange(1.0, 4.0)) % 1.0).T
    x, y = np.sqrt(1 - a) * np.sin(2 * np.pi * b), np.sqrt(1 - a) * np.cos(2 * np.pi * b)
    z, w = np.sqrt(a) * np.sin(2 * np.pi * c), np.sqrt(a) * np.cos(2 * np.pi * c)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.ascontiguousarray(np.moveaxis(np.array(rows), 2, 0))


@njit(cache=True)
def clear_poses(
    scene: Packed, wrist: FloatArray, tip: FloatArray, z: FloatArray, limits: FloatArray, length: float
) -> tuple[NDArray[np.intp], FloatArray]:
    """Poses within limits and clear of bodies for many rotations (n, 3, 3): their index and joints (r, 6) radians."""
    n, full = len(z), 2.0 * np.pi
    index = np.empty(8 * n, np.intp)
    rows = np.empty((8 * n, 6))
    count = 0
    place = np.zeros(3)
    for i in range(n):
        found, q = solve_wrist_arm(scene.axes, scene.points, wrist, tip, z[i], place)
        for k in range(found):
            inside = True
            for j in range(6):
                low, high = limits[j, 0], limits[j, 1]
                value = (q[k, j] + np.pi) % full - np.pi
                first = np.ceil((low - value - 1e-9) / full)
                last = np.floor((high - value + 1e-9) / full)
                inside &= first <= last
                q[k, j] = min(max(value + full * min(max(0.0, first), last), low), high)
            if not inside:
                continue
            if improve(scene.axes, scene.points, tip, z[i], place, q[k], 4, length) > 1e-9:
                continue
            if nearest_pair(scene, q[k], scene.margin + 1.0)[0] < scene.margin:
                continue
            index[count] = i
            rows[count] = q[k]
            count += 1
    return index[:count], rows[:count]


@njit(cache=True)
def correct_poses(
    true: FloatArray,
    axes: FloatArray,
    points: FloatArray,
    tip: FloatArray,
    z: FloatArray,
    poses: FloatArray,
    length: float,
) -> None:
    """Change poses (r, n) of the arm as drawn, in place, until axes as they are (n, 3) give rotations ``z`` (r, 3, 3)."""
    place = np.zeros(3)
    for i in range(len(poses)):
        asked = z[i].copy()
        for _ in range(8):
            missed = z[i] @ link_motions(true, points, poses[i])[0][-1].T
            if np.max(np.abs(missed - np.eye(3))) < 1e-11:
                break
            asked = missed @ asked
            improve(axes, points, tip, asked, place, poses[i], 6, length)
