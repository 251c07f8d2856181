"""Devices of every kind on worlds of every kind, for the contract that all of them fulfil."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bluesky import plan_stubs as bps

from lauepilot.hardware.devices.config import parse_devices, usual_devices, wait_connected
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.epics.environment import port_for_server
from lauepilot.hardware.epics.process import running_ioc
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

HERE = Path(__file__).parent
_NUMBERS = itertools.count()

#: An instrument like ``lab``, small and with axes quick enough for a test.
SMALL = """
name: small
title: For tests
exposure_s: 1
beam:
  radiation: xray
  spectrum: {kind: tungsten_tube, kv: 35, current_ma: 10, distance_mm: 500, filtration_mm: {Be: 0.5, air: 500}}
  size_mm: [0.5, 0.5]
detectors:
  - {name: film, kind: flat, shape: [48, 64], pixel_mm: [1.5, 1.5], distance_mm: 40, centre_px: [31.5, 23.5],
     normal: [0, 0, -1], col_direction: [1, 0, 0], row_direction: [0, -1, 0], sensor: {readout_s: 0.1}}
goniometer:
  - {name: omega, direction: [0, 1, 0], limits: [-100, 100], speed: 40, settle_s: 0.1, resolution: 0.001}
  - {name: chi, direction: [0, 0, 1], limits: [-100, 100], speed: 40, settle_s: 0.1, resolution: 0.001}
  - {name: phi, direction: [0, 1, 0], limits: [-180, 180], speed: 40, settle_s: 0.1, resolution: 0.001}
"""

DEVICES = """
instrument: small.yaml
library: LIBRARY
goniometer:
  stall_s: 2
  axes:
    omega: {pv: "PREFIXm1", direction: -1, offset: 30}
    chi: {pv: "PREFIXm2"}
    phi: {pv: "PREFIXm3"}
camera: {cam: "PREFIXcam1:", image: "PREFIXimage1:", grace_s: 0.4}
"""


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    (folder / "small.yaml").write_text(SMALL)
    for library in ("ophyd", "ophyd-async"):
        (folder / f"{library}.yaml").write_text(DEVICES.replace("LIBRARY", library))
    return folder


@pytest.fixture(scope="session")
def small(small_folder):
    return load_instrument(small_folder / "small.yaml")


@pytest.fixture(scope="module")
def foreign_ioc():
    """An IOC that is not ours, in a process of its own."""
    pytest.importorskip("caproto", reason="needs caproto: pip install lauepilot[epics]")
    # A name of its own: clients look but rarely for what was there and has gone.
    prefix = f"foreign{next(_NUMBERS)}:"
    with subprocess.Popen(
        [sys.executable, str(HERE / "foreign_ioc.py"), prefix],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "EPICS_CA_SERVER_PORT": port_for_server(os.environ)},
    ) as process:
        try:
            if process.stdout.readline().strip() != "ready":
                pytest.fail("the IOC of the test does not start")
            yield SimpleNamespace(process=process, prefix=prefix)
        finally:
            process.kill()


def made(kind, request):
    """An engine, and a camera and goniometer of a kind, connected; ``ask`` is for what may be a coroutine."""
    documents = []
    library, _, ours = kind.partition(" on ")
    with ExitStack() as stack:
        run = stack.enter_context(run_engine(lambda name, doc: documents.append((name, doc))))

        def ask(value):
            """The value itself, or what the coroutine brings in the engine's loop."""
            if asyncio.iscoroutine(value):
                return asyncio.run_coroutine_threadsafe(value, run.loop).result(10)
            return value

        prefix, small = "", request.getfixturevalue("small")
        if kind == "twin":
            twin = Twin(load_crystal("si"), small, rng=np.random.default_rng(1))
            camera, goniometer = connect(twin, realtime_factor=1.0)
        else:
            for package in ("epics",) if library == "ophyd" else ("ophyd_async", "aioca"):
                pytest.importorskip(package, reason=f"needs {package}: pip install lauepilot[epics]")
            folder = request.getfixturevalue("small_folder")
            if ours:
                pytest.importorskip("caproto", reason="needs caproto: pip install lauepilot[epics]")
                file = str(folder / "small.yaml")
                prefix = stack.enter_context(running_ioc(instrument=file, speed=1.0, seed=1)).prefix
                camera, goniometer = usual_devices(prefix, small, library)
            else:
                prefix = request.getfixturevalue("foreign_ioc").prefix
                text = (folder / f"{kind}.yaml").read_text().replace("PREFIX", prefix)
                camera, goniometer = parse_devices(text, kind, folder)
            wait_connected(camera, goniometer, timeout_s=30.0, loop=run.loop)
        yield SimpleNamespace(
            kind=kind,
            camera=camera,
            goniometer=goniometer,
            run=run,
            ask=ask,
            prefix=prefix,
            documents=documents,
        )


def as_new(lab):
    """All axes at zero, no frame, no documents."""
    lab.run(bps.mv(lab.goniometer, dict.fromkeys(("omega", "chi", "phi"), 0.0)))
    lab.camera.frame = None
    lab.documents.clear()
    return lab


ON_OURS = [pytest.param(f"{name} on our IOC", marks=pytest.mark.slow) for name in ("ophyd", "ophyd-async")]


@pytest.fixture(scope="module", params=["twin", "ophyd", "ophyd-async", *ON_OURS])
def lab_of_module(request):
    yield from made(request.param, request)


@pytest.fixture
def lab(lab_of_module):
    """Devices of each kind: the twin's, and those of both libraries on the IOC that is not ours."""
    return as_new(lab_of_module)


@pytest.fixture(scope="module", params=["ophyd", "ophyd-async"])
def lab_of_pvs_of_module(request):
    yield from made(request.param, request)


@pytest.fixture
def lab_of_pvs(lab_of_pvs_of_module):
    """Those on process variables alone."""
    return as_new(lab_of_pvs_of_module)


@pytest.fixture
def run():
    """A RunEngine, in whose loop the devices of ophyd-async live."""
    with run_engine() as engine:
        yield engine
