"""Several grains in one frame: how many are found, how many are invented, and what their volumes are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lauepilot.bench.figures import Figure, median, share
from lauepilot.bench.lists import anywhere
from lauepilot.bench.timing import CLOCK, one_core, timed
from lauepilot.perception.grains.find import SURE, Grain, index_grains
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray, random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import cached_table, predict_spots
from lauepilot.simulator.orientation import misorientation

CELLS = ("si", "quartz", "ca2ruo4", "kyanite")
PLACES = ("lab", "bm32")
TOLERANCE_DEG = 0.3
#: Faintest rays of the lists, relative to the brightest; scatter of log intensities; errors of positions; spots lost.
TRUTH_RELATIVE, LOG_SIGMA, NOISE_PX, MISSING = 1e-3, 0.3, 0.3, 0.1
#: False spots as a share of the list: where there is one grain, and in mixtures.
FALSE_SINGLE, FALSE_MIXED = 0.6, 0.3


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Figures on grains: lists of one grain with 60 % false spots, and of 2 to 5 with volumes from 1 : 1 to 1 : 10."""
    n = 4 if quick else 60
    alone: list[bool] = []
    found: list[bool] = []
    invented: list[bool] = []
    off: list[float] = []
    pulls: list[bool] = []
    seconds: list[float] = []
    with one_core():
        for place in PLACES:
            for cell in CELLS:
                say(f"grains of {cell} on {place}")
                indexer = Indexer(load_crystal(cell), load_instrument(place))
                rng = np.random.default_rng((60, *cell.encode(), *place.encode()))
                for _ in range(n):
                    _, spots = mixture(indexer, np.ones(1), FALSE_SINGLE, rng)
                    alone.append(len(index_grains(indexer, spots)) == 1)
                for _ in range(n):
                    volumes = np.exp(rng.uniform(np.log(0.1), 0.0, rng.integers(2, 6)))
                    truth, spots = mixture(indexer, volumes, FALSE_MIXED, rng)
                    grains, spent = timed(index_grains, indexer, spots)
                    seconds.append(spent)
                    which = matched(indexer, truth, grains)
                    found += [k in which for k in range(len(volumes))]
                    invented.append(any(k < 0 for k in which))
                    if sorted(which) == list(range(len(volumes))):
                        right = volumes[which] / volumes.sum()
                        off += [abs(g.share - r) for g, r in zip(grains, right, strict=True)]
                        pulls += [
                            abs(g.share - r) <= 1.96 * g.share_sigma
                            for g, r in zip(grains, right, strict=True)
                        ]
    settings: dict[str, Any] = {
        "crystals": list(CELLS), "instruments": list(PLACES), "within_deg": TOLERANCE_DEG, "declared_at": SURE,
        "noise_px": NOISE_PX, "log_sigma": LOG_SIGMA, "missing": MISSING,
    }  # fmt: skip
    mixed = {**settings, "grains": "2 to 5, volumes 0.1 to 1, log-uniform", "false": FALSE_MIXED}
    return [
        share("grains_single", alone, {**settings, "false": FALSE_SINGLE}),
        share("grains_recall", found, mixed),
        share("grains_invented", invented, {**mixed, "what": "lists with a grain that is not there"}),
        median(
            "grains_share_error",
            off,
            "fraction",
            {**mixed, "what": "of the volume; lists with all grains found"},
        ),
        share("grains_share_coverage_95", pulls, mixed),
        median("grains_ms", [1e3 * s for s in seconds], "ms", {**mixed, "clock": CLOCK}),
    ]


def mixture(
    indexer: Indexer, volumes: FloatArray, false: float, rng: np.random.Generator
) -> tuple[list[FloatArray], SpotList]:
    """Random orientations (3, 3) of grains of so many volumes (G,), and the list of their spots in random order.

    The list goes as deep as the indexer's table does for the largest grain: small grains show their brightest spots alone.
    ``false`` is the share of the whole list that is no grain's.
    """
    table, detector = (
        cached_table(indexer.crystal, indexer.instrument, TRUTH_RELATIVE),
        indexer.instrument.detector,
    )
    truth = [random_rotation(rng) for _ in volumes]
    seen = [predict_spots(table, u) for u in truth]
    counts = [
        1e4 * v * s.rate_per_s * np.exp(LOG_SIGMA * rng.normal(size=len(s)))
        for v, s in zip(volumes, seen, strict=True)
    ]
    top = int(np.argmax(volumes))
    deep = min(len(predict_spots(indexer.table, truth[top])), len(counts[top]))
    limit = np.sort(counts[top])[::-1][deep - 1]
    pixels, bright = np.concatenate([s.pixels for s in seen]), np.concatenate(counts)
    kept = (bright > limit) & (rng.random(len(bright)) > MISSING)
    pixels, bright = pixels[kept] + NOISE_PX * rng.normal(size=(int(kept.sum()), 2)), bright[kept]
    more = round(false * len(bright) / (1.0 - false))
    pixels = np.concatenate([pixels, anywhere(detector, more, rng)])
    bright = np.concatenate([bright, rng.choice(bright, more)])
    order = rng.permutation(len(bright))
    n = len(order)
    covariance = np.tile(np.eye(2) * NOISE_PX**2, (n, 1, 1))
    return truth, SpotList(
        pixels[order], covariance, bright[order], np.sqrt(bright[order]), np.zeros(n, dtype=np.bool_)
    )


def matched(indexer: Indexer, truth: Sequence[FloatArray], grains: Sequence[Grain]) -> list[int]:
    """For each grain found the true one that it is; -1 for one that is not there, or is there already."""
    out: list[int] = []
    for grain in grains:
        apart = [float(misorientation(grain.orientation.u, u, indexer.crystal.symmetry)) for u in truth]
        k = int(np.argmin(apart))
        out.append(k if apart[k] < np.deg2rad(TOLERANCE_DEG) and k not in out else -1)
    return out
