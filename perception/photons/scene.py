"""What the compiled loops of the photon likelihood are handed: the scene, the photons, the view of an orientation.

Parameters are numbered: 0..2 rotation vector (laboratory, of ``exp(w) u``), 3..7 pose (`GEOMETRY_PARAMETERS`), 8 logarithm
of the point spread in pixels, 9 logit of the share of signal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.kernels import PackedDetector
from lauepilot.simulator.render import Blur

#: Pixels along an edge of the cells by which photons are found.
CELL = 16

#: Number of the parameters (see the module's text), and of those that change the spots.
PARAMETERS, SHAPE_PARAMETERS = 10, 9


class Scene(NamedTuple):
    """What makes spots: rays (n, 3) with rates (n, nodes), the believed detector, blur, profile; and the live pixels.

    ``visible`` (rows + 2 pad, cols + 2 pad) is the share of a usual spot at each pixel that falls on live ones. With
    ``precise`` it only tells which spots are clipped; their share is summed over the ``live`` pixels (rows, cols).
    ``widest`` bounds the variance (pixels squared) that beam and sample add to the point spread anywhere on the sensor.
    Slopes after the detector's pose are made with ``pose_free`` only.
    """

    directions: FloatArray
    rate: NDArray[np.float32]
    s_min: float
    s_step: float
    detector: PackedDetector
    polarisation: float
    blur: Blur
    halo: float
    width: float
    visible: NDArray[np.float32]
    pad: int
    live: NDArray[np.bool_]
    precise: bool
    widest: float
    pose_free: bool


class Photons(NamedTuple):
    """Pixels with photons, sorted by cells of `CELL` pixels: place, photons, and share ``b`` of the background (each (n,)).

    ``starts`` (cells + 1,), ``across`` cells in a row of them, ``total`` photons on all live pixels, those not listed too.
    """

    col: FloatArray
    row: FloatArray
    amount: FloatArray
    base: FloatArray
    starts: NDArray[np.int64]
    across: int
    down: int
    total: float


class Work(NamedTuple):
    """Scratch space of `spread`: density (n,), slopes (n, 9), curvature (n, 6), touched photons (n,)."""

    density: FloatArray
    slope: FloatArray
    curve: FloatArray
    touched: NDArray[np.int64]


def workspace(n: int) -> Work:
    """Scratch space for ``n`` pixels."""
    return Work(
        np.zeros(n), np.zeros((n, SHAPE_PARAMETERS)), np.zeros((n, 6)), np.zeros(max(n, 1), dtype=np.int64)
    )


class View(NamedTuple):
    """A frame seen by an orientation: what makes spots, where photons are, the numbers of the rays that count, scratch."""

    scene: Scene
    photons: Photons
    rays: NDArray[np.int64]
    work: Work
