"""Error bars on measured lists and on the Twin: how often the regions hold what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.indexing.refine import GeometryPrior, refine
from lauepilot.perception.lauetools import LaueToolsFit, read_cor, read_dat, read_fit
from lauepilot.perception.observation import SpotList
from lauepilot.perception.observer import USUAL_PRIOR
from lauepilot.perception.spots import find_spots
from lauepilot.simulator.conventions import nearest_rotation, random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import cached_table
from lauepilot.simulator.orientation import nearest_equivalent
from lauepilot.simulator.render import render_batch
from lauepilot.simulator.twin import Twin

INSIDE = {share: chi2.ppf(share, 3) for share in (0.68, 0.95)}

#: Name, crystal and kind of the lists with an accepted fit.
LISTS = [
    ("Ge_blanc_0000_LT_5", "ge", ".dat"),
    ("Ge0001", "ge", ".dat"),
    ("Ge0001", "si", ".cor"),
    ("3C-SiC_img_10066", "3c-sic", ".fit"),
]

#: How well the geometry written into the .fit files is known: calibrations of that camera agree from one frame to the next
#: to 0.02 mm in the distance, a quarter of a pixel in the centre and 0.02 degrees in the angles.
GIVEN = GeometryPrior(distance_mm=0.02, centre_mm=0.02, tilt_deg=0.02)
#: The strain of a refined cell, as accepted fits of these lists hold it.
CELL_SIGMA = 5e-4


def read(folder: Path, name: str, suffix: str) -> tuple[SpotList, LaueToolsFit]:
    reader = {".dat": read_dat, ".cor": read_cor, ".fit": read_fit}[suffix]
    return reader(folder / f"{name}{suffix}").spot_list(), read_fit(folder / f"{name}.fit")


def distance2(u: np.ndarray, covariance: np.ndarray, true: np.ndarray, symmetry: np.ndarray) -> float:
    _, error = nearest_equivalent(u, true, symmetry)
    return float(error @ np.linalg.solve(covariance, error))


def accepted_and_fit(folder: Path, name: str, crystal: str, suffix: str):
    """Indexer, spots, pose as given, accepted orientation (3, 3), and ours with all spots."""
    spots, given = read(folder, name, suffix)
    assert given.geometry is not None
    detector = given.geometry.to_detector()
    indexer = Indexer(load_crystal(crystal), load_instrument("bm32"))
    # Their U holds the strain of a refined cell; its rotation is that of the polar decomposition.
    accepted = nearest_rotation(given.ub @ np.linalg.inv(indexer.crystal.b))
    result = indexer.index(spots, detector, prior=GIVEN, cell_sigma=CELL_SIGMA, complete=True)
    assert result.orientation is not None
    return indexer, spots, detector, accepted, result.orientation


@pytest.mark.parametrize(("name", "crystal", "suffix"), LISTS)
def test_accepted_orientation_is_inside_the_region(
    shared_data: Path, name: str, crystal: str, suffix: str
) -> None:
    indexer, _, _, accepted, ours = accepted_and_fit(shared_data / "laue", name, crystal, suffix)
    assert distance2(ours.u, ours.covariance, accepted, indexer.crystal.symmetry) < INSIDE[0.95]
    # A region that holds everything would be no merit.
    assert ours.sigma_deg < 0.03


def covered_halves(folder: Path, name: str, crystal: str, suffix: str, n: int) -> tuple[float, float]:
    """Shares of random halves whose 95 % region holds the accepted orientation, and the other half's, errors added."""
    indexer, spots, detector, accepted, ours = accepted_and_fit(folder, name, crystal, suffix)
    table = cached_table(indexer.crystal, indexer.instrument, 1e-3)
    rng = np.random.default_rng(41)
    holds = agrees = 0
    for _ in range(n):
        order = rng.permutation(len(spots))
        halves = order[: len(spots) // 2], order[len(spots) // 2 :]
        fits = [
            refine(
                table, ours.u, detector, spots.take(h), prior=GIVEN, cell_sigma=CELL_SIGMA, tolerance_px=3.0
            )
            for h in halves
        ]
        symmetry = indexer.crystal.symmetry
        holds += distance2(fits[0].u, fits[0].covariance, accepted, symmetry) < INSIDE[0.95]
        both = fits[0].covariance + fits[1].covariance
        agrees += distance2(fits[0].u, both, fits[1].u, symmetry) < INSIDE[0.95]
    return holds / n, agrees / n


@pytest.mark.parametrize(("name", "crystal", "suffix"), LISTS)
def test_half_of_the_spots_covers_too(shared_data: Path, name: str, crystal: str, suffix: str) -> None:
    holds, agrees = covered_halves(shared_data / "laue", name, crystal, suffix, 40)
    assert holds >= 0.9
    assert agrees >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "crystal", "suffix"), LISTS)
