"""The axis vote against counting by hand, and the search where its shortcuts do not help."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.perception.indexing import indexer as indexer_module
from lauepilot.perception.indexing.catalogue import ANGLE_SHIFT, TURN
from lauepilot.perception.indexing.doubt import DOUBTFUL
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.indexing.search import BAND
from lauepilot.perception.indexing.sphere import on_sphere, widest_angle
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import random_rotation
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
    covariance = np.tile(sigma_px**2 * np.eye(2), (len(pixels), 1, 1))
    return SpotList(pixels, covariance, counts, np.sqrt(counts), np.zeros(len(pixels), bool))


@pytest.mark.parametrize(("crystal", "place"), [("quartz", "lab"), ("si", "koala")])
def test_pair_lists_hold_every_ray_in_reach_where_it_belongs(crystal: str, place: str) -> None:
    ix = indexer(crystal, place)
    pairs, direction = ix.catalogue.pairs, ix.table.direction
    voters = ix.catalogue.pairs.representative.max() + 1
    widest = widest_angle(ix.instrument.detector)
    for a in (0, 3, len(pairs.representative) - 1):
        axis = direction[pairs.representative[a]]
        entries = pairs.entry[pairs.row[a] : pairs.row[a + 1]].astype(np.int64)
        bins = np.repeat(np.arange(pairs.first.shape[1] - 1), np.diff(pairs.first[a].astype(int)))
        rays = direction[entries >> 16]
        angle = np.arccos(np.clip(rays @ axis, -1.0, 1.0))
        np.testing.assert_allclose((bins + 0.5) * np.pi * 2**ANGLE_SHIFT / TURN, angle, atol=2e-3)
        local = rays @ pairs.axes[a]
        away = np.exp(1j * (np.arctan2(local[:, 1], local[:, 0]) - (entries & (TURN - 1)) * 2 * np.pi / TURN))
        across = np.hypot(local[:, 0], local[:, 1]) > 1e-6
        np.testing.assert_allclose(away[across], 1.0, atol=2e-4)
        near = np.flatnonzero(np.arccos(np.clip(direction[:voters] @ axis, -1.0, 1.0)) < widest)
        assert set(near.tolist()) <= set((entries >> 16).tolist())


def test_widest_angle_is_that_of_two_corners() -> None:
    """Back reflection, square: the opposite corners; 45 degrees between rays make 22.5 between normals."""
    detector = indexer("quartz", "lab").instrument.detector
    rows, cols = detector.shape
    corners = detector.pixels_to_rays(np.array([[0, 0], [cols - 1, rows - 1]]))
    between_rays = np.arccos(corners[0] @ corners[1])
    assert widest_angle(detector) == pytest.approx(0.5 * between_rays, rel=0.2)


def test_intensities_that_say_nothing_cost_time_not_the_answer() -> None:
    """Counts drawn at random, far beyond the band in which the first pass trusts them: the second pass finds it."""
    ix = indexer("quartz", "lab")
    rng = np.random.default_rng(41)
    for _ in range(8):
        u = random_rotation(rng)
        spots = predict_spots(ix.table, u)
        counts = np.exp(6.0 + 4.0 * BAND * rng.normal(size=len(spots)))
        pixels = spots.pixels + 0.3 * rng.normal(size=spots.pixels.shape)
        sphere = on_sphere(listed(pixels, counts), ix.instrument.detector, GeometryPrior())
        order = np.argsort(-counts)[:60]
        found = ix.candidates(sphere.take(order)._replace(density=sphere.density[order] * 60 / len(counts)))
        best = found.u[np.argmax(found.score)]
        # Its twin about c has most spots in the same places; which of the two it is is decided afterwards, by name.
        related = [best, *(best @ ix.catalogue.impostors)]
        assert min(misorientation(r, u, ix.crystal.symmetry) for r in related) < 5e-3


def test_a_search_cut_short_is_never_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    ix = indexer("quartz", "lab")
    rng = np.random.default_rng(42)
    spots = predict_spots(ix.table, random_rotation(rng))
    found = listed(spots.pixels, 60 * spots.rate_per_s)
    whole = ix.index(found)
    assert whole.finished and whole.confidence > 0.999
    # False spots alone: nothing ends the search but the limit.
    rows, cols = ix.instrument.detector.shape
    noise = listed(rng.random((80, 2)) * [cols, rows], rng.lognormal(6.0, 1.0, 80))
    assert ix.index(noise).finished
    monkeypatch.setattr(indexer_module, "MOST_WORK", 1)
    cut = ix.index(noise)
    assert not cut.finished
    assert cut.confidence <= DOUBTFUL
