from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted
from hypothesis import given, settings
from hypothesis import strategies as st

from lauepilot.bench.hardware.limits import decide_at_random, measure, wild_game
from lauepilot.hardware.errors import InterlockError
from lauepilot.hardware.interlock import Interlock, guarded
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.plans.parts import move_to
from lauepilot.perception.observation import Declare, Expose, GiveUp, Move
from lauepilot.simulator.forbidden import Forbidden
from lauepilot.simulator.instrument import InstrumentError, load_instrument, parse_instrument
from lauepilot.simulator.orientation import Orientation

LAB = load_instrument("lab")
HOSE = Forbidden({"omega": (40.0, 60.0), "chi": (-5.0, 20.0)}, "the cryostat's hose")
HOME = {"omega": 0.0, "chi": 0.0, "phi": 0.0}


@pytest.fixture
def interlock():
    return Interlock(LAB.goniometer, 100.0, (HOSE,))


class Shifty(Mapping):
    """A mapping that shows another value at each look."""

    def __init__(self, *values):
        self.values_left = list(values)

    def __getitem__(self, key):
        return self.values_left.pop(0)

    def __iter__(self):
        return iter(["omega"])

    def __len__(self):
        return 1


class Liar(float):
    """Is 1 when it is compared, 5000 when it is made a float."""

    def __float__(self):
        return 5000.0


