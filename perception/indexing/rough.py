"""Indexing with a pose that is only roughly known: hypotheses on the pose, nearest to the drawing first.

The search bears a pose that is off by a few percent of the distance: what is left after one rotation must stay
within a degree. A wider uncertainty is cut into hypotheses of that size; each is indexed with its own small
prior, and the first confident answer is refined under the wide one.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from lauepilot.perception.indexing.indexer import Indexer, IndexResult
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.detector import Detector

#: A detector that was placed by the drawing, not calibrated.
ROUGH_PRIOR = GeometryPrior(distance_mm=5.0, centre_mm=5.0, tilt_deg=1.0)

#: Share of the distance that one hypothesis covers (a standard deviation), and confidence that ends the search.
WIDTH, SURE = 0.025, 0.9999

#: Brightest spots to search with while the pose is open: few first, since wide tolerances let many agree by chance.
BRIGHTEST = (40, 60)


def index_rough(
    indexer: Indexer,
    spots: SpotList,
    detector: Detector | None = None,
    *,
    prior: GeometryPrior = ROUGH_PRIOR,
    cell_sigma: float = 0.0,
    complete: bool = False,
) -> IndexResult:
    """Index with a pose known to within ``prior`` only; the arguments are those of `Indexer.index`.

    The answer's covariance holds the uncertainty of the pose as far as the frame leaves it open.

    Raises
    ------
    IndexingError
        If there are fewer than four spots.
    """
    where = indexer.instrument.detector if detector is None else detector
    width = WIDTH * where.distance_mm
    fine = GeometryPrior(min(prior.distance_mm, width), min(prior.centre_mm, width), prior.tilt_deg)
    ranked = spots.take(np.argsort(-spots.counts, kind="stable"))
    tries = [
        (n, shift)
        for n in BRIGHTEST
        for shift in _shifts(prior, width)
        if n == BRIGHTEST[0] or n <= len(spots)
    ]
    best: IndexResult | None = None
    for tried, (n, shift) in enumerate(tries, start=1):
        pose = where.moved(
            distance_mm=shift[0],
            centre_col_px=shift[1] / where.pixel_mm[0],
            centre_row_px=shift[2] / where.pixel_mm[1],
        )
        result = indexer.index(ranked.take(slice(0, n)), pose, prior=fine)
        # Each hypothesis is another chance for a wrong answer.
        odds = tried * (1.0 - result.confidence) / max(result.confidence, 1e-12)
        result = replace(result, confidence=1.0 / (1.0 + odds))
        if best is None or result.score > best.score:
            best = result
        if result.confidence >= SURE:
            break
    if best is None or best.refinement is None:
        return IndexResult(None, 0.0, 0.0, 0, None)
    return indexer.settle(best, spots, where, prior=prior, cell_sigma=cell_sigma, complete=complete)


def _shifts(prior: GeometryPrior, width: float) -> list[tuple[float, float, float]]:
    """Shifts (distance, centre col, centre row) in mm that cover 1.5 standard deviations of the prior, nearest
    first.
    """

    def steps(sigma: float) -> list[float]:
        n = int(np.ceil(max(1.5 * sigma - width, 0.0) / (1.5 * width)))
        return [1.5 * width * k for k in range(-n, n + 1)]

    grid = itertools.product(steps(prior.distance_mm), steps(prior.centre_mm), steps(prior.centre_mm))
    return sorted(grid, key=lambda s: sum(x * x for x in s))
