"""Spots of one or several frames as plane normals in the sample holder's frame, for every distance of the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lauepilot.perception.indexing.sphere import pixel_area, pixel_normals, solid_angle
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector

#: Step of ln distance: half of it turns normals at the edge of a film by 0.14 degrees at most.
STEP = 0.02

#: Tilt (rad) by which slopes are taken.
SMALL = 1e-5

#: Strongest spots of a frame that take part.
MOST_SPOTS = 130

#: Distances tried, relative to the instrument's, if nothing is told.
REACH = (0.7, 1.6)

Frames = Sequence[tuple[SpotList, FloatArray]]


class UnknownLatticeError(ValueError):
    """Spots that cannot be used at all."""


@dataclass(frozen=True, eq=False)
class Sky:
    """Plane normals on a ladder of distances.

    Attributes
    ----------
    nodes
        (k,) ln of the distance in mm, evenly spaced.
    normals
        (k, n, 3) in the sample holder's frame.
    slopes
        (k, n, 4, 3) their derivative by the centre's column and row, per pixel, and by the detector's tilts about the
        laboratory's x and y, per rad (as `Detector.moved` has them).
    sigma2
        (n,) variance of a normal per direction, rad^2.
    frame
        (n,) which frame a spot is from.
    area
        Solid angle of normals that all frames see together, in steradian.
    px_rad
        Angle of a normal per pixel, on average.
    """

    nodes: FloatArray
    normals: FloatArray
    slopes: FloatArray
    sigma2: FloatArray
    frame: NDArray[np.int64]
    area: float
    px_rad: float

    def __len__(self) -> int:
        return len(self.sigma2)


def with_distance(
    detector: Detector, distance_mm: float, centre: tuple[float, float] = (0.0, 0.0)
) -> Detector:
    """A detector at another distance, its centre shifted by (col, row) pixels."""
    col, row = detector.centre_px
    return replace(detector, distance_mm=distance_mm, centre_px=(col + centre[0], row + centre[1]))


def build_sky(frames: Frames, detector: Detector, distance_mm: tuple[float, float] | None = None) -> Sky:
    """Lay out the spots of frames, taken at goniometer rotations Z (3, 3), for distances from ... to.

    Raises
    ------
    UnknownLatticeError
        If there are no spots, a rotation is none, or the distances make no sense.
    """
    if len(frames) == 0 or sum(len(spots) for spots, _ in frames) == 0:
        raise UnknownLatticeError("No spots came. Give at least one frame with ten spots or more.")
    low, high = distance_mm or (REACH[0] * detector.distance_mm, REACH[1] * detector.distance_mm)
    if not 0.0 < low <= high < np.inf:
        raise UnknownLatticeError(f"distance_mm must be (lowest, highest), positive; {(low, high)} came.")
    number = max(2, int(np.ceil(np.log(high / low) / STEP)) + 1)
    nodes = np.log(low) + max(np.log(high / low) / (number - 1), 1e-6) * np.arange(number)
    middle = with_distance(detector, float(np.exp(nodes.mean())))
    half = 0.5 * np.eye(2)
    blocks = []
    for index, (spots, z) in enumerate(frames):
        turn = np.asarray(z, dtype=float)
        rotation = turn.shape == (3, 3) and np.abs(turn @ turn.T - np.eye(3)).max() <= 1e-6
        if not (rotation and np.linalg.det(turn) > 0.0):  # NaN is none either
            raise UnknownLatticeError(
                f"Each frame comes with the goniometer's rotation Z, a (3, 3) rotation matrix (no mirror); {turn} came."
            )
        order = np.argsort(-spots.counts, kind="stable")[:MOST_SPOTS]
        part = spots.take(order)
        if not (np.isfinite(part.pixels).all() and np.isfinite(part.covariance_px2).all()):
            raise UnknownLatticeError(
                "Spot positions and their errors must be numbers; NaN or infinite ones came."
            )
        normals, slopes = [], []
        for node in nodes:
            here = with_distance(detector, float(np.exp(node)))
            n = pixel_normals(part.pixels, here)
            col = pixel_normals(part.pixels - half[0], here) - pixel_normals(part.pixels + half[0], here)
            row = pixel_normals(part.pixels - half[1], here) - pixel_normals(part.pixels + half[1], here)
            normals.append(n @ turn)
            tilts = [
                (pixel_normals(part.pixels, here.moved(tilt_x_rad=x, tilt_y_rad=y)) - n) / SMALL
                for x, y in ((SMALL, 0.0), (0.0, SMALL))
            ]
            slopes.append(np.stack([slope @ turn for slope in (col, row, *tilts)], axis=1))
        spread = np.maximum(np.trace(part.covariance_px2, axis1=1, axis2=2) / 2.0, 0.04)
        area = pixel_area(part.pixels, middle)
        blocks.append((np.stack(normals), np.stack(slopes), spread * area, np.full(len(part), index), area))
    return Sky(
        nodes=nodes,
        normals=np.ascontiguousarray(np.concatenate([b[0] for b in blocks], axis=1)),
        slopes=np.ascontiguousarray(np.concatenate([b[1] for b in blocks], axis=1)),
        sigma2=np.concatenate([b[2] for b in blocks]),
        frame=np.concatenate([b[3] for b in blocks]),
        area=solid_angle(middle) * len(frames),
        px_rad=float(np.sqrt(np.mean(np.concatenate([b[4] for b in blocks])))),
    )
