"""What all tests share: the folder of measured data, and hypothesis without a clock or a dice of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from lauepilot.hardware.epics.environment import use_loopback

# The same cases on each run and machine; the first call of a compiled kernel must not count as a slow example.
settings.register_profile("lauepilot", deadline=None, derandomize=True)
settings.load_profile("lauepilot")

PROJECT = Path(__file__).parents[1]

# Channel Access on loopback, with ports of this session. Its libraries look at this once, when they are first imported.
use_loopback()


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout that these tests belong to."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with measured data (laue/, sans/, ...), or a skip where there is none."""
    shared = Path(os.environ.get("LAUEPILOT_SHARED") or PROJECT.parent / "shared")
    data = shared / "data"
    if not (data / "MANIFEST.md").is_file():
        pytest.skip(
            f"no measured data in {data}; point LAUEPILOT_SHARED to the folder that holds data/MANIFEST.md"
        )
    return data
