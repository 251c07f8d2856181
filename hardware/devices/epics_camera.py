"""A camera of areaDetector, or of anything with its process variables, by way of ophyd: single frames, one a trigger.

ophyd's own plugin classes describe an image as a flat list of unknown type; here it has its rows, columns and pixel type,
and a trigger that brings no image, or one of the wrong shape, fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ophyd import Component, Device, EpicsSignal, EpicsSignalRO, Kind
from ophyd.utils import DisconnectedError

from lauepilot.hardware.devices.action import TimedStatus
from lauepilot.hardware.devices.epics import ANSWER_S, POLL_S, fresh
from lauepilot.hardware.devices.parts import CameraValues, check_exposure, check_shape
from lauepilot.hardware.devices.pv import ExposureFacts, ended_without_image, image_of, lost, no_frame
from lauepilot.hardware.errors import HardwareError, StoppedError
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument

#: Wall seconds that an image may come later than the camera's word that it is done.
LATE_IMAGE_S = 2.0


class CamPVs(Device):  # type: ignore[misc]
    """What is used of areaDetector's driver (``cam1:``)."""

    acquire_time = Component(EpicsSignal, "AcquireTime", kind=Kind.omitted)
    acquire = Component(EpicsSignal, "Acquire", kind=Kind.omitted)
    acquiring = Component(EpicsSignalRO, "Acquire_RBV", kind=Kind.omitted, auto_monitor=True)
    image_mode = Component(EpicsSignal, "ImageMode", kind=Kind.omitted)
    trigger_mode = Component(EpicsSignal, "TriggerMode", kind=Kind.omitted)
    num_images = Component(EpicsSignal, "NumImages", kind=Kind.omitted)
    state = Component(EpicsSignalRO, "DetectorState_RBV", string=True, kind=Kind.omitted, auto_monitor=True)
    data_type = Component(EpicsSignalRO, "DataType_RBV", string=True, kind=Kind.omitted)
    manufacturer = Component(EpicsSignalRO, "Manufacturer_RBV", string=True, kind=Kind.config)
    model = Component(EpicsSignalRO, "Model_RBV", string=True, kind=Kind.config)


class ImagePVs(Device):  # type: ignore[misc]
    """What is used of areaDetector's image plugin (``image1:``)."""

    data = Component(EpicsSignalRO, "ArrayData", kind=Kind.omitted)
    cols = Component(EpicsSignalRO, "ArraySize0_RBV", kind=Kind.omitted)
    rows = Component(EpicsSignalRO, "ArraySize1_RBV", kind=Kind.omitted)
    unique_id = Component(EpicsSignalRO, "UniqueId_RBV", kind=Kind.omitted, auto_monitor=True)


class InstrumentPVs(Device):  # type: ignore[misc]
    """What an IOC of ours tells beside (``twin:``): clock, dose and the counting of the sensor."""

    clock = Component(EpicsSignalRO, "Clock_RBV", kind=Kind.omitted)
    dose = Component(EpicsSignalRO, "Dose_RBV", kind=Kind.omitted)
    live_time = Component(EpicsSignalRO, "LiveTime_RBV", kind=Kind.omitted)
    saturation = Component(EpicsSignalRO, "Saturation_RBV", kind=Kind.omitted)
    gain = Component(EpicsSignalRO, "Gain_RBV", kind=Kind.omitted)
    offset = Component(EpicsSignalRO, "Offset_RBV", kind=Kind.omitted)
    instrument = Component(EpicsSignalRO, "Instrument_RBV", string=True, kind=Kind.omitted)


