"""Frames of a known number of photons, indexed by their spots and by their photons: the trials of ``bench precision``.

The frames come from `simulator.render`. What it shares with the estimators is the physics: rays with their rates, and the
widths of spots (`render.covariance`, which the photon likelihood calls too). The drawing of counts, the integration of spots
over pixels and the background are code of their own. So these trials tell nothing of a wrong ray table or blur.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import chi2

from lauepilot.bench.timing import timed
from lauepilot.perception.indexing.forced import fit_frame
from lauepilot.perception.indexing.indexer import Indexer, IndexingError
from lauepilot.perception.limits.bayes import bayes_limit
from lauepilot.perception.limits.bound import fisher_information
from lauepilot.perception.photons.indexer import PhotonIndexer
from lauepilot.perception.spots.background import estimate_background
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import FloatArray, random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.electronics import AduArray
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.image import background_rate, live_pixels
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import cached_table
from lauepilot.simulator.orientation import Orientation, misorientation, nearest_equivalent
from lauepilot.simulator.render import render_batch

#: Faintest rays that the frames hold, relative to the brightest: fainter than those that either method knows.
TRUTH_RELATIVE = 1e-3
TOLERANCE_DEG = 0.5

#: What is unknown besides the orientation.
UNKNOWN = ("rotation", "flux", "background", "width")


@dataclass(frozen=True)
class Trial:
    """One frame, one method.

    Attributes
    ----------
    method
        ``spots`` or ``photons``.
    crystal, background, counts
        The cell: background over signal, and expected signal photons on the live sensor.
    right
        Found within `TOLERANCE_DEG` up to symmetry.
    error2, bound2, said2
        Squared misorientation, traces of the Cramer-Rao bound and of the method's covariance, rad^2; NaN if not right.
    distance2
        Squared Mahalanobis distance of the truth: 3 degrees of freedom.
    seconds
        The method's own processor time.
    """

    method: str
    crystal: str
    background: float
    counts: float
    right: bool
    error2: float
    bound2: float
    said2: float
    distance2: float
    seconds: float

    def within(self, share: float) -> bool:
        """Whether the region that should hold the truth with probability ``share`` does."""
        return bool(self.distance2 <= chi2.ppf(share, 3))


class Cell:
    """A crystal on ``lab`` with both methods, built once."""

    def __init__(self, crystal: str) -> None:
        self.crystal = load_crystal(crystal)
        self.instrument = load_instrument("lab")
        self.table = cached_table(self.crystal, self.instrument, TRUTH_RELATIVE)
        self.indexer = Indexer(self.crystal, self.instrument)
        self.photons = PhotonIndexer(self.crystal, self.instrument)

    def trials(
        self, counts: float, background: float, n: int, rng: np.random.Generator, methods: Mapping[str, int]
    ) -> list[Trial]:
        """So many frames of random orientations, each tried by each method until it has had its number of frames."""
        out = []
        for k in range(n):
            u = random_rotation(rng)
            image, bound2 = self.draw(u, counts, background, rng)
            for method, most in methods.items():
                if k < most:
                    found, seconds = timed(self.answer, method, image)
                    out.append(self._trial(method, u, found, counts, background, bound2, seconds))
        return out

    def draw(
        self, u: FloatArray, counts: float, background: float, rng: np.random.Generator
    ) -> tuple[AduArray, float]:
        """A frame (rows, cols) with its expected photons, and the trace of the bound."""
        bound = fisher_information(
            self.table, u, signal_photons=counts, background_photons=background * counts, parameters=UNKNOWN
        )
        detector = self._lit(bound.seconds, background * counts)
        image = render_batch(self.table, u, bound.seconds, rng, detector=detector)[0]
        return image, float(np.trace(bound.orientation_covariance))

    def _lit(self, seconds: float, photons: float) -> Detector:
        """The detector with so many photons of background on its live pixels, of the usual shape."""
        detector = self.instrument.detector
        share = photons / (seconds * float(background_rate(detector).sum(dtype=np.float64)))
        shape = detector.background
        return replace(
            detector,
            background=replace(
                shape,
                flat_per_s_mm2=shape.flat_per_s_mm2 * share,
                dome_per_s_mm2=shape.dome_per_s_mm2 * share,
            ),
        )

    def answer(self, method: str, image: AduArray) -> Orientation | None:
        """What one method makes of a frame."""
        if method == "photons":
            return self.photons.index(image).orientation
        try:
            frame, detector = Frame(image, 1.0), self.instrument.detector
            ground = estimate_background(
                image, live_pixels(detector) > 0, gain=frame.gain, offset=frame.offset
            )
            spots = find_spots(frame, detector, background=ground)
            found = self.indexer.index(spots, complete=True)
            return fit_frame(frame, self.indexer, found, spots, background=ground).result.orientation
        except IndexingError:
            return None

    def _trial(
        self,
        method: str,
        u: FloatArray,
        found: Orientation | None,
        counts: float,
        background: float,
        bound2: float,
        seconds: float,
    ) -> Trial:
        nan = float("nan")
        where = (method, self.crystal.name, background, counts)
        symmetry = self.crystal.symmetry
        if found is None or misorientation(found.u, u, symmetry) > np.deg2rad(TOLERANCE_DEG):
            return Trial(*where, False, nan, bound2, nan, nan, seconds)
        _, error = nearest_equivalent(found.u, u, symmetry)
        covariance = found.covariance
        distance2 = float(error @ np.linalg.pinv(covariance) @ error)
        return Trial(
            *where, True, float(error @ error), bound2, float(np.trace(covariance)), distance2, seconds
        )


def bayes_over_bound(
    crystal: str, counts: float, background: float, rng: np.random.Generator, orientations: int = 14
) -> tuple[float, tuple[float, float]]:
    """What no estimator does better than, over the Cramer-Rao bound, root mean square of random orientations on ``lab``.

    Flux, background and width known, for the limit as for the bound. With it an interval of 95 % by bootstrap.
    """
    table = cached_table(load_crystal(crystal), load_instrument("lab"), TRUTH_RELATIVE)
    limit2, bound2 = np.empty(orientations), np.empty(orientations)
    for k in range(orientations):
        limit = bayes_limit(
            table, random_rotation(rng), rng, signal_photons=counts,
            background_photons=background * counts, frames=6, samples=800,
        )  # fmt: skip
        limit2[k], bound2[k] = limit.rms_deg**2, limit.bound.rms_deg**2
    drawn = rng.integers(0, orientations, (500, orientations))
    ratios = np.sqrt(limit2[drawn].sum(axis=1) / bound2[drawn].sum(axis=1))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(np.sqrt(limit2.sum() / bound2.sum())), (float(low), float(high))
