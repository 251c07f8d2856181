"""Where the low-index planes of a solved lattice reflect."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.unknown.lattice import POINTS, multiple
from lauepilot.perception.unknown.result import Solution
from lauepilot.simulator.conventions import BEAM, FloatArray
from lauepilot.simulator.detector import Detector

#: Reciprocal points that are looked through, for each spot wanted: a film sees some 5 % of all directions.
POINTS_A_SPOT = 120


def low_index_spots(
    solution: Solution, z: FloatArray, detector: Detector, most: int
) -> tuple[NDArray[np.int64], FloatArray]:
    """Indices (n, 3) and pixels (n, 2) of the planes with the shortest reciprocal vectors that the detector sees.

    Parameters
    ----------
    z
        The goniometer's rotation (3, 3).
    detector
        With the solution's distance and centre.
    most
        So many at most.
    """
    ub = solution.orientation.ub
    volume = abs(float(np.linalg.det(ub))) * POINTS[solution.centring]
    longest = np.cbrt(0.75 / np.pi * POINTS_A_SPOT * most * volume)
    highest = np.ceil(longest * np.linalg.norm(np.linalg.inv(ub), axis=1)).astype(int)
    grid = np.meshgrid(*[np.arange(-m, m + 1) for m in highest], indexing="ij")
    hkl = np.stack(grid, axis=-1).reshape(-1, 3)
    hkl = hkl[np.gcd.reduce(hkl, axis=1) == 1]
    q = hkl @ (z @ ub).T
    length = np.linalg.norm(q, axis=1)
    normal = q / length[:, None]
    k_out = BEAM - 2.0 * (normal @ BEAM)[:, None] * normal
    pixels = detector.rays_to_pixels(k_out)
    seen = np.flatnonzero((normal[:, 2] < 0.0) & detector.sees(pixels))
    size = length[seen] * multiple(hkl[seen], solution.centring)
    chosen = seen[np.argsort(size, kind="stable")[:most]]
    return hkl[chosen], pixels[chosen]
