"""Speed of the simulator: spot lists and images on one core, with LaueTools beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lauepilot.bench import lauetools
from lauepilot.bench.figures import Figure, Peer, median
from lauepilot.bench.timing import CLOCK, one_core, timed
from lauepilot.simulator.conventions import FloatArray, random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.kernels import pack_detector, trace_batch
from lauepilot.simulator.laue import RayTable
from lauepilot.simulator.render import render_batch

#: Patterns a batch: its lists fit the processor's cache.
BATCH = 200
BAND_KEV = (5.0, 22.0)


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """All figures of ``lauepilot bench simulator``."""
    rng = np.random.default_rng(1)
    with one_core():
        say("spot lists: Si on lab")
        figures = [_spots(rng, 10 if quick else 100)]
        peer = lauetools.load()
        if peer is not None:
            say(f"spot lists: Si on bm32, {BAND_KEV[0]:g} to {BAND_KEV[1]:g} keV, beside {peer.name}")
            figures.append(_beside_lauetools(rng, peer, 10 if quick else 40))
        say("images of 84 x 84: Si on lab")
        lab = load_instrument("lab")
        figures.append(
            _images("images_per_s", rng, "si", "lab", lab.detector.binned((84, 84)), 100, 10 if quick else 60)
        )
        say("frames of 2018 x 2016: Ge on bm32")
        figures.append(
            _images(
                "frames_2k_per_s", rng, "ge", "bm32", load_instrument("bm32").detector, 2, 6 if quick else 20
            )
        )
    return figures


def list_times_s(table: RayTable, us: FloatArray, batch: int = BATCH) -> tuple[list[float], float]:
    """Processor seconds a pattern of each batch of orientations (m, 3, 3), and the mean number of spots."""
    detector = pack_detector(table.instrument.detector)
    trace_batch(us[:2], table, detector, table.polarisation)
    times, spots = [], 0
    for start in range(0, len(us), batch):
        part = us[start : start + batch]
        lists, seconds = timed(trace_batch, part, table, detector, table.polarisation)
        times.append(seconds / len(part))
        spots += len(lists[0])
    return times, spots / len(us)


def _spots(rng: np.random.Generator, batches: int) -> Figure:
    table = RayTable.build(load_crystal("si"), load_instrument("lab"))
    times, spots = list_times_s(table, random_rotation(rng, batches * BATCH))
    return median(
        "spots_us",
        [1e6 * t for t in times],
        "us/pattern",
        {
            "crystal": "si",
            "instrument": "lab",
            "batch": BATCH,
            "rays": len(table),
            "spots_per_pattern": round(spots, 1),
            "clock": CLOCK,
        },
        n=batches * BATCH,
    )


def _beside_lauetools(rng: np.random.Generator, peer: lauetools.LaueTools, rounds: int) -> Figure:
    """Rounds of one batch of ours and a few patterns of theirs, taken in turn: a busy machine slows both."""
    crystal, instrument = load_crystal("si"), lauetools.bm32_band(*BAND_KEV)
    tables = {
        "default": RayTable.build(crystal, instrument),
        "same": RayTable.build(crystal, instrument, min_relative=1e-7),
    }
    theirs: list[float] = []
    ours: dict[str, list[float]] = {k: [] for k in tables}
    spots, counted = dict.fromkeys(tables, 0.0), 0
    for k in range(rounds + 1):
        us = random_rotation(rng, BATCH)
        with lauetools.quiet():
            calls = [
                peer.simulation(crystal, instrument.detector, u, BAND_KEV, harmonics=True) for u in us[:5]
            ]
            patterns, seconds = timed(_all, calls)
        fresh = {key: list_times_s(table, us) for key, table in tables.items()}
        if k == 0:  # the first round warms caches of both
            continue
        theirs.append(seconds / len(calls))
        counted += sum(len(pattern[0]) for pattern in patterns)
        for key, (times, n) in fresh.items():
            ours[key].append(times[0])
            spots[key] += n / rounds
    ratios = {k: [a / b for a, b in zip(theirs, ours[k], strict=True)] for k in tables}
    us_of = {k: 1e6 * float(np.median(v)) for k, v in ours.items()}
    return median(
        "spots_ratio_lauetools",
        ratios["default"],
        "ratio",
        {
            "crystal": "si",
            "instrument": "bm32",
            "band_kev": list(BAND_KEV),
            "lauetools": f"{peer.version}, lauecore.SimulateLaue_full_np(removeharmonics=0), a pattern a call",
            "lauetools_us": 1e6 * float(np.median(theirs)),
            "lauetools_spots_per_pattern": round(counted / (5 * rounds), 1),
            "ours": f"trace_batch, {BATCH} patterns a call; rays of at least 1 % of the brightest, with intensities",
            "ours_us": us_of["default"],
            "ours_spots_per_pattern": round(spots["default"], 1),
            "compares": "our default lists with theirs, which hold more and fainter spots; like for like is below",
            "with_every_spot_of_theirs": {
                "ours_us": us_of["same"],
                "ours_spots_per_pattern": round(spots["same"], 1),
                "ratio": float(np.median(ratios["same"])),
            },
            "clock": CLOCK,
        },
        n=rounds * 5,
        peer=Peer(f"{peer.name}, us/pattern", 1e6 * float(np.median(theirs))),
    )


def _all(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]


def _images(
    name: str,
    rng: np.random.Generator,
    crystal: str,
    where: str,
    detector: Detector,
    batch: int,
    batches: int,
) -> Figure:
    instrument = load_instrument(where)
    table = RayTable.build(load_crystal(crystal), instrument)
    seconds = instrument.exposure_s
    render_batch(table, random_rotation(rng, 1), seconds, rng, detector=detector)
    speeds = []
    for _ in range(batches):
        us = random_rotation(rng, batch)
        _, spent = timed(render_batch, table, us, seconds, rng, detector=detector)
        speeds.append(batch / spent)
    return median(
        name,
        speeds,
        "1/s",
        {
            "crystal": crystal,
            "instrument": where,
            "shape": list(detector.shape),
            "exposure_s": seconds,
            "batch": batch,
            "noise": "Poisson and electronics",
            "clock": CLOCK,
        },
        n=batch * batches,
    )
