"""An IOC in a process of its own: started, seen to serve, and gone at the end."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lauepilot.hardware.epics.environment import port_for_server, use_loopback
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
        self._said: list[str] = []
        self._port = ""
        self._ready = False

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
        self._port = self._port or port_for_server(self.environ)  # the same again after a kill
        self._said.clear()
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "lauepilot.hardware.epics.ioc", *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self.environ, "EPICS_CA_SERVER_PORT": self._port},
        )
        answers = threading.Event()
        # Read until the end: an IOC that complains into a full pipe would hang.
        self._reader = threading.Thread(
            target=self._listen, args=(process, answers), name="lauepilot-ioc", daemon=True
        )
        self._process = process
        self._reader.start()
        answers.wait(timeout_s)
        if not self._ready or process.poll() is not None:
            self.kill()
            raise HardwareError(
                f"The IOC {self.prefix} did not serve within {timeout_s:g} s. {self.said[-500:] or 'It said nothing.'}"
            )

    @property
    def said(self) -> str:
        """All that it printed since its start, errors included."""
        return "\n".join(self._said)

    def _listen(self, process: subprocess.Popen[str], answers: threading.Event) -> None:
        self._ready = False
        with process.stdout or io.StringIO() as out:
            for line in out:
                self._said.append(line.rstrip())
                if line.strip() == "ready":
                    self._ready = True
                    answers.set()
        answers.set()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._reader.join()


@contextmanager
def running_ioc(
    *,
    crystal: str = "si",
    instrument: str = "lab",
    seed: int = 0,
    speed: float = 1000.0,
    faults: str = "default",
    prefix: str | None = None,
    autosave: Path | None = None,
) -> Iterator[RunningIOC]:
    """An IOC with the Twin, on loopback, for one block of code.

    The ports are this process's own (`use_loopback`), so that clients in it see the IOC. A prefix is made up where none is
    given: clients look but rarely for what was there and has gone. The arguments are those of ``lauepilot ioc``.
    """
    environ = use_loopback()
    name = f"twin{os.getpid()}n{next(_NUMBERS)}:" if prefix is None else prefix
    arguments: dict[str, object] = {
        "crystal": crystal, "instrument": instrument, "seed": seed, "speed": speed, "faults": faults,
    }  # fmt: skip
    if autosave is not None:
        arguments["autosave"] = autosave
    ioc = RunningIOC(name, arguments, environ)
    ioc.start()
    try:
        yield ioc
    finally:
        ioc.kill()
