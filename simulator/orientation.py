"""Orientations with their uncertainty, and misorientation up to symmetry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.simulator.conventions import FloatArray, nearest_rotation, rotation_angle, rotation_vector


@dataclass(frozen=True, eq=False)
class Orientation:
    """A crystal's orientation ``U`` with covariance.

    Attributes
    ----------
    u
        Rotation (3, 3) from the crystal's Cartesian frame to the frame named in the docstring of what returns it:
        the laboratory (``Z U``, of one exposure) or the sample holder (``U``).
    b
        ``B`` (3, 3) with 2 pi, of the cell that was used.
    covariance
        (3, 3), radians squared, of the rotation vector ``w`` in the frame that ``u`` turns into:
        ``u_true = exp(w) u``.
    """

    u: FloatArray
    b: FloatArray
    covariance: FloatArray

    @property
    def ub(self) -> FloatArray:
        """``UB`` (3, 3) with 2 pi."""
        return np.asarray(self.u @ self.b)

    @property
    def sigma_deg(self) -> float:
        """Standard deviation of the worst direction, degrees."""
        return float(np.rad2deg(np.sqrt(max(np.linalg.eigvalsh(self.covariance)[-1], 0.0))))

    def turned(self, rotation: ArrayLike) -> Orientation:
        """The orientation (and its covariance) after a rotation (3, 3) of the frame's axes: ``rotation @ u``."""
        r = np.asarray(rotation, dtype=float)
        return Orientation(r @ self.u, self.b, r @ self.covariance @ r.T)

    def relabelled(self, operation: ArrayLike) -> Orientation:
        """The same crystal with its planes named anew by a symmetry operation ``S`` (3, 3) of `Crystal.symmetry`: ``u S``.

        What was called ``h`` is then called ``b^-1 S^T b h``; a strain in ``b`` is turned along.
        """
        s = np.asarray(operation, dtype=float)
        indices = np.rint(
            np.linalg.solve(self.b, s @ self.b)
        )  # S acting on hkl: whole numbers, but for a strain in b
        return Orientation(self.u @ s, s.T @ self.b @ indices, self.covariance)


def misorientation(u1: ArrayLike, u2: ArrayLike, symmetry: ArrayLike) -> FloatArray:
    """Smallest angle (...) in radians between orientations that symmetry makes alike.

    ``u1`` and ``u2`` (..., 3, 3) turn the crystal's frame into a common one; ``symmetry`` (n, 3, 3) are proper rotations
    in the crystal's Cartesian frame (`Crystal.symmetry`): the minimum of the angle of ``u1 S u2^T`` over S.
    """
    a, b = np.asarray(u1, dtype=float), np.asarray(u2, dtype=float)
    s = np.asarray(symmetry, dtype=float)
    products = np.einsum("...ij,njk,...lk->...nil", a, s, b)
    return np.asarray(rotation_angle(products).min(axis=-1))


def nearest_equivalent(
    u: ArrayLike, reference: ArrayLike, symmetry: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """The symmetry-equivalent ``u S`` (3, 3) nearest to ``reference`` (3, 3), and the rotation vector from it to that."""
    s = np.asarray(symmetry, dtype=float)
    candidates = np.asarray(u, dtype=float) @ s
    differences = candidates @ np.asarray(reference, dtype=float).T
    best = int(np.argmin(rotation_angle(differences)))
    return candidates[best], rotation_vector(nearest_rotation(differences[best]))
