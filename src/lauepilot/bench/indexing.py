"""Indexing with a known cell: success, wrong declarations and time on spoiled lists, with LaueTools beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from lauepilot.bench import lauetools
from lauepilot.bench.figures import Figure, Peer, median, quantile_interval, share
from lauepilot.bench.large_cell import CELL_A, large_crystal
from lauepilot.bench.lists import Spoiling, spoiled
from lauepilot.bench.timing import CLOCK, one_core, timed
from lauepilot.perception.indexing.indexer import Indexer, IndexingError, IndexResult
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray, random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import PredictedSpots, cached_table, predict_spots
from lauepilot.simulator.orientation import misorientation

#: One cell of each crystal system, cubic first.
SYSTEMS = ("si", "yfe2ge2", "4h-sic", "quartz", "ybco", "feps3", "kyanite")
CELLS_80 = (*SYSTEMS, "ca2ruo4", "jarosite")
PLACES = ("lab", "bm32")
PLACES_80 = (*PLACES, "koala")

#: From this confidence on an answer counts as declared.
DECLARED = 0.999
TOLERANCE_DEG = 0.5
PEER_BAND_KEV = (5.0, 23.0)
#: Faintest rays of the table that true lists come from, relative to the brightest: far fainter than the indexer's own.
TRUTH_RELATIVE = 3e-4
#: Cells longer than this are left out of the times, as the goals say.
LONGEST_A = 12.0

#: Where the large cell is looked for, and how deep the table of its true lists goes: a deeper one takes minutes.
PLACES_LARGE, TRUTH_RELATIVE_LARGE = ("bm32", "koala"), 3e-3

#: Lists of a few spots: their lengths, and the shares of true ones.
FEW_SPOTS, FEW_TRUE = (6, 15), (1.0, 0.8, 0.5)

#: Confidence bins of the reliability tables.
RELIABILITY = (0.0, 0.5, 0.9, 0.99, DECLARED, 1.0)


@dataclass(frozen=True)
class Trial:
    """One list: which cell where, whether the answer or a declared tie is right, confidence, seconds."""

    crystal: str
    instrument: str
    right: bool
    tie_right: bool
    confidence: float
    seconds: float

    @property
    def wrong_declared(self) -> bool:
        """Declared, and neither the answer nor a tie declared with it holds the truth."""
        return self.confidence >= DECLARED and not (self.right or self.tie_right)


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """All figures of ``lauepilot bench indexing``."""
    # 3,839 lists without an error prove 0.1 % (Wilson's interval).
    per_cell = {0: 100, 30: 276, 60: 100, 80: 144}
    n_few, n_large = 60, 40
    if quick:
        per_cell, n_few, n_large = {0: 4, 30: 8, 60: 8, 80: 4}, 4, 4
    sets: dict[int, list[Trial]] = {missing: [] for missing in per_cell}
    few: list[Trial] = []
    large: list[Trial] = []
    with one_core():
        for place in PLACES_80:
            for cell in CELLS_80:
                say(f"indexing {cell} on {place}")
                indexer = Indexer(load_crystal(cell), load_instrument(place))
                for missing, n in per_cell.items():
                    if missing == 80 or (cell in SYSTEMS and place in PLACES):
                        sets[missing] += trials(indexer, missing, n)
                if place in PLACES:
                    few += few_spot_trials(indexer, n_few)
        for place in PLACES_LARGE:
            say(f"indexing a large cell on {place}")
            indexer = Indexer(large_crystal(), load_instrument(place))
            large += trials(indexer, 80, n_large, TRUTH_RELATIVE_LARGE)
        peer = lauetools.load()
        peers = {}
        if peer is not None:
            for missing in (0, 30, 60):
                say(f"{peer.name}: si on bm32, {missing} % missing")
                peers[missing] = beside_lauetools(peer, missing, 3 if quick else 50)
    figures = [success(f"success_{m}", sets[m], m, peers.get(m)) for m in per_cell]
    figures += [
        share(
            f"wrong_confident_{m}",
            [t.wrong_declared for t in sets[m]],
            {
                "declared_at": DECLARED,
                **describe(m),
                "reliability": reliability(sets[m]),
                "reliability_few_spots": {"spots": FEW_SPOTS, "true": FEW_TRUE, "bins": reliability(few)},
            },
        )
        for m in (30, 80)
    ]
    return [*figures, *times_80(sets[80]), time_large(large)]


def trials(indexer: Indexer, missing: int, n: int, deeper: float = TRUTH_RELATIVE) -> list[Trial]:
    """So many random orientations of one cell on one instrument, each with its list; seeded by set, cell and instrument."""
    rng = np.random.default_rng((missing, *indexer.crystal.name.encode(), *indexer.instrument.name.encode()))
    out = []
    for k in range(n + 1):
        u, spots = draw(indexer, missing, rng, deeper)
        result, seconds = timed(_answer, indexer, spots)
        if k > 0:  # the first only warms the caches
            out.append(_trial(indexer, u, result, seconds))
    return out


def few_spot_trials(indexer: Indexer, n: int) -> list[Trial]:
    """Random orientations of one cell on one instrument, each with a list of `FEW_SPOTS` spots, some of them false.

    The true ones are drawn from the brightest, twice as many as the list is long.
    """
    rng = np.random.default_rng((15, *indexer.crystal.name.encode(), *indexer.instrument.name.encode()))
    out = []
    for _ in range(n):
        u = random_rotation(rng)
        spots = predict_spots(indexer.table, u)
        length = int(rng.integers(FEW_SPOTS[0], FEW_SPOTS[1] + 1))
        true = max(round(length * rng.choice(FEW_TRUE)), 3)
        bright = np.argsort(-spots.rate_per_s)[: 2 * length]
        chosen = PredictedSpots(**{f.name: getattr(spots, f.name)[bright] for f in fields(spots)})
        how = Spoiling(1.0 - true / len(chosen), (length - true) / len(chosen), least=3)
        result, seconds = timed(_answer, indexer, spoiled(chosen, indexer.instrument.detector, how, rng))
        out.append(_trial(indexer, u, result, seconds))
    return out


def draw(
    indexer: Indexer, missing: int, rng: np.random.Generator, deeper: float = TRUTH_RELATIVE
) -> tuple[FloatArray, SpotList]:
    """A random orientation (3, 3) and its spoiled list.

    The list is as long as the indexer would expect, but of the brightest spots of a deeper table: which spots those are
    differs from place to place on the sensor, and some of them the indexer does not know.
    """
    u = random_rotation(rng)
    return u, spoiled(truth(indexer, u, deeper), indexer.instrument.detector, Spoiling.percent(missing), rng)


def truth(indexer: Indexer, u: FloatArray, deeper: float = TRUTH_RELATIVE) -> PredictedSpots:
    """The brightest spots at ``u`` (3, 3), of a table much deeper than the indexer's (down to ``deeper`` of its brightest).

    As many as the indexer's own would give.
    """
    deep = predict_spots(cached_table(indexer.crystal, indexer.instrument, deeper), u)
    n = len(predict_spots(indexer.table, u))
    keep = np.sort(np.argsort(-deep.rate_per_s, kind="stable")[:n])
    return PredictedSpots(**{f.name: getattr(deep, f.name)[keep] for f in fields(deep)})


def _answer(indexer: Indexer, spots: SpotList) -> IndexResult | None:
    try:
        return indexer.index(spots)
    except IndexingError:
        return None


def _trial(indexer: Indexer, u: FloatArray, result: IndexResult | None, seconds: float) -> Trial:
    where = (indexer.crystal.name, indexer.instrument.name)
    if result is None or result.orientation is None:
        return Trial(*where, False, False, 0.0, seconds)
    found = [result.orientation, *result.alternatives]
    right = [
        bool(misorientation(o.u, u, indexer.crystal.symmetry) < np.deg2rad(TOLERANCE_DEG)) for o in found
    ]
    return Trial(*where, right[0], any(right[1:]), result.confidence, seconds)


def describe(missing: int) -> dict[str, Any]:
    """What a set is, for the settings of a figure."""
    how = Spoiling.percent(missing)
    return {
        "missing": how.missing,
        "false": how.false,
        "noise_px": how.noise_px,
        "least_left": how.least,
        "within_deg": TOLERANCE_DEG,
        "truth": f"brightest spots of a ray table down to {TRUTH_RELATIVE:g} of the brightest ray, as many as the indexer's "
        "own table gives there",
        "crystals": list(CELLS_80 if missing == 80 else SYSTEMS),
        "instruments": list(PLACES_80 if missing == 80 else PLACES),
    }


def success(name: str, done: Sequence[Trial], missing: int, peer: dict[str, Any] | None) -> Figure:
    """A set's success; at 80 % missing a declared tie that holds the truth counts."""
    ties = missing == 80
    settings = {
        **describe(missing),
        "declared_ties_count": ties,
        "median_ms": 1e3 * float(np.median([t.seconds for t in done])),
        "clock": CLOCK,
        "rows": rows(done, ties),
    }
    if peer is not None:
        settings["peer"] = peer
    return share(
        name,
        [t.right or (ties and t.tie_right) for t in done],
        settings,
        None
        if peer is None
        else Peer(f"{peer['name']}, {peer['crystal']} on {peer['instrument']}", peer["success"]),
    )


