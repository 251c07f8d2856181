"""Reachability: where the motors have to go for a target, or why they cannot, and how near they can come.

Wanted is ``Z U S = L``: the goniometer ``Z`` times the holder's orientation ``U`` equals the laboratory orientation
``L`` of the target for any of the crystal's symmetry operations ``S``. All equivalents, all settings of the axes and,
for a target without a secondary direction, the free turn about the primary are compared by the time of the move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import FloatArray, rotation_between, rotation_vector
from lauepilot.simulator.goniometer import Axis, Goniometer, ReachError
from lauepilot.simulator.kinematics import (
    FULL_TURN_DEG,
    about,
    angle_about,
    chain_matrices,
    checked_rotation,
    unit_directions,
)
from lauepilot.simulator.target import Lattice, Target

#: Radians by which an exact setting may miss the target.
EXACT = 1e-9
_TIE = 1e-6  # radians: settings that miss by as much but for this are equally near
_TURNS = np.deg2rad(np.arange(0.0, 360.0, 5.0))
_BLOCKED = 12  # settings without a way to them, after which no further one is tried
_REFINED = 6  # candidates of the coarse scan of the free turn that are followed up
_ZOOM = np.linspace(-1.0, 1.0, 9)
_NO_LIMIT = (-np.inf, np.inf)


@dataclass(frozen=True, eq=False)
class Reach:
    """A setting of the axes for a target.

    Attributes
    ----------
    positions
        Degrees, of every rotation axis.
    move_time_s
        Seconds of the move from the present positions, the slowest axis with its settling.
    u_lab
        Laboratory orientation (3, 3) ``Z U`` there: one of the wanted ones, in the indexing of the ``U`` given.
    turn
        Turn about the primary direction (radians) that was chosen, as in `Target.laboratory_u`; 0 with a secondary.
    error_rad
        Angle by which the target is missed: below 1e-9 unless a tolerance was given.
    """

    positions: dict[str, float]
    move_time_s: float
    u_lab: FloatArray
    turn: float
    error_rad: float


class OutOfReachError(ReachError):
    """A target that no setting of the axes within their limits fulfils.

    Attributes
    ----------
    nearest
        The setting that comes nearest, over all symmetry equivalents; ``nearest.error_rad`` is its distance.
    axis
        The axis whose limit is in the way; empty if the axes could not do it even without limits.
    limit
        That limit, degrees; NaN if there is none.
    excess
        Degrees by which the best exact setting passes the limit; NaN if there is none.
    """

    def __init__(self, message: str, nearest: Reach, axis: str, limit: float, excess: float) -> None:
        super().__init__(message)
        self.nearest = nearest
        self.axis = axis
        self.limit = limit
        self.excess = excess


@dataclass(frozen=True, eq=False)
class _Scored:
    """Rows of settings: equivalent's index (r,), positions (r, k) and worst excess (r,) in degrees, cost (r,)."""

    index: NDArray[np.intp]
    positions: FloatArray
    beyond: FloatArray
    cost: FloatArray


