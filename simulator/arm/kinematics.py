"""Where an arm's tool is, and every setting of its joints that brings it to a pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.simulator.arm.kernels import (
    improve,
    link_motions,
    solve_by_steps,
    solve_wrist_arm,
    tip_jacobian,
)
from lauepilot.simulator.arm.model import Arm, ArmError
from lauepilot.simulator.conventions import FloatArray

#: Miss of the pose, radians with `characteristic_mm` to a radian, up to which a setting counts as a solution.
EXACT = 1e-9
_FULL = 2.0 * np.pi
_STARTS = 200


@dataclass(frozen=True, eq=False)
class Solution:
    """Joint angles (n,) radians for a pose, and how far from singular the arm is there (`singularity`)."""

    q: FloatArray
    singularity: float


def forward(arm: Arm, q: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Rotation (3, 3) and place (3,) mm of the tool's frame at joint angles (n,) radians."""
    rotations, shifts = link_motions(arm.axes, arm.points, _angles(arm, q))
    return rotations[-1] @ arm.tip_rotation, rotations[-1] @ arm.tip + shifts[-1]


def jacobian(arm: Arm, q: ArrayLike) -> FloatArray:
    """(6, n): velocity of the tip (mm), then rotation vector, per radian of each joint."""
    return np.asarray(tip_jacobian(arm.axes, arm.points, arm.tip, _angles(arm, q)))


def characteristic_mm(arm: Arm) -> float:
    """Millimetres that count as much as a radian: a third of the way along the joints to the tip."""
    stops = np.concatenate([arm.points, arm.tip[None]])
    return float(max(np.sum(np.linalg.norm(np.diff(stops, axis=0), axis=1)) / 3.0, 1.0))


def singularity(arm: Arm, q: ArrayLike) -> float:
    """Smallest singular value of the Jacobian, lengths over `characteristic_mm`: 0 where some motion is lost."""
    scaled = jacobian(arm, q) / np.array([characteristic_mm(arm)] * 3 + [1.0] * 3)[:, None]
    return float(np.linalg.svd(scaled, compute_uv=False)[-1]) if len(arm.joints) >= 6 else 0.0


def wrist_centre(arm: Arm) -> FloatArray | None:
    """Where the last three axes meet (3,) at the zero pose, if the arm can be solved in closed form; else None."""
    if len(arm.joints) != 6:
        return None
    w, p = arm.axes, arm.points
    ordinary = abs(w[0] @ w[1]) < 1e-9 and np.linalg.norm(np.cross(w[1], w[2])) < 1e-9
    if (
        not ordinary
        or np.linalg.norm(np.cross(w[3], w[4])) < 1e-6
        or np.linalg.norm(np.cross(w[4], w[5])) < 1e-6
    ):
        return None
    # Least squares: the point nearest to all three lines.
    across = np.eye(3) - w[3:, :, None] * w[3:, None, :]
    centre = np.linalg.lstsq(
        across.reshape(-1, 3), np.einsum("jab,jb->ja", across, p[3:]).ravel(), rcond=None
    )[0]
    off = np.einsum("jab,jb->ja", across, centre - p[3:])
    # Closed forms want axis 4 and 6 square to 5 for every rotation; other wrists just have fewer solutions.
    return np.asarray(centre) if np.max(np.abs(off)) < 1e-6 else None


def inverse(arm: Arm, rotation: ArrayLike, place: ArrayLike, *, limits: bool = True) -> list[Solution]:
    """All settings that bring the tool's frame to ``rotation`` (3, 3) and ``place`` (3,) mm, the least singular first.

    Arms with a spherical wrist are solved in closed form; for others least squares from many starts finds what it can, so
    that solutions may be missed. Full turns that also lie within the limits are not listed.

    Parameters
    ----------
    arm
        With its tool.
    rotation, place
        Of the tool's frame.
    limits
        Leave out settings beyond the joints' limits.

    Raises
    ------
    ArmError
        If the pose is not a rotation and a finite place.
    """
    wanted, there = np.asarray(rotation, dtype=float), np.asarray(place, dtype=float)
    if (
        wanted.shape != (3, 3)
        or there.shape != (3,)
        or not np.all(np.isfinite(there))
        or not np.allclose(wanted @ wanted.T, np.eye(3), atol=1e-6)
        or np.linalg.det(wanted) < 0.0
    ):
        raise ArmError(
            f"A pose is a rotation (3, 3) and a place (3,) in mm; {wanted.tolist()}, {there.tolist()} came."
        )
    z = wanted @ arm.tip_rotation.T
    found = raw_solutions(arm, wrist_centre(arm), z, there)
    if limits:
        found = within(arm, found)
    rows = [Solution(q, singularity(arm, q)) for q in found]
    return sorted(rows, key=lambda row: -row.singularity)


def raw_solutions(arm: Arm, wrist: FloatArray | None, z: FloatArray, place: FloatArray) -> FloatArray:
    """Settings (k, n) radians that turn the tool by ``z`` from the zero pose, its tip at ``place``; no limits."""
    length = characteristic_mm(arm)
    z, place = np.ascontiguousarray(z), np.ascontiguousarray(place)
    if wrist is None:
        count, found = solve_by_steps(arm.axes, arm.points, arm.tip, z, place, _starts(arm), length)
        found = _distinct(found[:count])
    else:
        count, found = solve_wrist_arm(arm.axes, arm.points, wrist, arm.tip, z, place)
        found = found[:count]
        # Roots that meet (stretched elbow, straight wrist) lose half the digits; a step or two brings them back.
        good = [improve(arm.axes, arm.points, arm.tip, z, place, q, 4, length) <= EXACT for q in found]
        found = found[np.array(good, dtype=bool)]
    return np.asarray((found + np.pi) % _FULL - np.pi)


def within(arm: Arm, settings: FloatArray) -> FloatArray:
    """Those of settings (k, n) radians that have an image by full turns inside the limits, at the image nearest to zero."""
    low, high = arm.limits[:, 0], arm.limits[:, 1]
    first, last = np.ceil((low - settings - 1e-9) / _FULL), np.floor((high - settings + 1e-9) / _FULL)
    placed = settings + _FULL * np.clip(0.0, first, last)
    return np.asarray(np.clip(placed, low, high)[np.all(first <= last, axis=1)])


def _distinct(settings: FloatArray) -> FloatArray:
    kept: list[FloatArray] = []
    for q in settings:
        if not any(np.max(np.abs((q - k + np.pi) % _FULL - np.pi)) < 1e-6 for k in kept):
            kept.append(q)
    return np.array(kept).reshape(-1, settings.shape[1])


def _starts(arm: Arm) -> FloatArray:
    """Places (s, n) spread evenly over the joints' ranges: multiples of powers of one root (Roberts' R sequence)."""
    n = len(arm.joints)
    root = 2.0
    for _ in range(30):
        root = (1.0 + root) ** (1.0 / (n + 1))
    share = (0.5 + np.arange(_STARTS)[:, None] * root ** -np.arange(1, n + 1)) % 1.0
    low, high = np.maximum(arm.limits[:, 0], -np.pi), np.minimum(arm.limits[:, 1], np.pi)
    return np.asarray(low + share * (high - low))


def _angles(arm: Arm, q: ArrayLike) -> FloatArray:
    angles = np.array(q, dtype=float)
    if angles.shape != (len(arm.joints),) or not np.all(np.isfinite(angles)):
        raise ArmError(f"{arm.name} has {len(arm.joints)} joints; {angles.tolist()} came as joint angles.")
    return angles
