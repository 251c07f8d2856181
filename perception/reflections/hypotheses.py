"""Which reflection can a peak be, which orientations do peaks allow, and which reflection tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.reflections.zeros import Centred
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.fourcircle import FourCircle, integrated_rates, travel_s
from lauepilot.simulator.orientation import misorientation

#: How far a measured scattering angle may be from the cell's, degrees: zeros of the arm, offsets of the detector; and how
#: far where nothing fits otherwise.
TTH_DEG, WIDE_TTH_DEG = 0.12, 0.35
#: How far directions may be from a hypothesis', degrees, when two peaks with unknown zeros made it.
DIRECTION_DEG = 0.4
#: Standard deviation of the logarithm of measured over calculated intensities: extinction, absorption, centring.
INTENSITY = 0.5
#: Share of the strongest reflection's rate below which a peak may be missed.
FLOOR = 0.01
_SAME_DEG = 0.6  # hypotheses nearer than this are one
_PARALLEL_DEG = 3.0
_MOST = 400
_POOL = 2500  # reflections that are looked through for a probe
#: Seconds that a probe takes besides the way there.
PROBING_S = 15.0


class Catalogue:
    """All reflections that the arm reaches, with directions, scattering angles and expected rates.

    Attributes
    ----------
    hkl, direction, tth_deg, rate
        (n, 3) indices; (n, 3) unit vectors in the crystal's Cartesian frame; degrees (n,); rates (n,), the strongest 1.
    tolerance_deg
        How far a measured scattering angle may be from the cell's.
    """

    def __init__(self, crystal: Crystal, instrument: FourCircle, *, weakest: float = 3e-4) -> None:
        hkl, rate = integrated_rates(crystal, instrument)
        keep = rate >= weakest
        q = hkl[keep] @ crystal.b.T
        length = np.linalg.norm(q, axis=1)
        self.crystal, self.instrument = crystal, instrument
        self.hkl, self.rate = hkl[keep], rate[keep]
        self.direction = q / length[:, None]
        self.tth_deg = np.asarray(instrument.tth_deg(length))
        self.tolerance_deg = TTH_DEG

    def at(
        self, tth_deg: float, tolerance_deg: float | None = None, weakest: float = 0.0
    ) -> NDArray[np.int64]:
        """Numbers (m,) of the reflections near a scattering angle."""
        tolerance = self.tolerance_deg if tolerance_deg is None else tolerance_deg
        return np.flatnonzero((np.abs(self.tth_deg - tth_deg) < tolerance) & (self.rate >= weakest))

    def unlike(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of reflections (m,), one of each set that symmetry makes alike."""
        left, chosen = list(numbers), []
        while left:
            first = left[0]
            chosen.append(first)
            images = self.crystal.symmetry @ self.direction[first]
            alike = (self.direction[left] @ images.T).max(axis=1) > 1.0 - 1e-9
            same = np.abs(self.tth_deg[left] - self.tth_deg[first]) < 1e-6
            left = [n for n, a in zip(left, alike & same, strict=True) if not a]
        return np.array(chosen, dtype=int)

    def rates_of(self, hkl: Sequence[tuple[int, int, int] | None]) -> FloatArray:
        """Rates (n,) of reflections by their indices."""
        numbers = [int(np.flatnonzero(np.all(self.hkl == np.array(one), axis=1))[0]) for one in hkl]
        return self.rate[numbers]

    def seen(self, directions: FloatArray, tth_deg: float) -> tuple[NDArray[np.int64], FloatArray]:
        """For directions (m, 3) of the crystal: the strongest reflection near each and its rate (m,); -1 and 0 for none."""
        numbers = self.at(tth_deg)
        best, rate = np.full(len(directions), -1), np.zeros(len(directions))
        if len(numbers) == 0:
            return best, rate
        near = directions @ self.direction[numbers].T > np.cos(np.deg2rad(DIRECTION_DEG))
        rates = np.where(near, self.rate[numbers], 0.0)
        top = rates.argmax(axis=1)
        rate = rates[np.arange(len(directions)), top]
        return np.where(rate > 0.0, numbers[top], -1), rate


