"""The lists that the indexing benchmark draws, and the tables it makes of confidences."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.bench import indexing
from lauepilot.bench.large_cell import CELL_A, large_crystal
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument


def trial(confidence: float, right: bool, tie: bool = False) -> indexing.Trial:
    return indexing.Trial("si", "lab", right, tie, confidence, 0.001)


def test_reliability_counts_every_answer_once() -> None:
    done = [
        trial(0.0, False),
        trial(0.2, True),
        trial(0.95, False, True),
        trial(0.999, True),
        trial(1.0, True),
    ]
    bins = indexing.reliability(done)
    assert sum(b["n"] for b in bins) == len(done)
    assert [(b["from"], b["n"], b["right"]) for b in bins] == [
        (0.0, 2, 0.5),
        (0.9, 1, 1.0),
        (indexing.DECLARED, 2, 1.0),
    ]
    assert bins[0]["mean_confidence"] == pytest.approx(0.1)


def test_short_lists_are_short_and_their_answers_no_surer_than_right() -> None:
    """Forty lists of 6 to 15 silicon spots, some false: of those declared, none is wrong."""
    indexer = Indexer(load_crystal("si"), load_instrument("bm32"))
    lengths = []
    index = indexer.index
    indexer.index = lambda spots: lengths.append(len(spots)) or index(spots)  # type: ignore[method-assign]
    done = indexing.few_spot_trials(indexer, 40)
    assert min(lengths) >= indexing.FEW_SPOTS[0] and max(lengths) <= indexing.FEW_SPOTS[1]
    assert len(set(lengths)) > 5
    assert not any(t.wrong_declared for t in done)
    assert np.mean([t.right for t in done]) > np.mean([t.confidence for t in done]) - 0.05


def test_the_large_cell_is_what_its_figure_says() -> None:
    crystal = large_crystal()
    assert crystal.cell[:3] == pytest.approx(CELL_A)
    assert len(crystal.symmetry) == 4  # the proper rotations of mmm
    h = np.array([[3, 4, 5], [-3, 4, 5], [3, -4, 5], [3, 4, -5]])
    f = np.abs(crystal.structure_factors(h, "neutron")) ** 2
    np.testing.assert_allclose(f, f[0], rtol=1e-4)
