"""The whole way: spots of a crystal that nobody knows in, symmetry axes and axial ratios out."""

from __future__ import annotations

from lauepilot.perception.unknown.axes import find_axes
from lauepilot.perception.unknown.hough import proposals_of_axis
from lauepilot.perception.unknown.result import Proposal, UnknownResult
from lauepilot.perception.unknown.settle import answer, narrow, pack
from lauepilot.perception.unknown.sky import Frames, Sky, UnknownLatticeError, build_sky
from lauepilot.simulator.detector import Detector

#: Fewer spots never hold the answer.
LEAST_SPOTS = 8
#: Axes looked at one after the other, and peaks of the vote taken from each at each distance.
AXES, PEAKS = 24, 4


def propose(sky: Sky, most_axes: int = AXES) -> list[Proposal]:
    """Uniaxial and cubic lattices from symmetry axes and zones: positions alone, no intensities."""
    out: list[Proposal] = []
    for axis in find_axes(sky, most_axes):
        for node, direction in zip(axis.nodes, axis.directions, strict=True):
            out += proposals_of_axis(sky, int(node), direction, PEAKS)
    return out


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
    return answer(narrow(pack(propose(sky)), sky), sky, detector)