@dataclass
class Hypothesis:
    """An orientation that may be the crystal's.

    Attributes
    ----------
    u
        (3, 3) on the sample holder.
    log_weight
        Logarithm of how well it explains intensities, the best possible is 0.
    log_scale
        Logarithm of measured rate over the catalogue's.
    confirmed
        Reflections that were found where it said, after it was made.
    """

    u: FloatArray
    log_weight: float
    log_scale: float
    confirmed: int = 0


def hypotheses(peaks: Sequence[Centred], catalogue: Catalogue) -> list[Hypothesis]:
    """Orientations (best first) under which every peak is a reflection of the cell; no two that symmetry makes alike.

    None if all peaks lie along one line.
    """
    instrument = catalogue.instrument
    v = np.array([peak.direction(instrument) for peak in peaks])
    one, two = _best_pair(v)
    cosine = float(v[one] @ v[two])
    if abs(cosine) > np.cos(np.deg2rad(_PARALLEL_DEG)):
        return []  # Friedel's mates, or orders of one reflection: the turn about them is open
    first = catalogue.unlike(catalogue.at(peaks[one].tth_deg, weakest=0.5 * FLOOR))
    second = catalogue.at(peaks[two].tth_deg, weakest=0.5 * FLOOR)
    cosines = np.clip(catalogue.direction[first] @ catalogue.direction[second].T, -1.0, 1.0)
    allowed = np.abs(np.arccos(cosines) - np.arccos(np.clip(cosine, -1.0, 1.0))) < np.deg2rad(DIRECTION_DEG)
    holder = _triad(v[one], v[two])
    pairs = [
        (catalogue.direction[first[i]], catalogue.direction[second[j]])
        for i, j in zip(*np.nonzero(allowed), strict=True)
    ]
    if not pairs:
        return []
    found = np.array([holder @ _triad(a, b).T for a, b in pairs])
    # Relatives by the lattice's symmetry: only intensities tell them apart.
    turned = np.einsum("nij,mjk->nmik", found, _relatives(catalogue.crystal)).reshape(-1, 3, 3)
    return _distinct(_explained(turned, peaks, v, catalogue), catalogue.crystal.symmetry)


def _relatives(crystal: Crystal) -> FloatArray:
    """Of the lattice's rotations (n, 3, 3), one of each set that the crystal's symmetry makes alike."""
    kept = [np.eye(3)]
    for s in crystal.holohedry:
        if misorientation(np.array(kept), s[None], crystal.symmetry).min() > 0.05:
            kept.append(s)
    return np.array(kept)


def _explained(
    u: FloatArray, peaks: Sequence[Centred], v: FloatArray, catalogue: Catalogue
) -> list[Hypothesis]:
    """Those of the orientations (n, 3, 3) under which every peak is a reflection, best first."""
    logs, off = np.empty((len(u), len(peaks))), np.empty((len(u), len(peaks)))
    for i, peak in enumerate(peaks):
        numbers, rate = catalogue.seen(np.einsum("nji,j->ni", u, v[i]), peak.tth_deg)
        off[:, i] = peak.tth_deg - catalogue.tth_deg[numbers]
        with np.errstate(divide="ignore"):
            logs[:, i] = np.log(max(peak.rate, 1e-9)) - np.log(rate)
    scale = logs.mean(axis=1)
    # The arm's zero is the same for all: scattering angles must be off alike.
    alike = np.ptp(off, axis=1) < 1.5 * TTH_DEG
    good = np.flatnonzero(np.all(np.isfinite(logs), axis=1) & alike)
    weight = -0.5 * ((logs[good] - scale[good, None]) ** 2).sum(axis=1) / INTENSITY**2
    order = np.argsort(-weight, kind="stable")
    return [Hypothesis(u[good[i]], float(weight[i]), float(scale[good[i]])) for i in order]


def _distinct(made: list[Hypothesis], symmetry: FloatArray) -> list[Hypothesis]:
    kept: list[Hypothesis] = []
    for one in made[:_MOST]:
        if one.log_weight < made[0].log_weight - 15.0:
            break
        if kept:
            others = np.array([h.u for h in kept])
            if np.rad2deg(misorientation(others, one.u[None], symmetry).min()) < _SAME_DEG:
                continue
        kept.append(one)
    return kept


