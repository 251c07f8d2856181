"""Frames at a list or a grid of axis positions.

::

    table = RE(scan_orientations(camera, goniometer, {"omega": [0, 10, 20], "chi": [0, 5]}, exposure_s=30)).plan_result
    table["omega"], table["photons"]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from numpy.typing import NDArray

from lauepilot.hardware.interlock import Collisions
from lauepilot.hardware.metadata import measurement_metadata, merged, plain
from lauepilot.hardware.plans.parts import (
    check_route,
    check_seconds,
    close,
    ended_at_rest,
    expose,
    move_to,
    photons,
    usual_interlock,
)
from lauepilot.hardware.plans.settle import Plan
from lauepilot.hardware.protocols import Camera, Goniometer
from lauepilot.simulator.frame import Frame

Positions = Sequence[Mapping[str, float]] | Mapping[str, Sequence[float]]


@dataclass(frozen=True, eq=False)
class ScanTable:
    """What a scan measured, a row for each frame.

    Attributes
    ----------
    columns
        Arrays (n,) by name: read-backs of all axes (degrees, mm), ``live_time_s``, ``photons`` (of the whole frame),
        ``clock_s`` and ``dose_s`` (on the instrument's clock, since the beginning), and what ``measure`` gave.
    run_uid
        Of the run in the records, which hold the frames.
    """

    columns: Mapping[str, NDArray[np.float64]]
    run_uid: str

    def __len__(self) -> int:
        return len(self.columns["photons"])

    def __getitem__(self, column: str) -> NDArray[np.float64]:
        if column not in self.columns:
            raise KeyError(f"No column {column!r}; there are {', '.join(self.columns)}.")
        return self.columns[column]

    def rows(self) -> Iterator[dict[str, float]]:
        """Row by row."""
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, (float(v) for v in values), strict=True))


def scan_orientations(
    camera: Camera,
    goniometer: Goniometer,
    positions: Positions,
    exposure_s: float,
    *,
    measure: Callable[[Frame], Mapping[str, float]] | None = None,
    obstacles: Sequence[Collisions] = (),
    tolerance: Mapping[str, float] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Expose at each of several axis positions; a Bluesky plan.

    Every position, and every way between two, is looked at before the first move. Frames are recorded, not kept.

    Parameters
    ----------
    camera, goniometer
        Devices of any kind.
    positions
        A list of positions, each with the axes that move (degrees, mm), or a grid: values by axis, the last runs fastest.
    exposure_s
        Of each frame.
    measure
        Numbers to take from each frame into the table.
    obstacles
        More that the interlock asks about each way, beside the instrument's forbidden regions.
    tolerance
        How far a read-back may be from its setpoint, by axis.
    md
        More for the start document.

    Returns
    -------
    A `ScanTable`: the plan's return value.

    Raises
    ------
    ValueError
        If there are no positions, or the exposure is not a positive number.
    InterlockError
        If a position is unknown, not finite or outside the limits, or a way is not free: nothing moves.
    MotionError, HardwareError
        If an axis did not arrive, or a device failed.
    """
    places = listed(positions)
    seconds = check_seconds("exposure_s", exposure_s)
    interlock = usual_interlock(camera, seconds, obstacles)
    check_route(goniometer, interlock, places)
    metadata = {
        **measurement_metadata("scan_orientations", camera, goniometer, camera.crystal),
        "plan_args": {"positions": plain(places), "exposure_s": seconds},
        "num_points": len(places),
    }

    def scan() -> Plan:
        uid = yield from bps.open_run(merged(metadata, md))
        began, dose = camera.clock_now_s, camera.dose_now_s
        rows: list[dict[str, float]] = []
        for place in places:
            yield from bps.checkpoint()
            yield from move_to(goniometer, place, interlock, tolerance)
            frame = yield from expose(camera, seconds, goniometer)
            rows.append(
                {
                    **{name: float(value) for name, value in goniometer.position.items()},
                    "live_time_s": float(frame.live_time_s),
                    "photons": photons(frame),
                    "clock_s": float(camera.clock_now_s - began),
                    "dose_s": float(camera.dose_now_s - dose),
                    **({} if measure is None else {k: float(v) for k, v in measure(frame).items()}),
                }
            )
        yield from close(f"{len(rows)} frames", good=True)
        names = list(dict.fromkeys(name for row in rows for name in row))
        return ScanTable({n: np.array([row.get(n, np.nan) for row in rows]) for n in names}, str(uid))

    return (yield from ended_at_rest(scan(), camera, goniometer))


def listed(positions: Positions) -> list[dict[str, float]]:
    """Positions as a list, a grid unrolled.

    Raises
    ------
    ValueError
        If there are none, or they are neither a list of positions nor values by axis.
    """
    if isinstance(positions, Mapping):
        values = [np.atleast_1d(np.asarray(v, dtype=float)) for v in positions.values()]
        places = [dict(zip(positions, map(float, p), strict=True)) for p in itertools.product(*values)]
    elif isinstance(positions, Sequence) and all(isinstance(p, Mapping) for p in positions):
        places = [dict(p) for p in positions]
    else:
        raise ValueError(
            "positions is a list such as [{'omega': 0}, {'omega': 10}], or a grid such as {'omega': [0, 10], 'chi': [0]}; "
            f"{type(positions).__name__} came."
        )
    if not places or any(not p for p in places):
        raise ValueError(
            "There are no positions to go to, or one names no axis. Give one axis and one value at least."
        )
    return places
