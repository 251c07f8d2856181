"""``lauepilot/LaueGame-v0`` for Gymnasium: one game, which is a batch of one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.rules import FamilyName, LevelName, Physics

Float32Array = NDArray[np.float32]


class LaueGameEnv(gymnasium.Env[dict[str, NDArray[Any]], Float32Array]):
    """Turn an unknown crystal until its axis looks along the beam, guided by pictures of 84 x 84 pixels.

    LaueRL's game (arXiv 2604.11773): a crystal of unknown lattice constants before a film at an unknown distance; two
    angles, at most 10 degrees a step; the environment ends the game when the axis is within 5 degrees. There are no
    photons, no clock and no declaration: `lauepilot.envs.align.env.LaueAlignEnv` has these.

    Action space
    ------------
    ``Box(-1, 1, (2,), float32)``: parts of 10 degrees. The crystal is turned about the laboratory's y by the second, then
    about x by the first (x and y at right angles to the beam, right-handed). Each step starts from where the crystal
    stands, as an arm does that is told so. Numbers beyond +-1 count as +-1.

    Observation space
    -----------------
    ``Dict`` of:

    =====  ===========  =======  ====================================================================================
    key    shape        type     meaning
    =====  ===========  =======  ====================================================================================
    image  (84, 84, 1)  uint8    100 mm square film: each spot a disc of 0.78 mm radius whatever its strength, averaged
                                 over pixels and blurred by a Gaussian of 1 px; 255 is fully covered; a hole of 10 mm
                                 radius for the beam
    moved  (2,)         float32  the last action; zeros at the start. LaueRL shows the picture alone
    =====  ===========  =======  ====================================================================================

    The strongest spots are seen that are 3.4 mm or more from each stronger one; how many is drawn for each crystal.

    Reward
    ------
    LaueRL's: ``100 (d_before - d_now) / (d_start sqrt(step))``, d the angle to the nearest target; 100 more on arrival;
    0 for a step that leaves the range.

    Start
    -----
    A crystal with its target against the beam, turned by up to 90 degrees about y, then x, then 180 about the beam (each
    evenly, either way), more than 5 degrees away.

    ==========  =====  ===========  ===========  =======  ========
    family      group  a, A         c, A         target   spots
    ==========  =====  ===========  ===========  =======  ========
    cubic       221    3 to 15                   {100}    30-60
    tetragonal  139    3 to 6       12 to 15     {001}    60-120
    hexagonal   191    4 to 7       12 to 15     {001}    40-90
    ==========  =====  ===========  ===========  =======  ========

    The film is 40 to 60 mm away.

    End
    ---
    Terminated when the target is within 5 degrees, or when the turns about an axis add up to more than 120 degrees;
    truncated after the level's moves.

    Info
    ----
    At the end ``truth``: outcome (``won``, ``out_of_range``, ``too_long``), miss_deg, start_deg, steps, family.

    Arguments
    ---------
    family
        ``cubic``, ``tetragonal``, ``hexagonal``, or ``any``: one of the three in each game, never told.
    physics
        ``laue``: Kramers' spectrum cut at 50 keV, one iron atom on each lattice point, a thick crystal, all harmonics.
        ``lauerl``: as published, for comparison: wavelengths of cos/d instead of 2 d cos, the hexagonal c 0.9306 of the
        configured one, intensities from extinction rules alone.
    level
        ``normal``: 50 moves. ``hard``: 15 moves, |F|^2 of equivalent reflections times exp(2 g), g normal, and in each
        picture 30 % of the spots lost and as many false ones anywhere.

    Version history
    ---------------
    v0: first.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own form)

    def __init__(
        self, family: FamilyName = "any", physics: Physics = "laue", level: LevelName = "normal"
    ) -> None:
        self.batch = BatchGame(1, family, physics, level)
        self.action_space = self.batch.action_space
        self.observation_space = self.batch.observation_space
        self._running = False
        self._seeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Draw a crystal; there are no options."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.batch.seed(self.np_random)
            self._seeded = True
        self.batch.reset()
        self._running = True
        return self._observation(), {}

    def step(self, action: Float32Array) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """One move."""
        if not self._running:
            raise gymnasium.error.ResetNeeded("Call reset() before step().")
        reward, terminated, truncated = self.batch.step(np.asarray(action)[None])
        over = bool(terminated[0] or truncated[0])
        info = {"truth": self.batch.ended(0)} if over else {}
        return self._observation(), float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def _observation(self) -> dict[str, NDArray[Any]]:
        return {k: v[0] for k, v in self.batch.observations().items()}
