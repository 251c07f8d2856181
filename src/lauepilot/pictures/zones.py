"""Zones: the spots of all planes that share a direction [uvw] lie on one curve.

A plane of the zone has its normal ``g`` at right angles to the axis ``t``. It sends the beam ``k`` to ``k - 2 (g.k) g``,
whose component along ``t`` is that of ``k``: the reflected rays lie on the cone about ``t`` that holds the beam
(Cullity, Elements of X-Ray Diffraction, section 8-2), and the cone meets a flat detector in a conic.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import BEAM, FloatArray
from lauepilot.simulator.detector import Detector

#: Points on a cone: fine enough for a straight look at a picture of a thousand pixels.
_POINTS = 1440


@dataclass(frozen=True, eq=False)
class Zone:
    """A zone's curve on the detector.

    Attributes
    ----------
    uvw
        (3,) indices of its axis in the direct lattice.
    spots
        Explained spots on it.
    lines
        Pieces of the curve on the sensor, each (m, 2) pixels.
    """

    uvw: tuple[int, int, int]
    spots: int
    lines: tuple[FloatArray, ...]

    @property
    def label(self) -> str:
        """Its name, ``[1 -1 0]``."""
        return "[" + " ".join(str(i) for i in self.uvw) + "]"


def zone_lines(axis: ArrayLike, detector: Detector) -> tuple[FloatArray, ...]:
    """Pieces (m, 2) of the curve of a zone on the sensor, as pixels (col, row).

    ``axis`` (3,) is the zone's direction in the laboratory. An axis along the beam has no curve (its cone is the beam);
    an axis at right angles to it gives a straight line on a flat detector at right angles to the beam.

    Raises
    ------
    ValueError
        If the axis is zero.
    """
    t = np.asarray(axis, dtype=float)
    length = float(np.linalg.norm(t))
    if not length > 0.0:
        raise ValueError(f"A zone axis must be a direction (3,); {axis!r} came.")
    t = t / length
    along = (t @ BEAM) * t
    first = BEAM - along
    if np.linalg.norm(first) < 1e-6:
        return ()
    second = np.cross(t, first)
    phi = np.linspace(0.0, 2.0 * np.pi, _POINTS + 1)[:, None]
    pixels = detector.rays_to_pixels(along + np.cos(phi) * first + np.sin(phi) * second)
    rows, cols = detector.shape
    with np.errstate(invalid="ignore"):
        inside = np.all((pixels >= -0.5) & (pixels <= np.array([cols, rows]) - 0.5), axis=1)
        jump = np.linalg.norm(np.diff(pixels, axis=0), axis=1)  # where a cylinder's ends meet
    drawn = np.concatenate(
        [[0], ((inside[:-1] | inside[1:]) & (jump < 0.25 * max(rows, cols))).astype(int), [0]]
    )
    edges = np.flatnonzero(np.diff(drawn)).reshape(-1, 2)
    low, high = np.full(2, -0.5), np.array([cols, rows]) - 0.5
    return tuple(_cut(pixels[start : end + 1].copy(), low, high) for start, end in edges.tolist())


def _cut(line: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Draw the first and last point (2,) of a line back to the box, if they are outside."""
    for end, inner in ((0, 1), (-1, -2)):
        step = line[end] - line[inner]
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(step > 0.0, (high - line[inner]) / step, (low - line[inner]) / step)
        line[end] = line[inner] + min(1.0, float(np.nanmin(np.where(step == 0.0, 1.0, room)))) * step
    return line


def zone_axes(highest: int) -> NDArray[np.int64]:
    """Directions (n, 3) with indices up to ``highest``, one of each pair of opposites, no multiples."""
    every = np.array(list(itertools.product(range(-highest, highest + 1), repeat=3)))
    every = every[np.gcd.reduce(every, axis=1) == 1]
    first = np.take_along_axis(every, np.argmax(every != 0, axis=1)[:, None], axis=1)[:, 0]
    return np.asarray(every[first > 0], dtype=np.int64)


def strongest_zones(
    ub: ArrayLike, hkl: ArrayLike, detector: Detector, *, most: int = 10, highest: int = 3, fewest: int = 4
) -> tuple[Zone, ...]:
    """The zones that hold most of the explained spots.

    Parameters
    ----------
    ub
        (3, 3) with 2 pi, laboratory.
    hkl
        (n, 3) indices of the explained spots: a plane belongs to [uvw] if hu + kv + lw = 0 (Weiss).
    detector
        With the pose on which the spots were explained.
    most
        At most so many zones.
    highest
        Of the indices of an axis.
    fewest
        Spots that a zone must hold: any two planes share one.

    Returns
    -------
    zones
        Those with most spots first; of equal ones that with the shortest period.
    """
    direct = 2.0 * np.pi * np.linalg.inv(np.asarray(ub, dtype=float)).T
    axes = zone_axes(highest)
    planes = np.asarray(hkl, dtype=np.int64).reshape(-1, 3)
    members = np.count_nonzero(planes @ axes.T == 0, axis=0)
    period = np.linalg.norm(axes @ direct.T, axis=1)
    chosen: list[Zone] = []
    for k in np.lexsort((period, -members)):
        if members[k] < fewest or len(chosen) == most:
            break
        lines = zone_lines(direct @ axes[k], detector)
        if lines:
            u, v, w = (int(i) for i in axes[k])
            chosen.append(Zone((u, v, w), int(members[k]), lines))
    return tuple(chosen)
