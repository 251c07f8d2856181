"""What a fit of the whole instrument gives, and when it must not be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.orientation import Orientation

#: Frames that a calibration needs at least, and the share of all that must have been of use.
FEWEST_FRAMES, USED_SHARE = 4, 0.6

#: Beyond these a fit is not believed: residual (pixels, rms), turn of single frames (deg, rms), displacement (mm, rms), and
#: what is left unknown of an axis' direction (deg).
WORST_PX, WORST_TURN_DEG, WORST_OFFSET_MM, WORST_AXIS_DEG = 1.0, 0.2, 0.5, 0.1

#: A parameter is undetermined if the frames leave more than this share of what was unknown before.
UNTOLD = 0.5


class InstrumentFitError(ValueError):
    """Frames that do not hold a calibration."""


@dataclass(frozen=True)
class InstrumentPrior:
    """How far an instrument may be from its description: standard deviations.

    Attributes
    ----------
    distance_mm, centre_mm, tilt_deg
        Of the detector, as in `GeometryPrior`.
    axis_deg
        Of an axis' direction, about each of two directions across it.
    zero_deg
        Of an axis' zero.
    offset_mm, turn_deg
        Of the crystal in single frames, each coordinate: where the fit begins; both are then learnt from the frames.
    """

    distance_mm: float = 3.0
    centre_mm: float = 3.0
    tilt_deg: float = 1.5
    axis_deg: float = 3.0
    zero_deg: float = 8.0
    offset_mm: float = 0.03
    turn_deg: float = 0.03

    @property
    def geometry(self) -> GeometryPrior:
        """Of the detector alone."""
        return GeometryPrior(self.distance_mm, self.centre_mm, self.tilt_deg)


@dataclass(frozen=True, eq=False)
class FrameRow:
    """What the fit says of one frame.

    Attributes
    ----------
    axes
        Read-backs, degrees and mm.
    n_spots, n_matched
        Found, and explained.
    confidence
        Of its own indexing; 0 if nothing was found.
    used
        Whether it took part.
    before_px, after_px
        Root mean square of found minus predicted, with the instrument as drawn (and the crystal's orientation that suits all
        frames best) and as found; NaN where nothing is explained.
    offset_mm, turn_deg
        (3,) laboratory: where the crystal was, and how far it was turned from where the axes say.
    """

    axes: Mapping[str, float]
    n_spots: int
    n_matched: int
    confidence: float
    used: bool
    before_px: float
    after_px: float
    offset_mm: FloatArray
    turn_deg: FloatArray


@dataclass(frozen=True, eq=False)
class InstrumentFit:
    """An instrument as many frames show it.

    Attributes
    ----------
    instrument, drawn
        Corrected (directions are those at read-backs of zero, so that zeros need no further care), and as it was described.
    orientation
        Of the crystal on the holder at read-backs of zero, with covariance.
    names, values, sigma, covariance
        Of all that frames share: pose (added to the drawn one; mm, px, rad), tilts of each axis about two directions
        across it (rad), crystal (rad; values are zero). (p,), (p,), (p,) and (p, p).
    prior_sigma
        (p,) what was known before; infinite for the crystal.
    undetermined
        Parameters that these frames leave about as unknown as they were.
    conventions
        What no frame could tell, and how it was fixed.
    zeros_deg, true_directions
        Zeros (to be added to read-backs) and directions with these zeros, by axis: the likeliest way to share.
    azimuth_deg
        By how much all axes together seem turned about the beam: the detector's azimuth, if the axes are right.
    reversed_axes
        Axes that turn the other way than described.
    sphere_mm
        Diameter of the sphere in which the crystal wanders.
    turn_deg
        Root mean square by which single frames are turned from where the axes say (each direction).
    rms_px, scale
        Residual of all frames, and residuals over the spots' own errors.
    rows
        Frame by frame.
    problems
        Why the fit must not be believed, with what to look at; empty if it may be.
    """

    instrument: Instrument
    drawn: Instrument
    orientation: Orientation
    names: tuple[str, ...]
    values: FloatArray
    sigma: FloatArray
    covariance: FloatArray
    prior_sigma: FloatArray
    undetermined: tuple[str, ...]
    conventions: tuple[str, ...]
    zeros_deg: Mapping[str, float]
    true_directions: Mapping[str, FloatArray]
    azimuth_deg: float
    reversed_axes: tuple[str, ...]
    sphere_mm: float
    turn_deg: float
    rms_px: float
    scale: float
    rows: tuple[FrameRow, ...]
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the instrument found may be used."""
        return not self.problems

    def u_lab(self, positions: Mapping[str, float]) -> FloatArray:
        """Laboratory orientation (3, 3) of the crystal that the fit predicts at these read-backs, degrees."""
        return np.asarray(self.instrument.goniometer.matrix(positions) @ self.orientation.u)


def conventions(axes: Sequence[str]) -> tuple[str, ...]:
    """What no frame of a goniometer with these rotation axes can tell, and how it is fixed."""
    out = [
        "azimuth: turning detector, axes and crystal about the beam together changes no spot; the detector's is held",
        f"zero of {axes[-1]}: it turns nothing but the crystal, and is part of its orientation",
        "lengths: distance and centre scale with the pixel's width, which is held",
    ]
    if len(axes) > 1:
        others = ", ".join(axes[:-1])
        out.insert(
            2,
            f"zeros of {others}: each turns the axes inside it, and only the sum of both shows; the instrument holds "
            "directions at read-backs of zero, and the zeros given are the likeliest way to share",
        )
    return tuple(out)


def problems(fit: InstrumentFit, used: int) -> tuple[str, ...]:
    """Why a fit must not be believed, each with what to look at."""
    out = []
    n = len(fit.rows)
    lost = [i for i, r in enumerate(fit.rows, start=1) if not r.used]
    if used < max(FEWEST_FRAMES, USED_SHARE * n):
        out.append(
            f"Only {used} of {n} frames fit; frames {', '.join(map(str, lost))} do not. Look at these frames: was the "
            "crystal in the beam, did something shade the detector, did an axis slip?"
        )
    if not fit.rms_px <= WORST_PX:
        out.append(
            f"The residual is {fit.rms_px:.2f} px (rms); {WORST_PX:g} px are allowed. Look at the crystal (split? another "
            "cell?), the detector's pixel size and mirroring, and whether it is flat."
        )
    if fit.turn_deg > WORST_TURN_DEG:
        worst = max(range(n), key=lambda i: float(np.linalg.norm(fit.rows[i].turn_deg)))
        out.append(
            f"Frames are turned by {fit.turn_deg:.2f} deg (rms) from where the axes say, frame {worst + 1} most; "
            f"{WORST_TURN_DEG:g} deg are allowed. Look at steps per degree, loose clamps, a crystal that slips on "
            "its holder."
        )
    if fit.sphere_mm > np.sqrt(20.0) * WORST_OFFSET_MM:
        out.append(
            f"The crystal wanders in a sphere of {fit.sphere_mm:.1f} mm as axes move. Centre it first."
        )
    loose = [
        f"{name} ({np.rad2deg(s):.2f} deg)"
        for name, s in zip(fit.names, fit.sigma, strict=True)
        if name.endswith(("tilt1_rad", "tilt2_rad")) and np.rad2deg(s) > WORST_AXIS_DEG
    ]
    if loose or fit.undetermined:
        out.append(
            f"These positions do not tell {', '.join(loose) or ', '.join(fit.undetermined)}. Take more frames at positions "
            "that differ in every axis, or leave positions=None."
        )
    return tuple(out)
