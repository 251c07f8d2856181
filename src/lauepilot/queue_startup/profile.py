"""The namespace of a queue server's worker: RunEngine, devices and plans, with agents wired in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import RunEngine

from lauepilot.agents.rules import RULES
from lauepilot.hardware.devices.config import load_devices, wait_connected
from lauepilot.hardware.devices.fourcircle import connect_four_circle
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.epics.environment import loopback_unless_told
from lauepilot.hardware.queue.plans import Workplace, queue_plans
from lauepilot.hardware.records.local import LocalRecorder
from lauepilot.simulator.crystal import load_crystal, zoo_names
from lauepilot.simulator.fourcircle_twin import FourCircleTwin
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.target_text import parse_target
from lauepilot.simulator.twin import Twin


def start(
    *,
    crystal: str = "si",
    instrument: str = "lab",
    devices: str | None = None,
    records: str = "records",
    seed: int = 0,
    speed: float = 60.0,
    four_circle: bool = False,
) -> dict[str, Any]:
    """Everything that a startup file puts into its namespace.

    Parameters
    ----------
    crystal
        What is mounted: a name of the zoo or the path of a CIF.
    instrument
        For the simulated devices: shipped name or path of a YAML file.
    devices
        YAML file with process variables (`load_devices`), which are looked for on this machine alone unless the environment
        says where they are; None simulates.
    records
        Folder for the records of runs.
    seed, speed
        Of the simulated instrument: its random numbers, and how many times faster than the wall its clock runs.
    four_circle
        Whether to simulate a four-circle diffractometer beside it, for ``build_ub``.
    """
    body = load_crystal(crystal)
    engine = RunEngine({})  # first: devices of ophyd-async live in its loop
    if devices is None:
        twin = Twin(body, load_instrument(instrument), rng=np.random.default_rng(seed))
        camera, goniometer = connect(twin, realtime_factor=speed)
    else:
        loopback_unless_told(os.environ)
        camera, goniometer = load_devices(devices)  # type: ignore[assignment]
        wait_connected(camera, goniometer, loop=engine.loop)
    camera.crystal = body
    circle: tuple[Any, Any] | None = None
    if four_circle:
        world = FourCircleTwin(body, rng=np.random.default_rng(seed))
        circle = connect_four_circle(world, realtime_factor=speed)
    engine.subscribe(LocalRecorder(records, camera.instrument))  # type: ignore[no-untyped-call]
    crystals = list(dict.fromkeys([crystal, *zoo_names()]))
    folder = Path(records) / "instruments"
    place = Workplace(camera, goniometer, dict(RULES), crystals, parse_target, folder, circle)
    names: dict[str, Any] = {"RE": engine, "camera": camera, "goniometer": goniometer, **queue_plans(place)}
    if circle is not None:
        names |= {"diffractometer": circle[0], "detector": circle[1]}
    return names
