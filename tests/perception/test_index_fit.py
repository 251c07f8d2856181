"""The compiled Gauss-Newton of `refine` against the same thing written plainly: numpy, k-d trees, one step after another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lauepilot.perception.indexing import errors
from lauepilot.perception.indexing.gauss_newton import TUKEY
from lauepilot.perception.indexing.refine import (
    GeometryPrior,
    pose_difference,
    predict_pixels,
    refine,
    strained,
)
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import random_rotation, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import RayTable, predict_spots

#: Steps for derivatives: rotation (rad), geometry (mm, px, px, rad, rad), strain.
_STEPS = np.array([1e-6] * 3 + [1e-4, 1e-3, 1e-3, 1e-6, 1e-6] + [1e-6] * 5)


def plain_refine(table, u, detector, spots, start=None, prior=None, cell_sigma=0.0, **how):
    """Orientation, parameters, matches, residuals and covariance."""
    tolerance_px, strongest, rounds = (
        how.get("tolerance_px", 5.0),
        how.get("strongest"),
        how.get("rounds", 12),
    )
    free = np.zeros(13, dtype=bool)
    free[:3] = True
    prior_sigma = np.zeros(13)
    if prior is not None and not prior.known:
        prior_sigma[3:8] = prior.sigmas(detector)
        free[3:8] = prior_sigma[3:8] > 0.0
    if cell_sigma > 0.0:
        free[8:] = True
        prior_sigma[8:] = cell_sigma
    index = np.flatnonzero(free)
    p = np.zeros(13)
    if start is not None and start is not detector:
        p[3:8] = pose_difference(detector, start)
    u_now = np.array(u, dtype=float)
    tolerance = tolerance_px
    weight_sigma = np.sqrt(np.maximum(np.trace(spots.covariance_px2, axis1=1, axis2=2) / 2.0, 1e-4))
    pairs = _match(table, u_now, p, detector, spots, tolerance, strongest)
    scatter = tolerance
    for turn in range(rounds):
        if len(pairs[0]) < 3:
            break
        residual, jacobian = _linearise(table, u_now, p, detector, spots, pairs, index)
        sigma = np.maximum(weight_sigma[pairs[0]], 0.05)
        scaled = np.linalg.norm(residual, axis=1) / sigma
        scale = max(float(1.4826 * np.median(scaled) / 1.1774 / 1.2), 1.0)
        weight = np.clip(1.0 - (scaled / (TUKEY * scale)) ** 2, 0.0, None) ** 2 / (sigma * scale) ** 2
        a = np.einsum("kim,k,kin->mn", jacobian, weight, jacobian)
        b = np.einsum("kim,k,ki->m", jacobian, weight, residual)
        pull = np.where(prior_sigma[index] > 0.0, 1.0 / np.maximum(prior_sigma[index], 1e-12) ** 2, 0.0)
        step = np.linalg.solve(a + np.diag(pull + 1e-12 * np.diag(a) + 1e-30), b - pull * p[index])
        u_now = rotation_matrix(step[:3]) @ u_now
        p[index[3:]] += step[3:]
        scatter = scale * float(np.median(sigma))
        before = pairs
        tolerance = max(min(tolerance * 0.6, tolerance_px), 4.0 * scatter, 1.0)
        limit = None if strongest is None or turn >= rounds // 2 else int(strongest * 1.5 ** (turn + 1))
        pairs = _match(table, u_now, p, detector, spots, tolerance, limit)
        # A hundredth of the best error bars, and the same spots: nothing more will come.
        settled = np.abs(step[:3]).max() < 1e-6 and np.array_equal(before[0], pairs[0])
        if settled and limit is None and turn > 1:
            break
    pairs = _match(table, u_now, p, detector, spots, tolerance, None)
    residual, jacobian = _linearise(table, u_now, p, detector, spots, pairs, index)
    covariance = np.full((len(index), len(index)), np.nan)
    if len(pairs[0]) >= 3:
        pull = np.where(prior_sigma[index] > 0.0, 1.0 / np.maximum(prior_sigma[index], 1e-12) ** 2, 0.0)
        own = weight_sigma[pairs[0]] ** 2
        for _ in range(8):
            residual, jacobian = _linearise(table, u_now, p, detector, spots, pairs, index)
            distance2 = np.sum(residual**2, axis=1)
            extra = plain_model_error(distance2, own)
            variance = own + extra**2
            weight = np.clip(1.0 - distance2 / variance / TUKEY**2, 0.0, None) ** 2
            a = np.einsum("kim,k,kin->mn", jacobian, weight / variance, jacobian)
            b = np.einsum("kim,k,ki->m", jacobian, weight / variance, residual)
            step = np.linalg.solve(a + np.diag(pull + 1e-12 * np.diag(a) + 1e-30), b - pull * p[index])
            u_now = rotation_matrix(step[:3]) @ u_now
            p[index[3:]] += step[3:]
            if np.abs(step[:3]).max() < 1e-8:
                break
        residual, jacobian = _linearise(table, u_now, p, detector, spots, pairs, index)
        chi2 = np.sum(weight * np.sum(residual**2, axis=1) / variance)
        degrees = max(2.0 * weight.sum() - len(index), 1.0)
        chi2 /= errors._DISTANCE * degrees
        student = degrees / max(degrees - 2.0, 1.0) if extra > 0.0 or chi2 > 1.0 else 1.0
        weight = weight / (variance * errors._VARIANCE * max(chi2, 1.0) * student)
        covariance = np.linalg.pinv(np.einsum("kim,k,kin->mn", jacobian, weight, jacobian) + np.diag(pull))
    return u_now, p, pairs, residual, covariance


def plain_model_error(distance2, own):
    """The most likely one of those that are tried, if it is likelier than none by more than `errors.GAIN`."""
    tried = np.concatenate([[0.0], errors.MODEL_PX])
    variance = own + tried[:, None] ** 2
    likelihood = -np.sum(np.log(variance) + 0.5 * np.minimum(distance2 / variance, 16.0), axis=1)
    likelihood[0] += errors.GAIN
    return tried[np.argmax(likelihood)]


def _match(table, u, p, detector, spots, tolerance, strongest):
    """Spots and rays that are each other's nearest within ``tolerance`` pixels."""
    strain = strain_of(p)
    directions = strained(table.direction, strain) if strain.any() else table.direction
    rays = np.flatnonzero(directions @ u[2] < -table.sin_theta_min)
    where = posed(detector, p)
    pixels = predict_pixels(u, directions[rays], where)
    seen = where.sees(pixels)
    rays, pixels = rays[seen], pixels[seen]
    s = -directions[rays] @ u[2]
    node = np.clip(
        np.rint((s - table.sin_theta_min) / table.sin_theta_step).astype(int), 0, table.rate.shape[1] - 1
    )
    rate = table.rate[rays, node]
    rays, pixels, rate = rays[rate > 0], pixels[rate > 0], rate[rate > 0]
    if strongest is not None:
        keep = np.sort(np.argsort(-rate)[:strongest])
        rays, pixels = rays[keep], pixels[keep]
    if len(rays) == 0 or len(spots) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    to_ray, ray = cKDTree(pixels).query(spots.pixels)
    _, back = cKDTree(spots.pixels).query(pixels)
    mutual = np.flatnonzero((to_ray <= tolerance) & (back[ray] == np.arange(len(spots))))
    return mutual, rays[ray[mutual]]


