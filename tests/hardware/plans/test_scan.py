from __future__ import annotations

import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted

from lauepilot.hardware.errors import InterlockError, MotionError
from lauepilot.hardware.plans.scan import listed, scan_orientations
from lauepilot.simulator.forbidden import Forbidden


def events(documents, name="primary"):
    uids = {d["uid"] for kind, d in documents if kind == "descriptor" and d["name"] == name}
    return [d["data"] for kind, d in documents if kind == "event" and d["descriptor"] in uids]


def stop(documents):
    return next(d for kind, d in documents if kind == "stop")


def scan(world, positions, **kwargs):
    return scan_orientations(world.camera, world.goniometer, positions, 2.0, **kwargs)


def test_a_grid_gives_a_table(engine, world, documents):
    table = engine(
        scan(
            world,
            {"omega": [0, 10], "chi": [-5.0, 0.0, 5.0]},
            measure=lambda frame: {"brightest": float(frame.counts.max())},
            md={"sample": "si 7"},
        )
    ).plan_result
    assert len(table) == 6
    np.testing.assert_array_equal(table["omega"], [0, 0, 0, 10, 10, 10])
    np.testing.assert_array_equal(table["chi"], [-5, 0, 5] * 2)
    np.testing.assert_array_equal(table["dose_s"], 2.0 * np.arange(1, 7))
    recorded = events(documents)
    assert [e["goniometer_chi"] for e in recorded] == [-5, 0, 5] * 2
    assert [e["camera_image"].max() for e in recorded] == table["brightest"].tolist()
    assert table["photons"][3] == recorded[3]["camera_image"].sum()
    assert [row["omega"] for row in table.rows()][3] == 10.0
    with pytest.raises(KeyError, match="there are omega, chi, phi"):
        table["kappa"]
    start = documents[0][1]
    assert (start["plan_name"], start["num_points"], start["sample"]) == ("scan_orientations", 6, "si 7")
    assert start["plan_args"]["positions"][4] == {"omega": 10.0, "chi": 0.0}
    assert stop(documents)["exit_status"] == "success"


def test_a_list_moves_only_what_it_names(engine, world):
    world.backend.positions["phi"] = 33.0
    table = engine(scan(world, [{"omega": 3.0}, {"chi": 4.0}])).plan_result
    assert [tuple(r[n] for n in ("omega", "chi", "phi")) for r in table.rows()] == [(3, 0, 33), (3, 4, 33)]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([{"omega": 1.0}, {"omega": 1000.0}], "Position 2 of 2.*limits are -100 to 100"),
        ([{"omega": float("nan")}], "Position 1"),
        ([{"kappa": 1.0}], "Position 1.*has omega, chi, phi"),
        ({"omega": [0.0, 200.0]}, "Nothing was moved"),
    ],
)
def test_everything_is_looked_at_before_the_first_move(engine, world, documents, positions, message):
    with pytest.raises(InterlockError, match=message):
        engine(scan(world, positions))
    assert world.backend.moves == []
    assert documents == []


def test_ways_between_positions_count_too(engine, world):
    zone = Forbidden({"omega": (10.0, 20.0)}, "the table's edge")
    with pytest.raises(InterlockError, match=r"Position 2 of 2.*table's edge"):
        engine(scan(world, {"omega": [5.0, 30.0]}, obstacles=[zone]))
    assert world.backend.moves == []


@pytest.mark.parametrize("positions", [[], {}, [{}], {"omega": []}, 3.0, "omega"])
def test_no_positions_are_refused(positions):
    with pytest.raises(ValueError, match="position"):
        listed(positions)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), "ten", True])
def test_no_time_is_refused(engine, world, seconds):
    with pytest.raises(ValueError, match="exposure_s must be a positive"):
        engine(scan_orientations(world.camera, world.goniometer, [{"omega": 1.0}], seconds))


def test_an_axis_that_stops_short_ends_the_scan(engine, world, documents):
    world.backend.stuck = ("chi", 2.0)
    with pytest.raises(MotionError, match="'chi' stopped short"):
        engine(scan(world, {"chi": [0.5, 2.0, 4.0]}))
    assert stop(documents)["exit_status"] == "fail"


@pytest.mark.parametrize("how", ["abort", "stop", "halt"])
def test_ended_at_any_message_motors_are_at_rest_and_the_run_closed(
    engine, world, documents, how, interrupting
):
    positions = {"omega": [0.0, 5.0]}
    n = interrupting.count(scan(world, positions))
    for at in range(2, n, 5):
        documents.clear()
        with pytest.raises(RunEngineInterrupted):
            engine(interrupting(at)(scan(world, positions)))
        getattr(engine, how)()
        assert engine.state == "idle"
        assert not world.goniometer.busy
        assert not world.camera.busy
        opened = [d for kind, d in documents if kind == "start"]
        closed = [d for kind, d in documents if kind == "stop"]
        assert len(opened) == len(closed)
        if closed and "frames" not in closed[0].get("reason", ""):
            assert closed[0]["exit_status"] == {"abort": "abort", "stop": "success", "halt": "abort"}[how]


def test_paused_at_any_message_and_resumed_the_table_is_the_same(engine, world, documents, interrupting):
    positions = {"omega": [0.0, 5.0, -5.0]}
    n = interrupting.count(scan(world, positions))
    for at in range(4, n, 5):
        with pytest.raises(RunEngineInterrupted):
            engine(interrupting(at)(scan(world, positions)))
        table = engine.resume().plan_result
        np.testing.assert_array_equal(table["omega"], [0.0, 5.0, -5.0])
    assert {d["exit_status"] for kind, d in documents if kind == "stop"} == {"success"}


def test_an_exception_at_any_message_closes_the_run_as_failed(engine, world, documents, interrupting):
    n = interrupting.count(scan(world, {"omega": [0.0, 5.0]}))
    for at in range(4, n - 8, 4):
        documents.clear()
        with pytest.raises(RuntimeError, match="plug"):
            engine(
                interrupting(at, RuntimeError("somebody pulled a plug"))(scan(world, {"omega": [0.0, 5.0]}))
            )
        assert stop(documents)["exit_status"] == "fail"
        assert not world.goniometer.busy
