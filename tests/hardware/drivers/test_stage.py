from __future__ import annotations

import pytest

from lauepilot.hardware.drivers.stage import ControllerError, stage_device
from lauepilot.simulator.instrument import load_instrument


class Broken:
    """A controller whose second axis fails: when it is told to go, or under way."""

    def __init__(self, when, stops=True):
        self.when, self.stops, self.going = when, stops, False

    def position(self):
        return dict.fromkeys(("omega", "chi", "phi"), 0.0)

    def start(self, points):
        self.going = True
        if self.when == "start":
            raise ControllerError("chi did not answer")

    def moving(self):
        raise ControllerError("chi is in alarm")

    def stop(self):
        self.going = False
        if not self.stops:
            raise ControllerError("chi does not stop")

    def disconnect(self):
        pass


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize(("when", "said"), [("start", "did not answer"), ("way", "in alarm")])
def test_one_axis_that_fails_stops_the_others(when, said, stops):
    controller = Broken(when, stops)
    stage = stage_device(load_instrument("lab"), controller)
    with pytest.raises(ControllerError, match=said):
        stage.set({"omega": 1.0, "chi": 1.0}).wait(10.0)
    assert not controller.going
    assert not stage.busy
