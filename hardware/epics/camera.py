"""A camera with the process variables of areaDetector that clients use: driver (``cam1:``) and image (``image1:``).

A put of 1 to ``Acquire`` is complete when the last image is read out, or when the exposure was ended by a put of 0. An
exposure that is ended early gives the image of the time that the shutter was open; ``twin:LiveTime_RBV`` says how long.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from caproto import AlarmSeverity, AlarmStatus, ChannelType
from caproto.server import PVGroup, pvproperty
from numpy.typing import NDArray

from lauepilot.hardware.epics.stage import Stage
from lauepilot.hardware.epics.values import Refused, pv, pvs, show
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument

#: What can be wrong with the camera: it never gets ready, sends half an image, fails, says it is done without an image.
FAULTS = ("none", "never", "shape", "error", "no image")

#: Wall seconds between looks at an exposure.
TICK_S = 0.02

STATES = (
    "Idle", "Acquire", "Readout", "Correct", "Saving", "Aborting", "Error", "Waiting", "Initializing", "Disconnected",
    "Aborted",
)  # fmt: skip
DATA_TYPES = (
    "Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64",
)  # fmt: skip
NO_YES, OFF_ON = ("No", "Yes"), ("Disable", "Enable")
COLOURS = ("Mono", "Bayer", "RGB1", "RGB2", "RGB3", "YUV444", "YUV422", "YUV421")

#: Settings, each with its read-back ``_RBV``: what is put is what is read.
CAM_SETTINGS: Mapping[str, Any] = {
    "AcquireTime": 1.0, "AcquirePeriod": 0.0, "ImageMode": ("Single", ("Single", "Multiple", "Continuous")),
    "TriggerMode": ("Internal", ("Internal", "External")), "NumImages": 1, "NumExposures": 1,
    "ArrayCallbacks": ("Enable", OFF_ON), "ArrayCounter": 0, "DataType": ("UInt16", DATA_TYPES),
    "ColorMode": ("Mono", COLOURS), "Gain": 1.0, "BinX": 1, "BinY": 1, "MinX": 0, "MinY": 0, "SizeX": 0, "SizeY": 0,
    "ReverseX": ("No", NO_YES), "ReverseY": ("No", NO_YES), "FrameType": ("Normal", ("Normal", "Background", "FlatField")),
    "NDAttributesFile": "",
}  # fmt: skip
#: What only the camera says.
CAM_READ: Mapping[str, Any] = {
    "TimeRemaining_RBV": 0.0, "NumImagesCounter_RBV": 0, "NumExposuresCounter_RBV": 0, "StatusMessage_RBV": "",
    "StringFromServer_RBV": "", "StringToServer_RBV": "",
    "ArrayRate_RBV": 0.0, "ArraySizeX_RBV": 0, "ArraySizeY_RBV": 0, "ArraySizeZ_RBV": 0, "ArraySize_RBV": 0,
    "MaxSizeX_RBV": 0, "MaxSizeY_RBV": 0, "Manufacturer_RBV": "lauepilot", "Model_RBV": "Twin",
    "SerialNumber_RBV": "0", "FirmwareVersion_RBV": "1.0", "SDKVersion_RBV": "1.0", "DriverVersion_RBV": "1.0",
    "ADCoreVersion_RBV": "3.12.1", "PortName_RBV": "TWIN",
    "DetectorState_RBV": ("Idle", STATES), "Acquire_RBV": ("Done", ("Done", "Acquire")),
}  # fmt: skip
IMAGE_SETTINGS: Mapping[str, Any] = {
    "EnableCallbacks": ("Enable", OFF_ON), "BlockingCallbacks": ("Yes", NO_YES), "ArrayCallbacks": ("Enable", OFF_ON),
    "ArrayCounter": 0, "DroppedArrays": 0, "MinCallbackTime": 0.0, "NDArrayPort": "TWIN", "NDArrayAddress": 0,
    "QueueSize": 20, "NDAttributesFile": "",
}  # fmt: skip
IMAGE_READ: Mapping[str, Any] = {
    "ArraySize0_RBV": 0, "ArraySize1_RBV": 0, "ArraySize2_RBV": 0, "NDimensions_RBV": 2, "UniqueId_RBV": 0,
    "TimeStamp_RBV": 0.0, "EpicsTSSec_RBV": 0, "EpicsTSNsec_RBV": 0, "ArrayRate_RBV": 0.0, "ExecutionTime_RBV": 0.0,
    "QueueFree": 20, "QueueUse": 0, "PortName_RBV": "IMAGE1", "PluginType_RBV": "NDPluginStdArrays",
    "DriverVersion_RBV": "1.0", "ADCoreVersion_RBV": "3.12.1",
    "DataType_RBV": ("UInt16", DATA_TYPES), "ColorMode_RBV": ("Mono", COLOURS),
    "BayerPattern_RBV": ("RGGB", ("RGGB", "GBRG", "GRBG", "BGGR")),
}  # fmt: skip


def pixel_type(bit_depth: int) -> tuple[str, Any, Any]:
    """areaDetector's name of a pixel's type, its type on the wire, and numpy's for that.

    Channel Access has no unsigned numbers of 16 and 32 bits: 16 travel in 32, which holds them; 32 as they are, bit by bit.
    """
    if bit_depth <= 8:
        return "UInt8", ChannelType.CHAR, np.uint8
    return ("UInt16" if bit_depth <= 16 else "UInt32"), ChannelType.LONG, np.int32


def _settings(table: Mapping[str, Any]) -> dict[str, Any]:
    return {**pvs(table), **pvs({f"{name}_RBV": value for name, value in table.items()}, read_only=True)}


class _Settings(PVGroup):  # type: ignore[misc]
    """A group whose settings show in their read-backs."""

    async def group_write(self, instance: Any, value: Any) -> Any:
        """A client's put to a setting without rules of its own."""
        readback = self.channel(f"{instance.pvspec.name}_RBV")
        if readback is not None:
            await show(readback, value)
        return value

    def channel(self, name: str) -> Any:
        """A process variable by its name without prefix; None if there is none."""
        return self.pvdb.get(f"{self.prefix}{name}")

    async def tell(self, **values: Any) -> None:
        """Show values of settings, with their read-backs, and of read-backs alone."""
        for name, value in values.items():
            for channel in (self.channel(name), self.channel(f"{name}_RBV")):
                if channel is not None:
                    await show(channel, value)


