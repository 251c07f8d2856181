"""Answers that explain too little: rows that were measured, and right ones that must not be doubted for it."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.bench.indexing import draw
from lauepilot.perception.indexing import indexer as module
from lauepilot.perception.indexing.doubt import is_doubtful
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import misorientation

#: What a spot in place carries in all rows; scores are given as shares of it.
CARRIED = 8.0


@pytest.mark.parametrize(
    ("explained", "n", "visible", "share", "doubtful"),
    [
        (8, 97, 77.0, 0.9, True),  # FePS3 on a measured list of germanium
        (5, 125, 21.9, 0.85, True),  # NaCl on a list of Ca2RuO4: 0.04 of the spots, 0.23 of the predicted
        (7, 64, 67.5, 0.722, True),  # LSCO on a list of Sr4Ru3O10
        (20, 193, 64.0, 0.633, True),  # SrTiO3 on the same: poorly
        (16, 138, 88.3, 0.72, False),  # FePS3 as itself, 80 % missing and 100 % false: the hardest right ones
        (9, 74, 50.4, 0.786, False),
        (15, 15, 400.0, 0.9, False),  # a weak frame: all of its spots
        (12, 150, 14.0, 0.9, False),  # a small grain of many: all that it predicts
    ],
)
def test_measured_rows(explained: int, n: int, visible: float, share: float, doubtful: bool) -> None:
    assert is_doubtful(explained, n, visible, share * CARRIED * explained, CARRIED) is doubtful


@pytest.mark.parametrize("name", ["feps3", "ca2ruo4"])
def test_right_answers_do_not_stand_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists with 80 % missing and 100 % false; how well the spots fit is left out of the question."""
    doubted = []

    def asked(explained: int, n: int, visible: float, score: float, carried: float) -> bool:
        doubted.append(is_doubtful(explained, n, visible, np.inf, carried))
        return False

    monkeypatch.setattr(module, "is_doubtful", asked)
    ix, rng = Indexer(load_crystal(name), load_instrument("bm32")), np.random.default_rng(8)
    for _ in range(8):
        u, spots = draw(ix, 80, rng)
        found = ix.index(spots).orientation
        assert found is not None and misorientation(found.u, u, ix.crystal.symmetry) < 0.01
    assert doubted == [False] * 8
