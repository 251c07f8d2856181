"""Draw the picture of ``how-to/calibrate-instrument.md`` anew: ``python docs/pictures_instrument.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lauepilot.cli.instrument_run import FAR, draw
from lauepilot.hardware.devices.twin import connect
from lauepilot.hardware.engine import run_engine
from lauepilot.hardware.plans.calibrate import calibrate_instrument
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

if __name__ == "__main__":
    twin = Twin(load_crystal("si"), load_instrument("lab"), rng=np.random.default_rng(3), faults=FAR)
    with run_engine() as engine:
        result = engine(calibrate_instrument(*connect(twin))).plan_result
    draw(result.fit, Path(__file__).parent / "_static" / "instrument-calibration.png")
