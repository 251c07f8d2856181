"""Players on the Twin and on made-up observations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lauepilot.agents.baselines import Oracle, Random
from lauepilot.agents.benchmark import play_many
from lauepilot.agents.bookkeeping import (
    AxesTrust,
    combined,
    play_covariance,
    relevant_sigma_deg,
    travel_covariance,
)
from lauepilot.agents.index_and_move import IndexAndMove, RuleSettings
from lauepilot.envs.align.env import LaueAlignEnv, shared_observer
from lauepilot.envs.play import Agent, play
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.protocols import Agent as PlansAgent
from lauepilot.hardware.protocols import Task as PlansTask
from lauepilot.perception.observation import (
    Belief,
    Declare,
    Expose,
    GiveUp,
    Move,
    Observation,
)
from lauepilot.perception.task import Task, usual_target
from lauepilot.simulator.conventions import random_rotation, rotation_matrix, rotation_vector
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.goniometer import Axis, Goniometer
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.target import Alignment, Target
from lauepilot.simulator.twin import Twin

SI, LAB = load_crystal("si"), load_instrument("lab")
TASK = Task.usual(SI, LAB)
SHARP = np.eye(3) * np.deg2rad(0.01) ** 2


class FakeInstrument:
    """A perfect instrument that tells beliefs without frames; the k-th has the k-th ``confidence``, or the last."""

    def __init__(self, u, confidence=(1.0,), covariance=SHARP, off=(0.0, 0.0, 0.0), task=TASK):
        self.u, self.confidence, self.covariance, self.off, self.task = u, confidence, covariance, off, task
        self.axes = dict.fromkeys(task.instrument.goniometer.names, 0.0)
        self.frames = 0
        self.dose = self.clock = 0.0
        self.belief, self.at, self.last = None, None, 0.0

    def observation(self):
        return Observation(
            dict(self.axes), self.task.instrument.goniometer, self.clock, self.dose, self.frames, self.last,
            belief=self.belief, belief_axes=self.at,
        )  # fmt: skip

    def carry_out(self, decision):
        if isinstance(decision, Move):
            self.task.instrument.goniometer.check(decision.axes)
            self.clock += self.task.instrument.goniometer.move_time_s(self.axes, decision.axes)
            self.axes |= decision.axes
        elif isinstance(decision, Expose):
            p = self.confidence[min(self.frames, len(self.confidence) - 1)]
            self.frames += 1
            self.last = decision.seconds
            self.dose += decision.seconds
            self.clock += decision.seconds
            u = rotation_matrix(self.off) @ self.u_lab()
            self.belief = Belief(Orientation(u, SI.b, self.covariance), p, 50, 50, 0.1)
            self.at = dict(self.axes)

    def u_lab(self):
        return self.task.instrument.goniometer.matrix(self.axes) @ self.u

    def play(self, agent, most=60):
        agent.reset(self.task)
        done = []
        for _ in range(most):
            done.append(agent.decide(self.observation()))
            if isinstance(done[-1], Declare | GiveUp):
                return done
            self.carry_out(done[-1])
        raise AssertionError("no end")


@pytest.mark.parametrize("seed", range(5))
def test_sure_frames_need_two(seed):
    """On a perfect instrument: look, move, look, declare; every decision says why."""
    world = FakeInstrument(random_rotation(np.random.default_rng(seed)))
    done = world.play(IndexAndMove())
    assert [type(d) for d in done] == [Expose, Move, Expose, Declare]
    assert all(d.reason for d in done)
    assert np.rad2deg(TASK.target.error(world.u_lab(), SI)) < 1e-3
    np.testing.assert_allclose(done[-1].orientation.u, world.u_lab(), atol=1e-9)


def test_already_there_is_declared_at_once():
    u = usual_target().laboratory_u(SI.b)
    assert [type(d) for d in FakeInstrument(u).play(IndexAndMove())] == [Expose, Declare]


def test_small_correction_comes_back_from_one_side():
    """0.2 degrees off after the big move: the correction ends in the direction of the axes' last motion."""
    world = FakeInstrument(random_rotation(np.random.default_rng(1)))
    agent = IndexAndMove()
    agent.reset(TASK)
    senses: dict[str, float] = {}
    moves = 0
    while True:
        decision = agent.decide(world.observation())
        if isinstance(decision, Declare):
            break
        if isinstance(decision, Move):
            moves += 1
            travel = {n: v - world.axes[n] for n, v in decision.axes.items() if abs(v - world.axes[n]) > 1e-3}
            if moves == 1:
                senses = {n: np.sign(t) for n, t in travel.items()}
                world.carry_out(decision)
                world.u = rotation_matrix([0.003, 0.002, -0.002]) @ world.u  # the axes lied
                continue
            last = travel
        world.carry_out(decision)
    assert moves >= 2
    for name, t in last.items():
        assert np.sign(t) == senses[name], name


