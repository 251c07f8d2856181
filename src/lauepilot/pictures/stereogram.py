"""Stereograms: directions of the crystal as seen along the beam.

The projection is the stereographic one of the half sphere that faces the source: its centre is the direction against the
beam, +x lies to the right and +y up, so that the normal of a reflecting plane stands on the side on which its spot lies. An
axis has two ends, and one of them always lies on that half sphere. Angles are kept; the rim holds the directions at right
angles to the beam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import BEAM, FloatArray, rotation_angle, rotation_vector
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.kinematics import chain_matrices, unit_directions

#: Radius of a two-dimensional normal distribution's 95 % ellipse, standard deviations: sqrt(-2 ln 0.05).
ELLIPSE_95 = float(np.sqrt(-2.0 * np.log(0.05)))

#: Markers by the order of an axis: as in the International Tables a lens, triangle, square and hexagon; a dot for others.
MARKERS = {1: "o", 2: "d", 3: "^", 4: "s", 6: "h"}


@dataclass(frozen=True, eq=False)
class CrystalAxis:
    """An axis of the crystal.

    Attributes
    ----------
    direction
        (3,) unit vector in the crystal's Cartesian frame.
    label
        Its indices, ``[1 1 0]``.
    order
        2, 3, 4 or 6 for rotation axes, 1 for others.
    """

    direction: FloatArray
    label: str
    order: int


@dataclass(frozen=True, eq=False)
class Reached:
    """Directions that a goniometer can bring along the beam, as cells of a square grid over the stereogram.

    Attributes
    ----------
    cells
        (n, n) whether a cell is reached; [i, j] covers y from -1 + 2 i / n, x from -1 + 2 j / n.
    """

    cells: NDArray[np.bool_]

    def runs(self) -> list[tuple[float, float, float]]:
        """Rows of touching cells as (y of their lower edge, x from, x to)."""
        n = len(self.cells)
        out = []
        for i, row in enumerate(self.cells):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
            out += [
                (2.0 * i / n - 1.0, 2.0 * a / n - 1.0, 2.0 * b / n - 1.0)
                for a, b in edges.reshape(-1, 2).tolist()
            ]
        return out


def project(directions: ArrayLike, *, axes: bool = True) -> FloatArray:
    """Stereographic coordinates (..., 2) of directions (..., 3); with ``axes`` the end that faces the source is taken.

    >>> project([[1, 0, 0], [0, 3, -4]]).round(6).tolist()
    [[1.0, 0.0], [0.0, 0.333333]]
    """
    d = np.asarray(directions, dtype=float)
    d = d / np.linalg.norm(d, axis=-1, keepdims=True)
    if axes:
        d = np.where(d[..., 2:] > 1e-9, -d, d)
    return np.asarray(d[..., :2] / np.maximum(1.0 - d[..., 2:], 1e-9))


def crystal_axes(b: ArrayLike, symmetry: ArrayLike) -> tuple[CrystalAxis, ...]:
    """The rotation axes of a crystal, highest order first, and those of a, b, c that are none.

    Parameters
    ----------
    b
        ``B`` (3, 3) with 2 pi.
    symmetry
        (n, 3, 3) proper rotations, as `Crystal.symmetry`.
    """
    reciprocal = np.asarray(b, dtype=float)
    turns = np.asarray(symmetry, dtype=float)
    found: list[tuple[FloatArray, int]] = []
    for turn in turns[rotation_angle(turns) > 1e-6]:
        v = rotation_vector(turn)
        v = v / np.linalg.norm(v)
        if not any(abs(v @ other) > 1.0 - 1e-6 for other, _ in found):
            order = int(np.count_nonzero(np.linalg.norm(turns @ v - v, axis=1) < 1e-6))
            found.append((v, order))
    direct = np.linalg.inv(reciprocal).T
    for column in (direct / np.linalg.norm(direct, axis=0)).T:
        if not any(abs(column @ other) > 1.0 - 1e-6 for other, _ in found):
            found.append((column, 1))
    found.sort(key=lambda item: -item[1])
    return tuple(CrystalAxis(v, _indices(reciprocal.T @ v), order) for v, order in found)


def _indices(uvw: FloatArray) -> str:
    """``[u v w]`` of a direction given by its components along a, b, c, the first index that is not 0 positive."""
    scaled = uvw / np.abs(uvw).max()
    for n in range(1, 13):
        whole = np.rint(n * scaled)
        if np.abs(n * scaled - whole).max() < 0.02 * n**0.5:
            break
    if whole[np.flatnonzero(whole)[0]] < 0:
        whole = -whole
    return "[" + " ".join(str(int(i)) for i in whole) + "]"


def error_ellipse(direction: ArrayLike, covariance: ArrayLike, magnification: float = 1.0) -> FloatArray:
    """Outline (73, 2) of the 95 % region of a direction, in stereographic coordinates.

    Parameters
    ----------
    direction
        (3,) laboratory.
    covariance
        (3, 3) of the orientation's rotation vector ``w``, laboratory, radians squared: the direction moves by
        ``w x direction``, and a turn about itself does not move it.
    magnification
        By so much the ellipse is drawn larger.
    """
    d = np.asarray(direction, dtype=float)
    d = d / np.linalg.norm(d)
    d = -d if d[2] > 1e-9 else d
    cross = np.array([[0.0, d[2], -d[1]], [-d[2], 0.0, d[0]], [d[1], -d[0], 0.0]])  # w x d = cross @ w
    values, vectors = np.linalg.eigh(cross @ np.asarray(covariance, dtype=float) @ cross.T)
    half = np.minimum(magnification * ELLIPSE_95 * np.sqrt(np.maximum(values[1:], 0.0)), np.deg2rad(60.0))
    phi = np.linspace(0.0, 2.0 * np.pi, 73)[:, None]
    offset = np.cos(phi) * half[0] * vectors[:, 1] + np.sin(phi) * half[1] * vectors[:, 2]
    offset -= (offset @ d)[:, None] * d  # the null vector of the covariance may not be d exactly
    size = np.linalg.norm(offset, axis=1, keepdims=True)
    return project(d * np.cos(size) + offset * np.sinc(size / np.pi), axes=False)


def reached_directions(goniometer: Goniometer, positions: Mapping[str, float], cells: int = 60) -> Reached:
    """Directions, as they lie now, either end of which the goniometer can bring along the beam within its limits.

    Parameters
    ----------
    goniometer
        Its rotation axes are scanned on a grid.
    positions
        Where the axes stand, degrees; axes not named stand at 0 or at their nearest limit.
    cells
        Of the grid over the stereogram, each way.
    """
    from scipy import ndimage

    axes = goniometer.rotations
    mask = np.zeros((cells, cells), dtype=bool)
    points = {0: 1, 1: 1441, 2: 181}.get(len(axes), 37)
    ranges = [np.deg2rad(np.linspace(axis.limits[0], axis.limits[1], points)) for axis in axes]
    grid = (
        np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(axes)) if axes else np.zeros((1, 0))
    )
    rest = {a.name: min(max(0.0, a.limits[0]), a.limits[1]) for a in goniometer.axes}
    now = goniometer.matrix(rest | {k: float(v) for k, v in positions.items() if k in rest})
    holder = np.swapaxes(chain_matrices(unit_directions(axes), grid), -1, -2) @ BEAM
    where = project(holder @ now.T)
    index = np.clip(np.floor((where + 1.0) * cells / 2.0).astype(int), 0, cells - 1)
    mask[index[:, 1], index[:, 0]] = True
    if len(axes) > 1:  # between the points of the scan
        mask = ndimage.binary_closing(np.pad(mask, 3), iterations=3)[3:-3, 3:-3]
    centre = (np.arange(cells) + 0.5) * 2.0 / cells - 1.0
    return Reached(mask & (centre[:, None] ** 2 + centre**2 <= 1.0))


def wulff_net(step_deg: float = 30.0) -> list[FloatArray]:
    """Lines (m, 2) of a Wulff net: great circles through the poles at +y and -y, and small circles about them."""
    t = np.linspace(-np.pi / 2.0, np.pi / 2.0, 61)
    lines = []
    for angle in np.deg2rad(np.arange(-90.0 + step_deg, 90.0, step_deg)):
        meridian = [np.sin(angle) * np.cos(t), np.sin(t), -np.cos(angle) * np.cos(t)]
        parallel = [np.sin(t) * np.cos(angle), np.full_like(t, np.sin(angle)), -np.cos(t) * np.cos(angle)]
        lines += [project(np.stack(line, axis=-1), axes=False) for line in (meridian, parallel)]
    return lines


def stereogram(
    ax: Any,
    directions: ArrayLike,
    labels: Sequence[str] = (),
    *,
    orders: Sequence[int] = (),
    covariance: ArrayLike | None = None,
    magnification: float = 1.0,
    colour: str = "#0072b2",
    net: bool = True,
    filled: bool = True,
    name: str = "",
) -> None:
    """Draw axes of one orientation into a matplotlib axes; call again on the same axes for further orientations.

    Parameters
    ----------
    ax
        Matplotlib axes.
    directions
        (n, 3) laboratory; of each the end that faces the source is drawn.
    labels
        Texts, one each, or none at all.
    orders
        Orders of rotation axes, for the shape of the marks; dots if left out.
    covariance
        (3, 3) of the orientation's rotation vector; draws 95 % ellipses, ``magnification`` times as large.
    magnification
        See ``covariance``; to be stated beside the picture.
    colour
        Of marks and ellipses.
    net
        Draw rim and Wulff net: wanted once.
    filled
        Filled marks, or outlines (for alternatives).
    name
        For the legend.
    """
    if net:
        ring = np.linspace(0.0, 2.0 * np.pi, 181)
        ax.plot(np.cos(ring), np.sin(ring), color="#555555", linewidth=1.0, zorder=1)
        for line in wulff_net():
            ax.plot(*line.T, color="#dddddd", linewidth=0.6, zorder=0.5)
        ax.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12))
        ax.set_aspect("equal")
        ax.set_axis_off()
    d = np.asarray(directions, dtype=float).reshape(-1, 3)
    points = project(d)
    kinds = np.array(list(orders) or [1] * len(d))
    for order in np.unique(kinds):
        ax.scatter(
            *points[kinds == order].T, s=44 if order > 1 else 14, marker=MARKERS.get(int(order), "o"), linewidths=1.2,
            facecolors=colour if filled else "none", edgecolors=colour, zorder=3,
        )  # fmt: skip
    if name:
        ax.plot([], [], "s", color=colour, markerfacecolor=colour if filled else "none", label=name)
    if covariance is not None:
        for direction in d:
            ax.plot(
                *error_ellipse(direction, covariance, magnification).T, color=colour, linewidth=0.8, zorder=2
            )
    for point, label in zip(points, labels, strict=False):
        ax.annotate(label, point, xytext=(4, 4), textcoords="offset points", fontsize=6.5, zorder=4)