class Chameleon(str):
    """Equal to every name."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return True


def test_what_is_carried_out_is_what_was_checked(interlock):
    assert interlock.check(Move(Shifty(5.0, 9999.0)), HOME) == Move({"omega": 5.0})
    axes = {"omega": np.float32(1.5), "chi": np.int64(3)}
    frozen = interlock.check(Move(axes), HOME)
    axes["omega"] = 1e6
    assert frozen.axes == {"omega": 1.5, "chi": 3.0}
    assert {type(v) for v in frozen.axes.values()} == {float}
    with pytest.raises(InterlockError, match="5000"):
        interlock.check(Move({"omega": Liar(1.0)}), HOME)
    with pytest.raises(InterlockError, match="names axis 'kappa'"):
        interlock.check(Move({Chameleon("kappa"): 1.0}), HOME)
    assert type(interlock.check(Expose(np.float64(2.0))).seconds) is float


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        "5",
        b"5",
        None,
        1j,
        [1.0],
        np.array(1.0),
        {},
        1e308,
    ],
)
def test_what_is_no_number_is_refused(interlock, value):
    with pytest.raises(InterlockError, match=r"not a finite number|limits are"):
        interlock.check(Move({"omega": value}), HOME)
    with pytest.raises(InterlockError, match="more than 0 and up to"):
        interlock.check(Expose(value), HOME)


class Grenade:
    @property
    def axes(self):
        raise RuntimeError("bang")


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (Move([("omega", 1.0)]), "no mapping"),
        (Move({3: 1.0}), "a name is a string"),
        (Move({}), "named no axis"),
        (Move({"kappa": 0.0}), "names axis 'kappa'"),
        (Declare(None), "could not be read"),
        (Declare(Orientation(np.full((3, 3), np.nan), np.eye(3), np.eye(3))), "no rotation"),
        (Declare(Orientation(np.diag([1, 1, -1]), np.eye(3), np.eye(3))), "no rotation"),
        (Grenade(), "must return a Move"),
        (
            type("Bomb", (Move,), {"axes": property(lambda self: 1 / 0), "__init__": lambda self: None})(),
            "ZeroDiv",
        ),
    ],
)
def test_wild_shapes_are_refused_in_words(interlock, decision, message, caplog):
    with (
        caplog.at_level(logging.ERROR, logger="lauepilot.hardware"),
        pytest.raises(InterlockError, match=message),
    ):
        interlock.check(decision, HOME)
    assert "refused" in caplog.text


def test_paths_through_forbidden_regions_are_refused(interlock):
    with pytest.raises(InterlockError, match=r"hose.*several moves"):
        interlock.check(Move({"omega": 50.0}), HOME)
    with pytest.raises(InterlockError, match="hose"):  # the end is free, the way is not
        interlock.check(Move({"omega": 80.0}), HOME)
    raised = {**HOME, "chi": 30.0}
    assert interlock.check(Move({"omega": 80.0}), raised) == Move({"omega": 80.0})
    with pytest.raises(InterlockError, match="hose"):  # chi may come down before omega is past
        interlock.check(Move({"omega": 80.0, "chi": 0.0}), raised)
    assert interlock.check(Move({"chi": 0.0}), {**raised, "omega": 80.0})


def test_without_a_trusted_place_nothing_moves(interlock):
    with pytest.raises(InterlockError, match="where its axes stand"):
        interlock.check(Move({"omega": 1.0}))
    for here in ({"omega": 0.0}, {**HOME, "phi": math.nan}, {**HOME, "phi": "?"}):
        with pytest.raises(InterlockError, match="reads"):
            interlock.check(Move({"omega": 1.0}), here)


def test_decisions_on_stale_positions_are_refused(interlock, orientation):
    for decision in (Move({"omega": 1.0}), Declare(orientation)):
        assert interlock.check(decision, HOME, HOME)
        with pytest.raises(InterlockError, match=r"'chi' at 0 deg, but it now reads 2: somebody moved it"):
            interlock.check(decision, {**HOME, "chi": 2.0}, HOME)
    assert interlock.check(GiveUp("no"), {**HOME, "chi": 2.0}, HOME)


def test_who_cannot_check_a_path_does_not_free_it():
    class Broken:
        def problem(self, start, goal):
            raise KeyError("body 7")

    with pytest.raises(InterlockError, match="Broken could not check"):
        Interlock(LAB.goniometer, 1.0, (Broken(),)).check(Move({"omega": 1.0}), HOME)


def test_obstacles_cannot_change_what_is_carried_out():
    class Meddler:
        def problem(self, start, goal):
            goal["omega"] = 1e9
            return ""

    assert Interlock(LAB.goniometer, 1.0, (Meddler(),)).check(Move({"omega": 1.0}), HOME).axes == {
        "omega": 1.0
    }


def test_the_plan_refuses_with_the_instruments_own_regions(engine, world, scripted, target, documents):
    world.backend.instrument = replace(world.backend.instrument, forbidden=(HOSE,))
    agent = scripted(Move({"omega": 80.0}))
    result = engine(
        align_crystal(world.camera, world.goniometer, agent, target, observer=world.observer)
    ).plan_result
    assert result.outcome == "refused"
    assert "the cryostat's hose" in result.reason
    assert world.backend.moves == []


@pytest.mark.parametrize("decision", [Declare(None), Move([("omega", 1.0)]), Expose(10**400), Move(None)])
def test_the_plan_records_what_cannot_even_be_read(engine, world, scripted, target, documents, decision):
    result = engine(
        align_crystal(world.camera, world.goniometer, scripted(decision), target, observer=world.observer)
    ).plan_result
    assert result.outcome == "refused"
    (event,) = [doc for name, doc in documents if name == "event"]
    assert event["data"]["align_decision"] == type(decision).__name__
    assert event["data"]["align_verdict"].startswith("refused: The agent")


def test_the_plan_does_not_carry_out_an_object_that_changes(engine, world, scripted, target):
    agent = scripted(Move(Shifty(5.0, 90.0, 95.0, 99.0)), GiveUp("enough"))
    engine(align_crystal(world.camera, world.goniometer, agent, target, observer=world.observer))
    assert world.backend.moves == [{"omega": 5.0}]


def test_the_plan_refuses_to_declare_what_somebody_moved(engine, world, target, orientation):
    class Distracted:
        def reset(self, task):
            pass

        def decide(self, observation):
            world.backend.positions["chi"] += 3.0
            return Declare(orientation)

        def state(self):
            return {}

    result = engine(
        align_crystal(world.camera, world.goniometer, Distracted(), target, observer=world.observer)
    ).plan_result
    assert result.outcome == "refused"
    assert "somebody moved it" in result.reason


def test_any_plan_can_be_guarded(engine, world, interlock):
    gonio = world.goniometer
    engine(guarded(bps.mv(gonio, {"omega": 35.0}), gonio, interlock))
    assert gonio.position["omega"] == 35.0
    with pytest.raises(InterlockError, match="hose"):
        engine(guarded(bp.scan([world.camera], gonio.omega, 30.0, 50.0, 5), gonio, interlock))
    assert world.backend.positions["omega"] <= 40.0


def test_axes_underway_are_part_of_the_path(engine, slow_world, interlock):
    gonio = slow_world.goniometer
    slow_world.backend.positions["chi"] = 30.0

    def two_at_once():
        yield from bps.abs_set(gonio, {"omega": 80.0}, group="both")
        yield from bps.abs_set(gonio, {"chi": 0.0}, group="both")  # while omega is on its way over it

    with pytest.raises(InterlockError, match="hose"):
        engine(guarded(two_at_once(), gonio, interlock))
    gonio.stop()


def paused_on_the_way(engine, world, plan):
    """The plan, paused while the goniometer moves."""

    def watch():
        while not world.goniometer.busy:
            time.sleep(0.005)
        engine.request_pause()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(RunEngineInterrupted):
        engine(plan)
    watcher.join()
    assert not world.goniometer.busy


@pytest.mark.parametrize("how", ["guarded", "move_to", "align_crystal"])
@pytest.mark.parametrize("lowered", [False, True])
def test_a_move_said_again_after_a_pause_is_checked_again(
    engine, slow_world, scripted, target, documents, how, lowered
):
    """Above the hose the way was free; whoever lowers chi meanwhile must not have omega sent through it."""
    world, gonio = slow_world, slow_world.goniometer
    world.backend.instrument = replace(world.backend.instrument, forbidden=(HOSE,))
    world.backend.positions["chi"] = 30.0
    lock = Interlock.of(world.backend.instrument, 100.0)
    plan = {
        "guarded": lambda: guarded(bpp.pchain(bps.checkpoint(), bps.mv(gonio.omega, 80.0)), gonio, lock),
        "move_to": lambda: bpp.pchain(bps.checkpoint(), move_to(gonio, {"omega": 80.0}, lock)),
        "align_crystal": lambda: align_crystal(
            world.camera, gonio, scripted(Move({"omega": 80.0}), GiveUp("there")), target, observer=world.observer
        ),
    }[how]  # fmt: skip
    paused_on_the_way(engine, world, plan())
    assert world.backend.positions["omega"] < 40.0
    stopped = dict(world.backend.positions)
    if not lowered:
        engine.resume()
        assert world.backend.positions["omega"] == 80.0
        return
    world.backend.positions["chi"] = stopped["chi"] = 0.0
    if how == "align_crystal":
        result = engine.resume().plan_result
        assert result.outcome == "refused"
        assert "hose" in result.reason
    else:
        with pytest.raises(InterlockError, match="hose"):
            engine.resume()
    assert world.backend.positions == stopped


def test_forbidden_regions_come_from_the_instruments_file():
    import importlib.resources

    text = (importlib.resources.files("lauepilot.simulator") / "instruments" / "lab.yaml").read_text("utf-8")
    zone = "\nforbidden:\n  - {axes: {omega: [40, 60], chi: [-5, 20]}, why: the cryostat's hose}\n"
    (read,) = parse_instrument(text + zone).forbidden
    assert dict(read.axes) == dict(HOSE.axes)
    assert Interlock.of(parse_instrument(text + zone), 1.0).obstacles == (read,)
    assert load_instrument("lab").forbidden == ()
    for wrong, said in [
        (zone.replace("chi", "kappa"), "no axis 'kappa'"),
        (zone.replace("[40, 60]", "[60, 40]"), "low <= high"),
        (zone.replace("the cryostat's hose", "''"), "why"),
    ]:
        with pytest.raises(InstrumentError, match=said):
            parse_instrument(text + wrong)


@settings(max_examples=300, deadline=None)
@given(
    axes=st.dictionaries(
        st.sampled_from(["omega", "chi", "phi", "kappa", ""]) | st.text(max_size=3),
        st.floats() | st.integers() | st.booleans() | st.none() | st.text(max_size=3) | st.floats(-110, 110),
        max_size=4,
    ),
    start=st.fixed_dictionaries({name: st.floats(-90, 90) for name in HOME}),
)
def test_nothing_passes_that_breaks_a_limit_or_touches_a_region(axes, start):
    try:
        frozen = Interlock(LAB.goniometer, 1.0, (HOSE,)).check(Move(axes), start)
    except InterlockError:
        return
    for name, value in frozen.axes.items():
        low, high = LAB.goniometer.axis(name).limits
        assert low - 1e-9 <= value <= high + 1e-9
        assert value == axes[name]  # refused or as asked: never clipped
    end = {**start, **frozen.axes}
    # Against sampled paths at random speeds, which the interlock never looks at.
    rng = np.random.default_rng(0)
    for _ in range(20):
        share = rng.random(3)
        at = {n: start[n] + s * (end[n] - start[n]) for n, s in zip(HOME, share, strict=True)}
        assert not (40 <= at["omega"] <= 60 and -5 <= at["chi"] <= 20)


def test_wild_games_are_wild_and_harmless():
    tally = wild_game(400, seed=3)
    assert (tally.limit_violations, tally.collisions, tally.clipped, tally.unlogged) == (0, 0, 0, 0)
    assert tally.allowed > 50
    assert tally.refused > 100
    assert tally.refused_in_the_way > 5


def test_the_figure_counts_what_an_open_gate_lets_through(monkeypatch):
    """The count of violations is not blind: without the interlock it is not zero."""
    monkeypatch.setattr(Interlock, "check", lambda self, decision, *_: decision)
    tally = wild_game(200, seed=3)
    assert tally.limit_violations > 0
    assert tally.collisions > 0


def test_the_figure():
    (figure,) = measure(True, lambda text: None)
    assert (figure.name, figure.value, figure.unit) == ("limit_violations", 0.0, "count")
    assert figure.settings["collisions"] == 0
    kinds = {type(decide_at_random(np.random.default_rng(n), LAB.goniometer)).__name__ for n in range(200)}
    assert {"Move", "Expose", "Declare", "GiveUp"} < kinds
