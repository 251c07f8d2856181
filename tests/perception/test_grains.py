"""Grains: lists with a known truth, the likelihood against a plain optimiser, the joint fit against the single one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from lauepilot.bench.grains import matched, mixture
from lauepilot.perception.grains.find import _em, index_grains
from lauepilot.perception.grains.fit import Pairs, fit_together
from lauepilot.perception.indexing.indexer import Indexer, IndexingError
from lauepilot.perception.indexing.refine import GeometryPrior, refine
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import random_rotation, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import predict_spots
from lauepilot.simulator.orientation import misorientation

INDEXERS: dict[tuple[str, str], Indexer] = {}


def indexer(crystal: str, instrument: str) -> Indexer:
    key = (crystal, instrument)
    if key not in INDEXERS:
        INDEXERS[key] = Indexer(load_crystal(crystal), load_instrument(instrument))
    return INDEXERS[key]


def listed(pixels, counts, sigma_px=0.3) -> SpotList:
    n = len(pixels)
    return SpotList(
        pixels, np.tile(np.eye(2) * sigma_px**2, (n, 1, 1)), counts, np.sqrt(counts), np.zeros(n, bool)
    )


@pytest.mark.parametrize(("crystal", "instrument"), [("si", "lab"), ("quartz", "bm32")])
def test_one_grain_among_false_spots_is_one(crystal: str, instrument: str) -> None:
    ix, rng = indexer(crystal, instrument), np.random.default_rng(1)
    for _ in range(3):
        (u,), spots = mixture(ix, np.ones(1), 0.6, rng)
        (grain,) = index_grains(ix, spots)
        assert misorientation(grain.orientation.u, u, ix.crystal.symmetry) < np.deg2rad(0.1)
        assert grain.share == 1.0 and grain.share_sigma < 1e-12


def test_a_grain_is_found_under_any_wide_prior() -> None:
    """The detector stands 7 mm from its drawing; the prior is wide, but not the one that is meant for drawings."""
    ix, rng = indexer("quartz", "bm32"), np.random.default_rng(3)
    (u,), spots = mixture(ix, np.ones(1), 0.3, rng)
    drawn = ix.instrument.detector.moved(-7.0, 50.0, 60.0, 0.01, -0.01)
    (grain,) = index_grains(ix, spots, drawn, prior=GeometryPrior(9.0, 7.0, 1.2))
    assert misorientation(grain.orientation.u, u, ix.crystal.symmetry) < np.deg2rad(1.0)


@pytest.mark.parametrize(("crystal", "instrument"), [("si", "lab"), ("quartz", "bm32")])
def test_mixtures_are_taken_apart(crystal: str, instrument: str) -> None:
    """Three grains, 1 : 0.5 : 0.15, and a third false: all are there, none is invented, volumes within three errors."""
    ix, rng = indexer(crystal, instrument), np.random.default_rng(2)
    volumes = np.array([1.0, 0.5, 0.15])
    for _ in range(2):
        truth, spots = mixture(ix, volumes, 0.3, rng)
        grains = index_grains(ix, spots)
        which = matched(ix, truth, grains)
        assert sorted(which) == [0, 1, 2]
        assert [len(g.refinement.spot) for g in grains] == sorted(
            (len(g.refinement.spot) for g in grains), reverse=True
        )
        for grain, k in zip(grains, which, strict=True):
            assert grain.confidence > 0.99
            assert abs(grain.share - volumes[k] / volumes.sum()) < 3.0 * grain.share_sigma
        assert sum(g.share for g in grains) == pytest.approx(1.0)


def test_no_more_grains_than_asked_for() -> None:
    ix, rng = indexer("si", "lab"), np.random.default_rng(3)
    truth, spots = mixture(ix, np.array([1.0, 0.7, 0.5]), 0.1, rng)
    grains = index_grains(ix, spots, most=2)
    assert len(grains) == 2
    assert -1 not in matched(ix, truth, grains)
    with pytest.raises(IndexingError, match="At least one grain"):
        index_grains(ix, spots, most=0)


def test_false_spots_hold_no_grain() -> None:
    ix, rng = indexer("si", "lab"), np.random.default_rng(4)
    for _ in range(3):
        pixels = rng.random((120, 2)) * 999
        assert index_grains(ix, listed(pixels, rng.lognormal(8.0, 1.0, 120))) == ()


def test_a_spot_may_belong_to_two_grains() -> None:
    """Two grains with a common axis: the spot of that axis is both's."""
    ix, rng = indexer("si", "lab"), np.random.default_rng(5)
    u = random_rotation(rng)
    spots = predict_spots(ix.table, u)
    brightest = ix.table.direction[spots.ray[np.argmax(spots.rate_per_s)]] @ u.T
    other = rotation_matrix(np.deg2rad(25.0) * brightest) @ u
    parts = [predict_spots(ix.table, v) for v in (u, other)]
    pixels, counts = (np.concatenate([getattr(p, f) for p in parts]) for f in ("pixels", "rate_per_s"))
    shared = int(np.argmax(parts[0].rate_per_s))
    gap = np.linalg.norm(parts[1].pixels - parts[0].pixels[shared], axis=1)
    twice = len(parts[0].pixels) + int(np.argmin(gap))
    counts[shared] += counts[twice]
    pixels, counts = np.delete(pixels, twice, axis=0), 1e3 * np.delete(counts, twice)
    grains = index_grains(ix, listed(pixels + 0.2 * rng.normal(size=pixels.shape), counts, 0.2))
    assert len(grains) == 2
    assert all(shared in grain.refinement.spot for grain in grains)
    both = sum(float(g.belongs[list(g.refinement.spot).index(shared)]) for g in grains)
    assert both == pytest.approx(1.0, abs=0.01)


