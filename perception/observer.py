"""The one builder of observations: frames to what an agent may know.

Environment and Bluesky plan call the same `Observer`; nothing that an agent sees in training is computed by
other code than what it sees at the instrument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lauepilot.perception.believe import Believer
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.indexing.sphere import on_sphere, pixel_normals
from lauepilot.perception.observation import Observation
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument

#: What a usual installation knows of its detector's pose: wider than what the Twin's default faults draw from (0.3).
USUAL_PRIOR = GeometryPrior(distance_mm=0.5, centre_mm=0.5, tilt_deg=0.5)


class Observer:
    """Builds observations for one crystal on one instrument, as they are believed to be.

    Parameters
    ----------
    crystal, instrument
        The known lattice, and the instrument as drawn.
    prior
        How well the detector's pose is known; it is refined with each orientation.
    image_shape
        Size (rows, cols) of `Observation.image`; None leaves it out.
    photons
        Whether to look into the photons themselves where spots do not tell the orientation (`Believer`).
    """

    def __init__(
        self,
        crystal: Crystal,
        instrument: Instrument,
        prior: GeometryPrior = USUAL_PRIOR,
        image_shape: tuple[int, int] | None = None,
        photons: bool = True,
    ) -> None:
        self.crystal = crystal
        self.instrument = instrument
        self.prior = prior
        self.image_shape = image_shape
        self.believer = Believer(crystal, instrument, prior, photons)
        self.indexer = self.believer.indexer

    def start(self, axes: Mapping[str, float], *, clock_s: float = 0.0, dose_s: float = 0.0) -> Observation:
        """The observation before the first frame."""
        return Observation(dict(axes), self.instrument.goniometer, clock_s, dose_s, 0, 0.0)

    def moved(self, previous: Observation, axes: Mapping[str, float], *, clock_s: float) -> Observation:
        """The observation after a move: spots and belief of the last frame, taken where ``belief_axes`` says."""
        return replace(previous, axes=dict(axes), clock_s=clock_s)

    def observe(
        self, frame: Frame, *, axes: Mapping[str, float], clock_s: float, dose_s: float, n_exposures: int
    ) -> Observation:
        """The observation after a frame, taken at ``axes``.

        Raises
        ------
        FrameError
            If the frame cannot be used (wrong shape, NaN, saturated).
        """
        detector = self.instrument.detector
        frame.check(detector.shape)
        spots = find_spots(frame, detector)
        belief = self.believer.belief(frame, spots)
        return Observation(
            axes=dict(axes),
            goniometer=self.instrument.goniometer,
            clock_s=clock_s,
            dose_s=dose_s,
            n_exposures=n_exposures,
            exposure_s=frame.live_time_s,
            spots=spots,
            normals=pixel_normals(spots.pixels, detector),
            normals_sigma_rad=on_sphere(spots, detector, self.prior).sigma,
            image=None if self.image_shape is None else rebinned(frame, self.image_shape),
            belief=belief,
            belief_axes=dict(axes),
        )


def rebinned(frame: Frame, shape: tuple[int, int]) -> np.ndarray:
    """Photons of a frame summed into coarse pixels (rows, cols), float32; each fine pixel goes to the coarse
    one at its middle.
    """
    photons = (np.asarray(frame.counts, dtype=np.float64) - frame.offset) / frame.gain
    rows = (np.arange(photons.shape[0]) * shape[0]) // photons.shape[0]
    cols = (np.arange(photons.shape[1]) * shape[1]) // photons.shape[1]
    out = np.zeros((shape[0], photons.shape[1]))
    np.add.at(out, rows, photons)
    result = np.zeros((shape[1], shape[0]))
    np.add.at(result, cols, out.T)
    return np.ascontiguousarray(result.T, dtype=np.float32)
