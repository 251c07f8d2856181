"""``lauepilot/LaueAlign-v0``: align a crystal by Laue frames, on the full Twin."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lauepilot.envs.align.coding import IMAGE, Coder, Float32Array, ObservationKind
from lauepilot.envs.loop import Loop, Turn
from lauepilot.envs.play import build_loop
from lauepilot.envs.seen import Seen
from lauepilot.envs.world import World
from lauepilot.perception.observation import Decision, Observation
from lauepilot.perception.observer import Observer
from lauepilot.perception.task import Task
from lauepilot.simulator.crystal import Crystal, load_crystal
from lauepilot.simulator.faults import Faults, named_faults
from lauepilot.simulator.instrument import Instrument, load_instrument
from lauepilot.simulator.target import Target


def align_task(
    crystal: str | Path | Crystal,
    instrument: str | Path | Instrument,
    target: Target | None,
    tolerance_deg: float,
    max_steps: int,
) -> Task:
    """The task that the environments' arguments stand for."""
    lattice = crystal if isinstance(crystal, Crystal) else load_crystal(crystal)
    where = instrument if isinstance(instrument, Instrument) else _instrument(str(instrument))
    return Task.usual(lattice, where, target, tolerance_deg=tolerance_deg, max_steps=max_steps)


@lru_cache(maxsize=8)
def _instrument(name: str) -> Instrument:
    """One object for each name, so that what is compiled for it is found again."""
    return load_instrument(name)


@lru_cache(maxsize=8)
def shared_observer(crystal: Crystal, instrument: Instrument, image: bool = False) -> Observer:
    """One observer for each crystal and instrument object: indexers take seconds to make, and hold nothing of an episode."""
    return Observer(crystal, instrument, image_shape=(IMAGE, IMAGE) if image else None)


class LaueAlignEnv(gymnasium.Env[dict[str, NDArray[Any]], Float32Array]):
    """Bring a crystal to a target with a goniometer and a Laue camera, and say when it is there.

    A crystal of unknown orientation is mounted on an instrument with unknown faults (detector put back by hand,
    misdirected axes, play). One step is one decision: move the axes, expose a frame, declare, or give up. Frames
    are full ones of `Twin`, spots and belief those of `Observer`, the same code as at the instrument. For training
    by millions of steps see `lauepilot.envs.align.batch`.

    Action space
    ------------
    ``Box(-1, 1, (2 + k,), float32)`` for k rotation axes (outermost first).

    ======  =========================================================================================================
    number  meaning
    ======  =========================================================================================================
    0       selector: [-1, -0.5) give up, [-0.5, 0) expose, [0, 0.5) move, [0.5, 1] declare
    1       exposure, used when exposing: logarithmic from 1/60 to 4 times the instrument's usual one
    2..     change of each axis, used when moving: 180 degrees times the cube of the number, cut at the axis' limits
    ======  =========================================================================================================

    A declaration before any frame was indexed counts as giving up.

    Observation space
    -----------------
    ``Dict`` of (all float32 unless said otherwise):

    ======  ===========  ======  ===================================================================================
    key     shape        bounds  meaning
    ======  ===========  ======  ===================================================================================
    axes    (k,)         -1..1   read-back between the limits
    limits  (2 k,)       -1..1   lower, then upper limits, degrees / 360
    budget  (5,)         0..1    clock, dose, frames (of those allowed); last exposure (log, over the action's range);
                                 spots / 500
    belief  (8 + k,)     -1..1   present (0 before a frame is indexed); confidence; spots indexed / 300, and over
                                 expected; cube roots over 180 degrees of: standard deviation, angle to the target at
                                 the present axes, largest travel since the frame; 1 if the target seems reachable;
                                 the changes of the axes that would go there, coded as actions 2.. are
    spots   (64, 6)      -1..1   (observation="spots") brightest first: plane normal in the laboratory (3),
                                 log(1 + photons) / log(1e6), the normal's standard deviation in degrees, 1 for a
                                 spot and 0 for an empty row
    image   (84, 84, 1)  uint8   (observation="image") 11 log2(1 + photons) of each coarse pixel
    ======  ===========  ======  ===================================================================================

    Reward
    ------
    Sum of ``info["reward_terms"]``: ``time`` -1 for ten usual exposures; ``right`` +1 for a declaration within the
    tolerance; ``wrong`` -5 for one that is not; ``gave_up`` -1 for giving up a target that is within reach, or
    running out of time or steps (0 if it truly is out of reach); ``refused`` -0.05 for an exposure beyond what the
    task allows.

    Start
    -----
    Axes at zero, crystal orientation uniform over all rotations, faults drawn anew. ``reset(options={"u": ...})``
    mounts at an orientation (3, 3).

    End
    ---
    Terminated by declaring or giving up; truncated after ``max_steps`` decisions or the task's time (60 usual
    exposures + 600 s).

    Info
    ----
    ``observation``: the `Observation` (for agents of the `Agent` protocol); ``decision``: what was carried out;
    ``refused``: why not, or ""; ``reward_terms``. At the end of an episode also ``truth``: outcome, miss_deg, reachable.

    Arguments
    ---------
    crystal, instrument
        Names, paths or objects.
    target
        None puts the zone [001] along the beam.
    faults
        ``none``, ``default``, ``lab``, ``harsh`` or `Faults`.
    observation
        ``spots`` or ``image``.
    tolerance_deg
        Within which a declaration is right.
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
        instrument: str | Path | Instrument = "lab",
        target: Target | None = None,
        faults: str | Faults = "default",
        observation: ObservationKind = "spots",
        tolerance_deg: float = 0.1,
        max_steps: int = 50,
    ) -> None:
        self.task = align_task(crystal, instrument, target, tolerance_deg, max_steps)
        self.coder = Coder(self.task, observation)
        self.action_space: spaces.Space[Any] = self.coder.action_space()
        self.observation_space: spaces.Space[Any] = self.coder.observation_space()
        eyes = shared_observer(self.task.crystal, self.task.instrument, observation == "image")
        # The generator is replaced at the first reset; until then nothing is drawn that anybody sees.
        self.loop: Loop = build_loop(self.task, named_faults(faults), np.random.default_rng(0), eyes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Mount a crystal; ``options["u"]`` sets its orientation (3, 3) on the holder."""
        super().reset(seed=seed)
        u = None if options is None else options.get("u")
        observation = self.loop.reset(self.np_random, u)
        return self.coder.arrays(observation), {"observation": Seen.of(observation)}

    def step(self, action: Float32Array) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """One decision."""
        turn, decision = self.apply(self.coder.decision(action, self._now()))
        info: dict[str, Any] = {
            "observation": Seen.of(turn.observation),
            "decision": decision,
            "refused": turn.refused,
            "reward_terms": dict(turn.terms),
        }
        if turn.outcome is not None and isinstance(self.loop.world, World):
            world = self.loop.world
            info["truth"] = {
                "outcome": turn.outcome, "miss_deg": world.miss_deg(), "reachable": world.reachable()
            }  # fmt: skip
        return self.coder.arrays(turn.observation), turn.reward, turn.terminated, turn.truncated, info

    def apply(self, decision: Decision) -> tuple[Turn, Decision]:
        """One decision of an agent, not cut to anything: what is outside the limits is refused."""
        return self.loop.step(decision), decision

    def _now(self) -> Observation:
        if self.loop.observation is None:
            raise gymnasium.error.ResetNeeded("Call reset() before step().")
        return self.loop.observation
