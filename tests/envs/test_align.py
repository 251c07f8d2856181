"""The full environment of `lauepilot/LaueAlign-v0`; what all environments share is in `test_contract`."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from lauepilot.envs import IDS
from lauepilot.envs.align.coding import ACTS, LARGEST_CHANGE, act_of, action_of, change_of
from lauepilot.envs.align.env import LaueAlignEnv
from lauepilot.perception.observation import Declare, Expose, GiveUp, Move
from lauepilot.simulator.faults import Faults, named_faults

KINDS = [("lauepilot/LaueAlign-v0", kind) for kind in ("spots", "image")]


@pytest.fixture(params=KINDS, ids=lambda p: f"{p[0]}-{p[1]}")
def env(request):
    name, kind = request.param
    made = gymnasium.make(name, observation=kind, max_steps=6)
    yield made
    made.close()


def some_actions(env, n, seed=0):
    """Moves and exposures at random: nothing that ends the game."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (n, env.action_space.shape[0])).astype(np.float32)
    actions[:, 0] = rng.uniform(-0.49, 0.49, n)
    actions[:, 1] = -1.0
    return actions


def test_observations_are_finite_and_inside(env):
    observation, _ = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    for action in some_actions(env, 5):
        observation, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward)
        assert all(np.all(np.isfinite(v)) for v in observation.values())
        assert sum(info["reward_terms"].values()) == pytest.approx(reward)
        assert not terminated
        assert "truth" not in info or truncated


def test_truncates_and_says_truth_then(env):
    env.reset(seed=0)
    for k, action in enumerate(some_actions(env, 6)):
        action[0] = 0.25
        _, _, terminated, truncated, info = env.step(action)
        assert not terminated
        assert truncated == (k == 5)
        assert ("truth" in info) == truncated
    assert info["truth"]["outcome"] == "too_long"


def test_declaring_without_a_frame_is_giving_up(env):
    env.reset(seed=0)
    _, _, terminated, _, info = env.step(np.array([1, 0, 0, 0, 0], np.float32))
    assert terminated
    assert isinstance(info["decision"], GiveUp)


def test_following_the_hint_wins():
    """Expose, do what the belief says, expose, correct, declare: the observation holds what a learner needs."""
    env = LaueAlignEnv(faults="none")
    observation, _ = env.reset(seed=1)
    k = 3
    expose = np.array([-0.25, 0.0] + [0.0] * k)
    for _ in range(2):
        observation, *_ = env.step(expose)
        hint = observation["belief"][-k:]
        observation, *_ = env.step(np.concatenate([[0.25, 0.0], hint]))
    _, reward, terminated, _, info = env.step(np.array([0.9, 0.0] + [0.0] * k))
    assert terminated
    assert info["truth"]["outcome"] == "right", info["truth"]
    assert reward == pytest.approx(1.0)


def test_reset_mounts_where_told():
    env = LaueAlignEnv(faults="none")
    env.reset(seed=0, options={"u": np.eye(3)})
    np.testing.assert_allclose(env.loop.world.twin.truth.u, np.eye(3))


def test_actions_and_decisions_are_inverse():
    env = LaueAlignEnv()
    _, info = env.reset(seed=0)
    seen = info["observation"]
    for decision in (Move({"omega": 12.5, "chi": -0.01, "phi": 0.0}), Expose(20.0), GiveUp("")):
        again = env.coder.decision(env.coder.encode(decision, seen), seen)
        assert type(again) is type(decision)
        if isinstance(decision, Move):
            assert again.axes == pytest.approx(decision.axes, abs=1e-4)
        if isinstance(decision, Expose):
            assert again.seconds == pytest.approx(decision.seconds, rel=1e-4)
    np.testing.assert_allclose(change_of(action_of([-30.0, 0.05])), [-30.0, 0.05])
    assert change_of(1.0) == LARGEST_CHANGE
    assert [ACTS[act_of(x)] for x in (-1, -0.51, -0.5, -0.01, 0, 0.49, 0.5, 1)] == [
        "give up", "give up", "expose", "expose", "move", "move", "declare", "declare",
    ]  # fmt: skip
    assert not isinstance(env.coder.decision([1, 0, 0, 0, 0], seen), Declare)


def test_wrong_arguments_say_what_is_allowed():
    with pytest.raises(ValueError, match="none, default, lab, harsh"):
        named_faults("some")
    with pytest.raises(ValueError, match=r"spots.*image"):
        LaueAlignEnv(observation="sound")
    env = LaueAlignEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="5 finite numbers"):
        env.step(np.array([np.nan] * 5))
    assert named_faults(Faults.none()) == Faults.none()


def test_module_form_needs_no_import():
    """Gymnasium 1.x has no plug-ins any more: ``module:id`` is how an id is found without an import."""
    code = (
        "import gymnasium, importlib; importlib.import_module('lauepilot.envs'); print(*gymnasium.registry)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert set(IDS) <= set(out.stdout.split())
    made = gymnasium.make("lauepilot.envs:lauepilot/LaueAlign-v0")
    assert isinstance(made.unwrapped, LaueAlignEnv)
