"""Axes of the game's crystals from the spots of one picture or several, by `lauepilot.perception.unknown`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lauepilot.agents.game.kin import with_kin, with_strangers
from lauepilot.envs.game.rules import DISTANCE_MM, NAMES, film
from lauepilot.perception.observation import SpotList
from lauepilot.perception.unknown.axes import find_axes
from lauepilot.perception.unknown.hough import proposals_of_axis
from lauepilot.perception.unknown.lattice import FAMILIES
from lauepilot.perception.unknown.settle import (
    COARSE,
    FINE,
    LAST,
    SURVIVORS,
    Batch,
    best_of,
    joined,
    narrow,
    pack,
    refined,
    stands_out,
)
from lauepilot.perception.unknown.sky import Frames, Sky, build_sky
from lauepilot.simulator.conventions import FloatArray

#: Distances of the film that are tried: the rules' and a little.
REACH_MM = (DISTANCE_MM[0] - 1.0, DISTANCE_MM[1] + 1.0)
#: Axes looked at at most, after which of them the best are settled, peaks of the vote taken from each.
AXES, LOOKS, PEAKS = 16, (1, 2, 4, 7, 11, 16), 3
#: Lattices that are kept from picture to picture.
KEPT = 12
#: Fewer spots never tell.
LEAST_SPOTS = 8


@dataclass(frozen=True, eq=False)
class Guess:
    """Lattices that the pictures so far allow, best first.

    Attributes
    ----------
    batch
        The lattices, in the frame of the crystal at the first picture.
    nats
        What the best explains beyond chance, for each spot.
    """

    batch: Batch
    nats: float

    @classmethod
    def none(cls) -> Guess:
        """No idea."""
        return cls(pack([]), 0.0)

    @property
    def found(self) -> bool:
        """Whether there is any."""
        return len(self.batch) > 0

    def family(self, k: int = 0) -> str:
        """Name of a lattice's family."""
        return FAMILIES[int(self.batch.family[k])]

    def axes(self, k: int = 0) -> FloatArray:
        """Directions (m, 3), at the first picture, of which one is to look along the beam."""
        u = self.batch.u[k]
        return np.asarray(u.T if self.family(k) == "cubic" else u.T[2:])


def allowed(batch: Batch, families: Sequence[str]) -> Batch:
    """Those of some families."""
    known = [FAMILIES.index(name) for name in families]
    return batch.take(np.flatnonzero(np.isin(batch.family, known)))


def sky_of(frames: Frames) -> Sky | None:
    """The spots of all pictures in one frame; None if there are too few."""
    if sum(len(spots) for spots, _ in frames) < LEAST_SPOTS:
        return None
    return build_sky([f for f in frames if len(f[0])], film(), REACH_MM)


def search(sky: Sky, enough: float, families: Sequence[str] = NAMES) -> Batch:
    """Lattices from symmetry axes, one after the other until one explains ``enough`` nats a spot; best first.

    Lattices that nearly share axes with the right one explain much as well (c/a near the root of 6 looks hexagonal): the
    search ends only when a further look, and the relatives of the best, bring nothing better, or when nearly all spots are
    explained.
    """
    finalists, pool, before = pack([]), pack([]), -np.inf
    axes = find_axes(sky, AXES)
    for number, axis in enumerate(axes, start=1):
        fresh = []
        for node, direction in zip(axis.nodes, axis.directions, strict=True):
            fresh += proposals_of_axis(sky, int(node), direction, PEAKS)
        fresh = [p for p in fresh if p.family in families]
        pool = joined(pool, best_of(refined(pack(fresh), sky, COARSE), SURVIVORS))
        if number in LOOKS or number == len(axes):
            settled = allowed(narrow(best_of(pool, SURVIVORS), sky), families)
            finalists = best_of(joined(finalists, settled), KEPT)
            pool = pack([])
            if not stands_out(finalists, sky):
                finalists = allowed(with_kin(finalists, sky, KEPT), families)
            clear = nats(finalists, sky) >= enough and float(finalists.merit[0]) < before + 1.0
            if clear or stands_out(finalists, sky):
                break
            before = float(finalists.merit[0]) if len(finalists) else -np.inf
    return with_kin(with_strangers(finalists, sky, families, KEPT), sky, KEPT)


def follow(batch: Batch, sky: Sky) -> Batch:
    """Lattices refined on all pictures so far, best first."""
    if len(batch) == 0:
        return batch
    return best_of(refined(batch, sky, np.concatenate([FINE, LAST])), KEPT)


def nats(batch: Batch, sky: Sky) -> float:
    """What the best of some lattices explains beyond chance, for each spot."""
    return float(batch.merit[0]) / len(sky) if len(batch) else 0.0


def not_met(batch: Batch, z: FloatArray, within_deg: float) -> Batch:
    """Lattices none of whose axes looks along the beam, at a turn (3, 3) since the first picture."""
    guess = Guess(batch, 0.0)
    least = np.cos(np.deg2rad(within_deg))
    away = [k for k in range(len(batch)) if np.abs(guess.axes(k) @ z[2]).max() < least]
    return batch.take(np.array(away, dtype=np.intp))


def frames_of(
    spots: Sequence[SpotList], turns: Sequence[FloatArray]
) -> list[tuple[SpotList, NDArray[np.float64]]]:
    """Pictures with the turns (3, 3) at which they were taken."""
    return [(s, np.asarray(z)) for s, z in zip(spots, turns, strict=True)]
