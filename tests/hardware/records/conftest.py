"""A recorded run, in a folder and in an embedded Tiled catalogue at once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.plans.align import align_crystal
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.perception.observation import Declare, Expose, Move
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.orientation import Orientation


@pytest.fixture
def record(world, scripted, target, tmp_path):
    """Plays a happy alignment of quartz into a folder, and into what else is handed over."""
    crystal = load_crystal("quartz")

    def play(*consumers):
        recorder = LocalRecorder(tmp_path / "runs", world.backend.instrument)
        agent = scripted(
            Expose(2.0, "first look"),
            Move({"omega": 10.0, "chi": -5.0, "phi": 33.0}),
            Expose(3.0),
            Declare(Orientation(np.eye(3), crystal.b, 1e-6 * np.eye(3)), "there"),
        )
        with run_engine(recorder, *consumers, baseline=[world.goniometer]) as engine:
            plan = align_crystal(
                world.camera, world.goniometer, agent, target, observer=world.observer, crystal=crystal,
                md={"sample": "no. 7", "operator": "abc", "plan_name": "mine", "uid": "x"},
            )  # fmt: skip
            result = engine(plan).plan_result
        return SimpleNamespace(
            path=recorder.path, result=result, crystal=crystal, frames=world.observer.frames
        )

    return play
