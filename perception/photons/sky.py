"""The exhaustive search: every orientation that symmetry tells apart, scored on a frame's photons.

A turn of the crystal about the beam turns its whole pattern. So the patterns of a grid of *beam directions* in the crystal's
frame are made once (`Sky`), as lists of plane normals in polar angle and azimuth about the beam, and all azimuths of one
direction are scored together: the photons, blurred by the grid's spacing, become maps of the log-likelihood over (polar
angle, azimuth), one for each class of brightness, and a direction's score is the sum of the maps' rows at its normals, each
shifted by the normal's azimuth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.perception.indexing.sphere import pixel_area, pixel_normals
from lauepilot.simulator.conventions import BEAM, FloatArray, rotation_between
from lauepilot.simulator.corrections import polarisation
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.laue import RayTable

#: Azimuth bins of a turn, and bins per radian of the normals' polar angle.
AZIMUTHS, ROWS_PER_RAD = 720, 1.0 / math.radians(0.2)

#: Classes of brightness: a spot's share of its pattern, from the top down, in steps of this factor.
CLASSES, CLASS_FACTOR = 7, 2.0

#: Zeros between two runs of a map's row.
GAP = 128

#: Smallest step of the maps, nats.
FINEST = 1.0 / 64.0

#: Azimuth bins of the visible rate.
COARSE = 36

#: A direction's list ends with this share of its photons, or with this many spots.
SHARE, MOST_SPOTS = 0.93, 48


@dataclass(frozen=True, eq=False)
class Sky:
    """The patterns of a grid of beam directions.

    Attributes
    ----------
    orientation
        (n, 3, 3): ``U`` at azimuth 0; azimuth ``a`` is ``Rz(a) U``.
    starts
        (n + 1,) where each direction's spots start.
    row, shift, group
        Of each spot: row of the map, azimuth bin, class of brightness.
    log_visible
        (n, COARSE) logarithm of the visible rate over the direction's mean, by azimuth.
    lowest
        Polar angle of row 0, rad from -z.
    rows
        Rows of the map.
    step
        Spacing of the directions, rad.
    """

    orientation: FloatArray
    starts: NDArray[np.int64]
    row: NDArray[np.int32]
    shift: NDArray[np.int32]
    group: NDArray[np.int8]
    log_visible: NDArray[np.float32]
    lowest: float
    rows: int
    step: float

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(v.nbytes for v in vars(self).values() if isinstance(v, np.ndarray))

    @classmethod
    def build(cls, table: RayTable, detector: Detector, step_deg: float) -> Sky:
        """Patterns of beam directions ``step_deg`` apart, symmetry-equivalent ones left out."""
        lowest, highest = polar_range(detector)
        rows = int((highest - lowest) * ROWS_PER_RAD) + 2
        share = _seen(detector, lowest, rows, table.polarisation)
        step = math.radians(step_deg)
        directions = beam_directions(table.crystal.symmetry, step)
        occupied = share.mean(axis=1)
        top = table.sin_theta_min + table.sin_theta_step * (table.rate.shape[1] - 1)
        orientation, starts = np.empty((len(directions), 3, 3)), [0]
        row_list, shift_list, group_list = [], [], []
        log_visible = np.empty((len(directions), COARSE), dtype=np.float32)
        bins = (np.arange(COARSE) * 2 + 1) * (AZIMUTHS // COARSE) // 2
        for n, v in enumerate(directions):
            u = rotation_between(v, BEAM)
            orientation[n] = u
            sine = -table.direction @ v
            seen = np.flatnonzero((sine > table.sin_theta_min) & (sine < top))
            row = ((np.arccos(sine[seen]) - lowest) * ROWS_PER_RAD + 0.5).astype(np.int64)
            inside = (row >= 0) & (row < rows)
            seen, row = seen[inside], row[inside]
            at = (sine[seen] - table.sin_theta_min) / table.sin_theta_step
            node = at.astype(np.int64)
            rate = table.rate[seen, node] + (at - node) * (
                table.rate[seen, node + 1] - table.rate[seen, node]
            )
            bright = np.argsort(-rate * occupied[row], kind="stable")
            seen, row, rate = seen[bright], row[bright], rate[bright]
            mean = rate * occupied[row]
            total = max(float(mean.sum()), 1e-300)
            many = min(int(np.searchsorted(np.cumsum(mean), SHARE * total)) + 1, MOST_SPOTS, len(rate))
            seen, row, rate = seen[:many], row[:many], rate[:many]
            g = table.direction[seen] @ u.T
            shift = (
                np.rint(np.arctan2(g[:, 1], g[:, 0]) / (2.0 * np.pi) * AZIMUTHS).astype(np.int64) % AZIMUTHS
            )
            by_azimuth = (rate[:, None] * share[row[:, None], (shift[:, None] + bins) % AZIMUTHS]).sum(axis=0)
            log_visible[n] = np.log(np.maximum(by_azimuth / total, 0.02))
            group = np.log(np.maximum(rate / total, 1e-9)) / -math.log(CLASS_FACTOR)
            group_list.append(np.clip(group, 0, CLASSES - 1).astype(np.int8))
            row_list.append(row.astype(np.int32))
            shift_list.append(shift.astype(np.int32))
            starts.append(starts[-1] + many)
        return cls(
            orientation, np.array(starts), np.concatenate(row_list), np.concatenate(shift_list),
            np.concatenate(group_list), log_visible, lowest, rows, step,
        )  # fmt: skip

    def search(
        self,
        pixels: FloatArray,
        weight: FloatArray,
        base: FloatArray,
        detector: Detector,
        share: float,
        sigma: float,
        most: int,
    ) -> tuple[FloatArray, FloatArray]:
        """The best orientations (m, 3, 3) for photons, apart from each other, and their coarse scores, best first.

        Parameters
        ----------
        pixels
            (n, 2) as (col, row), where photons are.
        weight
            (n,) how many.
        base
            (n,) share of the background in that pixel.
        detector
            Believed pose.
        share
            Share of the photons that are signal, roughly.
        sigma
            Standard deviation of the normals about the grid's, rad: spots, spacing and pose together.
        most
            Number of orientations.
        """
        normals = pixel_normals(pixels, detector)
        polar = np.arccos(np.clip(-normals[:, 2], -1.0, 1.0))
        azimuth = np.arctan2(normals[:, 1], normals[:, 0])
        density = base / pixel_area(pixels, detector)
        fine, peak = _maps(
            polar, azimuth, weight, density, share, sigma, self.lowest, self.rows, CLASSES, CLASS_FACTOR
        )
        signal = share * float(weight.sum())
        # Whole numbers of sixteen bits: twice as many at a time, from half the memory. No score comes near the top of them,
        # unless three spots of a direction share every photon.
        highest = min(3.0 * peak, MOST_SPOTS * float(fine.max())) + 4.0 * signal
        unit = max(highest / 32000.0, FINEST)
        maps = np.rint(fine * np.float32(1.0 / unit)).astype(np.int16)
        lost = np.rint(self.log_visible * np.float32(signal / unit)).astype(np.int16)
        score, best, at = _score(self.starts, self.row, self.shift, self.group, lost, maps, 4 * most)
        score *= unit
        order = np.argsort(-score, kind="stable")[: 4 * most]
        keep = _apart(best[order], at[order], self.orientation, 1.2 * self.step, most)
        chosen = order[keep]
        angle = at[chosen] * (2.0 * np.pi / AZIMUTHS)
        turn = np.zeros((len(chosen), 3, 3))
        turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
        turn[:, 1, 0] = np.sin(angle)
        turn[:, 0, 1] = -turn[:, 1, 0]
        turn[:, 2, 2] = 1.0
        return np.ascontiguousarray(turn @ self.orientation[best[chosen]]), score[chosen]


def polar_range(detector: Detector) -> tuple[float, float]:
    """Smallest and largest angle (rad) from -z of the normals of planes seen on a detector."""
    rows = np.linspace(0, detector.shape[0] - 1, 101)
    cols = np.linspace(0, detector.shape[1] - 1, 101)
    grid = np.stack(np.meshgrid(cols, rows), axis=-1).reshape(-1, 2)
    polar = np.arccos(np.clip(-pixel_normals(grid[detector.sees(grid)], detector)[:, 2], -1.0, 1.0))
    return max(float(polar.min()) - 0.01, 0.0), min(float(polar.max()) + 0.01, 0.5 * math.pi)


def beam_directions(symmetry: FloatArray, step: float) -> FloatArray:
    """Unit vectors (n, 3), about ``step`` radians apart, one of each set of symmetry-equivalent ones.

    A Fibonacci lattice on the sphere (Gonzalez 2010, Math. Geosci. 42, 49), of which the points are kept that lie nearer to
    a general direction than their equivalents do.
    """
    n = math.ceil(4.0 * math.pi / step**2)
    i = np.arange(n) + 0.5
    z = 1.0 - 2.0 * i / n
    angle = math.pi * (1.0 + math.sqrt(5.0)) * i
    radius = np.sqrt(1.0 - z * z)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
    general = np.array([0.8219, 0.3517, 0.4482])
    return np.asarray(points[points @ general >= (points @ (symmetry @ general).T).max(axis=1) - 1e-12])


def _seen(detector: Detector, lowest: float, rows: int, degree: float | None) -> FloatArray:
    """(rows, AZIMUTHS) whether the normal's spot is on the sensor, times the polarisation factor."""
    polar = lowest + np.arange(rows) / ROWS_PER_RAD
    azimuth = np.arange(AZIMUTHS) * (2.0 * np.pi / AZIMUTHS)
    sine, cosine = np.sin(polar)[:, None], np.cos(polar)[:, None]
    normal = np.stack(
        [sine * np.cos(azimuth), sine * np.sin(azimuth), np.broadcast_to(-cosine, (rows, AZIMUTHS))], axis=-1
    )
    k_out = BEAM + 2.0 * cosine[:, :, None] * normal
    seen = detector.sees(detector.rays_to_pixels(k_out)).astype(float)
    if degree is not None:
        seen *= polarisation(k_out, degree)
    return seen


