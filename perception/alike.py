"""Crystals that a Laue pattern's positions cannot tell apart: the same directions of plane normals, whatever the size.

All cubic crystals are alike in this way, primitive or centred; others are if their axial ratios and angles agree up to small
whole numbers. Only brightnesses tell them apart, and what is missing. The orientation is the same for all of them.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from lauepilot.simulator.conventions import FloatArray, nearest_rotation
from lauepilot.simulator.crystal import Crystal, load_crystal, zoo_names

#: Lines nearer than this are one (degrees): what a strain of some 1e-3 may do.
NEAR_DEG = 0.15

#: Indices of the lines of one lattice that must be found in the other, and of those that they are looked for among.
SMALL, LARGE = 1, 3


def alike_in_zoo(crystal: Crystal) -> tuple[str, ...]:
    """Names of the built-in crystals (other than ``crystal``) whose spots can lie at the same places."""
    return tuple(
        name
        for name in zoo_names()
        if name != crystal.name and same_directions(crystal.b, load_crystal(name).b) is not None
    )


def same_directions(first: FloatArray, second: FloatArray, near_deg: float = NEAR_DEG) -> FloatArray | None:
    """Rotation (3, 3) that brings the plane normals of a lattice onto those of a second one; None if there is none.

    ``first`` and ``second`` are ``B`` (3, 3); sizes do not matter. All lines with indices up to `SMALL` must meet lines with
    indices up to `LARGE`, both ways.
    """
    small, large = lines(first, SMALL), lines(second, LARGE)
    close = np.cos(np.deg2rad(near_deg))
    inner = large @ large.T
    # A line has two senses: pairs at the angle or at its supplement. The rarest angle leaves the fewest turns to try.
    found = np.sort(np.abs(inner[np.triu_indices(len(large), 1)]))
    pairs = [(a, b) for a in range(len(small)) for b in range(a)]
    cosines = np.array([small[a] @ small[b] for a, b in pairs])
    slack = 2.0 * np.deg2rad(near_deg) * np.sqrt(1.0 - cosines**2) + 1e-5
    many = np.searchsorted(found, np.abs(cosines) + slack) - np.searchsorted(found, np.abs(cosines) - slack)
    rarest = int(np.argmin(many))
    if many[rarest] == 0:
        return None
    one, other = (small[k] for k in pairs[rarest])
    cosine = float(cosines[rarest])
    fits = np.argwhere(np.abs(np.abs(inner) - abs(cosine)) < slack[rarest])
    for i, k in fits:
        if i == k:
            continue
        sense = 1.0 if inner[i, k] * cosine >= 0.0 else -1.0
        for flip in (1.0, -1.0):
            there = np.stack(
                [large[i], flip * sense * large[k], np.cross(large[i], flip * sense * large[k])], axis=1
            )
            here = np.stack([one, flip * other, np.cross(one, flip * other)], axis=1)
            turn = nearest_rotation(there @ here.T)
            if (np.abs(small @ turn.T @ large.T).max(axis=1) > close).all() and (
                np.abs(lines(second, SMALL) @ turn @ lines(first, LARGE).T).max(axis=1) > close
            ).all():
                return turn
    return None


def lines(b: FloatArray, most: int) -> FloatArray:
    """Unit vectors (n, 3) of the plane normals with indices up to ``most``, one of each opposite pair, shortest first."""
    indices = [
        h for h in product(range(-most, most + 1), repeat=3) if h > (0, 0, 0) and np.gcd.reduce(h) == 1
    ]
    vectors = np.array(indices, dtype=float) @ b.T
    lengths = np.linalg.norm(vectors, axis=1)
    order = np.argsort(lengths, kind="stable")
    return np.asarray((vectors / lengths[:, None])[order])
