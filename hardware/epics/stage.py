"""The Twin behind an IOC: motors that are started one by one are one motion of the Twin if they overlap.

Over Channel Access each axis is told its goal alone; in process all go in one call. The Twin draws random numbers for each
motion (where in the sphere of confusion the crystal comes to lie), so both have to be the same calls. Motors that are
started before all others are at rest, or within `GROUP_S` after, belong together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lauepilot.simulator.frame import Frame
from lauepilot.simulator.twin import Twin

#: Wall seconds after the last arrival in which another motor may still join the motion.
GROUP_S = 0.03


class Stage:
    """One Twin, shared by motors and camera.

    Parameters
    ----------
    twin
        The instrument behind.
    speed
        How many times faster than the wall its clock runs.
    told
        Called after each motion and exposure, to show clock, dose and read-backs.
    """

    def __init__(self, twin: Twin, speed: float, told: Callable[[], Awaitable[None]]) -> None:
        self.twin = twin
        self.speed = speed
        self._told = told
        self._moving: set[str] = set()
        self._arrived: dict[str, float] = {}
        self._lock = asyncio.Lock()

    @property
    def moving(self) -> bool:
        """Whether any motor is not at rest."""
        return bool(self._moving)

    def depart(self, axis: str) -> None:
        """A motor starts."""
        self._moving.add(axis)

    async def arrive(self, axis: str, position: float) -> None:
        """A motor stands at ``position`` (its dial, degrees or mm), wherever it was sent; the last one moves the Twin."""
        self._moving.discard(axis)
        self._arrived[axis] = position
        if self._moving:
            return
        await asyncio.sleep(GROUP_S)
        if not self._moving:
            await self.flush()

    async def flush(self) -> None:
        """Tell the Twin of the motion that is over."""
        async with self._lock:
            group, self._arrived = self._arrived, {}
            if group:
                self.twin.move({name: group[name] for name in self.twin.positions if name in group})
        if group:
            await self._told()

    async def expose(self, seconds: float) -> Frame:
        """A frame; the loop goes on serving meanwhile."""
        await self.flush()
        async with self._lock:
            frame = await asyncio.get_running_loop().run_in_executor(None, self.twin.expose, seconds)
        await self._told()
        return frame
