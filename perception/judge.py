"""What is wrong with a frame: plain sentences on background, powder, panels, saturation, flips and crystals that are alike.

A mirrored image
    Mirroring a lattice in a plane that holds the beam is the same as turning it by 180 degrees and inverting it, and
    lattices, as well as intensities that obey Friedel's law, do not change under inversion. So an image that is flipped
    about a line through the direct beam looks like a crystal at another orientation, for every crystal. Only a flip that
    is not of this kind (along the beam, where the detector stands beside it; or about a line that misses the beam by more
    than the pose is uncertain) can be told from one frame: the pattern then fits when flipped back, and not as it came.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from lauepilot.perception.alike import alike_in_zoo
from lauepilot.perception.indexing.indexer import Indexer, IndexResult
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.indexing.rough import index_by_prior
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.frame import Frame

Kind = Literal["background", "panels", "saturated", "powder", "flipped", "crystal", "alike"]

#: Below this the indexer's answer is unsure.
SURE = 0.95

#: Spots from which on a pattern should give an answer if the crystal is the right one.
ENOUGH = 12

#: A ring: spots within so many degrees of one scattering angle, at least so many, in so many of 24 sectors about the beam.
RING_DEG, RING_SPOTS, RING_SECTORS = 0.3, 12, 8

#: Sectors of a frame, peaks that count (standard deviations), and share of the sectors that must show one.
SECTORS, RING_SIGMA, RING_SHARE = 24, 6.0, 0.6

#: A dead stripe is told of if a sensor without one shows such a stripe less often than this.
CHANCE_OF_STRIPE = 1e-3


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or that the user must know.

    Attributes
    ----------
    kind
        For programs.
    text
        For people: what was wanted, what came, what to do.
    fault
        Whether no orientation from this frame should be believed until it is put right; else it is a remark.
    """

    kind: Kind
    text: str
    fault: bool


def judge(
    spots: SpotList,
    indexer: Indexer,
    result: IndexResult | None,
    *,
    frame: Frame | None = None,
    prior: GeometryPrior | None = None,
) -> list[Finding]:
    """What is wrong with a frame or list, worst first; an empty list if nothing is.

    Parameters
    ----------
    spots
        All found spots.
    indexer
        Of the crystal that was looked for; its instrument's pose is the one believed.
    result
        Its answer; None if there were too few spots to ask.
    frame
        The frame, if the spots come from one.
    prior
        How well the pose was known; the indexer's own by default.
    """
    detector = indexer.instrument.detector
    known = indexer.prior if prior is None else prior
    sure = result is not None and result.orientation is not None and result.confidence >= SURE
    found = []
    if frame is not None:
        found += panels(frame, detector)
    if not sure:
        rings = powder(spots, detector, frame)
        found += rings
        if not rings and len(spots) < ENOUGH:
            found.append(few_spots(spots, frame))
        if not rings and len(spots) >= ENOUGH and result is not None:
            flip = flipped(spots, indexer, result, known)
            found += [flip] if flip is not None else [no_answer(spots, indexer, result)]
    found += saturated(spots)
    if sure:
        found += alike(indexer.crystal)
    return sorted(found, key=lambda f: not f.fault)


def wrong_shape(shape: tuple[int, int], detector: Detector) -> Finding | None:
    """Say what a frame of another shape (rows, cols) than the detector's may be; None if the shape is right."""
    if shape == detector.shape:
        return None
    rows, cols = detector.shape
    wanted = f"The detector {detector.name!r} has {rows} x {cols} (rows x columns) pixels; "
    wanted += f"the frame has {shape[0]} x {shape[1]}"
    for axis, (came, one, other, expected) in enumerate(
        ((shape[1], cols, shape[0], rows), (shape[0], rows, shape[1], cols))
    ):
        several = round(came / one)
        if several >= 2 and other == expected and 0 <= came - several * one <= 0.1 * came:
            side = ("side by side", "one above the other")[axis]
            cut = (f"frame[:, :{cols}]", f"frame[:{rows}]")[axis]
            return Finding(
                "panels",
                f"{wanted}: it looks like {several} detectors {side}. Each has a pose of its own: cut the frame and index "
                f"the parts one by one (the first is {cut}), or describe the whole as one instrument.",
                True,
            )
    if shape == (cols, rows):
        return Finding(
            "panels",
            f"{wanted}: rows and columns are exchanged. Turn the image, or exchange shape, col_direction and "
            f"row_direction in "
            "the instrument file.",
            True,
        )
    ratio = rows / shape[0]
    if ratio == cols / shape[1] and (ratio >= 2.0 or ratio <= 0.5):
        return Finding(
            "panels",
            f"{wanted}: the same sensor read in pixels {ratio:g} times as wide. Change shape, pixel_mm and centre_px in the "
            "instrument file, or take the unbinned frame.",
            True,
        )
    return Finding("panels", f"{wanted}. Name the instrument that it was taken on.", True)