def test_five_hundred_halves(shared_data: Path, name: str, crystal: str, suffix: str) -> None:
    holds, agrees = covered_halves(shared_data / "laue", name, crystal, suffix, 500)
    assert holds >= 0.93
    assert agrees >= 0.93


def twin_distances(crystal: str, n: int, seconds: float) -> np.ndarray:
    """Squared distances of the truth from what the indexer says, of frames of faulty Twins."""
    instrument = load_instrument("lab")
    indexer = Indexer(load_crystal(crystal), instrument, USUAL_PRIOR)
    twin = Twin(indexer.crystal, instrument, rng=np.random.default_rng(0))
    out = []
    for k in range(n):
        twin.reset(np.random.default_rng((k, *crystal.encode())))
        spots = find_spots(twin.expose(seconds), instrument.detector)
        found = indexer.index(spots).orientation
        assert found is not None
        out.append(distance2(found.u, found.covariance, twin.u_lab(), indexer.crystal.symmetry))
    return np.array(out)


def test_regions_cover_on_the_faulty_twin() -> None:
    """30 frames, pose off by what default faults draw: of 95 % regions fewer than 25 hits have a chance below 1 %."""
    d2 = twin_distances("si", 30, 20.0)
    assert np.count_nonzero(d2 < INSIDE[0.95]) >= 25
    assert np.count_nonzero(d2 < INSIDE[0.68]) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("crystal", ["si", "quartz", "ca2ruo4"])
def test_regions_cover_on_three_hundred_twins(crystal: str) -> None:
    """Three standard deviations of 300 frames below, and not far above: the prior is wider than the faults (0.5 for 0.3)."""
    d2 = twin_distances(crystal, 300, 20.0)
    assert 0.91 < np.mean(d2 < INSIDE[0.95]) < 0.99
    assert 0.60 < np.mean(d2 < INSIDE[0.68]) < 0.82


@pytest.mark.parametrize("saturation", [400.0, 1500.0])
def test_saturated_spots_are_used_with_honest_errors(saturation: float) -> None:
    """The brightest spots cut off: still used, and the region still true; without them it would be wider."""
    instrument = load_instrument("lab")
    indexer = Indexer(load_crystal("si"), instrument)
    table = cached_table(indexer.crystal, instrument, 1e-3)
    rng = np.random.default_rng(43)
    us = random_rotation(rng, 12)
    inside, flagged = 0, 0
    for u, counts in zip(us, render_batch(table, us, 60.0, rng), strict=True):
        frame = Frame(np.minimum(counts, saturation), 60.0, saturation=saturation)
        spots = find_spots(frame, instrument.detector)
        fit = refine(table, u, instrument.detector, spots, tolerance_px=3.0)
        flagged += np.count_nonzero(spots.saturated[fit.spot])
        inside += distance2(fit.u, fit.covariance, u, indexer.crystal.symmetry) < INSIDE[0.95]
    assert flagged >= 12
    # Below nine of twelve has a chance of 0.2 %.
    assert inside >= 9
