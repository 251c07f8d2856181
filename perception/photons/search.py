"""One frame on its way through the photon indexer: coarse search, ascent, maxima, posterior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.refine import GeometryPrior, predict_pixels
from lauepilot.perception.photons.blocks import (
    BLOCK,
    block_middles,
    block_sums,
    live_pixels_of_blocks,
    standing_out,
    unexplained,
)
from lauepilot.perception.photons.climb import climb
from lauepilot.perception.photons.film import PAD, Film, listed, lone_pixels, track_pixels
from lauepilot.perception.photons.kernels import best_share
from lauepilot.perception.photons.modes import STEPS, Mode, Prior, gauss, polish, weigh
from lauepilot.perception.photons.rest import rest_llr
from lauepilot.perception.photons.result import PhotonMode, PhotonResult
from lauepilot.perception.photons.scene import (
    CELL,
    PARAMETERS,
    SHAPE_PARAMETERS,
    Photons,
    Scene,
    View,
    workspace,
)
from lauepilot.perception.photons.sky import Sky
from lauepilot.perception.photons.spread import REACH, select, spread
from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.image import DEFAULT_PROFILE
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.kernels import pack_detector
from lauepilot.simulator.laue import RayTable
from lauepilot.simulator.orientation import Orientation, misorientation
from lauepilot.simulator.render import pack_blur

#: Standard deviation of the logarithm of the point spread, about the sensor's own.
WIDTH_SIGMA = 0.35

#: Share of signal with which the sky is searched up to so many photons, and for what stands out of a frame of more. Too high
#: a share lets stray photons near faint spots outweigh the right orientation; too low a one costs little.
SEARCH_SHARES, STANDING_SHARE = ((600.0, 0.12), (2000.0, 0.05)), 0.3

#: Orientations that are climbed from, and those among them that go on to the top.
STARTS, CLIMBERS = 400, 150

#: Only so many are climbed from if one of them is so many nats better than nothing: an orientation that can be told so well
#: is among the first of the coarse search (`docs/decisions/0007`).
FIRST, PLENTY = 80, 200.0

#: With more photons than this, only pixels near an orientation's spots are looked at one by one, and searched is with
#: what stands out of the background: so many blocks.
ENOUGH, SEARCHED = 2000, 600

#: From so many photons on the visible share of clipped spots is summed pixel by pixel.
PRECISE = 500

#: Maxima within this many nats of the best are weighed; modes below this probability are not told of.
NATS, LEAST = 14.0, 1e-3

#: A lone bright pixel is taken for a hot one or a cosmic ray: up to so many photons, if spots so much sharper than believed
#: would not make it. Of a faint spot chance hides the width, which leaves more room.
LONE = ((30.0, 0.75), (np.inf, 0.5))

#: Standard deviation of a spot in pixels that the coarse search takes.
USUAL_SPOT_PX = 2.2


@dataclass(frozen=True, eq=False)
class Model:
    """A crystal on an instrument, prepared for photons.

    Attributes
    ----------
    crystal, instrument
        What is looked for, and where.
    prior
        How well the detector's pose is known.
    table
        Rays, brightest first.
    sky
        Patterns of all beam directions.
    per_px
        Radians of plane normals per pixel, median over the sensor.
    loose
        Standard deviation of the normals that the pose's uncertainty leaves beyond one rotation, rad.
    """

    crystal: Crystal
    instrument: Instrument
    prior: GeometryPrior
    table: RayTable
    sky: Sky
    per_px: float
    loose: float

    def brighter(self, share: float) -> int:
        """Number of rays brighter than ``share`` of the brightest."""
        strength = self.table.rate.mean(axis=1)
        return int(np.searchsorted(-strength, -share * strength[0]))

    def free(self) -> NDArray[np.int64]:
        """Numbers of the parameters that a frame must tell."""
        sigmas = self.prior.sigmas(self.instrument.detector)
        pose = [3 + k for k in range(5) if sigmas[k] > 0.0]
        return np.array([0, 1, 2, *pose, 8, 9], dtype=np.int64)


class FrameSearch:
    """One frame on its way through the indexer."""

    def __init__(self, model: Model, film: Film, counts: NDArray[np.number]) -> None:
        self.own, self.film = model, film
        table, instrument = model.table, model.instrument
        self.scene = Scene(
            table.direction, table.rate, table.sin_theta_min, table.sin_theta_step,
            pack_detector(film.detector), -2.0 if table.polarisation is None else table.polarisation,
            pack_blur(instrument, film.detector), DEFAULT_PROFILE.halo, DEFAULT_PROFILE.width, film.visible, PAD,
            film.live, False, film.widest, len(model.free()) > 5,
        )  # fmt: skip
        self.shape = film.detector.shape
        clean = np.where(film.live & (counts > 0), counts, 0)
        core = instrument.detector.sensor.point_spread_px * np.sqrt(DEFAULT_PROFILE.core_scale)
        for top, sharper in LONE:
            clean[lone_pixels(clean, sharper * core) & (clean <= top)] = 0
        clean[track_pixels(clean.astype(float))] = 0
        self.col, self.row, self.count = _by_cell(clean)
        self.total = float(self.count.sum())
        self.cells = film.cell_sums(clean)
        self.point = instrument.detector.sensor.point_spread_px
        self.rays = np.empty(len(table), np.int64)

    def run(self, around: Orientation | None) -> PhotonResult:
        """The answer; ``around`` as for `PhotonIndexer.index`."""
        nothing = PhotonResult(None, 0.0, (), 0.0, self.total, self.point, 0.0)
        if self.total < 3.0:
            return nothing
        shares, self._level = self.film.fit_frame(self.cells)
        thin = self._few(shares)
        if thin.total < 3.0:
            return nothing
        prior = self._prior(around)
        us, scores = self._starts(thin, around)
        order = np.argsort(-scores)
        us, scores = us[order], scores[order]
        modes = self._modes(us[self._distinct(us, scores, 40)], shares, prior)
        if not modes:
            return nothing
        best = modes[0]
        again, unexplained, rest = self._background(best, shares)
        modes = self._modes(
            np.array([m.u for m in modes[:12]]), again, prior, np.array([m.x for m in modes[:12]])
        )
        return self._conclude(modes, unexplained, rest)

    def _few(self, shares: FloatArray) -> Photons:
        """What orientations are searched with: all photons, or where there are many what stands out of the background.

        Then the frame is summed over blocks, and the excess over the background of those that stand out most stands for it.
        """
        if self.total <= ENOUGH:
            base = self.film.base(shares, self.col.astype(float), self.row.astype(float))
            return listed(self.col, self.row, self.count, base, self.shape, self.total)
        counts = block_sums(self.col, self.row, self.count, self.shape)
        col, row = block_middles(self.shape)
        base = self.film.base(shares, col, row)
        expected = (base * BLOCK**2 * self._level).reshape(counts.shape)
        chosen = standing_out(counts, expected, SEARCHED)
        weight = (counts - expected).ravel()[chosen]
        weight *= min(1.0, SEARCHED / max(float(weight.sum()), 1e-300))
        return listed(col[chosen], row[chosen], weight, base[chosen], self.shape, float(weight.sum()))

    def _listed(self, shares: FloatArray) -> Photons:
        base = self.film.base(shares, self.col.astype(float), self.row.astype(float))
        return listed(self.col, self.row, self.count, base, self.shape, self.total)

    def _prior(self, around: Orientation | None) -> Prior:
        own, free = self.own.prior, self.own.free()
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
            precision[:3, :3] = np.linalg.inv(_covariance(around, self.own.sky.step))
            log_norm += 0.5 * float(np.linalg.slogdet(precision[:3, :3] / (2.0 * np.pi))[1])
        return Prior(mean, precision, np.ascontiguousarray(u), float(log_norm))

    def _starts(self, thin: Photons, around: Orientation | None) -> tuple[FloatArray, FloatArray]:
        """Orientations climbed to from the sky's best, and their scores."""
        own = self.own
        per_px, loose, step = own.per_px, own.loose, own.sky.step
        spot = USUAL_SPOT_PX * per_px
        if around is None:
            sigma = float(np.sqrt(spot**2 + (0.45 * step) ** 2 + loose**2))
            pixels = np.stack([thin.col, thin.row], axis=1)
            share = next((f for most, f in SEARCH_SHARES if self.total <= most), STANDING_SHARE)
            us, _ = own.sky.search(pixels, thin.amount, thin.base, self.film.detector, share, sigma, STARTS)
        else:
            us = _cloud(around.u, _covariance(around, step), step)
        wide = 0.4 * step / per_px
        start = np.zeros(PARAMETERS)
        start[9] = -1.0
        loose_px = loose / per_px
        widths = np.sqrt(
            self.point**2 + loose_px**2 + (wide * np.array([1.0, 0.7, 0.45, 0.25, 0.0, 0.0])) ** 2
        )
        view, margin = View(self.scene, thin, self.rays, workspace(len(thin.col))), float(PAD - 2)
        scores, signal = np.empty(len(us)), np.empty(len(us))
        done = 0
        for stop in (FIRST, len(us)) if around is None else (len(us),):
            part = slice(done, stop)
            climb(
                us[part],
                start,
                view,
                own.brighter(2e-2),
                margin,
                widths[:3],
                step,
                scores[part],
                signal[part],
            )
            done = min(stop, len(us))
            if scores[:done].max() > PLENTY:
                break
        order = np.argsort(-scores[:done], kind="stable")[:CLIMBERS]
        best = scores[order[0]]
        us = np.ascontiguousarray(us[order[scores[order] > best - max(0.5 * abs(best), 20.0)]])
        climb(us, start, view, own.brighter(5e-3), margin, widths[3:], step, scores, signal)
        return us, scores[: len(us)]

    def _distinct(self, us: FloatArray, scores: FloatArray, most: int) -> list[int]:
        """Indices of the best, one for each orientation."""
        kept: list[int] = []
        for i in range(len(us)):
            if len(kept) >= most or scores[i] < scores[0] - NATS:
                break
            if kept:
                apart = misorientation(us[kept], us[i], self.own.crystal.symmetry)
                if apart.min() < 1.5 * self.own.per_px:
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
        free = self.own.free()
        exact = self.total <= ENOUGH
        again = starts is not None
        # Where photons are few, a clipped spot's share need not be known to a thousandth; and the first time, with many,
        # bright spots do.
        scene = self.scene._replace(precise=self.total > PRECISE and (exact or again))
        most = len(self.rays) if exact or again else self.own.brighter(2e-2)
        photons = self._listed(shares) if exact else None
        summits = []
        for k, u in enumerate(us):
            x = prior.mean.copy() if starts is None else starts[k].copy()
            view = self._view(u, shares, scene, most, photons)
            u = np.ascontiguousarray(u)
            share = best_share(u, x, view)
            x[9] = np.log(share / (1.0 - share))
            enough = 1e-4 if exact or again else 1e-2
            u, x, value, curvature = polish(u, x, free, prior, view, exact, STEPS, 20, enough)
            summits.append((*gauss(u, value, curvature, free, prior), u, x, value, curvature, view))
        best, likely = max(s[5] for s in summits), max(s[2] for s in summits)
        modes: list[Mode] = []
        for mean, covariance, evidence, u, x, value, curvature, view in sorted(summits, key=lambda s: -s[5]):
            if value < best - NATS:
                break
            if any(misorientation(u, m.u, self.own.crystal.symmetry) < 0.5 * self.own.per_px for m in modes):
                continue
            if exact and again and evidence > likely - NATS:
                mean, covariance, evidence = weigh(u, x, curvature, free, prior, view)
            modes.append(Mode(mean, covariance, x, float(value), evidence))
        modes.sort(key=lambda m: -m.log_evidence)
        return modes

    def _view(
        self, u: FloatArray, shares: FloatArray, scene: Scene, most: int, photons: Photons | None = None
    ) -> View:
        """An orientation's view of the frame with its ``most`` brightest rays; without ``photons`` those near its spots."""
        rays = self.rays[: select(u, self.scene, most, float(PAD - 2), self.rays)].copy()
        if photons is None:
            photons = self._near(u, rays, shares)
        return View(scene, photons, rays, workspace(len(photons.col)))

    def _near(self, u: FloatArray, rays: NDArray[np.int64], shares: FloatArray) -> Photons:
        """Pixels near an orientation's spots; the others are counted only."""
        pixels = predict_pixels(u, self.own.table.direction[rays], self.film.detector)
        near = np.zeros(self.shape, dtype=bool)
        profile = DEFAULT_PROFILE
        # Spots may turn out a third wider than believed.
        widest = profile.core_scale * (1.8 * self.point**2 + self.film.widest) + 0.1
        reach = int(np.ceil(REACH * profile.width * np.sqrt(widest)))
        for c, r in np.rint(pixels).astype(int):
            near[max(r - reach, 0) : max(r + reach + 1, 0), max(c - reach, 0) : max(c + reach + 1, 0)] = True
        keep = near[self.row, self.col]
        col, row = self.col[keep].astype(float), self.row[keep].astype(float)
        return listed(col, row, self.count[keep], self.film.base(shares, col, row), self.shape, self.total)

    def _background(self, mode: Mode, shares: FloatArray) -> tuple[FloatArray, float, float]:
        """Shares of the background's parts without the photons of a mode's spots, photons in clumps that it leaves, and the
        log-likelihood ratio without the one place that adds most to it.
        """
        view = self._view(mode.u, shares, self.scene, len(self.rays))
        photons, density = view.photons, view.work.density
        f = best_share(mode.u, mode.x, view)
        visible, _ = spread(mode.u, mode.x, view, 0, np.empty(SHAPE_PARAMETERS))
        ratio = density / (visible * photons.base)
        taken, worth = np.zeros(self.shape), np.zeros(self.shape)
        at = photons.row.astype(int), photons.col.astype(int)
        taken[at] = photons.amount * f * ratio / (1.0 - f + f * ratio)
        worth[at] = photons.amount * np.log(1.0 - f + f * ratio)
        detector = self.film.detector.moved(*map(float, mode.x[3:8]))
        rest = rest_llr(mode.u, view, f, ratio, worth, self.own.table, detector)
        new = self.film.fit(np.maximum(self.cells - self.film.cell_sums(taken), 0.0), shares)
        left = block_sums(self.col, self.row, self.count - taken[self.row, self.col], self.shape)
        base = self.film.base(new, *block_middles(self.shape)).reshape(left.shape)
        dark = float(left.sum()) * base * live_pixels_of_blocks(self.film.live)
        return new, unexplained(left, dark), min(rest, mode.llr)

    def _conclude(self, modes: list[Mode], unexplained: float, rest: float) -> PhotonResult:
        evidence = np.array([m.log_evidence for m in modes])
        top = max(float(evidence.max()), 0.0)
        weight = np.exp(evidence - top)
        nothing = np.exp(-top)
        probability = weight / (weight.sum() + nothing)
        b = self.own.crystal.b
        told = tuple(
            PhotonMode(Orientation(m.u, b, m.covariance), float(p), m.x[3:8].copy())
            for k, (m, p) in enumerate(zip(modes, probability, strict=True))
            if k == 0 or p > LEAST
        )
        best = modes[0]
        signal = self.total / (1.0 + np.exp(-best.x[9]))
        return PhotonResult(
            told[0].orientation,
            told[0].probability,
            told,
            float(signal),
            float(self.total - signal),
            float(np.exp(best.x[8])),
            best.llr,
            float(np.logaddexp.reduce(evidence)),
            unexplained,
            rest_llr=rest,
        )


