"""``lauepilot/MonoAlign-v0``: spaces, checkers, determinism, ends; a player of the Box actions comes to a UB."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_sb3

import lauepilot.envs  # noqa: F401  (registers)
from lauepilot.agents.vecenv import BatchVecEnv
from lauepilot.envs.loop import GameOverError
from lauepilot.envs.mono.batch import BatchMono
from lauepilot.envs.mono.coding import CANDIDATES, WIDTH, action_of
from lauepilot.envs.mono.env import MonoAlignEnv, level_faults, mono_task
from lauepilot.envs.mono.task import Centre, DeclareUb, MonoTask
from lauepilot.perception.observation import GiveUp, Move
from lauepilot.perception.reflections.looking import Path
from lauepilot.perception.reflections.zeros import Centred
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.fourcircle import FourCircle

ID = "lauepilot/MonoAlign-v0"


def noise(rng, n=None):
    """Actions that look about: none that ends a game, and short ones."""
    x = rng.uniform(-1.0, 1.0, (WIDTH,) if n is None else (n, WIDTH)).astype(np.float32)
    x[..., 0] = -1.0 + (2.0 * rng.integers(1, 4, x[..., 0].shape) + 1.0) / 6.0
    x[..., 4] *= 0.5
    return x


@pytest.mark.parametrize("detector", ["point", "area"])
def test_both_checkers_pass(detector):
    env = gymnasium.make(ID, crystal="cu", detector=detector)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A set of rows is what it is: neither an image nor a vector.
        warnings.filterwarnings("ignore", message=".*unconventional shape.*")
        check_env(env.unwrapped, skip_render_check=True)
        check_sb3(env.unwrapped)


@pytest.mark.parametrize("level", ["none", "lab", "harsh"])
def test_same_seed_same_game(level):
    seen = []
    for _ in range(2):
        env = MonoAlignEnv("cu", level=level)
        rng = np.random.default_rng(3)
        rows = [env.reset(seed=5)[0]]
        rows += [env.step(noise(rng))[0] for _ in range(6)]
        assert all(env.observation_space.contains(row) for row in rows)
        seen.append(rows)
    for one, two in zip(*seen, strict=True):
        assert all(np.array_equal(one[k], two[k]) for k in one)


def test_batch_and_single_game_play_alike():
    """Same random numbers, same actions: the same rewards and observations."""
    task, faults = mono_task("cu", "point", None, 0.05, 500), level_faults("lab")
    batch = BatchMono(2, task, faults)
    batch.seed(np.random.default_rng(1))
    batch.reset()
    single = MonoAlignEnv("cu", level="lab")
    single.game.reset(np.random.default_rng(1).spawn(2)[1])
    rng = np.random.default_rng(2)
    for _ in range(5):
        actions = noise(rng, 2)
        reward, terminated, truncated = batch.step(actions)
        observation, mine, *ends, _ = single.step(actions[1])
        assert reward[1] == pytest.approx(mine)
        assert [terminated[1], truncated[1]] == ends
        theirs = batch.observations()
        assert all(np.array_equal(theirs[k][1], observation[k]) for k in observation)


def test_vector_env_starts_again_at_the_next_step():
    env = gymnasium.make_vec(ID, num_envs=2, crystal="cu")
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=1)
    actions = np.stack([action_of("give up"), action_of("count", seconds=2.0)])
    _, reward, terminated, _, infos = env.step(actions)
    assert terminated.tolist() == [True, False]
    assert reward[0] == pytest.approx(-1.0)
    assert infos["truth"]["outcome"][0] == "gave_up"
    observations, reward, terminated, *_ = env.step(actions)
    assert reward[0] == 0.0 and not terminated.any()
    assert observations["budget"][0, 1] == 0.0 < observations["budget"][1, 1]
    env.close()


def test_sb3_form_starts_again_in_the_same_step():
    task = mono_task("cu", "point", None, 0.05, 2)
    env = BatchVecEnv(BatchMono(2, task, level_faults("none")), seed=1)
    env.reset()
    count = np.stack([action_of("count"), action_of("count")])
    env.step(count)
    observations, _, done, infos = env.step(count)
    assert done.all() and all(info["TimeLimit.truncated"] for info in infos)
    assert infos[0]["terminal_observation"]["budget"][1] == 1.0
    assert (observations["budget"][:, 1] == 0.0).all()


def test_time_runs_as_the_axes_do():
    """phi at 6 degrees a second and 0.2 s to settle; then a count of two seconds."""
    env = MonoAlignEnv("cu", level="none")
    env.reset(seed=1)
    _, reward, *_ = env.step(action_of("move", change_deg=(0.0, 0.0, 60.0, 0.0)))
    assert reward == pytest.approx(-10.2 / 600.0, rel=1e-3)
    _, reward, *_ = env.step(action_of("count", seconds=2.0))
    assert reward == pytest.approx(-2.0 / 600.0, rel=1e-3)


def test_what_is_beyond_the_limits_is_refused_and_costs():
    env = MonoAlignEnv("cu", level="none")
    env.reset(seed=1)
    beyond = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 80.0]])
    for decision in (Path(beyond, 0.1, "open", ""), Move({"chi": 101.0}), Centre(beyond[1]), Move({"kappa": 1.0}),
                     Path(np.zeros((2, 4)), 1e4, "open", ""), Path(np.full((2, 4), np.nan), 0.1, "open", "")):  # fmt: skip
        turn = env.apply(decision)
        assert turn.refused and turn.reward == pytest.approx(-0.05)
        assert set(env.game.seen.positions.values()) == {0.0}


def test_nothing_goes_on_after_the_end():
    env = MonoAlignEnv("cu", level="none")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(action_of("count"))
    env.reset(seed=1)
    assert env.step(action_of("declare"))[2]  # without a UB it is giving up
    assert env.game.truth()["outcome"] == "gave_up"
    with pytest.raises(GameOverError):
        env.apply(GiveUp("again"))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="none, lab, harsh"):
        MonoAlignEnv("cu", level="soft")
    with pytest.raises(ValueError, match="point"):
        MonoTask(load_crystal("cu"), FourCircle(), "film")
    with pytest.raises(ValueError, match="max_steps"):
        mono_task("cu", "point", None, 0.05, 0)
    env = MonoAlignEnv("cu", level="none")
    env.reset(seed=1)
    with pytest.raises(ValueError, match="finite numbers"):
        env.step(np.zeros(3, dtype=np.float32))


def by_numbers(env, seed):
    """A simple player that only sees the observation: rows of phi by the Box actions, then centring what is offered."""
    observation, _ = env.reset(seed=seed)
    tth = env.game.loop.world.look.best_tth()[0]
    step = env.step
    observation, *_ = step(action_of("move", change_deg=(0.5 * tth, 0.0, 0.0, tth)))
    for chi in np.tile([0.0, 30.0, 60.0, -30.0, -60.0], 2):
        here = env.game.seen.positions
        change = (0.5 * tth - here["omega"], chi - here["chi"], 90.0 - here["phi"], tth - here["tth"])
        observation, *_ = step(action_of("move", change_deg=change))
        for side in (0.0, -180.0):
            observation, *_ = step(action_of("move", change_deg=(0, 0, side, 0)))
            observation, *_ = step(action_of("scan", axis="phi", half_deg=90.0, seconds=0.3))
            for _ in range(10):
                if observation["candidates"][0, 0] == 0.0 or observation["belief"][3] * 12 > 8.5:
                    break
                observation, _, over, *_ = step(action_of("centre", candidate=0))
                assert not over
        if observation["belief"][3] * 12 > 8.5:
            break
    assert observation["belief"][4] == 1.0
    return step(action_of("declare"))


def test_a_player_of_numbers_finds_ub_with_the_area_detector():
    env = MonoAlignEnv("quartz", "area", level="none")
    _, reward, terminated, _, info = by_numbers(env, 3)
    assert terminated and info["truth"]["outcome"] == "right", info["truth"]
    assert info["truth"]["miss_deg"] < 0.05 and reward == pytest.approx(1.0)


def test_a_wrong_ub_costs_more_than_giving_up():
    """UB of the game before, declared for the next crystal."""
    env = MonoAlignEnv("quartz", "area", level="none")
    by_numbers(env, 3)
    ub = env.game.notes.ub
    env.reset(seed=4)
    turn = env.apply(DeclareUb(ub))
    assert turn.outcome == "wrong" and turn.miss_deg > 0.05
    assert turn.terms["wrong"] < -5.0 < env.task.gave_up


def test_candidates_are_as_many_as_the_space_has_rows():
    env = MonoAlignEnv("cu")
    observation, _ = env.reset(seed=1)
    assert observation["candidates"].shape[0] == CANDIDATES
    assert not observation["peaks"].any() and not observation["belief"].any()


def test_friedel_mates_alone_leave_the_orientation_open():
    env = MonoAlignEnv("cu", "area", level="none")
    env.reset(seed=1)
    notes, instrument = env.game.notes, env.task.instrument
    tth = float(instrument.tth_deg(env.task.crystal.q_length((1, 1, 1))))
    for direction in ([0.2, 0.9, 0.3], [-0.2, -0.9, -0.3]):
        angles = instrument.bisecting(np.array(direction) / np.linalg.norm(direction), tth)
        notes._add(Centred(angles, 0.0, tth, 0.01, 100.0))
    assert len(notes.peaks) == 2
    assert notes.rivals == [] and notes.ub is None
    assert not notes.belief().any()
