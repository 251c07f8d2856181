"""What the start document says of a run, so that its frames can be understood without us."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from lauepilot.hardware.protocols import Agent, Camera, Goniometer, Task
from lauepilot.simulator.target import Lattice

#: Names that Bluesky uses itself on the way to the start document.
_BLUESKYS = frozenset(("uid", "time", "scan_id", "command", "obj", "args", "kwargs", "run", "began_at"))
PACKAGES = ("lauepilot", "bluesky", "ophyd", "numpy", "scipy")


def run_metadata(
    task: Task, agent: Agent, camera: Camera, goniometer: Goniometer, obstacles: Sequence[object] = ()
) -> dict[str, Any]:
    """Crystal, instrument, target, agent, versions and the names of the data keys, as plain JSON values."""
    return {
        **measurement_metadata("align_crystal", camera, goniometer, task.crystal),
        "instrument": plain(task.instrument),
        "target": plain(task.target),
        "agent": {
            "name": str(getattr(agent, "name", type(agent).__name__)),
            "class": type(agent).__qualname__,
        },
        "allowed": {
            "steps": task.max_steps,
            "dose_s": float(task.max_dose_s),
            "exposure_s": float(task.max_exposure_s),
            # By kind: whoever goes on with the run has to bring them again.
            "obstacles": [type(obstacle).__name__ for obstacle in obstacles],
        },
    }


def measurement_metadata(
    plan_name: str, camera: Camera, goniometer: Goniometer | None, crystal: Lattice | None
) -> dict[str, Any]:
    """What every run says: devices, crystal, instrument, versions and the names of the data keys, as plain JSON values."""
    known: dict[str, Any] = {"name": None}
    if crystal is not None:
        known = {
            "name": str(getattr(crystal, "name", type(crystal).__name__)),
            "B_2pi_per_angstrom": plain(np.asarray(crystal.b)),
        }
    axes = () if goniometer is None else goniometer.chain.names
    return {
        "plan_name": plan_name,
        "detectors": [camera.name],
        "motors": [] if goniometer is None else [goniometer.name],
        "crystal": known,
        "instrument": plain(camera.instrument),
        "frame": "laboratory: +z along the beam, +y up, right-handed; active rotations; B with 2 pi",
        "versions": versions(),
        "keys": {
            "image": camera.image.name,
            "live_time_s": camera.live_time_s.name,
            "saturation": camera.saturation_adu.name,
            "gain": camera.gain_adu.name,
            "offset": camera.offset_adu.name,
            "clock_s": camera.clock_s.name,
            "dose_s": camera.dose_s.name,
            "axes": {axis: getattr(goniometer, axis).name for axis in axes},
        },
    }


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The user's metadata (sample, operator, proposal ...) beside ours, as plain JSON values.

    What the plan writes is the truth of the run and stays; a user's entry of the same name is kept under ``md_user``.
    """
    given = plain(dict(theirs or {}))
    aside = {key: given.pop(key) for key in list(given) if key in ours or key in _BLUESKYS}
    return {**given, **ours, **({"md_user": aside} if aside else {})}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def plain(value: Any) -> Any:
    """Dataclasses, arrays, tuples and mappings as plain JSON values; numbers that are not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
