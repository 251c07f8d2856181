"""``lauepilot index --photons``: the orientation from photons where spots do not tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lauepilot.cli.index import Indexed
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.photons.film import lone_pixels
from lauepilot.perception.photons.indexer import PhotonIndexer, PhotonResult
from lauepilot.perception.photons.result import DOUBTFUL
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.image import DEFAULT_PROFILE
from lauepilot.simulator.instrument import Instrument

#: Photons per live pixel above which a frame is bright enough for spots to be seen, if there are any.
BRIGHT = 5.0


@dataclass(frozen=True, eq=False)
class IndexedPhotons:
    """A frame with what its photons tell.

    Attributes
    ----------
    crystal, instrument
        What was looked for, and where.
    result
        The photon indexer's answer.
    photons
        All photons on live pixels.
    lone
        Pixels left out as hot or hit by cosmic rays.
    source
        Path of the file.
    """

    crystal: Crystal
    instrument: Instrument
    result: PhotonResult
    photons: float
    lone: int
    source: str = ""

    @property
    def sure(self) -> bool:
        """Whether there is one orientation to stand by."""
        return self.result.verdict == "sure"

    def lines(self) -> list[str]:
        """What a person should read, a line each."""
        r, orientation = self.result, self.result.orientation
        head = (
            f"{self.photons:.0f} photons: {r.signal_photons:.0f} in spots of {self.crystal.name}, "
            f"{r.background_photons:.0f} background; point spread {r.width_px:.2f} px"
        )
        if orientation is None or r.verdict == "unsure":
            if r.unexplained_photons > DOUBTFUL * r.signal_photons:
                return [
                    head,
                    f"I do not know: the best orientation leaves {r.unexplained_photons:.0f} photons in clumps unexplained. "
                    "Is it another crystal, or are there hot pixels?",
                ]
            best = "" if orientation is None else f" (the best one has {100.0 * r.confidence:.0f} %)"
            return [
                head,
                f"I do not know: no orientation stands out from the others and from chance{best}. "
                "Expose longer, or check crystal and instrument.",
            ]
        if r.verdict == "tie":
            shares = ", ".join(f"{100.0 * m.probability:.0f} %" for m in r.modes[:4])
            return [
                head,
                f"A tie: these orientations fit about as well ({shares}). A longer exposure tells them apart.",
            ]
        return [
            head,
            f"Orientation known to {orientation.sigma_deg:.2g} deg, probability {100.0 * r.confidence:.2f} % (if this is "
            f"{self.crystal.name}), "
            f"log-likelihood ratio to background only {r.llr:.1f}",
        ]

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        r = self.result
        return {
            "method": "photons",
            "file": self.source,
            "crystal": self.crystal.name,
            "instrument": self.instrument.name,
            "verdict": r.verdict,
            "sure": self.sure,
            "confidence": r.confidence,
            "photons": self.photons,
            "signal_photons": r.signal_photons,
            "background_photons": r.background_photons,
            "width_px": r.width_px,
            "log_likelihood_ratio": r.llr,
            "pixels_left_out": self.lone,
            "modes": [
                {
                    "probability": m.probability,
                    "U": m.orientation.u,
                    "UB": m.orientation.ub,
                    "sigma_deg": m.orientation.sigma_deg,
                    "covariance_deg2": np.rad2deg(np.rad2deg(m.orientation.covariance)),
                }
                for m in r.modes
            ],
        }


def index_photons(
    frame: Frame,
    crystal: Crystal,
    instrument: Instrument,
    *,
    prior: GeometryPrior | None = None,
    live: NDArray[np.bool_] | None = None,
    source: str = "",
) -> IndexedPhotons:
    """Index a frame by its photons.

    Parameters
    ----------
    frame
        With its gain and offset in photons (`lauepilot.cli.index.with_units`).
    crystal, instrument
        As believed.
    prior
        How well the detector's pose is known; None: exactly.
    live
        (rows, cols), True where the file says that pixels are alive (`FrameInput.mask`).
    source
        Path of the file, for messages.

    Raises
    ------
    FrameError
        If the frame cannot be used.
    """
    frame.check(instrument.detector.shape)
    photons = (np.asarray(frame.counts, dtype=float) - frame.offset) / frame.gain
    core = instrument.detector.sensor.point_spread_px * np.sqrt(DEFAULT_PROFILE.core_scale)
    lone = lone_pixels(photons, core)  # to tell of them; the indexer leaves out those that no spot could have
    dead = np.asarray(frame.counts) >= frame.saturation
    if live is not None:
        dead |= ~live
    # Electronics' noise about zero photons is no photon.
    photons = np.where(dead | (photons < 0.5), 0.0, photons)
    mask = dead if dead.any() else None
    indexer = PhotonIndexer(crystal, instrument, prior)
    result = indexer.index(photons, mask=mask)
    if result.verdict != "unsure":  # the seed is fixed: the same frame gives the same answer
        result = indexer.compare(result, photons, np.random.default_rng(0), mask=mask)
    total = float(result.signal_photons + result.background_photons)
    return IndexedPhotons(crystal, instrument, result, total, int(lone.sum()), source)


def spots_hopeless(indexed: Indexed | None, frame: Frame) -> bool:
    """Whether to fall back on photons: the spots did not tell (None: too few of them), and the frame is a faint one."""
    if indexed is not None and indexed.sure:
        return False
    photons = np.maximum((np.asarray(frame.counts, dtype=float) - frame.offset) / frame.gain, 0.0)
    return float(photons.mean()) < BRIGHT
