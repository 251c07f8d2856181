"""Devices, the Bluesky plans that use them, and records of runs.

::

    from lauepilot.hardware import align_crystal, connect, load_devices, wait_connected

What is named here is fetched from its module when it is first asked for: importing this package is quick and needs no
optional package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lauepilot.hardware.devices.config import load_devices as load_devices
    from lauepilot.hardware.devices.config import paired as paired
    from lauepilot.hardware.devices.config import usual_devices as usual_devices
    from lauepilot.hardware.devices.config import wait_connected as wait_connected
    from lauepilot.hardware.devices.epics import EpicsGoniometer as EpicsGoniometer
    from lauepilot.hardware.devices.epics_async import AsyncEpicsGoniometer as AsyncEpicsGoniometer
    from lauepilot.hardware.devices.epics_async_camera import AsyncEpicsCamera as AsyncEpicsCamera
    from lauepilot.hardware.devices.epics_camera import EpicsCamera as EpicsCamera
    from lauepilot.hardware.devices.twin import Goniometer as Goniometer
    from lauepilot.hardware.devices.twin import LaueCamera as LaueCamera
    from lauepilot.hardware.devices.twin import connect as connect
    from lauepilot.hardware.engine import run_engine as run_engine
    from lauepilot.hardware.plans.align import align_crystal as align_crystal
    from lauepilot.hardware.plans.build_ub import build_ub as build_ub
    from lauepilot.hardware.plans.calibrate import calibrate_instrument as calibrate_instrument
    from lauepilot.hardware.plans.count import count_until as count_until
    from lauepilot.hardware.plans.scan import scan_orientations as scan_orientations
    from lauepilot.hardware.plans.settle import settle as settle
    from lauepilot.hardware.records.dataset import read_run as read_run
    from lauepilot.hardware.records.local import LocalRecorder as LocalRecorder
    from lauepilot.hardware.resume import resume_run as resume_run

#: Where each name lives.
_HOMES = {
    "AsyncEpicsCamera": "devices.epics_async_camera",
    "AsyncEpicsGoniometer": "devices.epics_async",
    "EpicsCamera": "devices.epics_camera",
    "EpicsGoniometer": "devices.epics",
    "Goniometer": "devices.twin",
    "LaueCamera": "devices.twin",
    "LocalRecorder": "records.local",
    "align_crystal": "plans.align",
    "build_ub": "plans.build_ub",
    "calibrate_instrument": "plans.calibrate",
    "connect": "devices.twin",
    "count_until": "plans.count",
    "load_devices": "devices.config",
    "paired": "devices.config",
    "read_run": "records.dataset",
    "resume_run": "resume",
    "run_engine": "engine",
    "scan_orientations": "plans.scan",
    "settle": "plans.settle",
    "usual_devices": "devices.config",
    "wait_connected": "devices.config",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"lauepilot.hardware has no {name!r}; it has {', '.join(sorted(_HOMES))}.")
    return getattr(import_module(f"lauepilot.hardware.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
