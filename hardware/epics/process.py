"""An IOC in a process of its own: started, seen to serve, and gone at the end."""

from __future__ import annotations

import itertools
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from lauepilot.hardware.epics.environment import use_loopback
from lauepilot.hardware.errors import HardwareError

_NUMBERS = itertools.count()


class RunningIOC:
    """A process that serves.

    Attributes
    ----------
    prefix
        Before each name, colon included.
    environ
        What a client of another process needs to find it.
    """

    def __init__(self, prefix: str, arguments: Mapping[str, object], environ: Mapping[str, str]) -> None:
        self.prefix, self.environ = prefix, dict(environ)
        self._arguments = [f"--{name}={value}" for name, value in arguments.items()] + [f"--prefix={prefix}"]
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self, timeout_s: float = 90.0) -> None:
        """Start (again), and wait until clients can connect.

        Raises
        ------
        HardwareError
            If it does not serve in time; with what it said.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lauepilot.hardware.epics.ioc", *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environ},
        )
        out = self._process.stdout
        if out is None:
            raise HardwareError("The IOC was started without a pipe.")
        with selectors.DefaultSelector() as watch:
            watch.register(out, selectors.EVENT_READ)
            end = time.monotonic() + timeout_s
            while time.monotonic() < end:
                if not watch.select(timeout=0.5):
                    continue
                line = out.readline()
                if line.strip() == "ready":
                    return
                if not line:
                    break
        said = ""
        if self._process.poll() is not None and self._process.stderr is not None:
            said = self._process.stderr.read()[-500:]
        self.kill()
        raise HardwareError(
            f"The IOC {self.prefix} did not serve within {timeout_s:g} s. {said or 'It said nothing.'}"
        )

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10.0)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


@contextmanager
def running_ioc(
    *,
    crystal: str = "si",
    instrument: str = "lab",
    seed: int = 0,
    speed: float = 1000.0,
    faults: str = "lab",
    prefix: str | None = None,
) -> Iterator[RunningIOC]:
    """An IOC with the Twin, on loopback, for one block of code.

    The ports are this process's own (`use_loopback`), so that clients in it see the IOC. A prefix is made up where none is
    given: clients look but rarely for what was there and has gone.
    """
    environ = use_loopback()
    name = f"twin{os.getpid()}n{next(_NUMBERS)}:" if prefix is None else prefix
    ioc = RunningIOC(
        name,
        {"crystal": crystal, "instrument": instrument, "seed": seed, "speed": speed, "faults": faults},
        environ,
    )
    ioc.start()
    try:
        yield ioc
    finally:
        ioc.kill()