def _linearise(table, u, p, detector, spots, pairs, index):
    """Residuals (k, 2), found minus predicted, and derivatives (k, 2, m) of the prediction."""
    base = table.direction[pairs[1]]

    def pixels(q):
        strain = strain_of(q)
        directions = strained(base, strain) if strain.any() else base
        turn = rotation_matrix(q[:3]) @ u if q[:3].any() else u
        return predict_pixels(turn, directions, posed(detector, q))

    start = p.copy()
    start[:3] = 0.0
    predicted = pixels(start)
    columns = []
    for i in index:
        q = start.copy()
        q[i] += _STEPS[i]
        columns.append((pixels(q) - predicted) / _STEPS[i])
    return spots.pixels[pairs[0]] - predicted, np.stack(columns, axis=2)


def strain_of(p):
    a, b, c, d, e = p[8:]
    return np.array([[a, c, d], [c, b, e], [d, e, -a - b]])


def posed(detector, p):
    return detector.moved(**dict(zip(GEOMETRY_PARAMETERS, (float(x) for x in p[3:8]), strict=True)))


def half_a_pattern(table, u, rng):
    """Half of the spots, half a pixel off, and as many that are nowhere in the pattern."""
    spots = predict_spots(table, u)
    n = len(spots) // 2
    rows, cols = table.instrument.detector.shape
    found = spots.pixels[rng.permutation(len(spots))[:n]] + 0.5 * rng.normal(size=(n, 2))
    pixels = np.concatenate([found, rng.random((n, 2)) * [cols, rows]])
    counts = rng.lognormal(6.0, 1.0, len(pixels))
    covariance = np.tile(0.25 * np.eye(2), (len(pixels), 1, 1))
    return SpotList(pixels, covariance, counts, np.sqrt(counts), np.zeros(len(pixels), bool))