def test_doubt_is_met_with_longer_frames_then_other_sides():
    world = FakeInstrument(random_rotation(np.random.default_rng(0)), confidence=(0.5,))
    done = world.play(IndexAndMove())
    exposures = [d.seconds for d in done if isinstance(d, Expose)]
    assert exposures[:4] == sorted(exposures[:4])
    assert exposures[0] < exposures[3]
    assert isinstance(done[-1], GiveUp)
    assert any(isinstance(d, Move) for d in done)
    assert world.frames <= TASK.max_exposures
    assert world.dose <= TASK.max_dose_s


def test_agreeing_frames_add_up():
    """Three frames of 95 % that agree are surer than 99.9 %."""
    world = FakeInstrument(random_rotation(np.random.default_rng(0)), confidence=(0.95,))
    done = world.play(IndexAndMove())
    assert isinstance(done[-1], Declare)
    assert sum(isinstance(d, Expose) for d in done) == 3


def test_a_false_first_belief_is_corrected():
    """The first frame is indexed wrongly, with 95 %: later frames overrule it."""
    world = FakeInstrument(random_rotation(np.random.default_rng(0)), confidence=(0.95, 0.999999))
    world.off = np.array([0.2, 0.1, 0.0])
    agent = IndexAndMove()
    agent.reset(TASK)
    for _ in range(30):
        decision = agent.decide(world.observation())
        if isinstance(decision, Declare):
            break
        world.carry_out(decision)
        if world.frames == 1 and isinstance(decision, Expose):
            world.off = np.zeros(3)
    assert isinstance(decision, Declare)
    assert np.rad2deg(TASK.target.error(world.u_lab(), SI)) < 0.1


def test_coarse_frames_are_not_declared():
    """Errors of 0.2 degrees never fit into 0.1: it says so, in the end."""
    world = FakeInstrument(
        random_rotation(np.random.default_rng(0)), covariance=np.eye(3) * np.deg2rad(2.0) ** 2
    )
    done = world.play(IndexAndMove())
    assert isinstance(done[-1], GiveUp)
    assert "precise" in done[-1].reason or "exposures" in done[-1].reason


def test_out_of_reach_is_said():
    axes = (Axis("omega", "rotation", (0, 1, 0), (-5, 5), 5.0),)
    narrow = Task.usual(
        SI,
        type(LAB)(LAB.name, LAB.title, LAB.beam, LAB.detectors, Goniometer(axes), LAB.sample, 60.0, ""),
    )
    world = FakeInstrument(random_rotation(np.random.default_rng(3)), task=narrow)
    done = world.play(IndexAndMove())
    assert isinstance(done[-1], GiveUp)
    assert "cannot be reached" in done[-1].reason


def one_axis(off_deg):
    """A world with one axis of 45 degrees each way, which comes as near to the target as ``off_deg``."""
    axes = (Axis("omega", "rotation", (0, 1, 0), (-45, 45), 5.0),)
    narrow = Task.usual(
        SI,
        type(LAB)(LAB.name, LAB.title, LAB.beam, LAB.detectors, Goniometer(axes), LAB.sample, 60.0, ""),
    )
    aligned = rotation_matrix([np.deg2rad(off_deg), 0.0, 0.0]) @ usual_target().laboratory_u(SI.b)
    return FakeInstrument(rotation_matrix([0.0, np.deg2rad(30.0), 0.0]) @ aligned, task=narrow)


def test_near_enough_is_not_out_of_reach():
    """No setting is exact, but one lies within the tolerance: it goes there, looks, and declares."""
    world = one_axis(0.05)
    done = world.play(IndexAndMove())
    assert [type(d) for d in done] == [Expose, Move, Expose, Declare]
    assert world.axes["omega"] == pytest.approx(-30.0, abs=0.01)
    assert np.rad2deg(TASK.target.error(world.u_lab(), SI)) == pytest.approx(0.05, abs=0.002)


