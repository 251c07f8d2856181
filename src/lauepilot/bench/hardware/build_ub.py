"""UB from an unknown orientation on the twin of a four-circle, beside a plain scan of the whole half sphere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lauepilot.bench.figures import Figure, Peer, share
from lauepilot.perception.reflections.drive import drive, fly, worst_miss_deg
from lauepilot.perception.reflections.search import UbSearch
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.fourcircle_twin import DetectorKind, FourCircleTwin

#: Crystals of all systems; two (Sr4Ru3O10, FePSe3) are near a higher symmetry, which only weak reflections tell.
CRYSTALS = (
    "si", "ca2ruo4", "quartz", "kyanite", "sr4ru3o10", "feps3", "fepse3", "ybco", "cu", "sapphire",
)  # fmt: skip
WITHIN_DEG = 0.05


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """All figures of this part: 50 crystals and orientations with each detector, 4 if ``quick``."""
    trials = 4 if quick else 50
    rows = []
    kinds: tuple[DetectorKind, ...] = ("point", "area")
    for detector in kinds:
        say(f"build_ub: {trials} random orientations, {detector} detector, beside an exhaustive scan")
        rows += [trial(seed, detector, beside=seed < len(CRYSTALS)) for seed in range(trials)]
    good = [row["right"] for row in rows]
    peer = Peer(
        "exhaustive scan of chi and phi: two peaks found",
        float(np.mean([r["scan_two"] for r in rows if "scan_two" in r])),
    )
    settings: dict[str, Any] = {
        "crystals": list(CRYSTALS),
        "within_deg": WITHIN_DEG,
        "right_means": "ten reflections drawn at random are excited within the tolerance where UB sends the motors",
        "faults": "default",
        "clock": "the instrument's",
        "scan": "one trial of each crystal: all rows of the half sphere, same 2theta, bins and speed; without centring and "
        "indexing",
        **{kind: _summary([r for r in rows if r["detector"] == kind]) for kind in kinds},
        "failures": [r for r in rows if not r["right"]],
    }
    return [share("build_ub_success", good, settings, peer)]


def trial(seed: int, detector: DetectorKind, *, beside: bool = True) -> dict[str, Any]:
    """One crystal at one random orientation; ``beside`` it the scan, on a twin of the same seed."""
    crystal = load_crystal(CRYSTALS[seed % len(CRYSTALS)])
    twin = FourCircleTwin(crystal, rng=np.random.default_rng([seed, 41]))
    search = UbSearch(crystal, twin.instrument, detector)
    answer = drive(search, twin)
    miss = float("nan")
    if answer.ub is not None:
        miss = worst_miss_deg(answer.ub, twin, np.random.default_rng([seed, 42]))
    row: dict[str, Any] = {
        "crystal": crystal.name,
        "detector": detector,
        "seed": seed,
        "right": bool(miss <= WITHIN_DEG),
        "outcome": answer.outcome,
        "reason": answer.reason,
        "miss_deg": None if np.isnan(miss) else miss,
        "counts": twin.n_counts,
        "clock_s": twin.clock_s,
    }
    if beside:
        other = FourCircleTwin(crystal, rng=np.random.default_rng([seed, 41]))
        two = scan(UbSearch(crystal, other.instrument, detector), other)
        row |= {"scan_two": two, "scan_counts": other.n_counts, "scan_clock_s": other.clock_s}
    return row


def scan(search: UbSearch, twin: FourCircleTwin) -> bool:
    """Sweep every row of the half sphere; whether two reflections that are not parallel were seen."""
    seen = []
    for path in search.look.segments(search.look.best_tth()[0]):
        sweep = fly(twin, path, search)
        seen += [search.instrument.on_holder(angles) for angles in search.look.hits(path, sweep)]
    if len(seen) < 2:
        return False
    directions = np.array(seen)
    return bool(np.abs(directions @ directions[0]).min() < np.cos(np.deg2rad(5.0)))


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {"trials": len(rows), "right": sum(r["right"] for r in rows)}
    for name in ("counts", "clock_s", "scan_counts", "scan_clock_s"):
        values = [r[name] for r in rows if name in r]
        told[f"median_{name}"], told[f"worst_{name}"] = float(np.median(values)), float(np.max(values))
    misses = [r["miss_deg"] for r in rows if r["miss_deg"] is not None]
    told["median_miss_deg"] = float(np.median(misses)) if misses else None
    told["worst_miss_deg"] = float(np.max(misses)) if misses else None
    return told