class Image(_Settings):
    """The last image; `image_pvs` makes one for a sensor."""

    async def publish(self, pixels: NDArray[Any]) -> None:
        """Show an image (rows, cols); its number comes last."""
        rows, cols = pixels.shape
        now = time.time()
        await self.tell(ArraySize0=cols, ArraySize1=rows, ArraySize2=0, DataType=self.data_type)
        await show(self.channel("Dimensions_RBV"), [cols, rows, *[0] * 8])
        await show(self.channel("ArrayData"), pixels.astype(self.wire_type, casting="unsafe").ravel())
        await self.tell(TimeStamp=now, EpicsTSSec=int(now), EpicsTSNsec=int(now % 1 * 1e9))
        await self.tell(ArrayCounter=int(self.channel("ArrayCounter").value) + 1)
        await self.tell(UniqueId=int(self.channel("UniqueId_RBV").value) + 1)


def image_pvs(instrument: Instrument, prefix: str) -> Image:
    """The image's process variables for the instrument's first detector."""
    detector = instrument.detector
    name, wire, kind = pixel_type(detector.sensor.bit_depth)
    rows, cols = detector.shape
    members = {
        **_settings(IMAGE_SETTINGS),
        **pvs(IMAGE_READ, read_only=True),
        "Dimensions_RBV": pvproperty(value=[cols, rows, *[0] * 8], dtype=ChannelType.LONG, read_only=True),
        "ArrayData": pvproperty(
            value=[0], dtype=wire, max_length=rows * cols, max_subscription_backlog=2,
            read_only=True,
        ),
        "data_type": name,
        "wire_type": kind,
    }  # fmt: skip
    image: Image = type("Image", (Image,), members)(prefix=prefix)
    return image


Camera = type("Camera", (_Settings,), {**_settings(CAM_SETTINGS), **pvs(CAM_READ, read_only=True)})