def test_a_little_too_far_is_looked_at_before_giving_up():
    """0.15 degrees may be within what the axes lie about: only the frame there tells."""
    done = one_axis(0.15).play(IndexAndMove())
    assert [type(d) for d in done][:3] == [Expose, Move, Expose]
    assert isinstance(done[-1], GiveUp)
    assert "cannot be reached" in done[-1].reason


@pytest.mark.parametrize(
    "make", [IndexAndMove, lambda: Random(np.random.default_rng(0)), lambda: Oracle(None)]
)
def test_players_fit_the_plan(make):
    agent = make()
    assert isinstance(agent, PlansAgent)
    agent.reset(PlansTask(usual_target(), SI, LAB, 50, 3600.0, 600.0))
    json.dumps(agent.state())


def test_task_says_what_is_missing():
    with pytest.raises(ValueError, match="crystal"):
        Task.of(PlansTask(usual_target(), None, LAB, 50, 3600.0, 600.0))
    with pytest.raises(ValueError, match="tolerance_deg must be positive"):
        Task.usual(SI, LAB, tolerance_deg=0.0)


def test_state_is_plain_at_any_time():
    agent: Agent = IndexAndMove()
    json.dumps(agent.state())
    world = FakeInstrument(np.eye(3))
    world.play(agent)
    state = json.loads(json.dumps(agent.state()))
    assert state["confidence"] > 0.999
    np.testing.assert_allclose(state["u_holder"], np.eye(3), atol=1e-9)


# ---------------------------------------------------------------------------------------------------- bookkeeping


def test_travel_covariance_is_that_of_misdirected_axes():
    """Against a thousand goniometers with axes off by 0.1 degrees."""
    start, end = {"omega": 5.0, "chi": -20.0, "phi": 0.0}, {"omega": 45.0, "chi": 10.0, "phi": -70.0}
    believed = LAB.goniometer
    u = random_rotation(np.random.default_rng(9))
    errors = []
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        true = Faults(axis_misdirection_deg=0.1).draw(LAB, rng).instrument.goniometer
        # What is believed was seen at the start, without error.
        holder = believed.matrix(start).T @ true.matrix(start) @ u
        errors.append(rotation_vector(true.matrix(end) @ u @ (believed.matrix(end) @ holder).T))
    measured = np.sqrt(np.trace(np.cov(np.array(errors).T)))
    said = np.sqrt(np.trace(travel_covariance(believed, start, end, AxesTrust(0.1, 0.0))))
    assert 0.6 < said / measured < 1.6


def test_play_covariance_counts_full_widths():
    c = play_covariance(LAB.goniometer, {}, {"chi": 0.12})
    np.testing.assert_allclose(c, np.diag([0.0, 0.0, np.deg2rad(0.12) ** 2 / 12]), atol=1e-12)


def test_free_turns_do_not_count():
    about_beam = np.diag([1.0, 4.0, 100.0]) * np.deg2rad(0.01) ** 2
    assert relevant_sigma_deg(usual_target(), about_beam) == pytest.approx(0.02)
    full = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)), Alignment("hkl", (1, 0, 0), (0, 1, 0)))
    assert relevant_sigma_deg(full, about_beam) == pytest.approx(0.1)


def test_combined_halves_the_variance_of_equals():
    u = random_rotation(np.random.default_rng(0))
    w = np.array([2e-4, 0.0, 0.0])
    a, b = Orientation(u, SI.b, SHARP), Orientation(rotation_matrix(w) @ u, SI.b, SHARP)
    both = combined(a, b)
    np.testing.assert_allclose(both.covariance, SHARP / 2)
    np.testing.assert_allclose(rotation_vector(both.u @ u.T), w / 2, atol=1e-12)


# ------------------------------------------------------------------------------------------------- on the real Twin


def test_the_rule_wins_on_the_twin_at_little_more_than_the_oracles_time():
    rule = play_many("index-and-move", "si", games=6)
    oracle = play_many("oracle", "si", games=6)
    assert rule.row()["wrong"] == 0
    assert rule.row()["success"] == 1.0
    assert rule.row()["miss_worst_deg"] < 0.1
    assert oracle.row()["success"] == 1.0
    assert oracle.row()["mean_s"] < rule.row()["mean_s"] < oracle.row()["mean_s"] + 20.0
    # Same starts: the first move of both goes to the same place, but for what the frame did not tell.
    assert rule.row()["exposures"] <= 3.0


