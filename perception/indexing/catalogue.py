"""The catalogue: what a crystal can show on an instrument, arranged for searching.

Built once per crystal and instrument: the rays with their expected rates and a grid over the sphere that answers "which
rays lie near this direction" in one look-up (`Rays`, for scoring), and for one ray of each orbit of the symmetry all
others by their angle to it (`PairLists`, for the axis vote).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray, axis_rotation, random_rotation
from lauepilot.simulator.kernels import pack_detector, trace_batch
from lauepilot.simulator.laue import RayTable

#: Cells along one edge of a face of the cubed sphere; about 0.7 degrees each.
CELLS = 128

#: A turn by 2 pi, and an angle of pi, in the 16-bit units of the pair lists.
TURN = 65536

#: Angle bins of the pair lists hold 2**ANGLE_SHIFT units: 0.09 degrees.
ANGLE_SHIFT = 5


class Rays(NamedTuple):
    """Rays as the compiled loops read them.

    ``direction`` (n, 3) and its transpose ``columns`` (3, n), crystal's frame; ``rate`` (n, nodes) at ``sin(theta) = s_min +
    k s_step``; degree of ``polarisation`` (-2: none). Cell c of a cubed sphere lists the rays within ``reach_rad`` of it:
    ``members[starts[c]:starts[c + 1]]``.
    """

    direction: FloatArray
    columns: FloatArray
    rate: NDArray[np.float32]
    s_min: float
    s_step: float
    polarisation: float
    starts: NDArray[np.int32]
    members: NDArray[np.int32]
    reach_rad: float


class PairLists(NamedTuple):
    """For representative ray a, all voting rays within reach, by angle to it.

    Entry e holds two 16-bit numbers, ``azimuth | ray << 16``: the azimuth about a (65536 is 2 pi) and the ray's index. Row
    a is ``entry[row[a]:row[a + 1]]``; its entries in bin b of the angle to a (65536 is pi; bins of ``2**ANGLE_SHIFT``) are
    ``first[a, b]`` to ``first[a, b + 1]``, counted from the row's start. ``axes`` (A, 3, 3) has the columns e1, e2, a;
    ``representative`` (A,) is the ray's index, brightest first.
    """

    entry: NDArray[np.uint32]
    row: NDArray[np.int64]
    first: NDArray[np.uint16]
    axes: FloatArray
    representative: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A ray table, arranged for searching.

    Attributes
    ----------
    table
        Crystal on instrument.
    rays
        The table, with the grid that tells which rays lie near a direction.
    pairs
        Pair lists of the symmetry-inequivalent rays.
    impostors
        (k, 3, 3) rotations in the crystal's frame that bring many rays onto rays without being symmetries:
        the lattice's own, and turns by 60, 90, 120, 180 degrees about zone axes, low planes and bright rays.
    """

    table: RayTable
    rays: Rays
    pairs: PairLists
    impostors: FloatArray

    @classmethod
    def build(
        cls, table: RayTable, *, reach_deg: float = 0.6, voters: int, widest_rad: float = np.pi
    ) -> Catalogue:
        """Arrange a ray table.

        ``reach_deg`` is the largest tolerance that the grid serves; ``voters`` the number of brightest rays that take part
        in the axis vote; ``widest_rad`` the largest angle between two planes that are seen together.
        """
        reach = float(np.deg2rad(reach_deg))
        return cls(table, pack_rays(table, reach), _pair_lists(table, voters, widest_rad), _impostors(table))


def pack_rays(table: RayTable, reach_rad: float) -> Rays:
    """A ray table for the compiled loops; ``reach_rad`` is the largest distance at which the grid finds a ray."""
    starts, members = _fill_grid(table.direction, reach_rad)
    return Rays(
        table.direction,
        np.ascontiguousarray(table.direction.T),
        table.rate,
        float(table.sin_theta_min),
        float(table.sin_theta_step),
        -2.0 if table.polarisation is None else float(table.polarisation),
        starts,
        members,
        reach_rad,
    )


