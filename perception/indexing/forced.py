"""The last fit, at the places where spots should be: all photons count, those of spots too faint to be found too.

Once an orientation is known, so is where every spot lies, and the frame's pixels there are Poisson counts of known means:
background plus the expected light of the spots. Orientation, pose and strain, under the priors of `refine`, and with them
flux, background and width of the spots, are fitted to these counts by Fisher's scoring (Kay 1993, Fundamentals of
Statistical Signal Processing: Estimation Theory, section 7.7).
Spots that touch are one model, and stamps are clipped by the edge. Where intensities do not follow the structure
factors, each spot has an amplitude of its own, under a prior whose width the found spots tell. Where positions do not
follow the model, faint spots say nothing that bright ones do not say better, and the answer of the spots stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.expected import ExpectedLight, ExpectedSpots, misplaced
from lauepilot.perception.indexing.forced_kernels import (
    COMMON,
    Normal,
    Stamps,
    lay_out,
    normal_equations,
)
from lauepilot.perception.indexing.indexer import Indexer, IndexResult
from lauepilot.perception.indexing.refine import GeometryPrior, Refinement
from lauepilot.perception.observation import SpotList
from lauepilot.perception.spots.background import BackgroundEstimate, Image, estimate_background
from lauepilot.simulator.conventions import FloatArray, rotation_matrix, rotation_vector
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector
from lauepilot.simulator.frame import Frame, FrameError
from lauepilot.simulator.image import DEFAULT_PROFILE, live_pixels
from lauepilot.simulator.orientation import Orientation

#: Fewer explained spots do not tell the scale of the intensities.
FEWEST = 5

#: A move by more standard deviations of the spots' own answer is not believed.
FARTHEST = 4.0

#: Spots sharper than this fill single pixels, whose middles do not stand for them.
SHARPEST_PX = 0.7

#: Scatter of intensities (natural logarithm) that calculated structure factors usually leave.
USUAL_SCATTER = 0.4

#: Relative amplitude of a spot that is not there.
_LEAST = 0.01

#: A fit stands when steps are below this share of the error bars; so many steps at most.
_STANDS, _TURNS = 0.03, 12

#: A spot of so many photons, off its place by so many standard deviations, is another's.
_PLAIN, _ELSEWHERE = 20.0, 5.0


@dataclass(frozen=True, eq=False)
class LastFit:
    """What the last fit made of an answer.

    Attributes
    ----------
    result
        The indexer's result, with the better orientation if there is one.
    used
        Whether it is the better one.
    remark
        Why not; empty if it is.
    n_predicted
        Spots that were looked at, found or not.
    scatter
        Standard deviation of the logarithm of intensities about the expected ones; 0 if they agree.
    """

    result: IndexResult
    used: bool
    remark: str
    n_predicted: int = 0
    scatter: float = 0.0


def fit_frame(
    frame: Frame,
    indexer: Indexer,
    result: IndexResult,
    spots: SpotList,
    detector: Detector | None = None,
    *,
    prior: GeometryPrior | None = None,
    cell_sigma: float = 0.0,
    mask: NDArray[np.bool_] | None = None,
    background: BackgroundEstimate | None = None,
) -> LastFit:
    """Fit an indexer's answer once more, to the frame's pixels where the crystal sends spots.

    Parameters
    ----------
    frame
        From which ``spots`` were found.
    indexer, result, spots
        Who gave the answer, the answer, and to which list.
    detector, prior, cell_sigma
        As they were given to `Indexer.index`.
    mask
        (rows, cols), True where pixels may be used; together with the detector's.
    background
        If it is known already, as for `find_spots`.

    Raises
    ------
    FrameError
        If the frame is of another shape than the detector.
    """
    where = indexer.instrument.detector if detector is None else detector
    if frame.counts.shape != where.shape:
        raise FrameError(
            f"The detector has {where.shape[0]} x {where.shape[1]} (rows x columns) pixels; a frame of shape "
            f"{frame.counts.shape} came. Give the frame in which these spots were found."
        )
    fit = result.refinement
    if result.orientation is None or fit is None or len(fit.spot) < FEWEST:
        return LastFit(result, False, f"fewer than {FEWEST} spots are explained")
    counts = np.ascontiguousarray(frame.counts, dtype=np.float32)
    usable = live_pixels(where) > 0
    if mask is not None:
        usable &= mask
    if background is None:
        background = estimate_background(counts, usable, gain=frame.gain, offset=frame.offset)
    known = indexer.prior if prior is None else prior
    model = ExpectedSpots(indexer.complete, where, known, cell_sigma, fit)
    pixels = _Pixels(counts, usable, background, frame)
    light = ExpectedLight.read(model, spots, fit, background.sigma, float(frame.gain))
    state = _fitted(model, light, pixels)
    if isinstance(state, str):
        return LastFit(result, False, state, len(light.log), light.scatter)
    move = rotation_vector(state.u @ fit.u.T)
    if float(move @ np.linalg.pinv(fit.covariance) @ move) > FARTHEST**2:
        text = f"it moves the orientation by more than {FARTHEST:g} standard deviations of what the spots say"
        return LastFit(result, False, text, len(light.log), light.scatter)
    better = model.refinement(state.u, state.p, state.covariance, fit, spots)
    b = (np.eye(3) + better.strain) @ indexer.crystal.b
    orientation = Orientation(better.u, b, better.covariance)
    done = replace(result, orientation=orientation, refinement=better)
    return LastFit(done, True, "", len(light.log), light.scatter)


def fit_frame_near(
    frame: Frame,
    indexer: Indexer,
    orientation: Orientation,
    pose: FloatArray,
    signal_photons: float,
    spots: SpotList,
    *,
    scatter: float = USUAL_SCATTER,
) -> Refinement | str:
    """Fit a frame whose orientation is known to about a spot's width, though few or no spots of it were found.

    Parameters
    ----------
    frame, indexer
        The frame, and the crystal and instrument with the pose's prior.
    orientation
        Laboratory orientation to start from: of `PhotonIndexer`, or where axes should have brought the crystal.
    pose
        (5,) change of the detector's pose to start from, by `GEOMETRY_PARAMETERS`.
    signal_photons
        Light to begin with, of all spots together; it is fitted.
    spots
        What was found, if only to leave out what is not this crystal's.
    scatter
        Standard deviation of the logarithm of intensities about the calculated ones, which too few spots cannot tell.

    Returns
    -------
    The refined orientation with its covariance and pose (no spots are attributed), or why there is none.
    """
    where = indexer.instrument.detector
    usable = live_pixels(where) > 0
    counts = np.ascontiguousarray(frame.counts, dtype=np.float32)
    background = estimate_background(counts, usable, gain=frame.gain, offset=frame.offset)
    nothing = np.zeros(0, dtype=np.int64)
    moved = where.moved(**dict(zip(GEOMETRY_PARAMETERS, map(float, pose), strict=True)))
    start = Refinement(
        orientation.u, moved, np.zeros((3, 3)), orientation.covariance, np.zeros(5), 0.0,
        nothing, nothing, np.zeros((0, 3), dtype=np.int64), np.zeros((0, 2)),
    )  # fmt: skip
    model = ExpectedSpots(indexer.complete, where, indexer.prior, 0.0, start)
    values = model.values(model.u, model.p)
    scale = float(np.log(max(signal_photons, 1.0) / np.exp(values[:, 5]).sum()))
    light = ExpectedLight.of(model, values, spots, start, background.sigma, float(frame.gain), scale, scatter)
    pixels = _Pixels(counts, usable, background, frame)
    state = _fitted(model, light, pixels)
    if isinstance(state, str):
        return state
    return model.refinement(state.u, state.p, state.covariance, start, spots)


@dataclass(frozen=True, eq=False)
class _Pixels:
    """The frame as the kernels want it."""

    counts: Image
    usable: NDArray[np.bool_]
    background: BackgroundEstimate
    frame: Frame

    def stamps(self, values: FloatArray, foreign: FloatArray) -> Stamps:
        ground, frame = self.background, self.frame
        return lay_out(
            self.counts, ground.level, ground.sigma, self.usable, float(frame.saturation), float(frame.gain),
            values, DEFAULT_PROFILE.halo, foreign,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _State:
    """Where a fit stands: moving, common and (relative) amplitude parameters; ``covariance`` of the free moving ones.

    ``floor`` is the least variance that may be added to the spots, px^2.
    """

    u: FloatArray
    p: FloatArray
    common: FloatArray
    amplitude: FloatArray
    covariance: FloatArray
    floor: float

    def seen(self, model: ExpectedSpots, light: ExpectedLight) -> FloatArray:
        """The spots (n, 6) in the frame's units, as wide and as bright as they stand."""
        out = model.values(self.u, self.p)
        out[:, 5] += light.log + self.common[0] + np.log(self.amplitude)
        out[:, [2, 4]] += max(float(self.common[2]), self.floor)
        return out


