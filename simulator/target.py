"""Targets: which plane or axis of the crystal goes where in the laboratory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.simulator.conventions import FloatArray, rotation_angle

_TIE = 1e-6  # radians: equivalents that miss by as much but for this do equally well


class Lattice(Protocol):
    """What targets and reachability need of a crystal."""

    @property
    def b(self) -> FloatArray:
        """``B`` (3, 3) with 2 pi."""

    @property
    def symmetry(self) -> FloatArray:
        """Proper symmetry rotations (n, 3, 3) in the crystal's Cartesian frame."""


@dataclass(frozen=True)
class Alignment:
    """One crystal direction and the laboratory direction that it is wanted along.

    Attributes
    ----------
    kind
        ``hkl`` for the normal of a plane (reciprocal), ``uvw`` for a zone axis (direct lattice).
    indices
        The three indices.
    direction
        Laboratory direction, of any length.
    """

    kind: Literal["hkl", "uvw"]
    indices: tuple[float, float, float]
    direction: tuple[float, float, float]

    def in_crystal(self, b: ArrayLike) -> FloatArray:
        """Unit vector (3,) in the crystal's Cartesian frame, for ``B`` (3, 3) with 2 pi."""
        matrix = np.asarray(b, dtype=float)
        frame = matrix if self.kind == "hkl" else np.linalg.inv(matrix).T
        vector = frame @ np.asarray(self.indices, dtype=float)
        length = float(np.linalg.norm(vector))
        if length == 0.0:
            raise ValueError(f"Indices ({self.kind}) must not all be zero; give e.g. 0 0 1.")
        return np.asarray(vector / length)

    def in_laboratory(self) -> FloatArray:
        """Unit vector (3,) in the laboratory."""
        vector = np.asarray(self.direction, dtype=float)
        return np.asarray(vector / np.linalg.norm(vector))


@dataclass(frozen=True)
class Target:
    """Where the crystal is wanted.

    Attributes
    ----------
    primary
        Brought to its direction exactly.
    secondary
        Brought as near to its direction as the first allows; None leaves the turn about the first free.

    Examples
    --------
    The zone [001] along the beam with (100) up, the usual start of an experiment::

        Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)), Alignment("hkl", (1, 0, 0), (0, 1, 0)))
    """

    primary: Alignment
    secondary: Alignment | None = None

    def laboratory_u(self, b: ArrayLike, turn: float = 0.0) -> FloatArray:
        """A laboratory orientation (3, 3) that fulfils the target; ``turn`` (radians) about the first direction is added.

        Raises
        ------
        ValueError
            If both directions of the crystal, or of the laboratory, are parallel.
        """
        crystal = _triad(
            self.primary.in_crystal(b), None if self.secondary is None else self.secondary.in_crystal(b)
        )
        laboratory = _triad(
            self.primary.in_laboratory(), None if self.secondary is None else self.secondary.in_laboratory()
        )
        c, s = np.cos(turn), np.sin(turn)
        about = np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
        return np.asarray(laboratory @ about @ crystal.T)

    def error(self, u_lab: ArrayLike, crystal: Lattice) -> float:
        """Angle (radians) by which a laboratory orientation misses the target, over the symmetry of the crystal.

        With a secondary direction: the misorientation to the wanted orientation. Without: the angle between
        the first direction and its place. A zone axis or plane normal and its opposite count as the same direction
        where the Laue class has them so (proper rotations only are searched; Friedel's law makes the sign of a normal
        invisible in the pattern, but not in the crystal).
        """
        return float(self._errors(np.asarray(u_lab, dtype=float), crystal).min())

    def as_written(self, u_lab: ArrayLike, crystal: Lattice) -> FloatArray:
        """The symmetry operation ``S`` (3, 3) that labels a crystal as the target does.

        Symmetry leaves open which of several planes is called (0 0 1). Under ``u_lab @ S`` the indices *as written* in the
        target are as near to their place as any of their equivalents. Of operations that do equally well the one is
        taken that turns least, so that an orientation that is labelled right stays as it is.

        See `Orientation.relabelled`, which applies ``S``.
        """
        errors = self._errors(np.asarray(u_lab, dtype=float), crystal)
        turns = rotation_angle(crystal.symmetry)
        alike = np.flatnonzero(errors <= errors.min() + _TIE)
        return np.asarray(crystal.symmetry[alike[int(np.argmin(turns[alike]))]])

    def _errors(self, u: FloatArray, crystal: Lattice) -> FloatArray:
        """Angle (n,) by which ``u S`` misses the target for each symmetry operation S."""
        if self.secondary is None:
            placed = (u @ crystal.symmetry) @ self.primary.in_crystal(crystal.b)
            cross = np.linalg.norm(np.cross(placed, self.primary.in_laboratory()), axis=-1)
            return np.asarray(np.arctan2(cross, placed @ self.primary.in_laboratory()))
        wanted = self.laboratory_u(crystal.b)
        return rotation_angle(np.einsum("ij,njk,lk->nil", u, crystal.symmetry, wanted))


def _triad(first: FloatArray, second: FloatArray | None) -> FloatArray:
    """Right-handed axes (columns) with the first along ``first`` and the second in the plane of both."""
    if second is None:
        second = np.eye(3)[int(np.argmin(np.abs(first)))]
    third = np.cross(first, second)
    length = float(np.linalg.norm(third))
    if length < 1e-6:
        raise ValueError(
            "The two directions of a target must not be parallel; choose another secondary direction."
        )
    third = third / length
    return np.stack([first, np.cross(third, first), third], axis=1)