def test_the_pose_is_common_to_all_grains() -> None:
    """A pose 0.4 mm, 0.4 mm, 0.3 degrees off comes back with the grains: predictions to a third of a pixel."""
    ix, rng = indexer("si", "lab"), np.random.default_rng(6)
    true = ix.instrument.detector.moved(0.4, 4.0, -4.0, 0.005, -0.005)
    truth = [random_rotation(rng) for _ in range(2)]
    parts = [predict_spots(ix.table, u, true) for u in truth]
    pixels, counts = (np.concatenate([getattr(p, f) for p in parts]) for f in ("pixels", "rate_per_s"))
    spots = listed(pixels + 0.2 * rng.normal(size=pixels.shape), 1e3 * counts, 0.2)
    grains = index_grains(ix, spots, prior=GeometryPrior(0.5, 0.5, 0.5))
    assert len(grains) == 2
    for grain in grains:
        assert grain.refinement.mean_residual_px < 0.35
        assert grain.refinement.detector is grains[0].refinement.detector
        assert len(grain.refinement.spot) > 0.9 * min(len(p) for p in parts)


def test_em_reaches_the_maximum_of_the_likelihood() -> None:
    """The same maximum as a plain optimiser finds over the shares of grains and of false spots."""
    rng = np.random.default_rng(7)
    density = rng.exponential(1.0, (2, 80)) * (rng.random((2, 80)) < 0.4) * 30.0
    visible = np.array([40.0, 35.0])

    def less(x):
        found, false = x[:2], x[2]
        return -(np.log(false + found @ density).sum() + 80 - found @ visible - 80 * false)

    best = minimize(less, [0.5, 0.5, 0.5], bounds=[(1e-4, 1.0), (1e-4, 1.0), (1e-3, 1.0)])
    total, belongs, false = _em(density, visible, rounds=200)
    assert total == pytest.approx(-best.fun, abs=1e-3)
    assert false == pytest.approx(best.x[2], abs=1e-3)
    assert np.all(belongs.sum(axis=0) <= 1.0 + 1e-12)


def test_joint_fit_of_one_grain_is_the_single_fit() -> None:
    ix, rng = indexer("si", "lab"), np.random.default_rng(8)
    u = random_rotation(rng)
    there = predict_spots(ix.table, u)
    spots = listed(there.pixels + 0.3 * rng.normal(size=there.pixels.shape), 1e3 * there.rate_per_s)
    detector, prior = ix.instrument.detector, GeometryPrior(0.5, 0.5, 0.5)
    single = refine(ix.table, u, detector, spots, prior=prior, tolerance_px=4.0)
    pairs = Pairs(u, np.zeros((3, 3)), single.spot, single.ray, np.ones(len(single.spot)))
    (joint,), pose, sigma = fit_together(ix.table.direction, [pairs], spots, detector, detector, prior, 0.0)
    assert np.rad2deg(misorientation(joint.u, single.u, np.eye(3)[None])) < 0.02
    assert pose.distance_mm == pytest.approx(single.detector.distance_mm, abs=3 * single.geometry_sigma[0])
    np.testing.assert_allclose(sigma, single.geometry_sigma, rtol=0.3)
    np.testing.assert_allclose(
        np.sqrt(np.diag(joint.covariance)), np.sqrt(np.diag(single.covariance)), rtol=0.3
    )
