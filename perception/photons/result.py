"""What the photon indexer answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.orientation import Orientation

#: From this probability on an answer is given without "unsure".
SURE = 0.95

#: What is left of an answer's evidence without its two best spots must be so many nats.
FEW_NATS = 3.0

#: An answer is doubtful if clumps that it does not explain hold more than this share of what it explains.
DOUBTFUL = 0.2

#: The best mode must reach so many times what its clumps give by chance, and so many nats more (`PhotonIndexer.compare`).
CLEAR_RATIO, CLEAR_NATS = 1.1, 5.0


@dataclass(frozen=True, eq=False)
class PhotonMode:
    """One possible orientation with its posterior probability.

    Attributes
    ----------
    orientation
        Laboratory orientation: posterior mean and covariance near this maximum.
    probability
        0..1: all modes together with "no spots in this frame" add up to 1.
    pose
        (5,) change of the detector's pose that goes with it, by `GEOMETRY_PARAMETERS`.
    """

    orientation: Orientation
    probability: float
    pose: FloatArray


@dataclass(frozen=True, eq=False)
class PhotonResult:
    """What a frame's photons tell.

    Attributes
    ----------
    orientation
        The most probable mode's; None if not one was found. Mind ``verdict``.
    confidence
        Probability of that mode.
    modes
        All with a probability above a thousandth, most probable first.
    signal_photons, background_photons
        Estimated shares of the frame's photons.
    width_px
        Estimated standard deviation of the point spread.
    llr
        Log-likelihood ratio of the best mode to "background only".
    log_evidence
        Logarithm of the odds of "spots of this crystal, where the prior allows them" to "background only".
    unexplained_photons
        Photons in clumps that neither the best mode's spots nor the background explain.
    rest_llr
        ``llr`` without the two places that add most to it: an orientation that two bright things hold up alone is none.
    strewn_llr
        The best that the same clumps reached when each lay in another's place; minus infinity if that was not tried.
    """

    orientation: Orientation | None
    confidence: float
    modes: tuple[PhotonMode, ...]
    signal_photons: float
    background_photons: float
    width_px: float
    llr: float
    log_evidence: float = -np.inf
    unexplained_photons: float = 0.0
    strewn_llr: float = -np.inf
    rest_llr: float = np.inf

    @property
    def verdict(self) -> str:
        """``sure``; ``tie`` if a few modes hold the answer together; ``unsure`` if the frame does not hold it."""
        if self.rest_llr < FEW_NATS:
            return "unsure"
        # Another crystal's spots, or another orientation's: what is found may still be far better than nothing.
        if self.orientation is None or self.unexplained_photons > DOUBTFUL * self.signal_photons:
            return "unsure"
        if self.llr < CLEAR_RATIO * self.strewn_llr + CLEAR_NATS:
            return "unsure"
        if self.confidence >= SURE:
            return "sure"
        few = sum(m.probability for m in self.modes[:4])
        return "tie" if few >= SURE else "unsure"
