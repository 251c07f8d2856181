"""The game's numbers: crystals, film, picture, moves and levels.

Rules, ranges and picture are those of LaueRL (arXiv 2604.11773, April 2026), read in the text and in its configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lauepilot.simulator.detector import Detector

Physics = Literal["laue", "lauerl"]
LevelName = Literal["normal", "hard"]
FamilyName = Literal["any", "cubic", "tetragonal", "hexagonal"]

#: Pixels of a picture along an edge; width of the film, mm.
SIDE = 84
FILM_MM = 100.0
PIXEL_MM = FILM_MM / SIDE
CENTRE_PX = 0.5 * (SIDE - 1)
#: Radius of the hole for the beam, of a spot's disc, and the least distance between spots: as shares of the film's width.
HOLE, DISC, APART = 0.1, 10.0 / 1284.0, 44.0 / 1284.0
#: Width (px) of the blur that follows the averaging over pixels.
BLUR_PX = 1.0
#: Distances of the film, mm.
DISTANCE_MM = (40.0, 60.0)
#: Largest turn about each of the two axes in one step; within which the target is met; where the game is lost: degrees.
STEP_DEG, TOLERANCE_DEG, RANGE_DEG = 10.0, 5.0, 120.0
#: Where crystals start: turns about the beam and about the two other axes, degrees each way.
START_DEG = (180.0, 90.0, 90.0)
#: Reward for the target, and for the whole way there.
PRIZE = 100.0
#: LaueRL's photons of highest energy, and the share of the hexagonal c that its cells get.
CUT_KEV = 50.0
LAUERL_C = 0.9306048591020996


@dataclass(frozen=True)
class Family:
    """Crystals of one kind.

    Attributes
    ----------
    name
        Family of the lattice.
    centring
        P or I: the space group's, of which nothing else is known (221, 139, 191).
    a, c
        Ranges of the lattice constants, angstrom; c is a's for cubic.
    spots
        Least and most spots in a picture.
    """

    name: str
    centring: str
    a: tuple[float, float]
    c: tuple[float, float]
    spots: tuple[int, int]


FAMILIES = (
    Family("cubic", "P", (3.0, 15.0), (3.0, 15.0), (30, 60)),
    Family("tetragonal", "I", (3.0, 6.0), (12.0, 15.0), (60, 120)),
    Family("hexagonal", "P", (4.0, 7.0), (12.0, 15.0), (40, 90)),
)
NAMES = tuple(family.name for family in FAMILIES)


@dataclass(frozen=True)
class Level:
    """How hard a game is.

    Attributes
    ----------
    scatter
        Standard deviation of ln |F|^2 between orbits of equivalent reflections.
    lost, false
        Shares of a picture's spots that are taken out, and put in anywhere; anew in each picture.
    steps
        Moves that are allowed.
    """

    scatter: float
    lost: float
    false: float
    steps: int


LEVELS = {"normal": Level(0.0, 0.0, 0.0, 50), "hard": Level(2.0, 0.3, 0.3, 15)}


def level_of(name: str) -> Level:
    """A level by name.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}; {name!r} came.")
    return LEVELS[name]


def film(distance_mm: float = 50.0) -> Detector:
    """The film as perception takes it, before the sample as seen from the source: pixels of 0.1 mm, no hole.

    `lauepilot.agents.game.spots.find` gives spots in these pixels.
    """
    return Detector(
        name="film",
        kind="flat",
        shape=(1000, 1000),
        pixel_mm=(FILM_MM / 1000, FILM_MM / 1000),
        distance_mm=distance_mm,
        centre_px=(499.5, 499.5),
        rotation=np.diag([1.0, -1.0, -1.0]),
    )
