"""Parts of the classical player: spots of a picture, the shortest way, lessons."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from lauepilot.agents.game.imitation import lessons, nearest_axes
from lauepilot.agents.game.plan import best_actions, shortest
from lauepilot.agents.game.spots import find
from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.picture import candidates, choose
from lauepilot.envs.game.rules import NAMES
from lauepilot.envs.game.state import CANDIDATES
from lauepilot.simulator.conventions import axis_rotation, random_rotation


@pytest.mark.parametrize("family", NAMES)
def test_spots_are_found_where_they_are(family):
    """To a fifth of a tenth of a millimetre, all of them, and no others; in pixels of 0.1 mm."""
    batch = BatchGame(1, family)
    batch.seed(np.random.default_rng(1))
    rows, spots = np.zeros((CANDIDATES, 3)), np.zeros((256, 2))
    errors = []
    for _ in range(10):
        batch.reset()
        n = choose(batch._games, 0, rows, candidates(batch._stage, batch._games, 0, rows), spots)
        true = 499.5 + spots[:n] * [10.0, -10.0]
        away = np.hypot(*(true - 499.5).T)
        found = find(batch.observations()["image"][0])
        apart = np.linalg.norm(found.pixels[:, None] - true[None], axis=2)
        assert apart.min(axis=1).max() < 3.0
        assert (apart.min(axis=0) < 3.0)[away > 105.0].all()
        errors += list(apart.min(axis=1))
    assert np.median(errors) < 0.3
    assert np.quantile(errors, 0.99) < 1.0


def test_other_pictures_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        find(np.zeros((84, 84)))
    with pytest.raises(ValueError, match="three finite numbers"):
        shortest([[0.0, np.nan, 1.0]])


def end(t, turns):
    for x, y in np.asarray(turns).reshape(-1, 2):
        t = axis_rotation((1, 0, 0), x) @ axis_rotation((0, 1, 0), y) @ t
    return float(np.rad2deg(np.arccos(min(abs(t[2]), 1.0))))


def test_no_way_is_shorter():
    """An optimiser that is free in each step finds none; and following the plan takes the steps that it says."""
    rng = np.random.default_rng(0)
    step = np.deg2rad(10.0)
    for _ in range(12):
        t = random_rotation(rng)[0]
        action, steps = shortest(t)
        if steps > 1:
            best = 90.0
            for _ in range(2):
                start = rng.uniform(-step, step, 2 * (steps - 1))
                found = minimize(
                    lambda x, t=t: end(t, x), start, bounds=[(-step, step)] * len(start), method="L-BFGS-B"
                )
                best = min(best, float(found.fun))
            assert best > 4.99
        taken = 0
        while end(t, []) > 5.0:
            action, _ = shortest(t)
            assert np.abs(action).max() <= 1.0
            x, y = step * action.astype(float)
            t = axis_rotation((1, 0, 0), x) @ axis_rotation((0, 1, 0), y) @ t
            taken += 1
        assert taken == steps


def test_many_at_once_are_planned_alike():
    rng = np.random.default_rng(1)
    u, family = random_rotation(rng, 30), np.arange(30) % 3
    actions, steps = best_actions(u, family)
    for k in range(30):
        action, count = shortest(u[k].T if family[k] == 0 else u[k].T[2:])
        np.testing.assert_array_equal(action, actions[k])
        assert count == steps[k]


def test_lessons_hold_what_the_game_shows_and_the_truth():
    lesson = next(lessons(24, 4, np.random.default_rng(3), wander=0.0))
    again = next(lessons(24, 4, np.random.default_rng(3), wander=0.0))
    for key, value in vars(lesson).items():
        assert (value == getattr(again, key)).all(), key
    assert lesson.images.shape == (24, 4, 1, 84, 84)
    assert lesson.valid[:, 0].all()
    assert not lesson.moved[:, 0].any()
    # A second picture was reached by the first answer, and brought the end one step nearer.
    on = lesson.valid[:, 1]
    assert (lesson.moved[on, 1] == lesson.actions[on, 0]).all()
    assert (lesson.steps[on, 1] == lesson.steps[on, 0] - 1).all()
    assert (lesson.valid.sum(dim=1) == lesson.steps[:, 0].clamp(max=4)).all()
    u, family = lesson.u[:, 0].double().numpy(), lesson.family.numpy()
    np.testing.assert_allclose(nearest_axes(u, family), lesson.axis[:, 0].numpy(), atol=1e-6)
    actions, _ = best_actions(u, family)
    np.testing.assert_allclose(actions, lesson.actions[:, 0].numpy(), atol=1e-2)


def test_a_student_plays_and_the_teacher_answers():
    def student(images, moved):
        assert images.shape[:2] == moved.shape[:2]
        return moved[:, -1] * 0.0 + 0.25

    lesson = next(lessons(8, 3, np.random.default_rng(4), wander=0.0, student=student))
    on = lesson.valid[:, 1]
    assert (lesson.moved[on, 1] == 0.25).all()
    with pytest.raises(ValueError, match="wander"):
        next(lessons(8, 3, np.random.default_rng(4), wander=2.0))
