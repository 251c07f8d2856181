"""The whole way: spots of a crystal that nobody knows in, symmetry axes and axial ratios out."""

from __future__ import annotations

import numpy as np

from lauepilot.perception.unknown.axes import Axis, find_axes
from lauepilot.perception.unknown.hough import proposals_of_axis
from lauepilot.perception.unknown.reduce import conventional, relatives
from lauepilot.perception.unknown.result import Proposal, UnknownResult
from lauepilot.perception.unknown.settle import (
    COARSE,
    FAIR,
    FINALISTS,
    FINE,
    SURVIVORS,
    Batch,
    answer,
    best_of,
    direct_basis,
    joined,
    narrow,
    pack,
    refined,
    stands_out,
    with_kin,
)
from lauepilot.perception.unknown.sky import Frames, Sky, UnknownLatticeError, build_sky
from lauepilot.perception.unknown.zones import lattices_of_zones
from lauepilot.simulator.detector import Detector

#: Fewer spots never hold the answer.
LEAST_SPOTS = 8
#: Axes looked at one after the other, and peaks of the vote taken from each at each distance.
AXES, PEAKS = 24, 3
#: After so many axes the best proposals are settled; an answer that stands out ends the search.
LOOKS = (1, 3, 7, 14, 24)
#: A fair answer that so many further looks did not better ends it too.
CONFIRMED = 2
#: Lattices of four zone axes that are refined, and those of them whose relatives are tried.
ZONE_LATTICES, PARENTS = 24, 4


def search(sky: Sky) -> Batch:
    """Finalists, best first: axes one after the other, then lattices of zones, until an answer stands out."""
    axes = find_axes(sky, AXES)
    finalists = pack([])
    several = bool(sky.frame.max() > 0)
    if several:  # long zones are sharp, and low families are what several frames are taken for
        finalists = with_kin(of_zones(sky, axes), sky)
        if stands_out(finalists, sky):
            return finalists
    pool = pack([])
    before, confirmed = -np.inf, 0
    for number, axis in enumerate(axes, start=1):
        fresh: list[Proposal] = []
        for node, direction in zip(axis.nodes, axis.directions, strict=True):
            fresh += proposals_of_axis(sky, int(node), direction, PEAKS)
        pool = joined(pool, best_of(refined(pack(fresh), sky, COARSE), SURVIVORS))
        if number in LOOKS or number == len(axes):
            finalists = best_of(joined(finalists, narrow(best_of(pool, SURVIVORS), sky)), FINALISTS)
            pool = pack([])
            now = float(finalists.merit[0]) if len(finalists) else -np.inf
            confirmed = confirmed + 1 if now <= before + 1.0 else 0
            before = max(now, before)
            if stands_out(finalists, sky) or (confirmed >= CONFIRMED and stands_out(finalists, sky, FAIR)):
                return finalists
    return finalists if several else best_of(joined(finalists, of_zones(sky, axes)), FINALISTS)


def of_zones(sky: Sky, axes: list[Axis]) -> Batch:
    """Finalists from sets of four zone axes: any family."""
    found = lattices_of_zones(sky, axes)[:ZONE_LATTICES]
    if not found:
        return pack([])
    rough = [conventional(basis, distance, score)[0] for score, basis, distance in found]
    parents = best_of(refined(pack(rough), sky, COARSE), PARENTS)
    children: list[Proposal] = []
    for i in range(len(parents)):
        basis = direct_basis(parents, i)
        distance = float(np.exp(parents.log_d[i]))
        children += [conventional(basis @ m, distance)[0] for m in relatives()]
    related = best_of(refined(pack(children), sky, FINE[:2]), PARENTS)
    grown: list[Proposal] = []
    for i in range(len(related)):
        grown += conventional(direct_basis(related, i), float(np.exp(related.log_d[i])))
    return narrow(best_of(refined(pack(grown), sky, FINE[:3]), SURVIVORS), sky)


def solve_unknown(
    frames: Frames, detector: Detector, distance_mm: tuple[float, float] | None = None
) -> UnknownResult:
    """Find axes, family and axial ratios of an unknown lattice.

    Parameters
    ----------
    frames
        Pairs of a spot list and the goniometer's rotation Z (3, 3) at which it was taken; one is often enough.
    detector
        Its distance is only taken as roughly known.
    distance_mm
        Lowest and highest distance; 0.7 to 1.6 times the detector's by default.

    Raises
    ------
    UnknownLatticeError
        If there are fewer than eight spots, or a rotation or a distance is none.
    """
    sky = build_sky(frames, detector, distance_mm)
    if len(sky) < LEAST_SPOTS:
        raise UnknownLatticeError(
            f"An unknown lattice needs {LEAST_SPOTS} spots or more; {len(sky)} came. Count longer, or join more frames."
        )
    return answer(search(sky), sky, detector)
