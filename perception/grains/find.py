"""Several grains in one frame: orientations strongest first, each with its spots, volume fraction and error bar.

The strongest orientation is indexed, then the strongest among the spots that it leaves unexplained, and so on. Each new
grain has to raise the likelihood of the whole list, under a mixture of a Poisson process of false spots and one for
each grain, by more than the best of all wrong orientations would: that is the rule that ends the search. Spots are shared
by their posterior probabilities (expectation maximisation: Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39, 1), so
that one spot may belong to two grains, and all grains are refined together with one pose of the detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lauepilot.perception.grains.fit import Fitted, Pairs, fit_together
from lauepilot.perception.indexing.checks import check_spots
from lauepilot.perception.indexing.indexer import POSE_PX, TEMPER, Indexer, IndexingError, IndexResult
from lauepilot.perception.indexing.refine import GeometryPrior, Refinement, predict_pixels, strained
from lauepilot.perception.indexing.rough import index_by_prior
from lauepilot.perception.indexing.sphere import on_sphere
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.laue import RayTable, cached_table, predict_spots
from lauepilot.simulator.orientation import Orientation, misorientation

#: Faintest rays that may explain a spot, relative to the brightest: a grain's faint spots must not pass for another grain.
DEPTH = 3e-4

#: Probability from which on a grain is told of.
SURE = 0.99

#: Grains at most where nobody says how many.
MOST = 12

#: Two orientations nearer than this are one grain (degrees).
SAME_DEG = 0.3

#: Smallest and largest scatter of the logarithm of intensities about what the structure says.
SCATTER = (0.4, 1.2)

#: Log-likelihood by which another orientation may be worse than a grain's and still be told of.
TIE = 6.0


@dataclass(frozen=True, eq=False)
class Grain:
    """One grain.

    Attributes
    ----------
    orientation
        Laboratory orientation, with covariance: the pose's uncertainty is in it.
    confidence
        Probability, 0..1, that there is such a grain: the gain in likelihood against the best that chance can reach.
    gain
        Log-likelihood of the list with this grain less that without it.
    share, share_sigma
        Part of the diffracting volume of all grains found, and its standard deviation.
    n_expected
        Visible spots expected of it, as deep as the list goes.
    belongs
        (k,) probability that each explained spot is this grain's; the rest is another grain's or nobody's.
    refinement
        Explained spots (``spot``), their rays, indices and residuals, and the common pose.
    alternatives
        Other orientations of this grain that fit about as well.
    """

    orientation: Orientation
    confidence: float
    gain: float
    share: float
    share_sigma: float
    n_expected: int
    belongs: FloatArray
    refinement: Refinement
    alternatives: tuple[Orientation, ...] = ()

    def as_result(self) -> IndexResult:
        """The same as the answer of an indexer to a list with one grain, for tables and pictures."""
        return IndexResult(
            self.orientation, self.confidence, self.gain, self.n_expected, self.refinement, self.alternatives
        )


@dataclass(frozen=True, eq=False)
class _Part:
    """One grain's Poisson process: per spot its density over that of the whole list, and the spots it should show."""

    u: FloatArray
    strain: FloatArray
    density: FloatArray
    ray: NDArray[np.int64]
    expected: FloatArray
    visible: float
    scale: float
    scatter: float


