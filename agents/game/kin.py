"""Lattices that explain most of the spots of another one, and are easily taken for it.

Most spots of a tetragonal lattice also lie on those about the same axis whose basal plane is 2, 5/2 or 5 times as densely or
as widely filled, turned as the squares demand; of a hexagonal lattice, 3, 4 or 7 times. Others change the axis: a
body-centred tetragonal lattice with c/a near the root of 6 has a sublattice that is nearly hexagonal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lauepilot.perception.unknown.lattice import CENTRINGS, FAMILIES, primitive
from lauepilot.perception.unknown.reduce import conventional, relatives
from lauepilot.perception.unknown.settle import (
    FINE,
    LAST,
    LETTERS,
    Batch,
    best_of,
    direct_basis,
    joined,
    pack,
    refined,
)
from lauepilot.perception.unknown.sky import Sky
from lauepilot.simulator.conventions import axis_rotation

#: Lattices whose relatives are tried, and rounds of it.
PARENTS, ROUNDS = 3, 2
#: Multiples of c.
ALONG = (0.5, 1.0, 2.0)


def _squares() -> Iterator[tuple[float, float]]:
    """Areas of square cells over a square cell's, and turns."""
    own, fifth = 0.25 * math.pi, math.atan(0.5)
    for k in range(-3, 4):
        yield 2.0**k, k * own
    for k in range(-3, 2):
        for sign in (-1.0, 1.0):
            yield 5.0 * 2.0**k, k * own + sign * fifth
            yield 1.0 / (5.0 * 2.0**k), k * own + sign * fifth


def _hexagons() -> Iterator[tuple[float, float]]:
    """The same of hexagonal nets."""
    own, seventh = math.pi / 6.0, math.atan(math.sqrt(3.0) / 5.0)
    for k in (-1, 0, 1):
        for j in (0.25, 1.0, 4.0):
            yield j * 3.0**k, k * own
        for sign in (-1.0, 1.0):
            yield 7.0 * 3.0**k, k * own + sign * seventh
            yield 1.0 / (7.0 * 3.0**k), k * own + sign * seventh


def _relatives(batch: Batch, k: int) -> Batch:
    """All of one."""
    family = FAMILIES[int(batch.family[k])]
    nets = list(_squares() if family == "tetragonal" else _hexagons())
    rows = [(area, turn, c, m) for area, turn in nets for c in ALONG for m in CENTRINGS[family]]
    n = len(rows)
    x = np.zeros((n, 5))
    x[:, 0] = batch.x[k, 0] + [math.log(c) - 0.5 * math.log(area) for area, _, c, _ in rows]
    turns = {turn: axis_rotation((0, 0, 1), turn) for _, turn in nets}
    return Batch(
        u=np.stack([batch.u[k] @ turns[turn] for _, turn, _, _ in rows]),
        family=np.full(n, batch.family[k]),
        centring=np.array([LETTERS.index(m) for *_, m in rows], dtype=np.int64),
        x=x,
        log_d=np.full(n, batch.log_d[k]),
        score=np.zeros(n),
        used=np.zeros(n, dtype=np.int64),
        pose=np.zeros((n, 4)),
    )


def with_strangers(batch: Batch, sky: Sky, families: Sequence[str], most: int) -> Batch:
    """Finalists with the best's sub- and superlattices of index 2 and 3, whatever their axis."""
    if len(batch) == 0:
        return batch
    basis = direct_basis(batch, 0) @ primitive(LETTERS[int(batch.centring[0])])
    distance = float(np.exp(batch.log_d[0]))
    alike = [p for m in relatives() for p in conventional(basis @ m, distance) if p.family in families]
    near = best_of(refined(pack(alike), sky, FINE[:3]), most)
    return best_of(joined(batch, refined(near, sky, np.concatenate([FINE[2:], LAST]))), most)


def with_kin(batch: Batch, sky: Sky, most: int) -> Batch:
    """Finalists, best first, with the relatives of the best that are tetragonal or hexagonal."""
    uniaxial = (FAMILIES.index("tetragonal"), FAMILIES.index("hexagonal"))
    for _ in range(ROUNDS):
        if len(batch) == 0:
            break
        before = float(batch.merit[0])
        found = batch
        for k in [k for k in range(len(batch)) if batch.family[k] in uniaxial][:PARENTS]:
            near = best_of(refined(_relatives(batch, k), sky, FINE[2:3]), most)
            found = joined(found, refined(near, sky, LAST))
        batch = best_of(found, most)
        if float(batch.merit[0]) < before + 1.0:
            break
    return batch
