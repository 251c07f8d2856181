"""Which axis positions tell most of a goniometer: chosen one by one from many, each for what it adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import qmc

from lauepilot.perception.instrument_fit_model import Chain
from lauepilot.simulator.conventions import FloatArray, random_rotation
from lauepilot.simulator.goniometer import Goniometer

#: Positions looked at, how well axes are known before (rad), and the error of one frame's orientation (rad).
_POOL, _BEFORE, _FRAME = 600, np.deg2rad(10.0), np.deg2rad(0.02)

#: A rotation without practical limits needs no more than one turn.
_TURN_DEG = 180.0


def choose_positions(
    goniometer: Goniometer,
    n: int,
    *,
    margin: Mapping[str, float] | None = None,
    allowed: Callable[[Mapping[str, float]], bool] | None = None,
) -> list[dict[str, float]]:
    """Positions of the rotation axes, degrees, from which the directions of all of them can be told.

    Each is the one of several hundred (evenly spread, within the limits) that adds most to the information on directions
    and crystal: the determinant of the information matrix grows most (D-optimal, greedy; Fedorov 1972).

    Parameters
    ----------
    goniometer
        As drawn.
    n
        How many.
    margin
        How far to stay away from the lower limits, degrees, by axis.
    allowed
        Says of a position whether it may be gone to at all (collisions); None: everything within the limits.

    Raises
    ------
    ValueError
        If there is no rotation axis, n is below 3, or too few positions are allowed.
    """
    chain = Chain(goniometer)
    if not chain.names or n < 3:
        raise ValueError(
            f"Positions can be chosen for one rotation axis at least, and 3 at least; "
            f"{len(chain.names)} axes and n = {n} came."
        )
    spare = margin or {}
    low = np.array([max(a.limits[0] + spare.get(a.name, 0.0), -_TURN_DEG) for a in goniometer.rotations])
    high = np.array([min(a.limits[1], _TURN_DEG) for a in goniometer.rotations])
    # Limits far from zero: a full turn from the lower one on.
    high = np.where(low < high, high, np.array([a.limits[1] for a in goniometer.rotations]))
    if np.any(low >= high):
        raise ValueError(
            f"The limits of {goniometer.names} leave no room of {dict(spare)} deg to approach from."
        )
    points = qmc.Halton(len(chain.names), scramble=False).random(_POOL + 1)[1:]
    resolution = np.array([a.resolution for a in goniometer.rotations])
    table = np.round((low + points * (high - low)) / resolution) * resolution
    pool = [dict(zip(chain.names, (float(x) for x in row), strict=True)) for row in np.clip(table, low, high)]
    if allowed is not None:
        pool = [p for p in pool if allowed(p)]
    if len(pool) < n:
        raise ValueError(
            f"Of {_POOL} positions within the limits only {len(pool)} are allowed; {n} are needed. "
            "Give positions=[...] by hand, or clear what is in the way."
        )
    # The crystal's orientation only turns the last three parameters among themselves.
    slopes = chain.slopes(
        np.zeros((len(chain.names), 2)), random_rotation(np.random.default_rng(0)), chain.angles(pool)
    )
    return [pool[i] for i in _greedy(slopes / _FRAME, n)]


def in_short_order(
    goniometer: Goniometer,
    positions: Sequence[Mapping[str, float]],
    start: Mapping[str, float],
    clear: Callable[[Mapping[str, float], Mapping[str, float]], bool] | None = None,
) -> list[dict[str, float]]:
    """The same positions, each followed by the one of those left that is reached soonest.

    ``clear`` says whether the way from one setting of all axes to another is free; what is never reached on a free way is
    left out.
    """
    left, here, out = [dict(p) for p in positions], dict(start), list[dict[str, float]]()
    while left:
        times = [
            goniometer.move_time_s(here, p) if clear is None or clear(here, {**here, **p}) else np.inf
            for p in left
        ]
        nearest = int(np.argmin(times))
        if not np.isfinite(times[nearest]):
            break
        out.append(left.pop(nearest))
        here = {**here, **out[-1]}
    return out


def _greedy(slopes: FloatArray, n: int) -> list[int]:
    """Rows (3, p) of ``slopes`` that raise the determinant of the information most, one after the other."""
    information = np.eye(slopes.shape[2]) / _BEFORE**2
    free = np.ones(len(slopes), dtype=bool)
    chosen: list[int] = []
    for _ in range(n):
        inner = np.eye(3) + slopes @ np.linalg.inv(information) @ slopes.transpose(0, 2, 1)
        gain = np.where(free, np.linalg.slogdet(inner)[1], -np.inf)
        best = int(np.argmax(gain))
        free[best] = False
        chosen.append(best)
        information = information + slopes[best].T @ slopes[best]
    return chosen
