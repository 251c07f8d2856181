"""Which reflection to centre next for a refinement: the one that tells most for the seconds that it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lauepilot.perception.reflections.hypotheses import Catalogue
from lauepilot.perception.reflections.zeros import Centred, information, nothing_known
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.fourcircle import travel_s

#: Seconds that centring takes besides the way there.
CENTRING_S = 8.0
#: Mean error of predictions, degrees (root mean square), that is good enough, and the least number of reflections for it.
GOOD_DEG, LEAST = 0.012, 5
#: Residual that centring alone explains, degrees: what is beyond it counts against the prediction.
_USUAL_DEG = 0.006
#: `information` is that of this standard deviation, degrees.
_SIGMA_DEG = 0.01
_STRONG, _POOL, _WEAKEST = 300, 120, 0.03
#: Share of the farthest one's distance that is far.
_FAR = 0.7


class Choosing:
    """Chooses among strong reflections with no neighbour.

    Parameters
    ----------
    catalogue
        What can be measured.
    u
        Orientation (3, 3), good enough to find reflections with.
    """

    def __init__(self, catalogue: Catalogue, u: FloatArray) -> None:
        self.catalogue, self.instrument = catalogue, catalogue.instrument
        self._places: dict[int, FloatArray] = {}
        self._tells: dict[int, FloatArray] = {}
        c = catalogue
        for n in np.argsort(-c.rate, kind="stable")[:_STRONG]:
            if c.rate[n] < _WEAKEST or c.tth_deg[n] < 8.0 or len(self._places) >= _POOL:
                continue
            angles = self.instrument.bisecting(u @ c.direction[n], float(c.tth_deg[n]))
            if not self.instrument.allows(angles):
                continue
            near = (np.abs(c.tth_deg - c.tth_deg[n]) < 0.8) & (
                c.direction @ c.direction[n] > np.cos(np.deg2rad(3.0))
            )
            if np.count_nonzero(near & (c.rate > 0.05 * c.rate[n])) == 1:
                self._places[int(n)], self._tells[int(n)] = angles, information(angles, self.instrument)
        told = [t * np.deg2rad(_SIGMA_DEG) ** 2 for t in self._tells.values()]
        # What an error of U and zeros does to predictions, on the average over places.
        self._mean = np.mean(told, axis=0) if told else np.eye(len(nothing_known()))

    def next(self, here_deg: FloatArray, kept: Sequence[Centred]) -> int | None:
        """Number of the reflection to centre next, from ``here_deg`` (4,); None if there is none left."""
        known = self._known(kept)
        before = float(np.trace(self._mean @ np.linalg.inv(known)))
        best, most = None, -1.0
        for n, tells in self._tells.items():
            after = float(np.trace(self._mean @ np.linalg.inv(known + tells)))
            gain = np.log(before / after) / (
                CENTRING_S + travel_s(self.instrument, here_deg, self._places[n])
            )
            if gain > most:
                best, most = n, float(gain)
        if best is not None:
            del self._tells[best]
        return best

    def farthest(self, here_deg: FloatArray, kept: Sequence[Centred]) -> int | None:
        """Number of a reflection that lies far from all that were centred; None if there is none left.

        Of those that are nearly as far as the farthest, the one that is quickest to go to from ``here_deg`` (4,).
        """
        if not self._tells or not kept:
            return None
        there = np.array([[p.angles_deg[1], p.angles_deg[2], p.angles_deg[3]] for p in kept])

        def apart(n: int) -> float:
            off = np.abs(there - self._places[n][1:])
            off[:, 1] = np.minimum(off[:, 1], 360.0 - off[:, 1]) * np.cos(np.deg2rad(self._places[n][1]))
            return float(np.hypot(np.hypot(off[:, 0], off[:, 1]), 2.0 * off[:, 2]).min())

        distance = {n: apart(n) for n in self._tells}
        far = [n for n, d in distance.items() if d > _FAR * max(distance.values())]
        best = min(far, key=lambda n: travel_s(self.instrument, here_deg, self._places[n]))
        del self._tells[best]
        return best

    def good(self, kept: Sequence[Centred], residual_deg: float) -> bool:
        """Whether predictions from these peaks are good enough, with this residual (root mean square)."""
        if len(kept) < LEAST:
            return False
        error = np.sqrt(np.trace(self._mean @ np.linalg.inv(self._known(kept))))
        return bool(np.rad2deg(error) * max(residual_deg / _USUAL_DEG, 1.0) <= GOOD_DEG)

    def _known(self, kept: Sequence[Centred]) -> FloatArray:
        known = nothing_known()
        for peak in kept:
            known = known + information(peak.angles_deg, self.instrument)
        return known
