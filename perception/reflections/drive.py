"""A search on the twin without Bluesky: for benchmarks, environments and trials. The plan `build_ub` does the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lauepilot.perception.reflections.looking import Path
from lauepilot.perception.reflections.search import UbAnswer, UbSearch
from lauepilot.perception.reflections.zeros import RefinedUb
from lauepilot.simulator.conventions import FloatArray, rotation_angle
from lauepilot.simulator.fourcircle import FourCircle, as_positions, ready_after
from lauepilot.simulator.fourcircle_twin import DetectorKind, FourCircleTwin, Sweep


def ready(instrument: FourCircle, here: dict[str, float], path: Path) -> Iterator[dict[str, float]]:
    """Moves to the beginning of a path so that every axis comes from below, its play always on one side."""
    start = as_positions(path.points_deg[0])
    before = {
        name: ready_after(instrument.motors.axis(name), here[name], goal) for name, goal in start.items()
    }
    first = {name: place for name, place in before.items() if place is not None}
    if first:
        yield first
    yield start


def fly(twin: FourCircleTwin, path: Path, search: UbSearch) -> Sweep:
    """Measure on a path."""
    return fly_path(twin, path, search.kind)


def fly_path(twin: FourCircleTwin, path: Path, detector: DetectorKind) -> Sweep:
    """Measure on a path with one of the detectors."""
    for goal in ready(twin.instrument, twin.positions, path):
        twin.move(goal)
    return twin.sweep(path.points_deg, path.seconds, detector=detector, aperture=path.aperture)


def drive(search: UbSearch, twin: FourCircleTwin) -> UbAnswer:
    """Let a search have its way on a twin; its answer."""
    thinking = search.think()
    path = next(thinking)
    while True:
        try:
            path = thinking.send(fly(twin, path, search))
        except StopIteration as end:
            answer: UbAnswer = end.value
            return answer


def worst_miss_deg(
    ub: RefinedUb, twin: FourCircleTwin, rng: np.random.Generator, n: int = 10, crystallite: int = 0
) -> float:
    """How far, at worst, ``n`` reflections drawn at random are from being excited where ``ub`` sends the motors, degrees.

    The referee. Indices are compared up to the crystal's symmetry; only reflections that the instrument reaches are drawn.
    ``crystallite`` 1 is the second of the twin's.
    """
    crystal, u = twin.crystal, ub.result.orientation.u
    turns = np.einsum("ij,njk,lk->nil", twin.crystallites[crystallite], crystal.symmetry, u)
    same = crystal.symmetry[int(np.argmin(rotation_angle(turns)))]
    relabel: FloatArray = np.linalg.solve(crystal.b, same @ crystal.b)
    missed: list[float] = []
    for hkl in twin.hkl[rng.permutation(len(twin.hkl))]:
        angles = ub.motor_angles(hkl, twin.instrument)
        if np.all(np.isfinite(angles)) and twin.instrument.allows(angles):
            missed.append(twin.off_bragg_deg(relabel @ hkl, angles, crystallite))
        if len(missed) == n:
            break
    return float(max(missed)) if missed else float("nan")
