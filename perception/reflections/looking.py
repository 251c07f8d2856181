"""How a counter and an area detector look: where to sweep first, and how a peak is centred.

All is written as generators that yield a `Path` and are sent the `Sweep` measured on it, so that whoever drives the
instrument does the moving, and nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.perception.reflections.hypotheses import Catalogue
from lauepilot.perception.reflections.peaks import Peak, bright_bins, fit_peak, frame_spots, usual_background
from lauepilot.perception.reflections.zeros import Centred
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.fourcircle import AXES
from lauepilot.simulator.fourcircle_twin import Sweep

T = TypeVar("T")
Look = Generator["Path", Sweep, T]

#: Share of the aperture that a row's neighbour overlaps.
_OVERLAP = 0.15
#: Seconds of a bin while searching and at first while centring.
SEARCH_S, CENTRE_S, LONGEST_S = 0.05, 0.1, 4.0
#: Counts at the top of a peak that are worth waiting for, and of one that is known to be weak.
_ENOUGH, _WEAK = 300.0, 80.0
#: Counts of a spot that are enough for its place.
_PLENTY = 300.0
#: Steps of phi while searching: bins of the counter, frames of the area detector, degrees.
BIN_DEG, FRAME_DEG = 0.5, 2.0


@dataclass(frozen=True, eq=False)
class Path:
    """A wish: count on this path.

    Attributes
    ----------
    points_deg
        (n + 1, 4) corners in the order of `AXES`, a bin between each and the next.
    seconds
        Live time of a bin, at least.
    aperture
        ``open`` or ``closed``.
    why
        In words.
    """

    points_deg: FloatArray
    seconds: float
    aperture: Literal["open", "closed"]
    why: str


def along(angles_deg: ArrayLike, axis: str, half_deg: float, step_deg: float) -> FloatArray:
    """Corners (n + 1, 4) of a path on one axis about a place (4,)."""
    n = max(int(np.ceil(2.0 * half_deg / step_deg)), 8)
    points = np.tile(np.asarray(angles_deg, dtype=float), (n + 1, 1))
    points[:, AXES.index(axis)] += np.linspace(-half_deg, half_deg, n + 1)
    return points


class PointLook:
    """Looks with the counter: rows of phi at steps of chi as wide as the open aperture sees."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.instrument = catalogue, catalogue.instrument
        point = self.instrument.point
        self._half_open, self._half_closed = (
            [0.5 * side / point.distance_mm for side in point.aperture_mm(name)]
            for name in ("open", "closed")
        )

    def acceptance_deg(self, tth_deg: float) -> float:
        """Half of the chi that the open aperture sees."""
        return float(np.rad2deg(self._half_open[0] / (2.0 * np.sin(np.deg2rad(tth_deg) / 2.0))))

    @property
    def half_tth_deg(self) -> float:
        """By how much 2 theta may be off the arm's and the open aperture still sees it well."""
        return 0.8 * float(np.rad2deg(self._half_open[1]))

    def best_tth(self, most: int = 2) -> list[float]:
        """Scattering angles worth a search, the best first: many strong reflections, and a wide acceptance in chi."""
        c = self.catalogue
        half = self.half_tth_deg
        useful = c.rate >= 0.05
        scores: dict[float, float] = {}
        for tth in np.unique(np.round(c.tth_deg[useful], 3)):
            inside = useful & (np.abs(c.tth_deg - tth) < half)
            scores[float(tth)] = float(np.sum(np.minimum(c.rate[inside] / 0.2, 1.0))) * self.acceptance_deg(
                tth
            )
        ranked = sorted(scores, key=lambda t: -scores[t])
        chosen: list[float] = []
        for tth in ranked:
            if all(abs(tth - t) > 1.0 for t in chosen):
                chosen.append(tth)
        return chosen[:most]

    def rows(self, tth_deg: float) -> Iterator[tuple[float, float]]:
        """Chi of each row of the half sphere, and its step: Friedel's law puts one of each pair there."""
        step = 2.0 * (1.0 - _OVERLAP) * self.acceptance_deg(tth_deg)
        n = int(np.ceil(90.0 / step))
        for row in range(n):
            yield (row + 0.5) * 90.0 / n, 90.0 / n

    def segments(self, tth_deg: float) -> Iterator[Path]:
        """Paths that together see the half sphere, from the equator up, where a row covers most."""
        for chi, _ in self.rows(tth_deg):
            for start in (-180.0, -90.0, 0.0, 90.0):
                corners = np.arange(start, start + 90.0 + 1e-9, BIN_DEG)
                points = np.tile([0.5 * tth_deg, chi, 0.0, tth_deg], (len(corners), 1))
                points[:, 2] = corners
                yield Path(points, SEARCH_S, "open", f"search at 2theta {tth_deg:.2f}, chi {chi:.1f}")

    def hits(self, path: Path, sweep: Sweep) -> list[FloatArray]:
        """Angles (4,) of the peaks on a search path, brightest first."""
        counts = np.zeros(0) if sweep.counts is None else sweep.counts
        bright = bright_bins(counts, usual_background(counts))
        groups = np.split(bright, np.flatnonzero(np.diff(bright) > 2) + 1) if len(bright) else []
        groups.sort(key=lambda g: -float(counts[g].sum()))
        return [np.average(sweep.angles_deg[g], axis=0, weights=counts[g]) for g in groups]

    def centre(
        self,
        angles_deg: FloatArray,
        half_deg: float,
        why: str,
        *,
        sure: bool = False,
        seconds: float = CENTRE_S,
    ) -> Look[Centred | None]:
        """Centre a peak near the angles: omega, chi, 2theta, omega; ``sure`` of what and where it is, omega and chi do."""
        instrument, tth = self.instrument, float(angles_deg[3])
        here = np.array(angles_deg, dtype=float)
        step = max(0.6 * instrument.width_deg(tth), 2.0 * half_deg / 40.0)
        path = along(here, "omega", half_deg, step)
        sweep = yield Path(path, seconds, "open", f"{why}: omega")
        peak = _omega_peak(sweep)
        if peak is None:
            return None
        here = self._at(here, "omega", peak.centre)
        rate = peak.area / float(sweep.seconds[0])
        # What is known to be weak is only asked whether it is there.
        enough = _ENOUGH if seconds <= CENTRE_S else _WEAK
        seconds = float(np.clip(enough / max(peak.top / float(sweep.seconds[0]), 1e-3), CENTRE_S, LONGEST_S))
        box = self.acceptance_deg(tth)
        sweep = yield Path(along(here, "chi", box + 0.8, (box + 0.8) / 14.0), seconds, "open", f"{why}: chi")
        wide = fit_peak(sweep.angles_deg[:, 1], sweep.counts, box=box) if sweep.counts is not None else None
        if wide is None:
            return None
        here[1] = wide.centre
        if sure:
            return Centred(here, 0.0, tth, float(max(wide.sigma, peak.sigma)), rate)
        sweep = yield Path(along(here, "tth", 0.5, 0.04), seconds, "closed", f"{why}: 2theta")
        low = float(np.rad2deg(self._half_closed[1]))
        radial = fit_peak(sweep.angles_deg[:, 3], sweep.counts, box=low) if sweep.counts is not None else None
        if radial is None:
            return None
        here[3] = radial.centre
        fine = along(here, "omega", 5.0 * peak.width + 0.1, max(0.7 * peak.width, 0.02))
        sweep = yield Path(fine, seconds, "open", f"{why}: omega again")
        last = _omega_peak(sweep)
        if last is None:
            return None
        here[0] = last.centre
        sigma = float(max(wide.sigma, last.sigma))
        return Centred(here, 0.0, radial.centre, sigma, last.area / float(sweep.seconds[0]))

    def _at(self, here: FloatArray, axis: str, centre: float) -> FloatArray:
        """The bisecting position of what diffracts with one axis at its centre."""
        there = here.copy()
        there[AXES.index(axis)] = centre
        return self.instrument.bisecting(self.instrument.on_holder(there), float(here[3]))