LOOSE = GeometryPrior(0.5, 0.5, 0.5)


@pytest.mark.parametrize("place", ["lab", "bm32", "koala"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"prior": LOOSE},
        {"prior": LOOSE, "cell_sigma": 1e-3},
        {"prior": LOOSE, "strongest": 30, "tolerance_px": 12.0},
        {"rounds": 1},
    ],
)
def test_compiled_fit_equals_the_plain_one(place, how):
    table = RayTable.build(load_crystal("quartz"), load_instrument(place))
    detector = table.instrument.detector
    rng = np.random.default_rng(31)
    for start in (None, detector.moved(0.2, 1.0, -1.0, 1e-3, 2e-3)):
        u = random_rotation(rng)
        spots = half_a_pattern(table, u, rng)
        near = rotation_matrix(1e-3 * rng.normal(size=3)) @ u
        given = how if start is None or "prior" not in how else {**how, "start": start}
        plain_u, p, pairs, residual, covariance = plain_refine(table, near, detector, spots, **given)
        fit = refine(table, near, detector, spots, **given)
        np.testing.assert_array_equal(fit.spot, pairs[0])
        np.testing.assert_array_equal(fit.ray, pairs[1])
        np.testing.assert_allclose(fit.u, plain_u, atol=1e-9)
        np.testing.assert_allclose(pose_difference(detector, fit.detector), p[3:8], atol=1e-6)
        np.testing.assert_allclose(fit.residual_px, residual, atol=1e-6)
        np.testing.assert_allclose(fit.covariance, covariance[:3, :3], rtol=1e-4)


def test_without_a_match_the_fit_says_so():
    table = RayTable.build(load_crystal("si"), load_instrument("lab"))
    u = random_rotation(np.random.default_rng(32))
    spots = half_a_pattern(table, u, np.random.default_rng(33)).take(slice(0, 2))
    fit = refine(table, u, table.instrument.detector, spots, tolerance_px=3.0)
    assert len(fit.spot) <= 2
    assert np.all(np.isnan(fit.covariance))


def test_constants_of_weighted_normal_errors():
    """What Tukey's weights do to normal errors in two dimensions: a million of them."""
    q = 2.0 * np.random.default_rng(34).exponential(size=1_000_000)
    t = np.clip(1.0 - q / TUKEY**2, 0.0, None) ** 2
    slope = -2.0 * np.clip(1.0 - q / TUKEY**2, 0.0, None) / TUKEY**2
    assert (q * t).mean() / (2.0 * t.mean()) == pytest.approx(errors._DISTANCE, abs=2e-3)
    variance = 0.5 * (q * t**2).mean() / (t + q * slope).mean() ** 2
    assert variance * t.mean() == pytest.approx(errors._VARIANCE, abs=3e-3)


def test_error_of_the_model_is_found_among_unequal_spots():
    """Bright spots (0.02 px) and faint ones (0.5 px): an error common to all shows in the bright, none is invented."""
    rng = np.random.default_rng(35)
    own = np.repeat([0.02**2, 0.5**2], 40)
    found = {}
    for true in (0.0, 0.1):
        tries = []
        for _ in range(100):
            residual = rng.normal(size=(80, 2)) * np.sqrt(own + true**2)[:, None]
            residual[:4] = rng.uniform(-4, 4, (4, 2))  # false matches
            tries.append(errors.model_error(np.sum(residual**2, axis=1), own))
        found[true] = tries
    assert np.mean(np.array(found[0.0]) < 0.015) > 0.9
    assert np.median(found[0.1]) == pytest.approx(0.1, rel=0.3)
