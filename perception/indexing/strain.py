"""Whether a refined strain is one: how often spots of an unstrained cell would give as large a one by chance."""

from __future__ import annotations

import numpy as np
import scipy.stats

from lauepilot.perception.indexing.refine import Refinement, predict_pixels, strained
from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS


def strain_chance(crystal: Crystal, fit: Refinement) -> float:
    """Probability that positions of an unstrained cell give a strain as large as the refined one by chance.

    F test of the five components, with what the spots tell of them once the rotation, and the pose where the fit left it
    free, have taken up what they can. The error of a spot is that of the fit's own residuals: it is known the worse the
    fewer numbers are left over, which chi-square would leave out. 1 without strain, and where too few spots are explained.

    Parameters
    ----------
    crystal
        With the cell that the fit started from.
    fit
        Result of `lauepilot.perception.indexing.refine.refine` with a ``cell_sigma``.
    """
    pose = np.flatnonzero(fit.geometry_sigma > 0.0)
    degrees = 2 * len(fit.hkl) - 8 - len(pose)
    if not fit.strain.any() or degrees < 1:
        return 1.0
    rays = fit.hkl @ crystal.b.T  # not by fit.ray: the indexer may have used a table of its own
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)

    def pixels(x: FloatArray) -> FloatArray:
        e = np.array([[x[0], x[2], x[3]], [x[2], x[1], x[4]], [x[3], x[4], -x[0] - x[1]]])
        shift = np.zeros(len(GEOMETRY_PARAMETERS))
        shift[pose] = x[8:]
        moved = fit.detector.moved(*(float(s) for s in shift)) if len(pose) else fit.detector
        return predict_pixels(rotation_matrix(x[5:8]) @ fit.u, strained(rays, e), moved).ravel()

    start = np.zeros(8 + len(pose))
    start[:5] = fit.strain[[0, 1, 0, 0, 1], [0, 1, 1, 2, 2]]
    small = 1e-6
    steps = small * np.eye(len(start))
    slopes = np.stack([(pixels(start + d) - pixels(start - d)) / (2.0 * small) for d in steps], axis=1)
    shape, rest = slopes[:, :5], slopes[:, 5:]
    shape = shape - rest @ np.linalg.lstsq(rest, shape, rcond=None)[0]
    variance = float(np.sum(fit.residual_px**2)) / degrees
    ratio = float(np.sum((shape @ start[:5]) ** 2)) / 5.0 / max(variance, 1e-12)
    return float(scipy.stats.f.sf(ratio, 5, degrees))