def pattern_levels(table: RayTable, orientations: int = 100) -> FloatArray:
    """Between which rates (n, 2) a pattern's spots lie, brightest first: logarithms, in 95 of 100 random orientations."""
    us = random_rotation(np.random.default_rng(0), orientations)
    _, _, rate, ends = trace_batch(us, table, pack_detector(table.instrument.detector), table.polarisation)
    patterns = [-np.sort(-rate[a:b]) for a, b in pairwise(ends)]
    n = max(int(np.median([len(p) for p in patterns])), 1)
    # What a short pattern does not show lies below the table's faintest rays.
    padded = [np.concatenate([p, np.full(n, rate.min(initial=1.0))])[:n] for p in patterns]
    return np.ascontiguousarray(np.log(np.quantile(padded, [0.025, 0.975], axis=0)).T)


@njit(cache=True)
def cell_of(x: float, y: float, z: float) -> int:
    """Cell of a direction on the cubed sphere."""
    ax, ay, az = abs(x), abs(y), abs(z)
    if ax >= ay and ax >= az:
        face, m, u, v = (0 if x > 0 else 1), ax, y, z
    elif ay >= az:
        face, m, u, v = (2 if y > 0 else 3), ay, x, z
    else:
        face, m, u, v = (4 if z > 0 else 5), az, x, y
    i = min(int((u / m + 1.0) * (0.5 * CELLS)), CELLS - 1)
    j = min(int((v / m + 1.0) * (0.5 * CELLS)), CELLS - 1)
    return (face * CELLS + i) * CELLS + j


@njit(cache=True)
def _fill_grid(directions: FloatArray, reach: float) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    n = directions.shape[0]
    counts = np.zeros(6 * CELLS * CELLS + 1, np.int32)
    members = np.empty(0, np.int32)
    step = 2.0 / CELLS
    for fill in range(2):
        if fill == 1:
            for c in range(6 * CELLS * CELLS):
                counts[c + 1] += counts[c]
            members = np.empty(counts[-1], np.int32)
            position = counts[:-1].copy()
        for r in range(n):
            for face in range(6):
                axis, sign = face // 2, 1.0 - 2.0 * (face % 2)
                m = directions[r, axis] * sign
                if m < 0.4:
                    continue
                a = directions[r, 1 if axis == 0 else 0] / m
                b = directions[r, 1 if axis == 2 else 2] / m
                # A degree on the sphere covers at most 1 + u^2 + v^2 degrees on the face.
                width = reach * (1.0 + a * a + b * b) * 1.1
                if abs(a) > 1.0 + width or abs(b) > 1.0 + width:
                    continue
                i0, i1 = int((a - width + 1.0) / step), int((a + width + 1.0) / step)
                j0, j1 = int((b - width + 1.0) / step), int((b + width + 1.0) / step)
                for i in range(max(i0, 0), min(i1, CELLS - 1) + 1):
                    for j in range(max(j0, 0), min(j1, CELLS - 1) + 1):
                        c = (face * CELLS + i) * CELLS + j
                        if fill == 0:
                            counts[c + 1] += 1
                        else:
                            members[position[c]] = r
                            position[c] += 1
    return counts, members


def _pair_lists(table: RayTable, voters: int, widest_rad: float) -> PairLists:
    directions = np.ascontiguousarray(table.direction[: min(voters, TURN)])
    symmetry = table.crystal.symmetry
    taken = np.zeros(len(directions), dtype=bool)
    representative = []
    for r in range(len(directions)):
        if taken[r]:
            continue
        representative.append(r)
        orbit = symmetry @ directions[r]
        taken |= (directions @ orbit.T).max(axis=1) > 1.0 - 1e-9
    axes = np.stack([_axes(directions[r]) for r in representative])
    entry, row, first = _fill_pairs(directions, axes, min(widest_rad, np.pi))
    return PairLists(entry, row, first, axes, np.array(representative, dtype=np.int64))


