"""What a frame should show at an orientation: for `lauepilot.perception.indexing.forced`.

Places, shapes and light of all spots that may show, as functions of orientation, pose and strain; how far the intensities
of found spots lie from the expected ones; how far places lie from the expected ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.forced_kernels import FADES
from lauepilot.perception.indexing.gauss_newton import STEPS
from lauepilot.perception.indexing.refine import (
    GeometryPrior,
    Refinement,
    pose_difference,
    predict_pixels,
    strained,
)
from lauepilot.perception.limits.bound import rays_near, spot_values
from lauepilot.perception.observation import SpotList
from lauepilot.perception.spots.background import Image
from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector
from lauepilot.simulator.image import DEFAULT_PROFILE
from lauepilot.simulator.laue import RayTable

#: So many predicted spots at most, brightest first: time is bounded.
MOST_SPOTS = 800

#: Scatters of intensities (natural logarithm) and errors of positions (pixels) that are tried, besides none.
_SCATTERS = np.geomspace(0.02, 3.0, 26)
_MODEL_PX = np.geomspace(0.005, 4.0, 28)

#: What the log-likelihood must gain before either is believed.
_GAIN = 3.0


class ExpectedSpots:
    """Where spots lie and how they look as functions of the moving parameters, numbered as in `gauss_newton`.

    Parameters
    ----------
    table
        All rays that may show.
    detector, prior, cell_sigma
        The pose that is believed, how well, and how well the cell's shape is known (`refine`).
    fit
        Where to start.
    """

    def __init__(
        self, table: RayTable, detector: Detector, prior: GeometryPrior, cell_sigma: float, fit: Refinement
    ) -> None:
        self.detector = detector
        self.sigma = np.zeros(13)
        self.sigma[3:8] = prior.sigmas(detector)
        self.sigma[8:] = cell_sigma
        self.free = np.flatnonzero(np.r_[True, True, True, self.sigma[3:] > 0.0])
        self.pull = np.zeros(len(self.free))
        self.pull[3:] = 1.0 / self.sigma[self.free[3:]] ** 2
        self.u, self.p = fit.u, np.zeros(13)
        if fit.detector is not detector:
            self.p[3:8] = pose_difference(detector, fit.detector)
        self.p[8:] = fit.strain[[0, 1, 0, 0, 1], [0, 1, 1, 2, 2]]
        rays = rays_near(self._strained(table, self.p), self.u, fit.detector, DEFAULT_PROFILE)
        sines = -table.direction[rays] @ self.u[2]
        node = np.rint((sines - table.sin_theta_min) / table.sin_theta_step).astype(int)
        rate = table.rate[rays, np.clip(node, 0, table.rate.shape[1] - 1)]
        self.take(table, rays[np.argsort(-rate, kind="stable")][:MOST_SPOTS])

    def take(self, table: RayTable, rays: NDArray[np.int64]) -> None:
        """Keep these rays of a table."""
        self.table = replace(
            table,
            hkl=table.hkl[rays],
            direction=table.direction[rays],
            q_length=table.q_length[rays],
            rate=table.rate[rays],
            order=table.order[rays],
        )
        self._every = np.arange(len(rays))

    @staticmethod
    def _strained(table: RayTable, p: FloatArray) -> RayTable:
        return replace(table, direction=strained(table.direction, strain(p))) if p[8:].any() else table

    def moved(self, p: FloatArray) -> Detector:
        """The detector with the pose of ``p``."""
        if not p[3:8].any():
            return self.detector
        return self.detector.moved(**dict(zip(GEOMETRY_PARAMETERS, map(float, p[3:8]), strict=True)))

    def values(self, u: FloatArray, p: FloatArray) -> FloatArray:
        """Spots (n, 6) as `spot_values` gives them."""
        return spot_values(self._strained(self.table, p), self._every, u, self.moved(p))

    def slopes(self, u: FloatArray, p: FloatArray) -> FloatArray:
        """Derivatives (n, 6, k) of `values` after the free parameters, by central differences."""
        n, table = len(self._every), self.table
        turned, posed = [], []
        for i in self.free:
            for sign in (1.0, -1.0):
                q, turn = p.copy(), np.zeros(3)
                (turn if i < 3 else q)[i] += sign * STEPS[i]
                if 3 <= i < 8:
                    posed.append(self.values(u, q))
                else:
                    # A turn in the laboratory is one of the crystal's directions: all of them at once.
                    bent = strained(table.direction, strain(q)) if q[8:].any() else table.direction
                    turned.append(bent @ (u.T @ rotation_matrix(turn).T @ u))
        k = len(turned)
        every = replace(table, direction=np.concatenate(turned), rate=np.tile(table.rate, (k, 1)))
        moved = spot_values(every, np.arange(k * n), u, self.moved(p)).reshape(k, n, 6)
        ends = np.concatenate([moved[:6], np.array(posed).reshape(-1, n, 6), moved[6:]])
        out = (ends[0::2] - ends[1::2]) / (2.0 * STEPS[self.free])[:, None, None]
        return np.ascontiguousarray(np.moveaxis(out, 0, 2))

    def refinement(
        self, u: FloatArray, p: FloatArray, covariance: FloatArray, fit: Refinement, spots: SpotList
    ) -> Refinement:
        """``fit`` with new numbers; ``covariance`` (k, k) is that of the free parameters."""
        directions = fit.hkl @ self.table.crystal.b.T
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        moved, bent = self.moved(p), strain(p)
        sigma = np.zeros(13)
        sigma[self.free] = np.sqrt(np.diag(covariance))
        return replace(
            fit,
            u=u,
            detector=moved,
            strain=bent,
            covariance=covariance[:3, :3],
            geometry_sigma=sigma[3:8],
            residual_px=spots.pixels[fit.spot] - predict_pixels(u, strained(directions, bent), moved),
        )


def strain(p: FloatArray) -> FloatArray:
    """The (3, 3) strain of parameters (13,)."""
    a, b, c, d, e = p[8:]
    return np.array([[a, c, d], [c, b, e], [d, e, -a - b]])


@dataclass(frozen=True, eq=False)
class ExpectedLight:
    """What found spots tell of the light to expect.

    Attributes
    ----------
    log
        (n,) logarithm of the factor from a ray's rate to a spot's light in the frame's units.
    scatter
        Standard deviation of the logarithm of intensities about the expected ones.
    foreign
        (f, 3) col, row and radius of discs around spots that are not this crystal's.
    """

    log: FloatArray
    scatter: float
    foreign: FloatArray

    @classmethod
    def read(
        cls, model: ExpectedSpots, spots: SpotList, fit: Refinement, sigma: Image, gain: float
    ) -> ExpectedLight:
        """Compare found spots with what is expected, blends as sums; ``sigma`` (rows, cols) is the noise of pixels.

        What stands out of the background nowhere is taken from ``model``: it costs time only.
        """
        values = model.values(model.u, model.p)
        near = np.maximum(_near(values, spots, 1.5), 1e-300)
        explained = fit.spot[near[fit.spot] > 1e-299]
        ratio = np.log(np.maximum(spots.counts[explained], 1e-300) / near[explained])
        variance = (spots.counts_sigma[explained] / np.maximum(spots.counts[explained], 1e-300)) ** 2
        scatter, scale = scattered(ratio, variance)
        return cls.of(model, values, spots, fit, sigma, gain, scale, scatter)

    @classmethod
    def of(
        cls,
        model: ExpectedSpots,
        values: FloatArray,
        spots: SpotList,
        fit: Refinement,
        sigma: Image,
        gain: float,
        scale: float,
        scatter: float,
    ) -> ExpectedLight:
        """The same with level ``scale`` (logarithm of photons over ``values``) and ``scatter`` known already."""
        alien = np.ones(len(spots), dtype=np.bool_)
        alien[fit.spot] = False
        alien &= np.exp(scale) * _near(values, spots, 2.5) < 0.3 * spots.counts
        foreign = np.column_stack(
            [spots.pixels[alien], np.full(np.count_nonzero(alien), 4.0 * _width(values))]
        )
        log = values[:, 5] + scale + np.log(gain)
        area = 2.0 * np.pi * np.sqrt(values[:, 2] * values[:, 4] - values[:, 3] ** 2)
        size = np.array(sigma.shape[::-1]) - 1
        col, row = np.clip(np.rint(values[:, :2]), 0, size).astype(int).T
        noise = sigma[row, col].astype(float) ** 2 / gain
        bright = np.flatnonzero(np.exp(log) / area > FADES * noise)
        model.take(model.table, bright)
        return cls(np.full(len(bright), scale + np.log(gain)), scatter, foreign)


def _width(values: FloatArray) -> float:
    """Usual standard deviation of spots (n, 6), pixels."""
    return float(np.sqrt(np.median(0.5 * (values[:, 2] + values[:, 4]))))


def _near(values: FloatArray, spots: SpotList, widths: float) -> FloatArray:
    """Light expected within so many ``widths`` of each found spot."""
    found = spots.pixels
    gap2 = (found[:, :1] - values[:, 0]) ** 2 + (found[:, 1:] - values[:, 1]) ** 2
    return np.asarray((gap2 < (widths * _width(values)) ** 2) @ np.exp(values[:, 5]))


def scattered(ratio: FloatArray, variance: FloatArray) -> tuple[float, float]:
    """Scatter of logarithms of intensities (n,) beyond their own ``variance`` (n), by likelihood, and their level."""
    best: tuple[float, float, float] | None = None
    for tau in (0.0, *_SCATTERS):
        v = variance + tau**2
        order = np.argsort(ratio)
        weight = np.cumsum(1.0 / v[order])
        level = float(ratio[order][np.searchsorted(weight, 0.5 * weight[-1])])
        total = float(np.sum(-0.5 * np.log(v) - 0.5 * np.minimum((ratio - level) ** 2 / v, 16.0)))
        if best is None or total > best[0]:
            best = (total + (_GAIN if tau == 0.0 else 0.0), float(tau), level)
    return (0.0, 0.0) if best is None else (best[1], best[2])


def misplaced(score: FloatArray, information: FloatArray) -> float:
    """Error of positions, pixels per direction, that scores (n, 2) at the predicted places ask for; 0: none.

    A spot that is off by a normal number of variance ``m^2`` has a score of variance ``f + m^2 f^2`` along each principal
    axis of its information (eigenvalue ``f``): no position needs to be fitted, and faint spots count for what they know.
    """
    matrices = np.empty((len(information), 2, 2))
    matrices[:, 0, 0], matrices[:, 1, 1] = information[:, 0], information[:, 2]
    matrices[:, 0, 1] = matrices[:, 1, 0] = information[:, 1]
    f, axes = np.linalg.eigh(matrices)
    z = np.einsum("nij,ni->nj", axes, score)
    keep = f > 1e-12
    f, z2 = f[keep], z[keep] ** 2
    best, error = _GAIN, 0.0
    for m in _MODEL_PX:
        more = 1.0 + m * m * f
        before, after = np.minimum(z2 / f, 16.0), np.minimum(z2 / (f * more), 16.0)
        gain = float(np.sum(0.5 * (before - after) - 0.5 * np.log(more)))
        if gain > best:
            best, error = gain, float(m)
    return error