def _fitted(model: ExpectedSpots, light: ExpectedLight, pixels: _Pixels) -> _State | str:
    """The fit, or why there is none."""
    values = model.values(model.u, model.p)
    if len(values) < FEWEST:
        return f"fewer than {FEWEST} spots should stand out of the background"
    thin = 0.5 * (values[:, 2] + values[:, 4]) - np.hypot(0.5 * (values[:, 2] - values[:, 4]), values[:, 3])
    if np.median(thin) < SHARPEST_PX**2:
        return "spots are as sharp as pixels"
    start = _State(
        model.u,
        model.p,
        np.zeros(COMMON),
        np.ones(len(values)),
        np.eye(len(model.free)),
        0.3 - float(thin.min()),
    )
    try:
        state, equations, stands = _settled(model, light, pixels, start, light.foreign)
        strange = _elsewhere(equations, values)
        if strange.any():
            # Another grain's spots, or faults: they are no part of the model.
            reach = 3.0 * np.sqrt(np.maximum(values[strange, 2], values[strange, 4]))
            foreign = np.concatenate([light.foreign, np.column_stack([values[strange, :2], reach])])
            state, equations, stands = _settled(model, light, pixels, state, foreign)
    except np.linalg.LinAlgError:
        return "the frame does not hold it"
    error = misplaced(equations.score, equations.information)
    if error > 0.0:
        return f"spots lie {error:.2g} px off the model, so that faint ones would add nothing"
    if not stands:
        return "it does not settle"
    n = max(equations.pixels, 1)
    ratio = equations.misfit / n
    chance = 1.0 + 3.0 * np.sqrt(equations.spread) / n
    return replace(state, covariance=state.covariance * (ratio if ratio > chance else 1.0))


