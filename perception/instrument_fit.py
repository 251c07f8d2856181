"""The whole instrument from frames of one known crystal: detector, directions of all axes, zeros, sphere of confusion.

One frame gives the detector's pose and an orientation (`lauepilot.perception.calibrate`); many frames at known read-backs
give the axes too. All are fitted together, so that each spot of each frame has its say on everything it depends on.
What no frame can tell is not pretended: the turn of the whole laboratory about the beam (the detector defines it), the
innermost zero (part of the crystal's orientation), and how a zero is shared with the directions of the axes inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.indexing.refine import pose_difference
from lauepilot.perception.indexing.sphere import pixel_normals
from lauepilot.perception.instrument_fit_frames import (
    SURE,
    Rough,
    Shot,
    fit_orientations,
    index_shots,
    split_zeros,
)
from lauepilot.perception.instrument_fit_model import OWN, Chain, Match, Model, State, solve
from lauepilot.perception.instrument_fit_result import (
    FEWEST_FRAMES,
    UNTOLD,
    FrameRow,
    InstrumentFit,
    InstrumentFitError,
    InstrumentPrior,
    conventions,
    problems,
)
from lauepilot.simulator.conventions import FloatArray, nearest_rotation
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.orientation import Orientation

#: Pixels within which spots are matched, round by round.
_TOLERANCES = (8.0, 3.0, 2.0)


def fit_instrument(
    crystal: Crystal,
    instrument: Instrument,
    shots: Sequence[Shot],
    *,
    prior: InstrumentPrior | None = None,
    indexer: Indexer | None = None,
) -> InstrumentFit:
    """Detector, axes and crystal from frames of a known crystal at known read-backs.

    Parameters
    ----------
    crystal
        Its lattice must be right.
    instrument
        As described so far.
    shots
        Spots and read-backs, in any order.
    prior
        How far the instrument may be from its description.
    indexer
        Of the crystal on the instrument, where there is one already.

    Raises
    ------
    InstrumentFitError
        If fewer than `FEWEST_FRAMES` frames can be indexed, or agree on any goniometer at all.
    """
    known = prior or InstrumentPrior()
    ix = indexer or Indexer(crystal, instrument)
    shots = list(shots)
    results, pose = index_shots(ix, shots, instrument.detector, known.geometry)
    sure = {i: r.orientation.u for i, r in enumerate(results) if r and r.orientation and r.confidence >= SURE}
    if len(sure) < FEWEST_FRAMES:
        raise InstrumentFitError(
            f"{len(sure)} of {len(shots)} frames show {crystal.name!r} for sure; {FEWEST_FRAMES} are needed. "
            "Is it this crystal, and in the beam? Do pixel size and mirroring of the detector agree with the instrument "
            "file? Expose longer."
        )
    drawn = Chain(instrument.goniometer)
    angles = drawn.angles([dict(s.axes) for s in shots])
    outer = np.arange(len(drawn.names))
    axis_sigma = np.deg2rad(np.sqrt(known.axis_deg**2 + outer * known.zero_deg**2))
    rough = fit_orientations(drawn, angles, sure, crystal.symmetry, axis_sigma)
    if len(rough.used) < FEWEST_FRAMES:
        raise InstrumentFitError(
            f"Only {len(rough.used)} of {len(sure)} indexed frames agree with the axes {', '.join(drawn.names)} in this "
            "order. Look at the order and directions of the axes in the instrument file, and whether the motors turn "
            "degrees (steps per degree, gear ratio)."
        )
    fitted = _Fit(ix, instrument, rough, angles, shots, pose, known, axis_sigma)
    fitted.run()
    return fitted.result(crystal, [0.0 if r is None else r.confidence for r in results], known)


class _Fit:
    """The joint fit, with what it holds between rounds."""

    def __init__(
        self,
        indexer: Indexer,
        instrument: Instrument,
        rough: Rough,
        angles: FloatArray,
        shots: list[Shot],
        pose: Detector,
        known: InstrumentPrior,
        axis_sigma: FloatArray,
    ) -> None:
        self.instrument, self.rough, self.shots, self.angles = instrument, rough, shots, angles
        self.model = Model(indexer.table, instrument.detector, rough.chain, angles, [s.spots for s in shots])
        n = len(shots)
        self.state = State(
            pose_difference(instrument.detector, pose),
            rough.tilts,
            rough.u,
            np.zeros((n, 3)),
            np.zeros((n, 3)),
        )
        shared = np.concatenate(
            [
                known.geometry.sigmas(instrument.detector),
                np.repeat(axis_sigma, 2),
                np.full(3, np.inf),
            ]
        )
        self.shared_sigma = shared
        self.own_sigma = np.repeat([known.offset_mm, np.deg2rad(known.turn_deg)], 3)
        self.matches: list[Match] = []
        self.covariance = np.eye(len(shared) + OWN * n)
        self.scale = 1.0

    def run(self) -> None:
        """Match, fit, learn how far single frames stray; and again with what was learnt."""
        n, shared = len(self.shots), len(self.shared_sigma)
        for tolerance in _TOLERANCES:
            self.matches = [self.model.match(self.state, i, tolerance) for i in range(n)]
            for _ in range(4 if tolerance == _TOLERANCES[-1] else 1):
                prior = np.concatenate([self.shared_sigma, np.tile(self.own_sigma, n)])
                self.state, self.covariance, self.scale = solve(self.model, self.state, self.matches, prior)
                # Expectation and maximisation: the spread of single frames, from their estimates and these' errors.
                mean = np.concatenate([self.state.offsets, self.state.turns], axis=1)
                variance = np.diag(self.covariance)[shared:].reshape(n, OWN)
                told = np.array([len(m.spot) >= 6 for m in self.matches])
                spread = (mean**2 + variance)[told].mean(axis=0) if told.any() else self.own_sigma**2
                both = np.sqrt([spread[:3].mean(), spread[3:].mean()])
                self.own_sigma = np.repeat(np.maximum(both, [1e-4, 1e-6]), 3)

    def result(self, crystal: Crystal, confidences: list[float], known: InstrumentPrior) -> InstrumentFit:
        """What was found, and whether to believe it."""
        state, chain = self.state, self.rough.chain
        directions = chain.turned(state.tilts)
        name = self.instrument.name
        found = replace(
            self.instrument.with_detector(self.model.detector(state)),
            name=name if name.endswith("-calibrated") else f"{name}-calibrated",
            goniometer=chain.goniometer(directions),
        )
        shared = len(self.shared_sigma)
        covariance = self.covariance[:shared, :shared]
        sigma = np.sqrt(np.diag(covariance))
        names = (
            *GEOMETRY_PARAMETERS,
            *(f"{axis}_{which}_rad" for axis in chain.names for which in ("tilt1", "tilt2")),
            *(f"crystal_{x}_rad" for x in "xyz"),
        )
        untold = tuple(n for n, s, b in zip(names, sigma, self.shared_sigma, strict=True) if s > UNTOLD * b)
        zeros, true = split_zeros(chain, directions, np.deg2rad(known.axis_deg), np.deg2rad(known.zero_deg))
        rows = self._rows(confidences)
        used = [r for r in rows if r.used]
        squares = np.concatenate([np.sum(r**2, axis=1) for r in self._residuals()])
        fit = InstrumentFit(
            instrument=found,
            drawn=self.instrument,
            orientation=Orientation(state.u, crystal.b, covariance[-3:, -3:]),
            names=names,
            values=np.concatenate([state.pose, state.tilts.ravel(), np.zeros(3)]),
            sigma=sigma,
            covariance=covariance,
            prior_sigma=self.shared_sigma,
            undetermined=untold,
            conventions=conventions(chain.names),
            zeros_deg=dict(zip(chain.names, (float(z) for z in np.rad2deg(zeros)), strict=True)),
            true_directions=dict(zip(chain.names, true, strict=True)),
            azimuth_deg=_azimuth_deg(chain.directions, true),
            reversed_axes=self.rough.reversed_axes,
            # A ball of diameter d has a variance of d^2 / 20 along each direction.
            sphere_mm=float(np.sqrt(20.0) * self.own_sigma[0]),
            turn_deg=float(np.rad2deg(self.own_sigma[3])),
            rms_px=float(np.sqrt(squares.mean())) if len(squares) else float("nan"),
            scale=self.scale,
            rows=rows,
            problems=(),
        )
        return replace(fit, problems=problems(fit, len(used)))

    def _residuals(self) -> list[FloatArray]:
        return self.model.residuals(self.state, self.matches)

    def _rows(self, confidences: list[float]) -> tuple[FrameRow, ...]:
        before = self._drawn_residuals()
        rows = []
        for i, (shot, after) in enumerate(zip(self.shots, self._residuals(), strict=True)):
            matched = len(self.matches[i].spot)
            rows.append(
                FrameRow(
                    dict(shot.axes),
                    len(shot.spots),
                    matched,
                    confidences[i],
                    matched >= max(6, 0.2 * len(shot.spots)),
                    _rms(before[i]),
                    _rms(after),
                    self.state.offsets[i],
                    np.rad2deg(self.state.turns[i]),
                )
            )
        return tuple(rows)

    def _drawn_residuals(self) -> list[FloatArray]:
        """Found minus predicted of the matched spots with the instrument as drawn, the crystal as suits all frames best."""
        drawn, table = Chain(self.instrument.goniometer), self.model.table
        z = drawn.matrices(drawn.directions, self.angles)
        total = np.zeros((3, 3))
        for i, match in enumerate(self.matches):
            normals = pixel_normals(self.shots[i].spots.pixels[match.spot], self.instrument.detector)
            total += (normals @ z[i]).T @ table.direction[match.ray]
        # Wahba's problem over all frames, by singular values (Markley 1988).
        n = len(self.shots)
        state = State(
            np.zeros(5),
            np.zeros_like(self.state.tilts),
            nearest_rotation(total),
            np.zeros((n, 3)),
            np.zeros((n, 3)),
        )
        model = Model(table, self.instrument.detector, drawn, self.angles, self.model.spots)
        return model.residuals(state, self.matches)


def _rms(residual: FloatArray) -> float:
    squares = np.sum(residual**2, axis=1)
    squares = squares[np.isfinite(squares)]
    return float(np.sqrt(squares.mean())) if len(squares) else float("nan")


def _azimuth_deg(drawn: FloatArray, found: FloatArray) -> float:
    """Turn about the beam that brings drawn directions (k, 3) nearest to those found."""
    across = np.sum(drawn[:, 0] * found[:, 1] - drawn[:, 1] * found[:, 0])
    along = np.sum(drawn[:, 0] * found[:, 0] + drawn[:, 1] * found[:, 1])
    return float(np.rad2deg(np.arctan2(across, along))) if along or across else 0.0
