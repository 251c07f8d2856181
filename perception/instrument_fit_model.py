"""One model for many frames of one crystal: detector, axes, crystal, and what each frame has of its own.

A spot of frame ``i`` lies where the plane ``n`` of the crystal sends the beam,

    g = exp(w_i) Z(angles_i; directions) U n,    k = beam - 2 (beam . g) g,    pixel = detector(k) + J e_i

with the crystal displaced by ``e_i`` (it wanders in the sphere of confusion) and turned by ``w_i`` (axes do not arrive quite
where they say). Directions are those at read-backs of zero: what a motor's zero is off by turns the axes inside it, and the
last one's is part of ``U``. There is no turn of the detector about the beam: the detector defines the azimuth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from lauepilot.perception.indexing.refine import predict_pixels
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray, rotation_matrix, rotation_vector
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.laue import RayTable, predict_spots
from lauepilot.simulator.spots_shape import displacement_px, ray_jacobian

#: Parameters that one frame has of its own: displacement (3, mm) and turn (3, rad).
OWN = 6

#: Nobody finds a spot's place better than this, pixels.
FLOOR_PX = 0.03

_TUKEY = 4.685

#: Steps of forward differences: mm, px, px, rad, rad; and of turns, rad.
_POSE_STEPS = np.array([1e-3, 1e-2, 1e-2, 1e-6, 1e-6])
_TURN_STEP = 1e-6


class Chain:
    """The rotation axes of a goniometer with free directions.

    Parameters
    ----------
    goniometer
        As drawn; translations are left alone.
    """

    def __init__(self, goniometer: Goniometer) -> None:
        self.drawn = goniometer
        self.names = tuple(axis.name for axis in goniometer.rotations)
        d = np.array([axis.direction for axis in goniometer.rotations], dtype=float).reshape(-1, 3)
        self.directions = d / np.linalg.norm(d, axis=1, keepdims=True)
        helper = np.eye(3)[np.argmin(np.abs(self.directions), axis=1)]
        first = np.cross(self.directions, helper)
        first /= np.linalg.norm(first, axis=1, keepdims=True)
        #: (k, 2, 3) two directions across each axis.
        self.across = np.stack([first, np.cross(self.directions, first)], axis=1)

    def angles(self, positions: list[dict[str, float]]) -> FloatArray:
        """Angles (n, k), radians, of positions in degrees."""
        table = [[p.get(name, 0.0) for name in self.names] for p in positions]
        return np.asarray(np.deg2rad(np.array(table, dtype=float).reshape(len(positions), len(self.names))))

    def turned(self, tilts: FloatArray) -> FloatArray:
        """Directions (k, 3) after ``tilts`` (k, 2), radians, about the two directions across each."""
        vectors = np.einsum("kj,kjx->kx", tilts, self.across)
        return np.asarray(np.einsum("kxy,ky->kx", rotation_matrix(vectors), self.directions))

    def tilts(self, directions: FloatArray) -> FloatArray:
        """The tilts (k, 2) that give these directions (k, 3): the inverse of `turned`."""
        cross = np.cross(self.directions, directions)
        sine = np.linalg.norm(cross, axis=1)
        angle = np.arctan2(sine, np.einsum("kx,kx->k", self.directions, directions))
        vectors = cross * np.where(sine > 1e-15, angle / np.maximum(sine, 1e-15), 0.0)[:, None]
        return np.asarray(np.einsum("kjx,kx->kj", self.across, vectors))

    @staticmethod
    def matrices(directions: FloatArray, angles: FloatArray) -> FloatArray:
        """``Z`` (n, 3, 3) at angles (n, k) about directions (k, 3), outermost first."""
        z = np.broadcast_to(np.eye(3), (len(angles), 3, 3))
        for direction, angle in zip(directions, angles.T, strict=True):
            z = z @ Rotation.from_rotvec(angle[:, None] * direction).as_matrix()
        return np.asarray(z)

    def slopes(self, tilts: FloatArray, u: FloatArray, angles: FloatArray) -> FloatArray:
        """Laboratory rotation vectors (n, 3, 2 k + 3) per radian of each tilt, and of a turn ``exp(w) u`` of the crystal."""
        now = self.matrices(self.turned(tilts), angles)
        columns = []
        for step in np.eye(tilts.size):
            other = self.matrices(self.turned(tilts + _TURN_STEP * step.reshape(tilts.shape)), angles)
            columns.append(rotation_vector(other @ now.transpose(0, 2, 1)) / _TURN_STEP)
        mixed = np.stack(columns, axis=2) if columns else np.zeros((len(angles), 3, 0))
        return np.concatenate([mixed, now], axis=2)

    def goniometer(self, directions: FloatArray) -> Goniometer:
        """The drawn goniometer with these directions (k, 3) of its rotations."""
        found = {
            n: (float(x), float(y), float(z)) for n, (x, y, z) in zip(self.names, directions, strict=True)
        }
        return Goniometer(
            tuple(replace(a, direction=found.get(a.name, a.direction)) for a in self.drawn.axes)
        )


@dataclass(frozen=True, eq=False)
class State:
    """Where a fit stands.

    Attributes
    ----------
    pose
        (5,) additions to the drawn detector, as in `GEOMETRY_PARAMETERS`.
    tilts
        (k, 2) of the axes, radians.
    u
        (3, 3) of the crystal on the holder at read-backs of zero.
    offsets, turns
        (n, 3) of the frames, mm and rad.
    """

    pose: FloatArray
    tilts: FloatArray
    u: FloatArray
    offsets: FloatArray
    turns: FloatArray

    def moved(self, step: FloatArray) -> State:
        """The state after a step (5 + 2 k + 3 + 6 n,)."""
        k, n = self.tilts.size, len(self.offsets)
        own = step[8 + k :].reshape(n, OWN)
        return State(
            self.pose + step[:5],
            self.tilts + step[5 : 5 + k].reshape(self.tilts.shape),
            rotation_matrix(step[5 + k : 8 + k]) @ self.u,
            self.offsets + own[:, :3],
            rotation_vector(rotation_matrix(own[:, 3:]) @ rotation_matrix(self.turns)).reshape(n, 3),
        )


@dataclass(frozen=True, eq=False)
class Match:
    """Spots of a frame with the rays that make them: indices ``spot`` (m,), ``ray`` (m,) in the table."""

    spot: NDArray[np.int64]
    ray: NDArray[np.int64]


class Model:
    """Frames of one crystal on one instrument.

    Parameters
    ----------
    table
        Rays of the crystal.
    detector
        As drawn.
    chain
        Axes as drawn.
    angles
        (n, k) of the frames, radians.
    spots
        Of each frame.
    """

    def __init__(
        self, table: RayTable, detector: Detector, chain: Chain, angles: FloatArray, spots: list[SpotList]
    ) -> None:
        self.table, self.drawn, self.chain, self.angles, self.spots = table, detector, chain, angles, spots
        self.sigma = [
            np.sqrt(0.5 * (s.covariance_px2[:, 0, 0] + s.covariance_px2[:, 1, 1]) + FLOOR_PX**2)
            for s in spots
        ]

    def detector(self, state: State) -> Detector:
        """The detector with the state's pose."""
        return self.drawn.moved(*(float(x) for x in state.pose))

    def orientations(self, state: State) -> FloatArray:
        """Laboratory orientations (n, 3, 3)."""
        z = self.chain.matrices(self.chain.turned(state.tilts), self.angles)
        return np.asarray(rotation_matrix(state.turns) @ z @ state.u)

    def match(self, state: State, frame: int, tolerance_px: float) -> Match:
        """Spots and predicted spots of a frame that are each other's nearest within the tolerance."""
        detector, u = self.detector(state), self.orientations(state)[frame]
        seen = predict_spots(self.table, u, detector)
        found = self.spots[frame].pixels
        if len(found) == 0 or len(seen) == 0:
            none = np.zeros(0, dtype=np.int64)
            return Match(none, none)
        where = seen.pixels + displacement_px(detector, seen.pixels, state.offsets[frame])
        # Of rays that fall onto one another within a spot's width the brightest makes the spot.
        far, near = cKDTree(where).query(found, distance_upper_bound=tolerance_px)
        back = cKDTree(found).query(where)[1]
        spot = np.flatnonzero(np.isfinite(far))
        spot = spot[back[near[spot]] == spot]
        return Match(spot, np.asarray(seen.ray[near[spot]], dtype=np.int64))

    def residuals(self, state: State, matches: list[Match]) -> list[FloatArray]:
        """Found minus predicted (m, 2) of each frame, pixels."""
        detector, u = self.detector(state), self.orientations(state)
        return [
            self.spots[i].pixels[m.spot] - self._predicted(detector, u[i], m, state.offsets[i])
            for i, m in enumerate(matches)
        ]

    def _predicted(self, detector: Detector, u: FloatArray, match: Match, offset: FloatArray) -> FloatArray:
        pixels = predict_pixels(u, self.table.direction[match.ray], detector)
        return np.asarray(pixels + displacement_px(detector, pixels, offset))

    def jacobians(self, state: State, matches: list[Match]) -> list[tuple[FloatArray, FloatArray]]:
        """Derivatives of the predictions of each frame: after all that frames share (m, 2, 8 + 2 k), and after its own
        (m, 2, 6).
        """
        detector, u = self.detector(state), self.orientations(state)
        slopes = self.chain.slopes(state.tilts, state.u, self.angles)
        # The turns w act after Z: what Z does reaches the laboratory through them.
        slopes = rotation_matrix(state.turns) @ slopes
        out = []
        for i, m in enumerate(matches):
            here = self._predicted(detector, u[i], m, state.offsets[i])
            turn = np.empty((len(m.spot), 2, 3))
            for j in range(3):
                other = rotation_matrix(_TURN_STEP * np.eye(3)[j]) @ u[i]
                turn[:, :, j] = (self._predicted(detector, other, m, state.offsets[i]) - here) / _TURN_STEP
            pose = np.empty((len(m.spot), 2, 5))
            for j, step in enumerate(np.diag(_POSE_STEPS)):
                moved = self.drawn.moved(*(float(x) for x in state.pose + step))
                pose[:, :, j] = (self._predicted(moved, u[i], m, state.offsets[i]) - here) / _POSE_STEPS[j]
            bare = predict_pixels(u[i], self.table.direction[m.ray], detector)
            offset = ray_jacobian(detector, detector.pixels_to_positions(bare))
            shared = np.concatenate([pose, turn @ slopes[i]], axis=2)
            out.append((shared, np.concatenate([offset, turn], axis=2)))
        return out


