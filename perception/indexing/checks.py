"""What a list of spots must be before compiled loops read it: they look numbers up in tables and ask no questions."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from lauepilot.perception.observation import SpotList

#: Spots nearer than this are one spot that is listed twice; and the share of them that a list may hold.
SAME_PX, REPEATED = 0.3, 0.2


class IndexingError(ValueError):
    """A list of spots that cannot be indexed at all: too few of them, or no numbers."""


def check_spots(spots: SpotList) -> None:
    """Refuse lists that cannot be indexed.

    Raises
    ------
    IndexingError
        If there are fewer than four spots, arrays do not belong together, hold NaN, or list many spots twice.
    """
    n = len(spots)
    shapes = (np.shape(spots.pixels), np.shape(spots.covariance_px2), np.shape(spots.counts))
    if shapes != ((n, 2), (n, 2, 2), (n,)):
        raise IndexingError(
            f"pixels (n, 2), covariance_px2 (n, 2, 2) and counts (n,) are wanted; {', '.join(map(str, shapes))} came."
        )
    if n < 4:
        raise IndexingError(
            f"{n} spots were found; an orientation needs at least 4. "
            "Expose longer, or check beam, crystal and detector."
        )
    good = np.isfinite(spots.pixels).all(axis=1) & np.isfinite(spots.counts)
    good &= ~np.isnan(spots.covariance_px2).any(axis=(1, 2))
    if not good.all():
        raise IndexingError(
            f"{n - int(good.sum())} of {n} spots have pixels, errors or counts that are no finite numbers; the first is "
            f"number {int(np.argmin(good))}. Leave them out: spots.take(numpy.isfinite(spots.pixels).all(axis=1))."
        )
    repeated = len(np.unique(cKDTree(spots.pixels).query_pairs(SAME_PX, output_type="ndarray")))
    if repeated > REPEATED * n:
        # The same evidence counted twice makes any answer look sure.
        raise IndexingError(
            f"{repeated} of {n} spots lie within {SAME_PX} pixels of another: is each listed twice? Join them first."
        )