def expected_rates(
    hypotheses: Sequence[Hypothesis], direction: FloatArray, tth_deg: float, catalogue: Catalogue
) -> FloatArray:
    """Catalogue's rate (m,) that each hypothesis expects at a direction (3,) of the holder and a scattering angle."""
    return catalogue.seen(np.array([h.u.T @ direction for h in hypotheses]), tth_deg)[1]


def surprise(measured: float, expected: float, floor: float = FLOOR) -> float:
    """Log-likelihood of a rate when another is expected (both of the catalogue's scale), at most 0, at least -12."""
    off = np.log(max(measured, 0.0) + floor) - np.log(max(expected, 0.0) + floor)
    return float(max(-0.5 * off**2 / INTENSITY**2, -12.0))


@dataclass(frozen=True, eq=False)
class Probe:
    """Where to look: direction (3,) of the holder, and scattering angle.

    ``floor`` is the rate below which a peak may be missed; ``tells`` the difference of log-rates between the best hypothesis
    and its rivals, weighted; 0 without rivals.
    """

    direction: FloatArray
    tth_deg: float
    floor: float
    tells: float


def telling_probe(
    rivals: Sequence[Hypothesis],
    catalogue: Catalogue,
    done: Sequence[tuple[FloatArray, float]],
    weakest: float = 0.05,
    here_deg: FloatArray | None = None,
) -> Probe | None:
    """A reflection of the best hypothesis on whose rate the rivals differ most for the seconds that it costs.

    None if nothing is left to look at.

    Parameters
    ----------
    rivals
        Hypotheses, best first.
    catalogue
        What can be measured.
    done
        Places (direction, scattering angle) that were looked at already.
    weakest
        Rate (the strongest is 1) that is still worth counting for.
    here_deg
        Where the axes stand (4,); None leaves the way out of account.
    """
    best, instrument = rivals[0], catalogue.instrument
    floor = 0.2 * weakest
    weights = np.exp([max(h.log_weight - best.log_weight, -30.0) for h in rivals])
    usable = np.flatnonzero((catalogue.rate > weakest) & (catalogue.tth_deg > 8.0))
    usable = usable[np.argsort(-catalogue.rate[usable], kind="stable")][:_POOL]
    choice, most = None, -1.0
    for n in usable:
        direction, tth = best.u @ catalogue.direction[n], float(catalogue.tth_deg[n])
        if any(abs(tth - t) < 1.0 and direction @ d > np.cos(np.deg2rad(2.0)) for d, t in done):
            continue
        tells = 0.0
        if len(rivals) > 1:
            rates = expected_rates(rivals, direction, tth, catalogue)
            off = np.minimum(np.abs(np.log((rates[1:] + floor) / (rates[0] + floor))), 3.0)
            tells = float(weights[1:] @ off / weights[1:].sum())
        # Along a line that was already looked at there is less to learn.
        fresh = min((1.0 - float(direction @ d) ** 2 for d, _ in done), default=1.0)
        value = tells + 0.3 * fresh + 0.1 * float(catalogue.rate[n])
        angles = instrument.bisecting(direction, tth)
        if here_deg is not None:
            value /= PROBING_S + travel_s(instrument, here_deg, angles)
        if value > most and instrument.allows(angles):
            most, choice = value, Probe(direction, tth, floor, tells)
    return choice


def _best_pair(v: FloatArray) -> tuple[int, int]:
    sines = np.linalg.norm(np.cross(v[:, None], v[None, :]), axis=2)
    one, two = np.unravel_index(int(np.argmax(sines)), sines.shape)
    return int(one), int(two)


def _triad(one: FloatArray, two: FloatArray) -> FloatArray:
    normal = np.cross(one, two)
    columns = np.array([one, np.cross(normal, one), normal])
    return np.asarray((columns / np.linalg.norm(columns, axis=1, keepdims=True)).T)