def solve(
    model: Model,
    state: State,
    matches: list[Match],
    prior: FloatArray,
    *,
    rounds: int = 8,
) -> tuple[State, FloatArray, float]:
    """Least squares over all frames, robust to false matches (Tukey's biweight, reweighted in each round).

    Parameters
    ----------
    model, state, matches
        What is fitted, from where on, to which spots.
    prior
        (5 + 2 k + 3 + 6 n,) standard deviations about zero; infinite where nothing is known.
    rounds
        At most.

    Returns
    -------
    state, covariance, scale
        The covariance (p, p) holds the prior; ``scale`` is how many times larger residuals are than spots' own errors.
    """
    k = model.chain.across.shape[0] * 2
    shared, p = 8 + k, len(prior)
    pull = np.where(np.isfinite(prior), 1.0 / np.square(prior), 0.0)
    scale = 1.0
    a = np.eye(p)
    for turn in range(rounds):
        a, b = np.diag(pull + 1e-30), -pull * _flat(state)
        residuals = model.residuals(state, matches)
        every = [
            np.linalg.norm(r, axis=1) / model.sigma[i][m.spot]
            for i, (r, m) in enumerate(_both(residuals, matches))
        ]
        joined = np.concatenate(every)
        # The median of a Rayleigh distribution is 1.1774.
        scale = max(float(np.median(joined)) / 1.1774, 1.0) if len(joined) else 1.0
        for i, (both, r) in enumerate(zip(model.jacobians(state, matches), residuals, strict=True)):
            if len(r) == 0:
                continue
            weight = np.clip(1.0 - np.square(every[i] / (1.4 * _TUKEY * scale)), 0.0, None) ** 2
            weight = weight / np.square(model.sigma[i][matches[i].spot] * scale)
            j = np.concatenate(both, axis=2).reshape(-1, shared + OWN)
            w = np.repeat(weight, 2)
            at = np.concatenate([np.arange(shared), shared + OWN * i + np.arange(OWN)])
            a[np.ix_(at, at)] += (j * w[:, None]).T @ j
            b[at] += (j * w[:, None]).T @ r.ravel()
        root = np.sqrt(np.diag(a))
        step = np.linalg.solve(a / np.outer(root, root), b / root) / root
        state = state.moved(step)
        if turn > 1 and np.max(np.abs(step) * root) < 0.02:
            break
    root = np.sqrt(np.diag(a))
    covariance = np.linalg.inv(a / np.outer(root, root)) / np.outer(root, root)
    return state, covariance, scale


def _flat(state: State) -> FloatArray:
    """The state as one vector; the crystal's orientation has no origin and no prior: zeros."""
    own = np.concatenate([state.offsets, state.turns], axis=1)
    return np.concatenate([state.pose, state.tilts.ravel(), np.zeros(3), own.ravel()])


def _both(residuals: list[FloatArray], matches: list[Match]) -> list[tuple[FloatArray, Match]]:
    return list(zip(residuals, matches, strict=True))
