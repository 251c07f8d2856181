"""What devices of every kind share: the twin's, those of ophyd and those of ophyd-async."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component, Device, Kind, Signal
from ophyd.positioner import SoftPositioner
from ophyd.status import StatusBase

from lauepilot.hardware.errors import HardwareError, MotionError
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.goniometer import Axis
from lauepilot.simulator.goniometer import Goniometer as AxisChain
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.target import Lattice


class Axes:
    """What a goniometer says of its axes, given ``instrument`` and ``position``."""

    instrument: Instrument

    @property
    @abstractmethod
    def position(self) -> dict[str, float]:
        """Read-back of all axes, degrees and mm; on the way while they move."""

    @property
    def chain(self) -> AxisChain:
        """The axes as believed."""
        return self.instrument.goniometer

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest position by axis, degrees and mm."""
        return {axis.name: axis.limits for axis in self.chain.axes}

    @property
    def tolerances(self) -> dict[str, float]:
        """How far a read-back may be from its setpoint by axis: the play and two steps, at least 0.01 deg or mm."""
        return {a.name: max(0.01, a.backlash + 2.0 * a.resolution) for a in self.chain.axes}

    def check_readback(
        self, wanted: Mapping[str, float], tolerance: Mapping[str, float] | None = None
    ) -> None:
        """Refuse to go on where axes are not where they were sent.

        Raises
        ------
        MotionError
            Names the axis, where it was sent, where it is, and what to do.
        """
        self.check_arrived(self.position, wanted, tolerance)

    def check_arrived(
        self,
        here: Mapping[str, float],
        wanted: Mapping[str, float],
        tolerance: Mapping[str, float] | None = None,
    ) -> None:
        """The same for a read-back ``here`` that was taken before."""
        allowed = {**self.tolerances, **(tolerance or {})}
        for name, setpoint in wanted.items():
            reached, unit = here.get(name, float("nan")), self.chain.axis(name).unit
            if not abs(reached - setpoint) <= allowed[name]:
                raise MotionError(
                    f"Axis {name!r} stopped short: wanted {setpoint:.4f} {unit}, reached {reached:.4f} {unit} "
                    f"(allowed: {allowed[name]:g} {unit}). Look for an obstacle, a limit switch or somebody's stop, "
                    "then start again; the crystal's orientation is not lost."
                )

    def check_within(self, here: Mapping[str, float]) -> None:
        """Refuse to go on where an axis stands outside its limits.

        Raises
        ------
        MotionError
            Names the axis, where it is, and the limits.
        """
        slack = self.tolerances
        for name, value in here.items():
            low, high = self.limits[name]
            if not low - slack[name] <= value <= high + slack[name]:
                raise MotionError(
                    f"Axis {name!r} reads {value:g}, outside its limits of {low:g} to {high:g}, though it was not "
                    "sent there. Stop, and check its encoder and its limits."
                )


def check_exposure(camera: str, seconds: float) -> float:
    """``seconds`` if that is a time to expose for.

    Raises
    ------
    ValueError
        If it is not a positive number.
    """
    if not np.isfinite(seconds) or seconds <= 0.0:
        raise ValueError(
            f"An exposure needs a positive time; {camera}.exposure_s is {seconds!r} s. Set it first."
        )
    return float(seconds)


def check_shape(camera: str, shape: tuple[int, ...], instrument: Instrument) -> None:
    """Refuse an image whose shape is not that of the instrument's detector.

    Raises
    ------
    HardwareError
        Names both shapes, and what to do.
    """
    if tuple(shape) != instrument.detector.shape:
        raise HardwareError(
            f"{camera} gave a frame of shape {tuple(shape)}, but the instrument {instrument.name!r} says "
            f"(rows, cols) = {instrument.detector.shape}. Check binning, or load the right instrument."
        )


def blank_image(instrument: Instrument) -> NDArray[Any]:
    """Zeros (rows, cols) of the smallest unsigned type that the detector's pixels fit in."""
    bits = instrument.detector.sensor.bit_depth
    kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    return np.zeros(instrument.detector.shape, kind)


def frame_values(frame: Frame, clock_s: float, dose_s: float) -> dict[str, Any]:
    """What a camera's signals hold after an exposure, by the signals' attribute names."""
    counts = frame.counts
    return {
        "image": np.ascontiguousarray(counts),
        "live_time_s": float(frame.live_time_s),
        "saturation_adu": float(frame.saturation),
        "gain_adu": float(frame.gain),
        "offset_adu": float(frame.offset),
        "total_counts": float((counts.sum(dtype=float) - frame.offset * counts.size) / frame.gain),
        "clock_s": float(clock_s),
        "dose_s": float(dose_s),
    }