def rows(done: Sequence[Trial], ties: bool) -> list[dict[str, Any]]:
    """A line for each cell on each instrument."""
    out = []
    for crystal, place in dict.fromkeys((t.crystal, t.instrument) for t in done):
        mine = [t for t in done if (t.crystal, t.instrument) == (crystal, place)]
        ms = 1e3 * np.array([t.seconds for t in mine])
        out.append(
            {
                "crystal": crystal,
                "instrument": place,
                "n": len(mine),
                "success": float(np.mean([t.right or (ties and t.tie_right) for t in mine])),
                "wrong_declared": sum(t.wrong_declared for t in mine),
                "right_but_unsure": sum(t.right and t.confidence < DECLARED for t in mine),
                "median_ms": float(np.median(ms)),
                "p95_ms": float(np.quantile(ms, 0.95)),
                "max_ms": float(ms.max()),
            }
        )
    return out


def reliability(done: Sequence[Trial]) -> list[dict[str, Any]]:
    """By bins of confidence: how many answers, their mean confidence, and the share that holds the truth, ties included."""
    out = []
    for low, high in pairwise(RELIABILITY):
        mine = [t for t in done if low <= t.confidence < high or t.confidence == high == 1.0]
        if mine:
            out.append(
                {
                    "from": low,
                    "to": high,
                    "n": len(mine),
                    "mean_confidence": float(np.mean([t.confidence for t in mine])),
                    "right": float(np.mean([t.right or t.tie_right for t in mine])),
                }
            )
    return out