class EpicsCamera(CameraValues):
    """An area detector with its shutter; make one with `epics_camera`.

    Without process variables for them, the clock is this computer's, the dose is the sum of the exposures that were taken
    with this device, and the counting of the sensor is the instrument's.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        instrument: Instrument,
        axes_now: Callable[[], Mapping[str, float]] = dict,
        grace_s: float = 10.0,
        **kwargs: Any,
    ) -> None:
        self.instrument = instrument
        self.axes_now = axes_now
        self.grace_s = float(grace_s)
        self._began = time.monotonic()
        self._own_dose_s = 0.0
        self._thread: threading.Thread | None = None
        self._stop, self._stop_success = threading.Event(), False
        super().__init__(prefix, **kwargs)
        self.believe(instrument)

    @property
    def told(self) -> InstrumentPVs | None:
        """The process variables of the instrument's clock; None where there are none."""
        return getattr(self, "twin", None)

    @property
    def clock_now_s(self) -> float:
        """Seconds on the instrument's clock now."""
        return time.monotonic() - self._began if self.told is None else float(fresh(self.told.clock))

    @property
    def dose_now_s(self) -> float:
        """Open-shutter seconds until now."""
        return self._own_dose_s if self.told is None else float(fresh(self.told.dose))

    @property
    def busy(self) -> bool:
        """Whether an exposure is going on, ours or somebody else's; also where the camera cannot be asked."""
        ours = self._thread is not None and self._thread.is_alive()
        return ours or not self.cam.acquiring.connected or bool(self.cam.acquiring.get())

    @property
    def reachable(self) -> bool:
        """Whether the camera answers."""
        return bool(self.cam.acquiring.connected)

    def stage(self) -> list[object]:
        """Single images, triggered by software."""
        if not self.connected:
            raise lost(self.cam.acquire.pvname)
        self.cam.acquire.put(0, wait=True, timeout=ANSWER_S)
        for signal, value in (
            (self.cam.image_mode, "Single"),
            (self.cam.trigger_mode, "Internal"),
            (self.cam.num_images, 1),
        ):
            signal.put(value, wait=True, timeout=ANSWER_S)
        return list(super().stage())

    def unstage(self) -> list[object]:
        """Close the shutter, then undo `stage`."""
        self.stop()
        return list(super().unstage())

    def trigger(self) -> TimedStatus:
        """Expose for ``exposure_s`` seconds; the status fails where no image comes in time.

        Raises
        ------
        ValueError
            If that is not a positive number.
        HardwareError
            If an exposure is going on, or the camera does not answer.
        """
        seconds = check_exposure(self.name, float(self.exposure_s.get()))
        if not self.connected:
            raise lost(self.cam.acquire.pvname)
        if self.busy:
            raise HardwareError(f"{self.name} is busy. Wait for its status, or stop() it first.")
        status = TimedStatus(self)
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._expose, args=(status, seconds), name=f"lauepilot-{self.name}", daemon=True
        )
        self._thread.start()
        return status

    def stop(self, *, success: bool = False) -> None:
        """Close the shutter; `busy` says when the camera is at rest. An exposure fails unless ``success``."""
        self._stop_success = success
        self._stop.set()
        # Of the camera's own signals alone: a lost image plugin must not keep the shutter open.
        if self.cam.acquire.connected and self.busy:
            self.cam.acquire.put(0, wait=False)

    def _expose(self, status: TimedStatus, seconds: float) -> None:
        problem: Exception | None = None
        try:
            self._take(status, seconds)
        except (TimeoutError, DisconnectedError):
            problem = lost(self.cam.acquire.pvname)
        except Exception as error:  # whatever the camera raised belongs to whoever waits for the exposure
            problem = error
        self._thread = None
        if problem is None:
            status.report(seconds, seconds)
            status.set_finished()
        else:
            status.set_exception(problem)

    def _take(self, status: TimedStatus, seconds: float) -> None:
        self.cam.acquire_time.put(seconds, wait=True, timeout=ANSWER_S)
        before = fresh(self.image_plugin.unique_id)
        if not self._stop.is_set():
            self.cam.acquire.put(1, wait=False)
        if self._stop.is_set():  # a stop that came just before would be undone by the start
            self.cam.acquire.put(0, wait=False)
        came = self._wait(status, seconds, before)
        if came:
            self._read_out(seconds)
        if self._stop.is_set() and not self._stop_success:
            raise StoppedError(f"{self.name} was stopped during an exposure of {seconds:g} s.")

    def _wait(self, status: TimedStatus, seconds: float, before: Any) -> bool:
        """Until an image has come; False if there is none because the exposure was stopped by us."""
        began = time.monotonic()
        allowed = seconds + self.instrument.detector.sensor.readout_s + self.grace_s
        started, idle_since = False, 0.0
        while True:
            time.sleep(POLL_S)
            now = time.monotonic()
            if not self.cam.acquiring.connected:
                raise lost(self.cam.acquiring.pvname)
            active, came = bool(self.cam.acquiring.get()), self.image_plugin.unique_id.get() != before
            started = started or active or came
            if came and not active:
                return True
            if active:
                idle_since = now
                status.report(min(now - began, seconds), seconds)
            elif self._stop.is_set() and not fresh(self.cam.acquiring):
                return bool(fresh(self.image_plugin.unique_id) != before)
            elif started and now - idle_since > LATE_IMAGE_S:
                raise ended_without_image(self.name, seconds)
            if now - began > allowed:
                state = str(self.cam.state.get())
                self.cam.acquire.put(0, wait=False)
                raise no_frame(self.name, seconds, now - began, state)

    def _read_out(self, seconds: float) -> None:
        rows, cols = int(fresh(self.image_plugin.rows)), int(fresh(self.image_plugin.cols))
        check_shape(self.name, (rows, cols), self.instrument)
        raw = fresh(self.image_plugin.data, count=rows * cols)
        counts = image_of(raw, rows, cols, str(fresh(self.cam.data_type)), self.name)
        facts = self._facts(seconds)
        # Where nobody tells for how long it was, the camera's own word is all there is.
        cut = facts.live_time_s < 0.99 * seconds or (
            self.told is None and str(fresh(self.cam.state)) == "Aborted"
        )
        if cut and not self._stop.is_set():
            after = "" if self.told is None else f" after {facts.live_time_s:.2f} s"
            raise StoppedError(
                f"{self.name} was stopped elsewhere{after}, in an exposure of {seconds:.2f} s. "
                "Start again when whoever stopped it agrees."
            )
        frame: Frame = facts.frame(counts, self.axes_now(), self.instrument.name)
        self.store(frame, facts.clock_s, facts.dose_s)

    def _facts(self, seconds: float) -> ExposureFacts:
        told = self.told
        if told is None:
            self._own_dose_s += seconds
            return ExposureFacts.usual(self.instrument, seconds, self.clock_now_s, self._own_dose_s)
        return ExposureFacts(
            live_time_s=float(fresh(told.live_time)),
            saturation=float(fresh(told.saturation)),
            gain=float(fresh(told.gain)),
            offset=float(fresh(told.offset)),
            clock_s=float(fresh(told.clock)),
            dose_s=float(fresh(told.dose)),
        )


def epics_camera(
    instrument: Instrument,
    *,
    cam: str,
    image: str,
    twin: str | None = None,
    name: str = "camera",
    axes_now: Callable[[], Mapping[str, float]] = dict,
    grace_s: float = 10.0,
) -> EpicsCamera:
    """An `EpicsCamera`: not yet connected, see `lauepilot.hardware.devices.config.wait_connected`.

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
    parts: dict[str, Any] = {
        "__doc__": EpicsCamera.__doc__,
        "cam": Component(CamPVs, cam, kind=Kind.config),
        "image_plugin": Component(ImagePVs, image, kind=Kind.omitted),
    }
    if twin is not None:
        parts["twin"] = Component(InstrumentPVs, twin, kind=Kind.omitted)
    made = type("EpicsCamera", (EpicsCamera,), parts)
    device = made(name=name, instrument=instrument, axes_now=axes_now, grace_s=grace_s)
    if not isinstance(device, EpicsCamera):
        raise TypeError(f"{made} did not make an EpicsCamera.")
    return device
