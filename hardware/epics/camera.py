"""A camera with the process variables of areaDetector that clients use, on the Twin: driver (``cam1:``) and image (``image1:``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from caproto import AlarmSeverity, AlarmStatus, ChannelType, SkipWrite
from caproto.server import PVGroup, pvproperty
from numpy.typing import NDArray

from lauepilot.hardware.epics.stage import Stage
from lauepilot.simulator.frame import Frame

#: What can be wrong with the camera: it never gets ready, sends another shape, forgets the image.
FAULTS = ("none", "never", "shape", "no image")

STATES = ("Idle", "Acquire", "Readout", "Correct", "Saving", "Aborting", "Error", "Waiting", "Initializing")
DATA_TYPES = (
    "Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64",
)  # fmt: skip

#: Wire and pixel types by bits of the sensor. Channel Access has no unsigned integers of 16 and 32 bits.
WIRE: dict[int, tuple[str, Any, Any]] = {
    8: ("UInt8", ChannelType.CHAR, np.uint8),
    16: ("UInt16", ChannelType.INT, np.int16),
    32: ("UInt32", ChannelType.LONG, np.int32),
}


def wire_bits(bit_depth: int) -> int:
    """Bits of a pixel on the wire."""
    return 8 if bit_depth <= 8 else 16 if bit_depth <= 16 else 32


def enum(strings: tuple[str, ...], value: str, **kwargs: Any) -> Any:
    """An enumerated process variable."""
    return pvproperty(value=value, dtype=ChannelType.ENUM, enum_strings=list(strings), **kwargs)


def text(value: str) -> Any:
    """A word that only the IOC writes."""
    return pvproperty(value=value, dtype=ChannelType.STRING, read_only=True)


class ImagePlugin(PVGroup):  # type: ignore[misc]
    """The last image; made by `image_plugin`, which knows its size."""

    ArraySize0_RBV = pvproperty(value=0, read_only=True)
    ArraySize1_RBV = pvproperty(value=0, read_only=True)
    ArraySize2_RBV = pvproperty(value=0, read_only=True)
    NDimensions_RBV = pvproperty(value=2, read_only=True)
    Dimensions_RBV = pvproperty(value=[0] * 10, read_only=True)
    DataType_RBV = enum(DATA_TYPES, "UInt16", read_only=True)
    ColorMode_RBV = enum(("Mono", "Bayer", "RGB1"), "Mono", read_only=True)
    ArrayCallbacks = enum(("Disable", "Enable"), "Enable")
    ArrayCallbacks_RBV = enum(("Disable", "Enable"), "Enable", read_only=True)
    EnableCallbacks = enum(("Disable", "Enable"), "Enable")
    EnableCallbacks_RBV = enum(("Disable", "Enable"), "Enable", read_only=True)
    BlockingCallbacks = enum(("No", "Yes"), "Yes")
    BlockingCallbacks_RBV = enum(("No", "Yes"), "Yes", read_only=True)
    MinCallbackTime = pvproperty(value=0.0)
    MinCallbackTime_RBV = pvproperty(value=0.0, read_only=True)
    NDArrayPort = pvproperty(value="TWIN", dtype=ChannelType.STRING)
    NDArrayPort_RBV = text("TWIN")
    NDArrayAddress = pvproperty(value=0)
    NDArrayAddress_RBV = pvproperty(value=0, read_only=True)
    PortName_RBV = text("IMAGE1")
    PluginType_RBV = text("NDPluginStdArrays")
    ADCoreVersion_RBV = text("3.12.1")
    DriverVersion_RBV = text("3.12.1")
    UniqueId_RBV = pvproperty(value=0, read_only=True)
    TimeStamp_RBV = pvproperty(value=0.0, read_only=True)
    ArrayCounter = pvproperty(value=0)
    ArrayCounter_RBV = pvproperty(value=0, read_only=True)
    DroppedArrays_RBV = pvproperty(value=0, read_only=True)
    ArrayRate_RBV = pvproperty(value=0.0, read_only=True)
    QueueSize = pvproperty(value=20)
    QueueFree = pvproperty(value=20)

    async def show(self, pixels: NDArray[Any], wire: Any) -> None:
        """A new image (rows, cols)."""
        rows, cols = pixels.shape
        number = int(self.UniqueId_RBV.value) + 1
        await self.ArraySize0_RBV.write(cols)
        await self.ArraySize1_RBV.write(rows)
        await self.Dimensions_RBV.write([cols, rows, *[0] * 8])
        await self.ArrayData.write(pixels.astype(wire, casting="unsafe").ravel())
        await self.TimeStamp_RBV.write(time.time())
        await self.ArrayCounter_RBV.write(int(self.ArrayCounter_RBV.value) + 1)
        await self.UniqueId_RBV.write(number)


def image_plugin(shape: tuple[int, int], bits: int) -> type[ImagePlugin]:
    """The plugin for images (rows, cols) of so many bits."""
    size = shape[0] * shape[1]
    data = pvproperty(value=[0], dtype=WIRE[bits][1], max_length=size, read_only=True)
    return type("ImagePlugin", (ImagePlugin,), {"ArrayData": data})


class Cam(PVGroup):  # type: ignore[misc]
    """The driver: one exposure a trigger, its put complete when the image is out."""

    Acquire = enum(("Done", "Acquire"), "Done")
    Acquire_RBV = enum(("Done", "Acquiring"), "Done", read_only=True)
    AcquireTime = pvproperty(value=1.0, units="s", precision=3)
    AcquireTime_RBV = pvproperty(value=1.0, units="s", precision=3, read_only=True)
    AcquirePeriod = pvproperty(value=0.0, units="s", precision=3)
    AcquirePeriod_RBV = pvproperty(value=0.0, units="s", precision=3, read_only=True)
    TimeRemaining_RBV = pvproperty(value=0.0, units="s", precision=3, read_only=True)
    ImageMode = enum(("Single", "Multiple", "Continuous"), "Single")
    ImageMode_RBV = enum(("Single", "Multiple", "Continuous"), "Single", read_only=True)
    TriggerMode = enum(("Internal", "External"), "Internal")
    TriggerMode_RBV = enum(("Internal", "External"), "Internal", read_only=True)
    NumImages = pvproperty(value=1)
    NumImages_RBV = pvproperty(value=1, read_only=True)
    NumExposures = pvproperty(value=1)
    NumExposures_RBV = pvproperty(value=1, read_only=True)
    NumImagesCounter_RBV = pvproperty(value=0, read_only=True)
    ArrayCallbacks = enum(("Disable", "Enable"), "Enable")
    ArrayCallbacks_RBV = enum(("Disable", "Enable"), "Enable", read_only=True)
    ArrayCounter = pvproperty(value=0)
    ArrayCounter_RBV = pvproperty(value=0, read_only=True)
    DetectorState_RBV = enum(STATES, "Idle", read_only=True)
    StatusMessage_RBV = text("")
    DataType = enum(DATA_TYPES, "UInt16", read_only=True)
    DataType_RBV = enum(DATA_TYPES, "UInt16", read_only=True)
    ColorMode_RBV = enum(("Mono", "Bayer", "RGB1"), "Mono", read_only=True)
    ArraySizeX_RBV = pvproperty(value=0, read_only=True)
    ArraySizeY_RBV = pvproperty(value=0, read_only=True)
    ArraySizeZ_RBV = pvproperty(value=0, read_only=True)
    ArraySize_RBV = pvproperty(value=0, read_only=True)
    MaxSizeX_RBV = pvproperty(value=0, read_only=True)
    MaxSizeY_RBV = pvproperty(value=0, read_only=True)
    SizeX_RBV = pvproperty(value=0, read_only=True)
    SizeY_RBV = pvproperty(value=0, read_only=True)
    BinX_RBV = pvproperty(value=1, read_only=True)
    BinY_RBV = pvproperty(value=1, read_only=True)
    Manufacturer_RBV = text("lauepilot")
    Model_RBV = text("Twin")
    PortName_RBV = text("TWIN")
    ADCoreVersion_RBV = text("3.12.1")
    DriverVersion_RBV = text("1.0")
    SDKVersion_RBV = text("1.0")
    FirmwareVersion_RBV = text("1.0")
    SerialNumber_RBV = text("0")

    def __init__(
        self,
        *args: Any,
        stage: Stage,
        image: ImagePlugin,
        told: Callable[[Frame], Awaitable[None]],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.stage, self.image, self._frame_told = stage, image, told
        self.fault = "none"
        self._abort = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @Acquire.startup
    async def Acquire(self, instance: Any, async_lib: Any) -> None:
        """Show what the sensor is."""
        detector = self.stage.twin.instrument.detector
        rows, cols = detector.shape
        name, _, _ = WIRE[wire_bits(detector.sensor.bit_depth)]
        self._idle.set()
        for pv, value in (
            (self.ArraySizeX_RBV, cols), (self.ArraySizeY_RBV, rows), (self.SizeX_RBV, cols), (self.SizeY_RBV, rows),
            (self.MaxSizeX_RBV, cols), (self.MaxSizeY_RBV, rows), (self.DataType, name), (self.DataType_RBV, name),
            (self.image.DataType_RBV, name), (self.ArraySize_RBV, rows * cols * wire_bits(detector.sensor.bit_depth) // 8),
            (self.image.ArraySize0_RBV, cols), (self.image.ArraySize1_RBV, rows),
            (self.AcquireTime, float(self.stage.twin.instrument.exposure_s)),
        ):  # fmt: skip
            await pv.write(value)

    @AcquireTime.putter
    async def AcquireTime(self, instance: Any, value: float) -> float:
        """Seconds of the next exposure."""
        seconds = float(value)
        if not np.isfinite(seconds) or seconds <= 0.0:
            raise ValueError(f"AcquireTime must be a positive number of seconds; {value!r} came.")
        await self.AcquireTime_RBV.write(seconds)
        return seconds

    @AcquirePeriod.putter
    async def AcquirePeriod(self, instance: Any, value: float) -> float:
        """Kept, and without effect: one image a trigger."""
        await self.AcquirePeriod_RBV.write(value)
        return float(value)

    @ImageMode.putter
    async def ImageMode(self, instance: Any, value: Any) -> Any:
        """Single only."""
        if str(value) not in ("Single", "0"):
            raise ValueError(f"This camera takes single images; ImageMode {value!r} came.")
        return value

    @NumImages.putter
    async def NumImages(self, instance: Any, value: int) -> int:
        """One only."""
        if int(value) != 1:
            raise ValueError(f"This camera takes one image a trigger; NumImages {value!r} came.")
        return 1

    @TriggerMode.putter
    async def TriggerMode(self, instance: Any, value: Any) -> Any:
        """Internal only."""
        if str(value) not in ("Internal", "0"):
            raise ValueError(f"This camera has no external trigger; TriggerMode {value!r} came.")
        return value

    @Acquire.putter
    async def Acquire(self, instance: Any, value: Any) -> Any:
        """1 exposes and returns when the image is out; 0 ends the exposure now."""
        if str(value) not in ("Acquire", "1"):
            self._abort.set()
            await self._idle.wait()
            return "Done"
        if self._task is None or self._task.done():
            self._idle.clear()
            self._abort.clear()
            await instance.write("Acquire", verify_value=False)
            self._task = asyncio.create_task(self._expose())
        await self._idle.wait()
        raise SkipWrite  # Done was shown when it was done

    async def _expose(self) -> None:
        await self.Acquire_RBV.write("Acquiring")
        await self.DetectorState_RBV.write("Acquire")
        await self.StatusMessage_RBV.write("")
        severity = AlarmSeverity.NO_ALARM
        try:
            lasted = await self._wait(float(self.AcquireTime.value))
            if lasted > 0.0:
                await self._read_out(lasted)
            await self.DetectorState_RBV.write("Idle")
        except Exception as error:  # a camera that fails says so; the IOC goes on
            severity = AlarmSeverity.MAJOR_ALARM
            await self.DetectorState_RBV.write("Error")
            await self.StatusMessage_RBV.write(str(error)[:39])
        finally:
            status = AlarmStatus.NO_ALARM if severity == AlarmSeverity.NO_ALARM else AlarmStatus.READ
            await self.DetectorState_RBV.alarm.write(status=status, severity=severity)
            await self.TimeRemaining_RBV.write(0.0)
            await self.Acquire.write("Done", verify_value=False)
            await self.Acquire_RBV.write("Done")
            self._idle.set()

    async def _wait(self, seconds: float) -> float:
        """Let the exposure pass; the seconds, on the instrument's clock, that the shutter was open."""
        began = time.monotonic()
        while (gone := (time.monotonic() - began) * self.stage.speed) < seconds or self.fault == "never":
            await self.TimeRemaining_RBV.write(max(seconds - gone, 0.0))
            left = max((seconds - gone) / self.stage.speed, 0.0)
            try:
                await asyncio.wait_for(self._abort.wait(), min(left, 0.1) or 0.1)
            except TimeoutError:
                continue
            return min(gone, seconds)
        return seconds

    async def _read_out(self, seconds: float) -> None:
        await self.DetectorState_RBV.write("Readout")
        frame = await self.stage.expose(seconds)
        await self._frame_told(frame)
        counts = np.asarray(frame.counts)
        if self.fault == "shape":
            counts = counts[: counts.shape[0] // 2]
        if self.fault != "no image":
            await self.image.show(
                counts, WIRE[wire_bits(self.stage.twin.instrument.detector.sensor.bit_depth)][2]
            )
        await self.ArrayCounter_RBV.write(int(self.ArrayCounter_RBV.value) + 1)
        await self.NumImagesCounter_RBV.write(1)
