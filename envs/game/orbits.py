"""What is the same for all crystals of a family: equivalent reflections, and how a spot looks in the picture."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lauepilot.envs.game.rules import BLUR_PX, DISC, FAMILIES, SIDE, Family
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import form_factor

#: Lattice directions (one of +-) that a crystal's pictures are made of, shortest first; beyond this q (1/angstrom) no
#: scatterer has a form factor left.
RAYS, Q_MAX = 8000, 26.0
#: Displacement parameter (A^2) of the iron atom that each lattice point holds, and the step of its table in q.
B_FACTOR_A2, Q_STEP = 0.5, 0.02
#: Places within a pixel, and half the width, of the table of spots.
PLACES, HALF = 32, 4


def cell_volume(family: Family, a: float, c: float) -> float:
    """Volume of the primitive cell, A^3."""
    volume = a * a * c * (np.sqrt(0.75) if family.name == "hexagonal" else 1.0)
    return float(volume / (2.0 if family.centring == "I" else 1.0))


@njit(cache=True)
def reach(volume: float) -> float:
    """The |Q| (1/angstrom) up to which a lattice of this primitive cell (A^3) has `RAYS` directions, or `Q_MAX`."""
    # Points in half a sphere, and the share 1 / zeta(3) of them that are no multiple of another.
    most = (RAYS * 1.2020569 * 1.5 / math.pi * (2.0 * math.pi) ** 3 / volume) ** (1.0 / 3.0)
    return float(min(Q_MAX, most))


def lengths(family: Family, hkl: NDArray[np.int64], a: float, c: float) -> FloatArray:
    """|Q| (n,) of reflections, 1/angstrom."""
    h, k, el = hkl.T.astype(float)
    hexagonal = family.name == "hexagonal"
    flat = 4.0 / 3.0 * (h * h + h * k + k * k) if hexagonal else h * h + k * k
    return np.asarray(
        2.0 * np.pi * np.sqrt(flat / a**2 + el * el / (a if family.name == "cubic" else c) ** 2)
    )


def equivalents(family: str, hkl: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Equivalent reflections of the holohedry, one of each pair +-."""
    h, k, el = hkl
    signs = list(product((1, -1), repeat=3))
    if family == "cubic":
        turned = {
            tuple(s * x for s, x in zip(sign, p, strict=True)) for p in permutations(hkl) for sign in signs
        }
    elif family == "tetragonal":
        turned = {(s * x, t * y, u * el) for x, y in ((h, k), (k, h)) for s, t, u in signs}
    else:
        i = -h - k
        turned = {(s * x, s * y, u * el) for x, y in permutations((h, k, i), 2) for s, _, u in signs}
    return sorted(r for r in turned if r > (0, 0, 0))  # type: ignore[misc]


@lru_cache(maxsize=4)
def orbits_of(family: Family) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Orbits of lattice directions that any crystal of the family needs.

    Returns
    -------
    Rows (n, 6): representative (3), the first harmonic that the centring allows, where its members begin and end; and the
    members (m, 3).
    """
    corners = [(a, c) for a in family.a for c in family.c]
    if family.name == "cubic":
        corners = [(a, a) for a in family.a]
    reaches = [reach(cell_volume(family, a, c)) for a, c in corners]
    most = [int(max(r * a for r, (a, _) in zip(reaches, corners, strict=True)) / (2 * np.pi) * 1.2) + 1]
    most.append(int(max(r * c for r, (_, c) in zip(reaches, corners, strict=True)) / (2 * np.pi)) + 1)
    h, k, el = np.meshgrid(*[np.arange(n + 1) for n in (most[0], most[0], most[1])], indexing="ij")
    hkl = np.stack([h, k, el], axis=-1).reshape(-1, 3)
    hkl = hkl[np.gcd.reduce(hkl, axis=1) == 1]
    keep = hkl[:, 0] >= hkl[:, 1]
    if family.name == "cubic":
        keep &= hkl[:, 1] >= hkl[:, 2]
    hkl = hkl[keep]
    first = (
        np.where(hkl.sum(axis=1) % 2 == 0, 1, 2) if family.centring == "I" else np.ones(len(hkl), np.int64)
    )
    near = np.zeros(len(hkl), dtype=bool)
    for (a, c), r in zip(corners, reaches, strict=True):
        near |= lengths(family, hkl, a, c) * first <= 1.02 * r
    hkl, first = hkl[near], first[near]
    members = [equivalents(family.name, (int(x[0]), int(x[1]), int(x[2]))) for x in hkl]
    sizes = np.array([len(m) for m in members], dtype=np.int64)
    table = np.array([x for m in members for x in m], dtype=np.int64)
    end = np.cumsum(sizes)
    return np.column_stack([hkl, first, end - sizes, end]).astype(np.int64), table


@lru_cache(maxsize=1)
def all_orbits() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Orbits of all families, one after the other: rows (n, 6), members (m, 3), and where each family begins (4,)."""
    rows, members, begin = [], [], [0]
    offset = 0
    for family in FAMILIES:
        orbits, table = orbits_of(family)
        rows.append(orbits + np.array([0, 0, 0, 0, offset, offset]))
        members.append(table)
        offset += len(table)
        begin.append(begin[-1] + len(orbits))
    return np.concatenate(rows), np.concatenate(members), np.array(begin, dtype=np.int64)


@lru_cache(maxsize=1)
def scattering() -> FloatArray:
    """|f|^2 of iron with its displacements, at multiples of `Q_STEP`: the one scatterer of each lattice point."""
    q = Q_STEP * np.arange(int(Q_MAX / Q_STEP) + 3, dtype=float)
    stol2 = np.asarray((q / (4.0 * np.pi)) ** 2, dtype=float)
    return np.asarray((form_factor("Fe", stol2, "xray") * np.exp(-B_FACTOR_A2 * stol2)) ** 2)


@lru_cache(maxsize=1)
def stamps() -> NDArray[np.float32]:
    """A spot's picture (`PLACES`, `PLACES`, w, w) for its place within a pixel, rows first: disc, averaged, blurred.

    Drawn on `PLACES` points a pixel; index 0 is a spot at the lower edge of the middle pixel, ``- 0.5 + 0.5 / PLACES``.
    """
    width = 2 * HALF + 1
    radius = DISC * SIDE * PLACES
    # A fine picture around the middle pixel, wide enough for every place and the blur.
    n = (width + 2) * PLACES
    out = np.empty((PLACES, PLACES, width, width), dtype=np.float32)
    at = np.arange(n) + 0.5
    for i in range(PLACES):
        for j in range(PLACES):
            row = (HALF + 1) * PLACES + i + 0.5
            col = (HALF + 1) * PLACES + j + 0.5
            disc = ((at[:, None] - row) ** 2 + (at[None, :] - col) ** 2 < radius**2).astype(np.float64)
            coarse = disc.reshape(width + 2, PLACES, width + 2, PLACES).mean(axis=(1, 3))
            out[i, j] = gaussian_filter(coarse, BLUR_PX, mode="constant")[1:-1, 1:-1]
    return out
