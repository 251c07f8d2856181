"""From an unknown orientation to UB on a four-circle: what to measure next, and what it means.

`UbSearch.think` is a generator: it yields a `Path`, is sent the `Sweep` measured on it, and returns a `UbAnswer`. It moves
nothing: a Bluesky plan, the twin or a test does. First a peak is searched and centred, then a second on the cones on which
the cell allows it (an area detector often has several at once); the orientations that the peaks allow are tried where they
differ, until one is left; a handful of reflections refines it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import combinations, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.reflections.answer import UbAnswer, UbStep
from lauepilot.perception.reflections.choosing import Choosing
from lauepilot.perception.reflections.cones import promising, walk_cone
from lauepilot.perception.reflections.first import first_of
from lauepilot.perception.reflections.hypotheses import (
    TTH_DEG,
    WIDE_TTH_DEG,
    Catalogue,
    Hypothesis,
    Probe,
    expected_rates,
    hypotheses,
    surprise,
    telling_probe,
)
from lauepilot.perception.reflections.looking import (
    CENTRE_S,
    LONGEST_S,
    Look,
    Path,
    PointLook,
    look_of,
)
from lauepilot.perception.reflections.measured import ReflectionError
from lauepilot.perception.reflections.zeros import (
    Centred,
    RefinedUb,
    indexed,
    refine_ub,
    without_outliers,
)
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.fourcircle import FourCircle
from lauepilot.simulator.fourcircle_twin import Sweep

__all__ = ["UbAnswer", "UbSearch", "UbStep"]

#: Log-likelihood by which the last rival must be behind, and reflections that must have been found where they should be.
CERTAIN, CONFIRMED = 6.0, 2
#: Probes, first peaks and peaks for one set of hypotheses before giving up.
_PROBES, _FIRST, _PEAKS = 24, 6, 6
#: Sets of peaks that are looked through where not all belong together; sets whose hypotheses are tested; indices that a
#: peak may have if 2theta is not to be trusted.
_SUBSETS, _TRIES, _WIDE = 30, 3, 4
#: Log-likelihood that even the best hypothesis must keep per probe.
_WORST = -4.0
#: Rates (the strongest is 1) of reflections that are asked for an answer, in turn; the least answer worth asking for, as the
#: logarithm of a ratio of rates; counts wanted at the top of a probe's peak.
_TIERS, _TELLS, _PROBE_COUNTS = (0.05, 0.005, 0.001), 1.0, 60.0
#: Reflections that may be missing in the last refinement, and a residual (root mean square) too large for one crystal.
_MISSED, _ROUGH_DEG = 3, 0.05
#: How far from where it is expected the last reflection may be, degrees.
_EXPECTED_DEG = 0.02


class UbSearch:
    """Thinks about one crystal on one instrument.

    Parameters
    ----------
    crystal
        What is mounted: cell, symmetry and structure factors.
    instrument
        As believed.
    detector
        ``point`` or ``area``.
    reflections
        How many to centre for the last refinement.
    """

    def __init__(
        self,
        crystal: Crystal,
        instrument: FourCircle,
        detector: Literal["point", "area"] = "point",
        *,
        reflections: int = 12,
    ) -> None:
        if reflections < 3:
            raise ValueError(f"A refinement needs three reflections or more; {reflections} came.")
        self.crystal, self.instrument, self.kind = crystal, instrument, detector
        self.catalogue = Catalogue(crystal, instrument)
        self.look = look_of(detector, self.catalogue)
        self.wanted = reflections
        self.steps: list[UbStep] = []
        self._tolerances: tuple[float, ...] = (TTH_DEG, WIDE_TTH_DEG)
        self._here = np.zeros(4)  # where the last path ended: the way from there is what costs time

    def think(self) -> Generator[Path, Sweep, UbAnswer]:
        """The whole search; see the module."""
        thinking = self._think()
        path = next(thinking)
        while True:
            sweep = yield path
            self._here = np.array(path.points_deg[-1], dtype=float)
            try:
                path = thinking.send(sweep)
            except StopIteration as end:
                answer: UbAnswer = end.value
                return answer

    def _think(self) -> Generator[Path, Sweep, UbAnswer]:
        peaks: list[Centred] = []
        firsts = 0
        reason = "nothing rose above the background"
        first = first_of(self.look)
        while (path := first.next(self._here)) is not None:
            sweep = yield from self._ask(path)
            fresh = yield from self._centre_hits(self.look.hits(path, sweep), peaks)
            if not fresh:
                first.empty()
                continue
            firsts += 1
            peaks += fresh
            if isinstance(self.look, PointLook):
                answer, reason = yield from self._from_one(fresh[0], peaks, reason)
            else:
                answer, reason = yield from self._from_many(peaks, reason)
            if answer is not None:
                return answer
            if firsts >= _FIRST:
                return self._give_up(f"{firsts} peaks were centred, but {reason}", peaks)
        return self._give_up(
            f"The search is over, and {reason}. Check beam, shutter, zero of 2theta, and that the crystal "
            "is in the beam; then count longer.",
            peaks,
        )

    # ------------------------------------------------------------------------------------------- finding peaks

    def _ask(self, path: Path) -> Look[Sweep]:
        sweep = yield path
        middle = path.points_deg[len(path.points_deg) // 2]
        self.steps.append(UbStep(path.why, tuple(float(x) for x in middle), "searched"))
        return sweep

    def _centre(
        self, angles: FloatArray, half: float, why: str, *, sure: bool = False, seconds: float = CENTRE_S
    ) -> Look[Centred | None]:
        found = yield from self.look.centre(angles, half, why, sure=sure, seconds=seconds)
        at = angles if found is None else found.angles_deg
        kind: Literal["centred", "nothing"] = "nothing" if found is None else "centred"
        self.steps.append(
            UbStep(why, tuple(float(x) for x in at), kind, 0.0 if found is None else found.rate)
        )
        return found

    def _centre_hits(self, hits: list[FloatArray], known: list[Centred]) -> Look[list[Centred]]:
        """Centre the brightest hits: one with the counter, some that are far from parallel with the area detector."""
        most, half = (1, 0.6) if isinstance(self.look, PointLook) else (3, 1.4)
        found: list[Centred] = []
        tried = 0
        for angles in hits:
            v = self.instrument.on_holder(angles)
            others = [peak.direction(self.instrument) for peak in [*known, *found]]
            if any(abs(float(v @ o)) > np.cos(np.deg2rad(8.0)) for o in others):
                continue
            self.steps.append(UbStep("a hit", tuple(float(x) for x in angles), "hit"))
            peak = yield from self._centre(angles, half, "centre a hit")
            tried += 1
            if peak is not None:
                found.append(peak)
            if len(found) >= most or tried >= most + 3:
                break
        return found

    # ------------------------------------------------------------------------------------------- from peaks to one

    def _from_many(self, peaks: list[Centred], reason: str) -> Look[tuple[UbAnswer | None, str]]:
        if len(peaks) < 2:
            return None, "only one reflection was found"
        return (yield from self._try(peaks))

    def _from_one(
        self, first: Centred, peaks: list[Centred], reason: str
    ) -> Look[tuple[UbAnswer | None, str]]:
        """Walk the cones about a first peak for a second one."""
        candidates = self._candidates(first, TTH_DEG)
        if len(candidates) == 0 or len(peaks) % 2 == 0:  # the arm's zero may be worse than is usual
            candidates = self._candidates(first, WIDE_TTH_DEG)[:_WIDE]
        if len(candidates) == 0:
            return None, f"no reflection of {self.crystal.name} has 2theta {first.tth_deg:.2f} deg"
        tries = 0
        for tth, cone in promising([int(n) for n in candidates], self.catalogue):
            for path in walk_cone(first.direction(self.instrument), cone, tth, self.instrument, self._here):
                sweep = yield from self._ask(path)
                for hit in self.look.hits(path, sweep)[:2]:
                    second = yield from self._centre(hit, 0.6, "centre a hit on the cone")
                    if second is None or self._parallel(first, second):
                        continue
                    answer, reason = yield from self._try([first, second])
                    if answer is not None:
                        return answer, reason
                    tries += 1
                    if tries >= _PEAKS:
                        return None, reason
        return None, reason if tries else "no second reflection was found on the cones about the first"

    def _candidates(self, first: Centred, tolerance_deg: float) -> NDArray[np.int64]:
        """Reflections (n,) that a first peak may be, the strongest first."""
        self.catalogue.tolerance_deg = tolerance_deg
        self._tolerances = (tolerance_deg,)
        numbers = self.catalogue.unlike(self.catalogue.at(first.tth_deg, weakest=0.02))
        return numbers[np.argsort(-self.catalogue.rate[numbers], kind="stable")]

    def _parallel(self, one: Centred, two: Centred) -> bool:
        return abs(float(one.direction(self.instrument) @ two.direction(self.instrument))) > 0.98

    # ------------------------------------------------------------------------------------------- one of many

    def _try(self, peaks: list[Centred]) -> Look[tuple[UbAnswer | None, str]]:
        """Hypotheses from peaks, tested until one is left, then refined; None and a reason if none holds."""
        reason = f"the peaks do not fit the cell of {self.crystal.name}: check crystal and energy"
        for some, rivals in islice(self._explaining(peaks), _TRIES):
            answer, reason = yield from self._decide(some, rivals)
            if answer is not None:
                return answer, reason
        return None, reason

    def _explaining(self, peaks: list[Centred]) -> Iterator[tuple[list[Centred], list[Hypothesis]]]:
        """Peaks that one orientation explains, with their hypotheses: all of them first, then fewer.

        Others may be another crystallite's. Where the usual tolerance of 2theta does not do, the arm's zero may be worse.
        """
        for n in range(len(peaks), 1, -1):
            for tolerance in self._tolerances:
                self.catalogue.tolerance_deg = tolerance
                for some in islice(combinations(peaks, n), _SUBSETS):
                    rivals = hypotheses(some, self.catalogue)
                    if rivals:
                        yield list(some), rivals
                        break

    def _decide(self, peaks: list[Centred], rivals: list[Hypothesis]) -> Look[tuple[UbAnswer | None, str]]:
        """Test hypotheses where they differ until one is left, and refine it."""
        instrument = self.instrument
        done = [(peak.direction(instrument), peak.tth_deg) for peak in peaks]
        found = list(peaks)
        for probes in range(_PROBES):
            rivals = [h for h in rivals if h.log_weight > rivals[0].log_weight - CERTAIN]
            probe = self._next_probe(rivals, done)
            if probe is None or (
                rivals[0].confirmed >= CONFIRMED and (len(rivals) == 1 or probe.tells < _TELLS)
            ):
                break
            done.append((probe.direction, probe.tth_deg))
            expected = expected_rates(rivals, probe.direction, probe.tth_deg, self.catalogue)
            angles = instrument.bisecting(probe.direction, probe.tth_deg)
            top = np.exp(rivals[0].log_scale) * expected.max() / (2.5 * instrument.width_deg(probe.tth_deg))
            seconds = float(np.clip(_PROBE_COUNTS / max(top, 1e-6), CENTRE_S, LONGEST_S))
            # Where rivals are left, 2 theta tells them apart too: several reflections pass the open aperture.
            peak = yield from self._centre(angles, 0.8, "probe", sure=len(rivals) == 1, seconds=seconds)
            rate = 0.0 if peak is None else peak.rate
            if peak is not None:  # each must explain it where it is, not only somewhere in the field of view
                expected = expected_rates(rivals, peak.direction(instrument), peak.tth_deg, self.catalogue)
            for h, e in zip(rivals, expected, strict=True):
                told = surprise(rate / np.exp(h.log_scale), float(e), probe.floor)
                h.log_weight += told
                h.confirmed += int(peak is not None and e > 0.0 and told > _WORST)
            if peak is not None:
                found.append(peak)
            rivals.sort(key=lambda h: -h.log_weight)
            if rivals[0].log_weight < _WORST * (len(peaks) + 1) and rivals[0].confirmed <= (probes + 1) // 2:
                return None, "no orientation that the first peaks allow explains the others"
        if rivals[0].confirmed < CONFIRMED:
            return None, "no orientation could be confirmed by further reflections"
        answer = yield from self._refine(rivals[0], found, len(rivals) - 1)
        return (
            answer,
            "" if answer is not None else "the reflections of the last refinement do not fit one crystal",
        )

    def _next_probe(self, rivals: list[Hypothesis], done: list[tuple[FloatArray, float]]) -> Probe | None:
        """The strongest reflections first; weak ones only where the strong cannot tell the rivals apart."""
        probe: Probe | None = None
        for weakest in _TIERS:
            probe = telling_probe(rivals, self.catalogue, done, weakest, self._here) or probe
            if probe is not None and (len(rivals) == 1 or probe.tells > _TELLS):
                break
        return probe

    def _refine(self, best: Hypothesis, peaks: list[Centred], rivals: int) -> Look[UbAnswer | None]:
        """Centre a handful of reflections, well spread, and refine."""
        kept: list[Centred] = []
        instrument = self.instrument
        for peak in peaks:
            number = int(
                self.catalogue.seen((best.u.T @ peak.direction(self.instrument))[None], peak.tth_deg)[0][0]
            )
            if number >= 0:
                kept.append(indexed(peak, self.catalogue.hkl[number]))
        u = best.u
        choosing = self._choosing(u)
        refined: RefinedUb | None = None
        try:
            if len(kept) >= 2:
                refined = refine_ub(kept, self.crystal, self.instrument)
            missed, residual, unexpected = 0, 0.0, np.inf
            while len(kept) < self.wanted:
                good_enough = choosing.good(kept, residual)
                if good_enough and unexpected < _EXPECTED_DEG:
                    break
                # The last must be where it is expected, far from all others.
                chosen = (
                    choosing.farthest(self._here, kept) if good_enough else choosing.next(self._here, kept)
                )
                if chosen is None:
                    break
                hkl = self.catalogue.hkl[chosen]
                angles = (
                    instrument.bisecting(
                        u @ self.catalogue.direction[chosen], float(self.catalogue.tth_deg[chosen])
                    )
                    if refined is None
                    else refined.motor_angles(hkl, instrument)
                )
                if not instrument.allows(angles):
                    continue
                name = " ".join(f"{x:.0f}" for x in hkl)
                seen = yield from self._centre(angles, 0.6, f"centre {name}", sure=True)
                off = 0.0 if seen is None else seen.tth_deg - float(self.catalogue.tth_deg[chosen])
                if seen is None or abs(off) > self.catalogue.tolerance_deg:
                    missed += 1
                    if missed > _MISSED:
                        return None
                    continue
                unexpected = np.inf
                if good_enough and refined is not None:
                    unexpected = refined.off_deg(indexed(seen, hkl), instrument)
                kept.append(indexed(seen, hkl))
                if len(kept) >= 3:
                    refined, _ = without_outliers(kept, self.crystal, instrument, 0.3)
                    residual = float(np.sqrt(np.mean(refined.result.residual_deg**2)))
            if len(kept) < 4:
                return None
            refined, good = without_outliers(kept, self.crystal, instrument)
        except ReflectionError:
            return None
        residual = float(np.sqrt(np.mean(refined.result.residual_deg**2)))
        rates = self.catalogue.rates_of([peak.hkl for peak in good])
        logs = np.log([peak.rate for peak in good]) - np.log(rates)
        if (
            residual > _ROUGH_DEG
            or len(good) < 0.7 * len(kept)
            or np.median(np.abs(logs - np.median(logs))) > 0.8
        ):
            return None
        for peak in good:
            told = " ".join(str(i) for i in peak.hkl or ())
            self.steps.append(UbStep(told, tuple(float(x) for x in peak.angles_deg), "indexed", peak.rate))
        reason = f"{len(good)} reflections agree within {residual:.4f} deg (root mean square)"
        if rivals:
            reason += f"; {rivals} related orientation(s) differ too little in intensity to be ruled out"
        return UbAnswer("found", reason, refined, good, tuple(self.steps), rivals)

    def _choosing(self, u: FloatArray) -> Choosing:
        """Who says which reflection comes next in the last refinement."""
        return Choosing(self.catalogue, u)

    def _give_up(self, reason: str, peaks: list[Centred]) -> UbAnswer:
        return UbAnswer("gave_up", reason, None, tuple(peaks), tuple(self.steps))