def _by_cell(counts: NDArray[np.number]) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Column, row and photons of the pixels (rows, cols) that hold any, cell by cell."""
    down, across = (-(-n // CELL) for n in counts.shape)
    padded = np.zeros((down * CELL, across * CELL), dtype=counts.dtype)
    padded[: counts.shape[0], : counts.shape[1]] = counts
    flat = padded.reshape(down, CELL, across, CELL).swapaxes(1, 2).ravel()
    full = np.flatnonzero(flat)
    cell, inside = np.divmod(full, CELL * CELL)
    row, col = (cell // across) * CELL + inside // CELL, (cell % across) * CELL + inside % CELL
    return col, row, flat[full].astype(float)


def _covariance(around: Orientation, step: float) -> FloatArray:
    """Covariance (3, 3) of an expected orientation; one that says nothing (zeros) is taken to be ``step`` radians wide."""
    values, vectors = np.linalg.eigh(around.covariance)
    if values[-1] <= 0.0:
        return np.asarray(step**2 * np.eye(3))
    return np.asarray((vectors * np.maximum(values, 1e-6 * values[-1])) @ vectors.T)


def _cloud(u: FloatArray, covariance: FloatArray, step: float) -> FloatArray:
    """Orientations (n, 3, 3) about ``step`` apart within three standard deviations of one."""
    values, vectors = np.linalg.eigh(covariance)
    sigma = np.sqrt(values)
    axes = [np.linspace(-3.0 * s, 3.0 * s, 2 * int(np.ceil(3.0 * s / step)) + 1) for s in sigma]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[((grid / sigma) ** 2).sum(axis=1) <= 9.5]
    return np.ascontiguousarray(rotation_matrix(grid @ vectors.T) @ u)
