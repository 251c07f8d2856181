"""The Bayes limit against the Cramer-Rao bound where both hold, against itself, and against a plain posterior."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.perception.limits.bayes import _log_rates, _rotations, bayes_limit
from lauepilot.perception.limits.bound import BoundError
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.image import expected_image
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import cached_table


def limit(photons: float, **how: float):
    table = cached_table(load_crystal("si"), load_instrument("lab"), 3e-2)
    u = random_rotation(np.random.default_rng(1))
    return bayes_limit(
        table, u, np.random.default_rng(2), signal_photons=photons, background_photons=photons, frames=24, samples=400, **how
    )  # fmt: skip


def test_many_photons_reach_the_bound_and_few_do_not() -> None:
    many, few = limit(3000.0), limit(6.0)
    assert many.rms_deg / many.bound.rms_deg == pytest.approx(1.0, abs=0.12)
    assert few.rms_deg / few.bound.rms_deg > 1.03
    # Variance of the posterior and error of its mean are two ways to the same number.
    for found in (many, few):
        assert found.rms_error_deg == pytest.approx(found.rms_deg, rel=0.35)


def test_what_is_known_before_limits_the_error() -> None:
    """A ball of 0.05 degrees: fewer photons than one say no more than the ball, whose radius has an rms of sqrt(3/5)."""
    found = limit(0.05, within_deg=0.05)
    assert found.rms_deg == pytest.approx(0.05 * np.sqrt(0.6), rel=0.1)


def test_likelihood_is_that_of_the_simulators_image() -> None:
    detector = load_instrument("lab").detector
    spots = np.array(
        [[480.3, 300.8, 5.0, 0.6, 6.0, np.log(30.0)], [484.0, 306.0, 4.0, 0.0, 4.0, np.log(7.0)]]
    )
    covariances = spots[:, [2, 3, 3, 4]].reshape(-1, 2, 2)
    image = expected_image(detector, spots[:, :2], np.exp(spots[:, 5]), covariances, 1.0).astype(float)
    pixels = np.array([[480.0, 301.0], [484.0, 306.0], [476.0, 303.0]])
    dark = expected_image(detector, np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2, 2)), 1.0).astype(float)
    rows, cols = pixels[:, 1].astype(int), pixels[:, 0].astype(int)
    expected = np.log(image[rows, cols]).sum()
    assert _log_rates(spots, pixels, dark[rows, cols], 0.28, 2.0) == pytest.approx(expected, abs=0.02)


def test_rotations_are_weighted_back_to_the_ball() -> None:
    """Whatever they are drawn from, with their weights they fill the ball evenly."""
    covariance = np.diag([1e-6, 4e-6, 1e-6])
    turns, log_weight = _rotations(covariance, 0.01, 40000, np.random.default_rng(3))
    weight = np.exp(log_weight)
    weight /= weight.sum()
    assert np.abs(weight @ turns).max() < 3e-4
    assert weight @ (turns**2).sum(axis=1) == pytest.approx(0.6 * 0.01**2, rel=0.05)


def test_nonsense_is_refused() -> None:
    with pytest.raises(BoundError, match="above zero"):
        bayes_limit(
            cached_table(load_crystal("si"), load_instrument("lab"), 3e-2),
            np.eye(3), np.random.default_rng(0), signal_photons=10.0, background_photons=0.0,
        )  # fmt: skip
    for angle in (-1.0, 0.0, np.nan):
        with pytest.raises(BoundError, match="within_deg"):
            limit(10.0, within_deg=angle)