class Cam(Camera):  # type: ignore[misc, valid-type]
    """The driver.

    Parameters
    ----------
    stage
        Who exposes.
    image
        Where images go.
    told
        Called with each frame before its image is shown.
    """

    Acquire = pv("Done", ("Done", "Acquire"))

    def __init__(
        self, *args: Any, stage: Stage, image: Image, told: Callable[[Frame], Awaitable[None]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.stage, self.image, self._told = stage, image, told
        self.fault = "none"
        self._abort = False
        self._task: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Show what the sensor is, and listen; once, before clients come."""
        instrument = self.stage.twin.instrument
        detector = instrument.detector
        rows, cols = detector.shape
        name, _, kind = pixel_type(detector.sensor.bit_depth)
        for setting, putter in (
            ("AcquireTime", self._put_time), ("AcquirePeriod", self._put_period), ("NumImages", self._put_number),
            ("NumExposures", self._put_one), ("BinX", self._put_one), ("BinY", self._put_one),
            ("TriggerMode", self._put_trigger), ("DataType", self._put_fixed), ("SizeX", self._put_fixed),
            ("SizeY", self._put_fixed), ("MinX", self._put_fixed), ("MinY", self._put_fixed), ("Acquire", self._put_acquire),
        ):  # fmt: skip
            self.channel(setting).putter = putter
        for unit in ("AcquireTime", "AcquirePeriod"):
            await self.channel(unit).write_metadata(units="s", precision=3)
        await self.tell(
            AcquireTime=float(instrument.exposure_s), SizeX=cols, SizeY=rows, MaxSizeX=cols, MaxSizeY=rows,
            ArraySizeX=cols, ArraySizeY=rows, ArraySize=rows * cols * np.dtype(kind).itemsize, DataType=name,
            Gain=float(detector.sensor.gain_adu),
        )  # fmt: skip
        await self.image.tell(ArraySize0=cols, ArraySize1=rows, DataType=name)

    @property
    def busy(self) -> bool:
        """Whether it exposes."""
        return self._task is not None and not self._task.done()

    async def _put_time(self, instance: Any, value: Any) -> Any:
        seconds = float(value)
        if not math.isfinite(seconds) or seconds <= 0.0:
            raise Refused(f"AcquireTime is a positive number of seconds; {seconds} came.")
        return await self.group_write(instance, seconds)

    async def _put_period(self, instance: Any, value: Any) -> Any:
        if not math.isfinite(float(value)) or float(value) < 0.0:
            raise Refused(f"AcquirePeriod is 0 or more seconds; {value} came.")
        return await self.group_write(instance, value)

    async def _put_number(self, instance: Any, value: Any) -> Any:
        if int(value) < 1:
            raise Refused(f"NumImages is 1 or more; {value} came.")
        return await self.group_write(instance, value)

    async def _put_one(self, instance: Any, value: Any) -> Any:
        if int(value) != 1:
            raise Refused(f"{instance.pvspec.name} of this camera is 1; {value} came.")
        return await self.group_write(instance, value)

    async def _put_trigger(self, instance: Any, value: Any) -> Any:
        if value != "Internal":
            raise Refused("This camera has no external trigger; TriggerMode is Internal.")
        return await self.group_write(instance, value)

    async def _put_fixed(self, instance: Any, value: Any) -> Any:
        if value != instance.value:
            raise Refused(f"{instance.pvspec.name} of this camera is {instance.value}; {value} came.")
        return value

    async def _put_acquire(self, _: Any, value: str) -> None:
        if value == "Acquire":
            if self._task is None or self._task.done():
                self._abort = False
                self._task = asyncio.create_task(self._acquire())
        else:
            self._abort = True
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _acquire(self) -> None:
        await self.tell(NumImagesCounter=0, StatusMessage="", DetectorState="Acquire", Acquire="Acquire")
        await self.DetectorState_RBV.alarm.write(status=AlarmStatus.NO_ALARM, severity=AlarmSeverity.NO_ALARM)
        mode = self.channel("ImageMode").value
        number = {"Single": 1.0, "Multiple": float(self.channel("NumImages").value)}.get(mode, math.inf)
        taken, state = 0, "Idle"
        try:
            while taken < number and not self._abort:
                began = asyncio.get_running_loop().time()
                lasted = await self._expose(float(self.channel("AcquireTime").value))
                if lasted > 0.0:
                    await self._read_out(lasted)
                taken += 1
                await self.tell(NumImagesCounter=taken)
                if taken < number:
                    await self._pass(float(self.channel("AcquirePeriod").value), began)
        except Exception as error:  # a camera that fails says so, and its IOC goes on
            state = "Error"
            await self.DetectorState_RBV.alarm.write(
                status=AlarmStatus.READ, severity=AlarmSeverity.MAJOR_ALARM
            )
            await self.tell(StatusMessage=str(error)[:39])
        if self._abort and state == "Idle":
            state = "Aborted"
        await self.tell(TimeRemaining=0.0, DetectorState=state, Acquire="Done")

    async def _pass(self, seconds: float, began_s: float) -> float:
        """Let the wall's clock go on; the seconds, on the instrument's, that have passed when it ends or is ended."""
        loop = asyncio.get_running_loop()
        while not self._abort:
            gone = self.stage.instrument_s(loop.time() - began_s)
            if gone >= seconds:
                return seconds
            await asyncio.sleep(min(self.stage.wall_s(seconds - gone), TICK_S))
        return min(self.stage.instrument_s(loop.time() - began_s), seconds)

    async def _expose(self, seconds: float) -> float:
        await self.tell(DetectorState="Acquire", TimeRemaining=seconds)
        lasted = await self._pass(seconds, asyncio.get_running_loop().time())
        while self.fault == "never" and not self._abort:
            await asyncio.sleep(TICK_S)
        return lasted

    async def _read_out(self, seconds: float) -> None:
        await self.tell(DetectorState="Readout")
        if self.fault == "error":
            raise RuntimeError("The sensor does not answer.")
        frame = await self.stage.expose(seconds)
        await asyncio.sleep(self.stage.wall_s(self.stage.twin.instrument.detector.sensor.readout_s))
        await self._told(frame)
        pixels = np.asarray(frame.counts)
        if self.fault == "shape":
            pixels = pixels[: pixels.shape[0] // 2]
        if self.fault != "no image":
            await self.tell(ArraySizeX=pixels.shape[1], ArraySizeY=pixels.shape[0])
            await self.tell(ArrayCounter=int(self.channel("ArrayCounter").value) + 1)
            await self.image.publish(pixels)