def index_grains(
    indexer: Indexer,
    spots: SpotList,
    detector: Detector | None = None,
    most: int | None = None,
    *,
    prior: GeometryPrior | None = None,
    cell_sigma: float = 0.0,
    first: IndexResult | None = None,
) -> tuple[Grain, ...]:
    """Find all grains of the indexer's crystal that a list of spots shows, strongest (by spots explained) first.

    Parameters
    ----------
    indexer
        Of the crystal on the instrument.
    spots
        Found spots.
    detector
        Pose to believe; the instrument's own by default.
    most
        Stop after so many grains; None: when the next one would not stand out from chance.
    prior, cell_sigma
        As in `Indexer.index`; the pose is common to all grains, the strain each grain's own.
    first
        The answer of the indexer to the whole list, if it is there already.

    Returns
    -------
    Grains whose confidence is `SURE` at least; none if there is no such.

    Raises
    ------
    IndexingError
        If there are fewer than four spots, some are no numbers, or ``most`` is below one.
    """
    check_spots(spots)
    if most is not None and most < 1:
        raise IndexingError(f"At least one grain has to be looked for; got most={most}.")
    where = indexer.instrument.detector if detector is None else detector
    known = indexer.prior if prior is None else prior
    if first is None:
        first = index_by_prior(indexer, spots, where, prior=known)
    table = cached_table(indexer.crystal, indexer.instrument, DEPTH)
    mixture = _Mixture(indexer, table, spots, where, known, cell_sigma)
    candidates = _orientations(first)
    if first.refinement is not None:
        mixture.pose = first.refinement.detector
    while len(mixture.parts) < (MOST if most is None else most):
        if not mixture.add(candidates):
            break
        rest = mixture.unexplained()
        if len(rest) < 4:
            break
        pixel = max(where.pixel_mm)
        near = GeometryPrior(0.3 * pixel, 0.3 * pixel, 0.01)
        candidates = _orientations(indexer.index(spots.take(rest), mixture.pose, prior=near))
    return mixture.grains()


def _orientations(result: IndexResult) -> list[FloatArray]:
    if result.orientation is None:
        return []
    return [result.orientation.u, *(o.u for o in result.alternatives)]


