"""Patterns to draw: made once, with all that a picture can hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lauepilot.cli.index import Indexed, index_spots
from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.twin import Twin


@pytest.fixture(scope="session")
def indexed() -> Indexed:
    """Silicon on the laboratory camera, from a frame, with an alternative that is none (a third of a turn off)."""
    rng = np.random.default_rng(4)
    crystal, instrument = load_crystal("si"), load_instrument("lab")
    twin = Twin(crystal, instrument, rng=rng, u=random_rotation(rng))
    frame = twin.expose(20.0)
    found = index_spots(
        find_spots(frame, instrument.detector), Indexer(crystal, instrument, GeometryPrior(0.1, 0.1, 0.1)),
        frame=frame, source='</script><img src=x onerror="alert(1)">.tif',
    )  # fmt: skip
    other = Orientation(random_rotation(rng), crystal.b, 1e-6 * np.eye(3))
    return replace(found, result=replace(found.result, alternatives=(other,)))
