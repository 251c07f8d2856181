"""From rough proposals to a refined, scored answer that knows how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.observation import SpotList
from lauepilot.perception.unknown import gauss_newton
from lauepilot.perception.unknown.kernels import EXPLAINED
from lauepilot.perception.unknown.lattice import CENTRINGS, FAMILIES, RATIOS, b_matrix, holohedry, primitive
from lauepilot.perception.unknown.reduce import conventional, relatives
from lauepilot.perception.unknown.result import Proposal, Solution, UnknownResult
from lauepilot.perception.unknown.sky import Frames, Sky, build_sky
from lauepilot.perception.unknown.trust import confidence_of
from lauepilot.perception.unknown.variants import variants
from lauepilot.simulator.conventions import FloatArray, rotation_angle
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.orientation import Orientation

LETTERS = "PIFABCR"
#: Allowed error of normals (rad) while a proposal is pulled in, and then to the end.
COARSE = np.array([0.007, 0.005, 0.003, 0.0018])
FINE = np.array([0.0018, 0.0012, 0.0008, 0.0005, 0.0004])
LAST = np.array([0.0005, 0.0004, 0.0004])
#: Standard deviations of ln distance (free), of the detector's centre in pixels, and of its tilts in rad (0: not refined);
#: the same where tilts are refined.
GIVEN = np.array([1.0, 0.5, 0.0])
TILTED = np.array([1.0, 0.5, math.radians(0.5)])
#: Allowed error of normals while tilts come in: one of a degree moves normals at a film's edge by 0.15 degrees.
TILTING = np.array([0.005, 0.003, 0.002, 0.0012, 0.0008, 0.0005, 0.0004])
#: Nats that a free ratio costs, and both tilts: the logarithm of how many values can be told apart.
RATIO_COST, TILT_COST = 8.0, 8.0
#: Times that the relatives of a new best are looked at.
KIN_STEPS = 3
#: Proposals that survive the coarse, and the fine refinement.
SURVIVORS, FINALISTS = 48, 12
SHARP_RAD2 = 1e-6
#: Nats a spot, for spots as sharp as `SHARP_RAD2`, from which on an answer that explains nearly all spots ends the search:
#: at once, or once confirmed.
ENOUGH, FAIR = 5.2, 4.4
#: Orientations nearer than this are one.
SAME = math.radians(1.0)


@dataclass
class Batch:
    """Lattices with orientations, as arrays for the kernels; (n,) each, ``u`` (n, 3, 3), ``x`` (n, 5), ``pose`` (n, 4)."""

    u: FloatArray
    family: NDArray[np.int64]
    centring: NDArray[np.int64]
    x: FloatArray
    log_d: FloatArray
    score: FloatArray
    used: NDArray[np.int64]
    pose: FloatArray

    def __len__(self) -> int:
        return len(self.u)

    def take(self, index: NDArray[np.intp]) -> Batch:
        """A part."""
        return Batch(*(np.ascontiguousarray(getattr(self, f)[index]) for f in self.__dataclass_fields__))

    @property
    def merit(self) -> FloatArray:
        """Score less what free ratios and tilts cost."""
        return np.asarray(self.score - RATIO_COST * _COUNTS[self.family] - tilt_cost(self.pose[:, 2:]))


_COUNTS = np.array([len(RATIOS[family]) for family in FAMILIES])


def tilt_cost(tilts: FloatArray) -> FloatArray:
    """Nats (...) that tilts (..., 2) in rad cost: nothing if they were left as given."""
    size2 = (tilts**2).sum(axis=-1)
    return np.where(size2 > 0.0, TILT_COST + 0.5 * size2 / TILTED[2] ** 2, 0.0)


def pack(proposals: Sequence[Proposal]) -> Batch:
    """Proposals as arrays; without a centring, the first of the family's."""
    n = len(proposals)
    x = np.zeros((n, 5))
    for i, p in enumerate(proposals):
        lengths = min(len(p.ratios), 2)
        x[i, :lengths] = np.log(p.ratios[:lengths])
        x[i, lengths : len(p.ratios)] = p.ratios[lengths:]
    return Batch(
        u=np.array([p.u for p in proposals], dtype=float).reshape(-1, 3, 3),
        family=np.array([FAMILIES.index(p.family) for p in proposals], dtype=np.int64),
        centring=np.array(
            [LETTERS.index(p.centring or CENTRINGS[p.family][0]) for p in proposals], dtype=np.int64
        ),
        x=x,
        log_d=np.log([p.distance_mm for p in proposals]),
        score=np.zeros(n),
        used=np.zeros(n, dtype=np.int64),
        pose=np.zeros((n, 4)),
    )


