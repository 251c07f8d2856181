"""Motion in one dimension: as long as the Twin charges for it, continuous, and never beyond its goal."""

from __future__ import annotations

import numpy as np
import pytest

from lauepilot.hardware.epics.travel import Travel
from lauepilot.simulator.goniometer import Axis, Goniometer

AXIS = Axis("omega", "rotation", (0.0, 1.0, 0.0), (-100.0, 100.0), 5.0, settle_s=1.0)


@pytest.mark.parametrize("goal", [-40.0, 0.3, 7.0])
def test_it_lasts_as_long_as_the_twin_charges(goal):
    travel = Travel(0.0, goal, AXIS.speed, 0.2, AXIS.settle_s)
    assert travel.duration_s == pytest.approx(
        Goniometer((AXIS,)).move_time_s({"omega": 0.0}, {"omega": goal})
    )
    assert travel.moving_s < travel.duration_s


@pytest.mark.parametrize("ramp_s", [0.0, 0.2, 3.0])
@pytest.mark.parametrize("goal", [-40.0, 0.05])
def test_place_is_the_integral_of_velocity_and_ends_at_the_goal(goal, ramp_s):
    travel = Travel(1.0, goal, 5.0, ramp_s)
    times = np.linspace(0.0, travel.moving_s, 4001)
    places = np.array([travel.place(t) for t in times])
    speeds = np.array([travel.velocity(t) for t in times])
    steps = np.diff(places) / np.diff(times)
    assert np.allclose(steps[:-1], 0.5 * (speeds[1:-1] + speeds[:-2]), atol=0.02)
    assert places[0] == pytest.approx(1.0) and places[-1] == pytest.approx(goal)
    assert np.all(np.abs(speeds) <= 5.0 + 1e-9)


def test_a_stop_slows_down_and_ends_short_of_the_goal():
    travel = Travel(0.0, 10.0, 5.0, 0.5)
    for moment in (0.1, 1.0, travel.moving_s - 0.1):
        brake = travel.brake(moment)
        assert brake.place(0.0) == pytest.approx(travel.place(moment))
        assert travel.place(moment) <= brake.goal <= 10.0 + 1e-9
        assert brake.place(brake.moving_s) == pytest.approx(brake.goal)
    assert Travel(0.0, 10.0, 5.0).brake(1.0).goal == pytest.approx(5.0)