@dataclass(frozen=True, eq=False)
class _Problem:
    """A target written out for one crystal in one holder on one goniometer."""

    goniometer: Goniometer
    u: FloatArray
    symmetry: FloatArray
    target: Target
    wanted: FloatArray
    primary: FloatArray
    along: FloatArray
    current: FloatArray

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.goniometer.rotations

    def settings(self, index: NDArray[np.intp], turns: FloatArray) -> _Scored:
        """Settings for equivalents (n,) at turns (n,) radians about the primary direction."""
        held, axes = np.deg2rad(self.current), self.axes
        z = about(self.along, turns) @ (self.wanted @ np.swapaxes(self.u @ self.symmetry[index], -1, -2))
        if self.target.secondary is None and len(axes) < 3:
            # The free turn is an axis of its own, unlimited and without cost: R(-turn) Z = L S^T U^T.
            free = Axis("", "rotation", (self.along[0], self.along[1], self.along[2]), _NO_LIMIT, np.inf, 0.0)
            row, angles = Goniometer((free, *axes)).settings(z, np.concatenate([[0.0], held]))
        else:
            row, angles = self.goniometer.settings(z, held)
        return self._score(index[row], np.rad2deg(angles[:, angles.shape[1] - len(axes) :]))

    def _score(self, index: NDArray[np.intp], positions: FloatArray) -> _Scored:
        """Choose for each axis the image by full turns inside the limits (or least outside) that is nearest to here."""
        low, high = np.array([axis.limits for axis in self.axes]).reshape(-1, 2).T
        first = np.ceil((low - positions - 1e-9) / FULL_TURN_DEG)
        last = np.floor((high - positions + 1e-9) / FULL_TURN_DEG)
        near = np.clip(np.round((self.current - positions) / FULL_TURN_DEG), first, last)
        # Without an image inside, first = last + 1: one lies above the limits, one below.
        above, below = positions + FULL_TURN_DEG * first, positions + FULL_TURN_DEG * last
        outside = np.where(above - high < low - below, above, below)
        placed = np.where(first <= last, positions + FULL_TURN_DEG * near, outside)
        beyond = np.maximum(np.maximum(placed - high, low - placed), 0.0)
        placed = np.where(beyond < 1e-8, np.clip(placed, low, high), placed)
        placed = np.where(np.abs(placed - self.current) < 1e-9, self.current, placed)
        worst = np.max(np.where(beyond < 1e-8, 0.0, beyond), axis=1, initial=0.0)
        speed = np.array([axis.speed for axis in self.axes])
        settle = np.array([axis.settle_s for axis in self.axes])
        travel = np.abs(placed - self.current)
        cost = np.max(np.where(travel > 0.0, travel / speed + settle, 0.0), axis=1, initial=0.0)
        return _Scored(index, placed, worst, cost + 1e6 * worst)

    def best(self) -> _Scored:
        """Settings, the best first."""
        every = np.arange(len(self.symmetry))
        if self.target.secondary is not None or len(self.axes) < 3:
            return _sorted(self.settings(every, np.zeros(len(every))))
        return self.best_turn(self.distinct())

    def distinct(self) -> NDArray[np.intp]:
        """Equivalents that differ in the primary direction: the others differ by a turn about it, which is free."""
        directions = np.round(self.symmetry @ self.primary, 6) + 0.0
        return np.asarray(np.sort(np.unique(directions, axis=0, return_index=True)[1]))

    def best_turn(self, every: NDArray[np.intp]) -> _Scored:
        """Scan the free turn, then narrow down about the best: the cost is continuous, but has kinks."""
        z = chain_matrices(unit_directions(self.axes), np.deg2rad(self.current))
        here = [z @ self.u @ self.symmetry[i] for i in every]
        shortest = np.array(
            [rotation_between(u @ self.primary, self.along) @ u @ self.wanted.T for u in here]
        )
        straight = angle_about(self.along, shortest)  # the turn of the smallest rotation from here
        index = np.concatenate([np.repeat(every, len(_TURNS)), every])
        turns = np.concatenate([np.tile(_TURNS, len(every)), straight])
        found = _sorted(self.settings(index, turns))
        step = float(_TURNS[1])
        for _ in range(6):
            lead, centres = self._leaders(found)
            if len(lead) == 0:
                return found
            turns = (centres[:, None] + step * _ZOOM).ravel()
            finer = self.settings(np.repeat(lead, len(_ZOOM)), turns)
            found = _sorted(_joined(found, finer, 4 * _REFINED))
            step *= 0.3
        return found

    def _leaders(self, found: _Scored) -> tuple[NDArray[np.intp], FloatArray]:
        """The best rows' equivalents and turns (radians)."""
        index = found.index[:_REFINED]
        return index, self.turn(index, found.positions[:_REFINED])

    def turn(self, index: NDArray[np.intp], positions: FloatArray) -> FloatArray:
        """Turn about the primary direction (r,) at positions (r, k) in degrees."""
        z = chain_matrices(unit_directions(self.axes), np.deg2rad(positions))
        return angle_about(self.along, z @ self.u @ self.symmetry[index] @ self.wanted.T)

    def miss(self, z: FloatArray, index: int) -> FloatArray:
        """Rotation vector (3,) from ``z`` to what equivalent ``index`` wants."""
        u = z @ self.u @ self.symmetry[index]
        turn = self.wanted @ u.T if self.target.secondary else rotation_between(u @ self.primary, self.along)
        return rotation_vector(turn)

    def nearest(self) -> tuple[float, int, FloatArray]:
        """Least angle to the target within the limits, its equivalent and positions (k,) in degrees.

        Of settings as near as each other (a plane's two sides, full turns) it is the one soonest there.
        """
        directions, grid = unit_directions(self.axes), self.goniometer.grid()
        every = self.distinct() if self.target.secondary is None else np.arange(len(self.symmetry))
        holder = self.u @ self.symmetry[every]
        z = chain_matrices(directions, grid)
        if self.target.secondary:
            closeness = np.einsum("gab,nab->gn", z, self.wanted @ np.swapaxes(holder, -1, -2))
        else:
            closeness = (z.transpose(0, 2, 1) @ self.along) @ (holder @ self.primary).T
        found: list[tuple[float, int, FloatArray]] = []
        for column in np.argsort(-closeness.max(axis=0), kind="stable")[:4]:
            index = int(every[column])
            start = grid[int(np.argmax(closeness[:, column]))]
            start = self.goniometer.refine(start, partial(self.miss, index=index))
            angle = float(np.linalg.norm(self.miss(chain_matrices(directions, start), index)))
            found.append((angle, index, np.rad2deg(start)))
        least = min(angle for angle, _, _ in found)
        ties = [item for item in found if item[0] <= least + _TIE]
        placed = self._score(np.array([i for _, i, _ in ties]), np.stack([p for _, _, p in ties]))
        soonest = int(np.argmin(placed.cost))
        return ties[soonest][0], ties[soonest][1], placed.positions[soonest]

    def passable(self, rows: _Scored) -> Iterator[tuple[int, FloatArray]]:
        """Rows within the limits to which the stage finds its way from here."""
        here = {axis.name: float(p) for axis, p in zip(self.axes, self.current, strict=True)}
        blocked = 0
        for index, positions, beyond in zip(rows.index, rows.positions, rows.beyond, strict=True):
            if beyond != 0.0 or blocked >= _BLOCKED:
                continue
            try:
                self.goniometer.check_move(here, dict(zip(here, map(float, positions), strict=True)))
            except ReachError:
                blocked += 1
            else:
                yield int(index), positions

    def result(self, index: int, positions: FloatArray) -> Reach:
        """The setting as a `Reach`."""
        settings = {axis.name: float(p) for axis, p in zip(self.axes, positions, strict=True)}
        here = {axis.name: float(p) for axis, p in zip(self.axes, self.current, strict=True)}
        z = chain_matrices(unit_directions(self.axes), np.deg2rad(positions))
        turn = 0.0
        if self.target.secondary is None:
            turn = float(self.turn(np.array([index]), positions[None])[0])
        error = float(np.linalg.norm(self.miss(z, index)))
        return Reach(settings, self.goniometer.move_time_s(here, settings), z @ self.u, turn, error)