def refined(batch: Batch, sky: Sky, widths: FloatArray, prior: FloatArray = GIVEN) -> Batch:
    """The batch after Gauss-Newton with these widths; changes it in place."""
    if len(batch):
        batch.score, batch.used = gauss_newton.refine_all(
            batch.u, batch.family, batch.centring, batch.x, batch.log_d, widths, prior,
            sky.nodes, sky.normals, sky.slopes, sky.sigma2, len(sky) / sky.area, _COUNTS, batch.pose,
        )  # fmt: skip
    return batch


def joined(one: Batch, two: Batch) -> Batch:
    """Both together."""
    return Batch(*(np.concatenate([getattr(one, f), getattr(two, f)]) for f in Batch.__dataclass_fields__))


def direct_basis(batch: Batch, i: int) -> FloatArray:
    """Direct axes (3, 3) of a member in columns, in the sample holder's frame, for a = 1."""
    name = FAMILIES[int(batch.family[i])]
    k = int(_COUNTS[batch.family[i]])
    x = batch.x[i, :k]
    b = b_matrix(name, [*np.exp(x[:2]), *x[2:]])
    return np.asarray(2.0 * np.pi * np.linalg.inv(batch.u[i] @ b).T)


def nats_a_spot(merit: float, sky: Sky) -> float:
    """Merit by spots, as it would be for spots as sharp as `SHARP_RAD2`."""
    blur = float(np.mean(np.log((4.0 * sky.sigma2 + LAST[-1] ** 2) / SHARP_RAD2)))
    return merit / len(sky) + blur


def stands_out(finalists: Batch, sky: Sky, least: float = ENOUGH) -> bool:
    """Whether the best explains so much, and so well, that nothing better need be looked for."""
    if len(finalists) == 0:
        return False
    return bool(finalists.used[0] > 0.85 * len(sky) and nats_a_spot(float(finalists.merit[0]), sky) > least)


def best_of(batch: Batch, most: int) -> Batch:
    """The best by merit, each orientation with its lattice once."""
    order = np.argsort(-batch.merit, kind="stable")
    kept: list[int] = []
    for i in order:
        alike = [
            k
            for k in kept
            if batch.family[k] == batch.family[i]
            and batch.centring[k] == batch.centring[i]
            and np.abs(batch.x[k] - batch.x[i]).max() < 0.01
            and _apart(batch.u[k], batch.u[i], int(batch.family[i])) < SAME
        ]
        if not alike:
            kept.append(int(i))
        if len(kept) == most:
            break
    return batch.take(np.array(kept, dtype=np.intp))


def _apart(u1: FloatArray, u2: FloatArray, family: int) -> float:
    return float(rotation_angle(u1 @ holohedry(FAMILIES[family]) @ u2.T).min())


def narrow(batch: Batch, sky: Sky) -> Batch:
    """Finer refinement of coarsely refined proposals, then of the best ones' related lattices: finalists, best first."""
    if len(batch) == 0:
        return batch
    batch = best_of(refined(batch, sky, FINE[:2]), FINALISTS)
    batch = best_of(refined(batch, sky, FINE[2:]), FINALISTS)
    # Twice, since the way to the right cell may lead over a cell that explains less; the best keep their place.
    for most in (FINALISTS, 4):
        related = refined(variants(batch.take(np.arange(min(most, len(batch))))), sky, LAST[:1])
        batch = best_of(joined(batch, refined(best_of(related, FINALISTS), sky, LAST)), FINALISTS)
    return batch


def settle(
    proposals: Iterable[Proposal],
    spots: SpotList | Frames,
    detector: Detector,
    distance_mm: tuple[float, float] | None = None,
) -> UnknownResult:
    """Refine proposals from any source, try the lattices related to the best, and choose.

    Parameters
    ----------
    proposals
        In any order; some hundreds take a tenth of a second.
    spots
        Of one frame with the goniometer at zero, or frames: pairs of a list and the goniometer's rotation Z (3, 3).
    detector
        Its distance is only taken as roughly known.
    distance_mm
        Lowest and highest distance; 0.7 to 1.6 times the detector's by default.

    Raises
    ------
    UnknownLatticeError
        If there are no spots, or a rotation or a distance is none.
    """
    frames = [(spots, np.eye(3))] if isinstance(spots, SpotList) else spots
    sky = build_sky(frames, detector, distance_mm)
    coarse = best_of(refined(pack(list(proposals)), sky, COARSE), SURVIVORS)
    return answer(narrow(coarse, sky), sky, detector)


