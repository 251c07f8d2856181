"""The batched environment against the full Twin, and both conventions of starting again."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO

from lauepilot.agents.vecenv import LaueAlignVecEnv
from lauepilot.envs.align.batch import BatchAlign
from lauepilot.envs.align.coding import ACTS, Coder, exposure_number
from lauepilot.envs.align.env import align_task, shared_observer
from lauepilot.envs.align.frames import expose
from lauepilot.envs.align.state import move
from lauepilot.envs.align.vector import LaueAlignVectorEnv
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.twin import Twin

K = 3


def action(act, exposure=0.0, changes=(0.0,) * K):
    return np.array([-0.75 + 0.5 * ACTS.index(act), exposure, *changes], dtype=np.float32)


def exposure_action(seconds, usual=60.0):
    return 2.0 * exposure_number(seconds, usual) - 1.0


@pytest.fixture(scope="module")
def task():
    return align_task("si", "lab", None, 0.1, 50)


def test_spots_are_those_of_the_observer(task):
    """The same crystals on a perfect instrument: as many spots, as bright, in the same places."""
    eyes = shared_observer(task.crystal, task.instrument)
    twin = Twin(task.crystal, task.instrument, rng=np.random.default_rng(0), faults=Faults.none())
    coder = Coder(task)
    batch = BatchAlign(1, task, Faults.none())
    batch.seed(np.random.default_rng(1))
    for seconds, most in ((20.0, 0.1), (2.0, 0.1), (0.5, 0.25)):
        found, angles, counts, shared = [], [], [], []
        for k in range(8):
            u = random_rotation(np.random.default_rng(k))
            twin.reset(np.random.default_rng(k), u)
            seen = eyes.observe(
                twin.expose(seconds), axes=twin.positions, clock_s=0.0, dose_s=seconds, n_exposures=1
            )
            full = coder.arrays(seen)["spots"]
            batch.reset()
            g = batch._games
            g.u[0], g.carried[0] = u, 0.0
            expose(batch._stage, g, 0, seconds, False, batch._work, batch._image)
            quick = g.spots[0]
            found.append((len(seen.spots), g.counters[0, 2]))
            a, b = full[full[:, 5] > 0], quick[quick[:, 5] > 0]
            # Of the brighter half of one list nearly all are in the other.
            top = a[: len(a) // 2]
            apart = np.rad2deg(np.arccos(np.clip(top[:, :3] @ b[:, :3].T, -1, 1)))
            near = apart.argmin(axis=1)
            ok = apart.min(axis=1) < 0.3
            shared.append(ok.mean())
            angles += list(apart.min(axis=1)[ok])
            counts += list(1e6 ** (b[near[ok], 3] - top[ok, 3]))
            assert np.median(b[:, 4]) == pytest.approx(np.median(a[:, 4]), rel=0.35)
        full_n, quick_n = np.mean(found, axis=0)
        assert quick_n == pytest.approx(full_n, rel=most), seconds
        assert np.mean(shared) > 0.9
        assert np.median(counts) == pytest.approx(1.0, abs=0.1)
        assert np.median(angles) < 0.06


def test_image_has_the_photons_of_a_frame(task):
    """Brightness of 84 x 84 images: batch against rebinned frames of the Twin."""
    eyes = shared_observer(task.crystal, task.instrument, True)
    twin = Twin(task.crystal, task.instrument, rng=np.random.default_rng(0), faults=Faults.none())
    coder = Coder(task, "image")
    batch = BatchAlign(1, task, Faults.none(), "image")
    batch.seed(np.random.default_rng(1))
    u = random_rotation(np.random.default_rng(5))
    twin.reset(np.random.default_rng(5), u)
    seen = eyes.observe(twin.expose(20.0), axes=twin.positions, clock_s=0.0, dose_s=0.0, n_exposures=1)
    full = coder.arrays(seen)["image"][..., 0].astype(float)
    batch.reset()
    batch._games.u[0], batch._games.carried[0] = u, 0.0
    expose(batch._stage, batch._games, 0, 20.0, True, batch._work, batch._image)
    quick = batch._games.image[0, ..., 0].astype(float)
    # Median pixel (background) and the correlation of what stands out.
    assert np.median(quick) == pytest.approx(np.median(full), abs=3.0)
    assert np.corrcoef(full.ravel(), quick.ravel())[0, 1] > 0.9


def test_kinematics_and_clock_are_the_twins(task):
    """Moves with play, misdirected axes: same orientation and time as the Twin with the same faults."""
    twin = Twin(task.crystal, task.instrument, rng=np.random.default_rng(3))
    batch = BatchAlign(1, task, Faults())
    batch.seed(np.random.default_rng(0))
    batch.reset()
    g, truth = batch._games, twin.truth
    g.u[0] = truth.u
    g.directions[0] = [a.direction for a in truth.instrument.goniometer.axes]
    g.carried[0] = list(twin._carried.values())
    for goal in ([30.0, -20.0, 100.0], [29.0, -20.005, 170.0], [500.0, 0.0, 0.0]):
        move(batch._stage, g, 0, np.array(goal))
        twin.move(
            dict(zip(("omega", "chi", "phi"), np.clip(goal, -100, 180), strict=True))
            | {"omega": min(goal[0], 100.0)}
        )
        assert batch.miss_deg(0) == pytest.approx(
            np.rad2deg(task.target.error(twin.u_lab(), task.crystal)), abs=1e-9
        )
        assert g.clock[0] == pytest.approx(twin.clock_s)


@pytest.mark.parametrize("kind", ["spots", "image"])
def test_vector_environment_contract(kind):
    env = gymnasium.make_vec(
        "lauepilot/LaueAlign-v0", num_envs=5, vectorization_mode="vector_entry_point", observation=kind
    )
    assert isinstance(env.unwrapped, LaueAlignVectorEnv)
    single = gymnasium.make("lauepilot/LaueAlign-v0", observation=kind)
    assert env.single_observation_space == single.observation_space
    assert env.single_action_space == single.action_space
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(2):
        observations, _ = env.reset(seed=4)
        rows = [observations]
        rng = np.random.default_rng(0)
        for _ in range(60):
            actions = rng.uniform(-0.6, 1, (5, 2 + K)).astype(np.float32)
            observations, reward, terminated, truncated, _ = env.step(actions)
            assert env.observation_space.contains(observations)
            assert reward.shape == terminated.shape == truncated.shape == (5,)
            assert np.isfinite(reward).all()
            rows.append(observations)
        runs.append(rows)
    for a, b in zip(*runs, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_gymnasium_restarts_at_the_next_step():
    """Trap 11, with the next test: one adapter for both would restart at the wrong step for one of them."""
    env = LaueAlignVectorEnv(3)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    stay = action("expose", exposure_action(2.0))
    env.step(np.stack([stay] * 3))
    _, reward, terminated, truncated, infos = env.step(np.stack([stay, action("give up"), stay]))
    assert terminated.tolist() == [False, True, False]
    assert not truncated.any()
    assert reward[1] == pytest.approx(-1.0)
    assert infos["truth"]["outcome"][1] == "gave_up"
    # The next step starts game 1 anew whatever the action, and costs nothing.
    observations, reward, terminated, *_ = env.step(np.stack([stay] * 3))
    assert reward[1] == 0.0
    assert not terminated.any()
    assert observations["budget"][1].tolist() == [0.0] * 5
    assert observations["budget"][0, 2] > 0.0


def test_stable_baselines_restarts_in_the_same_step():
    env = LaueAlignVecEnv(3, max_steps=3)
    env.reset()
    stay = action("expose", exposure_action(2.0))
    env.step(np.stack([stay] * 3))
    observations, reward, done, infos = env.step(np.stack([stay, action("give up"), stay]))
    assert done.tolist() == [False, True, False]
    assert reward[1] == pytest.approx(-1.0)
    assert observations["budget"][1].tolist() == [0.0] * 5
    assert infos[1]["terminal_observation"]["budget"][2] > 0.0
    assert infos[1]["TimeLimit.truncated"] is False
    assert infos[1]["episode"]["l"] == 2
    _, _, done, infos = env.step(np.stack([stay] * 3))
    assert done.tolist() == [True, False, True]
    assert infos[0]["TimeLimit.truncated"] is True
    assert infos[0]["truth"]["outcome"] == "too_long"


def test_following_the_hint_wins_nearly_always():
    env = LaueAlignVectorEnv(40)
    observations, _ = env.reset(seed=0)
    look = np.tile(action("expose", exposure_action(10.0)), (40, 1))
    for _ in range(2):
        observations, *_ = env.step(look)
        moves = np.tile(action("move"), (40, 1))
        moves[:, 2:] = observations["belief"][:, -K:]
        env.step(moves)
    _, _, terminated, _, infos = env.step(np.tile(action("declare"), (40, 1)))
    assert terminated.all()
    assert np.mean(infos["truth"]["outcome"] == "right") > 0.9


def test_ppo_takes_it():
    env = LaueAlignVecEnv(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=32, n_epochs=1, device="cpu", seed=0)
        model.learn(128)
    act, _ = model.predict(env.reset(), deterministic=True)
    assert act.shape == (4, 2 + K)


def test_bad_actions_are_refused():
    env = LaueAlignVectorEnv(2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite and of shape"):
        env.step(np.full((2, 5), np.nan, np.float32))
    with pytest.raises(ValueError, match="at least one game"):
        BatchAlign(0, env.task, Faults())