def reach(
    goniometer: Goniometer,
    u_holder: ArrayLike,
    target: Target,
    crystal: Lattice,
    current: Mapping[str, float],
    *,
    tolerance_deg: float = 0.0,
) -> Reach:
    """The shortest move that brings the crystal to the target, within the limits of the axes.

    Parameters
    ----------
    goniometer
        Up to three rotation axes, or a stage that knows its own settings (an arm); translations are left where they are.
    u_holder
        ``U`` (3, 3): the crystal in the frame of the sample holder.
    target
        What is wanted.
    crystal
        Its ``B`` and proper symmetry rotations.
    current
        Present positions, degrees; axes not named stand at 0.
    tolerance_deg
        Angle by which the target may be missed where no setting fulfils it exactly (fewer than three axes).

    Raises
    ------
    OutOfReachError
        A `ReachError` that says which axis and limit are in the way, by how much, and the nearest setting
        (``.nearest``).
    ValueError
        If ``u_holder`` is not a rotation, or there are more than three rotation axes.
    """
    problem = _problem(goniometer, u_holder, target, crystal, current)
    found = problem.best()
    for index, positions in problem.passable(found):
        exact = problem.result(index, positions)
        if exact.error_rad <= EXACT:
            return exact
        break
    angle, index, positions = problem.nearest()
    nearest = problem.result(index, positions)
    one = _Scored(np.array([index]), positions[None], np.zeros(1), np.zeros(1))
    if angle <= max(EXACT, np.deg2rad(tolerance_deg)) and any(problem.passable(one)):
        return nearest
    raise _refusal(problem, found, nearest)