def _settled(
    model: ExpectedSpots, light: ExpectedLight, pixels: _Pixels, state: _State, foreign: FloatArray
) -> tuple[_State, Normal, bool]:
    """Fisher's scoring until the free parameters stand, and whether they do; `LinAlgError` if there is nothing to see."""
    gain, offset = float(pixels.frame.gain), float(pixels.frame.offset)
    level = pixels.background.level[::7, ::7]
    total = float(np.maximum(level - offset, 0.0).mean(dtype=np.float64)) * pixels.counts.size / gain
    # The background is known already, from many more pixels; widths can be off by much.
    pull = np.r_[model.pull, 1e-6, 1.0 / (0.02**2 + 1.0 / max(total, 1.0)), 1.0 / 4.0**2]
    # Of a log-normal number of mean one, as far as a normal one can stand for it.
    spread = float(np.sqrt(np.expm1(min(light.scatter, 1.2) ** 2)))
    k, poses = len(model.free), model.free[3:]
    slopes = model.slopes(state.u, state.p)
    values = state.seen(model, light)
    stamps = pixels.stamps(values, foreign)
    for turn in range(_TURNS):
        equations = normal_equations(
            stamps, values, slopes, offset, float(state.common[1]), gain, DEFAULT_PROFILE.halo, spread > 0.0
        )
        at = np.r_[np.zeros(3), state.p[poses], state.common]
        step, covariance, change = _step(equations, pull, at, state.amplitude, spread)
        p = state.p.copy()
        p[poses] += step[3:k]
        state = replace(
            state,
            u=rotation_matrix(step[:3]) @ state.u,
            p=p,
            common=state.common + np.clip(step[k:], -1.0, 1.0),
            amplitude=np.clip(state.amplitude + change, _LEAST, 5.0 * state.amplitude),
            covariance=covariance[:k, :k],
        )
        if turn > 0 and np.all(np.abs(step[:k]) < _STANDS * np.sqrt(np.diag(covariance)[:k])):
            return state, equations, True
        values = state.seen(model, light)
    return state, equations, False


def _step(
    equations: Normal, pull: FloatArray, at: FloatArray, amplitude: FloatArray, spread: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Step and covariance of moving and common parameters ``at`` (m,) under priors ``pull`` (m,), and of amplitudes (n,).

    The relative amplitudes, normal about one with standard deviation ``spread``, are eliminated; none if that is 0.
    """
    matrix = equations.matrix + np.diag(pull)
    right = equations.right - pull * at
    n = len(amplitude)
    if spread == 0.0:
        covariance = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        return covariance @ right, covariance, np.zeros(n)
    own = equations.own / np.outer(amplitude, amplitude) + np.eye(n) / spread**2
    cross = equations.cross / amplitude[:, None]
    force = equations.pull / amplitude - (amplitude - 1.0) / spread**2
    # What is not there cannot become less.
    gone = (amplitude <= _LEAST) & (force < 0.0)
    own[gone], own[:, gone], cross[gone], force[gone] = 0.0, 0.0, 0.0, 0.0
    own[gone, gone] = 1.0
    inner = np.linalg.solve(own, np.column_stack([cross, force]))
    covariance = np.asarray(np.linalg.inv(matrix - cross.T @ inner[:, :-1]), dtype=np.float64)
    step = covariance @ (right - cross.T @ inner[:, -1])
    return step, covariance, inner[:, -1] - inner[:, :-1] @ step


def _elsewhere(equations: Normal, values: FloatArray) -> NDArray[np.bool_]:
    """Which spots (n,) have too much light to lie off their place by chance, and do."""
    f = equations.information
    det = np.maximum(f[:, 0] * f[:, 2] - f[:, 1] ** 2, 1e-300)
    z = equations.score
    far2 = (f[:, 2] * z[:, 0] ** 2 - 2.0 * f[:, 1] * z[:, 0] * z[:, 1] + f[:, 0] * z[:, 1] ** 2) / det
    plain = np.sqrt(det) * np.sqrt(values[:, 2] * values[:, 4]) > _PLAIN
    return np.asarray(plain & (far2 > _ELSEWHERE**2))
