"""Where to look for the first peak: a cloud of orientations, and what every stretch that was empty says against them.

All orientations are possible at first. Each stretch of a row of phi has a probability of showing a reflection; the one with
the most probability for its seconds, the way there included, is flown next. If nothing was seen, orientations under which
something should have been lose weight (Bayes' rule), and all probabilities change. Nothing is ever ruled out for good: a
reflection may be weaker than calculated, or in a shadow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lauepilot.perception.reflections.hypotheses import Catalogue
from lauepilot.simulator.conventions import FloatArray

#: Orientations in the cloud; the same for every search, so that a search can be repeated.
_CLOUD, _SEED = 8000, 1967
#: A stretch of phi, degrees; share of the strongest reflection's rate at which about 6 of 10 are seen.
SECTOR_DEG, SEEN_RATE = 30.0, 0.03
#: Weakest reflections that count, and share of them that is not seen for other reasons (shadows, absorption).
_WEAKEST, _LOST = 0.01, 0.03


@dataclass(frozen=True, eq=False)
class Row:
    """A row of phi: its scattering angle, chi, and how far from it the aperture still sees, degrees."""

    tth_deg: float
    chi_deg: float
    half_deg: float


class FirstPeak:
    """Says which stretch is to be flown next.

    Parameters
    ----------
    catalogue
        What can be seen.
    rows
        Those that together see the half sphere, for one scattering angle or several.
    half_tth_deg
        By how much 2 theta of a reflection may be off the row's.
    speed_deg_s
        Of phi while searching.
    """

    def __init__(
        self, catalogue: Catalogue, rows: list[Row], half_tth_deg: float, speed_deg_s: float
    ) -> None:
        self.instrument, self.rows = catalogue.instrument, rows
        self._speed = speed_deg_s
        self._n_sectors = round(360.0 / SECTOR_DEG)
        # Logarithms (cloud, row, sector) of the probability to see nothing there, then that probability itself.
        self._unseen = np.zeros((_CLOUD, len(rows), self._n_sectors), dtype=np.float32)
        cloud = Rotation.random(_CLOUD, random_state=np.random.default_rng(_SEED)).as_matrix()
        for tth in {row.tth_deg for row in rows}:
            self._see(catalogue, cloud, tth, half_tth_deg)
        np.exp(self._unseen, out=self._unseen)
        self._log_weight = np.zeros(_CLOUD)
        self._flown: tuple[int, int] | None = None
        self._left = np.ones((len(rows), self._n_sectors), dtype=bool)
        # Where stretches begin and end (row, sector, end, axis).
        self._corners = np.empty((len(rows), self._n_sectors, 2, 4))
        for r, row in enumerate(rows):
            self._corners[r] = [0.5 * row.tth_deg, row.chi_deg, 0.0, row.tth_deg]
        edges = -180.0 + SECTOR_DEG * np.arange(self._n_sectors + 1)
        self._corners[:, :, 0, 2], self._corners[:, :, 1, 2] = edges[:-1], edges[1:]

    def _see(self, catalogue: Catalogue, cloud: FloatArray, tth_deg: float, half_tth_deg: float) -> None:
        numbers = catalogue.at(tth_deg, half_tth_deg, _WEAKEST)
        told = np.log(1.0 - (1.0 - _LOST) * (1.0 - np.exp(-catalogue.rate[numbers] / SEEN_RATE)))
        v = np.einsum("nij,mj->nmi", cloud, catalogue.direction[numbers])
        chi = np.rad2deg(np.arcsin(np.clip(v[..., 0], -1.0, 1.0)))
        phi = np.rad2deg(np.arctan2(v[..., 2], v[..., 1]))
        sector = np.minimum(((phi + 180.0) / SECTOR_DEG).astype(int), self._n_sectors - 1)
        for r, row in enumerate(self.rows):
            if row.tth_deg == tth_deg:
                one, m = np.nonzero(np.abs(chi - row.chi_deg) <= row.half_deg)
                np.add.at(self._unseen, (one, np.full(len(one), r), sector[one, m]), told[m])

    @property
    def left(self) -> NDArray[np.bool_]:
        """Stretches (row, sector) that were not flown."""
        return self._left.copy()

    def chances(self) -> FloatArray:
        """Probability (row, sector) of each stretch to show a reflection, given that all that were flown were empty."""
        weight = np.exp(self._log_weight - self._log_weight.max())
        seen_none = np.tensordot((weight / weight.sum()).astype(np.float32), self._unseen, axes=1)
        return np.asarray(1.0 - seen_none, dtype=float)

    def next(self, here_deg: FloatArray) -> tuple[Row, float, float] | None:
        """Row and phi of the beginning and end of the stretch to fly next, from ``here_deg`` (4,); None if all is flown."""
        if not self._left.any():
            return None
        chance = self.chances()
        axes = self.instrument.motors.axes
        speed, settle = np.array([a.speed for a in axes]), np.array([a.settle_s for a in axes])
        far = np.abs(self._corners - here_deg)
        ways = np.where(far > 0.0, far / speed + settle, 0.0).max(axis=-1)
        value = np.where(self._left, chance, -1.0)[..., None] / (ways + SECTOR_DEG / self._speed)
        r, s, back = (int(i) for i in np.unravel_index(int(np.argmax(value)), value.shape))
        self._left[r, s] = False
        self._flown = (r, s)
        return self.rows[r], float(self._corners[r, s, back, 2]), float(self._corners[r, s, 1 - back, 2])

    def empty(self) -> None:
        """Nothing was seen on the last stretch."""
        if self._flown is not None:
            self._log_weight += np.log(self._unseen[:, self._flown[0], self._flown[1]])
