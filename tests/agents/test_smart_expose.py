"""`SmartExpose`: exposures told from what the last frame was worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lauepilot.agents.index_and_move import IndexAndMove
from lauepilot.agents.smart_expose import SmartExpose, SmartSettings
from lauepilot.envs.align.env import shared_observer
from lauepilot.envs.play import build_loop, play
from lauepilot.perception.observation import Belief, Expose, Observation
from lauepilot.perception.task import Task
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation

SI, LAB = load_crystal("si"), load_instrument("lab")
TASK = Task.usual(SI, LAB)
REST = LAB.goniometer.rest


def seen(belief, exposure_s, n=1):
    return Observation(REST, LAB.goniometer, 10.0, exposure_s, n, exposure_s, belief=belief, belief_axes=REST)


def an_agent(**settings):
    agent = SmartExpose(SmartSettings(**settings))
    agent.reset(TASK)
    return agent


def test_evidence_tells_how_long():
    agent = an_agent(wanted_nats=200.0)
    unsure = Belief(None, 0.1, 0, 0, float("nan"), evidence=40.0)
    decision = agent.decide(seen(unsure, 2.0))
    assert isinstance(decision, Expose)
    assert decision.seconds == pytest.approx(10.0)
    assert "40 nats" in decision.reason


def test_without_evidence_it_grows_as_the_parent_does():
    agent = an_agent()
    for evidence in (float("nan"), -20.0, 3.0):
        agent.reset(TASK)
        nothing = Belief(None, 0.0, 0, 0, float("nan"), evidence=evidence)
        assert agent.decide(seen(nothing, 2.0)).seconds == pytest.approx(8.0)


@pytest.mark.parametrize("sigma_deg", [0.05, 0.2])
def test_the_verifying_frame_is_as_long_as_the_tolerance_takes(sigma_deg):
    """Variance falls with the exposure: photons that come evenly."""
    settings = SmartSettings()
    agent = an_agent()
    u = TASK.target.laboratory_u(SI.b)  # on target already
    belief = Belief(Orientation(u, SI.b, np.eye(3) * np.deg2rad(sigma_deg) ** 2), 0.9999, 50, 50, 0.1)
    decision = agent.decide(seen(belief, 2.0))
    assert isinstance(decision, Expose)
    wanted = settings.ample * 0.9 * TASK.tolerance_deg / settings.sigmas
    both = 1.0 / (1.0 / sigma_deg**2 + decision.seconds / 2.0 / sigma_deg**2)
    assert np.sqrt(both) == pytest.approx(wanted, rel=0.05) or decision.seconds == pytest.approx(80.0)


@pytest.mark.slow
def test_weak_crystals_take_less_time_than_by_doubling():
    faults = replace(Faults.lab(), power_spread=1.0, power_factor=0.05)
    loop = build_loop(TASK, faults, np.random.default_rng(0), shared_observer(SI, LAB))
    times = {}
    for make in (IndexAndMove, SmartExpose):
        games = [play(loop, make(), np.random.default_rng((3, k))) for k in range(6)]
        assert all(game.outcome == "right" for game in games)
        times[make] = np.mean([game.seconds for game in games])
    assert times[SmartExpose] < 0.7 * times[IndexAndMove]


def test_state_of_one_rule_is_not_anothers():
    agent = an_agent()
    agent.decide(seen(Belief(None, 0.0, 0, 0, float("nan")), 2.0))
    again = an_agent()
    again.restore(agent.state())
    assert again.state() == agent.state()
    other = IndexAndMove()
    other.reset(TASK)
    with pytest.raises(ValueError, match="smart-expose"):
        other.restore(agent.state())
