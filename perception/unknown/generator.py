"""Spot lists of crystals that nobody has, to train the proposal network on: cells, directions and brightness drawn at random.

Only what a proposal needs is simulated: primitive rays of a cell, mirrored by their planes onto a flat film in back
reflection, and an order of brightness. The order follows the low-index rule of a white beam and is then scattered by a
log-normal factor common to the rays of one orbit, as unknown structure factors do. Ranges are wider than those of any
test, so that the network does not learn the borders of a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba as nb
import numpy as np
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray

FAMILIES = ("cubic", "tetragonal", "hexagonal")
#: Spots kept of a pattern, the brightest first.
SPOTS = 64
#: Orbits of low index that have a class of their own in `Batch.orbit`, per family; all others share the last class.
ORBITS = 24

_LARGEST_Q2 = (200.0, 100.0, 100.0)  # (a / d)^2 up to which rays are drawn: some 500-800 on the film
_WIDEST = np.cos(np.deg2rad(30.0))  # planes tilted more reflect past a 100 mm film, at 36 mm and more
_SHORTEST_A = 0.248  # wavelength of 50 keV, angstrom


@dataclass(frozen=True)
class Ranges:
    """From where patterns are drawn, uniformly unless said.

    Attributes
    ----------
    a
        Angstrom, (3, 2): lowest and highest constant per family, logarithmically.
    ratio
        (3, 2): lowest and highest c/a per family, logarithmically; 1 for cubic.
    distance_mm
        From the sample to the film.
    spots
        (3, 2): strongest spots that are found, per family.
    sigma
        Width of the log-normal factor on the squared structure factor of an orbit.
    steepness
        Power of the plane spacing by which low indices are brighter beyond what the spectrum gives.
    noise_mm
        Error of a spot in each direction, and the same for the centre of all.
    faulty
        Share of the patterns with spots lost and false spots.
    lost, false
        Largest share lost, and largest number of false spots as a share of the found.
    hole_mm
        Radius of the hole in the film.
    """

    a: tuple[tuple[float, float], ...] = ((2.5, 18.0), (2.5, 7.5), (3.2, 8.5))
    ratio: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.6, 6.0), (1.4, 4.5))
    distance_mm: tuple[float, float] = (36.0, 66.0)
    spots: tuple[tuple[int, int], ...] = ((24, 66), (45, 125), (32, 95))
    sigma: tuple[float, float] = (0.0, 2.2)
    steepness: tuple[float, float] = (0.0, 3.0)
    noise_mm: tuple[float, float] = (0.02, 0.15)
    faulty: float = 0.4
    lost: float = 0.3
    false: float = 0.3
    hole_mm: tuple[float, float] = (4.0, 11.0)


#: The game of LaueRL (arXiv 2604.11773) with its film, 0.5 pixels of 1/1284 of the film as error.
GAME = Ranges(
    a=((3.0, 15.0), (3.0, 6.0), (4.0, 7.0)),
    ratio=((1.0, 1.0), (2.0, 5.0), (12 / 7, 15 / 4)),
    distance_mm=(40.0, 60.0),
    spots=((30, 60), (60, 120), (40, 90)),
    sigma=(0.0, 0.0),
    steepness=(1.0, 1.0),
    noise_mm=(0.039, 0.039),
    faulty=0.0,
    hole_mm=(5.0, 5.0),
)


@dataclass(frozen=True, eq=False)
class Batch:
    """Patterns with their truth.

    Attributes
    ----------
    xy
        Spots on the film (n, 64, 2), millimetres from the beam, laboratory x and y; the brightest first, zeros at the end.
    count
        Spots of each pattern (n,).
    family
        Index into `FAMILIES` (n,).
    beam
        Reversed beam direction in the crystal (n, 3), folded by `folded`.
    log_ratio
        Logarithm of c/a (n,); 0 for cubic.
    distance_mm
        From sample to film (n,).
    orbit
        Class of each spot (n, 64): ``family * ORBITS + orbit`` for the low-index orbits, ``3 * ORBITS`` for others and
        false ones, -1 for no spot.
    """

    xy: NDArray[np.float32]
    count: NDArray[np.int64]
    family: NDArray[np.int64]
    beam: FloatArray
    log_ratio: FloatArray
    distance_mm: FloatArray
    orbit: NDArray[np.int64]


def folded(direction: FloatArray, family: int) -> FloatArray:
    """Directions moved into the asymmetric sector by the symmetry of the family, mirrors included.

    A pattern seen along a mirrored direction is the mirrored pattern: which of the two it is has to be tried.

    Parameters
    ----------
    direction
        Unit vectors (n, 3) in the crystal's Cartesian frame: x along a*, z along c*.
    family
        Index into `FAMILIES`.

    Returns
    -------
    folded
        (n, 3): ``0 <= z <= y <= x`` for cubic, ``0 <= y <= x, 0 <= z`` for tetragonal, an azimuth of 0 to 30 degrees
        from a* and ``0 <= z`` for hexagonal.
    """
    out = np.abs(np.asarray(direction, dtype=np.float64))
    if family == 0:
        return np.sort(out, axis=1)[:, ::-1]
    if family == 1:
        out[:, :2] = np.sort(out[:, :2], axis=1)[:, ::-1]
        return out
    azimuth = np.arctan2(out[:, 1], out[:, 0]) % (np.pi / 3)
    azimuth = np.minimum(azimuth, np.pi / 3 - azimuth)
    across = np.hypot(out[:, 0], out[:, 1])
    return np.stack([across * np.cos(azimuth), across * np.sin(azimuth), out[:, 2]], axis=1)


@lru_cache(maxsize=1)
def ray_lists() -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.int64]]:
    """Primitive indices of the three families, one after the other.

    Returns
    -------
    hkl
        Indices (n, 3), within each family by rising length for a c/a of 3.
    orbit
        Number of the orbit each belongs to (n,), within its family, in the same order.
    starts
        First row of each family and the end (4,).
    """
    hkl, orbit, starts = [], [], [0]
    for family, reach in enumerate(((14, 14, 14), (10, 10, 60), (11, 11, 45))):
        grid = np.mgrid[tuple(slice(-m, m + 1) for m in reach)].reshape(3, -1).T
        grid = grid[np.gcd.reduce(grid, axis=1) == 1]
        h, k, l = grid.T
        plane = (h * h + k * k + l * l, h * h + k * k, (h * h + h * k + k * k) * 4 / 3)[family]
        steep = 1.0 if family == 0 else 1.6 if family == 1 else 1.4  # the lowest c/a keeps the fewest l
        widest = (plane + (0 if family == 0 else (l / (6.0, 6.0, 4.5)[family]) ** 2)) <= _LARGEST_Q2[family]
        length = plane + (0.0 if family == 0 else 1.0) * (l / 3.0) ** 2
        grid, length = grid[widest], length[widest]
        h, k, l = np.abs(grid.T)
        third = np.abs(grid[:, 0] + grid[:, 1])
        name = {
            0: lambda h=h, k=k, l=l: np.sort(np.stack([h, k, l], axis=1), axis=1),
            1: lambda h=h, k=k, l=l: np.stack([np.minimum(h, k), np.maximum(h, k), l], axis=1),
            2: lambda h=h, k=k, l=l, t=third: np.stack([np.minimum(np.minimum(h, k), t), np.maximum(np.maximum(h, k), t), l], axis=1),
        }[family]()
        del steep
        order = np.lexsort((name[:, 2], name[:, 1], name[:, 0], np.round(length, 6)))
        _, first, inverse = np.unique(name[order], axis=0, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        hkl.append(grid[order].astype(np.int16))
        orbit.append(rank[inverse.ravel()].astype(np.int64))
        starts.append(starts[-1] + len(grid))
    return np.concatenate(hkl), np.concatenate(orbit), np.array(starts)