def panels(frame: Frame, detector: Detector) -> list[Finding]:
    """Dead stripes across a whole frame, as between the panels of a composed detector, where the instrument
    knows of none.
    """
    stripes = []
    live = (
        detector.mask() if frame.counts.shape == detector.shape else np.ones(frame.counts.shape, dtype=bool)
    )
    for axis, word in ((0, "columns"), (1, "rows")):
        low, high = (np.where(live, frame.counts, fill) for fill in (np.inf, -np.inf))
        flat = (low.min(axis=axis) == high.max(axis=axis)) & (live.mean(axis=axis) > 0.5)
        # Where photons are rare, lines without one are common: a stripe must be unlikely.
        lit = np.mean((live & (frame.counts > low.min(axis=axis, keepdims=True))).sum(axis=axis))
        labels, count = ndimage.label(flat)
        for first, last in (np.flatnonzero(labels == k + 1)[[0, -1]] for k in range(count)):
            unlikely = len(flat) * math.exp(-lit * (last - first + 1)) < CHANCE_OF_STRIPE
            if unlikely and last - first >= 2 and first > 0 and last < len(flat) - 1:
                stripes.append(f"{word} {first} to {last}")
    if not stripes:
        return []
    return [
        Finding(
            "panels",
            f"One sensor was expected; {', '.join(stripes[:4])} of the frame see nothing, as between two "
            f"panels. If these have "
            "different poses, cut the frame and index the parts one by one; if not, list the gap under 'blind' in the "
            "instrument file.",
            False,
        )
    ]


def few_spots(spots: SpotList, frame: Frame | None) -> Finding:
    """Too few spots for an answer."""
    came = f"{len(spots)} spots stand out of the noise"
    if frame is not None:
        photons = (float(np.median(frame.counts)) - frame.offset) / frame.gain
        came += f"; the rest of the frame is background of about {photons:.3g} photons a pixel"
        came += " (below zero: was a dark frame subtracted?)" if photons < 0.0 else ""
    kind: Kind = "background" if len(spots) < 4 else "crystal"
    return Finding(
        kind,
        f"At least four spots are needed for an orientation, {ENOUGH} for a sure one; {came}. Was the shutter open, is the "
        "crystal in the beam? Then expose longer.",
        True,
    )


def powder(spots: SpotList, detector: Detector, frame: Frame | None = None) -> list[Finding]:
    """Rings about the beam instead of single spots."""
    share, rings = _spots_on_rings(spots, detector)
    sectors = 0.0 if frame is None else _sectors_with_rings(frame, detector)
    if share < 0.5 and sectors < RING_SHARE:
        return []
    if sectors >= RING_SHARE:
        came = f"{100 * sectors:.0f} % of the directions about the beam show arcs at fixed scattering angles"
    else:
        came = f"{100 * share:.0f} % of the spots lie on {rings} rings about the beam"
    return [
        Finding(
            "powder",
            f"The spots of a single crystal were wanted; {came}: a powder or a fine-grained sample. It has no one "
            "orientation. Take a single crystal, a smaller beam, or a powder program.",
            True,
        )
    ]


