"""A frame: what one exposure leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


class FrameError(ValueError):
    """A frame that cannot be used: wrong shape, NaN, empty, all saturated."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One exposure of one detector.

    Attributes
    ----------
    counts
        Pixels (rows, cols). As read from the sensor, in its units; ``(counts - offset) / gain`` are photons.
    live_time_s
        Seconds that the shutter was open.
    axes
        Read-back of the sample axes by name, in degrees and mm.
    instrument
        Name of the instrument.
    saturation
        Value from which on a pixel does not count further.
    gain, offset
        Units per photon, and units at no photon; 1 and 0 where the counts are photons.
    metadata
        Anything else worth keeping (file, start time, dose); plain JSON values.
    """

    counts: NDArray[np.number]
    live_time_s: float
    axes: Mapping[str, float] = field(default_factory=dict)
    instrument: str = ""
    saturation: float = 65535.0
    gain: float = 1.0
    offset: float = 0.0
    metadata: Mapping[str, object] = field(default_factory=dict)

    def check(self, shape: tuple[int, int] | None = None) -> None:
        """Refuse what no program can index.

        Raises
        ------
        FrameError
            If the frame is not 2-D, is not of ``shape`` (rows, cols), holds NaN, has no counts or is saturated all over.
        """
        if self.counts.ndim != 2 or self.counts.size == 0:
            raise FrameError(f"A frame is a 2-D array of pixels; an array of shape {self.counts.shape} came.")
        if shape is not None and self.counts.shape != shape:
            raise FrameError(
                f"The detector of this instrument has {shape[0]} x {shape[1]} (rows x columns) pixels; the frame has "
                f"{self.counts.shape[0]} x {self.counts.shape[1]}. Name the instrument it was taken on (--instrument)."
            )
        if not np.all(np.isfinite(self.counts)):
            bad = int(np.size(self.counts) - np.count_nonzero(np.isfinite(self.counts)))
            raise FrameError(
                f"The frame holds {bad} pixels that are NaN or infinite. Mask or repair them first."
            )
        if np.count_nonzero(self.counts >= self.saturation) > 0.5 * self.counts.size:
            raise FrameError(
                f"More than half of the pixels are saturated (>= {self.saturation:g}). Expose for a shorter time."
            )
        if self.counts.max() == self.counts.min():
            raise FrameError(
                f"Every pixel of the frame is {self.counts.flat[0]}: no photon was counted. "
                "Was the shutter open and the detector on?"
            )
