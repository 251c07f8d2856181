"""The world of the four-circle game: a twin that carries decisions out, and a referee."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.envs.mono.task import Centre, MonoDecision, MonoTask
from lauepilot.envs.seen import same
from lauepilot.envs.world import RefusedError
from lauepilot.perception.observation import Move
from lauepilot.perception.reflections.drive import fly_path, worst_miss_deg
from lauepilot.perception.reflections.hypotheses import Catalogue
from lauepilot.perception.reflections.looking import Path, look_of
from lauepilot.perception.reflections.zeros import Centred, RefinedUb
from lauepilot.simulator.fourcircle import AXES
from lauepilot.simulator.fourcircle_faults import FourCircleFaults
from lauepilot.simulator.fourcircle_twin import FourCircleTwin, Sweep

#: Half of the range of omega in which `Centre` looks for a peak, degrees.
CENTRE_HALF_DEG = {"point": 0.6, "area": 1.4}


@dataclass(frozen=True, eq=False)
class MonoSeen:
    """What is known after a decision.

    Attributes
    ----------
    positions
        Read-back of all axes, degrees.
    clock_s, dose_s, n_counts
        Seconds and open-shutter seconds since the crystal was mounted; bins or frames.
    path, sweep
        The last path that was counted on, and its counts; None before the first.
    centred
        The peak that `Centre` found; None after any other decision, or if there was none.
    """

    positions: dict[str, float]
    clock_s: float
    dose_s: float
    n_counts: int
    path: Path | None = None
    sweep: Sweep | None = None
    centred: Centred | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MonoSeen) and all(
            same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


class MonoWorld:
    """A four-circle twin and whoever judges a UB.

    Parameters
    ----------
    task
        What is played.
    faults
        How far instrument and crystals stray.
    catalogue
        Of crystal and instrument, if there is one already.
    """

    def __init__(self, task: MonoTask, faults: FourCircleFaults, catalogue: Catalogue | None = None) -> None:
        self.task = task
        self.catalogue = Catalogue(task.crystal, task.instrument) if catalogue is None else catalogue
        self.look = look_of(task.detector, self.catalogue)
        # The generator is replaced at the first reset; until then nothing is drawn that anybody sees.
        self.twin = FourCircleTwin(task.crystal, task.instrument, rng=np.random.default_rng(0), faults=faults)
        self._dice = np.random.default_rng(0)
        self.seen = self._tell()

    def reset(self, rng: np.random.Generator, u: ArrayLike | None = None) -> MonoSeen:
        """Mount a crystal, at ``u`` (3, 3) on the holder or at random."""
        self._dice, own = rng.spawn(2)
        self.twin.reset(own, u)
        self.seen = self._tell()
        return self.seen

    def apply(self, decision: MonoDecision) -> MonoSeen:
        """Carry out a path, a move, or centring; a declaration and giving up change nothing.

        Raises
        ------
        RefusedError
            If an axis would leave its limits, or more is asked for than the task allows; nothing happens then.
        """
        if isinstance(decision, Move):
            try:
                self.twin.move(decision.axes)
            except (KeyError, ValueError) as error:
                raise RefusedError(str(error.args[0])) from None
            self.seen = self._tell(self.seen.path, self.seen.sweep)
        elif isinstance(decision, Path):
            sweep = self._count(decision)
            self.seen = self._tell(decision, sweep)
        elif isinstance(decision, Centre):
            self.seen = self._centre(decision)
        return self.seen

    def _tell(
        self, path: Path | None = None, sweep: Sweep | None = None, centred: Centred | None = None
    ) -> MonoSeen:
        twin = self.twin
        return MonoSeen(twin.positions, twin.clock_s, twin.dose_s, twin.n_counts, path, sweep, centred)

    def _count(self, path: Path) -> Sweep:
        points, seconds = np.asarray(path.points_deg), path.seconds
        if points.ndim != 2 or len(points) - 1 > self.task.max_bins or not seconds <= self.task.max_seconds:
            raise RefusedError(
                f"A path of {len(points) - 1} bins of {seconds:g} s was asked for; allowed are at most "
                f"{self.task.max_bins} bins of at most {self.task.max_seconds:g} s."
            )
        try:
            for corner in points:
                self.task.instrument.motors.check(dict(zip(AXES, corner, strict=True)))
            return fly_path(self.twin, path, self.task.detector)
        except ValueError as error:
            raise RefusedError(str(error.args[0])) from None

    def _centre(self, decision: Centre) -> MonoSeen:
        angles = np.asarray(decision.angles_deg, dtype=float)
        if angles.shape != (4,) or not np.all(np.isfinite(angles)):
            raise RefusedError(f"Centring needs four finite angles; {angles.tolist()} came.")
        looking = self.look.centre(angles, CENTRE_HALF_DEG[self.task.detector], "centre")
        path = next(looking)
        while True:
            sweep = self._count(path)
            try:
                path = looking.send(sweep)
            except StopIteration as end:
                return self._tell(path, sweep, end.value)

    # ------------------------------------------------------------------------------------------- for referees

    def miss_deg(self, ub: RefinedUb) -> tuple[float, int]:
        """The worst of the task's reflections, drawn at random, where ``ub`` sends the motors, and whose they are.

        Of two crystallites the one that fits better counts, 0 or 1: nobody said which is asked for. Infinite if ``ub`` sends
        the motors nowhere.
        """
        judged = [
            (worst_miss_deg(ub, self.twin, self._dice, self.task.reflections, i), i)
            for i in range(len(self.twin.crystallites))
        ]
        return min((miss if np.isfinite(miss) else float("inf"), i) for miss, i in judged)

    def truth(self) -> dict[str, Any]:
        """What a referee tells of the crystal, as plain values."""
        mounting = self.twin.mounting
        return {
            "mosaic_deg": self.twin.truth.mosaic_deg,
            "power": mounting.power,
            "background": mounting.background,
            "grain_share": mounting.grain_share,
        }