def _spots_on_rings(spots: SpotList, detector: Detector) -> tuple[float, int]:
    """Share of the spots that lie on crowded rings, and how many rings there are."""
    if len(spots) < RING_SPOTS:
        return 0.0, 0
    rays = detector.pixels_to_rays(spots.pixels)
    angle = np.rad2deg(np.arccos(np.clip(rays[:, 2], -1.0, 1.0)))
    sector = np.floor((np.arctan2(rays[:, 1], rays[:, 0]) / (2.0 * np.pi) + 0.5) * SECTORS).astype(int)
    order = np.argsort(angle)
    angle, sector = angle[order], sector[order]
    crowd = max(RING_SPOTS, 4.0 * len(spots) * RING_DEG / max(float(np.ptp(angle)), RING_DEG))
    on_ring = np.zeros(len(angle), dtype=bool)
    for k in range(len(angle)):
        end = int(np.searchsorted(angle, angle[k] + RING_DEG))
        if end - k >= crowd and len(np.unique(sector[k:end])) >= RING_SECTORS:
            on_ring[k:end] = True
    starts = np.diff(angle[on_ring], prepend=-np.inf) > RING_DEG
    return float(on_ring.mean()), int(np.count_nonzero(starts))


def _sectors_with_rings(frame: Frame, detector: Detector) -> float:
    """Share of the sectors about the beam whose median intensity has a sharp peak at some scattering angle.

    The middle half of the pixels does not see single spots; and since each sector is asked by itself, a pose that is
    wrong by degrees does not smear the rings.
    """
    high, wide = frame.counts.shape
    step = max(1, round(math.sqrt(high * wide / 1e6)))
    rows, cols = np.mgrid[0:high:step, 0:wide:step]
    pixels = np.stack([cols.ravel(), rows.ravel()], axis=1)
    pixels = pixels[detector.sees(pixels)]
    rays = detector.pixels_to_rays(pixels)
    counts = np.asarray(frame.counts, dtype=float)[pixels[:, 1], pixels[:, 0]]
    angle = np.arccos(np.clip(rays[:, 2], -1.0, 1.0))
    bins = 240
    bin_of = np.minimum(
        ((angle - angle.min()) / max(float(np.ptp(angle)), 1e-9) * bins).astype(int), bins - 1
    )
    sector = (
        np.floor((np.arctan2(rays[:, 1], rays[:, 0]) / (2.0 * np.pi) + 0.5) * SECTORS).astype(int) % SECTORS
    )
    seen = peaked = 0
    for s in range(SECTORS):
        mine = np.flatnonzero(sector == s)
        order = mine[np.argsort(bin_of[mine], kind="stable")]
        edges = np.searchsorted(bin_of[order], np.arange(bins + 1))
        full = np.flatnonzero(np.diff(edges) >= 30)
        if len(full) < 20:
            continue
        parts = [np.sort(counts[order[edges[b] : edges[b + 1]]]) for b in full]
        # Means of the middle half: as deaf to spots as the median, but not tied to whole counts.
        middle = np.array([p[len(p) // 4 : -(len(p) // 4)].mean() for p in parts])
        error = np.array(
            [(p[3 * len(p) // 4] - p[len(p) // 4]) / 1.35 / np.sqrt(len(p) / 1.3) for p in parts]
        )
        above = middle - ndimage.median_filter(middle, 15, mode="nearest")
        noise = np.maximum(error, 1.4826 * float(np.median(np.abs(above))))
        seen += 1
        peaked += bool(np.any(above[2:-2] > RING_SIGMA * np.maximum(noise[2:-2], 1e-9)))
    return peaked / seen if seen >= 2 else 0.0


def saturated(spots: SpotList) -> list[Finding]:
    """Spots whose counts are lower bounds."""
    many = int(np.count_nonzero(spots.saturated))
    if many == 0:
        return []
    sigma = np.sqrt(np.trace(spots.covariance_px2, axis1=1, axis2=2) / 2.0)
    rest = sigma[~spots.saturated]
    others = f" (others {np.median(rest):.3f} px)" if len(rest) else ""
    return [
        Finding(
            "saturated",
            f"{many} of {len(spots)} spots are saturated. Their places are used, from the pixels that are "
            f"not, with an error "
            f"of {np.median(sigma[spots.saturated]):.3f} px{others}; their counts are lower bounds. "
            "Expose for a shorter time if brightnesses matter.",
            False,
        )
    ]


#: Images that a detector's file may hold instead of the right one: name, and what to do to (col, row) in a frame.
FLIPS: dict[str, Callable[[FloatArray, int, int], FloatArray]] = {
    "left to right": lambda p, rows, cols: np.stack([cols - 1 - p[:, 0], p[:, 1]], axis=1),
    "top to bottom": lambda p, rows, cols: np.stack([p[:, 0], rows - 1 - p[:, 1]], axis=1),
}


def can_be_told(detector: Detector, name: str, prior: GeometryPrior) -> bool:
    """Whether a flip of the image shows in one frame: no mirror or turn that keeps the beam does the same to the rays."""
    rows, cols = detector.shape
    grid = np.stack(np.meshgrid(np.linspace(0, cols - 1, 9), np.linspace(0, rows - 1, 9)), axis=-1).reshape(
        -1, 2
    )
    before, after = detector.pixels_to_rays(grid), detector.pixels_to_rays(FLIPS[name](grid, rows, cols))
    left = np.inf
    for mirror in (1.0, -1.0):
        seen = before * np.array([mirror, 1.0, 1.0])
        # The best turn about the beam of complex numbers x + i y.
        a, b = seen[:, 0] + 1j * seen[:, 1], after[:, 0] + 1j * after[:, 1]
        turn = np.vdot(a, b)
        turn = turn / max(abs(turn), 1e-12)
        gap = np.hypot(np.abs(a * turn - b), seen[:, 2] - after[:, 2])
        left = min(left, float(np.sqrt(np.mean(gap**2))))
    # What a wrong pose may do: twice its standard deviations of centre and tilt.
    loose = 2.0 * prior.centre_mm / detector.distance_mm + 2.0 * np.deg2rad(prior.tilt_deg)
    return bool(left > max(loose, 5e-3))


def flipped(
    spots: SpotList, indexer: Indexer, result: IndexResult, prior: GeometryPrior | None = None
) -> Finding | None:
    """Whether the list fits when it is flipped back, and not as it came."""
    known = indexer.prior if prior is None else prior
    detector = indexer.instrument.detector
    rows, cols = detector.shape
    for name, flip in FLIPS.items():
        if not can_be_told(detector, name, known):
            continue
        back = replace(spots, pixels=flip(spots.pixels, rows, cols))
        found = index_by_prior(indexer, back, prior=known, complete=True)
        if found.orientation is not None and found.confidence >= 0.999 and found.score > result.score + 10.0:
            key = "col_direction" if name == "left to right" else "row_direction"
            return Finding(
                "flipped",
                f"The image is flipped {name}: as it came, {indexer.crystal.name} is found with a confidence of "
                f"{result.confidence:.2g}; flipped back, {found.n_indexed} of {len(spots)} spots fit with "
                f"{found.confidence:.4f}. "
                f"Flip the image, or change the sign of {key} in the instrument file (and count centre_px "
                f"from the other edge).",
                True,
            )
    return None


def mirror_remark(detector: Detector, prior: GeometryPrior) -> str:
    """One honest sentence on whether a flipped image of this detector could have been noticed."""
    told = [name for name in FLIPS if can_be_told(detector, name, prior)]
    blind = [name for name in FLIPS if name not in told]
    if not blind:
        return "A flipped image would have been noticed: it would not fit."
    return (
        f"A flip {' or '.join(blind)} cannot be noticed in one frame: mirrored about the beam, any crystal "
        f"looks like the same "
        "crystal turned by 180 degrees. Take a second frame after a known move if you doubt the instrument file."
    )


def no_answer(spots: SpotList, indexer: Indexer, result: IndexResult) -> Finding:
    """Enough spots, and no orientation to stand by."""
    name = indexer.crystal.name
    if result.orientation is None:
        came = f"no orientation of {name} stands out from chance"
    elif result.alternatives and result.confidence < 0.9:
        came = f"{len(result.alternatives) + 1} orientations of {name} fit about as well"
    else:
        came = f"the best one of {name} explains {result.n_indexed}, with a confidence of {result.confidence:.2g}"
    return Finding(
        "crystal",
        f"An orientation that explains most of {len(spots)} spots was wanted; {came}. Is it another crystal? Several grains "
        "(--grains auto)? A detector that is not where the instrument file says (--calibrate with a crystal you know)?",
        True,
    )


def alike(crystal: Crystal) -> list[Finding]:
    """Built-in crystals that would give the same answer."""
    others = alike_in_zoo(crystal)
    if not others:
        return []
    return [
        Finding(
            "alike",
            f"The directions of {crystal.name}'s planes are also those of {', '.join(others)}: places of spots do not "
            "tell these crystals apart, only brightnesses do. The orientation holds for all of them; that it is "
            f"{crystal.name} does not follow.",
            False,
        )
    ]
