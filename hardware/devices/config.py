"""Devices from a file: which process variables stand for which axes and which camera.

::

    instrument: lab                # shipped, or a YAML file beside this one
    library: ophyd                 # or ophyd-async
    goniometer:
      axes:
        omega: {pv: "bl1:m1"}
        chi: {pv: "bl1:m2", direction: -1, offset: 45}
        phi: {pv: "bl1:m3"}
    camera: {cam: "bl1:cam1:", image: "bl1:image1:"}

An entry of a happi database makes the same devices: its ``device_class`` is ``lauepilot.hardware.devices.config.goniometer``
or ``....camera``, its ``kwargs`` are the keys above.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lauepilot.hardware.devices.pv import AxisPV, check_unit, not_found
from lauepilot.hardware.errors import HardwareError
from lauepilot.hardware.protocols import Camera, Goniometer
from lauepilot.simulator.instrument import Instrument, load_instrument

Library = Literal["ophyd", "ophyd-async"]
LIBRARIES: tuple[Library, ...] = ("ophyd", "ophyd-async")
#: Wall seconds after which ophyd's devices that are connected but do not say so are helped.
PROD_S = 2.0


class DevicesError(ValueError):
    """A file of devices that does not exist or is wrong."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


PVName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-+:\[\]<>;.{}]{1,60}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Seconds = Annotated[float, Field(gt=0)]


class _Axis(_Model):
    pv: PVName
    direction: Literal[1, -1] = 1
    offset: float = 0.0

    def build(self) -> AxisPV:
        return AxisPV(self.pv, int(self.direction), float(self.offset))


class _Goniometer(_Model):
    name: Name = "goniometer"
    axes: Annotated[dict[Name, _Axis], Field(min_length=1)]
    stall_s: Seconds = 10.0


class _Camera(_Model):
    name: Name = "camera"
    cam: PVName
    image: PVName
    twin: PVName | None = None
    grace_s: Seconds = 10.0


class _Devices(_Model):
    instrument: str
    library: Library = "ophyd"
    goniometer: _Goniometer
    camera: _Camera


def load_devices(path: str | Path) -> tuple[Camera, Goniometer]:
    """Camera and goniometer from a YAML file, not yet connected: see `wait_connected`.

    Parameters
    ----------
    path
        Of the file. An instrument that is named by a YAML file is looked for beside it.

    Raises
    ------
    DevicesError
        If there is no such file, or it is wrong (file, key, value, what is allowed).
    InstrumentError
        If its instrument does not exist or is wrong.
    """
    file = Path(path)
    if not file.is_file():
        raise DevicesError(f"No file of devices {str(path)!r}. Give the path of a YAML file that exists.")
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DevicesError(f"{path} is not a text file ({error.reason}); devices are YAML.") from None
    return parse_devices(text, str(path), file.parent)


