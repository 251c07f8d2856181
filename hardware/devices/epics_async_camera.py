"""A camera of areaDetector, or of anything with its process variables, by way of ophyd-async: a frame for a trigger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np
from bluesky.protocols import Reading, Triggerable
from ophyd_async.core import (
    AsyncStatus,
    Device,
    StandardReadable,
    StandardReadableFormat,
    SubsetEnum,
    WatchableAsyncStatus,
    WatcherUpdate,
    soft_signal_rw,
)
from ophyd_async.epics.core import epics_signal_r, epics_signal_rw

from lauepilot.hardware.devices.epics_async import ANSWER_S, POLL_S, SILENCE_S, fresh
from lauepilot.hardware.devices.parts import blank_image, check_exposure, check_shape, frame_values
from lauepilot.hardware.devices.pv import ExposureFacts, ended_without_image, image_of, no_frame
from lauepilot.hardware.errors import HardwareError, StoppedError
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.target import Lattice

#: Wall seconds that an image may come later than the camera's word that it is done.
LATE_IMAGE_S = 2.0


class ImageMode(SubsetEnum):
    """What is used of areaDetector's modes."""

    SINGLE = "Single"


class TriggerMode(SubsetEnum):
    """What is used of areaDetector's triggers."""

    INTERNAL = "Internal"


class AsyncCamPVs(Device):
    """What is used of areaDetector's driver (``cam1:``)."""

    def __init__(self, prefix: str, name: str = "") -> None:
        self.acquire_time = epics_signal_rw(float, f"{prefix}AcquireTime")
        # A put with completion would end with the exposure: its end is watched for.
        self.acquire = epics_signal_rw(bool, f"{prefix}Acquire", wait=False)
        self.acquiring = epics_signal_r(bool, f"{prefix}Acquire_RBV")
        self.image_mode = epics_signal_rw(ImageMode, f"{prefix}ImageMode")
        self.trigger_mode = epics_signal_rw(TriggerMode, f"{prefix}TriggerMode")
        self.num_images = epics_signal_rw(int, f"{prefix}NumImages")
        self.state = epics_signal_r(str, f"{prefix}DetectorState_RBV")
        self.data_type = epics_signal_r(str, f"{prefix}DataType_RBV")
        self.manufacturer = epics_signal_r(str, f"{prefix}Manufacturer_RBV")
        self.model = epics_signal_r(str, f"{prefix}Model_RBV")
        super().__init__(name)


class AsyncImagePVs(Device):
    """What is used of areaDetector's image plugin (``image1:``)."""

    def __init__(self, prefix: str, name: str = "") -> None:
        # The type is what the process variable has: 16 unsigned bits travel as signed ones.
        self.data: Any = epics_signal_r(None, f"{prefix}ArrayData")  # type: ignore[arg-type]
        self.cols = epics_signal_r(int, f"{prefix}ArraySize0_RBV")
        self.rows = epics_signal_r(int, f"{prefix}ArraySize1_RBV")
        self.unique_id = epics_signal_r(int, f"{prefix}UniqueId_RBV")
        super().__init__(name)


class AsyncInstrumentPVs(Device):
    """What an IOC of ours tells beside (``twin:``): clock, dose and the counting of the sensor."""

    def __init__(self, prefix: str, name: str = "") -> None:
        self.clock = epics_signal_r(float, f"{prefix}Clock_RBV")
        self.dose = epics_signal_r(float, f"{prefix}Dose_RBV")
        self.live_time = epics_signal_r(float, f"{prefix}LiveTime_RBV")
        self.saturation = epics_signal_r(float, f"{prefix}Saturation_RBV")
        self.gain = epics_signal_r(float, f"{prefix}Gain_RBV")
        self.offset = epics_signal_r(float, f"{prefix}Offset_RBV")
        self.instrument = epics_signal_r(str, f"{prefix}Instrument_RBV")
        super().__init__(name)


