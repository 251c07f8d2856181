"""Frames, signs and rotations: the one home of lauepilot's conventions.

Laboratory frame
    The frame of NeXus and McStas, right-handed: ``+z`` along the incident beam, ``+y`` up, ``+x`` completes
    (``x = y x z``, to the left for somebody who looks along the beam).
Rotations
    Active: ``R @ v`` is the turned vector. A positive angle is right-handed about its axis.
    A rotation vector has the axis as direction and the angle (radians) as length.
Crystal
    ``B`` follows Busing & Levy (1967), Acta Cryst. 22, 457, eq. 3, times 2 pi: ``a*`` along x, ``b*`` in the
    xy plane. ``U`` turns the crystal's Cartesian frame into the frame of the sample holder;
    ``Z`` is the rotation of the goniometer, outermost axis first. ``Q_lab = Z U B h``.
    Where a text speaks of the *laboratory orientation* it means ``Z U`` at the angles of that exposure.
Units
    Inside: radians, angstrom, keV, millimetres, seconds. Names that end in ``_deg`` are for people and motors.
Pixels
    ``(col, row)`` floats, zero-based, whole numbers at pixel centres; arrays are indexed ``[row, col]``.

Other frames (You 1999, libhkl, LaueTools, SPEC) live only in readers and writers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import constants
from scipy.spatial.transform import Rotation

FloatArray = NDArray[np.float64]

#: h c in keV angstrom (CODATA, from scipy.constants).
HC_KEV_A: float = constants.h * constants.c / constants.e * 1e-3 * 1e10

BEAM = np.array([0.0, 0.0, 1.0])
UP = np.array([0.0, 1.0, 0.0])


def rotation_matrix(rotation_vector: ArrayLike) -> FloatArray:
    """Matrix (..., 3, 3) of a rotation vector (..., 3) in radians.

    >>> rotation_matrix([0.0, 0.0, np.pi / 2]).round(12) @ [1, 0, 0]
    array([0., 1., 0.])
    """
    vector = np.asarray(rotation_vector, dtype=float)
    matrices = Rotation.from_rotvec(vector.reshape(-1, 3)).as_matrix()
    return np.asarray(matrices.reshape(*vector.shape[:-1], 3, 3))


def rotation_vector(matrix: ArrayLike) -> FloatArray:
    """Rotation vector (..., 3) in radians of a rotation matrix (..., 3, 3)."""
    array = np.asarray(matrix, dtype=float)
    vectors = Rotation.from_matrix(array.reshape(-1, 3, 3)).as_rotvec()
    return np.asarray(vectors.reshape(array.shape[:-1]))


def axis_rotation(axis: ArrayLike, angle: float) -> FloatArray:
    """Matrix (3, 3) of a rotation by ``angle`` radians about ``axis`` (3,), which need not be a unit vector.

    Raises
    ------
    ValueError
        If the axis has no length.
    """
    direction = np.asarray(axis, dtype=float)
    length = float(np.linalg.norm(direction))
    if length == 0.0:
        raise ValueError(
            "A rotation axis needs a direction; (0, 0, 0) came. Give three numbers, e.g. (0, 1, 0)."
        )
    return rotation_matrix(direction * (angle / length))


def random_rotation(rng: np.random.Generator, n: int | None = None) -> FloatArray:
    """Rotation matrices uniform over SO(3): (3, 3), or (n, 3, 3) if ``n`` is given.

    Source: a normal 4-vector, normalised, is a uniform unit quaternion (Marsaglia 1972).
    """
    quaternion = rng.normal(size=(1 if n is None else n, 4))
    matrices = Rotation.from_quat(quaternion).as_matrix()
    return np.asarray(matrices[0] if n is None else matrices)


def rotation_angle(matrix: ArrayLike) -> FloatArray:
    """Angle (...) in radians, 0..pi, of rotation matrices (..., 3, 3); accurate for small angles too."""
    array = np.asarray(matrix, dtype=float)
    off = np.stack(
        [
            array[..., 2, 1] - array[..., 1, 2],
            array[..., 0, 2] - array[..., 2, 0],
            array[..., 1, 0] - array[..., 0, 1],
        ],
        axis=-1,
    )
    trace = np.trace(array, axis1=-2, axis2=-1)
    return np.asarray(np.arctan2(np.linalg.norm(off, axis=-1), trace - 1.0))


def nearest_rotation(matrix: ArrayLike) -> FloatArray:
    """The rotation (3, 3) nearest to a matrix in the Frobenius norm (Kabsch 1976, by SVD)."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, dtype=float))
    sign = math.copysign(1.0, float(np.linalg.det(u @ vt)))
    return np.asarray(u @ np.diag([1.0, 1.0, sign]) @ vt)


def rotation_between(start: ArrayLike, end: ArrayLike) -> FloatArray:
    """The rotation (3, 3) with the smallest angle that turns direction ``start`` (3,) onto ``end`` (3,).

    Opposite directions are turned by pi about some axis at right angles to them.
    """
    a = np.asarray(start, dtype=float) / np.linalg.norm(start)
    b = np.asarray(end, dtype=float) / np.linalg.norm(end)
    cross = np.cross(a, b)
    sine, cosine = float(np.linalg.norm(cross)), float(a @ b)
    if sine < 1e-12:
        if cosine > 0:
            return np.eye(3)
        helper = np.eye(3)[int(np.argmin(np.abs(a)))]
        return axis_rotation(np.cross(a, helper), math.pi)
    return axis_rotation(cross, math.atan2(sine, cosine))