@njit(cache=True)
def _maps(
    polar: FloatArray,
    azimuth: FloatArray,
    weight: FloatArray,
    density: FloatArray,
    share: float,
    sigma: float,
    lowest: float,
    rows: int,
    classes: int,
    factor: float,
) -> tuple[NDArray[np.float32], float]:
    """Maps (classes, rows, AZIMUTHS) of log(1 + f q k / ((1 - f) b)), and the sum of all photons' highest."""
    maps = np.zeros((classes, rows, AZIMUTHS), np.float32)
    # log(1 + exp(t)) by table.
    table = np.log1p(np.exp(np.arange(-4.0, 26.0, 0.02)))
    reach = 3.0 * sigma
    peak = 0.0
    for p in range(polar.size):
        top = math.log(share / (1.0 - share) * factor**-0.5 / (2.0 * math.pi * sigma**2 * density[p]))
        peak += weight[p] * math.log1p(math.exp(min(top, 700.0)))
        r0 = max(math.ceil((polar[p] - reach - lowest) * ROWS_PER_RAD), 0)
        r1 = min(int((polar[p] + reach - lowest) * ROWS_PER_RAD), rows - 1)
        for r in range(r0, r1 + 1):
            angle = lowest + r / ROWS_PER_RAD
            across = math.sqrt(max(math.sin(angle) * math.sin(polar[p]), 1e-6))
            du = angle - polar[p]
            left = reach**2 - du * du
            if left <= 0.0:
                continue
            half = min(math.sqrt(left) / across, math.pi)
            a0 = math.ceil((azimuth[p] - half) * AZIMUTHS / (2.0 * math.pi))
            a1 = math.floor((azimuth[p] + half) * AZIMUTHS / (2.0 * math.pi))
            for a in range(a0, min(a1, a0 + AZIMUTHS - 1) + 1):
                da = (a * 2.0 * math.pi / AZIMUTHS - azimuth[p]) * across
                t = top - 0.5 * (du * du + da * da) / sigma**2
                b = a % AZIMUTHS
                for c in range(classes):
                    if t < -4.0:
                        break
                    maps[c, r, b] += weight[p] * table[min(int((t + 4.0) * 50.0), table.size - 1)]
                    t -= math.log(factor)
    return maps, peak