@njit(cache=True)
def _along(directions: FloatArray, r: int, axes: FloatArray, a: int, k: int) -> float:
    x, y, z = directions[r, 0], directions[r, 1], directions[r, 2]
    return float(x * axes[a, 0, k] + y * axes[a, 1, k] + z * axes[a, 2, k])


@njit(cache=True)
def _fill_pairs(
    directions: FloatArray, axes: FloatArray, widest: float
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.uint16]]:
    n, reps = directions.shape[0], axes.shape[0]
    least = np.cos(widest)
    bins = (int(widest / np.pi * TURN) >> ANGLE_SHIFT) + 2
    first = np.zeros((reps, bins + 1), np.uint16)
    row = np.zeros(reps + 1, np.int64)
    entry = np.empty(0, np.uint32)
    angle = np.empty(n, np.int64)
    azimuth = np.empty(n, np.int64)
    counts = np.empty(bins + 1, np.int64)
    for fill in range(2):
        if fill == 1:
            entry = np.empty(row[-1], np.uint32)
        for a in range(reps):
            if fill == 0:
                near = 0
                for r in range(n):
                    near += _along(directions, r, axes, a, 2) >= least
                row[a + 1] = row[a] + near
                continue
            counts[:] = 0
            for r in range(n):
                z = _along(directions, r, axes, a, 2)
                angle[r] = -1
                if z < least:
                    continue
                x, y = _along(directions, r, axes, a, 0), _along(directions, r, axes, a, 1)
                angle[r] = min(int(np.arctan2(np.sqrt(x * x + y * y), z) / np.pi * TURN), TURN - 1)
                azimuth[r] = int(np.floor(np.arctan2(y, x) / (2.0 * np.pi) * TURN)) % TURN
                counts[(angle[r] >> ANGLE_SHIFT) + 1] += 1
            for b in range(bins):
                counts[b + 1] += counts[b]
                first[a, b + 1] = counts[b + 1]
            for r in range(n):
                if angle[r] >= 0:
                    b = angle[r] >> ANGLE_SHIFT
                    entry[row[a] + counts[b]] = azimuth[r] | (r << 16)
                    counts[b] += 1
    return entry, row, first


def _axes(direction: FloatArray) -> FloatArray:
    helper = np.eye(3)[int(np.argmin(np.abs(direction)))]
    e1 = np.cross(helper, direction)
    e1 /= np.linalg.norm(e1)
    return np.stack([e1, np.cross(direction, e1), direction], axis=1)


def _impostors(table: RayTable, axes: int = 14) -> FloatArray:
    """Rotations of the lattice, about zone axes, low planes and bright rays, that are no symmetries of the crystal."""
    symmetry = table.crystal.symmetry
    b = table.crystal.b
    low = np.array([h for h in product((-1, 0, 1), repeat=3) if h > (0, 0, 0)], dtype=float)
    # Pseudosymmetry turns about zone axes and low planes (kyanite: by 180 degrees about [001]), twins about bright rays.
    lines = np.concatenate([low @ np.linalg.inv(b), low @ b.T, table.direction[: 8 * axes]])
    candidates = list(table.crystal.holohedry)
    seen: list[FloatArray] = []
    for line in lines:
        direction = line / np.linalg.norm(line)
        if any(abs(float(d @ direction)) > 1.0 - 1e-6 for d in seen):
            continue
        seen.append(direction)
        candidates += [axis_rotation(direction, np.deg2rad(a)) for a in (60, 90, 120, 180, 240, 270, 300)]
        if len(seen) == 2 * len(low) + axes:
            break
    kept = np.eye(3)[None]
    for candidate in candidates:
        # R and R S are the same orientation: two rotations differ only if no symmetry joins them (trace 3: no turn).
        traces = np.einsum("kij,sij->ks", kept, candidate @ symmetry)
        if traces.max() < 3.0 - 1e-6:
            kept = np.concatenate([kept, candidate[None]])
    return kept[1:]
