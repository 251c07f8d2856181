"""Names of planes: an indexed pattern told in the labels of another orientation of the same crystal.

The indexer returns one of the orientations that symmetry makes alike; which one is chance. Pictures and tables of one
alignment should call a plane by one name.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.perception.indexing.indexer import IndexResult
from lauepilot.simulator.conventions import FloatArray, rotation_angle
from lauepilot.simulator.target import Lattice


def labelled_like(result: IndexResult, u: ArrayLike, crystal: Lattice) -> IndexResult:
    """The result in the labels of the laboratory orientation ``u`` (3, 3) of the same crystal in the same place.

    Of all symmetry equivalents ``u_found S`` the one nearest to ``u`` gives the names.
    """
    if result.orientation is None:
        return result
    found = result.orientation.u @ crystal.symmetry
    nearest = int(np.argmin(rotation_angle(found @ np.asarray(u, dtype=float).T)))
    return relabelled(result, crystal.symmetry[nearest], crystal.b)


def relabelled(result: IndexResult, operation: FloatArray, b: FloatArray) -> IndexResult:
    """The result with its planes named anew by a symmetry operation ``S`` (3, 3), for ``B`` (3, 3): orientations ``u S``.

    Everything that is told of the laboratory stays: spots, residuals, covariance, pose. ``refinement.ray``, which numbers
    rays in the indexer's table, stays too, and speaks of the old names.
    """
    if result.orientation is None:
        return result
    s = np.asarray(operation, dtype=float)
    old_to_new = np.rint(np.linalg.solve(b, s.T @ b)).astype(np.int64)
    fit = result.refinement
    if fit is not None:
        fit = replace(fit, u=fit.u @ s, strain=s.T @ fit.strain @ s, hkl=fit.hkl @ old_to_new.T)
    return replace(
        result,
        orientation=result.orientation.relabelled(s),
        refinement=fit,
        alternatives=tuple(other.relabelled(s) for other in result.alternatives),
    )
