"""What goes into the search for an unknown lattice's orientation, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.orientation import Orientation


@dataclass(frozen=True, eq=False)
class Proposal:
    """A rough answer, from whatever source, that `settle` refines and scores.

    Attributes
    ----------
    u
        Rotation (3, 3) from the crystal's Cartesian frame (that of `b_matrix`: x along a*, z along c) to the sample
        holder's frame, which is the laboratory's for a goniometer at zero or a single frame.
    family
        One of `lauepilot.perception.unknown.lattice.FAMILIES`.
    ratios
        Free ratios of the family, in the order of `RATIOS`; angles in radians.
    distance_mm
        Distance (or radius) of the detector.
    score
        The source's own; larger is better. Only the order among proposals of one source matters.
    centring
        Lattice letter; empty if the source does not tell: all of the family's are then tried.
    """

    u: FloatArray
    family: str
    ratios: tuple[float, ...]
    distance_mm: float
    score: float = 0.0
    centring: str = ""


@dataclass(frozen=True, eq=False)
class Solution:
    """A refined lattice with its orientation.

    Attributes
    ----------
    family, centring
        The lattice.
    ratios, ratios_sigma
        Free ratios in the order of `RATIOS` (angles in radians), and their standard deviations.
    orientation
        With ``B`` of the conventional cell for ``a = 1``, in the frame of `Proposal.u`.
    distance_mm, distance_sigma_mm
        Of the detector.
    centre_px
        Refined centre (col, row) of the detector.
    tilts_rad
        What is to be added to the detector's tilts about the laboratory's x and y, as `Detector.moved` does; zero where
        the tilts given explain the spots.
    score
        Log-likelihood ratio, in nats, to spots strewn evenly.
    n_explained
        Spots on predicted places.
    residual_px
        Root mean square of their distance to those places.
    """

    family: str
    centring: str
    ratios: tuple[float, ...]
    ratios_sigma: tuple[float, ...]
    orientation: Orientation
    distance_mm: float
    distance_sigma_mm: float
    centre_px: tuple[float, float]
    tilts_rad: tuple[float, float]
    score: float
    n_explained: int
    residual_px: float


@dataclass(frozen=True, eq=False)
class UnknownResult:
    """The answer for spots of an unknown lattice.

    Attributes
    ----------
    best
        The best solution; None if nothing stands out from chance.
    confidence
        Probability that the orientation of the symmetry axes is right.
    sure
        Whether to act on it; otherwise another frame should be taken.
    alternatives
        Other solutions, best first.
    n_spots
        Spots that were to be explained.
    """

    best: Solution | None
    confidence: float
    sure: bool
    alternatives: tuple[Solution, ...]
    n_spots: int
