"""What a picture of an indexed pattern shows: plain arrays, so that any indexer can have one drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lauepilot.pictures.stereogram import CrystalAxis, Reached
from lauepilot.pictures.zones import Zone
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector

#: What a layer or mode is: the answer, another grain of the same frame, or another orientation that the frame allows.
Kind = Literal["answer", "grain", "alternative"]


class PictureError(ValueError):
    """Arrays that do not belong together."""


@dataclass(frozen=True, eq=False)
class PatternLayer:
    """Predicted spots of one orientation.

    Attributes
    ----------
    name
        For the legend.
    pixels
        (n, 2) as (col, row); rows with NaN are not drawn.
    hkl
        (n, 3) the strongest harmonic.
    energy_kev
        (n,) photon energy of the wavelength at which it reflects (for neutrons too: the wavelength is derived).
    found
        (n,) which found spot each explains, -1 for none.
    kind
        What the orientation is.
    """

    name: str
    pixels: FloatArray
    hkl: NDArray[np.int64]
    energy_kev: FloatArray
    found: NDArray[np.int64]
    kind: Kind = "answer"

    def __post_init__(self) -> None:
        n = len(self.pixels)
        shapes = (np.shape(self.pixels), np.shape(self.hkl), np.shape(self.energy_kev), np.shape(self.found))
        if shapes != ((n, 2), (n, 3), (n,), (n,)):
            raise PictureError(
                f"layer {self.name!r}: pixels (n, 2), hkl (n, 3), energy_kev (n,) and found (n,) are wanted; "
                f"{', '.join(map(str, shapes))} came."
            )


@dataclass(frozen=True, eq=False)
class Mode:
    """One orientation of the posterior.

    Attributes
    ----------
    name
        For the legend.
    u
        (3, 3) laboratory orientation.
    covariance
        (3, 3) of its rotation vector in the laboratory, radians squared; None draws no ellipses.
    probability
        0..1; None if it has none of its own.
    kind
        What the orientation is.
    """

    name: str
    u: FloatArray
    covariance: FloatArray | None = None
    probability: float | None = None
    kind: Kind = "answer"


@dataclass(frozen=True, eq=False)
class PatternView:
    """All that is in a picture.

    Attributes
    ----------
    title, note
        Headline, and the line under it.
    detector
        Shape and blind regions of the image (its pose is not used).
    found
        (n, 2) pixels of found spots, brightest first.
    found_counts
        (n,) their counts.
    counts
        (rows, cols) the frame, or None for lists of spots.
    layers
        Predictions; the first of the kind ``answer`` has its indices written and its residuals drawn.
    zones
        Zone curves to draw.
    modes
        Orientations for the stereogram.
    axes
        The crystal's axes that are drawn for each mode.
    normals
        (k, 3) normals of the reflecting planes of the answer, laboratory: small dots in the stereogram.
    reached
        Where the goniometer can bring a direction along the beam from, if known.
    radiation
        ``xray`` or ``neutron``: neutrons are told by wavelength.
    facts
        Names and values for the table beside the picture.
    """

    title: str
    note: str
    detector: Detector
    found: FloatArray
    found_counts: FloatArray
    counts: NDArray[Any] | None = None
    layers: Sequence[PatternLayer] = ()
    zones: Sequence[Zone] = ()
    modes: Sequence[Mode] = ()
    axes: Sequence[CrystalAxis] = ()
    normals: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    reached: Reached | None = None
    radiation: str = "xray"
    facts: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        n = len(self.found)
        if np.shape(self.found) != (n, 2) or np.shape(self.found_counts) != (n,):
            raise PictureError(
                f"found (n, 2) and found_counts (n,) are wanted; {np.shape(self.found)} and "
                f"{np.shape(self.found_counts)} came."
            )
        if self.counts is not None and self.counts.shape != self.detector.shape:
            raise PictureError(
                f"the frame has {self.counts.shape} pixels (rows, cols), the detector {self.detector.shape}."
            )
        for layer in self.layers:
            if len(layer.found) and not -1 <= int(layer.found.min()) <= int(layer.found.max()) < n:
                raise PictureError(
                    f"layer {layer.name!r}: found must number the {n} found spots, or be -1; it runs from "
                    f"{layer.found.min()} to {layer.found.max()}."
                )

    @property
    def answer(self) -> PatternLayer | None:
        """The layer of the answer, if there is one."""
        return next((layer for layer in self.layers if layer.kind == "answer"), None)

    def explained(self) -> NDArray[np.bool_]:
        """(n,) which found spots the answer or a grain explains."""
        known = np.zeros(len(self.found), dtype=bool)
        for layer in self.layers:
            if layer.kind != "alternative":
                known[layer.found[layer.found >= 0]] = True
        return known

    def residuals(self) -> tuple[FloatArray, FloatArray]:
        """Predicted pixels (k, 2) of the answer and of grains, and found minus predicted (k, 2)."""
        starts, arrows = [np.zeros((0, 2))], [np.zeros((0, 2))]
        for layer in self.layers:
            if layer.kind != "alternative":
                matched = np.flatnonzero(layer.found >= 0)
                starts.append(layer.pixels[matched])
                arrows.append(self.found[layer.found[matched]] - layer.pixels[matched])
        return np.concatenate(starts), np.concatenate(arrows)

    def exaggeration(self) -> int:
        """How many times residuals are drawn longer: a round number that makes the median arrow a fiftieth of the side."""
        _, arrows = self.residuals()
        length = float(np.median(np.linalg.norm(arrows, axis=1))) if len(arrows) else 0.0
        return round_number(0.02 * max(self.detector.shape) / max(length, 1e-6))


def percent(probability: float) -> str:
    """A probability for people: never 100 % or 0 %.

    >>> [percent(p) for p in (0.9999999, 0.974, 0.03, 1e-9)]
    ['> 99.99 %', '97.4 %', '3 %', '< 0.01 %']
    """
    if probability > 0.9999:
        return "> 99.99 %"
    return "< 0.01 %" if probability < 1e-4 else f"{100.0 * probability:.4g} %"


def round_number(value: float, most: float = 1e6) -> int:
    """The largest of 1, 2, 5, 10, 20, 50, ... not above ``value``, from 1 to ``most``.

    >>> [round_number(v) for v in (0.3, 7.0, 19.9, 20.0, 640.0)]
    [1, 5, 10, 20, 500]
    """
    value = min(max(value, 1.0), most)
    decade = 10 ** int(np.floor(np.log10(value) + 1e-9))
    return int(max(step for step in (1, 2, 5) if step * decade <= value * (1.0 + 1e-9)) * decade)
