"""The Twin behind an IOC: motors that are started one by one are one motion of the Twin, if they were meant to be.

In process a goniometer's axes go in one call; over Channel Access each is told its goal alone, some milliseconds after the
other. The Twin draws random numbers for each motion (where in the sphere of confusion the crystal comes to lie) and charges
its clock for the slowest axis, so both ways must come to the same calls. Hence: motors that are under way together, or
start within `GATHER_S` of the first of them, belong to one motion, which the Twin is told once, when the last of them
stands and before that motor says so. A client that waits for the end of a motion never joins it with the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from lauepilot.simulator.frame import Frame
from lauepilot.simulator.twin import Twin

#: Wall seconds after the start of a motion in which other motors still join it, and which it lasts at least.
GATHER_S = 0.1


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
    """

    def __init__(self, twin: Twin, speed: float, tell: Callable[[], Awaitable[None]]) -> None:
        self.twin = twin
        self.speed = speed
        self._tell = tell
        self._under_way: dict[str, Callable[[], float]] = {}
        self._paths: dict[str, list[float]] = {}
        self._began_s = 0.0
        self._lock = asyncio.Lock()

    def wall_s(self, seconds: float) -> float:
        """Seconds of the wall's clock for seconds of the instrument's."""
        return seconds / self.speed if self.speed > 0.0 else 0.0

    def instrument_s(self, wall_s: float) -> float:
        """Seconds of the instrument's clock for seconds of the wall's; endless, if all is at once."""
        return wall_s * self.speed if self.speed > 0.0 else float("inf")

    def depart(self, axis: str, where: Callable[[], float]) -> None:
        """A motor starts; ``where`` tells its dial (degrees or mm) on the way."""
        if not self._under_way and not self._paths:
            self._began_s = asyncio.get_running_loop().time()
        self._under_way[axis] = where

    async def arrive(self, axis: str, path: Sequence[float]) -> float:
        """A motor stands at the end of ``path``, having turned at the places before; where the Twin has it, degrees or mm.

        Raises
        ------
        ReachError
            If the Twin cannot go there: the motion has not been.
        """
        self._under_way.pop(axis, None)
        self._paths[axis] = list(path)
        left = self._began_s + GATHER_S - asyncio.get_running_loop().time()
        if not self._under_way and left > 0.0:
            await asyncio.sleep(left)
        if self._under_way:
            return path[-1]  # the last one tells the Twin for all
        await self._flush()
        return float(self.twin.positions[axis])

    async def expose(self, seconds: float) -> Frame:
        """A frame, with motors that are under way where they are at its end; clients are served meanwhile."""
        for axis, where in self._under_way.items():
            self._paths.setdefault(axis, []).append(where())
        await self._flush()
        async with self._lock:
            frame = await asyncio.to_thread(self.twin.expose, seconds)
        await self._tell()
        return frame

    async def _flush(self) -> None:
        async with self._lock:
            paths, self._paths = self._paths, {}
            for axis, path in paths.items():
                for turning in path[:-1]:
                    self.twin.move({axis: turning})
            if paths:
                self.twin.move({axis: path[-1] for axis, path in paths.items()})
        if paths:
            await self._tell()
