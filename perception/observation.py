"""What an agent may know, and what it may decide: the contract between eyes, heads and hands.

`lauepilot.envs` (the loop in simulation) and `lauepilot.hardware` (the loop on the instrument) hand the same
`Observation`, built by the same `Observer`, to anything that fits the `Agent` protocol, and carry out its `Decision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.orientation import Orientation


@dataclass(frozen=True, eq=False)
class SpotList:
    """Spots found in a frame, brightest first.

    Attributes
    ----------
    pixels
        (n, 2) centroids (col, row).
    covariance_px2
        (n, 2, 2) of the centroids.
    counts
        (n,) photons above background.
    counts_sigma
        (n,) their standard deviation.
    saturated
        (n,) whether a pixel of the spot was saturated: counts are then a lower bound.
    """

    pixels: FloatArray
    covariance_px2: FloatArray
    counts: FloatArray
    counts_sigma: FloatArray
    saturated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> SpotList:
        """A part of the list, by index or mask."""
        return SpotList(
            self.pixels[index],
            self.covariance_px2[index],
            self.counts[index],
            self.counts_sigma[index],
            self.saturated[index],
        )


@dataclass(frozen=True, eq=False)
class Belief:
    """What the indexer makes of one frame.

    Attributes
    ----------
    orientation
        Laboratory orientation (``Z U``) at this frame's axes, with covariance; None if nothing fits.
    confidence
        Probability that the orientation (up to symmetry) is the right one.
    n_indexed
        Spots explained.
    n_expected
        Spots that should have been seen at this orientation and exposure.
    residual_px
        Mean distance of explained spots from their prediction; NaN if there are none.
    alternatives
        Other orientations that fit about as well: declared ties.
    evidence
        Log-likelihood ratio of the best orientation to "nothing but background", where the photons were asked, its two best
        spots left out; it grows with the exposure. NaN where spots told enough.
    """

    orientation: Orientation | None
    confidence: float
    n_indexed: int
    n_expected: int
    residual_px: float
    alternatives: tuple[Orientation, ...] = ()
    evidence: float = float("nan")


@dataclass(frozen=True, eq=False)
class Observation:
    """All that an agent sees after a step. Never the truth.

    Attributes
    ----------
    axes
        Read-back of the sample axes by name, degrees and mm.
    goniometer
        Axes with limits, speeds and play, as believed.
    clock_s, dose_s
        Time since the start, and open-shutter seconds.
    n_exposures
        Frames taken so far.
    exposure_s
        Live time of the last frame; 0 before the first.
    spots
        Spots of the last frame (None before the first).
    normals
        (n, 3) unit vectors of the reflecting planes in the laboratory, one per spot, pointing against the beam
        (``k_out - k_in``).
    normals_sigma_rad
        (n,) their uncertainty, radians.
    image
        (h, w) float32 photons of the last frame in coarse pixels, for visual agents; None if not asked for.
    belief
        The indexer's belief on the last frame; None before the first.
    belief_axes
        Axes at which the belief's frame was taken (they differ from ``axes`` after a move).
    """

    axes: Mapping[str, float]
    goniometer: Goniometer
    clock_s: float
    dose_s: float
    n_exposures: int
    exposure_s: float
    spots: SpotList | None = None
    normals: FloatArray | None = None
    normals_sigma_rad: FloatArray | None = None
    image: NDArray[np.float32] | None = None
    belief: Belief | None = None
    belief_axes: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Move:
    """Move axes to these positions, degrees and mm; axes that are not named stay."""

    axes: Mapping[str, float]
    reason: str = ""


@dataclass(frozen=True)
class Expose:
    """Take a frame of this many seconds."""

    seconds: float
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Declare:
    """End: the target is reached. ``orientation`` is the laboratory orientation now, with covariance."""

    orientation: Orientation
    reason: str = ""


@dataclass(frozen=True)
class GiveUp:
    """End: the target cannot be reached, or the frames do not hold the answer."""

    reason: str


Decision = Move | Expose | Declare | GiveUp
