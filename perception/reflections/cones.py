"""Once one reflection is known, a second lies on a cone about it: which cone is the shortest way, and how to walk it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lauepilot.perception.reflections.hypotheses import Catalogue
from lauepilot.perception.reflections.looking import SEARCH_S, Path
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.fourcircle import FourCircle

#: A cone is walked in steps of this many degrees.
_CONE_STEP = 0.2


def cones_about(number: int, catalogue: Catalogue) -> list[tuple[float, float]]:
    """Scattering angles and opening angles (degrees) of cones about a reflection, the shortest way to a hit first."""
    c = catalogue
    choices = []
    strong = np.flatnonzero((c.rate >= 0.1) & (c.tth_deg > 8.0))
    angle = np.rad2deg(np.arccos(np.clip(c.direction @ c.direction[number], -1.0, 1.0)))
    for n in strong:
        if not 20.0 < angle[n] < 160.0:
            continue
        beside = (
            (np.abs(c.tth_deg - c.tth_deg[n]) < 0.25) & (np.abs(angle - angle[n]) < 0.3) & (c.rate >= 0.05)
        )
        length = 360.0 * np.sin(np.deg2rad(angle[n])) / int(np.count_nonzero(beside))
        choices.append((length, float(c.tth_deg[n]), float(angle[n])))
    choices.sort()
    chosen: list[tuple[float, float]] = []
    for _, tth, cone in choices:
        if all(abs(tth - t) > 0.3 or abs(cone - a) > 1.0 for t, a in chosen):
            chosen.append((tth, cone))
    return chosen


def walk_cone(axis: FloatArray, cone_deg: float, tth_deg: float, instrument: FourCircle) -> Iterator[Path]:
    """Paths on which chi and phi lead a cone about a direction of the holder through the diffracting position."""
    first = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    cone = np.deg2rad(cone_deg)
    n = int(np.ceil(360.0 * np.sin(cone) / _CONE_STEP))
    psi = np.linspace(0.0, 2.0 * np.pi, n + 1)[:, None]
    v = np.cos(cone) * axis + np.sin(cone) * (np.cos(psi) * first + np.sin(psi) * second)
    points = np.array([instrument.bisecting(one, tth_deg) for one in v])
    breaks = set((np.flatnonzero(np.abs(np.diff(points[:, 2])) > 180.0) + 1).tolist())
    start = 0
    for stop in range(1, n + 2):
        if stop == n + 1 or stop in breaks or stop - start > n // 6:
            if stop - start >= 2:
                why = f"cone of {cone_deg:.1f} deg about the first peak, 2theta {tth_deg:.2f}"
                yield Path(points[start:stop], SEARCH_S, "open", why)
            start = stop if stop in breaks else stop - 1