def parse_devices(text: str, origin: str = "<text>", folder: Path | None = None) -> tuple[Camera, Goniometer]:
    """The same from a text; ``origin`` names it in messages, ``folder`` is where an instrument's file is looked for."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DevicesError(f"{origin} is not YAML: {error}") from None
    if not isinstance(raw, Mapping):
        raise DevicesError(
            f"{origin} must hold the keys instrument, goniometer and camera; it holds {type(raw).__name__}."
        )
    settings = _validated(_Devices, raw, origin)
    name = settings.instrument
    if folder is not None and name.endswith((".yaml", ".yml")):
        name = str(folder / name)
    instrument = load_instrument(name)
    if settings.camera.twin is None:  # our IOC moves joints together
        _check_one_by_one(instrument, origin)
    axes = {axis: part.build() for axis, part in settings.goniometer.axes.items()}
    return paired(
        _camera(instrument, settings.library, settings.camera.model_dump()),
        _goniometer(
            instrument, settings.library, axes, settings.goniometer.name, settings.goniometer.stall_s
        ),
    )


def usual_devices(
    prefix: str, instrument: Instrument, library: Library = "ophyd"
) -> tuple[Camera, Goniometer]:
    """Camera and goniometer of ``lauepilot ioc``, whose motors are named as the axes; not yet connected.

    Parameters
    ----------
    prefix
        Of all process variables, as ``lab:``.
    instrument
        What is believed of the diffractometer.
    library
        ``ophyd`` or ``ophyd-async``.
    """
    names = {"cam": f"{prefix}cam1:", "image": f"{prefix}image1:", "twin": f"{prefix}twin:"}
    _validated(_Camera, names, f"prefix {prefix!r}")
    axes = {axis: AxisPV(f"{prefix}{axis}") for axis in instrument.goniometer.names}
    return paired(
        _camera(instrument, library, {**names, "name": "camera", "grace_s": 10.0}),
        _goniometer(instrument, library, axes, "goniometer", 10.0),
    )


def goniometer(
    *,
    instrument: str,
    axes: Mapping[str, Mapping[str, Any]],
    name: str = "goniometer",
    library: Library = "ophyd",
    stall_s: float = 10.0,
) -> Goniometer:
    """A goniometer from plain JSON values, as a happi entry has them; keys as in the file."""
    raw = {"name": name, "axes": axes, "stall_s": stall_s}
    settings = _validated(_Goniometer, raw, f"goniometer {name!r}")
    built = {axis: part.build() for axis, part in settings.axes.items()}
    believed = load_instrument(instrument)
    _check_one_by_one(believed, f"goniometer {name!r}")
    return _goniometer(believed, library, built, settings.name, settings.stall_s)


def camera(
    *,
    instrument: str,
    cam: str,
    image: str,
    twin: str | None = None,
    name: str = "camera",
    library: Library = "ophyd",
    grace_s: float = 10.0,
) -> Camera:
    """A camera from plain JSON values, as a happi entry has them; keys as in the file.

    Its frames do not know the axes unless it is `paired` with a goniometer.
    """
    raw = {"cam": cam, "image": image, "twin": twin, "name": name, "grace_s": grace_s}
    settings = _validated(_Camera, raw, f"camera {name!r}")
    return _camera(load_instrument(instrument), library, settings.model_dump())


def paired(camera: Camera, goniometer: Goniometer) -> tuple[Camera, Goniometer]:
    """The two, of which the camera's frames now know where the axes stand."""
    camera.axes_now = lambda: goniometer.position  # type: ignore[attr-defined]
    return camera, goniometer


def wait_connected(*devices: Any, timeout_s: float = 10.0, loop: Any = None) -> None:
    """Connect devices of either kind, and see that the instrument is the one they were made for.

    Parameters
    ----------
    devices
        Cameras and goniometers.
    timeout_s
        Wall seconds in all.
    loop
        Event loop of the RunEngine (``RE.loop``), in which ophyd-async's devices live; None takes that of the RunEngine
        made last.

    Raises
    ------
    HardwareError
        Names what does not answer, in what the instrument differs, or a motor that counts in another unit.
    """
    for device in devices:
        if asyncio.iscoroutinefunction(getattr(device, "connect", None)):
            _connect_async(device, timeout_s, loop)
        else:
            _connect_ophyd(device, timeout_s)


