"""Clumps strewn over the detector: what is kept, and that another crystal's photons are not taken for this one's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lauepilot.perception.photons.indexer import PhotonIndexer
from lauepilot.perception.photons.strew import sparse, strewn
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import RayTable, predict_spots
from lauepilot.simulator.orientation import misorientation


def clumps(counts):
    labels, n = ndimage.label(ndimage.binary_dilation(counts > 0, iterations=3), structure=np.ones((3, 3)))
    return sorted(ndimage.sum_labels(counts, labels, range(1, n + 1)))


def test_clumps_keep_their_photons_and_their_shape():
    rng = np.random.default_rng(1)
    counts = np.zeros((400, 500), dtype=int)
    stamp = np.array([[0, 2, 0], [1, 5, 1], [0, 0, 3]])
    for row, col in ((50, 60), (200, 300), (333, 420)):
        counts[row : row + 3, col : col + 3] = stamp
    counts[100, 100] = counts[390, 10] = 1
    live = np.ones(counts.shape, dtype=bool)
    live[:, 250:260] = False
    out = strewn(counts, live, rng)
    assert clumps(out) == clumps(counts) == [1, 1, 12, 12, 12]
    assert not out[~live].any()
    assert not np.array_equal(out, counts)
    rows, cols = np.nonzero(out == 5)
    for row, col in zip(rows, cols, strict=True):
        np.testing.assert_array_equal(out[row - 1 : row + 2, col - 1 : col + 2], stamp)


def test_nothing_and_too_much():
    live = np.ones((60, 60), dtype=bool)
    assert not strewn(np.zeros((60, 60), dtype=int), live, np.random.default_rng(1)).any()
    assert sparse(np.zeros((60, 60)), live)
    assert not sparse(np.ones((60, 60)), live)


@pytest.fixture(scope="module")
def silicon():
    return PhotonIndexer(load_crystal("si"), load_instrument("lab"))


def faint(name, signal, background, seed):
    """Photons of a crystal drawn spot by spot, none of the indexer's code: (orientation, frame)."""
    rng = np.random.default_rng(seed)
    instrument = load_instrument("lab")
    axes = rng.normal(size=(3, 3))
    u, _ = np.linalg.qr(axes)
    u *= np.sign(np.linalg.det(u))
    spots = predict_spots(RayTable.build(load_crystal(name), instrument, min_relative=1e-3), u)
    which = rng.choice(len(spots), size=signal, p=spots.rate_per_s / spots.rate_per_s.sum())
    at = np.concatenate(
        [spots.pixels[which] + rng.normal(0.0, 1.6, (signal, 2)), rng.uniform(0, 999, (background, 2))]
    )
    col, row = np.rint(at).astype(int).clip(0, 999).T
    counts = np.zeros(instrument.detector.shape, dtype=int)
    np.add.at(counts, (row, col), 1)
    return u, np.where(instrument.detector.mask(), counts, 0)


@pytest.mark.parametrize("seed", range(2))
def test_the_right_crystal_stands_out_of_its_strewn_clumps(silicon, seed):
    u, counts = faint("si", 40, 40, seed)
    result = silicon.compare(silicon.index(counts), counts, np.random.default_rng(0))
    assert result.verdict == "sure"
    assert result.llr > 1.3 * result.strewn_llr > 0.0
    assert misorientation(result.orientation.u, u, silicon.crystal.symmetry) < np.deg2rad(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_photons_of_another_crystal_are_not_taken_for_this_ones(silicon, seed):
    _, counts = faint("quartz", 150, 300, 10 + seed)
    result = silicon.compare(silicon.index(counts), counts, np.random.default_rng(0))
    assert result.verdict == "unsure"