def _omega_peak(sweep: Sweep) -> Peak | None:
    return None if sweep.counts is None else fit_peak(sweep.angles_deg[:, 0], sweep.counts)


class AreaLook:
    """Looks with the area detector: whole turns of phi, each seen over many degrees of chi and of 2theta."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.instrument = catalogue, catalogue.instrument

    #: Chi of the turns of phi that together see the half sphere.
    turns_deg = (0.0, 40.0, 75.0, -40.0)

    def best_tth(self) -> list[float]:
        """Arm positions worth a search, the best first: many strong reflections on the detector, none in the direct beam."""
        c, (_, half) = self.catalogue, self.instrument.area.half_deg
        strong = c.rate >= 0.05
        places = np.arange(half + 3.0, self.instrument.motors.axis("tth").limits[1] - half, 1.0)
        number = [
            float(
                np.sum(
                    np.minimum(c.rate[strong & (np.abs(c.tth_deg - t) < half - 0.7)] / 0.3, 1.0)
                    * 15.0
                    / (t + 15.0)
                )
            )
            for t in places
        ]
        order = np.argsort(-np.array(number), kind="stable")
        best = float(places[order[0]])
        other = next((float(places[i]) for i in order if abs(places[i] - best) > half), best)
        return [best, other]

    def segments(self, tth_deg: float) -> Iterator[Path]:
        """Turns of phi that together see the half sphere."""
        for chi in self.turns_deg:
            corners = np.arange(-180.0, 180.0 + 1e-9, FRAME_DEG)
            points = np.tile([0.5 * tth_deg, chi, 0.0, tth_deg], (len(corners), 1))
            points[:, 2] = corners
            yield Path(points, FRAME_DEG / 6.0, "open", f"turn at 2theta {tth_deg:.1f}, chi {chi:.0f}")

    def hits(self, path: Path, sweep: Sweep) -> list[FloatArray]:
        """Bisecting angles (4,) of the spots on a search path, brightest first."""
        if sweep.frames is None:
            return []
        found = []
        n = len(sweep.angles_deg)
        for spot in frame_spots(sweep.frames):
            place = np.array(
                [np.interp(spot.frame, np.arange(n), sweep.angles_deg[:, axis]) for axis in range(4)]
            )
            azimuth, tth = ray_angles(self.instrument.area.rays([spot.pixel], float(place[3]))[0])
            v = Centred(place, azimuth, tth, 1.0, 0.0).direction(self.instrument)
            angles = self.instrument.bisecting(v, tth)
            if self.instrument.allows(angles):
                found.append(angles)
        return found

    def centre(
        self,
        angles_deg: FloatArray,
        half_deg: float,
        why: str,
        *,
        sure: bool = False,
        seconds: float = CENTRE_S,
    ) -> Look[Centred | None]:
        """Centre a peak near the angles: a sweep of omega; a second with the spot in the middle if it was faint.

        Where a spot is on the detector says where Q is; ``sure`` of what it is changes nothing.
        """
        here = np.array(angles_deg, dtype=float)
        found: Centred | None = None
        for turn in range(2):
            step = max(0.6 * self.instrument.width_deg(float(here[3])), 2.0 * half_deg / 40.0)
            sweep = yield Path(along(here, "omega", half_deg, step), seconds, "open", f"{why}: omega")
            if sweep.frames is None:
                return None
            rows, cols = self.instrument.area.shape
            middle = np.array([0.5 * (cols - 1), 0.5 * (rows - 1)])
            spots = [s for s in frame_spots(sweep.frames) if np.abs(np.array(s.pixel) - middle).max() < 12.0]
            last = len(sweep.angles_deg) - 1.0
            spots = [s for s in spots if 0.5 < s.frame < last - 0.5]
            if not spots:
                return found if turn else None
            spot = spots[0]
            place = here.copy()
            place[0] = float(np.interp(spot.frame, np.arange(last + 1.0), sweep.angles_deg[:, 0]))
            azimuth, tth = ray_angles(self.instrument.area.rays([spot.pixel], float(here[3]))[0])
            width = float(sweep.angles_deg[1, 0] - sweep.angles_deg[0, 0])
            rate = spot.counts * width / float(sweep.seconds[0])
            sigma = float(np.hypot(0.5 * width / np.sqrt(max(spot.counts, 1.0)), 0.005))
            found = Centred(place, azimuth, tth, sigma, rate)
            here = self.instrument.bisecting(found.direction(self.instrument), tth)
            if spot.counts > _PLENTY or not self.instrument.allows(here):
                return found
            half_deg = 0.6
            seconds = float(np.clip(CENTRE_S * 1000.0 / max(spot.counts, 1.0), CENTRE_S, LONGEST_S))
        return found


def ray_angles(ray: FloatArray) -> tuple[float, float]:
    """Azimuth about the beam, from the vertical towards +x, and scattering angle of a ray (3,), degrees."""
    across = float(np.hypot(ray[0], ray[1]))
    return float(np.rad2deg(np.arctan2(ray[0], ray[1]))), float(np.rad2deg(np.arctan2(across, ray[2])))


def look_of(kind: Literal["point", "area"], catalogue: Catalogue) -> PointLook | AreaLook:
    """How the detector of that name looks.

    Raises
    ------
    ValueError
        If there is none.
    """
    if kind not in ("point", "area"):
        raise ValueError(f"The detector is 'point' or 'area'; {kind!r} came.")
    return PointLook(catalogue) if kind == "point" else AreaLook(catalogue)
