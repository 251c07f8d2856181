"""``lauepilot/MonoAlign-v0``: UB of a crystal on a four-circle in a monochromatic beam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces
from numpy.typing import NDArray

from lauepilot.envs.batched import BatchVectorEnv
from lauepilot.envs.mono.batch import BatchMono, MonoGame
from lauepilot.envs.mono.coding import Float32Array
from lauepilot.envs.mono.loop import MonoLoop, MonoTurn
from lauepilot.envs.mono.task import MonoDecision, MonoTask
from lauepilot.simulator.crystal import Crystal, load_crystal
from lauepilot.simulator.fourcircle import FourCircle
from lauepilot.simulator.fourcircle_faults import FourCircleFaults, Level
from lauepilot.simulator.fourcircle_twin import DetectorKind


def mono_task(
    crystal: str | Path | Crystal,
    detector: DetectorKind,
    instrument: FourCircle | None,
    within_deg: float,
    max_steps: int,
) -> MonoTask:
    """The task that the environments' arguments stand for."""
    lattice = crystal if isinstance(crystal, Crystal) else load_crystal(crystal)
    where = FourCircle() if instrument is None else instrument
    return MonoTask(lattice, where, detector, within_deg=within_deg, max_steps=max_steps)


def level_faults(level: Level | FourCircleFaults) -> FourCircleFaults:
    """Faults of a level by name; `FourCircleFaults` pass through."""
    return level if isinstance(level, FourCircleFaults) else FourCircleFaults.named(level)


