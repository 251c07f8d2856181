"""Pictures of the game against slow code of others' making: the paper for unknown lattices, numpy, scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lauepilot.bench import unknown_cases
from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.orbits import equivalents, lengths, orbits_of
from lauepilot.envs.game.picture import candidates, choose, expose
from lauepilot.envs.game.rules import APART, CUT_KEV, FAMILIES, FILM_MM, NAMES, SIDE
from lauepilot.envs.game.state import CANDIDATES
from lauepilot.perception.unknown.lattice import holohedry
from lauepilot.simulator.conventions import HC_KEV_A
from lauepilot.simulator.crystal import busing_levy_b


def started(family, physics="laue", level="normal", seed=0):
    batch = BatchGame(1, family, physics, level)
    batch.seed(np.random.default_rng(seed))
    batch.reset()
    return batch


def ours(batch):
    """Strongest spots (n, 2) in mm, as the game chooses them."""
    rows, spots = np.zeros((CANDIDATES, 3)), np.zeros((256, 2))
    g = batch._games
    n = candidates(batch._stage, g, 0, rows)
    return spots[: choose(g, 0, rows, n, spots)]


def greedy(places, rates, wanted):
    """The strongest that keep their distance, the slow way."""
    kept = []
    for k in np.argsort(-rates):
        if all(np.hypot(*(places[k] - other)) > APART * FILM_MM for other in kept):
            kept.append(places[k])
        if len(kept) == wanted:
            break
    return np.array(kept)


def shared(one, two):
    """Share of the spots of one list that are in the other within 0.02 mm."""
    return float(np.mean(np.linalg.norm(one[:, None] - two[None], axis=2).min(axis=1) < 0.02))


@pytest.mark.parametrize("family", NAMES)
def test_spots_are_those_of_the_paper_for_unknown_lattices(family):
    for seed in (7, 9):
        batch = started(family, seed=seed)
        a, c, distance = batch.true_cell()[0]
        cell = (a, a, c, 90.0, 90.0, 120.0 if family == "hexagonal" else 90.0)
        film = replace(unknown_cases.film(), distance_mm=distance, blind=())
        pixels, rates = unknown_cases._spots(
            batch.true_u()[0],
            busing_levy_b(cell),
            family,
            unknown_cases.LAUE_RL[family][0],
            film,
            unknown_cases.Spoil(),
            0,
        )
        places = (pixels - 499.5) * [0.1, -0.1]
        theirs = greedy(places, rates, batch._games.wanted[0])
        mine = ours(batch)
        assert len(mine) == len(theirs)
        # Two spots of nearly the same strength may change places at the end, or where one hides the other.
        assert shared(mine, theirs) > 0.95


@pytest.mark.parametrize("seed", [1, 2])
def test_lauerls_physics_as_it_is_described(seed):
    """Wavelength cos/d, hexagonal c 0.9306 of the configured one, strength without atoms."""
    batch = started("hexagonal", "lauerl", seed=seed)
    a, c, distance = batch.true_cell()[0]
    b = busing_levy_b((a, a, c * 0.93060486, 90.0, 90.0, 120.0)) / (2 * np.pi)
    h = np.arange(-30, 31)
    hkl = np.stack(np.meshgrid(h, h, h, indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[hkl.any(axis=1)]
    g = hkl @ (batch.true_u()[0] @ b).T
    size = np.linalg.norm(g, axis=1)
    cosine = -g[:, 2] / size
    keep = cosine > np.sqrt(0.5)
    hkl, g, size, cosine = hkl[keep], g[keep], size[keep], cosine[keep]
    wavelength, cut = cosine * size, HC_KEV_A / CUT_KEV
    places = (
        distance * np.tan(2 * np.arccos(cosine))[:, None] * g[:, :2] / np.hypot(g[:, 0], g[:, 1])[:, None]
    )
    keep = (np.abs(places) <= 50.0).all(axis=1) & (wavelength > cut)
    hkl, cosine, wavelength, places = hkl[keep], cosine[keep], wavelength[keep], places[keep]
    rates = (1 + np.cos(np.pi - 2 * np.arccos(cosine)) ** 2) * (wavelength / cut - 1) / wavelength**3
    rates *= (2 * cosine**2 - 1) ** 3 / cosine**4
    _, first, ray = np.unique(
        hkl // np.gcd.reduce(hkl, axis=1)[:, None], axis=0, return_index=True, return_inverse=True
    )
    total = np.bincount(ray.reshape(-1), weights=rates)
    theirs = greedy(places[first], total, batch._games.wanted[0])
    assert shared(ours(batch), theirs) > 0.995


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_orbits_are_those_of_the_holohedry(family):
    cell = (
        5.0,
        5.0,
        5.0 if family.name == "cubic" else 13.0,
        90.0,
        90.0,
        120.0 if family.name == "hexagonal" else 90.0,
    )
    b = busing_levy_b(cell)
    turns = holohedry(family.name)
    for hkl in ((1, 0, 0), (3, 2, 1), (2, 2, 1), (2, 1, 0), (0, 0, 1)):
        q = turns @ b @ np.array(hkl)
        found = np.rint(np.linalg.solve(b, q.T).T).astype(int)
        wanted = {max(tuple(x), tuple(-x)) for x in found}
        assert {tuple(x) for x in equivalents(family.name, hkl)} == wanted
    np.testing.assert_allclose(
        lengths(family, np.array([[3, 2, 1]]), cell[0], cell[2]), [np.linalg.norm(b @ [3, 2, 1])]
    )
    orbits, members = orbits_of(family)
    assert orbits[-1, 5] == len(members)
    assert len({tuple(x) for x in members}) == len(members)


def test_a_spot_is_a_disc_averaged_and_blurred():
    """Drawn as LaueRL does: on 1,284 pixels, averaged to 84 x 84, blurred by 1 px; our table's places are 1/32 px apart."""
    batch = started("cubic", seed=2)
    g = batch._games
    spots = ours(batch)
    fine = np.zeros((1344, 1344))  # 16 for each pixel
    at = np.arange(1344) + 0.5
    for x, y in spots:
        col, row = (50.0 + x) * 13.44, (50.0 - y) * 13.44
        fine[(at[:, None] - row) ** 2 + (at[None] - col) ** 2 < (10.0 / 1284.0 * 1344) ** 2] = 1.0
    slow = gaussian_filter(fine.reshape(SIDE, 16, SIDE, 16).mean(axis=(1, 3)), 1.0, mode="constant")
    far = np.hypot(*np.meshgrid(np.arange(SIDE) - 41.5, np.arange(SIDE) - 41.5)) >= 8.4
    seen = g.image[0, ..., 0] / 255.0
    np.testing.assert_allclose(seen[far], slow[far], atol=0.02)
    assert not seen[~far].any()
    assert seen.max() > 0.15


