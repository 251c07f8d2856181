"""The catalogue: what a crystal can show on an instrument, arranged for searching.

Built once per crystal and instrument: the rays with their expected rates (`RayTable`), one representative ray
per orbit of the symmetry with all others sorted by their angle to it (for the axis vote), and a grid over the
sphere that answers "which rays lie near this direction" in one look-up (for scoring).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray, axis_rotation
from lauepilot.simulator.laue import RayTable

#: Cells along one edge of a face of the cubed sphere; about 0.7 degrees each.
CELLS = 128


class SphereGrid(NamedTuple):
    """Rays near each cell of a cubed sphere: cell c holds ``members[starts[c]:starts[c + 1]]``."""

    starts: NDArray[np.int32]
    members: NDArray[np.int32]
    reach_rad: float


class PairLists(NamedTuple):
    """For representative ray a: rays by angle to it.

    ``angle``, ``azimuth`` (A, V) float32 radians and ``ray`` (A, V) int32, sorted by angle; ``axes`` (A, 3, 3)
    has the columns e1, e2, a; ``representative`` (A,) is the ray's index; ``first`` (A, B + 1) is where angle
    bin b of ``ANGLE_BINS`` starts.
    """

    angle: NDArray[np.float32]
    azimuth: NDArray[np.float32]
    ray: NDArray[np.int32]
    axes: FloatArray
    representative: NDArray[np.int64]
    first: NDArray[np.int32]


#: Bins of the angle 0..pi by which a pair list is entered.
ANGLE_BINS = 720


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A ray table, arranged for searching.

    Attributes
    ----------
    table
        Crystal on instrument.
    grid
        Which rays lie near a direction in the crystal's frame.
    pairs
        Pair lists of the symmetry-inequivalent rays.
    impostors
        (k, 3, 3) rotations in the crystal's frame that bring many rays onto rays without being symmetries:
        the lattice's own, and turns by 60, 90, 120, 180 degrees about zone axes, low planes and bright rays.
    """

    table: RayTable
    grid: SphereGrid
    pairs: PairLists
    impostors: FloatArray

    @classmethod
    def build(cls, table: RayTable, *, reach_deg: float = 0.6, voters: int) -> Catalogue:
        """Arrange a ray table.

        ``reach_deg`` is the largest tolerance that the grid serves; ``voters`` the number of brightest rays
        that take part in the axis vote.
        """
        reach = float(np.deg2rad(reach_deg))
        grid = SphereGrid(*_fill_grid(table.direction, reach), reach)
        return cls(table, grid, _pair_lists(table, voters), _impostors(table))


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


def _pair_lists(table: RayTable, voters: int, most: int = 600) -> PairLists:
    directions = table.direction[:voters]
    symmetry = table.crystal.symmetry
    taken = np.zeros(len(directions), dtype=bool)
    representative = []
    for r in range(len(directions)):
        if taken[r]:
            continue
        representative.append(r)
        if len(representative) == most:
            break
        orbit = symmetry @ directions[r]
        taken |= (directions @ orbit.T).max(axis=1) > 1.0 - 1e-9
    axes = np.stack([_axes(directions[r]) for r in representative])
    local = np.einsum("vi,aij->avj", directions, axes)
    angle = np.arctan2(np.hypot(local[..., 0], local[..., 1]), local[..., 2])
    order = np.argsort(angle, axis=1)
    angle = np.take_along_axis(angle, order, axis=1)
    azimuth = np.take_along_axis(np.arctan2(local[..., 1], local[..., 0]), order, axis=1)
    edges = np.linspace(0.0, np.pi, ANGLE_BINS + 1)
    first = np.stack([np.searchsorted(row, edges) for row in angle])
    return PairLists(
        angle.astype(np.float32),
        azimuth.astype(np.float32),
        order.astype(np.int32),
        axes,
        np.array(representative, dtype=np.int64),
        first.astype(np.int32),
    )


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
