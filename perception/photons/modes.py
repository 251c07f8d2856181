"""Maxima of the photon likelihood: found to the last digit, and weighed by the posterior probability under them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from numba import njit
from numpy.typing import NDArray
from scipy.stats import qmc

from lauepilot.perception.photons.kernels import gradient, log_likelihood
from lauepilot.perception.photons.scene import PARAMETERS, View
from lauepilot.perception.photons.spread import turned
from lauepilot.simulator.conventions import FloatArray

#: Steps of the second derivatives: rad, then mm, px, px, rad, rad, then logarithm and logit.
STEPS = np.array([1e-4] * 3 + [0.02, 0.1, 0.1, 1e-4, 1e-4] + [0.02, 0.03])

#: Points, and degrees of freedom of Student's distribution, with which posteriors are integrated.
POINTS, FREEDOM = 256, 6.0


class Prior(NamedTuple):
    """What is known before the frame: ``mean`` (10,) and ``precision`` (10, 10) of the parameters.

    The rotation's part is about ``u`` (3, 3); zero precision there means any orientation. The share of signal is uniform
    between 0 and 1. ``log_norm`` normalises the density (over the free parameters, orientation included).
    """

    mean: FloatArray
    precision: FloatArray
    u: FloatArray
    log_norm: float


@dataclass(frozen=True, eq=False)
class Mode:
    """One maximum of the posterior.

    Attributes
    ----------
    u
        (3, 3) posterior mean orientation.
    covariance
        (3, 3) of the rotation vector.
    x
        (10,) parameters at the maximum; the first three are zero.
    llr
        Log-likelihood ratio to "all background" at the maximum.
    log_evidence
        Logarithm of the mean likelihood ratio under the prior, near this maximum.
    """

    u: FloatArray
    covariance: FloatArray
    x: FloatArray
    llr: float
    log_evidence: float


@njit(cache=True)
def rotvec(u: FloatArray, v: FloatArray) -> FloatArray:
    """Rotation vector of ``u v^T`` for turns well below pi."""
    r = u @ v.T
    x, y, z = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    s = math.sqrt(x * x + y * y + z * z)
    angle = math.atan2(s, r[0, 0] + r[1, 1] + r[2, 2] - 1.0)
    scale = angle / s if s > 1e-12 else 0.5
    return np.array([x * scale, y * scale, z * scale])


@njit(cache=True)
def log_prior(u: FloatArray, x: FloatArray, prior: Prior, slope: FloatArray) -> float:
    """Logarithm of the prior (not normalised) in rotation vector, parameters and logit; and its slopes (10,)."""
    d = x - prior.mean
    d[:3] = rotvec(u, prior.u)
    slope[:] = -prior.precision @ d
    f = 1.0 / (1.0 + math.exp(-x[9]))
    value = 0.5 * (slope * d).sum() + math.log(max(f * (1.0 - f), 1e-300))
    slope[9] += 1.0 - 2.0 * f
    return float(value)


@njit(cache=True)
def _slopes(
    u: FloatArray,
    x: FloatArray,
    prior: Prior,
    view: View,
    out: FloatArray,
    information: FloatArray,
) -> float:
    value = gradient(u, x, view, out, information)
    slope = np.empty(PARAMETERS)
    value += log_prior(u, x, prior, slope)
    out += slope
    return value


@njit(cache=True)
def _curvature(
    u: FloatArray,
    x: FloatArray,
    free: NDArray[np.int64],
    prior: Prior,
    view: View,
    steps: FloatArray,
    out: FloatArray,
) -> None:
    """Minus the second derivatives of the log posterior after the ``free`` parameters, by differences of slopes."""
    slope, scrap = np.empty(PARAMETERS), np.empty((PARAMETERS, PARAMETERS))
    out[:] = 0.0
    for i in free:
        for sign in (-1.0, 1.0):
            shift = np.zeros(PARAMETERS)
            shift[i] = sign * steps[i]
            v = turned(u, shift[0], shift[1], shift[2])
            y = x + shift
            y[:3] = 0.0
            _slopes(v, y, prior, view, slope, scrap)
            for j in free:
                out[j, i] -= sign * slope[j] / (2.0 * steps[i])
    out[:] = 0.5 * (out + out.T)


@njit(cache=True)
def polish(
    u: FloatArray,
    x: FloatArray,
    free: NDArray[np.int64],
    prior: Prior,
    view: View,
    exact: bool,
    steps: FloatArray,
    rounds: int,
    enough: float,
) -> tuple[FloatArray, FloatArray, float, FloatArray]:
    """Newton's method: the maximum ``u, x``, its log posterior, and minus the second derivatives (10, 10) there.

    With ``exact`` those are differences of slopes; else the sum over photons of the slopes' outer products,
    which is right for many photons (and positive). A step that promises less than ``enough`` nats is the last.
    """
    k = free.size
    g, other, info, scrap = (
        np.empty(PARAMETERS), np.empty(PARAMETERS), np.empty((PARAMETERS, PARAMETERS)), np.empty((PARAMETERS, PARAMETERS)),
    )  # fmt: skip
    value = _slopes(u, x, prior, view, g, info)
    h = np.zeros((PARAMETERS, PARAMETERS))
    for turn in range(rounds + 1):
        f = 1.0 / (1.0 + math.exp(-x[9]))
        info += prior.precision
        info[9, 9] += 2.0 * f * (1.0 - f)
        h[:] = info
        if exact:
            _curvature(u, x, free, prior, view, steps, h)
        small = np.empty((k, k))
        rhs = np.empty(k)
        for a in range(k):
            rhs[a] = g[free[a]]
            for b in range(k):
                small[a, b] = h[free[a], free[b]]
        scale = np.empty(k)
        for a in range(k):
            scale[a] = math.sqrt(max(info[free[a], free[a]], 1e-12))
        for a in range(k):
            rhs[a] /= scale[a]
            for b in range(k):
                small[a, b] /= scale[a] * scale[b]
        values, vectors = np.linalg.eigh(small)
        # Directions in which the posterior is not curved downwards yet: go uphill by about one standard deviation.
        for a in range(k):
            if not exact:
                values[a] = max(values[a], 1e-9)
            elif values[a] < 1e-3:
                values[a] = max(abs(values[a]), 0.05)
        if turn == rounds:
            fixed = (vectors * values) @ vectors.T
            for a in range(k):
                for b in range(k):
                    h[free[a], free[b]] = fixed[a, b] * scale[a] * scale[b]
            break
        step = vectors @ ((vectors.T @ rhs) / values)
        gain = (step * rhs).sum()
        # Few photons: no longer than three standard deviations at a time, beyond which curvatures are others.
        length = math.sqrt((step**2).sum())
        if exact and length > 3.0:
            step *= 3.0 / length
        accepted = False
        for _ in range(6):
            shift = np.zeros(PARAMETERS)
            for a in range(k):
                shift[free[a]] = step[a] / scale[a]
            v = turned(u, shift[0], shift[1], shift[2])
            y = x + shift
            y[:3] = 0.0
            y[9] = min(max(y[9], -12.0), 6.0)
            new = _slopes(v, y, prior, view, other, scrap)
            if new > value - 1e-9:
                accepted = True
                break
            step *= 0.35
        if accepted:
            u, x, value = v, y, new
            g[:] = other
            info[:] = scrap
        if not accepted or gain < enough:
            # Converged: one more pass for the second derivatives only.
            if not accepted:
                value = _slopes(u, x, prior, view, g, info)
            rounds = turn + 1
    return u, x, value, h


@lru_cache(maxsize=8)
def _points(dimensions: int) -> tuple[FloatArray, FloatArray]:
    """Points (POINTS, dimensions) of a standard Student distribution by a Halton sequence, and its log density there."""
    uniform = qmc.Halton(dimensions + 1, scramble=False).random(POINTS + 1)[1:]
    normal = scipy.special.ndtri(uniform[:, :dimensions])
    chi2 = scipy.stats.chi2.ppf(uniform[:, dimensions], FREEDOM)
    z = normal / np.sqrt(chi2 / FREEDOM)[:, None]
    q = (z**2).sum(axis=1)
    log_density = (
        math.lgamma(0.5 * (FREEDOM + dimensions)) - math.lgamma(0.5 * FREEDOM)
        - 0.5 * dimensions * math.log(FREEDOM * math.pi) - 0.5 * (FREEDOM + dimensions) * np.log1p(q / FREEDOM)
    )  # fmt: skip
    return np.ascontiguousarray(z), np.asarray(log_density)


@njit(cache=True)
def _posterior_at(
    u: FloatArray,
    x: FloatArray,
    shifts: FloatArray,
    prior: Prior,
    view: View,
) -> FloatArray:
    out = np.empty(shifts.shape[0])
    slope = np.empty(PARAMETERS)
    for i in range(shifts.shape[0]):
        s = shifts[i]
        v = turned(u, s[0], s[1], s[2])
        y = x + s
        y[:3] = 0.0
        y[9] = min(max(y[9], -12.0), 12.0)
        out[i] = log_likelihood(v, y, view) + log_prior(v, y, prior, slope)
    return out


def gauss(
    u: FloatArray, value: float, curvature: FloatArray, free: NDArray[np.int64], prior: Prior
) -> tuple[FloatArray, FloatArray, float]:
    """As `weigh`, from the curvature at the maximum alone (Laplace's approximation): right where photons are many."""
    small = curvature[np.ix_(free, free)]
    covariance = np.linalg.inv(small)[:3, :3]
    log_volume = 0.5 * len(free) * math.log(2.0 * math.pi) - 0.5 * float(np.linalg.slogdet(small)[1])
    return u, np.asarray(covariance, dtype=np.float64), value + log_volume + prior.log_norm


def weigh(
    u: FloatArray,
    x: FloatArray,
    curvature: FloatArray,
    free: NDArray[np.int64],
    prior: Prior,
    view: View,
) -> tuple[FloatArray, FloatArray, float]:
    """Posterior mean (3, 3), covariance of the rotation vector (3, 3) and log evidence around a maximum.

    Importance sampling with a Student distribution of the maximum's curvature (Geweke 1989, Econometrica 57, 1317): at few
    photons the posterior is no Gaussian.
    """
    z, log_density = _points(len(free))
    root = np.linalg.cholesky(np.linalg.inv(curvature[np.ix_(free, free)]))
    root = 1.1 * root
    shifts = np.zeros((POINTS, PARAMETERS))
    shifts[:, free] = z @ root.T
    value = _posterior_at(u, x, shifts, prior, view)
    log_weight = value - log_density + np.log(np.diag(root)).sum()
    top = float(log_weight.max())
    weight = np.exp(log_weight - top)
    evidence = top + math.log(float(weight.mean())) + prior.log_norm
    weight /= weight.sum()
    w = shifts[:, :3]
    mean = weight @ w
    covariance = (w - mean).T @ (weight[:, None] * (w - mean))
    return turned(u, *mean), np.asarray(covariance, dtype=np.float64), evidence