def time_large(done: Sequence[Trial]) -> Figure:
    """Median time for the large cell."""
    return median(
        "median_ms_large",
        [1e3 * t.seconds for t in done],
        "ms",
        {
            **describe(80),
            "crystals": ["made up: atoms at random, see `lauepilot.bench.large_cell`"],
            "cell_a": CELL_A,
            "instruments": list(PLACES_LARGE),
            "truth": f"as in success_80, but of a ray table down to {TRUTH_RELATIVE_LARGE:g} of the brightest ray",
            "clock": CLOCK,
            "rows": rows(done, True),
        },
    )


def times_80(done: Sequence[Trial]) -> list[Figure]:
    """Times of the hardest set over cells up to 12 angstrom: its median, that of the slowest, and the 95th percentile."""
    done = [t for t in done if max(load_crystal(t.crystal).cell[:3]) <= LONGEST_A]
    ms = [1e3 * t.seconds for t in done]
    crystals = list(dict.fromkeys(t.crystal for t in done))
    settings = {**describe(80), "crystals": crystals, "longest_cell_a": LONGEST_A, "clock": CLOCK}
    slowest = max(rows(done, True), key=lambda row: float(row["median_ms"]))
    worst = [
        1e3 * t.seconds
        for t in done
        if (t.crystal, t.instrument) == (slowest["crystal"], slowest["instrument"])
    ]
    return [
        median("median_ms", ms, "ms", settings),
        median(
            "median_ms_worst",
            worst,
            "ms",
            {
                "crystal": slowest["crystal"],
                "instrument": slowest["instrument"],
                "longest_cell_a": LONGEST_A,
                "clock": CLOCK,
            },
        ),
        Figure(
            "p95_ms", float(np.quantile(ms, 0.95)), "ms", len(ms), quantile_interval(ms, 0.95), None, settings
        ),
    ]


def beside_lauetools(peer: lauetools.LaueTools, missing: int, n: int) -> dict[str, Any]:
    """The same silicon lists on bm32 to both: success within the tolerance, and median time."""
    indexer = Indexer(load_crystal("si"), lauetools.bm32_band(*PEER_BAND_KEV))
    rng = np.random.default_rng((missing, 7))
    theirs, ours, their_s, our_s = [], [], [], []
    for _ in range(n):
        u, spots = draw(indexer, missing, rng)
        found, seconds = timed(
            peer.index, indexer.crystal, indexer.instrument.detector, spots, PEER_BAND_KEV[1]
        )
        their_s.append(seconds)
        answer, seconds = timed(_answer, indexer, spots)
        our_s.append(seconds)
        theirs.append(
            found is not None
            and bool(misorientation(found, u, indexer.crystal.symmetry) < np.deg2rad(TOLERANCE_DEG))
        )
        ours.append(_trial(indexer, u, answer, 0.0).right)
    return {
        "name": peer.name,
        "function": "indexingAnglesLUT.getOrientMatrices, 10 central spots of the 60 brightest, one process",
        "crystal": "si",
        "instrument": "bm32",
        "n": n,
        "success": float(np.mean(theirs)),
        "median_ms": 1e3 * float(np.median(their_s)),
        "our_success": float(np.mean(ours)),
        "our_median_ms": 1e3 * float(np.median(our_s)),
    }
