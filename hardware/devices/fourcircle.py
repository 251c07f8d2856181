"""Ophyd devices on the twin of a four-circle: its axes, a counter and a small area detector that sweep.

A detector is a flyer: ``prepare`` it with a `Path`, ``kickoff``, ``complete``, ``collect``; it counts while the axes move
along the path, bin after bin, and ``sweep`` then holds what was measured. Whoever has a real diffractometer gives `build_ub`
devices that do the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from ophyd import Component, Kind

from lauepilot.hardware.devices.action import TimedStatus
from lauepilot.hardware.devices.parts import AxisPositioner
from lauepilot.hardware.devices.twin import Goniometer, _OnBackend
from lauepilot.hardware.errors import HardwareError
from lauepilot.perception.reflections.looking import Path
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.fourcircle import AXES, FourCircle, path_bins
from lauepilot.simulator.fourcircle_twin import DetectorKind, FourCircleTwin, Sweep
from lauepilot.simulator.goniometer import Goniometer as AxisChain


@runtime_checkable
class SweepDetector(Protocol):
    """What `build_ub` needs of a detector: a flyer of Bluesky that sweeps the diffractometer's axes.

    ``sees`` is ``point`` or ``area``, ``sweep`` what the last flight measured, ``crystal`` what is believed to be mounted.
    """

    sees: DetectorKind
    crystal: Crystal | None
    sweep: Sweep | None

    @property
    def name(self) -> str:
        """Its name in records."""

    @property
    def clock_now_s(self) -> float:
        """Seconds on the instrument's clock."""

    def prepare(self, path: Path) -> Any:
        """A status; the path is checked, nothing moves."""

    def kickoff(self) -> Any:
        """A status, done when the flight has begun."""

    def complete(self) -> Any:
        """A status, done when the flight is over."""

    def pause(self) -> None:
        """Stop the flight; the plan flies the whole path anew when it is resumed."""


class Diffractometer(Goniometer):
    """omega, chi, phi and tth of a four-circle; make one with `connect_four_circle`."""

    @property
    def chain(self) -> AxisChain:
        """All four axes as believed."""
        return self.four_circle.motors

    @property
    def four_circle(self) -> FourCircle:
        """The instrument as believed."""
        believed = self.backend.instrument
        if not isinstance(believed, FourCircle):
            raise HardwareError(f"{self.name} stands on {type(believed).__name__}; a four-circle is needed.")
        return believed


class TwinDetector(_OnBackend):
    """The counter or the area detector of the twin; make one with `connect_four_circle`."""

    def __init__(self, prefix: str = "", *, sees: DetectorKind, **kwargs: Any) -> None:
        super().__init__(prefix, **kwargs)
        self.sees: DetectorKind = sees
        self.crystal: Crystal | None = None
        self.sweep: Sweep | None = None
        self._path: Path | None = None
        self._status: TimedStatus | None = None
        self._when: list[float] = []

    @property
    def clock_now_s(self) -> float:
        """Seconds on the instrument's clock."""
        return float(self.backend.clock_s)

    def prepare(self, path: Path) -> TimedStatus:
        """Take a path in, and check it; nothing moves.

        Raises
        ------
        ReachError, ValueError
            If a corner is outside the limits, or something is not a number.
        """
        path_bins(self.backend.instrument, path.points_deg, path.seconds)  # type: ignore[arg-type]
        self._path = path
        return self._done()

    def kickoff(self) -> TimedStatus:
        """Begin to fly.

        Raises
        ------
        HardwareError
            If there is no path, or a flight is going on.
        """
        if self._path is None:
            raise HardwareError(f"{self.name} has no path. prepare() it with one first.")
        path = self._path
        live = path_bins(self.backend.instrument, path.points_deg, path.seconds)[1]  # type: ignore[arg-type]
        self.sweep = None

        def land(elapsed_s: float) -> None:
            ended = int(np.searchsorted(np.cumsum(live), elapsed_s + 1e-9, side="right"))
            if ended == 0:
                return
            twin: FourCircleTwin = self.backend  # type: ignore[assignment]
            with self._lock:
                self.sweep = twin.sweep(
                    path.points_deg[: ended + 1], path.seconds, detector=self.sees, aperture=path.aperture
                )
            self._when = list(time.time() - float(live.sum()) + np.cumsum(live))

        self._status = self._begin(self._action_of(float(live.sum()), land))
        return self._done()

    def complete(self) -> TimedStatus:
        """The status of the flight: fails if it was stopped.

        Raises
        ------
        HardwareError
            If none was begun.
        """
        if self._status is None:
            raise HardwareError(f"{self.name} does not fly. kickoff() it first.")
        return self._status

    def pause(self) -> None:
        """Stop the flight while the plan pauses: Bluesky itself stops movables, not flyers."""
        self.stop(success=True)

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        """Data keys of the stream ``bins``: one event for each bin of a path; frames are left to the plan."""
        source = f"lauepilot:{self.name}"
        keys: dict[str, Any] = {
            f"{self.name}_{axis}": {"source": source, "dtype": "number", "shape": [], "units": "deg"}
            for axis in AXES
        }
        keys[f"{self.name}_seconds"] = {"source": source, "dtype": "number", "shape": [], "units": "s"}
        keys[f"{self.name}_counts"] = {"source": source, "dtype": "number", "shape": []}
        for key in keys.values():
            key["dtype_numpy"] = "<f8"
        return {"bins": keys}

    def collect(self) -> Iterator[dict[str, Any]]:
        """The bins of the last flight, as events."""
        sweep = self.sweep
        if sweep is None:
            return
        for i, (angles, seconds) in enumerate(zip(sweep.angles_deg, sweep.seconds, strict=True)):
            data: dict[str, Any] = {
                f"{self.name}_{axis}": float(a) for axis, a in zip(AXES, angles, strict=True)
            }
            data[f"{self.name}_seconds"] = float(seconds)
            if sweep.counts is not None:
                data[f"{self.name}_counts"] = float(sweep.counts[i])
            if sweep.frames is not None:
                data[f"{self.name}_counts"] = float(sweep.frames[i].sum())
            yield {"time": self._when[i], "data": data, "timestamps": dict.fromkeys(data, self._when[i])}

    def _done(self) -> TimedStatus:
        status = TimedStatus(self)
        status.set_finished()
        return status


def connect_four_circle(
    twin: FourCircleTwin, *, detector: DetectorKind = "point", realtime_factor: float = 0.0
) -> tuple[Diffractometer, TwinDetector]:
    """Diffractometer and detector on a twin.

    Parameters
    ----------
    twin
        The world under both.
    detector
        ``point`` or ``area``.
    realtime_factor
        How many times faster than the wall the instrument's clock runs; 0 does everything at once.
    """
    if detector not in ("point", "area"):
        raise ValueError(f"The detector is 'point' or 'area'; {detector!r} came.")
    lock = threading.RLock()
    parts = {
        axis.name: Component(AxisPositioner, axis=axis, kind=Kind.hinted)
        for axis in twin.instrument.motors.axes
    }
    made = type("Diffractometer", (Diffractometer,), {"__doc__": Diffractometer.__doc__, **parts})
    axes = made(backend=twin, name="diffractometer", realtime_factor=realtime_factor, lock=lock)
    counter = TwinDetector(
        backend=twin, name=detector, sees=detector, realtime_factor=realtime_factor, lock=lock
    )
    counter.crystal = twin.crystal
    if not isinstance(axes, Diffractometer):
        raise TypeError(f"{made} did not make a Diffractometer.")
    return axes, counter