class Value(Signal):  # type: ignore[misc]
    """A signal that describes itself with its true shape, numpy type and unit."""

    def __init__(self, *args: Any, unit: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unit = unit

    def describe(self) -> dict[str, dict[str, Any]]:
        """The data key of this signal, as in the event model."""
        value = self._readback
        key: dict[str, Any] = {"source": f"lauepilot:{self.name}", "dtype": "string", "shape": []}
        if isinstance(value, np.ndarray):
            key |= {"dtype": "array", "shape": list(value.shape), "dtype_numpy": value.dtype.str}
        elif isinstance(value, bool | int | float):
            kind = "boolean" if isinstance(value, bool) else "integer" if isinstance(value, int) else "number"
            key |= {"dtype": kind, "dtype_numpy": np.asarray(value).dtype.str}
        if self._unit:
            key["units"] = self._unit
        return {self.name: key}


class AxisPositioner(SoftPositioner):  # type: ignore[misc]
    """One axis of a goniometer; it moves through its parent, which knows of motions in progress."""

    def __init__(self, *args: Any, axis: Axis, **kwargs: Any) -> None:
        # ophyd hands a suffix (a PV's ending) to every component; there is none here.
        super().__init__(egu=axis.unit, limits=axis.limits, source=f"lauepilot:{axis.name}", **kwargs)
        self.axis = axis

    @property
    def position(self) -> float:
        """Read-back, degrees or mm; on the way while the axis moves."""
        return float(self.parent.position[self.axis.name])

    @property
    def moving(self) -> bool:
        """Whether the goniometer is not at rest."""
        return bool(self.parent.moving)

    @property
    def busy(self) -> bool:
        """The same, as `settle` asks."""
        return bool(self.parent.busy)

    def check_value(self, pos: float) -> None:
        """Refuse a position that is not finite or outside the limits (`ReachError`)."""
        self.axis.check(pos)

    def move(
        self, position: float, wait: bool = True, timeout: float | None = None, moved_cb: Any = None
    ) -> StatusBase:
        """Move this axis alone; see ophyd's positioners for the arguments."""
        status = self.parent.set({self.axis.name: position})
        if moved_cb is not None:
            status.add_callback(moved_cb)
        if wait:
            status.wait(timeout)
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop the goniometer: its axes move together."""
        self.parent.stop(success=success)

    def describe(self) -> dict[str, dict[str, Any]]:
        """The data key, with unit and limits."""
        low, high = self.axis.limits
        return {
            self.name: {
                "source": self.source,
                "dtype": "number",
                "dtype_numpy": "<f8",
                "shape": [],
                "units": self.axis.unit,
                "lower_ctrl_limit": low,
                "upper_ctrl_limit": high,
            }
        }


def axis_components(instrument: Instrument) -> dict[str, Component]:
    """One positioner, named as the axis, for each axis of an instrument: for the class of a device."""
    return {
        axis.name: Component(AxisPositioner, axis=axis, kind=Kind.hinted)
        for axis in instrument.goniometer.axes
    }


class CameraValues(Device):  # type: ignore[misc]
    """The signals of a camera, filled at the end of each exposure.

    ``exposure_s`` is set before a trigger; the frame is then in ``image`` (rows, cols) and, with all that belongs to
    it, in ``frame``. ``crystal`` is the one believed to be mounted, None if nobody said.
    """

    exposure_s = Component(Value, value=1.0, unit="s", kind=Kind.normal)
    image = Component(Value, kind=Kind.normal)
    live_time_s = Component(Value, value=0.0, unit="s", kind=Kind.normal)
    total_counts = Component(Value, value=0.0, unit="photons", kind=Kind.hinted)
    clock_s = Component(Value, value=0.0, unit="s", kind=Kind.normal)
    dose_s = Component(Value, value=0.0, unit="s", kind=Kind.hinted)
    saturation_adu = Component(Value, value=0.0, kind=Kind.normal)
    gain_adu = Component(Value, value=1.0, kind=Kind.normal)
    offset_adu = Component(Value, value=0.0, kind=Kind.normal)
    instrument_name = Component(Value, value="", kind=Kind.config)
    detector_name = Component(Value, value="", kind=Kind.config)
    distance_mm = Component(Value, value=0.0, unit="mm", kind=Kind.config)

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(prefix, **kwargs)
        self.crystal: Lattice | None = None
        self.frame: Frame | None = None

    def believe(self, instrument: Instrument) -> None:
        """Fill in what is known before the first exposure."""
        self.image.put(blank_image(instrument))
        self.exposure_s.put(float(instrument.exposure_s))
        self.instrument_name.put(instrument.name)
        self.detector_name.put(instrument.detector.name)
        self.distance_mm.put(float(instrument.detector.distance_mm))

    def store(self, frame: Frame, clock_s: float, dose_s: float) -> None:
        """Take a frame in; clock and dose are those at its end."""
        self.frame = frame
        for name, value in frame_values(frame, clock_s, dose_s).items():
            getattr(self, name).put(value)

    def describe(self) -> OrderedDict[str, Any]:
        """Data keys; the image's ``dims`` are named row, col."""
        keys = OrderedDict(super().describe())
        keys[self.image.name]["dims"] = ["row", "col"]
        return keys

    def pause(self) -> None:
        """Close the shutter while the plan pauses; the exposure is taken anew after it."""
        self.stop(success=True)

    def resume(self) -> None:
        """Nothing to do: the plan triggers again."""