class MonoAlignEnv(gymnasium.Env[dict[str, NDArray[Any]], Float32Array]):
    """Find reflections of a known crystal in an unknown orientation, and say what UB is.

    A crystal of known cell and atoms is mounted on a four-circle, nobody knows how. Nothing is seen until a reflection is
    within a tenth of a degree of its condition. One step is one decision: move, count, scan an axis, centre a peak, declare
    UB, or give up. Counts are those of `FourCircleTwin`; the notebook (peaks, indices, the orientations that they allow, UB)
    is kept by the code of `lauepilot.perception.reflections`, the same as at the instrument.

    Action space
    ------------
    ``Box(-1, 1, (9,), float32)``; `lauepilot.envs.mono.coding.action_of` writes one.

    ======  =========================================================================================================
    number  meaning
    ======  =========================================================================================================
    0       selector, six equal parts: give up, move, count, scan, centre, declare
    1       centre: which candidate, eight equal parts; one that is empty centres where the axes are
    2       count, scan: seconds of the count or of a bin, logarithmic from 0.02 to 10
    3       scan: axis, four equal parts: omega, chi, phi, tth
    4       scan: half of its range about the present position, logarithmic from 0.2 to 90 degrees; cut at the limits.
            Steps are 1/64 of the range, at least 0.04 and at most 0.5 degrees (area detector: 2)
    5..8    move: change of each axis, 180 degrees times the cube of the number, cut at the limits
    ======  =========================================================================================================

    Scans are on the fly: a narrow peak is not stepped over. A path is begun from below, so that play is on one side.
    Centring takes as many scans as it needs (some 15 to 40 s). What is declared is the UB of the notebook; without one,
    declaring is giving up.

    Observation space
    -----------------
    ``Dict`` of (all float32, -1..1):

    ==========  =======  ============================================================================================
    key         shape    meaning
    ==========  =======  ============================================================================================
    axes        (4,)     read-back between the limits
    scan        (9,)     first and last corner of the last path, degrees / 190; seconds of a bin, coded as action 2
    profile     (64,)    log(1 + counts) / log(1e6) along the last path: of each 64th part the highest bin (area
                         detector: of the brightest 4 x 4 pixels of a frame)
    peaks       (12,11)  centred peaks: 1; direction on the holder (3); 2 theta / 90 deg; log(1 + rate) / log(1e5); sigma
                         in degrees; 1 if indexed; h, k, l / 20. Empty rows are 0
    candidates  (8, 7)   places worth centring at: 1; 1 if a scan saw something there, 0 if the best orientation says so;
                         log(1 + expected rate) / log(1e5); change of each axis to go there, coded as actions 5..8
    belief      (6,)     1 if orientations are known that the first peaks allow; log(their number) / 6; lead of the best in
                         log-likelihood / 20; peaks that it indexes / 12; 1 if there is a UB; its residual (root mean
                         square) in degrees, 1 without
    budget      (3,)     clock and steps over what is allowed; 1 with the area detector, 0 with the counter
    ==========  =======  ============================================================================================

    Reward
    ------
    Sum of ``info["reward_terms"]``: ``time`` -1 for 600 s of motion, counting and readout; ``right`` +1 for a UB by which
    ten reflections drawn at random are excited within ``within_deg`` of where it sends the motors; ``wrong`` -10 for one by
    which they are not; ``gave_up`` -1 for giving up or running out of time or steps; ``refused`` -0.05 for a path or a place
    beyond the limits.

    Start
    -----
    All axes at zero; orientation uniform over all rotations, faults drawn anew by the level. ``reset(options={"u": ...})``
    mounts at an orientation (3, 3).

    End
    ---
    Terminated by declaring or giving up; truncated after ``max_steps`` decisions or 14,400 s.

    Info
    ----
    ``seen``: the `MonoSeen` (for agents of the `MonoAgent` protocol); ``refused``: why not, or ""; ``reward_terms``. At the
    end of an episode also ``truth``: outcome, miss_deg, crystallite, seconds, dose_s, steps, counts, and the faults drawn.

    Levels
    ------
    ``none``: a perfect instrument. ``lab``: zeros 0.03 deg, axes 0.01 deg, play, mosaic 0.03 to 0.12 deg, intensities and
    scattering power of their own, background, one second crystallite in ten, absorption. ``harsh``: all of it about three
    times as bad; see `FourCircleFaults.named`.

    Arguments
    ---------
    crystal
        Name, path or object.
    detector
        ``point`` (a counter behind an aperture) or ``area`` (a small area detector on the same arm).
    level
        ``none``, ``lab``, ``harsh`` or `FourCircleFaults`.
    instrument
        As believed; None is the usual four-circle with molybdenum radiation.
    within_deg
        Within which a UB is right.
    max_steps
        Decisions allowed.

    Version history
    ---------------
    v0: first.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own form)

    def __init__(
        self,
        crystal: str | Path | Crystal = "si",
        detector: DetectorKind = "point",
        level: Level | FourCircleFaults = "lab",
        instrument: FourCircle | None = None,
        within_deg: float = 0.05,
        max_steps: int = 500,
    ) -> None:
        self.task = mono_task(crystal, detector, instrument, within_deg, max_steps)
        self.game = MonoGame(self.task, level_faults(level))
        self.action_space: spaces.Space[Any] = self.game.coder.action_space()
        self.observation_space: spaces.Space[Any] = self.game.coder.observation_space()

    @property
    def loop(self) -> MonoLoop:
        """World and rules, for `play_mono`."""
        return self.game.loop

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Mount a crystal; ``options["u"]`` sets its orientation (3, 3) on the holder."""
        super().reset(seed=seed)
        self.game.reset(self.np_random, None if options is None else options.get("u"))
        return self.game.arrays(), {"seen": self.game.seen}

    def step(self, action: Float32Array) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """One decision."""
        if self.game.seen is None:
            raise gymnasium.error.ResetNeeded("Call reset() before step().")
        turn = self.apply(self.game.decision(action))
        info: dict[str, Any] = {
            "seen": turn.seen, "refused": turn.refused, "reward_terms": dict(turn.terms)
        }  # fmt: skip
        if turn.outcome is not None:
            info["truth"] = self.game.truth()
        return self.game.arrays(), turn.reward, turn.terminated, turn.truncated, info

    def apply(self, decision: MonoDecision) -> MonoTurn:
        """One decision of an agent, not cut to anything: what is outside the limits is refused."""
        return self.game.step(decision)


class MonoAlignVectorEnv(BatchVectorEnv):
    """Many games at once; the data sheet is that of `MonoAlignEnv`, and so are the parameters, but for ``num_envs``."""

    def __init__(
        self,
        num_envs: int = 1,
        crystal: str | Path | Crystal = "si",
        detector: DetectorKind = "point",
        level: Level | FourCircleFaults = "lab",
        instrument: FourCircle | None = None,
        within_deg: float = 0.05,
        max_steps: int = 500,
    ) -> None:
        self.task = mono_task(crystal, detector, instrument, within_deg, max_steps)
        super().__init__(BatchMono(num_envs, self.task, level_faults(level)))