class AsyncEpicsCamera(StandardReadable, Triggerable):
    """An area detector with its shutter.

    Without process variables for them, the clock is this computer's, the dose is the sum of the exposures that were taken
    with this device, and the counting of the sensor is the instrument's.

    Parameters
    ----------
    instrument
        What is believed of the diffractometer; its first detector is this camera.
    cam, image
        Prefixes of the driver and of the image plugin, as ``lab:cam1:`` and ``lab:image1:``.
    twin
        Prefix of the clock, dose and sensor figures of an IOC of ours; None where there is none.
    name
        Its name in records.
    axes_now
        Tells where the axes stand, for the frames: ``lambda: goniometer.position``.
    grace_s
        Wall seconds beyond exposure and read-out after which an image is given up.
    """

    def __init__(
        self,
        instrument: Instrument,
        *,
        cam: str,
        image: str,
        twin: str | None = None,
        name: str = "camera",
        axes_now: Callable[[], Mapping[str, float]] = dict,
        grace_s: float = 10.0,
    ) -> None:
        self.instrument = instrument
        self.axes_now = axes_now
        self.grace_s = float(grace_s)
        self.crystal: Lattice | None = None
        self.frame: Frame | None = None
        self._began = time.monotonic()
        self._clock_s = self._dose_s = 0.0
        self._active, self._unique = 0, 0
        self.reachable = True
        self._exposure: WatchableAsyncStatus[float] | None = None
        self._stop_wanted = self._stop_success = False
        self.cam = AsyncCamPVs(cam)
        self.image_plugin = AsyncImagePVs(image)
        self.told = AsyncInstrumentPVs(twin) if twin is not None else None
        with self.add_children_as_readables(StandardReadableFormat.UNCACHED_SIGNAL):
            self.exposure_s = soft_signal_rw(float, float(instrument.exposure_s), units="s")
            self.image = soft_signal_rw(np.ndarray, blank_image(instrument))
            self.live_time_s = soft_signal_rw(float, 0.0, units="s")
            self.clock_s = soft_signal_rw(float, 0.0, units="s")
            self.saturation_adu = soft_signal_rw(float, 0.0)
            self.gain_adu = soft_signal_rw(float, 1.0)
            self.offset_adu = soft_signal_rw(float, 0.0)
        with self.add_children_as_readables(StandardReadableFormat.HINTED_UNCACHED_SIGNAL):
            self.total_counts = soft_signal_rw(float, 0.0, units="photons")
            self.dose_s = soft_signal_rw(float, 0.0, units="s")
        detector = instrument.detector
        with self.add_children_as_readables(StandardReadableFormat.CONFIG_SIGNAL):
            self.instrument_name = soft_signal_rw(str, instrument.name)
            self.detector_name = soft_signal_rw(str, detector.name)
            self.distance_mm = soft_signal_rw(float, float(detector.distance_mm), units="mm")
        self.add_readables([self.cam.manufacturer, self.cam.model], StandardReadableFormat.CONFIG_SIGNAL)
        super().__init__(name)

    async def connect(self, mock: Any = False, timeout: float = 10.0, force_reconnect: bool = False) -> None:
        """Connect, and follow the camera's state and the clock."""
        await super().connect(mock, timeout, force_reconnect)
        followed: dict[str, Any] = {"_active": self.cam.acquiring, "_unique": self.image_plugin.unique_id}
        if self.told is not None:
            followed |= {"_clock_s": self.told.clock, "_dose_s": self.told.dose}
        for name, signal in followed.items():
            self._follow(signal, name)

    def _follow(self, signal: Any, name: str) -> None:
        def told(readings: Mapping[str, Reading[Any]]) -> None:
            setattr(self, name, next(iter(readings.values()))["value"])
            self.reachable = True

        signal.subscribe_reading(told)

    @property
    def clock_now_s(self) -> float:
        """Seconds on the instrument's clock: the last that was told."""
        return time.monotonic() - self._began if self.told is None else float(self._clock_s)

    @property
    def dose_now_s(self) -> float:
        """Open-shutter seconds: the last that was told."""
        return float(self._dose_s)

    @property
    def busy(self) -> bool:
        """Whether an exposure is going on, ours or somebody else's."""
        return (self._exposure is not None and not self._exposure.done) or bool(self._active)

    async def refresh(self) -> None:
        """Ask for the camera's state and the clock.

        Raises
        ------
        HardwareError
            If there is no answer.
        """
        try:
            self._active = int(await fresh(self.cam.acquiring))
            if self.told is not None:
                self._clock_s, self._dose_s = await asyncio.gather(
                    fresh(self.told.clock), fresh(self.told.dose)
                )
        except HardwareError:
            self.reachable = False
            raise

    @AsyncStatus.wrap
    async def stage(self) -> None:
        """Single images, triggered by software."""
        await self.cam.acquire.set(False, timeout=ANSWER_S)
        await self.cam.image_mode.set(ImageMode.SINGLE, timeout=ANSWER_S)
        await self.cam.trigger_mode.set(TriggerMode.INTERNAL, timeout=ANSWER_S)
        await self.cam.num_images.set(1, timeout=ANSWER_S)
        await super().stage()

    @AsyncStatus.wrap
    async def unstage(self) -> None:
        """Close the shutter, then undo `stage`."""
        await self.stop()
        await super().unstage()

    def trigger(self) -> WatchableAsyncStatus[float]:
        """Expose for ``exposure_s`` seconds; the status fails where no image comes in time.

        Raises
        ------
        HardwareError
            If an exposure is going on.
        """
        if self.busy:
            raise HardwareError(f"{self.name} is busy. Wait for its status, or stop() it first.")
        self._stop_wanted = self._stop_success = False
        self._exposure = WatchableAsyncStatus(self._expose(), name=self.name)
        return self._exposure

    async def stop(self, success: bool = False) -> None:
        """Close the shutter; `busy` says when the camera is at rest. An exposure fails unless ``success``."""
        self._stop_wanted, self._stop_success = True, success
        if self.busy:
            await asyncio.gather(
                self._shut(), return_exceptions=True
            )  # what is lost the exposure itself tells

    async def pause(self) -> None:
        """Close the shutter while the plan pauses; the exposure is taken anew after it."""
        await self.stop(success=True)

    async def resume(self) -> None:
        """Nothing to do: the plan triggers again."""

    async def _shut(self) -> None:
        await self.cam.acquire.set(False, timeout=ANSWER_S)

    async def _expose(self) -> AsyncIterator[WatcherUpdate[float]]:
        seconds = check_exposure(self.name, await self.exposure_s.get_value())
        try:
            await self.cam.acquire_time.set(seconds, timeout=ANSWER_S)
            before = await fresh(self.image_plugin.unique_id)
            if not self._stop_wanted:
                await self.cam.acquire.set(True, timeout=ANSWER_S)
            if self._stop_wanted:  # a stop that came just before would be undone by the start
                await self._shut()
            async for done_s in self._wait(seconds, before):
                share = done_s / seconds
                yield WatcherUpdate(
                    done_s, 0.0, seconds, name=self.name, unit="s", precision=1, fraction=1.0 - share
                )
            if await fresh(self.image_plugin.unique_id) != before:
                await self._read_out(seconds)
            await self.refresh()
            if self._stop_wanted and not self._stop_success:
                raise StoppedError(f"{self.name} was stopped during an exposure of {seconds:g} s.")
        except BaseException:  # cancelled, too: whoever gives up an exposure does not leave the shutter open
            await asyncio.gather(self._shut(), return_exceptions=True)
            raise

    async def _wait(self, seconds: float, before: int) -> AsyncIterator[float]:
        """Seconds exposed, until an image has come, or the exposure was stopped by us."""
        began = asked = idle_since = time.monotonic()
        allowed = seconds + self.instrument.detector.sensor.readout_s + self.grace_s
        started = False
        while True:
            await asyncio.sleep(POLL_S)
            now = time.monotonic()
            if now - asked > SILENCE_S:
                await self.refresh()  # is it still there?
                asked = now
            active, came = bool(self._active), self._unique != before
            started = started or active or came
            if came and not active:
                return
            if active:
                idle_since = now
            elif self._stop_wanted and not await fresh(self.cam.acquiring):
                return
            elif started and now - idle_since > LATE_IMAGE_S:
                raise ended_without_image(self.name, seconds)
            if now - began > allowed:
                raise no_frame(self.name, seconds, now - began, str(await fresh(self.cam.state)))
            yield min(now - began, seconds)

    async def _read_out(self, seconds: float) -> None:
        plugin = self.image_plugin
        rows, cols, kind = await asyncio.gather(
            fresh(plugin.rows), fresh(plugin.cols), fresh(self.cam.data_type)
        )
        check_shape(self.name, (rows, cols), self.instrument)
        counts = image_of(await fresh(plugin.data), rows, cols, kind, self.name)
        facts = await self._facts(seconds)
        # Where nobody tells for how long it was, the camera's own word is all there is.
        cut = facts.live_time_s < 0.99 * seconds or (
            self.told is None and str(await fresh(self.cam.state)) == "Aborted"
        )
        if cut and not self._stop_wanted:
            after = "" if self.told is None else f" after {facts.live_time_s:.2f} s"
            raise StoppedError(
                f"{self.name} was stopped elsewhere{after}, in an exposure of {seconds:.2f} s. "
                "Start again when whoever stopped it agrees."
            )
        self._clock_s, self._dose_s = facts.clock_s, facts.dose_s
        self.frame = facts.frame(counts, self.axes_now(), self.instrument.name)
        for name, value in frame_values(self.frame, facts.clock_s, facts.dose_s).items():
            await getattr(self, name).set(value)

    async def _facts(self, seconds: float) -> ExposureFacts:
        told = self.told
        if told is None:
            return ExposureFacts.usual(self.instrument, seconds, self.clock_now_s, self._dose_s + seconds)
        signals = (told.live_time, told.saturation, told.gain, told.offset, told.clock, told.dose)
        return ExposureFacts(*[float(v) for v in await asyncio.gather(*(fresh(s) for s in signals))])
