"""Something that takes time, reports on the way and can be stopped half-way: a motion or an exposure of the Twin.

The Twin acts at once and charges its own clock. Here the wall's clock follows: an action of ``seconds`` on the Twin's
clock takes ``seconds / realtime_factor`` on the wall, and nothing if the factor is 0. Only at its end, or where it was
stopped, is the Twin told what happened: that far, and no further.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ophyd.status import DeviceStatus

from lauepilot.hardware.errors import HardwareError, StoppedError

logger = logging.getLogger("lauepilot.hardware")

TICK_S = 0.02
#: Wall seconds that whatever is under a device may take longer than it should before it counts as silent. After an install
#: the Twin compiles its loops at the first exposure, which a busy machine takes a minute for.
PATIENCE_S = 180.0


class TimedStatus(DeviceStatus):  # type: ignore[misc]
    """An ophyd status that tells progress bars how much is left."""

    def __init__(self, device: Any, unit: str = "s") -> None:
        super().__init__(device, call_stop_on_failure=False)
        self._unit = unit
        self._began = time.monotonic()

    def report(self, done_s: float, total_s: float) -> None:
        """Tell the watchers that ``done_s`` of ``total_s`` (on the instrument's clock) are over."""
        elapsed = time.monotonic() - self._began
        share = done_s / total_s if total_s > 0.0 else 1.0
        for watcher in list(self._watchers):
            watcher(
                name=self.device.name,
                current=done_s,
                initial=0.0,
                target=total_s,
                unit=self._unit,
                precision=1,
                fraction=1.0 - share,  # bluesky counts what is left
                time_elapsed=elapsed,
                time_remaining=elapsed * (1.0 - share) / share if share > 0.0 else None,
            )


class TimedAction:
    """One motion or exposure in a thread of its own.

    Parameters
    ----------
    status
        Finished, or failed, at the end.
    seconds
        Duration on the instrument's clock.
    realtime_factor
        How many times faster than the wall the instrument's clock runs; 0 for at once.
    finish
        Called with the seconds (instrument's clock) that the action has lasted; may raise.
    patience_s
        Wall seconds that ``finish`` may take. After them the status fails; the device stays busy until it answers, since
        nobody knows what it does.
    """

    def __init__(
        self,
        status: TimedStatus,
        seconds: float,
        realtime_factor: float,
        finish: Callable[[float], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.status = status
        self._seconds = seconds
        self._factor = realtime_factor
        self._finish = finish
        self._stop = threading.Event()
        self._stop_success = False
        self._began = time.monotonic()
        self._over = threading.Event()
        self._patience_s = patience_s
        self._ending = threading.Lock()  # a status ends once: by the action, or by the watch
        self._thread = threading.Thread(target=self._run, name=f"lauepilot-{status.device.name}", daemon=True)
        self._watch = threading.Timer(patience_s, self._silent)
        self._watch.daemon = True

    def start(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the device is not yet at rest."""
        return not self._over.is_set()

    @property
    def elapsed_s(self) -> float:
        """Seconds on the instrument's clock since the beginning, at most the duration."""
        if self._factor == 0.0:
            return 0.0 if self.running else self._seconds
        return min((time.monotonic() - self._began) * self._factor, self._seconds)

    def stop(self, *, success: bool = False) -> None:
        """End it now; returns when the device is at rest, or silent. The status fails unless ``success``."""
        self._stop_success = success
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(self._patience_s)
        if self.running:
            logger.error("%s was told to stop, and does not answer.", self.status.device.name)

    def _run(self) -> None:
        lasted = self._wait()
        self._watch.start()
        problem: Exception | None = None
        try:
            self._finish(lasted)
        except Exception as error:  # whatever the device raised belongs to whoever waits for it
            problem = error
        self._watch.cancel()
        self._over.set()
        if problem is None and lasted < self._seconds and not self._stop_success:
            problem = StoppedError(
                f"{self.status.device.name} was stopped after {lasted:.2f} of {self._seconds:.2f} s."
            )
        self._end(problem)

    def _silent(self) -> None:
        self._end(
            HardwareError(
                f"{self.status.device.name} has not answered for {self._patience_s:g} s. Check its controller and its "
                "link; until it answers, take it for moving or exposing."
            )
        )

    def _end(self, problem: Exception | None) -> None:
        with self._ending:
            if self.status.done:
                return
            if problem is None:
                self.status.report(self._seconds, self._seconds)
                self.status.set_finished()
            else:
                self.status.set_exception(problem)

    def _wait(self) -> float:
        """Let the wall's time pass; the seconds on the instrument's clock that passed with it."""
        if self._factor == 0.0:
            return self._seconds
        while (lasted := self.elapsed_s) < self._seconds:
            left = (self._seconds - lasted) / self._factor
            if self._stop.wait(min(left, TICK_S)):
                return self.elapsed_s
            self.status.report(self.elapsed_s, self._seconds)
        return self._seconds