def _connect_ophyd(device: Any, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while True:
        try:
            device.wait_for_connection(all_signals=True, timeout=min(timeout_s, PROD_S))
            break
        except TimeoutError as error:
            signals = [walk.item for walk in device.walk_signals(include_lazy=True)]
            missing = [s.pvname for s in signals if hasattr(s, "pvname") and not s.connected]
            if missing and time.monotonic() > end:
                raise not_found(missing, timeout_s) from None
            if not missing and time.monotonic() > end + PROD_S:
                raise HardwareError(f"{device.name} cannot be connected: {error}") from None
            if not missing:
                _tell_first_values(device)
    for name, axis in getattr(device, "axes", {}).items():
        check_unit(name, axis, device.chain.axis(name).unit, str(device.motors[name].motor_egu.get()))
    told = getattr(device, "twin", None)
    if told is not None:
        _check_instrument(device, str(told.instrument.get()))


def _tell_first_values(device: Any) -> None:
    """Tell motors what ophyd forgot to: the first value of a signal that came before the rest of what is known of it.

    That happens to process variables that somebody else in this program is connected to already.
    """
    for motor in getattr(device, "motors", {}).values():
        motor._pos_changed(value=motor.user_readback.get(use_monitor=False))
        motor._move_changed(value=motor.motor_done_move.get(use_monitor=False))


def _connect_async(device: Any, timeout_s: float, loop: Any) -> None:
    from bluesky.run_engine import get_bluesky_event_loop
    from ophyd_async.core import NotConnectedError

    loop = get_bluesky_event_loop() if loop is None else loop  # type: ignore[no-untyped-call]
    if loop is None or not loop.is_running():
        raise HardwareError(
            f"{device.name} is a device of ophyd-async, which lives in the event loop of a RunEngine. Make the RunEngine "
            "first, or give loop=RE.loop."
        )

    async def connect() -> str | None:
        await device.connect(timeout=timeout_s)
        for name, part in getattr(device, "parts", {}).items():
            check_unit(name, part.pv, part.axis.unit, str(await part.motor.motor_egu.get_value()))
        told = getattr(device, "told", None)
        return None if told is None else str(await told.instrument.get_value())

    try:
        name = asyncio.run_coroutine_threadsafe(connect(), loop).result(timeout_s + 5.0)
    except NotConnectedError as error:
        missing = re.findall(r"ca://(\S+)", str(error))
        if not missing:
            raise HardwareError(f"{device.name} cannot be connected: {error}") from None
        raise not_found(missing, timeout_s) from None
    if name is not None:
        _check_instrument(device, name)


def _check_instrument(device: Any, name: str) -> None:
    if name != device.instrument.name:
        raise HardwareError(
            f"The IOC is that of the instrument {name!r}, but {device.name} was made for {device.instrument.name!r}. "
            "Name the right instrument (--instrument), or the right prefix."
        )


def _check_one_by_one(instrument: Instrument, origin: str) -> None:
    """Refuse motor records for joints of an arm: each would go by itself, and not along the way that was checked."""
    if instrument.goniometer.obstacles:
        raise DevicesError(
            f"{origin}: {instrument.name!r} has an arm, whose joints cannot be motors of their own: each would go by "
            "itself, and not along the way that was checked. Drive it through its controller (docs: arm), or use the "
            "process variables of 'lauepilot ioc', which moves joints together, by their prefix."
        )


def _goniometer(
    instrument: Instrument, library: str, axes: Mapping[str, AxisPV], name: str, stall_s: float
) -> Goniometer:
    if _library(library) == "ophyd":
        from lauepilot.hardware.devices.epics import epics_goniometer

        return epics_goniometer(instrument, axes, name=name, stall_s=stall_s)
    from lauepilot.hardware.devices.epics_async import AsyncEpicsGoniometer

    return AsyncEpicsGoniometer(instrument, axes, name=name, stall_s=stall_s)


def _camera(instrument: Instrument, library: str, settings: Mapping[str, Any]) -> Camera:
    if _library(library) == "ophyd":
        from lauepilot.hardware.devices.epics_camera import epics_camera

        return epics_camera(instrument, **settings)
    from lauepilot.hardware.devices.epics_async_camera import AsyncEpicsCamera

    return AsyncEpicsCamera(instrument, **settings)


def _library(name: str) -> str:
    """``name``, if that library is known and installed.

    Raises
    ------
    DevicesError
        If not, with what to type.
    """
    if name not in LIBRARIES:
        raise DevicesError(f"library is one of {', '.join(LIBRARIES)}; {name!r} came.")
    needed = ("epics",) if name == "ophyd" else ("ophyd_async", "aioca")
    from importlib.util import find_spec

    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        raise DevicesError(
            f"Devices of {name} need {', '.join(missing)}, which is not installed. Type: pip install lauepilot[epics]"
        )
    return name


def _validated(model: type[Any], raw: Mapping[str, Any], origin: str) -> Any:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "(file)"
            came = "nothing" if item["type"] == "missing" else repr(item["input"])[:120]
            lines.append(f"  {key}: {item['msg']}; got {came}")
        raise DevicesError(f"{origin} does not describe devices:\n" + "\n".join(lines)) from None
