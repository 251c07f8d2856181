"""When has a pattern been counted long enough? Criteria that look at the frames so far and say so.

A criterion is any object with ``enough(frames) -> Verdict``; plans (`lauepilot.hardware.plans.count`) ask it after each
exposure and take its estimate of what is still missing to choose the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from lauepilot.perception.indexing.indexer import IndexingError
from lauepilot.perception.limits.bound import BoundError, fisher_information
from lauepilot.perception.observer import Observer
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Region
from lauepilot.simulator.frame import Frame, FrameError


@dataclass(frozen=True)
class Verdict:
    """What a criterion says.

    Attributes
    ----------
    enough
        Whether to stop.
    reason
        In words, with the number that decided.
    expected_s
        Seconds that are still missing; NaN if nobody can tell yet, infinite if no counting will do.
    exact
        Whether ``expected_s`` is known, not estimated from the frames.
    """

    enough: bool
    reason: str
    expected_s: float
    exact: bool = False


@runtime_checkable
class Criterion(Protocol):
    """Whoever says when it is enough."""

    def enough(self, frames: Sequence[Frame], /) -> Verdict:
        """Look at all frames so far, none at first; they show the same crystal, unmoved."""


def summed(frames: Sequence[Frame]) -> Frame:
    """Frames of one detector as one: counts, live times and offsets add up. A pixel saturated in one is in the sum.

    Raises
    ------
    FrameError
        If there are none, or they differ in shape or gain.
    """
    if not frames:
        raise FrameError("There is no frame to sum.")
    first = frames[0]
    if any(f.counts.shape != first.counts.shape or f.gain != first.gain for f in frames):
        raise FrameError("These frames differ in shape or gain; they cannot be added up.")
    if len(frames) == 1:
        return first
    kind = np.int64 if all(np.issubdtype(f.counts.dtype, np.integer) for f in frames) else np.float64
    saturation = sum(f.saturation for f in frames)
    counts = np.zeros(first.counts.shape, dtype=kind)
    full = np.zeros(first.counts.shape, dtype=bool)
    for frame in frames:
        counts += np.asarray(frame.counts, dtype=kind)
        full |= frame.counts >= frame.saturation
    if full.any():
        counts[full] = math.ceil(saturation)
    return replace(
        frames[-1],
        counts=counts,
        live_time_s=sum(f.live_time_s for f in frames),
        saturation=saturation,
        offset=sum(f.offset for f in frames),
        metadata={**frames[-1].metadata, "frames": len(frames)},
    )


@dataclass(frozen=True)
class Seconds:
    """Enough after so many open-shutter seconds."""

    seconds: float

    def __post_init__(self) -> None:
        """Refuse what is no positive number."""
        _positive("Seconds", self.seconds)

    def enough(self, frames: Sequence[Frame], /) -> Verdict:
        """Compare the live time."""
        spent = _live(frames)
        left = self.seconds - spent
        # A timer that is a thousandth short has counted long enough.
        done = left <= 1e-3 * self.seconds
        return Verdict(done, f"{spent:g} of {self.seconds:g} s", 0.0 if done else left, exact=True)


@dataclass(frozen=True)
class Counts:
    """Enough at so many photons, background included, on the whole frame or in a region."""

    photons: float
    region: Region | None = None

    def __post_init__(self) -> None:
        """Refuse what is no positive number."""
        _positive("Counts", self.photons)

    def enough(self, frames: Sequence[Frame], /) -> Verdict:
        """Compare the photons so far."""
        if not frames:
            return Verdict(False, f"0 of {self.photons:g} photons", math.nan)
        got = sum(_within(f, self.region)[0] for f in frames)
        text = f"{got:.0f} of {self.photons:g} photons"
        if got >= self.photons:
            return Verdict(True, text, 0.0)
        return Verdict(False, text, _live(frames) * (self.photons - got) / got if got > 0.0 else math.nan)


@dataclass(frozen=True)
class NetCounts:
    """Photons in a region above the background of another, with their standard deviation (Poisson)."""

    region: Region
    background: Region | None = None

    def __call__(self, frame: Frame) -> tuple[float, float]:
        """Value and standard deviation."""
        value, pixels = _within(frame, self.region)
        if self.background is None:
            return value, math.sqrt(max(value, 0.0))
        beside, among = _within(frame, self.background)
        ratio = pixels / among if among else 0.0
        return value - ratio * beside, math.sqrt(max(value, 0.0) + ratio**2 * max(beside, 0.0))


@dataclass(frozen=True)
class RelativeError:
    """Enough when a number is known to a relative error.

    Attributes
    ----------
    number
        Gives the number and its standard deviation from the sum of all frames; such as `NetCounts`.
    error
        Standard deviation over value that is wanted.
    """

    number: Callable[[Frame], tuple[float, float]]
    error: float

    def __post_init__(self) -> None:
        """Refuse what is no positive number."""
        _positive("RelativeError", self.error)

    def enough(self, frames: Sequence[Frame], /) -> Verdict:
        """Errors of counted numbers shrink with the root of time."""
        if not frames:
            return Verdict(False, "nothing counted yet", math.nan)
        value, sigma = self.number(summed(frames))
        # Three standard deviations from nothing: below, a ratio means nothing.
        if not (math.isfinite(value) and math.isfinite(sigma)) or abs(value) <= 3.0 * sigma or sigma <= 0.0:
            return Verdict(False, f"{value:.4g} ± {sigma:.2g}: not told from zero", math.nan)
        relative = sigma / abs(value)
        text = f"{value:.4g} ± {sigma:.2g}, {100.0 * relative:.2g} % of {100.0 * self.error:g} % wanted"
        if relative <= self.error:
            return Verdict(True, text, 0.0)
        return Verdict(False, text, _live(frames) * ((relative / self.error) ** 2 - 1.0))


@dataclass(frozen=True, eq=False)
class OrientationKnown:
    """Enough when the orientation is known: indexed with confidence, its worst direction to ``sigma_deg``.

    How long that takes is told from the Cramer-Rao bound of the pattern (`fisher_information`), scaled to what frames of
    this exposure gave; where the pose of the detector alone leaves more than ``sigma_deg``, no counting will do.

    Attributes
    ----------
    observer
        Of the crystal on the instrument.
    sigma_deg
        Standard deviation wanted, degrees.
    confidence
        Least probability of being right.
    """

    observer: Observer
    sigma_deg: float
    confidence: float = 0.99

    def __post_init__(self) -> None:
        """Refuse what is no positive number, or no probability."""
        _positive("OrientationKnown", self.sigma_deg)
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"OrientationKnown: confidence lies between 0 and 1; {self.confidence!r} came.")

    def enough(self, frames: Sequence[Frame], /) -> Verdict:
        """Index the sum of all frames."""
        if not frames:
            return Verdict(False, "nothing seen yet", math.nan)
        frame, detector = summed(frames), self.observer.instrument.detector
        try:
            found = self.observer.indexer.index(find_spots(frame, detector))
        except IndexingError:
            return Verdict(False, "too few spots to index", math.nan)
        if found.orientation is None or found.confidence < self.confidence:
            return Verdict(
                False, f"confidence {found.confidence:.3f} of {self.confidence:g} wanted", math.nan
            )
        sigma = found.orientation.sigma_deg
        text = (
            f"orientation known to {sigma:.4f} deg of {self.sigma_deg:g} deg wanted, confidence "
            f"{found.confidence:.4f}, {found.n_indexed} spots"
        )
        if sigma <= self.sigma_deg:
            return Verdict(True, text, 0.0)
        left = self._expected_s(found.orientation.u, sigma, _live(frames))
        if math.isinf(left):
            text += "; the detector's pose alone leaves more than that: calibrate it first"
        return Verdict(False, text, left)

    def _expected_s(self, u: FloatArray, sigma_deg: float, spent_s: float) -> float:
        observer = self.observer
        try:
            told = fisher_information(observer.indexer.table, u, observer.instrument.detector, seconds=1.0)
        except BoundError:
            return math.nan
        prior = np.zeros(len(told.names))
        with np.errstate(divide="ignore"):
            prior[3:8] = 1.0 / np.square(observer.prior.sigmas(observer.instrument.detector))
        free = np.flatnonzero(np.isfinite(prior))

        def bound_deg(seconds: float) -> float:
            # Counts of any exposure are those of a second, times its length: so is their information.
            matrix = (seconds * told.matrix + np.diag(np.where(np.isfinite(prior), prior, 0.0)))[
                np.ix_(free, free)
            ]
            scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
            covariance = np.linalg.pinv(matrix / np.outer(scale, scale)) / np.outer(scale, scale)
            return float(np.rad2deg(np.sqrt(max(np.linalg.eigvalsh(covariance[:3, :3])[-1], 0.0))))

        times = np.geomspace(1e-4, 1e6, 101) * spent_s
        bounds = np.array([bound_deg(t) for t in times])
        if bounds[-1] > self.sigma_deg:
            return math.inf

        def when(wanted: float) -> float:
            return float(np.exp(np.interp(-np.log(wanted), -np.log(bounds), np.log(times))))

        # The crystal scatters more or less than described: such a pattern is that of another time.
        return spent_s * (when(self.sigma_deg) / when(sigma_deg) - 1.0)


def _live(frames: Sequence[Frame]) -> float:
    return float(sum(f.live_time_s for f in frames))


def _within(frame: Frame, region: Region | None) -> tuple[float, int]:
    """Photons in a region, and its pixels."""
    if region is None:
        counts = frame.counts
    else:
        rows, cols = np.ogrid[: frame.counts.shape[0], : frame.counts.shape[1]]
        counts = frame.counts[region.covers(cols, rows)]
    return float((counts.sum(dtype=float) - frame.offset * counts.size) / frame.gain), int(counts.size)


def _positive(who: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0.0 < value < np.inf:
        raise ValueError(f"{who} takes a positive number; {value!r} came.")
