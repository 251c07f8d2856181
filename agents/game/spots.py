"""Spots of the game's pictures: all alike, so that a fit of their places alone tells them to a hundredth of a pixel."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.envs.game.rules import BLUR_PX, CENTRE_PX, DISC, HOLE, SIDE
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray

#: A spot's shape is nearly a Gaussian of this variance (px^2): blur, pixel and disc; and its sum in bytes.
VARIANCE = BLUR_PX**2 + 1.0 / 12.0 + 0.25 * (DISC * SIDE) ** 2
TOTAL = 255.0 * math.pi * (DISC * SIDE) ** 2
#: Share of a spot's peak that a maximum, or what is left, needs to count as one.
LEAST = 0.4
#: Share of each neighbour that is taken off before maxima are looked for.
SHARP = 0.5
#: Sweeps of the fit, searches in what is left, largest step, pixels that a spot reaches.
SWEEPS, ROUNDS, LARGEST, REACH = 8, 3, 0.7, 4
#: Pixels (of 0.1 mm) of a spot's error that perception is told: of one alone, and of one that is cut or crowded.
SIGMA_PX, CUT_SIGMA_PX = 0.2, 0.6
MOST = 256
FINE = 1000.0 / SIDE


@njit(cache=True)
def _add(picture: FloatArray, col: float, row: float, sign: float) -> None:
    """Add a spot's model, or take it out."""
    peak = sign * TOTAL / (2.0 * math.pi * VARIANCE)
    c, r = round(col), round(row)
    for i in range(max(r - REACH, 0), min(r + REACH, SIDE - 1) + 1):
        for j in range(max(c - REACH, 0), min(c + REACH, SIDE - 1) + 1):
            d2 = (i - row) ** 2 + (j - col) ** 2
            picture[i, j] += peak * math.exp(-0.5 * d2 / VARIANCE)


@njit(cache=True)
def _seen(i: int, j: int) -> bool:
    """Whether a pixel lies on the film, outside its hole."""
    if i < 0 or j < 0 or i >= SIDE or j >= SIDE:
        return False
    return (i - CENTRE_PX) ** 2 + (j - CENTRE_PX) ** 2 >= (HOLE * SIDE) ** 2


@njit(cache=True)
def _improve(rest: FloatArray, place: FloatArray) -> float:
    """A Gauss-Newton step of one spot's place, whose model is taken out of ``rest`` meanwhile; its information."""
    col, row = place[0], place[1]
    _add(rest, col, row, 1.0)
    peak = TOTAL / (2.0 * math.pi * VARIANCE)
    a = b = d = x = y = 0.0
    c, r = round(col), round(row)
    for i in range(r - 3, r + 4):
        for j in range(c - 3, c + 4):
            if not _seen(i, j):
                continue
            dx, dy = j - col, i - row
            value = peak * math.exp(-0.5 * (dx * dx + dy * dy) / VARIANCE)
            gx, gy = value * dx / VARIANCE, value * dy / VARIANCE
            left = rest[i, j] - value
            a += gx * gx
            b += gx * gy
            d += gy * gy
            x += gx * left
            y += gy * left
    full = peak * peak * math.pi / 2.0  # of a spot that is seen whole
    det = a * d - b * b
    if det > 1e-3 * full * full:
        sx, sy = (d * x - b * y) / det, (a * y - b * x) / det
        size = math.sqrt(sx * sx + sy * sy)
        if size > LARGEST:
            sx, sy = sx * LARGEST / size, sy * LARGEST / size
        place[0] = min(max(col + sx, -1.0), SIDE + 0.0)
        place[1] = min(max(row + sy, -1.0), SIDE + 0.0)
    _add(rest, place[0], place[1], -1.0)
    return math.sqrt(max(det, 0.0)) / full


@njit(cache=True)
def _sharpened(rest: FloatArray, sharp: FloatArray) -> None:
    """Each pixel less what its neighbours have: spots that touch come apart."""
    for i in range(SIDE):
        for j in range(SIDE):
            up = rest[i - 1, j] if i > 0 else rest[i, j]
            down = rest[i + 1, j] if i < SIDE - 1 else rest[i, j]
            left = rest[i, j - 1] if j > 0 else rest[i, j]
            right = rest[i, j + 1] if j < SIDE - 1 else rest[i, j]
            sharp[i, j] = (1.0 + 4.0 * SHARP) * rest[i, j] - SHARP * (up + down + left + right)


@njit(cache=True)
def fit(image: NDArray[np.uint8], places: FloatArray, quality: FloatArray) -> int:
    """Places (col, row) and information (1: a spot alone and whole) of all spots of a picture (h, w); their number."""
    rest = image.astype(np.float64)
    sharp = np.empty((SIDE, SIDE))
    # Of a spot on the middle of a pixel.
    gain = 1.0 + 4.0 * SHARP * (1.0 - math.exp(-0.5 / VARIANCE))
    least = LEAST * gain * TOTAL / (2.0 * math.pi * VARIANCE)
    n = 0
    for _ in range(ROUNDS):
        before = n
        _sharpened(rest, sharp)
        for i in range(SIDE):
            for j in range(SIDE):
                value = sharp[i, j]
                if value < least or n >= MOST:
                    continue
                top = True
                for di in range(-1, 2):
                    for dj in range(-1, 2):
                        # Of equal neighbours the first is taken.
                        if (di or dj) and 0 <= i + di < SIDE and 0 <= j + dj < SIDE:
                            other = sharp[i + di, j + dj]
                            if other > value or (other == value and (di < 0 or (di == 0 and dj < 0))):
                                top = False
                if top:
                    places[n, 0], places[n, 1] = float(j), float(i)
                    n += 1
        for k in range(before, n):
            _add(rest, places[k, 0], places[k, 1], -1.0)
        if n == before:
            break
        for _ in range(SWEEPS):
            for k in range(n):
                quality[k] = _improve(rest, places[k])
    return n


def find(image: NDArray[np.uint8]) -> SpotList:
    """Spots of a picture (84, 84) or (84, 84, 1), in pixels of `lauepilot.envs.game.rules.film`.

    All count alike. Those that the hole or the film's edge cuts in two have larger errors; those whose middle they
    hide are left out.

    Raises
    ------
    ValueError
        If the picture has another shape or type.
    """
    picture = np.asarray(image)
    if picture.size != SIDE * SIDE or picture.dtype != np.uint8:
        raise ValueError(
            f"A picture is ({SIDE}, {SIDE}, 1) of uint8; {picture.shape} of {picture.dtype} came."
        )
    places, quality = np.zeros((MOST, 2)), np.zeros(MOST)
    n = fit(np.ascontiguousarray(picture.reshape(SIDE, SIDE)), places, quality)
    places, quality = places[:n], quality[:n]
    keep = (np.abs(places - CENTRE_PX) <= 0.5 * SIDE).all(axis=1)
    keep &= ((places - CENTRE_PX) ** 2).sum(axis=1) >= (HOLE * SIDE) ** 2
    places, quality = places[keep], quality[keep]
    sigma = np.where(quality > 0.8, SIGMA_PX, CUT_SIGMA_PX)
    count = len(places)
    return SpotList(
        FINE * (places + 0.5) - 0.5,
        np.eye(2) * (sigma**2)[:, None, None],
        np.full(count, 1e4),
        np.full(count, 1e2),
        np.zeros(count, dtype=np.bool_),
    )
