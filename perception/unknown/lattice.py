"""Lattices up to scale: families, their free ratios, axes and symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.crystal import busing_levy_b

#: Families, highest symmetry first. ``trigonal`` is the rhombohedral lattice, in hexagonal axes (obverse); a trigonal
#: crystal with a primitive lattice has the axes of ``hexagonal``.
FAMILIES = ("cubic", "hexagonal", "tetragonal", "trigonal", "orthorhombic", "monoclinic", "triclinic")

#: Free ratios of a family, in the order of `Proposal.ratios`; angles in radians. ``b`` is the unique axis of monoclinic.
RATIOS: dict[str, tuple[str, ...]] = {
    "cubic": (),
    "hexagonal": ("c/a",),
    "tetragonal": ("c/a",),
    "trigonal": ("c/a",),
    "orthorhombic": ("b/a", "c/a"),
    "monoclinic": ("b/a", "c/a", "beta"),
    "triclinic": ("b/a", "c/a", "alpha", "beta", "gamma"),
}

#: Centrings that a family's conventional cell can have.
CENTRINGS: dict[str, tuple[str, ...]] = {
    "cubic": ("P", "I", "F"),
    "hexagonal": ("P",),
    "tetragonal": ("P", "I"),
    "trigonal": ("R",),
    "orthorhombic": ("P", "I", "F", "A", "B", "C"),
    "monoclinic": ("P", "C"),
    "triclinic": ("P",),
}

#: Lattice points in a conventional cell.
POINTS = {"P": 1, "I": 2, "F": 4, "A": 2, "B": 2, "C": 2, "R": 3}


def primitive(centring: str) -> FloatArray:
    """Axes (3, 3) of a primitive cell in columns, in units of the conventional ones (International Tables A, 1.5.1)."""
    half, third = 0.5, 1.0 / 3.0
    cells = {
        "P": np.eye(3),
        "I": np.array([[-half, half, half], [half, -half, half], [half, half, -half]]),
        "F": np.array([[0, half, half], [half, 0, half], [half, half, 0]]),
        "A": np.array([[1, 0, 0], [0, half, half], [0, -half, half]]).T,
        "B": np.array([[half, 0, half], [0, 1, 0], [-half, 0, half]]).T,
        "C": np.array([[half, half, 0], [-half, half, 0], [0, 0, 1]]).T,
        "R": np.array([[2 * third, third, third], [-third, third, third], [-third, -2 * third, third]]).T,
    }
    return np.asarray(cells[centring], dtype=float)


def cell_of(family: str, ratios: Sequence[float]) -> tuple[float, float, float, float, float, float]:
    """Conventional cell with ``a = 1``: a, b, c, and alpha, beta, gamma in degrees.

    Raises
    ------
    ValueError
        If there is no such family, or it has another number of ratios.
    """
    if family not in RATIOS:
        raise ValueError(f"There is no family {family!r}. Known: {', '.join(FAMILIES)}.")
    names = RATIOS[family]
    if len(ratios) != len(names):
        wanted = ", ".join(names) or "none"
        raise ValueError(f"{family} has {len(names)} free ratios ({wanted}); {len(ratios)} came.")
    x = [float(r) for r in ratios]
    if family == "cubic":
        return 1.0, 1.0, 1.0, 90.0, 90.0, 90.0
    if family == "tetragonal":
        return 1.0, 1.0, x[0], 90.0, 90.0, 90.0
    if family in ("hexagonal", "trigonal"):
        return 1.0, 1.0, x[0], 90.0, 90.0, 120.0
    angles = [90.0, 90.0, 90.0]
    if family == "monoclinic":
        angles[1] = float(np.rad2deg(x[2]))
    if family == "triclinic":
        angles = [float(np.rad2deg(angle)) for angle in x[2:]]
    return 1.0, x[0], x[1], angles[0], angles[1], angles[2]


def b_matrix(family: str, ratios: Sequence[float]) -> FloatArray:
    """``B`` (3, 3) with 2 pi (Busing & Levy 1967, eq. 3) of the conventional cell with ``a = 1``.

    Raises
    ------
    ValueError
        As `cell_of`, or if no lattice has such angles.
    """
    return busing_levy_b(cell_of(family, ratios))


@lru_cache(maxsize=16)
def holohedry(family: str) -> FloatArray:
    """Proper rotations (n, 3, 3) of the family's lattices, in the Cartesian frame of `b_matrix`.

    The frame's x is along ``a*``, z along ``c``; b of monoclinic is y.
    """
    z, y, x = [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]
    generators = {
        "cubic": [(z, 4), ([1.0, 1.0, 1.0], 3), (x, 2)],
        "hexagonal": [(z, 6), (x, 2)],
        "tetragonal": [(z, 4), (x, 2)],
        "trigonal": [(z, 3), (y, 2)],  # y is the axis b, a two-fold axis of the lattice; x, along a*, is none
        "orthorhombic": [(z, 2), (x, 2)],
        "monoclinic": [(y, 2)],
        "triclinic": [],
    }[family]
    group = [np.eye(3)]
    turns = [
        rotation_matrix(np.array(axis) / np.linalg.norm(axis) * 2.0 * np.pi / n) for axis, n in generators
    ]
    grown = True
    while grown:
        grown = False
        for member in list(group):
            for turn in turns:
                new = turn @ member
                if min(float(np.abs(new - g).max()) for g in group) > 1e-6:
                    group.append(new)
                    grown = True
    out = np.stack(group)
    out.setflags(write=False)
    return out


def multiple(hkl: NDArray[np.int64], centring: str) -> NDArray[np.int64]:
    """The lowest order (...) in which a primitive direction ``hkl`` (..., 3) is a point of the reciprocal lattice."""
    h, k, el = np.moveaxis(np.asarray(hkl), -1, 0)
    if centring == "P":
        return np.ones_like(h)
    if centring == "R":
        return np.where((-h + k + el) % 3 == 0, 1, 3)
    if centring == "F":
        return np.where(((h + k) % 2 == 0) & ((k + el) % 2 == 0), 1, 2)
    total = {"I": h + k + el, "A": k + el, "B": h + el, "C": h + k}[centring]
    return np.where(total % 2 == 0, 1, 2)
