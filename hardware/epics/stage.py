"""The Twin behind an IOC: motors that are started one by one are one motion of the Twin, if they were meant to be.

In process a goniometer's axes go in one call; over Channel Access each is told its goal alone, some milliseconds after the
other. The Twin draws random numbers for each motion (where in the sphere of confusion the crystal comes to lie) and charges
its clock for the slowest axis, so both ways must come to the same calls. Hence: motors that are under way together, or
start within `GATHER_S` of the first of them, belong to one motion, which the Twin is told once, when the last of them
stands and before that motor says so. A client that waits for the end of a motion never joins it with the next.

Joints of an arm cannot go one by one: what they were told, until all were or nobody said more for `QUIET_S`, is one goal, to
which all go along a way that was looked at before, or none goes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from lauepilot.hardware.epics.drive import Drive
from lauepilot.hardware.epics.travel import Route
from lauepilot.hardware.epics.values import Refused
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.twin import Twin

#: Wall seconds after the start of a motion in which other motors still join it, and which it lasts at least.
GATHER_S = 0.1

#: Wall seconds after the last joint was told its goal in which others are waited for.
QUIET_S = 0.5


class Joint(Protocol):
    """A motor whose motions are found for all joints together."""

    async def follow(self, way: Route) -> None:
        """Set out along a way."""

    def halt(self) -> None:
        """Come to rest."""


class Stage:
    """One Twin, used by motors and camera in turn.

    Parameters
    ----------
    twin
        The instrument behind.
    speed
        How many times faster than the wall its clock runs; 0 for at once.
    tell
        Called after each motion and exposure, to show clock and dose.

    Attributes
    ----------
    joints
        All motors by axis, where they can only go together (an arm); else none.
    """

    def __init__(self, twin: Twin, speed: float, tell: Callable[[], Awaitable[None]]) -> None:
        self.twin = twin
        self.speed = speed
        self.joints: dict[str, Joint] = {}
        self._tell = tell
        self._under_way: dict[str, Drive] = {}
        self._paths: dict[str, list[float]] = {}
        self._seconds: dict[str, float] = {}
        self._began_s = 0.0
        self._lock = asyncio.Lock()
        self._wanted: dict[str, float] = {}
        self._told_s = 0.0
        self._setting_out: asyncio.Task[None] | None = None

    @property
    def linked(self) -> bool:
        """Whether motors can only go together."""
        return bool(self.twin.instrument.goniometer.obstacles)

    def wall_s(self, seconds: float) -> float:
        """Seconds of the wall's clock for seconds of the instrument's."""
        return seconds / self.speed if self.speed > 0.0 else 0.0

    def instrument_s(self, wall_s: float) -> float:
        """Seconds of the instrument's clock for seconds of the wall's; endless, if all is at once."""
        return wall_s * self.speed if self.speed > 0.0 else float("inf")

    def depart(self, axis: str, drive: Drive) -> None:
        """A motor starts."""
        now = asyncio.get_running_loop().time()
        if not self._under_way and not self._paths:
            self._began_s = now
        late = self.instrument_s(now - self._began_s)
        # Whoever joins a motion that goes on prolongs it; those told together are not told at the very same moment.
        if now - self._began_s > GATHER_S and math.isfinite(late):
            self._seconds[axis] = late
        self._under_way[axis] = drive

    async def arrive(self, axis: str) -> float:
        """A motor stands; where the Twin has it, degrees or mm.

        Raises
        ------
        ReachError
            If the Twin cannot go there: the motion has not been.
        """
        drive = self._under_way.pop(axis)
        self._note(axis, drive)
        left = self._began_s + GATHER_S - asyncio.get_running_loop().time()
        if not self._under_way and left > 0.0:
            await asyncio.sleep(left)
        if self._under_way:
            return drive.dial  # the last one tells the Twin for all
        await self._flush()
        return float(self.twin.positions[axis])

    async def go_together(self, axis: str, goal: float) -> None:
        """One joint's goal (degrees); returns when all joints have set out to theirs.

        Raises
        ------
        Refused
            If there is no clear way, somebody stopped it before it began, or joints are under way.
        """
        task = self._setting_out
        if self._under_way or (task is not None and axis in self._wanted):
            raise Refused(f"{axis}: joints go together, and are under way. Wait for DMOV, or stop them.")
        if task is None:
            task = self._setting_out = asyncio.create_task(self._set_out())
        self._wanted[axis] = goal
        self._told_s = asyncio.get_running_loop().time()
        await asyncio.wait([task])
        if task.cancelled():
            raise Refused(f"{axis} was stopped before it began to move.")
        task.result()

    def halt(self) -> None:
        """Stop all joints, and those that were about to set out."""
        if self._setting_out is not None:
            self._setting_out.cancel()
        for joint in self.joints.values():
            joint.halt()

    async def _set_out(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            while len(self._wanted) < len(self.joints) and loop.time() < self._told_s + QUIET_S:
                await asyncio.sleep(0.01)
            chain, start = self.twin.instrument.goniometer, self.twin.positions
            goal = {**start, **self._wanted}
            try:
                await asyncio.to_thread(chain.check_move, start, goal)
            except ReachError as error:
                raise Refused(str(error)) from None
            if goal != {**start, **self._wanted}:
                raise Refused("A joint was told its goal too late to go with the others. Nothing moves.")
            settle = max(axis.settle_s for axis in chain.axes)
            moving = max(chain.move_time_s(start, goal) - settle, 0.0)
            for name, joint in self.joints.items():
                await joint.follow(Route(self._along(start, goal, name), moving, settle))
        finally:
            self._wanted, self._setting_out = {}, None

    def _along(
        self, start: Mapping[str, float], goal: Mapping[str, float], name: str
    ) -> Callable[[float], float]:
        chain = self.twin.instrument.goniometer
        return lambda seconds: float(chain.underway(start, goal, seconds)[name])

    async def expose(self, seconds: float) -> Frame:
        """A frame, with motors that are under way where they are at its end; clients are served meanwhile."""
        for axis, drive in self._under_way.items():
            self._note(axis, drive)
        if self._under_way:
            self._began_s = asyncio.get_running_loop().time()  # what was until now is told
        await self._flush()
        async with self._lock:
            frame = await asyncio.to_thread(self.twin.expose, seconds)
        await self._tell()
        return frame

    def _note(self, axis: str, drive: Drive) -> None:
        path, seconds = drive.tell()
        self._paths.setdefault(axis, []).extend(path)
        self._seconds[axis] = self._seconds.get(axis, 0.0) + seconds

    async def _flush(self) -> None:
        async with self._lock:
            paths, self._paths = self._paths, {}
            took, self._seconds = self._seconds, {}
            for axis, path in paths.items():
                for turning in path[:-1]:
                    self.twin.move({axis: turning}, seconds=0.0)
            if paths:
                self.twin.move({axis: path[-1] for axis, path in paths.items()}, seconds=max(took.values()))
        if paths:
            await self._tell()