def test_random_play_ends_and_is_never_refused():
    score = play_many("random", "si", games=2)
    assert {e.outcome for e in score.episodes} <= {"gave_up", "right"}
    assert all(e.refused == 0 for e in score.episodes)


def test_games_do_not_depend_on_what_was_played_before():
    one = play_many("index-and-move", "si", games=2, seed=5).episodes[1]
    other = play_many("index-and-move", "si", games=3, seed=5).episodes[1]
    assert one.seconds == other.seconds
    assert one.miss_deg == other.miss_deg


def test_play_takes_an_environment():
    result = play(LaueAlignEnv(faults="none"), IndexAndMove(), np.random.default_rng(0))
    assert result.outcome == "right"
    assert result.refused == 0
    assert result.exposures == sum(isinstance(d, Expose) for d in result.decisions)
    assert result.orientation_error_deg < 0.1


class Reckless:
    """Asks for what does not exist."""

    def __init__(self):
        self.n = 0

    def reset(self, task):
        self.n = 0

    def decide(self, observation):
        self.n += 1
        return [Move({"omega": 1e4}), Move({"nonsense": 0.0}), Expose(1e9), Expose(float("nan")), GiveUp("")][
            self.n - 1
        ]

    def state(self):
        return {}


def test_limits_cannot_be_passed():
    result = play(LaueAlignEnv(), Reckless(), np.random.default_rng(0))
    assert result.refused == 4
    assert result.seconds == 0.0


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match="index-and-move"):
        play_many("nobody", "si")
    with pytest.raises(ValueError, match="harsh"):
        play_many("oracle", "si", faults="awful")


def test_environment_and_plan_are_one_loop():
    """The same crystal, faults and photons: in the environment's loop and in the Bluesky plan the agent does the same."""
    seed = 8
    env = LaueAlignEnv()
    played = play(env, IndexAndMove(), np.random.default_rng(seed))
    task = env.task
    twin = Twin(task.crystal, task.instrument, rng=np.random.default_rng(0))
    twin.reset(np.random.default_rng(seed))
    camera, goniometer = connect(twin)
    eyes = shared_observer(task.crystal, task.instrument)
    with run_engine() as engine:
        plan = align_crystal(
            camera, goniometer, IndexAndMove(), task.target, observer=eyes, crystal=task.crystal
        )
        result = engine(plan).plan_result
    assert result.outcome == "declared"
    assert [type(s.decision) for s in result.steps] == [type(d) for d in played.decisions]
    for step, decision in zip(result.steps, played.decisions, strict=True):
        if isinstance(decision, Move):
            assert step.decision.axes == pytest.approx(decision.axes)
        if isinstance(decision, Expose):
            assert step.decision.seconds == pytest.approx(decision.seconds)
    assert result.clock_s == pytest.approx(played.seconds)


@pytest.mark.slow
def test_processes_share_the_games():
    """The same games, whoever plays them."""
    alone = play_many("oracle", "si", games=4, seed=2)
    shared = play_many("oracle", "si", games=4, seed=2, processes=2)
    assert [e.seconds for e in alone.episodes] == [e.seconds for e in shared.episodes]


def test_a_restored_agent_goes_on_as_if_nothing_had_been():
    """Its state through JSON into another one, before every decision: the game is the same to the last bit."""
    start = np.array([0.1, -0.2, 0.15])

    def game(handed_on):
        instrument = FakeInstrument(
            rotation_matrix(start), confidence=(0.5, 0.93, 1.0), off=(0.002, 0.0, 0.001)
        )
        agent, told = IndexAndMove(), []
        agent.reset(TASK)
        for _ in range(30):
            decision = agent.decide(instrument.observation())
            told.append((type(decision).__name__, decision.reason, vars(decision).get("axes")))
            if isinstance(decision, Declare | GiveUp):
                return told
            if handed_on:
                state = json.loads(json.dumps(agent.state(), allow_nan=False))
                agent = IndexAndMove()
                agent.reset(TASK)
                agent.restore(state)
            instrument.carry_out(decision)
        raise AssertionError("no end")

    assert game(False) == game(True)
    other = IndexAndMove(RuleSettings(growth=2.0))
    other.reset(TASK)
    with pytest.raises(ValueError, match="same settings"):
        other.restore(IndexAndMove().state())
