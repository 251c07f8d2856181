"""The loop with a mock world and mock rules: no simulator, milliseconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lauepilot.envs.loop import GameOverError, Loop
from lauepilot.envs.seen import Seen
from lauepilot.envs.tasks import Align
from lauepilot.envs.world import RefusedError
from lauepilot.perception.observation import Declare, Expose, GiveUp, Move, Observation
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.orientation import Orientation

START = Observation({}, Goniometer(()), 0.0, 0.0, 0, 0.0)
ANY = Declare(Orientation(np.eye(3), np.eye(3), np.zeros((3, 3))))


class World:
    """Every move takes 10 s, negative exposures are refused; the truth is what the test says."""

    def __init__(self, miss=0.0, reach=True, u=None):
        self.clock_s = 0.0
        self.miss, self.reach, self.u = miss, reach, np.eye(3) if u is None else u

    def reset(self, rng, u=None):
        self.clock_s = 0.0
        return START

    def apply(self, decision):
        if isinstance(decision, Expose) and decision.seconds < 0:
            raise RefusedError("negative")
        if isinstance(decision, Move):
            self.clock_s += 10.0
        return replace(START, clock_s=self.clock_s)

    def miss_deg(self):
        return self.miss

    def misorientation_deg(self, u_lab):
        return float(np.rad2deg(Rotation.from_matrix(np.asarray(u_lab).T @ self.u).magnitude()))

    def reachable(self):
        return self.reach


def loop(world=None, **rules):
    made = Loop(world or World(), Align(time_unit_s=100.0, **rules))
    made.reset(np.random.default_rng(0))
    return made


def test_time_costs():
    turn = loop().step(Move({}))
    assert turn.terms["time"] == pytest.approx(-0.1)
    assert turn.reward == pytest.approx(-0.1)
    assert turn.outcome is None
    assert turn.observation.clock_s == 10.0


@pytest.mark.parametrize(
    ("miss", "reach", "decision", "outcome", "worth"),
    [
        (0.05, True, ANY, "right", 1.0),
        (0.1, True, ANY, "right", 1.0),
        (0.11, True, ANY, "wrong", -5.0),
        (0.0, True, GiveUp(""), "gave_up", -1.0),
        (9.0, False, GiveUp(""), "out_of_reach", 0.0),
    ],
)
def test_ends(miss, reach, decision, outcome, worth):
    game = loop(World(miss, reach))
    turn = game.step(decision)
    assert (turn.outcome, turn.reward) == (outcome, worth)
    assert turn.terminated
    assert not turn.truncated
    with pytest.raises(GameOverError, match="reset"):
        game.step(decision)


@pytest.mark.parametrize(
    ("off_deg", "sigma_deg", "outcome"),
    [
        (90.0, 0.01, "wrong"),
        (0.6, 0.01, "wrong"),
        (0.4, 0.01, "right"),
        (0.9, 0.2, "right"),
        (1.1, 0.2, "wrong"),
    ],
)
def test_on_target_with_a_wrong_orientation_declared_is_wrong(off_deg, sigma_deg, outcome):
    """The identity is declared; the crystal is on target, but turned by so much from it."""
    world = World(0.0, u=Rotation.from_rotvec([0.0, 0.0, off_deg], degrees=True).as_matrix())
    claim = Orientation(np.eye(3), np.eye(3), np.eye(3) * np.deg2rad(sigma_deg) ** 2)
    assert loop(world).step(Declare(claim)).outcome == outcome


def test_wrong_is_worse_than_giving_up_is_worse_than_time():
    rules = Align()
    assert rules.wrong < rules.gave_up < -60.0 / rules.time_unit_s


def test_refusals_are_counted_and_change_nothing():
    game = loop()
    turn = game.step(Expose(-1.0))
    assert turn.refused == "negative"
    assert turn.terms["refused"] < 0.0
    assert (game.n_refused, game.n_steps) == (1, 1)
    assert turn.observation is START


def test_steps_and_time_run_out():
    game = loop(max_steps=2)
    assert game.step(Expose(1.0)).outcome is None
    turn = game.step(Expose(1.0))
    assert turn.truncated
    assert not turn.terminated
    turn = loop(max_time_s=10.0).step(Move({}))
    assert turn.outcome == "too_long"
    assert turn.terms["gave_up"] == -1.0


def test_seen_observations_compare_by_content():
    a, b = (
        replace(START, normals=np.array([[1.0, np.nan, 0.0]])),
        replace(START, normals=np.array([[1.0, np.nan, 0.0]])),
    )
    assert a != b
    assert Seen.of(a) == Seen.of(b)
    assert Seen.of(a) != Seen.of(START)
    assert isinstance(Seen.of(a), Observation)