def with_kin(finalists: Batch, sky: Sky) -> Batch:
    """Finalists with all sub- and superlattices of index 2 and 3 of the best, in all families that those nearly are.

    A lattice whose reciprocal lattice holds the crystal's twice over explains the spots as well, but means less: without
    this, low families end at the first of them that was met. Done again from a new best, since indices multiply.
    """
    for _ in range(KIN_STEPS if len(finalists) else 0):
        before = float(finalists.merit[0])
        alike: list[Proposal] = []
        basis = direct_basis(finalists, 0) @ primitive(LETTERS[int(finalists.centring[0])])
        for m in relatives():
            alike += conventional(basis @ m, float(np.exp(finalists.log_d[0])))
        rough = best_of(refined(pack(alike), sky, FINE[1:3]), FINALISTS)
        finalists = best_of(joined(finalists, refined(rough, sky, FINE[2:])), FINALISTS)
        if float(finalists.merit[0]) < before + 1.0:
            break
    return finalists


def with_tilts(finalists: Batch, sky: Sky) -> Batch:
    """The best, their relatives and every family that they nearly are, with the detector's tilts refined."""
    few = finalists.take(np.arange(min(4, len(finalists))))
    alike: list[Proposal] = []
    for i in range(len(few)):
        basis = direct_basis(few, i) @ primitive(LETTERS[int(few.centring[i])])
        alike += conventional(basis, float(np.exp(few.log_d[i])))
    return best_of(refined(joined(variants(few), pack(alike)), sky, TILTING, TILTED), FINALISTS)


def merit_of(solution: Solution) -> float:
    """Its score less what its free ratios and tilts cost."""
    cost = float(tilt_cost(np.array(solution.tilts_rad)))
    return solution.score - RATIO_COST * len(solution.ratios) - cost


def answer(finalists: Batch, sky: Sky, detector: Detector) -> UnknownResult:
    """The result from finalists, best first."""
    if len(finalists):
        finalists = with_kin(finalists, sky)
        finalists = joined(finalists, with_tilts(finalists, sky))
    solutions = [_solution(finalists, i, sky, detector) for i in range(len(finalists))]
    solutions.sort(key=lambda s: -merit_of(s))
    if not solutions:
        return UnknownResult(None, 0.0, False, (), len(sky))
    best, rest = solutions[0], tuple(solutions[1:])
    clear = nats_a_spot(merit_of(best), sky)
    confidence, sure = confidence_of(clear, len(sky), len(best.ratios))
    return UnknownResult(best, confidence, sure, rest, len(sky))


def _solution(batch: Batch, i: int, sky: Sky, detector: Detector) -> Solution:
    """The last refinement of one, with its errors."""
    family = int(batch.family[i])
    k = int(_COUNTS[family])
    n = len(sky)
    u, x, pose = batch.u[i].copy(), batch.x[i, :k].copy(), batch.pose[i].copy()
    tilted = bool(pose[2:].any())
    hkl, chance, d2 = np.zeros((n, 3), np.int64), np.zeros(n), np.zeros(n)
    covariance = np.zeros((gauss_newton.MOST, gauss_newton.MOST))
    score, used, log_d = gauss_newton.refine(
        u, family, int(batch.centring[i]), x, float(batch.log_d[i]), pose, LAST, TILTED if tilted else GIVEN,
        sky.nodes, sky.normals, sky.slopes, sky.sigma2, len(sky) / sky.area, hkl, chance, d2, covariance,
    )  # fmt: skip
    explained = chance <= EXPLAINED
    # Normals err in two directions; the fit takes up some.
    freedom = max(2 * used - (4 + k + 2 * tilted), 1)
    excess = max(float((d2[explained] / sky.sigma2[explained]).sum()) / freedom, 0.25) if used else 1.0
    covariance = covariance * excess
    ratios = np.concatenate([np.exp(x[: min(k, 2)]), x[2:]])
    errors = np.sqrt(np.maximum(np.diag(covariance)[gauss_newton.COMMON : gauss_newton.COMMON + k], 0.0))
    errors[:2] *= ratios[:2]
    name = FAMILIES[family]
    distance = math.exp(log_d)
    return Solution(
        family=name,
        centring=LETTERS[int(batch.centring[i])],
        ratios=tuple(float(r) for r in ratios),
        ratios_sigma=tuple(float(e) for e in errors),
        orientation=Orientation(u, b_matrix(name, ratios.tolist()), covariance[:3, :3].copy()),
        distance_mm=distance,
        distance_sigma_mm=distance * math.sqrt(max(covariance[3, 3], 0.0)),
        centre_px=(detector.centre_px[0] + float(pose[0]), detector.centre_px[1] + float(pose[1])),
        tilts_rad=(float(pose[2]), float(pose[3])),
        score=float(score),
        n_explained=int(explained.sum()),
        residual_px=float(np.sqrt(d2[explained].mean()) / sky.px_rad) if explained.any() else float("nan"),
    )
