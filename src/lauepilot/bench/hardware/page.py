"""The page's abort: from a click in a browser to motors at rest, with a RunEngine and a moving Twin behind it."""

from __future__ import annotations

import http.client
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from lauepilot.bench.figures import Figure, quantile_interval
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.page.job import Choice, Job
from lauepilot.hardware.page.session import Session
from lauepilot.hardware.page.standing import State
from lauepilot.perception.observation import Decision, Move, Observation
from lauepilot.perception.observer import Observer
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.target import Alignment, Target
from lauepilot.simulator.twin import Twin

#: Where the motors are in motion when abort is pressed: after so many seconds (drawn evenly).
EARLIEST_S, LATEST_S = 0.2, 0.8

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


class _Mover:
    """An agent that only moves: there and back."""

    name = "there and back"

    def __init__(self) -> None:
        self._n = 0

    def reset(self, task: Any) -> None:
        self._n = 0

    def decide(self, observation: Observation) -> Decision:
        self._n += 1
        side = 1.0 if self._n % 2 else -1.0
        return Move({name: side * 0.8 * axis[1] for name, axis in _limits(observation).items()})

    def state(self) -> dict[str, Any]:
        return {"n": self._n}


def _limits(observation: Observation) -> dict[str, tuple[float, float]]:
    return {axis.name: axis.limits for axis in observation.goniometer.axes}


class _Maker:
    """Runs of the mover on a Twin at the wall's speed."""

    title, simulated = "lab", True
    crystals: tuple[str, ...] = ("si",)
    faults: tuple[str, ...] = ()
    first = Choice("si", "[0 0 1] beam", 1.0)

    def __init__(self) -> None:
        self._crystal, self._instrument = load_crystal("si"), load_instrument("lab")
        self._observer = Observer(self._crystal, self._instrument)

    def check(self, choice: Choice) -> None:
        """All is well."""

    def make(self, choice: Choice) -> Job:
        twin = Twin(self._crystal, self._instrument, rng=np.random.default_rng(1), faults=Faults.none())
        camera, goniometer = connect(twin, realtime_factor=1.0)
        target = Target(Alignment("uvw", (0.0, 0.0, 1.0), (0.0, 0.0, 1.0)))
        return Job(camera, goniometer, _Mover(), self._observer, target, self._crystal)


def measure(quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """The figures of the page in ``lauepilot bench hardware``.

    A browser's click where playwright and Chromium are installed, else the request that the click would send; which of
    the two stands in the settings.
    """
    from lauepilot.page.serve import running_page

    logging.getLogger("bluesky").addHandler(logging.NullHandler())
    n = 3 if quick else 30
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(_Maker(), Path(folder))
        session.wait(State.READY, timeout_s=120.0)
        try:
            with running_page(session) as address, _presser(address) as (how, press):
                say(f"abort on the page while three motors move: {n} times, {how}")
                times = [_once(session, press, float(rng.uniform(EARLIEST_S, LATEST_S))) for _ in range(n)]
        finally:
            session.close()
    return [
        Figure(
            "abort_s",
            float(np.quantile(times, 0.95)),
            "s",
            n,
            quantile_interval(times, 0.95),
            None,
            {
                "from": how,
                "to": "all motors at rest",
                "value": "95th percentile",
                "median": float(np.median(times)),
                "longest": float(np.max(times)),
                "instrument": "lab, in process, at the wall's speed",
            },
        )
    ]


def _once(session: Session, press: Callable[[], float], after_s: float) -> float:
    """Seconds from the click (its own time stamp) to motors at rest."""
    session.start(session.maker.first)
    end = time.monotonic() + 30.0
    while session.standing().activity != "moving":
        if time.monotonic() > end:
            raise TimeoutError("The motors did not start to move within 30 s.")
        time.sleep(0.005)
    job = session.job
    if job is None:
        raise RuntimeError("There is no run.")
    time.sleep(after_s)
    at_rest: list[float] = []

    def watch() -> None:
        while job.goniometer.busy:
            time.sleep(0.001)
        at_rest.append(time.time())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    pressed = press()
    watcher.join(30.0)
    session.wait(State.ABORTED)
    if not at_rest:
        raise TimeoutError("The motors were not at rest 30 s after an abort.")
    return at_rest[0] - pressed


@contextmanager
def _presser(address: str) -> Iterator[tuple[str, Callable[[], float]]]:
    """How abort is pressed, and what presses it; this returns when it was pressed (s since 1970)."""
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError:
        yield "the request that a click sends (playwright is not installed)", lambda: _request(address)
        return
    with sync_playwright() as player:
        try:
            browser = player.chromium.launch(executable_path=installed, args=list(FLAGS))
        except Error:
            yield "the request that a click sends (no Chromium can be started)", lambda: _request(address)
            return
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address)
        page.wait_for_selector("#axes .axis")
        page.evaluate("addEventListener('click', () => { window.clicked = Date.now(); }, true)")

        def click() -> float:
            page.click("#abort")
            return float(page.evaluate("window.clicked")) / 1000.0

        yield "a click in headless Chromium", click
        browser.close()


def _request(address: str) -> float:
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port, timeout=30.0)
    pressed = time.time()
    connection.request("POST", "/abort", headers={"Origin": address.rstrip("/")})
    connection.getresponse().read()
    connection.close()
    return pressed
