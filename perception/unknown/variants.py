"""Lattices that share axes with a found one: other settings, centrings, sub- and superlattices, higher families."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lauepilot.perception.unknown.lattice import FAMILIES
from lauepilot.simulator.conventions import FloatArray, rotation_between, rotation_matrix

if TYPE_CHECKING:
    from lauepilot.perception.unknown.settle import Batch

CUBIC, HEXAGONAL, TETRAGONAL, TRIGONAL, ORTHORHOMBIC, MONOCLINIC, TRICLINIC = range(len(FAMILIES))
P, I, F, R = 0, 1, 2, 6
#: ln(c/a) nearer to a cubic lattice's than this: it may be one.
NEAR_CUBIC = 0.015
#: c/a beyond these is not believed: a very long axis makes zones so dense with directions that they explain anything.
LOWEST, HIGHEST = math.log(0.2), math.log(8.0)
MULTIPLES = (1.0, 0.5, 2.0, 1.0 / 3.0, 3.0, 2.0 / 3.0, 1.5)
#: c/a of cubic lattices in rhombohedral setting: P, I, F (International Tables A, 1.5).
RHOMBOHEDRAL_CUBIC = ((P, math.sqrt(1.5)), (I, math.sqrt(3.0 / 8.0)), (F, math.sqrt(6.0)))


def variants(batch: Batch) -> Batch:
    """All related lattices of all members, themselves included."""
    rows: list[tuple[FloatArray, int, int, FloatArray, float]] = []
    for u, family, centring, x, log_d in zip(
        batch.u, batch.family, batch.centring, batch.x, batch.log_d, strict=True
    ):
        related = _of_one(u, int(family), int(centring), x)
        rows += [(a, b, c, d, float(log_d)) for a, b, c, d in related]
    return type(batch)(
        u=np.array([r[0] for r in rows]).reshape(-1, 3, 3),
        family=np.array([r[1] for r in rows], dtype=np.int64),
        centring=np.array([r[2] for r in rows], dtype=np.int64),
        x=np.array([r[3] for r in rows]).reshape(-1, 5),
        log_d=np.array([r[4] for r in rows]),
        score=np.zeros(len(rows)),
        used=np.zeros(len(rows), dtype=np.int64),
        pose=np.zeros((len(rows), 4)),
    )


def _of_one(
    u: FloatArray, family: int, centring: int, x: FloatArray
) -> list[tuple[FloatArray, int, int, FloatArray]]:
    out: list[tuple[FloatArray, int, int, FloatArray]] = []

    def add(turned: FloatArray, kind: int, letter: int, ratio: float | None = None) -> None:
        new = np.zeros(5)
        if ratio is not None:
            if not LOWEST < ratio < HIGHEST:
                return
            new[0] = ratio
        out.append((turned, kind, letter, new))

    if family == CUBIC:
        for letter in (P, I, F):
            add(u, CUBIC, letter)
    elif family == TETRAGONAL:
        for angle, shift in ((0.0, 0.0), (math.pi / 4, -0.5 * math.log(2.0))):
            turned = u @ rotation_matrix([0.0, 0.0, angle])
            for multiple in MULTIPLES:
                ratio = float(x[0]) + shift + math.log(multiple)
                for letter in (P, I):
                    add(turned, TETRAGONAL, letter, ratio)
                if abs(ratio) < NEAR_CUBIC:
                    for letter in (P, I, F):
                        add(turned, CUBIC, letter)
    elif family in (HEXAGONAL, TRIGONAL):
        for angle, shift in ((0.0, 0.0), (math.pi / 6, -0.5 * math.log(3.0))):
            turned = u @ rotation_matrix([0.0, 0.0, angle])
            for multiple in MULTIPLES:
                ratio = float(x[0]) + shift + math.log(multiple)
                add(turned, HEXAGONAL, P, ratio)
                for twin in (0.0, math.pi / 3):
                    twinned = turned @ rotation_matrix([0.0, 0.0, twin])
                    add(twinned, TRIGONAL, R, ratio)
                    for letter, cubic in RHOMBOHEDRAL_CUBIC:
                        if abs(ratio - math.log(cubic)) < NEAR_CUBIC:
                            add(twinned @ _CUBIC_IN_HEXAGONAL, CUBIC, letter)
    else:
        out.append((u, family, centring, x.copy()))
    return out


def _cubic_in_hexagonal() -> FloatArray:
    """Turns cubic axes into the frame of rhombohedral axes (obverse): [111] along c, [-101] = a_hex's mate b* ..."""
    along = rotation_between([1.0, 1.0, 1.0], [0.0, 0.0, 1.0])
    # In the obverse setting b_hex = [0 1 -1] and lies along y.
    b_axis = along @ np.array([0.0, 1.0, -1.0])
    angle = math.pi / 2 - math.atan2(b_axis[1], b_axis[0])
    return np.asarray(rotation_matrix([0.0, 0.0, angle]) @ along)


_CUBIC_IN_HEXAGONAL = _cubic_in_hexagonal()
