"""Orientations straight from photons: `PhotonIndexer`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.indexing.sphere import on_sphere, pixel_area
from lauepilot.perception.observation import SpotList
from lauepilot.perception.photons.film import Film
from lauepilot.perception.photons.result import PhotonMode, PhotonResult
from lauepilot.perception.photons.search import FrameSearch, Model
from lauepilot.perception.photons.sky import Sky
from lauepilot.perception.photons.strew import sparse, strewn
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.frame import Frame, FrameError
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.laue import RayTable
from lauepilot.simulator.orientation import Orientation

__all__ = ["PhotonIndexer", "PhotonMode", "PhotonResult"]


class PhotonIndexer:
    """Indexes frames of few photons of one crystal on one instrument.

    Parameters
    ----------
    crystal, instrument
        What is looked for, and where.
    prior
        How well the detector's pose is known; where not exactly, it is refined with each orientation.
    step_deg
        Spacing of the grid of beam directions; None: 0.5 for crystals of twelve rotations or more, else 0.6.
    """

    def __init__(
        self,
        crystal: Crystal,
        instrument: Instrument,
        prior: GeometryPrior | None = None,
        *,
        step_deg: float | None = None,
    ) -> None:
        self.crystal = crystal
        self.instrument = instrument
        self.prior = GeometryPrior() if prior is None else prior
        table = RayTable.build(crystal, instrument, min_relative=1e-3)
        # Low symmetry has more orientations, and needs more photons, which forgive a wider step.
        usual = 0.5 if len(crystal.symmetry) >= 12 else 0.6
        sky = Sky.build(table, instrument.detector, usual if step_deg is None else step_deg)
        self.model = Model(
            crystal, instrument, self.prior, table, sky, *_normal_sigmas(instrument.detector, self.prior)
        )
        self.film = Film.build(instrument)

    @property
    def nbytes(self) -> int:
        """Memory that is kept from frame to frame: patterns, rays, maps of the detector."""
        table, film = self.model.table, self.film
        rays = (table.rate, table.direction, table.order, table.hkl, table.q_length)
        return self.model.sky.nbytes + sum(a.nbytes for a in (*rays, film.live, film.visible, film.cells))

    def index(
        self,
        frame: Frame | NDArray[np.number],
        *,
        mask: NDArray[np.bool_] | None = None,
        around: Orientation | None = None,
    ) -> PhotonResult:
        """Find the orientation of the crystal in a frame.

        Parameters
        ----------
        frame
            A frame, or photons (rows, cols) as they were counted, nothing subtracted. Of a frame, what is below half a
            photon is the electronics' noise and counts as none; so do values down to -0.5 in an array.
        mask
            (rows, cols), True where a pixel is dead, beside the detector's own blind regions. Lone bright pixels, too sharp
            for a spot (hot ones, cosmic rays), are left out unasked.
        around
            Where the crystal is expected to be, with covariance: only there is looked. A covariance of zeros, which says
            nothing, is taken for a standard deviation of one step of the grid.

        Raises
        ------
        FrameError
            If the frame does not fit the detector, holds NaN, or had its background subtracted.
        """
        counts, dead = self._photons(frame, mask)
        film = self.film if dead is None else Film.build(self.instrument, dead)
        return FrameSearch(self.model, film, counts).run(around)

    def compare(
        self,
        result: PhotonResult,
        frame: Frame | NDArray[np.number],
        rng: np.random.Generator,
        *,
        mask: NDArray[np.bool_] | None = None,
        times: int = 3,
    ) -> PhotonResult:
        """Compare an answer with what the same clumps of photons give by chance, lest another crystal be taken for this one.

        Parameters
        ----------
        result
            Of `index` on the frame.
        frame, mask
            As for `index`.
        rng
            Of the draws.
        times
            Searches that are spent on it.

        Returns
        -------
        The result with its ``strewn_llr``; unchanged if the frame holds too many photons to tell clumps apart.

        Raises
        ------
        FrameError
            As `index`.
        """
        counts, dead = self._photons(frame, mask)
        film = self.film if dead is None else Film.build(self.instrument, dead)
        if not sparse(counts, film.live):
            return result
        found = [
            FrameSearch(self.model, film, strewn(counts, film.live, rng)).run(None).llr for _ in range(times)
        ]
        return replace(result, strewn_llr=max(0.0, *found))

    def verify(
        self,
        frame: Frame | NDArray[np.number],
        orientation: Orientation,
        sigma_rad: float,
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> tuple[float, Orientation]:
        """Whether a crystal is where it is expected to be: a matched filter with all orientations near and far to compare.

        Parameters
        ----------
        frame, mask
            As for `index`.
        orientation
            Where the crystal should be, laboratory.
        sigma_rad
            Standard deviation of each component of the rotation from there.

        Returns
        -------
        Odds of "it is there" to "it is anywhere else, or not in the frame at all", and the refined orientation (the expected
        one, with ``sigma_rad``, if the frame tells nothing).

        Raises
        ------
        ValueError
            If ``sigma_rad`` is not positive.
        FrameError
            As `index`.
        """
        if not (np.isfinite(sigma_rad) and sigma_rad > 0.0):
            raise ValueError(
                f"sigma_rad must be a positive angle in radians; {sigma_rad} came. A degree is 0.0175."
            )
        expected = Orientation(orientation.u, orientation.b, sigma_rad**2 * np.eye(3))
        near = self.index(frame, mask=mask, around=expected)
        far = self.index(frame, mask=mask)
        log_odds = near.log_evidence - np.logaddexp(0.0, far.log_evidence)
        return float(np.exp(np.clip(log_odds, -700.0, 700.0))), near.orientation or expected

    def _photons(
        self, frame: Frame | NDArray[np.number], mask: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.number], NDArray[np.bool_] | None]:
        shape = self.instrument.detector.shape
        if isinstance(frame, Frame):
            counts = (np.asarray(frame.counts, dtype=float) - frame.offset) / frame.gain
            _refuse_subtracted(counts, self.instrument.detector.sensor.readout_noise_adu / frame.gain)
            counts[counts < 0.5] = 0.0
            full = np.asarray(frame.counts) >= frame.saturation
            if full.any():
                mask = full if mask is None else mask | full
        else:
            counts = np.asarray(frame)
        if counts.shape != shape or (mask is not None and mask.shape != shape):
            came = counts.shape if mask is None else (counts.shape, mask.shape)
            raise FrameError(
                f"Photons wanted as an array of {shape} (rows, columns), and the mask alike; {came} came. "
                "Name the instrument that the frame was taken on."
            )
        if counts.dtype.kind == "f" and not np.all(np.isfinite(counts)):
            raise FrameError(
                "The frame holds pixels that are NaN or infinite. Mask them: mask=~numpy.isfinite(counts)."
            )
        below = counts < -0.5 if mask is None else (counts < -0.5) & ~mask
        if below.any():
            raise FrameError(
                f"{int(below.sum())} pixels are negative (down to {counts[below].min():.4g}): photons cannot be. Hand in "
                "the frame before its background was subtracted (it is fitted here), or mask=counts < 0."
            )
        return counts, mask


def _refuse_subtracted(photons: FloatArray, noise: float) -> None:
    """Refuse frames with more pixels far below zero than electronics' ``noise`` (photons) makes."""
    below = np.count_nonzero(photons < -(0.5 + 5.0 * noise))
    if below > 1e-3 * photons.size:
        raise FrameError(
            f"{below} pixels of the frame are negative, and no electronics make them so: its background was subtracted. "
            "Hand in the frame as it was counted (the background is fitted here)."
        )


def _normal_sigmas(detector: Detector, prior: GeometryPrior) -> tuple[float, float]:
    """Radians of normals per pixel, and what the pose's uncertainty leaves (rad): medians over the sensor."""
    lines = (np.linspace(0, n - 1, 15) for n in detector.shape[::-1])
    grid = np.stack(np.meshgrid(*lines), axis=-1).reshape(-1, 2)
    grid = grid[detector.sees(grid)]
    per_px = float(np.median(np.sqrt(pixel_area(grid, detector))))
    if prior.known:
        return per_px, 0.0
    n = len(grid)
    spots = SpotList(grid, np.zeros((n, 2, 2)), np.ones(n), np.ones(n), np.zeros(n, dtype=bool))
    return per_px, float(np.median(on_sphere(spots, detector, prior).sigma))
