"""The search for a first peak, and which reflection to centre next: what they promise against what happens."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.perception.reflections.belief import SECTOR_DEG, FirstPeak, Row
from lauepilot.perception.reflections.choosing import Choosing
from lauepilot.perception.reflections.drive import drive, fly
from lauepilot.perception.reflections.first import AreaFirst, PointFirst
from lauepilot.perception.reflections.hypotheses import Catalogue
from lauepilot.perception.reflections.looking import AreaLook, PointLook
from lauepilot.perception.reflections.search import UbSearch
from lauepilot.perception.reflections.zeros import Centred
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.fourcircle import FourCircle, travel_s
from lauepilot.simulator.fourcircle_twin import FourCircleFaults, FourCircleTwin


@pytest.fixture(scope="module")
def catalogue():
    return Catalogue(load_crystal("cu"), FourCircle())


def test_travel_is_the_slowest_axis_and_its_settling():
    there = np.array([1.0, 2.0, 60.0, 2.0])
    assert travel_s(FourCircle(), np.zeros(4), there) == pytest.approx(60.0 / 6.0 + 0.2)
    assert travel_s(FourCircle(), there, there) == 0.0


def test_stretches_join_where_the_axes_stand(catalogue):
    """Axes do not fly back: nearly all stretches begin where the last ended, or one row beside it."""
    first = PointFirst(PointLook(catalogue))
    here, ways, spent = np.zeros(4), [], 0.0
    for _ in range(90):
        path = first.next(here)
        ways.append(travel_s(FourCircle(), here, path.points_deg[0]))
        here, spent = path.points_deg[-1], spent + 5.0
        first.empty()
    assert np.median(ways) < 2.0
    assert sum(ways) < 0.4 * spent


def test_every_stretch_is_flown_once_and_then_it_is_over(catalogue):
    rows = [Row(20.0, chi, 15.0) for chi in (15.0, 45.0, 75.0)]
    first = FirstPeak(catalogue, rows, 0.3, 6.0)
    seen = set()
    while (found := first.next(np.zeros(4))) is not None:
        row, start, end = found
        assert abs(end - start) == SECTOR_DEG
        seen.add((row.chi_deg, min(start, end)))
        first.empty()
    assert len(seen) == 3 * round(360.0 / SECTOR_DEG)


def test_the_promise_is_kept(catalogue):
    """How often the first stretch shows a reflection of a random crystal, against what the belief says."""
    look = PointLook(catalogue)
    rows = [Row(tth, chi, 0.5 * step) for tth in look.best_tth(1) for chi, step in look.rows(tth)]
    belief = FirstPeak(catalogue, rows, look.half_tth_deg, 6.0)
    said = belief.chances()
    row, start, end = belief.next(np.zeros(4))
    r, s = belief._flown
    rng, hits, n = np.random.default_rng(7), 0, 4000
    numbers = catalogue.at(row.tth_deg, look.half_tth_deg, 0.05)
    for _ in range(n):
        v = catalogue.direction[numbers] @ random_rotation(rng).T
        chi = np.rad2deg(np.arcsin(v[:, 0]))
        phi = np.rad2deg(np.arctan2(v[:, 2], v[:, 1]))
        hits += bool(
            np.any(
                (np.abs(chi - row.chi_deg) < row.half_deg) & (phi > min(start, end)) & (phi < max(start, end))
            )
        )
    assert said[r, s] == pytest.approx(hits / n, abs=0.02)


def test_what_was_empty_makes_other_places_more_likely(catalogue):
    look = PointLook(catalogue)
    rows = [Row(tth, chi, 0.5 * step) for tth in look.best_tth(1) for chi, step in look.rows(tth)]
    belief = FirstPeak(catalogue, rows, look.half_tth_deg, 6.0)
    before = belief.chances()
    for _ in range(90):
        belief.next(np.zeros(4))
        belief.empty()
    after = belief.chances()
    assert after[belief.left].max() > 1.3 * before[belief.left].max()
    assert (after[belief.left] < before[belief.left]).any()  # and others less


def test_the_area_detector_sees_every_piece_of_every_turn(catalogue):
    look = AreaLook(catalogue)
    first, here, seen = AreaFirst(look), np.zeros(4), set()
    while (path := first.next(here)) is not None:
        here = path.points_deg[-1]
        phi = path.points_deg[:, 2]
        seen.add((round(here[3], 3), here[1], round(min(phi[0], phi[-1]))))
    assert len(seen) == len(look.best_tth()) * len(look.turns_deg) * 6


def test_predictions_are_as_good_as_the_choice_says(catalogue):
    """Enough peaks for a mean error of 0.012 degrees: fewer than twelve, and no two of a kind."""
    u = random_rotation(np.random.default_rng(3))
    choosing, kept, here = Choosing(catalogue, u), [], np.zeros(4)
    while not choosing.good(kept, 0.004):
        number = choosing.next(here, kept)
        direction = u @ catalogue.direction[number]
        here = catalogue.instrument.bisecting(direction, float(catalogue.tth_deg[number]))
        kept.append(Centred(here, 0.0, float(here[3]), 0.005, 1.0))
    assert 6 <= len(kept) <= 10
    assert not choosing.good(kept, 0.1)  # what does not fit is not good enough


@pytest.mark.parametrize("detector", ["point", "area"])
def test_it_takes_less_than_half_of_what_it_took(detector):
    """Clock before stretches, ways and reflections were chosen for their seconds: 1,156 s and 756 s (medians of 50)."""
    clocks = []
    for seed, name in enumerate(("si", "ybco")):
        crystal = load_crystal(name)
        twin = FourCircleTwin(crystal, rng=np.random.default_rng([seed, 5]), faults=FourCircleFaults())
        answer = drive(UbSearch(crystal, twin.instrument, detector), twin)
        assert answer.outcome == "found"
        clocks.append(twin.clock_s)
    assert max(clocks) < {"point": 578.0, "area": 378.0}[detector]


def test_a_search_goes_on_from_where_the_axes_stand(catalogue):
    search = UbSearch(load_crystal("cu"), FourCircle(), "point")
    twin = FourCircleTwin(load_crystal("cu"), rng=np.random.default_rng(0), peak_rate_per_s=0.0)
    thinking = search.think()
    path = next(thinking)
    for _ in range(5):
        before = path
        path = thinking.send(fly(twin, path, search))
        assert travel_s(twin.instrument, before.points_deg[-1], path.points_deg[0]) < 20.0
