"""From a frame to a belief: spots where they suffice, photons where they do not, and the last fit in either case."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from lauepilot.perception.indexing.forced import fit_frame, fit_frame_near
from lauepilot.perception.indexing.indexer import Indexer, IndexingError
from lauepilot.perception.indexing.refine import GeometryPrior, Refinement, predict_pixels
from lauepilot.perception.observation import Belief, SpotList
from lauepilot.perception.photons.indexer import PhotonIndexer
from lauepilot.perception.photons.result import PhotonResult
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.frame import Frame, FrameError
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.orientation import Orientation

#: From this confidence on the spots' answer is taken, and only made more precise.
CLEAR = 0.99

#: Log-likelihood at which a photon's answer is worth a hundred to one against what the model of intensities leaves out: rays
#: of something else, factors that are wrong. Measured, see `docs/decisions/0023`.
SOUND_NATS = 40.0

#: A found spot is explained if it lies within so many pixels of where it was expected.
_NEAR_PX = 4.0


class Believer:
    """Makes beliefs of frames of one crystal on one instrument.

    Parameters
    ----------
    crystal, instrument
        What is looked at, as believed.
    prior
        How well the detector's pose is known.
    photons
        Whether to look for an orientation in the photons themselves where spots do not tell it: half a second to some
        seconds a frame, and for the first such frame some seconds more.
    """

    def __init__(
        self, crystal: Crystal, instrument: Instrument, prior: GeometryPrior, photons: bool = True
    ) -> None:
        self.indexer = Indexer(crystal, instrument, prior)
        self._photons = photons

    @cached_property
    def photon_indexer(self) -> PhotonIndexer:
        """Made at the first frame that needs it."""
        own = self.indexer
        return PhotonIndexer(own.crystal, own.instrument, own.prior)

    def belief(self, frame: Frame, spots: SpotList) -> Belief:
        """What a frame and the spots found in it tell.

        Raises
        ------
        FrameError
            If the frame does not fit the detector or holds NaN.
        """
        nothing = Belief(None, 0.0, 0, 0, float("nan"))
        try:
            result = self.indexer.index(spots)
        except IndexingError:
            result = None
        told = nothing if result is None else result.belief()
        if result is not None and told.confidence >= CLEAR:
            return fit_frame(frame, self.indexer, result, spots).result.belief()
        if not self._photons:
            return told
        try:
            faint = self._of_photons(frame, spots)
        except FrameError:  # its background was subtracted: there are no photons to count
            return told
        if faint.confidence > told.confidence:
            return faint
        return replace(told, evidence=faint.evidence)

    def _of_photons(self, frame: Frame, spots: SpotList) -> Belief:
        result = self.photon_indexer.index(frame)
        if result.orientation is None:
            return Belief(None, 0.0, 0, 0, float("nan"), evidence=min(result.llr, result.rest_llr))
        fit = fit_frame_near(
            frame, self.indexer, result.orientation, result.modes[0].pose, result.signal_photons, spots
        )
        others = tuple(mode.orientation for mode in result.modes[1:4] if mode.probability > 0.05)
        if isinstance(fit, str):  # what the photons say alone trusts the intensities: not to be relied on
            return Belief(
                result.orientation,
                min(confidence(result), 0.5),
                0,
                0,
                float("nan"),
                others,
                evidence=min(result.llr, result.rest_llr),
            )
        near, expected = self._explained(fit, spots)
        orientation = Orientation(fit.u, self.indexer.crystal.b, fit.covariance)
        return Belief(
            orientation,
            confidence(result),
            near,
            expected,
            float("nan"),
            others,
            evidence=min(result.llr, result.rest_llr),
        )

    def _explained(self, fit: Refinement, spots: SpotList) -> tuple[int, int]:
        """How many of the found spots lie where rays are expected, and how many were found."""
        table = self.indexer.complete
        pixels = predict_pixels(fit.u, table.direction, fit.detector)
        pixels = pixels[np.all(np.isfinite(pixels), axis=1)]
        if len(spots) == 0 or len(pixels) == 0:
            return 0, len(spots)
        gap2 = ((spots.pixels[:, None] - pixels[None]) ** 2).sum(axis=-1)
        return int(np.count_nonzero(gap2.min(axis=1) < _NEAR_PX**2)), len(spots)


def confidence(result: PhotonResult) -> float:
    """Probability that a photon answer is right, where intensities may be off and rays of something else among them.

    Its own odds to other orientations, and its evidence against what is no crystal of this kind at all.
    """
    if result.verdict == "unsure":
        return min(result.confidence, 0.5)
    other = (1.0 - result.confidence) + np.exp(-max(result.rest_llr, 0.0) / SOUND_NATS * np.log(100.0))
    return float(max(1.0 - other, 0.0))