def test_hard_pictures_lose_and_gain_spots_anew():
    batch = started("tetragonal", level="hard", seed=3)
    g, s = batch._games, batch._stage
    rows, spots, work = np.zeros((CANDIDATES, 3)), np.zeros((256, 2)), np.zeros((SIDE, SIDE), np.float32)
    true = ours(batch)
    pictures = []
    for _ in range(2):
        expose(s, g, 0, rows, spots, work)
        pictures.append(g.image[0].copy())
        n = len(true)
        kept = np.linalg.norm(true[:, None] - spots[None, :n], axis=2).min(axis=1) < 1e-9
        assert kept.sum() == n - round(0.3 * n)
    assert (pictures[0] != pictures[1]).any()


def test_structure_factors_of_the_hard_level_belong_to_the_crystal():
    """The same in each picture, log-normal of width 2, and nothing of the kind at the normal level."""
    easy, hard = started("cubic", seed=4), started("cubic", level="hard", seed=4)
    n = int(easy._games.used[0])
    assert n == hard._games.used[0]
    order = easy._games.order[0, :n]
    ratio = np.log(hard._games.rates[0, order, -1] / easy._games.rates[0, order, -1])
    assert 1.2 < np.std(ratio) < 2.3  # harmonics of a ray average out a little
    before = hard._games.rates.copy()
    hard.step([[0.3, -0.2]])
    np.testing.assert_array_equal(before, hard._games.rates)
