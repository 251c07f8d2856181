"""What the same photons would give by chance: their clumps strewn over the detector.

A crystal other than the one that is looked for leaves clumps of photons too, and of a hundred thousand orientations one
explains some of them. How many, is what the same clumps tell when each lies in another's place: an answer that does no
better than that is no answer. (A permutation test; Fisher 1935.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Photons within so many pixels of each other are a clump; a clump lands within so many pixels of another's place.
REACH_PX, JITTER_PX = 3, 30.0

#: Share of the live pixels that may hold a photon: with more, everything is one clump.
SPARSE = 4e-3

#: Trials to find a place on live pixels for each clump.
TRIALS = 50


def sparse(counts: NDArray[np.number], live: NDArray[np.bool_]) -> bool:
    """Whether photons (rows, cols) are so few that clumps can be told apart."""
    return int(np.count_nonzero(counts[live] > 0)) <= SPARSE * int(live.sum())


def strewn(
    counts: NDArray[np.number], live: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.number]:
    """The same clumps of photons, each near the place of another.

    Places are exchanged rather than drawn, so that the background keeps its shape.

    Parameters
    ----------
    counts
        Photons (rows, cols).
    live
        (rows, cols), True where a pixel counts; no clump is put elsewhere.
    rng
        Of the draw.

    Returns
    -------
    Photons (rows, cols). A clump for which no place is found is left out.
    """
    where = np.where(live, counts, 0)
    reach = ndimage.binary_dilation(where > 0, structure=np.ones((3, 3)), iterations=REACH_PX)
    labels, n = ndimage.label(reach, structure=np.ones((3, 3)))
    out = np.zeros_like(where)
    if n == 0:
        return out
    at = np.stack(np.nonzero(where), axis=1)
    photons = where[at[:, 0], at[:, 1]]
    clump = labels[at[:, 0], at[:, 1]] - 1
    weight = np.bincount(clump, weights=photons, minlength=n)
    middle = np.stack(
        [np.bincount(clump, weights=photons * at[:, k], minlength=n) / weight for k in range(2)], axis=1
    )
    homeless = np.ones(n, dtype=bool)
    for _ in range(TRIALS):
        place = middle[rng.permutation(n)] + rng.uniform(-JITTER_PX, JITTER_PX, (n, 2))
        to = np.rint(at - middle[clump] + place[clump]).astype(int)
        inside = ((to >= 0) & (to < where.shape)).all(axis=1)
        inside[inside] = live[to[inside, 0], to[inside, 1]]
        settles = homeless & (np.bincount(clump, weights=~inside, minlength=n) == 0)
        now = settles[clump]
        np.add.at(out, (to[now, 0], to[now, 1]), photons[now])
        homeless &= ~settles
        if not homeless.any():
            break
    return out
