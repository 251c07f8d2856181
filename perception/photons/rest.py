"""What is left of an answer's evidence without the places that hold it up: against bright things that are no pattern."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from lauepilot.perception.indexing.refine import predict_pixels
from lauepilot.perception.photons.scene import View
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.laue import RayTable

#: Edge of the place that one spot, or something else that shines, may fill, pixels.
CLUMP_PX = 17

#: Places that are left out: through two points some orientation can always be laid.
PLACES = 2

#: Shares of signal that are tried without them, over the one with them.
_SHARES = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0])


def rest_llr(
    u: FloatArray,
    view: View,
    share: float,
    ratio: FloatArray,
    worth: FloatArray,
    table: RayTable,
    detector: Detector,
) -> float:
    """Log-likelihood ratio of an orientation without the `PLACES` that add most to it.

    Photons and rays there go, and the share of signal is fitted anew.

    Parameters
    ----------
    u, view
        The orientation (3, 3), and the frame as seen by it.
    share
        Of signal, with all places.
    ratio
        (n,) spots over background at the photons.
    worth
        (rows, cols) what the photons add to the log-likelihood.
    table, detector
        Rays, and the pose that goes with the orientation.
    """
    half, photons = 0.5 * CLUMP_PX, view.photons
    directions = table.direction[view.rays]
    pixels = predict_pixels(u, directions, detector)
    node = np.rint((-directions @ u[2] - table.sin_theta_min) / table.sin_theta_step).astype(int)
    rate = table.rate[view.rays, np.clip(node, 0, table.rate.shape[1] - 1)]
    here, out = np.zeros(len(pixels), dtype=bool), np.ones(len(photons.col), dtype=bool)
    sums = uniform_filter(worth, CLUMP_PX, mode="constant")
    for _ in range(PLACES):
        row, col = map(int, np.unravel_index(int(np.argmax(sums)), sums.shape))
        here |= (np.abs(pixels[:, 0] - col) <= half) & (np.abs(pixels[:, 1] - row) <= half)
        out &= (np.abs(photons.col - col) > half) | (np.abs(photons.row - row) > half)
        sums[max(row - CLUMP_PX, 0) : row + CLUMP_PX + 1, max(col - CLUMP_PX, 0) : col + CLUMP_PX + 1] = 0.0
    left = 1.0 - float(rate[here].sum() / max(rate.sum(), 1e-300))
    amount, others = photons.amount[out], photons.total - photons.amount.sum()
    seen = ratio[out] / max(left, 1e-3)
    shares = share * left * _SHARES
    return float(max((amount * np.log(1.0 - s + s * seen)).sum() + others * np.log(1.0 - s) for s in shares))
