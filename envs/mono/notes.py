"""What a player of the four-circle game has in its notebook: hits, centred peaks, which orientations these allow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lauepilot.envs.mono.world import MonoSeen
from lauepilot.perception.reflections.hypotheses import Catalogue, Hypothesis, hypotheses
from lauepilot.perception.reflections.looking import AreaLook, PointLook
from lauepilot.perception.reflections.measured import ReflectionError
from lauepilot.perception.reflections.zeros import Centred, RefinedUb, indexed, without_outliers
from lauepilot.simulator.conventions import FloatArray

#: Peaks that are kept, and places worth going to that are told.
PEAKS, CANDIDATES = 12, 8
#: Directions nearer than this at scattering angles nearer than that are one reflection, degrees.
_SAME_DEG, _SAME_TTH_DEG = 2.0, 1.0
#: Peaks of which hypotheses are made, hits that are kept, reflections that are looked through for where to go.
_FIRST, _HITS, _POOL = 4, 24, 80


@dataclass(frozen=True, eq=False)
class Candidate:
    """A place worth centring at: (4,) degrees, the rate expected, and whether a scan saw it or a hypothesis says so."""

    angles_deg: FloatArray
    rate: float
    seen: bool


class Notes:
    """Kept by the environment for players that cannot index: everything in it follows from what was counted.

    Attributes
    ----------
    peaks
        Centred peaks, at most `PEAKS`; indexed where the best hypothesis can.
    rivals
        Orientations that the first peaks allow, best first.
    ub
        Refined from the indexed peaks; None while there are fewer than three.
    """

    def __init__(self, catalogue: Catalogue, look: PointLook | AreaLook) -> None:
        self.catalogue, self.look, self.instrument = catalogue, look, catalogue.instrument
        self.peaks: list[Centred] = []
        self.rivals: list[Hypothesis] = []
        self.ub: RefinedUb | None = None
        self._hits: list[Candidate] = []
        self._tried: list[tuple[FloatArray, float]] = []
        self._candidates: list[Candidate] | None = None

    def take(self, seen: MonoSeen, tried_deg: FloatArray | None) -> None:
        """Write down what a scan showed, or what centring at ``tried_deg`` (4,) found."""
        self._candidates = None
        if tried_deg is not None:
            self._tried.append((self.instrument.on_holder(tried_deg), float(tried_deg[3])))
            if seen.centred is not None:
                self._add(seen.centred)
            return
        if seen.path is None or seen.sweep is None or len(seen.sweep.seconds) < 8:
            return
        for angles in self.look.hits(seen.path, seen.sweep)[:_HITS]:
            v, tth = self.instrument.on_holder(angles), float(angles[3])
            place = self.instrument.bisecting(v, tth)
            if self.instrument.allows(place) and not self._known(v, tth):
                self._hits.insert(0, Candidate(place, 0.0, True))
        del self._hits[_HITS:]

    def candidates(self) -> list[Candidate]:
        """Places worth centring at, at most `CANDIDATES`: what scans saw, then what the best hypothesis says."""
        if self._candidates is None:
            fresh = [
                c
                for c in self._hits
                if not self._known(self.instrument.on_holder(c.angles_deg), float(c.angles_deg[3]))
            ]
            self._candidates = fresh[: CANDIDATES // 2]
            self._candidates += self._predicted(CANDIDATES - len(self._candidates))
        return self._candidates

    def profile(self, seen: MonoSeen, n: int) -> FloatArray:
        """Counts (n,) along the last path: the highest bin, or the brightest pixel's neighbourhood, in each n-th of it."""
        out = np.zeros(n)
        if seen.sweep is None:
            return out
        if seen.sweep.counts is not None:
            counts = seen.sweep.counts
        else:
            frames = np.zeros((1, 1, 1)) if seen.sweep.frames is None else seen.sweep.frames
            rows, cols = (side // 4 for side in frames.shape[1:])
            coarse = frames[:, : 4 * rows, : 4 * cols].reshape(len(frames), rows, 4, cols, 4).sum(axis=(2, 4))
            counts = coarse.reshape(len(frames), -1).max(axis=1).astype(float)
        place = (np.arange(len(counts)) * n) // len(counts) if len(counts) >= n else np.arange(len(counts))
        np.maximum.at(out, place, counts)
        return out

    def _known(self, v: FloatArray, tth_deg: float) -> bool:
        places = [(p.direction(self.instrument), p.tth_deg) for p in self.peaks] + self._tried
        return any(
            abs(tth_deg - t) < _SAME_TTH_DEG and float(v @ d) > np.cos(np.deg2rad(_SAME_DEG))
            for d, t in places
        )

    def _add(self, peak: Centred) -> None:
        v = peak.direction(self.instrument)
        near = np.cos(np.deg2rad(0.5))
        self.peaks = [
            p
            for p in self.peaks
            if not (abs(p.tth_deg - peak.tth_deg) < 0.3 and float(v @ p.direction(self.instrument)) > near)
        ]
        self.peaks = [*self.peaks, peak][-PEAKS:]
        if len(self.peaks) < 2:
            return
        self.rivals = hypotheses(self.peaks[:_FIRST], self.catalogue)
        self.ub = None
        if self.rivals:
            self._index(self.rivals[0].u)

    def _index(self, u: FloatArray) -> None:
        named: list[Centred] = []
        for i, peak in enumerate(self.peaks):
            crystal = (u.T @ peak.direction(self.instrument))[None]
            number = int(self.catalogue.seen(crystal, peak.tth_deg)[0][0])
            self.peaks[i] = replace(peak, hkl=None)
            if number >= 0:
                self.peaks[i] = indexed(peak, self.catalogue.hkl[number])
                named.append(self.peaks[i])
        if len(named) < 3:
            return
        try:
            self.ub = without_outliers(named, self.catalogue.crystal, self.instrument)[0]
        except ReflectionError:
            self.ub = None

    def _predicted(self, n: int) -> list[Candidate]:
        """Strong reflections of the best hypothesis, each far from what is known and from each other."""
        if not self.rivals or n < 1:
            return []
        best, c = self.rivals[0], self.catalogue
        pool = [
            int(i)
            for i in np.argsort(-c.rate, kind="stable")[:_POOL]
            if c.tth_deg[i] > 8.0 and not self._known(best.u @ c.direction[i], float(c.tth_deg[i]))
        ]
        done = [p.direction(self.instrument) for p in self.peaks]
        chosen: list[Candidate] = []
        while pool and len(chosen) < n:
            v = c.direction[pool] @ best.u.T
            fresh = np.min([1.0 - (v @ d) ** 2 for d in done], axis=0)
            pick = int(np.argmax(fresh * np.sqrt(c.rate[pool])))
            number, direction = pool.pop(pick), v[pick]
            done.append(direction)
            angles = self.instrument.bisecting(direction, float(c.tth_deg[number]))
            if self.ub is not None:
                angles = self.ub.motor_angles(c.hkl[number], self.instrument)
            if self.instrument.allows(angles):
                chosen.append(Candidate(angles, float(np.exp(best.log_scale) * c.rate[number]), False))
        return chosen

    def belief(self) -> FloatArray:
        """How sure the notes are, (6,): see the environment's data sheet."""
        if not self.rivals:
            return np.zeros(6)
        lead = self.rivals[0].log_weight - self.rivals[1].log_weight if len(self.rivals) > 1 else 20.0
        named = sum(p.hkl is not None for p in self.peaks)
        residual = 1.0 if self.ub is None else float(np.sqrt(np.mean(self.ub.result.residual_deg**2)))
        return np.array(
            [
                1.0,
                min(np.log(len(self.rivals)) / 6.0, 1.0),
                min(lead / 20.0, 1.0),
                named / PEAKS,
                0.0 if self.ub is None else 1.0,
                min(residual, 1.0),
            ]
        )