@njit(cache=True)
def _runs(top: NDArray[np.int16]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Runs ``starts[r]:starts[r + 1]``, ``low`` to ``high``, that hold all of each row of a map (rows, AZIMUTHS) but zeros.

    Zeros are added faster than a new run is begun: gaps shorter than `GAP` stay in.
    """
    rows = top.shape[0]
    starts = np.zeros(rows + 1, np.int64)
    most = rows * (AZIMUTHS // GAP + 1)
    low, high = np.empty(most, np.int32), np.empty(most, np.int32)
    n = 0
    for r in range(rows):
        last = -GAP - 2
        for a in range(AZIMUTHS):
            if top[r, a] == 0:
                continue
            if a - last > GAP:
                low[n] = a
                n += 1
            high[n - 1] = a + 1
            last = a
        starts[r + 1] = n
    return starts, low[:n].copy(), high[:n].copy()


@njit(cache=True)
def _add(total: NDArray[np.int16], line: NDArray[np.int16], low: int, high: int, shift: int) -> None:
    # Slices, so that the compiler sees that no index is negative, and adds sixteen at a time.
    to, what = total[low + shift : high + shift], line[low:high]
    for i in range(what.size):
        to[i] += what[i]


@njit(cache=True)
def _score(
    starts: NDArray[np.int64],
    row: NDArray[np.int32],
    shift: NDArray[np.int32],
    group: NDArray[np.int8],
    lost: NDArray[np.int16],
    maps: NDArray[np.int16],
    most: int,
) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.int64]]:
    """The best local maxima over azimuth of all directions: scores, directions, azimuth bins (each (<= most,)).

    ``lost`` (directions, COARSE) is taken off for what the sensor sees of a direction; scores are in the maps' units.
    """
    first, low, high = _runs(maps[0])
    # Sums over map columns minus azimuths: from -(AZIMUTHS - 1) on.
    total = np.zeros(2 * AZIMUTHS, np.int16)
    # More room than asked for: it is weeded when full, so that keeping one costs next to nothing.
    room = 8 * most
    score = np.full(room, -1e30)
    best, at = np.zeros(room, np.int64), np.zeros(room, np.int64)
    filled, floor = 0, -(2**15)
    every = AZIMUTHS // COARSE
    for n in range(starts.size - 1):
        total[:] = 0
        for s in range(starts[n], starts[n + 1]):
            line = maps[group[s], row[s]]
            for k in range(first[row[s]], first[row[s] + 1]):
                _add(total, line, low[k], high[k], AZIMUTHS - shift[s])
        here, wrapped = total[:AZIMUTHS], total[AZIMUTHS:]
        for a in range(AZIMUTHS):
            here[a] += wrapped[a]
        for k in range(COARSE):
            off = lost[n, k]
            part = here[k * every : (k + 1) * every]
            for a in range(every):
                part[a] -= off
        top = here[0]
        for a in range(AZIMUTHS):
            top = max(top, here[a])
        if top <= floor:
            continue
        for a in range(AZIMUTHS):
            value = here[a]
            if value <= floor:
                continue
            before = here[a - 1 if a > 0 else AZIMUTHS - 1]
            after = here[a + 1 if a < AZIMUTHS - 1 else 0]
            if value < before or value <= after:
                continue
            score[filled], best[filled], at[filled] = value, n, a
            filled += 1
            if filled == room:
                kept = np.argsort(-score)[:most]
                score[:most], best[:most], at[:most] = score[kept], best[kept], at[kept]
                filled, floor = most, int(score[most - 1])
    return score[:filled], best[:filled], at[:filled]


@njit(cache=True)
def _apart(
    best: NDArray[np.int64], at: NDArray[np.int64], orientation: FloatArray, nearest: float, most: int
) -> NDArray[np.int64]:
    """Indices of candidates, best first, that are farther than ``nearest`` radians from all better ones."""
    kept = np.empty(most, np.int64)
    matrices = np.empty((most, 9))
    n = 0
    limit = 1.0 + 2.0 * math.cos(nearest)
    for i in range(best.size):
        angle = at[i] * 2.0 * math.pi / AZIMUTHS
        c, s = math.cos(angle), math.sin(angle)
        u = orientation[best[i]]
        near = False
        flat = np.empty(9)
        for k in range(3):
            flat[k] = c * u[0, k] - s * u[1, k]
            flat[3 + k] = s * u[0, k] + c * u[1, k]
            flat[6 + k] = u[2, k]
        for j in range(n):
            trace = 0.0
            for k in range(9):
                trace += matrices[j, k] * flat[k]
            if trace > limit:
                near = True
                break
        if near:
            continue
        kept[n] = i
        matrices[n] = flat
        n += 1
        if n == most:
            break
    return kept[:n]
