"""Draw the picture of the how-to on ``build-ub`` anew: ``python docs/pictures_build_ub.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lauepilot.cli.build_ub import draw_search
from lauepilot.perception.reflections.drive import drive
from lauepilot.perception.reflections.search import UbSearch
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.fourcircle_twin import FourCircleTwin

if __name__ == "__main__":
    twin = FourCircleTwin(load_crystal("ca2ruo4"), rng=np.random.default_rng(3))
    answer = drive(UbSearch(twin.crystal, twin.instrument, "point"), twin)
    told = f"Ca2RuO4, counter: {twin.n_counts} counts, {twin.clock_s:.0f} s on the instrument's clock"
    draw_search(answer.steps, Path(__file__).parent / "_static" / "build-ub.png", told)
