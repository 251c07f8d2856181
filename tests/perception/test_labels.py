"""Indexed patterns under other labels: every spot keeps its plane, and the target's own indices lie where it wants them."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.perception.indexing.indexer import IndexResult
from lauepilot.perception.indexing.labels import labelled_like, relabelled
from lauepilot.perception.indexing.refine import Refinement
from lauepilot.simulator.conventions import random_rotation, rotation_angle
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation, misorientation


@pytest.fixture(scope="module")
def indexed():
    """A pattern of strained quartz, indexed; written out by hand, since only names matter here."""
    rng = np.random.default_rng(3)
    crystal, detector = load_crystal("quartz"), load_instrument("bm32").detector
    u, strain = random_rotation(rng), 1e-4 * rng.normal(size=(3, 3))
    strain = strain + strain.T - np.trace(strain) * 2 / 3 * np.eye(3)
    hkl = np.array([(1, 0, 1), (0, 2, -1), (3, -1, 2), (-2, 4, 1), (0, 0, 3)])
    n = np.arange(len(hkl))
    fit = Refinement(
        u, detector, strain, np.eye(3) * 1e-8, np.zeros(5), 0.0, n, n, hkl, np.zeros((len(n), 2))
    )
    orientation = Orientation(u, (np.eye(3) + strain) @ crystal.b, fit.covariance)
    other = Orientation(random_rotation(rng), crystal.b, fit.covariance)
    return crystal, IndexResult(orientation, 0.99, 50.0, 60, fit, (other,))


def test_every_spot_keeps_its_plane(indexed):
    crystal, before = indexed
    assert before.refinement.strain.any()
    for s in crystal.symmetry:
        after = relabelled(before, s, crystal.b)
        q_before = before.refinement.hkl @ before.orientation.ub.T
        q_after = after.refinement.hkl @ after.orientation.ub.T
        np.testing.assert_allclose(q_after, q_before, atol=1e-9)
        # by the fit's own numbers: U, strain and the CIF's B
        strained = (np.eye(3) + after.refinement.strain) @ crystal.b
        np.testing.assert_allclose(
            after.refinement.hkl @ (after.refinement.u @ strained).T, q_before, atol=1e-9
        )
        np.testing.assert_array_equal(after.orientation.covariance, before.orientation.covariance)
        u, other = after.alternatives[0].u, before.alternatives[0].u
        assert misorientation(u, other, crystal.symmetry) < 1e-7


def test_labels_follow_another_orientation(indexed):
    crystal, before = indexed
    for s in crystal.symmetry:
        wanted = before.orientation.u @ s
        after = labelled_like(before, wanted, crystal)
        assert rotation_angle(after.orientation.u @ wanted.T) < 1e-9
        assert rotation_angle(after.refinement.u @ wanted.T) < 1e-6