class _Mixture:
    """A list of spots as the sum of grains and false spots."""

    def __init__(
        self,
        indexer: Indexer,
        table: RayTable,
        spots: SpotList,
        detector: Detector,
        prior: GeometryPrior,
        cell_sigma: float,
    ) -> None:
        self.indexer, self.table, self.spots = indexer, table, spots
        self.detector, self.prior, self.cell_sigma = detector, prior, cell_sigma
        self.pose = detector
        self.parts: list[_Part] = []
        self.fits: list[Fitted] = []
        self.geometry_sigma = np.zeros(5)
        own = np.trace(spots.covariance_px2, axis1=1, axis2=2) / 2.0
        self.sigma = np.sqrt(np.maximum(own, 0.0025) + POSE_PX**2)
        self.log_counts = np.log(np.maximum(spots.counts, 1e-9))
        # The second faintest: one odd spot must not say how deep the list goes.
        self.limit = float(np.partition(spots.counts, min(1, len(spots) - 1))[min(1, len(spots) - 1)])
        self.density = len(spots) / float(detector.shape[0] * detector.shape[1])
        exact = on_sphere(spots, detector, GeometryPrior(), POSE_PX)
        self.chance = indexer.chance(exact) + 5.0
        self.needed = self.chance + np.log(SURE / (1.0 - SURE)) / TEMPER

    def add(self, candidates: Sequence[FloatArray]) -> bool:
        """Take the best of some orientations as another grain, if it raises the likelihood enough."""
        before, _, _ = self._share(self.parts)
        best, gain = None, -np.inf
        for u in candidates:
            part = self._part(u, np.zeros((3, 3)))
            if any(
                misorientation(u, p.u, self.indexer.crystal.symmetry) < np.deg2rad(SAME_DEG)
                for p in self.parts
            ):
                continue
            now, _, _ = self._share([*self.parts, part])
            if now - before > gain:
                best, gain = part, now - before
        # Half of what is needed: together with a pose of its own it may fit better.
        if best is None or gain < 0.5 * self.needed:
            return False
        kept = (list(self.parts), list(self.fits), self.pose, self.geometry_sigma)
        self.parts.append(best)
        self._refine()
        if min(self._gains()) < self.needed:
            self.parts, self.fits, self.pose, self.geometry_sigma = kept
            return False
        return True

    def unexplained(self) -> NDArray[np.int64]:
        """Spots that are more likely false than any grain's."""
        _, belongs, _ = self._share(self.parts)
        return np.asarray(np.flatnonzero(belongs.sum(axis=0) < 0.5))

    def grains(self) -> tuple[Grain, ...]:
        """The grains, by spots explained."""
        if not self.parts:
            return ()
        _, belongs, _ = self._share(self.parts)
        shares, errors = self._volumes(belongs)
        out = []
        for g, (part, fitted, gain) in enumerate(zip(self.parts, self.fits, self._gains(), strict=True)):
            mine = np.flatnonzero((part.ray >= 0) & (belongs[g] > 0.2))
            rays = part.ray[mine]
            predicted = predict_pixels(part.u, strained(self.table.direction[rays], part.strain), self.pose)
            hkl = (
                self.table.hkl[rays]
                * self.table.harmonic(rays, -self.table.direction[rays] @ part.u[2])[:, None]
            )
            fit = Refinement(
                part.u, self.pose, part.strain, fitted.covariance, self.geometry_sigma, 0.0, mine, rays, hkl,
                self.spots.pixels[mine] - predicted,
            )  # fmt: skip
            b = (np.eye(3) + part.strain) @ self.indexer.crystal.b
            confidence = float(1.0 / (1.0 + np.exp(np.clip(TEMPER * (self.chance - gain), -50.0, 50.0))))
            out.append(
                Grain(
                    Orientation(part.u, b, fitted.covariance), confidence, gain, float(shares[g]), float(errors[g]),
                    round(part.visible),
                    belongs[g][mine], fit, self._ties(g),
                )
            )  # fmt: skip
        return tuple(sorted(out, key=lambda grain: -float(grain.belongs.sum())))

    def _part(self, u: FloatArray, strain: FloatArray, scatter: float = 0.5) -> _Part:
        """One grain's process at an orientation: its intensity scale is that of the highest likelihood."""
        spots, n = self.spots, len(self.spots)
        there = predict_spots(self.table, u, self.pose)
        pixels = there.pixels
        if strain.any():
            pixels = predict_pixels(u, strained(self.table.direction[there.ray], strain), self.pose)
        if len(there) == 0:
            none = np.zeros(n)
            return _Part(u, strain, none, np.full(n, -1), none, 0.0, 0.0, scatter)
        reach = 4.0 * self.sigma
        groups = cKDTree(pixels).query_ball_point(spots.pixels, reach)
        j = np.repeat(np.arange(n), [len(group) for group in groups])
        r = np.array([i for group in groups for i in group], dtype=np.int64)
        d2 = ((spots.pixels[j] - pixels[r]) ** 2).sum(axis=1) / self.sigma[j] ** 2
        place = np.exp(-0.5 * d2) / (2.0 * np.pi * self.sigma[j] ** 2 * self.density)
        log_rate = np.log(np.maximum(there.rate_per_s, 1e-300))
        top = float(self.log_counts.max()) - float(log_rate.max())

        def process(scale: float, width: float) -> tuple[FloatArray, float, FloatArray]:
            seen = 1.0 / (1.0 + self.limit * np.exp(-scale - log_rate))
            t = seen[r] * place * self._bright(j, log_rate[r] + scale, width)
            return np.bincount(j, t, minlength=n).astype(float), float(seen.sum()), np.asarray(t)

        steps = top + np.arange(-3.0, 5.0, 0.35)
        values = []
        for step in steps:
            density, visible, _ = process(float(step), 0.7)
            values.append(_em(density[None], np.array([visible]))[0])
        scale = float(steps[int(np.argmax(values))])
        for _ in range(2):
            density, visible, t = process(scale, scatter)
            _, belongs, _ = _em(density[None], np.array([visible]))
            weight = t / np.maximum(density[j], 1e-300) * belongs[0][j]
            if weight.sum() < 3.0:
                break
            left = self.log_counts[j] - log_rate[r]
            scale = _weighted_median(left, weight)
            scatter = float(np.clip(1.4826 * _weighted_median(np.abs(left - scale), weight), *SCATTER))
        density, visible, t = process(scale, scatter)
        ray, expected = np.full(n, -1), np.zeros(n)
        order = np.argsort(t)  # the likeliest ray of each spot is written last
        ray[j[order]], expected[j[order]] = there.ray[r[order]], there.rate_per_s[r[order]]
        return _Part(u, strain, density, ray, expected, visible, scale, scatter)

    def _bright(self, j: NDArray[np.int64], expected: FloatArray, width: float) -> FloatArray:
        """Probability of brightness, true over false, as in the indexer's score."""
        mean, wide = self.log_counts.mean(), max(float(self.log_counts.std()), 0.3)
        outer = np.exp(-0.5 * ((self.log_counts[j] - mean) / wide) ** 2) / wide
        inner = np.exp(-0.5 * ((self.log_counts[j] - expected) / width) ** 2) / width
        return np.asarray((0.9 * inner + 0.1 * outer) / np.maximum(outer, 1e-300))

    def _share(self, parts: Sequence[_Part]) -> tuple[float, FloatArray, float]:
        if not parts:
            return 0.0, np.zeros((0, len(self.spots))), 1.0
        return _em(np.stack([p.density for p in parts]), np.array([p.visible for p in parts]))

    def _gains(self) -> list[float]:
        """What each grain adds to the likelihood of the whole."""
        whole, _, _ = self._share(self.parts)
        return [whole - self._share([p for p in self.parts if p is not part])[0] for part in self.parts]

    def _refine(self, rounds: int = 3) -> None:
        """All grains with one pose, spots shared anew in each round."""
        for _ in range(rounds):
            _, belongs, _ = self._share(self.parts)
            pairs = []
            for part, mine in zip(self.parts, belongs, strict=True):
                spot = np.flatnonzero((part.ray >= 0) & (mine > 0.5))
                pairs.append(Pairs(part.u, part.strain, spot, part.ray[spot], mine[spot]))
            self.fits, self.pose, self.geometry_sigma = fit_together(
                self.table.direction, pairs, self.spots, self.detector, self.pose, self.prior, self.cell_sigma
            )
            self.parts = [
                self._part(f.u, f.strain, p.scatter) for f, p in zip(self.fits, self.parts, strict=True)
            ]

    def _ties(self, g: int) -> tuple[Orientation, ...]:
        """Twin-like orientations that would do about as well in a grain's place."""
        whole, _, _ = self._share(self.parts)
        part, out = self.parts[g], []
        others = [p for p in self.parts if p is not part]
        for rotation in self.indexer.crystal.holohedry:
            u = part.u @ rotation
            same = [part.u, *(p.u for p in others)]
            if any(misorientation(u, s, self.indexer.crystal.symmetry) < np.deg2rad(SAME_DEG) for s in same):
                continue
            if whole - self._share([*others, self._part(u, part.strain)])[0] < TIE:
                out.append(Orientation(u, self.indexer.crystal.b, self.fits[g].covariance))
        return tuple(out)

    def _volumes(self, belongs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Shares (G,) of the volume and their errors, from spots that are one grain's alone and far above the faintest."""
        volume, error = np.zeros(len(self.parts)), np.zeros(len(self.parts))
        for g, part in enumerate(self.parts):
            own = (belongs[g] > 0.8) & (part.ray >= 0) & ~self.spots.saturated
            # Near the limit only those spots are found that came out too bright.
            clear = own & (part.expected * np.exp(part.scale) > 2.0 * self.limit)
            own = clear if clear.sum() >= 5 else own
            left = self.log_counts[own] - np.log(np.maximum(part.expected[own], 1e-300))
            # The error of a median is 1.25 that of a mean (normal scatter). The scatter is the grain's, not that of these
            # spots: they are the ones that came near the mean.
            volume[g] = float(np.median(left)) if len(left) else part.scale
            error[g] = 1.2533 * part.scatter / np.sqrt(max(len(left), 1))
        size = np.exp(volume - volume.max())
        share = size / size.sum()
        mixed = (np.eye(len(share)) - share[None]) * share[:, None]
        return share, np.sqrt((mixed**2) @ error**2)


def _em(density: FloatArray, visible: FloatArray, rounds: int = 12) -> tuple[float, FloatArray, float]:
    """Fit a mixture of Poisson processes: log-likelihood ratio to "all false", posteriors (G, n), share of false spots."""
    count, n = density.shape
    found, false = np.full(count, 0.5), 0.5
    belongs = np.zeros((count, n))
    for _ in range(rounds):
        whole = false + found @ density
        belongs = found[:, None] * density / whole
        mine = belongs.sum(axis=1)
        found = np.clip(mine / np.maximum(visible, 1e-9), 1e-4, 1.0)
        false = max((n - float(mine.sum())) / n, 1e-3)
    whole = false + found @ density
    total = float(np.log(whole).sum()) + n - float(found @ visible) - false * n
    return total, found[:, None] * density / whole, false


def _weighted_median(values: FloatArray, weight: FloatArray) -> float:
    order = np.argsort(values)
    passed = np.cumsum(weight[order])
    return float(values[order[int(np.searchsorted(passed, 0.5 * passed[-1]))]])
