"""What is said of a refined strain: a simulation of lists without any, pose held and free, few spots and many."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.perception.indexing.refine import GeometryPrior, predict_pixels, refine, strained
from lauepilot.perception.indexing.strain import strain_chance
from lauepilot.perception.observation import SpotList
from lauepilot.perception.observer import USUAL_PRIOR
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import cached_table, predict_spots

NOISE_PX = 0.1


def chances(n: int, prior: GeometryPrior, strain: float, lists: int) -> np.ndarray:
    """What is said of so many lists of ``n`` spots of silicon, the pose drawn from the prior."""
    table = cached_table(load_crystal("si"), load_instrument("lab"), 1e-3)
    detector, rng = table.instrument.detector, np.random.default_rng(2)
    said = []
    for _ in range(lists):
        u = random_rotation(rng)
        true = detector if prior.known else detector.moved(*(prior.sigmas(detector) * rng.normal(size=5)))
        spots = predict_spots(table, u)
        some = rng.permutation(np.argsort(-spots.rate_per_s)[:40])[:n]
        rays = strained(table.direction[spots.ray[some]], np.diag([strain, -strain, 0.0]))
        pixels = predict_pixels(u, rays, true) + rng.normal(0.0, NOISE_PX, (n, 2))
        covariance = np.tile(NOISE_PX**2 * np.eye(2), (n, 1, 1))
        listed = SpotList(pixels, covariance, np.full(n, 1e3), np.full(n, 30.0), np.zeros(n, bool))
        fit = refine(table, u, detector, listed, start=true, prior=prior, cell_sigma=0.1, tolerance_px=3.0)
        said.append(strain_chance(table.crystal, fit))
    return np.array(said)


@pytest.mark.parametrize(
    ("n", "prior"),
    [(10, GeometryPrior()), (10, USUAL_PRIOR), (30, USUAL_PRIOR)],
    ids=["held", "free", "many"],
)
def test_one_in_a_hundred_is_one_in_a_hundred(n: int, prior: GeometryPrior) -> None:
    """Of 200 lists without strain two fall below 0.01; six and more come by chance once in sixty studies."""
    said = chances(n, prior, 0.0, 200)
    assert np.count_nonzero(said < 0.01) < 6
    assert np.count_nonzero(said < 0.05) < 18
    # Nor is it said of everything that chance makes it; the prior's pull on ten spots costs something.
    assert 0.2 < np.mean(said < 0.5) < 0.6


def test_a_strain_that_is_there_is_told() -> None:
    assert np.mean(chances(30, USUAL_PRIOR, 3e-3, 20) < 1e-3) > 0.8
    assert np.mean(chances(30, GeometryPrior(), 1e-3, 20) < 1e-3) > 0.9


def test_no_strain_no_claim() -> None:
    table = cached_table(load_crystal("si"), load_instrument("lab"), 1e-3)
    u = random_rotation(np.random.default_rng(1))
    spots = predict_spots(table, u)
    n = len(spots)
    listed = SpotList(
        spots.pixels, np.tile(0.01 * np.eye(2), (n, 1, 1)), spots.rate_per_s, np.ones(n), np.zeros(n, bool)
    )
    assert strain_chance(table.crystal, refine(table, u, table.instrument.detector, listed)) == 1.0
