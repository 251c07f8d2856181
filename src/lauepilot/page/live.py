"""What all browsers show, looked at once for all of them."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

from lauepilot.hardware.page.session import Session
from lauepilot.hardware.page.standing import Standing
from lauepilot.page.panels import axes_html
from lauepilot.page.pictures import Pictures, off_target_deg, orientation_now, stereogram_svg
from lauepilot.simulator.target import Target

#: Seconds between two looks.
LOOK_S = 0.1


@dataclass(frozen=True, eq=False)
class View:
    """One look at the session.

    Attributes
    ----------
    at
        How it stands.
    axes, stereogram
        HTML and SVG.
    off_deg, sigma_deg
        How far the crystal is believed to be from the target, and how well that is known; NaN if nothing is believed.
    number, marks
        Of the last frame (0 before the first) and what is drawn over it.
    """

    at: Standing
    axes: str
    stereogram: str
    off_deg: float
    sigma_deg: float
    number: int
    marks: dict[str, Any]


class Live:
    """Looks at a session ten times a second, in a thread of its own, so that no browser waits for a device.

    Attributes
    ----------
    session
        Whom it looks at.
    pictures
        Of the last frame.
    view
        The last look.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.pictures = Pictures()
        self._drawn: tuple[Any, str, float, float] = (None, "", math.nan, math.nan)
        self.view = self._look()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lauepilot-page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no longer."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.view = self._look()
            except Exception as error:  # a device that cannot be read must not blind the page for good
                text = f"what the page shows is old: {type(error).__name__}: {error}"
                last = self.session.journal.after(0)[-1:]
                if not last or last[0].text != text:
                    self.session.journal.say(text, "error")

    def _look(self) -> View:
        at, job = self.session.standing(), self.session.job
        target = None if job is None else job.target
        if job is None or target is None:
            return View(at, "", "", math.nan, math.nan, 0, {})
        sight = at.sight if at.sight is not None and at.sight.job is job else None
        svg, off, sigma = self._stereogram(at, target, job.crystal.symmetry, sight is not None)
        marks = {} if sight is None else self.pictures.marks(sight)
        number = 0 if sight is None else sight.number
        return View(at, axes_html(job.goniometer.chain, at), svg, off, sigma, number, marks)

    def _stereogram(
        self, at: Standing, target: Target, symmetry: Any, known: bool
    ) -> tuple[str, float, float]:
        """Drawn anew only where something has changed."""
        number = at.sight.number if known and at.sight is not None else 0
        axes = tuple(round(value, 3) for value in at.axes.values())
        key = (number, axes, target, at.result is None)
        if key != self._drawn[0]:
            now = orientation_now(at) if known else None
            sigma = math.nan if now is None else now.sigma_deg
            self._drawn = (key, stereogram_svg(at, now, target, symmetry), off_target_deg(at, now), sigma)
        return self._drawn[1:]
