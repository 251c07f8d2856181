"""A small world under the devices, and an agent that plays from a script."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.perception.observation import Belief, Observation
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.target import Alignment, Target

ORIENTATION = Orientation(np.eye(3), 1.157 * np.eye(3), 1e-6 * np.eye(3))


class FakeBackend:
    """What the Twin is to the devices: acts at once, keeps a clock and a dose."""

    def __init__(self):
        lab = load_instrument("lab")
        self.instrument = lab.with_detector(lab.detector.binned((48, 64)))
        self.positions = {axis.name: 0.0 for axis in self.instrument.goniometer.axes}
        self.clock_s = 100.0
        self.dose_s = 7.0
        self.moves = []
        self.stuck = None  # axis that does not go further than this: (name, position)
        self.error = None

    def move(self, positions):
        self.moves.append(dict(positions))
        self.clock_s += self.instrument.goniometer.move_time_s(self.positions, positions)
        self.positions = {**self.positions, **positions}
        if self.stuck is not None:
            self.positions[self.stuck[0]] = self.stuck[1]
        return dict(self.positions)

    def expose(self, seconds):
        if self.error is not None:
            raise self.error
        self.clock_s += seconds + 2.0
        self.dose_s += seconds
        counts = np.random.default_rng(int(self.clock_s)).poisson(5.0, self.instrument.detector.shape)
        return Frame(counts.astype(np.uint16), seconds, dict(self.positions), "lab")


class FakeObserver:
    def __init__(self, backend):
        self.backend = backend
        self.frames = []

    def start(self, axes, *, clock_s, dose_s):
        return Observation(axes, self.backend.instrument.goniometer, clock_s, dose_s, 0, 0.0)

    def moved(self, previous, axes, *, clock_s):
        return dataclasses.replace(previous, axes=axes, clock_s=clock_s)

    def observe(self, frame, *, axes, clock_s, dose_s, n_exposures):
        frame.check()
        self.frames.append(frame)
        return Observation(
            axes,
            self.backend.instrument.goniometer,
            clock_s,
            dose_s,
            n_exposures,
            frame.live_time_s,
            belief=Belief(ORIENTATION, 0.97, 31, 40, 0.3),
            belief_axes=dict(frame.axes),
        )


class ScriptedAgent:
    """Returns its script's decisions in turn; an exception in the script is raised."""

    name = "scripted"

    def __init__(self, *script):
        self.script = list(script)
        self.seen = []
        self.task = None

    def reset(self, task):
        self.task = task

    def decide(self, observation):
        self.seen.append(observation)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def state(self):
        return {"left": len(self.script)}


@pytest.fixture
def backend():
    return FakeBackend()


@pytest.fixture
def world(backend):
    """Camera, goniometer and observer on the fake backend, at once."""
    camera, goniometer = connect(backend)
    return SimpleNamespace(
        camera=camera, goniometer=goniometer, observer=FakeObserver(backend), backend=backend
    )


@pytest.fixture
def slow_world(backend):
    """The same, with motions and exposures that take a tenth of their time on the wall."""
    camera, goniometer = connect(backend, realtime_factor=10.0)
    return SimpleNamespace(
        camera=camera, goniometer=goniometer, observer=FakeObserver(backend), backend=backend
    )


@pytest.fixture
def target():
    return Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)))


@pytest.fixture
def documents():
    return []


@pytest.fixture
def engine(documents):
    with run_engine(lambda name, doc: documents.append((name, doc))) as run:
        yield run


@pytest.fixture
def scripted():
    return ScriptedAgent


@pytest.fixture
def orientation():
    return ORIENTATION
