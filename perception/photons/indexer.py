"""Orientations straight from photons: `PhotonIndexer`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.indexing.sphere import on_sphere, pixel_area
from lauepilot.perception.observation import SpotList
from lauepilot.perception.photons.climb import climb
from lauepilot.perception.photons.film import PAD, Film, listed
from lauepilot.perception.photons.kernels import (
    PARAMETERS,
    SHAPE_PARAMETERS,
    Photons,
    Scene,
    best_share,
    select,
    spread,
    workspace,
)
from lauepilot.perception.photons.modes import _STEPS, Mode, Prior, gauss, polish, weigh
from lauepilot.perception.photons.sky import Sky
from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.frame import Frame, FrameError
from lauepilot.simulator.image import DEFAULT_PROFILE
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.kernels import pack_detector
from lauepilot.simulator.laue import RayTable
from lauepilot.simulator.orientation import Orientation, misorientation
from lauepilot.simulator.render import pack_blur

#: From this probability on an answer is given without "unsure".
SURE = 0.95

#: Standard deviation of the logarithm of the point spread, about the sensor's own.
WIDTH_SIGMA = 0.35

#: Shares of signal with which the sky is searched: a frame of mostly signal, and one of mostly background.
SHARES = (0.4, 0.08)

#: Orientations that are climbed from, those among them that go on to the top, and photons that are enough to find orientations by.
STARTS, CLIMBERS, ENOUGH = 400, 150, 2000

#: Width of the blocks into which frames of more photons are summed for the search, pixels.
BLOCK = 4

#: Maxima within this many nats of the best are weighed; modes below this probability are not told of.
NATS, LEAST = 14.0, 1e-3


@dataclass(frozen=True, eq=False)
class PhotonMode:
    """One possible orientation with its posterior probability.

    Attributes
    ----------
    orientation
        Laboratory orientation: posterior mean and covariance near this maximum.
    probability
        0..1: all modes together with "no spots in this frame" add up to 1.
    """

    orientation: Orientation
    probability: float


@dataclass(frozen=True, eq=False)
class PhotonResult:
    """What a frame's photons tell.

    Attributes
    ----------
    orientation
        The most probable mode's; None if "no spots in this frame" is more probable than all of them.
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
    """

    orientation: Orientation | None
    confidence: float
    modes: tuple[PhotonMode, ...]
    signal_photons: float
    background_photons: float
    width_px: float
    llr: float

    @property
    def verdict(self) -> str:
        """``sure``; ``tie`` if a few modes hold the answer together; ``unsure`` if the frame does not hold it."""
        if self.orientation is None:
            return "unsure"
        if self.confidence >= SURE:
            return "sure"
        few = sum(m.probability for m in self.modes[:4])
        return "tie" if few >= SURE else "unsure"


class PhotonIndexer:
    """Indexes frames of few photons of one crystal on one instrument.

    Parameters
    ----------
    crystal, instrument
        What is looked for, and where.
    prior
        How well the detector's pose is known; where not exactly, it is refined with each orientation.
    step_deg
        Spacing of the grid of beam directions.
    """

    def __init__(
        self,
        crystal: Crystal,
        instrument: Instrument,
        prior: GeometryPrior | None = None,
        *,
        step_deg: float = 0.7,
    ) -> None:
        self.crystal = crystal
        self.instrument = instrument
        self.prior = GeometryPrior() if prior is None else prior
        self.table = RayTable.build(crystal, instrument, min_relative=1e-3)
        self._step = np.deg2rad(step_deg)
        strength = self.table.rate.mean(axis=1)
        self._brightest, self._bright = (
            int(np.searchsorted(-strength, -share * strength[0])) for share in (2e-2, 5e-3)
        )
        self.sky = Sky.build(self.table, instrument.detector, step_deg)
        self.film = Film.build(instrument)
        self._sigmas = self._normal_sigmas()

    def _normal_sigmas(self) -> tuple[float, float]:
        """Radians of normals per pixel, and what the pose's uncertainty leaves (rad): medians over the sensor."""
        detector = self.instrument.detector
        grid = np.stack(
            np.meshgrid(*(np.linspace(0, n - 1, 15) for n in detector.shape[::-1])), axis=-1
        ).reshape(-1, 2)
        grid = grid[detector.sees(grid)]
        per_px = float(np.median(np.sqrt(pixel_area(grid, detector))))
        if self.prior.known:
            return per_px, 0.0
        n = len(grid)
        spots = SpotList(grid, np.zeros((n, 2, 2)), np.ones(n), np.ones(n), np.zeros(n, dtype=bool))
        loose = float(np.median(on_sphere(spots, detector, self.prior).sigma))
        return per_px, loose

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
            A frame, or photons (rows, cols).
        mask
            (rows, cols), True where a pixel is dead, beside the detector's own blind regions.
        around
            Where the crystal is expected to be, with covariance: only there is looked.

        Raises
        ------
        FrameError
            If the frame does not fit the detector, or holds NaN.
        """
        counts, dead = self._photons(frame, mask)
        film = self.film if dead is None else Film.build(self.instrument, dead)
        search = _Search(self, film, counts)
        return search.run(around)

    def _photons(
        self, frame: Frame | NDArray[np.number], mask: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.number], NDArray[np.bool_] | None]:
        shape = self.instrument.detector.shape
        if isinstance(frame, Frame):
            counts = (np.asarray(frame.counts, dtype=float) - frame.offset) / frame.gain
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
        return counts, mask


class _Search:
    """One frame on its way through the indexer."""

    def __init__(self, indexer: PhotonIndexer, film: Film, counts: NDArray[np.number]) -> None:
        self.own, self.film = indexer, film
        table, instrument = indexer.table, indexer.instrument
        self.scene = Scene(
            table.direction, table.rate, table.sin_theta_min, table.sin_theta_step,
            pack_detector(film.detector), -2.0 if table.polarisation is None else table.polarisation,
            pack_blur(instrument, film.detector), DEFAULT_PROFILE.halo, DEFAULT_PROFILE.width, film.visible, PAD,
        )  # fmt: skip
        self.shape = film.detector.shape
        clean = np.where(film.live & (counts > 0), counts, 0)
        self.row, self.col = np.nonzero(clean)
        self.count = clean[self.row, self.col].astype(float)
        self.total = float(self.count.sum())
        self.cells = film.cell_sums(clean)
        self.point = instrument.detector.sensor.point_spread_px
        self.rays = np.empty(len(table), np.int64)

    def run(self, around: Orientation | None) -> PhotonResult:
        nothing = PhotonResult(None, 0.0, (), 0.0, self.total, self.point, 0.0)
        if self.total < 3.0:
            return nothing
        shares, self._level = self.film.fit_frame(self.cells)
        thin = self._few(shares)
        if thin.total < 3.0:
            return nothing
        prior = self._prior(around)
        us, scores = self._starts(thin, shares, around)
        order = np.argsort(-scores)
        us, scores = us[order], scores[order]
        modes = self._modes(us[self._distinct(us, scores, 40)], shares, prior)
        if not modes:
            return nothing
        best = modes[0]
        again = self._background(best, shares)
        modes = self._modes(
            np.array([m.u for m in modes[:12]]), again, prior, np.array([m.x for m in modes[:12]])
        )
        return self._conclude(modes)

    def _few(self, shares: FloatArray) -> Photons:
        """What orientations are searched with: all photons, or where there are many what stands out of the background.

        Then the frame is summed over blocks, and each block's excess over three standard deviations stands for it.
        """
        if self.total <= ENOUGH:
            base = self.film.base(shares, self.col.astype(float), self.row.astype(float))
            return listed(self.col, self.row, self.count, base, self.shape, self.total)
        rows, cols = (-(-n // BLOCK) for n in self.shape)
        block = (self.row // BLOCK) * cols + self.col // BLOCK
        counts = np.bincount(block, weights=self.count, minlength=rows * cols)
        row, col = (BLOCK * i + 0.5 * (BLOCK - 1) for i in np.divmod(np.arange(rows * cols), cols))
        base = self.film.base(shares, col, row)
        expected = base * BLOCK**2 * self._level
        excess = counts - expected - 3.0 * np.sqrt(expected)
        chosen = np.argsort(-excess, kind="stable")[:ENOUGH]
        chosen = chosen[excess[chosen] > 0.0]
        weight = excess[chosen] * min(1.0, ENOUGH / excess[chosen].sum())
        return listed(col[chosen], row[chosen], weight, base[chosen], self.shape, float(weight.sum()))

    def _listed(self, shares: FloatArray) -> Photons:
        base = self.film.base(shares, self.col.astype(float), self.row.astype(float))
        return listed(self.col, self.row, self.count, base, self.shape, self.total)

    def _prior(self, around: Orientation | None) -> Prior:
        own, free = self.own.prior, self._free()
        mean, precision = np.zeros(PARAMETERS), np.zeros((PARAMETERS, PARAMETERS))
        mean[8] = np.log(self.point)
        precision[8, 8] = 1.0 / WIDTH_SIGMA**2
        if not own.known:
            sigmas = own.sigmas(self.film.detector)
            for k in free[(free >= 3) & (free < 8)]:
                precision[k, k] = 1.0 / sigmas[k - 3] ** 2
        normed = [k for k in free if 3 <= k < 9]
        log_norm = 0.5 * float(np.log(np.diag(precision)[normed] / (2.0 * np.pi)).sum())
        u = np.eye(3)
        if around is None:
            log_norm += np.log(len(self.own.crystal.symmetry) / (8.0 * np.pi**2))
        else:
            u = around.u
            precision[:3, :3] = np.linalg.inv(around.covariance)
            log_norm += 0.5 * float(np.linalg.slogdet(precision[:3, :3] / (2.0 * np.pi))[1])
        return Prior(mean, precision, np.ascontiguousarray(u), float(log_norm))

    def _free(self) -> NDArray[np.int64]:
        free = [0, 1, 2, 8, 9]
        if not self.own.prior.known:
            sigmas = self.own.prior.sigmas(self.film.detector)
            free += [3 + k for k in range(5) if sigmas[k] > 0.0]
        return np.array(sorted(free), dtype=np.int64)

    def _starts(
        self, thin: Photons, shares: FloatArray, around: Orientation | None
    ) -> tuple[FloatArray, FloatArray]:
        """Orientations climbed to from the sky's best, and their scores."""
        own = self.own
        per_px, loose = own._sigmas
        spot = 2.2 * per_px
        if around is None:
            sigma = float(np.sqrt(spot**2 + (0.33 * own._step) ** 2 + loose**2))
            pixels = np.stack([thin.col, thin.row], axis=1)
            found = [
                own.sky.search(
                    pixels, thin.count, thin.base, self.film.detector, share, sigma, STARTS // len(SHARES)
                )[0]
                for share in SHARES
            ]
            us = np.concatenate(found)
            wide = 0.4 * own._step / per_px
        else:
            us = _cloud(around, own._step)
            wide = 0.4 * own._step / per_px
        start = np.zeros(PARAMETERS)
        start[9] = -1.0
        loose_px = loose / per_px
        widths = np.sqrt(
            self.point**2 + loose_px**2 + (wide * np.array([1.0, 0.7, 0.45, 0.25, 0.0, 0.0])) ** 2
        )
        work, margin = workspace(len(thin.col)), float(PAD - 2)
        scores, signal = np.empty(len(us)), np.empty(len(us))
        climb(
            us, start, self.scene, thin, own._brightest, margin, widths[:3], own._step, work, scores, signal
        )
        us = np.ascontiguousarray(us[np.argsort(-scores, kind="stable")[:CLIMBERS]])
        climb(us, start, self.scene, thin, own._bright, margin, widths[3:], own._step, work, scores, signal)
        return us, scores[: len(us)]

    def _distinct(self, us: FloatArray, scores: FloatArray, most: int) -> list[int]:
        """Indices of the best, one for each orientation."""
        kept: list[int] = []
        for i in range(len(us)):
            if len(kept) >= most or scores[i] < scores[0] - NATS:
                break
            if kept:
                apart = misorientation(us[kept], us[i], self.own.crystal.symmetry)
                if apart.min() < 1.5 * self.own._sigmas[0]:
                    continue
            kept.append(i)
        return kept

    def _modes(
        self,
        us: FloatArray,
        shares: FloatArray,
        prior: Prior,
        starts: FloatArray | None = None,
    ) -> list[Mode]:
        """Maxima from starting orientations, weighed; the most probable first."""
        free = self._free()
        modes: list[Mode] = []
        exact = self.total <= ENOUGH
        photons = self._listed(shares) if exact else None
        work = workspace(len(photons.col)) if photons is not None else None
        summits = []
        for k, u in enumerate(us):
            x = prior.mean.copy() if starts is None else starts[k].copy()
            n = select(u, self.scene, len(self.rays), float(PAD - 2), self.rays)
            if not exact:
                photons = self._near(u, shares)
                work = workspace(len(photons.col))
            u = np.ascontiguousarray(u)
            share = best_share(u, x, self.scene, photons, self.rays, n, work)
            x[9] = np.log(share / (1.0 - share))
            u, x, value, curvature = polish(
                np.ascontiguousarray(u),
                x,
                free,
                prior,
                self.scene,
                photons,
                self.rays,
                n,
                work,
                exact,
                _STEPS,
                12,
            )
            summits.append((value, u, x, curvature, self.rays[:n].copy(), photons, work))
        summits.sort(key=lambda s: -s[0])
        for value, u, x, curvature, rays, listed_photons, scratch in summits:
            if value < summits[0][0] - NATS:
                break
            if any(
                misorientation(u, m.u, self.own.crystal.symmetry) < 0.5 * self.own._sigmas[0] for m in modes
            ):
                continue
            if exact and starts is not None:
                found = weigh(u, x, curvature, free, prior, self.scene, listed_photons, rays, len(rays), scratch)
            else:
                found = gauss(u, value, curvature, free, prior)
            mean, covariance, evidence = found
            modes.append(Mode(mean, covariance, x, float(value), evidence))
        modes.sort(key=lambda m: -m.log_evidence)
        return modes

    def _near(self, u: FloatArray, shares: FloatArray) -> Photons:
        """Pixels near an orientation's spots; the others are counted only."""
        n = select(u, self.scene, len(self.rays), float(PAD - 2), self.rays)
        from lauepilot.perception.indexing.refine import predict_pixels

        pixels = predict_pixels(u, self.own.table.direction[self.rays[:n]], self.film.detector)
        near = np.zeros(self.shape, dtype=bool)
        reach = 20
        for c, r in np.rint(pixels).astype(int):
            near[max(r - reach, 0) : max(r + reach + 1, 0), max(c - reach, 0) : max(c + reach + 1, 0)] = True
        keep = near[self.row, self.col]
        col, row = self.col[keep], self.row[keep]
        base = self.film.base(shares, col.astype(float), row.astype(float))
        return listed(col, row, self.count[keep], base, self.shape, self.total)

    def _background(self, mode: Mode, shares: FloatArray) -> FloatArray:
        """Shares of the background's parts without the photons that belong to a mode's spots."""
        photons = self._near(mode.u, shares)
        work = workspace(len(photons.col))
        n = select(mode.u, self.scene, len(self.rays), float(PAD - 2), self.rays)
        visible, touched = spread(
            mode.u, mode.x, self.scene, photons, self.rays, n, 0, work, np.empty(SHAPE_PARAMETERS)
        )
        f = 1.0 / (1.0 + np.exp(-mode.x[9]))
        ratio = work.density / (visible * photons.base)
        belongs = photons.count * f * ratio / (1.0 - f + f * ratio)
        taken = np.zeros(self.shape)
        np.add.at(taken, (photons.row.astype(int), photons.col.astype(int)), belongs)
        return self.film.fit(np.maximum(self.cells - self.film.cell_sums(taken), 0.0), shares)

    def _conclude(self, modes: list[Mode]) -> PhotonResult:
        evidence = np.array([m.log_evidence for m in modes])
        top = max(float(evidence.max()), 0.0)
        weight = np.exp(evidence - top)
        nothing = np.exp(-top)
        probability = weight / (weight.sum() + nothing)
        b = self.own.crystal.b
        told = tuple(
            PhotonMode(Orientation(m.u, b, m.covariance), float(p))
            for m, p in zip(modes, probability, strict=True)
            if p > LEAST
        )
        best = modes[0]
        signal = self.total / (1.0 + np.exp(-best.x[9]))
        seen = float(probability.sum()) > 0.5
        return PhotonResult(
            told[0].orientation if seen else None,
            float(probability[0]) if seen else 0.0,
            told,
            float(signal),
            float(self.total - signal),
            float(np.exp(best.x[8])),
            best.llr,
        )


def _cloud(around: Orientation, step: float) -> FloatArray:
    """Orientations (n, 3, 3) about ``step`` apart within three standard deviations of one."""
    values, vectors = np.linalg.eigh(around.covariance)
    sigma = np.sqrt(np.maximum(values, 0.0))
    axes = [np.linspace(-3.0 * s, 3.0 * s, 2 * int(np.ceil(3.0 * s / step)) + 1) for s in sigma]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[((grid / np.maximum(sigma, 1e-12)) ** 2).sum(axis=1) <= 9.5]
    return np.ascontiguousarray(rotation_matrix(grid @ vectors.T) @ around.u)
