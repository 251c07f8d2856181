"""Once one reflection is known, a second lies on a cone about it: which cone is the shortest way, and how to walk it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lauepilot.perception.reflections.belief import SEEN_RATE
from lauepilot.perception.reflections.hypotheses import Catalogue
from lauepilot.perception.reflections.looking import SEARCH_S, Path
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.fourcircle import FourCircle, travel_s

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


def promising(numbers: Sequence[int], catalogue: Catalogue, each: int = 2) -> list[tuple[float, float]]:
    """Cones (scattering angle, opening; degrees) about a peak that may be any of some reflections, in the order to walk.

    A strong reflection of many equivalents is more likely to be met first, and a cone promises more if it is short; cones
    that several reflections share are walked once.
    """
    choices: list[tuple[float, float, float]] = []
    for n in numbers:
        alike = (np.abs(catalogue.tth_deg - catalogue.tth_deg[n]) < 1e-4) & (
            np.abs(catalogue.rate - catalogue.rate[n]) < 1e-6
        )
        chance = float(np.count_nonzero(alike) * (1.0 - np.exp(-catalogue.rate[n] / SEEN_RATE)))
        for tth, cone in cones_about(int(n), catalogue)[:each]:
            choices.append((chance / np.sin(np.deg2rad(cone)), tth, cone))
    choices.sort(key=lambda choice: -choice[0])
    chosen: list[tuple[float, float]] = []
    for _, tth, cone in choices:
        if all(abs(tth - t) > 0.1 or abs(cone - a) > 0.3 for t, a in chosen):
            chosen.append((tth, cone))
    return chosen


def walk_cone(
    axis: FloatArray, cone_deg: float, tth_deg: float, instrument: FourCircle, here_deg: FloatArray
) -> Iterator[Path]:
    """Paths on which chi and phi lead a cone about a direction of the holder through the diffracting position.

    It is begun, and walked in the direction, such that the way from ``here_deg`` (4,) and back across phi's limits is short.
    """
    first = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    cone = np.deg2rad(cone_deg)
    n = int(np.ceil(360.0 * np.sin(cone) / _CONE_STEP))
    psi = np.linspace(0.0, 2.0 * np.pi, n + 1)[:, None]
    v = np.cos(cone) * axis + np.sin(cone) * (np.cos(psi) * first + np.sin(psi) * second)
    points = np.array([instrument.bisecting(one, tth_deg) for one in v])
    points = _begun_well(points[:-1], instrument, here_deg)
    breaks = set((np.flatnonzero(np.abs(np.diff(points[:, 2])) > 180.0) + 1).tolist())
    start, last = 0, len(points)
    for stop in range(1, last + 1):
        if stop == last or stop in breaks or stop - start > n // 6:
            if stop - start >= 2:
                why = f"cone of {cone_deg:.1f} deg about the first peak, 2theta {tth_deg:.2f}"
                yield Path(points[start:stop], SEARCH_S, "open", why)
            start = stop if stop in breaks else stop - 1


def _begun_well(ring: FloatArray, instrument: FourCircle, here_deg: FloatArray) -> FloatArray:
    """The closed ring (n, 4) as an open walk (n + 1, 4), begun where that is quickest, in the better direction."""
    jumps = np.abs(ring[:, 2] - np.roll(ring[:, 2], 1)) > 180.0  # between a point and the one before
    back = 360.0 / instrument.motors.axis("phi").speed
    ways = []
    for start in {
        *range(0, len(ring), 10),
        *np.flatnonzero(jumps).tolist(),
        *(np.flatnonzero(jumps) - 1).tolist(),
    }:
        for step in (1, -1):
            # Begun at a jump there is one way back less; half of the others come before the reflection does.
            at_jump = jumps[start] if step == 1 else jumps[(start + 1) % len(ring)]
            returns = np.count_nonzero(jumps) - int(at_jump)
            ways.append(
                (travel_s(instrument, here_deg, ring[start]) + 0.5 * back * returns, start % len(ring), step)
            )
    _, start, step = min(ways)
    order = (start + step * np.arange(len(ring) + 1)) % len(ring)
    if jumps[start] if step == 1 else jumps[(start + 1) % len(ring)]:
        order = order[:-1]
    return np.asarray(ring[order])
