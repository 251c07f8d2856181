"""The picture of a crystal: the strongest spots that keep their distance, as blurred discs of one brightness."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.envs.game.orbits import HALF, PLACES
from lauepilot.envs.game.rules import APART, CENTRE_PX, FILM_MM, HOLE, PIXEL_MM, SIDE
from lauepilot.envs.game.state import CANDIDATES, FALSE, LEAST_COS, LOST, NODES, Games, Stage, b_of, draw
from lauepilot.simulator.conventions import FloatArray


@njit(cache=True, fastmath=True)
def candidates(s: Stage, g: Games, i: int, out: FloatArray) -> int:
    """Spots of game ``i`` on the film, rows x (mm), y (mm), rate into ``out``; their number.

    Orbits are gone through from the brightest on until there are several times more than are wanted.
    """
    b, m = np.empty((3, 3)), np.empty((3, 3))
    b_of(g.family[i], g.cell[i, 0], g.cell[i, 1], s.lauerl, b)
    u = g.u[i]
    for r in range(3):
        for c in range(3):
            m[r, c] = u[r, 0] * b[0, c] + u[r, 1] * b[1, c] + u[r, 2] * b[2, c]
    distance = g.distance[i]
    edge = 0.5 * FILM_MM
    # The smallest cosine whose ray meets a corner of the film.
    corner = math.sqrt(2.0) * edge / distance
    least = math.cos(0.5 * math.atan(corner)) ** 2
    first = s.begin[g.family[i]]
    enough = min(5 * g.wanted[i] + 40, CANDIDATES)
    n = 0
    for t in range(g.used[i]):
        if n >= enough:
            break
        o = g.order[i, t]
        q2 = g.q[i, o] ** 2
        for k in range(s.orbits[first + o, 4], s.orbits[first + o, 5]):
            h0, h1, h2 = float(s.members[k, 0]), float(s.members[k, 1]), float(s.members[k, 2])
            z = m[2, 0] * h0 + m[2, 1] * h1 + m[2, 2] * h2
            cosine2 = z * z / q2
            if cosine2 < least:
                continue
            x = m[0, 0] * h0 + m[0, 1] * h1 + m[0, 2] * h2
            y = m[1, 0] * h0 + m[1, 1] * h1 + m[1, 2] * h2
            # k_out = z - 2 (n z) n, with n against the beam; the film lies at -distance.
            scale = distance / (2.0 * cosine2 - 1.0) * (-2.0 * z / q2)
            px, py = scale * x, scale * y
            if abs(px) > edge or abs(py) > edge or n >= CANDIDATES:
                continue
            cosine = math.sqrt(cosine2)
            at = (cosine - LEAST_COS) / (1.0 - LEAST_COS) * (NODES - 1)
            node = min(max(int(at), 0), NODES - 2)
            left = at - node
            rate = (1.0 - left) * g.rates[i, o, node] + left * g.rates[i, o, node + 1]
            if rate <= 0.0:
                continue
            out[n, 0], out[n, 1], out[n, 2] = px, py, rate
            n += 1
    return n


@njit(cache=True)
def choose(g: Games, i: int, rows: FloatArray, n: int, spots: FloatArray) -> int:
    """The strongest spots (x, y in mm) that are far enough from each stronger one."""
    order = np.argsort(-rows[:n, 2])
    apart2 = (APART * FILM_MM) ** 2
    found = 0
    for t in range(n):
        x, y = rows[order[t], 0], rows[order[t], 1]
        free = True
        for k in range(found):
            dx, dy = spots[k, 0] - x, spots[k, 1] - y
            if dx * dx + dy * dy <= apart2:
                free = False
                break
        if free:
            spots[found, 0], spots[found, 1] = x, y
            found += 1
            if found >= g.wanted[i]:
                break
    return found


@njit(cache=True)
def spoil(s: Stage, g: Games, i: int, spots: FloatArray, found: int) -> int:
    """Take spots out at random, and put others in anywhere: new ones in each picture."""
    lost = round(s.numbers[LOST] * found)
    false = round(s.numbers[FALSE] * found)
    for _ in range(lost):
        k = int(draw(g, i) * found)
        found -= 1
        spots[k, 0], spots[k, 1] = spots[found, 0], spots[found, 1]
    for _ in range(false):
        spots[found, 0] = (draw(g, i) - 0.5) * FILM_MM
        spots[found, 1] = (draw(g, i) - 0.5) * FILM_MM
        found += 1
    return found


@njit(cache=True, fastmath=True)
def render(stamps: NDArray[np.float32], spots: FloatArray, n: int, work: NDArray[np.float32]) -> None:
    """Add spots (x, y in mm) to an empty picture."""
    work[:] = np.float32(0.0)
    for k in range(n):
        col, row = CENTRE_PX + spots[k, 0] / PIXEL_MM, CENTRE_PX - spots[k, 1] / PIXEL_MM
        c, r = math.floor(col + 0.5), math.floor(row + 0.5)
        j, i = int((col + 0.5 - c) * PLACES), int((row + 0.5 - r) * PLACES)
        stamp = stamps[i, j]
        for dr in range(max(-HALF, -r), min(HALF, SIDE - 1 - r) + 1):
            for dc in range(max(-HALF, -c), min(HALF, SIDE - 1 - c) + 1):
                work[r + dr, c + dc] += stamp[dr + HALF, dc + HALF]


@njit(cache=True)
def expose(
    s: Stage, g: Games, i: int, rows: FloatArray, spots: FloatArray, work: NDArray[np.float32]
) -> None:
    """Take the picture of game ``i``; the others are scratch."""
    found = choose(g, i, rows, candidates(s, g, i, rows), spots)
    found = spoil(s, g, i, spots, found)
    render(s.stamps, spots, found, work)
    hole2 = (HOLE * SIDE) ** 2
    image = g.image[i]
    for r in range(SIDE):
        for c in range(SIDE):
            if (r - CENTRE_PX) ** 2 + (c - CENTRE_PX) ** 2 < hole2:
                image[r, c, 0] = 0
            else:
                image[r, c, 0] = np.uint8(
                    min(work[r, c], np.float32(1.0)) * np.float32(255.0) + np.float32(0.5)
                )
