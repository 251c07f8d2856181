"""Rules of the game: moves, reward, ends, and what is drawn."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.env import LaueGameEnv
from lauepilot.envs.game.rules import FAMILIES, NAMES


def started(n=1, *arguments, seed=0):
    batch = BatchGame(n, *arguments)
    batch.seed(np.random.default_rng(seed))
    batch.reset()
    return batch


def miss(u, family):
    """Angle (deg) of the nearest target to the beam, from the text."""
    targets = np.eye(3) if family == "cubic" else np.eye(3)[2:]
    return np.rad2deg(np.arccos(np.abs((u @ targets.T)[2]).max()))


def test_a_move_turns_about_y_then_x():
    batch = started(seed=1)
    before = batch.true_u()[0]
    batch.step([[0.5, -1.0]])
    turn = Rotation.from_euler("yx", [-10.0, 5.0], degrees=True).as_matrix()
    np.testing.assert_allclose(batch.true_u()[0], turn @ before, atol=1e-12)
    np.testing.assert_array_equal(batch.observations()["moved"][0], np.array([0.5, -1.0], np.float32))
    batch.step([[7.0, 0.0]])
    assert batch.observations()["moved"][0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("family", NAMES)
def test_reward_is_the_published_one(family):
    batch = started(1, family, seed=2)
    start = before = miss(batch.true_u()[0], family)
    rng = np.random.default_rng(0)
    for step in range(1, 6):
        reward, terminated, _ = batch.step(rng.uniform(-1, 1, (1, 2)))
        if terminated[0]:
            break
        now = miss(batch.true_u()[0], family)
        assert batch.miss_deg()[0] == pytest.approx(now, abs=1e-6)
        assert reward[0] == pytest.approx(100 * (before - now) / (start * np.sqrt(step)), abs=1e-3)
        before = now


def test_arrival_ends_the_game_with_a_prize():
    batch = started(1, "tetragonal")
    g = batch._games
    g.u[0] = Rotation.from_euler("x", 180.0 - 12.0, degrees=True).as_matrix()
    g.miss[0] = g.start[0] = np.deg2rad(12.0)
    reward, terminated, truncated = batch.step([[0.8, 0.0]])
    assert terminated[0]
    assert not truncated[0]
    assert reward[0] == pytest.approx(100 + 100 * 8 / 12, rel=1e-4)
    assert batch.ended(0)["outcome"] == "won"
    assert batch.ended(0)["miss_deg"] == pytest.approx(4.0)


def test_leaving_the_range_ends_the_game():
    batch = started(1, "tetragonal")
    g = batch._games
    # The axis turns about itself: it never arrives.
    g.u[0] = Rotation.from_euler("y", 90.0, degrees=True).as_matrix()
    for _ in range(12):
        _, terminated, _ = batch.step([[1.0, 0.0]])
        assert not terminated[0]
    reward, terminated, _ = batch.step([[0.1, 0.0]])
    assert terminated[0]
    assert reward[0] == 0.0
    assert batch.ended(0)["outcome"] == "out_of_range"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_draws_lie_in_their_ranges(family):
    batch = started(400, family.name, seed=5)
    a, c, distance = batch.true_cell().T
    assert a.min() >= family.a[0]
    assert a.max() <= family.a[1]
    assert np.ptp(a) > 0.95 * np.ptp(family.a)
    if family.name == "cubic":
        np.testing.assert_array_equal(a, c)
    else:
        assert c.min() >= family.c[0]
        assert c.max() <= family.c[1]
    assert 40.0 <= distance.min() < 41.0
    assert 59.0 < distance.max() <= 60.0
    wanted = batch._games.wanted
    assert (wanted.min(), wanted.max()) == family.spots
    u = batch.true_u()
    np.testing.assert_allclose(u @ u.transpose(0, 2, 1), np.eye(3) + np.zeros_like(u), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(u), 1.0)
    assert batch.miss_deg().min() > 5.0


def test_all_families_come():
    batch = started(300, seed=6)
    assert np.bincount(batch.true_family(), minlength=3).min() > 70


def test_lauerl_and_ours_show_different_pictures_of_one_crystal():
    pictures = [
        started(1, "hexagonal", physics, seed=7).observations()["image"] for physics in ("laue", "lauerl")
    ]
    assert (pictures[0] != pictures[1]).any()


def test_wrong_arguments_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"any, cubic, tetragonal, hexagonal"):
        LaueGameEnv(family="monoclinic")
    with pytest.raises(ValueError, match=r"'laue' or 'lauerl'"):
        LaueGameEnv(physics="some")
    with pytest.raises(ValueError, match="normal, hard"):
        LaueGameEnv(level="harsh")
    with pytest.raises(ValueError, match="at least one game"):
        BatchGame(0)
    with pytest.raises(ValueError, match="shape"):
        started(2).step(np.zeros((3, 2)))
    with pytest.raises(gymnasium.error.ResetNeeded):
        LaueGameEnv().step(np.zeros(2, np.float32))
