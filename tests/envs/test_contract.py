"""One contract for all registered environments: single, Gymnasium's vector form, stable-baselines3's vector form."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check

from lauepilot.agents.vecenv import BatchVecEnv
from lauepilot.envs import IDS
from lauepilot.envs.mono.coding import action_of


def align_stays(rng: np.random.Generator, n: int) -> np.ndarray:
    """Moves of LaueAlign by nothing, or short exposures: nothing that ends the game."""
    actions = np.zeros((n, 5), dtype=np.float32)
    actions[:, 0] = rng.choice([-0.25, 0.25], n)
    actions[:, 1] = -1.0
    return actions


def game_stays(rng: np.random.Generator, n: int) -> np.ndarray:
    """Turns of LaueGame by nothing."""
    return np.zeros((n, 2), dtype=np.float32)


def mono_stays(rng: np.random.Generator, n: int) -> np.ndarray:
    """Counts and short scans of MonoAlign."""
    short = [action_of("count", seconds=rng.uniform(0.1, 1.0)), action_of("scan", axis="omega", half_deg=0.5)]
    return np.stack([short[i] for i in rng.integers(0, 2, n)])


@dataclass(frozen=True)
class Case:
    """An environment with arguments.

    ``stays`` gives n actions that never end a game, ``steps`` says after how many of them it is cut off.
    """

    name: str
    stays: Callable[[np.random.Generator, int], np.ndarray]
    steps: int
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name.partition("/")[2], *map(str, self.arguments.values())])


CASES = [
    Case("lauepilot/LaueAlign-v0", align_stays, 6, {"observation": "spots", "max_steps": 6}),
    Case("lauepilot/LaueAlign-v0", align_stays, 6, {"observation": "image", "max_steps": 6}),
    Case("lauepilot/LaueGame-v0", game_stays, 50),
    Case("lauepilot/LaueGame-v0", game_stays, 15, {"level": "hard"}),
    Case("lauepilot/LaueGame-v0", game_stays, 50, {"family": "hexagonal", "physics": "lauerl"}),
    Case("lauepilot/MonoAlign-v0", mono_stays, 6, {"detector": "point", "crystal": "cu", "max_steps": 6}),
    Case("lauepilot/MonoAlign-v0", mono_stays, 6, {"detector": "area", "crystal": "cu", "max_steps": 6}),
]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture
def env(case):
    made = gymnasium.make(case.name, **case.arguments)
    yield made
    made.close()


def many(case: Case, n: int) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec(
        case.name, num_envs=n, vectorization_mode="vector_entry_point", **case.arguments
    )


def alike(one: Any, two: Any) -> None:
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def finite(observation: Any) -> bool:
    return all(bool(np.isfinite(value).all()) for value in observation.values())


def test_every_environment_is_tested():
    assert {case.name for case in CASES} == set(IDS)


def test_gymnasium_checker(env):
    gymnasium_check(env.unwrapped, skip_render_check=True)


def test_stable_baselines_checker(env):
    with warnings.catch_warnings():
        # 84 x 84 in a Dict is meant; the checker would like it on its own.
        warnings.filterwarnings("ignore", category=UserWarning)
        sb3_check(env.unwrapped, warn=True)


def test_any_action_gives_finite_observations_inside(env):
    observation, _ = env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(8):
        assert env.observation_space.contains(observation)
        assert finite(observation)
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert np.isfinite(reward)
        if terminated or truncated:
            observation, _ = env.reset()


def test_same_seed_same_game(env, case):
    runs = []
    for _ in range(2):
        rows = [env.reset(seed=11)[0]]
        rows += [env.step(action)[0] for action in case.stays(np.random.default_rng(5), 4)]
        runs.append(rows)
    for a, b in zip(*runs, strict=True):
        alike(a, b)


def test_is_cut_off_and_says_the_truth_then(env, case):
    env.reset(seed=0)
    for k, action in enumerate(case.stays(np.random.default_rng(0), case.steps)):
        *_, terminated, truncated, info = env.step(action)
        assert not terminated
        assert truncated == (k == case.steps - 1)
        assert ("truth" in info) == truncated
    assert info["truth"]["outcome"] == "too_long"


def test_bad_actions_are_refused(env, case):
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.full_like(case.stays(np.random.default_rng(0), 1)[0], np.nan))


def test_gymnasium_vectors(case):
    """Spaces of the single form, the same games for the same seed, and a new game at the step after the last."""
    env, single = many(case, 3), gymnasium.make(case.name, **case.arguments)
    assert env.single_observation_space == single.observation_space
    assert env.single_action_space == single.action_space
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    runs = []
    for _ in range(2):
        rng = np.random.default_rng(1)
        rows = [env.reset(seed=4)[0]]
        for k in range(case.steps):
            observations, reward, terminated, truncated, infos = env.step(case.stays(rng, 3))
            assert env.observation_space.contains(observations)
            assert finite(observations)
            assert reward.shape == terminated.shape == truncated.shape == (3,)
            assert not terminated.any()
            assert truncated.all() == (k == case.steps - 1)
            rows.append(observations)
        assert list(infos["truth"]["outcome"]) == ["too_long"] * 3
        runs.append(rows)
    for a, b in zip(*runs, strict=True):
        alike(a, b)
    _, reward, terminated, truncated, _ = env.step(case.stays(rng, 3))
    assert not reward.any()
    assert not (terminated | truncated).any()


def test_games_of_a_batch_differ(case):
    env = many(case, 2)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    differs = False
    for _ in range(4):
        observations, *_ = env.step(case.stays(rng, 2))
        differs |= any(bool((value[0] != value[1]).any()) for value in observations.values())
    assert differs


def test_stable_baselines_vectors(case):
    """A new game in the step of the last; the last observation and the cut-off are in the info."""
    env = BatchVecEnv(many(case, 3).unwrapped.batch, seed=2)
    first = env.reset()
    rng = np.random.default_rng(1)
    for k in range(case.steps):
        observations, reward, done, infos = env.step(case.stays(rng, 3))
        assert np.isfinite(reward).all()
        assert done.all() == (k == case.steps - 1)
    assert {key: value.shape for key, value in observations.items()} == {
        key: value.shape for key, value in first.items()
    }
    for info in infos:
        assert env.observation_space.contains(info["terminal_observation"])
        assert info["TimeLimit.truncated"] is True
        assert info["episode"]["l"] == case.steps
        assert info["truth"]["outcome"] == "too_long"
    env.close()
