"""The indexer: spots in, orientation with error bar and confidence out; no starting guess."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.catalogue import Catalogue, pattern_levels
from lauepilot.perception.indexing.checks import IndexingError as IndexingError
from lauepilot.perception.indexing.checks import check_spots
from lauepilot.perception.indexing.doubt import DOUBTFUL, is_doubtful
from lauepilot.perception.indexing.refine import GeometryPrior, Refinement, refine
from lauepilot.perception.indexing.score import full_score, polish, rivals
from lauepilot.perception.indexing.search import Found, brightness, search
from lauepilot.perception.indexing.sphere import Sphere, on_sphere, solid_angle, widest_angle
from lauepilot.perception.observation import Belief, SpotList
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.kernels import pack_detector
from lauepilot.simulator.laue import RayTable
from lauepilot.simulator.orientation import Orientation, misorientation

#: Spots that take part in the search; all take part in the final score and the refinement.
SEARCH_SPOTS = 90

#: Spots by which candidates of the search are ranked.
SCORED_SPOTS = 300

#: Log-likelihoods are not trusted as they stand: neighbouring errors of the model make odds too sharp.
TEMPER = 0.5

#: Pairs of spots that one search looks at, at most.
MOST_WORK = 40_000_000
#: Rays that vote, fewest and most: lists of large cells hold spots whose rays rank far behind; memory and time are bounded.
VOTERS = (1000, 2400)

#: Faintest rays of the complete table, relative to the brightest.
COMPLETE = 1e-4
#: Left-over error of a refined pose, added to each spot's own while scoring.
POSE_PX = 0.2

NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class IndexResult:
    """What the indexer found.

    Attributes
    ----------
    orientation
        Laboratory orientation; None if nothing stands out from chance.
    confidence
        Probability of being right, 0..1, given that the crystal is the right one: odds against the best other orientation
        and against chance; never above 0.9 where few spots are explained, and poorly (`DOUBTFUL`).
    score
        Log-likelihood ratio to "all spots are false".
    n_expected
        Visible spots expected at this orientation.
    refinement
        The fit, with matches, residuals and refined pose; None without orientation.
    alternatives
        Other orientations that fit about as well (odds above 1 : 20).
    finished
        Whether the search ended by its own rules. If the limit on its work (`MOST_WORK`) ended it, something better may have
        been missed, and the confidence is 0.9 at most.
    """

    orientation: Orientation | None
    confidence: float
    score: float
    n_expected: int
    refinement: Refinement | None
    alternatives: tuple[Orientation, ...] = ()
    finished: bool = True

    @property
    def n_indexed(self) -> int:
        """Spots explained."""
        return 0 if self.refinement is None else len(self.refinement.spot)

    def belief(self) -> Belief:
        """For an `Observation`."""
        residual = float("nan") if self.refinement is None else self.refinement.mean_residual_px
        return Belief(
            self.orientation, self.confidence, self.n_indexed, self.n_expected, residual, self.alternatives
        )


@dataclass(frozen=True, eq=False)
class Candidate:
    """An orientation ``u`` (3, 3) with the pose under which it was scored, and what came of it.

    ``score`` is the log-likelihood ratio to "all spots are false", less ``occam``, the price of a free pose (`Refinement`);
    ``explained`` spots were found of those ``visible`` on the live sensor.
    """

    score: float
    explained: int
    visible: float
    u: FloatArray
    detector: Detector
    occam: float = 0.0


class Indexer:
    """Indexes frames of one crystal on one instrument.

    Parameters
    ----------
    crystal, instrument
        What is looked for, and where. The detector's pose may be replaced frame by frame.
    prior
        How well the pose is known. With a prior that is not zero the pose is refined with the orientation.
    """

    def __init__(self, crystal: Crystal, instrument: Instrument, prior: GeometryPrior | None = None) -> None:
        self.crystal = crystal
        self.instrument = instrument
        self.prior = prior or GeometryPrior()
        self._solid_angle = solid_angle(instrument.detector)
        # Enough rays that half as many again as the spots that are searched with are expected on the detector.
        voters = int(1.5 * SEARCH_SPOTS * 4.0 * np.pi / self._solid_angle)
        table = RayTable.build(crystal, instrument)
        voters = min(max(voters, VOTERS[0]), VOTERS[1], len(table))
        # A pose that is off by two degrees shall not lose pairs.
        widest = widest_angle(instrument.detector) + 0.07
        self.catalogue = Catalogue.build(table, voters=voters, widest_rad=widest)
        self.table = table
        self._bright = brightness(self.catalogue.rays, voters, pattern_levels(table))
        self._complete: RayTable | None = None
        self._brightness = np.sort(self.table.rate.mean(axis=1))[::-1]

    def index(
        self,
        spots: SpotList,
        detector: Detector | None = None,
        *,
        prior: GeometryPrior | None = None,
        cell_sigma: float = 0.0,
        complete: bool = False,
    ) -> IndexResult:
        """Find the orientation that a list of spots shows.

        Parameters
        ----------
        spots
            Found spots, any order; brightness is used where it helps.
        detector
            The pose to believe; the instrument's own by default.
        prior
            Overrides the indexer's prior for this frame.
        cell_sigma
            How well the cell's shape is known (relative standard deviation): see `refine`.
        complete
            Match faint rays too in the end: for tables and pictures. The first such call compiles a longer ray table.

        Raises
        ------
        IndexingError
            If there are fewer than four spots, or some are no numbers.
        """
        where = self.instrument.detector if detector is None else detector
        known = self.prior if prior is None else prior
        check_spots(spots)
        order = np.argsort(-spots.counts, kind="stable")
        sorted_spots = spots.take(order)
        coarse = on_sphere(sorted_spots, where, known)
        candidates, finished = self._search(coarse)
        fits = [self._fit(u, sorted_spots, where, known, coarse) for u in candidates[:6]]
        if not fits:
            return IndexResult(None, 0.0, 0.0, 0, None, finished=finished)
        fits.sort(key=lambda f: -f.score)
        for _ in range(3):
            best = fits[0]
            # A pose of its own puts the spots elsewhere on the sphere.
            sphere = (
                coarse if known.known else on_sphere(sorted_spots, best.detector, GeometryPrior(), POSE_PX)
            )
            related = self._impostors(best, sphere)
            fits += related
            fits.sort(key=lambda f: -f.score)
            if fits[0] is best:
                break
        return self._conclude(fits, sphere, spots, where, known, cell_sigma, complete, finished)

    def settle(
        self,
        result: IndexResult,
        spots: SpotList,
        detector: Detector,
        *,
        prior: GeometryPrior,
        cell_sigma: float = 0.0,
        complete: bool = False,
    ) -> IndexResult:
        """Refine a result anew under another prior, centred on ``detector``; confidence, score and ties are kept."""
        if result.orientation is None or result.refinement is None:
            return result
        fit = refine(
            self.table,
            result.orientation.u,
            detector,
            spots,
            start=result.refinement.detector,
            prior=prior,
            cell_sigma=cell_sigma,
            tolerance_px=4.0,
        )
        if complete and len(fit.spot) >= 3:
            fit = refine(
                self._may_show(fit, spots),
                fit.u,
                detector,
                spots,
                start=fit.detector,
                prior=prior,
                cell_sigma=cell_sigma,
                tolerance_px=3.0,
                rounds=6,
            )
        if len(fit.spot) < 3 or not np.all(np.isfinite(fit.covariance)):
            return IndexResult(None, 0.0, result.score, result.n_expected, None, finished=result.finished)
        b = (np.eye(3) + fit.strain) @ self.crystal.b
        return replace(result, orientation=Orientation(fit.u, b, fit.covariance), refinement=fit)

    @property
    def complete(self) -> RayTable:
        """The rays down to `COMPLETE` of the brightest; compiled at the first call."""
        if self._complete is None:
            self._complete = RayTable.build(self.crystal, self.instrument, min_relative=COMPLETE)
        return self._complete

    def _may_show(self, fit: Refinement, spots: SpotList) -> RayTable:
        """Rays that may show: down to a thirtieth of the faintest spot, by the intensity scale of a first fit."""
        sines = -self.table.direction[fit.ray] @ fit.u[2]
        scale = np.median(spots.counts[fit.spot] / np.maximum(rates_at(self.table, fit.ray, sines), 1e-9))
        table = self.complete
        every = -table.direction @ fit.u[2]
        rate = rates_at(table, np.arange(len(table)), every) * (every > table.sin_theta_min)
        keep = np.flatnonzero(rate * scale > spots.counts.min() / 30.0)
        return replace(
            table,
            hkl=table.hkl[keep],
            direction=table.direction[keep],
            q_length=table.q_length[keep],
            rate=table.rate[keep],
            order=table.order[keep],
        )

    def _search(self, sphere: Sphere) -> tuple[list[FloatArray], bool]:
        """Candidates, best first, and whether the search ended by its own rules."""
        n = len(sphere.sines)
        few, every = (
            part._replace(density=part.density * (len(part.sines) / n))
            for part in (sphere.take(slice(0, SEARCH_SPOTS)), sphere.take(slice(0, SCORED_SPOTS)))
        )
        found = self.candidates(few, every)
        ranking = np.argsort(-found.score)
        least = max(4.0, 0.3 * found.score[ranking[0]])
        return [found.u[k] for k in ranking if found.score[k] > least], found.complete

    def candidates(self, few: Sphere, every: Sphere | None = None, seeds: int = SEARCH_SPOTS) -> Found:
        """The best distinct orientations, not refined.

        ``few`` spots, brightest first, are searched with, ``every`` spot (by default the same) ranks what is found; at most
        ``seeds`` spots are taken as seeds. Their densities are those of these lists.
        """
        scored = few if every is None else every
        return search(
            few,
            scored,
            self.catalogue.rays,
            self.catalogue.pairs,
            self._bright,
            self._faint(len(few.sines)),
            self.chance(scored) + 10.0,
            self.crystal.symmetry,
            seeds,
            MOST_WORK,
        )

    def _faint(self, n_spots: int) -> float:
        """Rate below which rays are not expected among ``n_spots``: half as many again would be brighter."""
        rank = int(1.5 * n_spots * 4.0 * np.pi / self._solid_angle)
        return float(self._brightness[min(rank, len(self._brightness) - 1)])

    def chance(self, sphere: Sphere) -> float:
        """Log of the number of orientations that spots on the ``sphere`` can tell apart: what the best wrong one reaches."""
        width = float(np.median(sphere.sigma)) / np.sqrt(max(len(sphere.sines) / 4.0, 1.0))
        return float(np.log(8.0 * np.pi**2 / len(self.crystal.symmetry) / ((2.0 * np.pi) ** 1.5 * width**3)))

    def score(self, u: FloatArray, s: Sphere, detector: Detector) -> Candidate:
        """Score an orientation (3, 3) as it stands, by spots on the sphere ``s``, brightest first, under one pose."""
        score, explained, visible = full_score(u, s, self.catalogue.rays, pack_detector(detector), 0.4)
        return Candidate(float(score), int(explained), float(visible), u, detector)

    def _fit(
        self, u: FloatArray, spots: SpotList, detector: Detector, prior: GeometryPrior, coarse: Sphere
    ) -> Candidate:
        """Refine one candidate, with a pose of its own if that is uncertain, and score it."""
        if prior.known:
            polished, _ = polish(u, coarse, self.catalogue.rays, self._faint(len(coarse.sines)), 4)
            return self.score(polished, coarse, detector)
        px_per_rad = 2.0 * detector.distance_mm / max(detector.pixel_mm)
        reach = max(2.5 * float(np.median(coarse.sigma)) * px_per_rad, 3.0)
        fit = refine(
            self.table,
            u,
            detector,
            spots,
            prior=prior,
            tolerance_px=reach,
            strongest=max(len(spots) // 2, 30),
        )
        scored = self.score(fit.u, on_sphere(spots, fit.detector, GeometryPrior(), POSE_PX), fit.detector)
        # A pose of its own makes a wrong orientation fit better too: that freedom has its price.
        return replace(scored, score=scored.score - fit.occam, occam=fit.occam)

    def _impostors(self, best: Candidate, sphere: Sphere) -> list[Candidate]:
        """Orientations related to the best by twin-like rotations that fit too."""
        faint = self._faint(len(sphere.sines))
        out = []
        for u in rivals(best.u, self.catalogue.impostors, sphere, self.catalogue.rays, faint):
            rival = self.score(u, sphere, best.detector)
            out.append(replace(rival, score=rival.score - best.occam, occam=best.occam))
        return out

    def _conclude(
        self,
        fits: list[Candidate],
        sphere: Sphere,
        spots: SpotList,
        detector: Detector,
        prior: GeometryPrior,
        cell_sigma: float,
        complete: bool,
        finished: bool,
    ) -> IndexResult:
        best = fits[0]
        odds = np.exp(min(TEMPER * (self.chance(sphere) + 5.0 - best.score), 50.0))
        ties = []
        for other in fits[1:]:
            if misorientation(other.u, best.u, self.crystal.symmetry) < np.deg2rad(0.3):
                continue
            against = np.exp(TEMPER * (other.score - best.score))
            odds += against
            if against > 0.05:
                fit = refine(self.table, other.u, detector, spots, prior=prior, tolerance_px=4.0)
                ties.append(Orientation(fit.u, self.crystal.b, fit.covariance))
        bare = Refinement(
            best.u, best.detector, np.zeros((3, 3)), np.eye(3), np.zeros(5), 0.0, NOTHING, NOTHING,
            NOTHING.reshape(0, 3), np.zeros((0, 2)),
        )  # fmt: skip
        confidence = float(1.0 / (1.0 + odds))
        carried = float(np.median(-np.log(2.0 * np.pi * sphere.sigma**2 * sphere.density)))
        doubtful = is_doubtful(best.explained, len(spots), best.visible, best.score, carried)
        if doubtful or not finished:
            confidence = min(confidence, DOUBTFUL)
        whole = Orientation(best.u, self.crystal.b, bare.covariance)
        found = IndexResult(whole, confidence, best.score, round(best.visible), bare, tuple(ties), finished)
        # The prior stays centred on the pose that was believed; the candidate's own pose is only where the fit starts.
        return self.settle(found, spots, detector, prior=prior, cell_sigma=cell_sigma, complete=complete)


def rates_at(table: RayTable, ray: NDArray[np.int64], sin_theta: FloatArray) -> FloatArray:
    """Expected rates (n,) of rays (n,) at ``sin_theta`` (n,), from the nearest node of the table."""
    node = np.rint((sin_theta - table.sin_theta_min) / table.sin_theta_step).astype(int)
    return np.asarray(table.rate[ray, np.clip(node, 0, table.rate.shape[1] - 1)], dtype=float)
