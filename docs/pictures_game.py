"""First pictures of the game, one family a row: ours, LaueRL's physics, the hard level. Writes ``_static/game.png``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lauepilot.envs.game.batch import BatchGame
from lauepilot.envs.game.rules import NAMES

rows = []
for family in NAMES:
    row = []
    for physics, level in (("laue", "normal"), ("lauerl", "normal"), ("laue", "hard")):
        batch = BatchGame(1, family, physics, level)
        batch.seed(np.random.default_rng(7))
        batch.reset()
        picture = batch.observations()["image"][0, ..., 0].astype(float)
        row.append(np.pad(np.clip(4.0 * picture, 0, 255), 1, constant_values=90.0))
    rows.append(np.hstack(row))
whole = Image.fromarray(np.vstack(rows).astype(np.uint8))
size = (3 * whole.width, 3 * whole.height)
whole.resize(size, Image.Resampling.BILINEAR).save(
    Path(__file__).parent / "_static" / "game.png", optimize=True
)