def all_ways(
    goniometer: Goniometer,
    u_holder: ArrayLike,
    target: Target,
    crystal: Lattice,
    current: Mapping[str, float],
) -> list[tuple[FloatArray, Reach]]:
    """Every way to fulfil a target exactly within the limits, the soonest first; arguments as of `reach`.

    Returns
    -------
    Pairs of the symmetry operation ``S`` (3, 3) that was used, ``Z U S = L``, and the setting. For a target with a free
    turn on three axes there is one way, the shortest, for each equivalent of the primary direction; else all
    settings of the axes are listed. Empty if there is none.
    """
    problem = _problem(goniometer, u_holder, target, crystal, current)
    single = target.secondary is None and len(problem.axes) >= 3
    if single:
        rows = [problem.best_turn(np.array([i])) for i in problem.distinct()]
    else:
        every = problem.distinct() if target.secondary is None else np.arange(len(problem.symmetry))
        rows = [problem.settings(every, np.zeros(len(every)))]
    found: list[tuple[FloatArray, Reach]] = []
    for part in rows:
        for index, positions in problem.passable(part):
            setting = problem.result(index, positions)
            same = (np.allclose(list(r.positions.values()), positions, atol=1e-6) for _, r in found)
            if setting.error_rad <= EXACT and not any(same):
                found.append((problem.symmetry[index], setting))
            if single:
                break
    return sorted(found, key=lambda way: way[1].move_time_s)


def _problem(
    goniometer: Goniometer,
    u_holder: ArrayLike,
    target: Target,
    crystal: Lattice,
    current: Mapping[str, float],
) -> _Problem:
    return _Problem(
        goniometer,
        checked_rotation(u_holder, "The crystal's U in the sample holder"),
        np.asarray(crystal.symmetry, dtype=float),
        target,
        target.laboratory_u(crystal.b),
        target.primary.in_crystal(crystal.b),
        target.primary.in_laboratory(),
        np.array([float(current.get(axis.name, 0.0)) for axis in goniometer.rotations]),
    )


def _refusal(problem: _Problem, found: _Scored, nearest: Reach) -> OutOfReachError:
    names = ", ".join(axis.name for axis in problem.axes) or "(none)"
    place = ", ".join(f"{name} {value:.3f}" for name, value in nearest.positions.items())
    hint = (
        f"The nearest reachable orientation (symmetry counted) is {np.rad2deg(nearest.error_rad):.3f} deg off, "
        f"at {place or 'rest'} deg. Remount the crystal, choose another target, or accept that one."
    )
    if problem.goniometer.obstacles:
        why = (
            f"The target cannot be reached: no setting of {names} that this stage can take, and go to from where it stands, "
            "gives it. "
        )
        return OutOfReachError(why + hint, nearest, "", float("nan"), float("nan"))
    if len(found.cost) == 0:
        why = f"The target cannot be reached: no setting of the rotation axes ({names}) gives it, limits or not. "
        return OutOfReachError(why + hint, nearest, "", float("nan"), float("nan"))
    low, high = np.array([axis.limits for axis in problem.axes]).T
    row = found.positions[0]
    worst = int(np.argmax(np.maximum(row - high, low - row)))
    axis, upper = problem.axes[worst], row[worst] > high[worst]
    limit = float(high[worst] if upper else low[worst])
    excess = float(abs(row[worst] - limit))
    why = (
        f"The target cannot be reached: the best exact setting needs axis {axis.name!r} at {row[worst]:.3f} deg, "
        f"{excess:.3f} deg beyond its {'upper' if upper else 'lower'} limit of {limit:g} deg. "
    )
    return OutOfReachError(why + hint, nearest, axis.name, limit, excess)


def _sorted(rows: _Scored) -> _Scored:
    order = np.argsort(rows.cost, kind="stable")
    return _Scored(rows.index[order], rows.positions[order], rows.beyond[order], rows.cost[order])


def _joined(a: _Scored, b: _Scored, keep: int) -> _Scored:
    """The first ``keep`` rows of ``a``, and all of ``b``."""
    return _Scored(
        np.concatenate([a.index[:keep], b.index]),
        np.concatenate([a.positions[:keep], b.positions]),
        np.concatenate([a.beyond[:keep], b.beyond]),
        np.concatenate([a.cost[:keep], b.cost]),
    )
