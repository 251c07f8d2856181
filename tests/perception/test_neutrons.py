"""Neutrons on a cylinder: frames of the Twin of `koala`, from counts to orientation, by other formulas than ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import spearmanr

from lauepilot.perception.indexing.indexer import Indexer, IndexResult
from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.indexing.rough import ROUGH_PRIOR, index_rough
from lauepilot.perception.observation import SpotList
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import Crystal, load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import misorientation
from lauepilot.simulator.twin import Twin

KOALA = load_instrument("koala")
USUAL = GeometryPrior(0.5, 0.5, 0.5)

#: Bound coherent scattering lengths, fm (Sears 1992, Neutron News 3, 26).
SEARS = {"Ca": 4.70, "Ru": 7.03, "O": 5.803}


@lru_cache
def indexer(crystal: str) -> Indexer:
    return Indexer(load_crystal(crystal), KOALA, USUAL)


@dataclass(frozen=True, eq=False)
class Exposed:
    u: np.ndarray
    spots: SpotList


@lru_cache
def exposed(crystal: str, seed: int, faults: bool) -> Exposed:
    rng = np.random.default_rng(seed)
    twin = Twin(
        load_crystal(crystal),
        KOALA,
        rng=rng,
        u=random_rotation(rng),
        faults=Faults() if faults else Faults.none(),
    )
    frame = twin.expose(300.0)
    return Exposed(twin.u_lab(), find_spots(frame, KOALA.detector))


def off_deg(result: IndexResult, u: np.ndarray, crystal: Crystal) -> float:
    assert result.orientation is not None
    return float(np.rad2deg(misorientation(result.orientation.u, u, crystal.symmetry)))


@pytest.mark.parametrize("crystal", ["si", "ca2ruo4"])
@pytest.mark.parametrize("seed", [1, 2])
def test_frames_are_indexed_at_a_known_and_at_a_usual_pose(crystal, seed):
    ix = indexer(crystal)
    for faults, prior, limit in ((False, GeometryPrior(), 0.005), (True, USUAL, 0.01)):
        true = exposed(crystal, seed, faults)
        result = ix.index(true.spots, prior=prior)
        assert result.confidence > 0.999
        assert off_deg(result, true.u, ix.crystal) < limit


@pytest.mark.parametrize("seed", [1, 2])
def test_frames_are_indexed_from_a_rough_pose(seed):
    """The drum believed 5 mm, 20 px and half a degree elsewhere."""
    ix = indexer("si")
    true = exposed("si", seed, False)
    believed = KOALA.detector.moved(5.0, -20.0, 15.0, 0.01, -0.008)
    result = index_rough(ix, true.spots, believed, prior=ROUGH_PRIOR)
    assert result.confidence > 0.999
    assert off_deg(result, true.u, ix.crystal) < 0.05
    assert result.refinement is not None
    assert result.refinement.detector.distance_mm == pytest.approx(159.0, abs=0.05)
    # What a pose cannot hide: where the spots are.
    assert result.refinement.mean_residual_px < 0.3


def explained(crystal: str, seed: int):
    """Indices, pixels by the geometry of a drum, wavelengths by Bragg's law, sin(theta), and counts of explained spots."""
    ix, true = indexer(crystal), exposed(crystal, seed, False)
    result = ix.index(true.spots, prior=GeometryPrior(), complete=True)
    assert result.orientation is not None
    assert result.refinement is not None
    q = result.refinement.hkl @ result.orientation.ub.T
    length = np.linalg.norm(q, axis=1)
    sine = -q[:, 2] / length
    wavelength = 4.0 * np.pi * sine / length
    k_out = np.array([0.0, 0.0, 2.0 * np.pi]) / wavelength[:, None] + q
    x, y, z = k_out.T
    radius, pixel = 159.0, 0.2
    pixels = np.stack(
        [1999.5 + radius / pixel * np.arctan2(x, z), 999.5 - radius / pixel * y / np.hypot(x, z)], axis=1
    )
    return result.refinement, pixels, wavelength, sine, true.spots


@pytest.mark.parametrize("crystal", ["si", "ca2ruo4"])
def test_spots_lie_where_a_drum_has_them(crystal):
    fit, pixels, wavelength, sine, spots = explained(crystal, 1)
    assert len(fit.spot) > 0.9 * len(spots)
    assert np.linalg.norm(spots.pixels[fit.spot] - fit.residual_px - pixels, axis=1).max() < 1e-6
    assert np.median(np.linalg.norm(spots.pixels[fit.spot] - pixels, axis=1)) < 0.3
    assert np.ptp(pixels[:, 0]) > 3500  # spots all around
    # The spectrum ends at 0.85 angstrom; the ray table, which has 64 nodes, blurs that by one and a half of its steps.
    step = indexer(crystal).table.sin_theta_step
    assert np.all(wavelength > 0.85 * (1.0 - 1.5 * step / sine))
    assert (wavelength < 0.85).mean() < 0.05
    assert wavelength.max() < 5.2


def test_brightness_follows_the_scattering_lengths_of_neutrons():
    """Counts against |F|^2 lambda^4 phi / sin^2(theta) with Sears' lengths, where no second harmonic is in the beam."""
    crystal = load_crystal("ca2ruo4")
    fit, _, wavelength, sine, spots = explained("ca2ruo4", 1)
    atoms, hkl = crystal.atoms, fit.hkl
    waves = np.exp(2j * np.pi * hkl @ atoms.fractional.T) * np.exp(
        -2.0 * np.pi**2 * np.einsum("ni,aij,nj->na", hkl, atoms.u_star, hkl)
    )
    neutron = np.abs(waves @ [SEARS[e] for e in atoms.elements]) ** 2
    electrons = np.abs(waves @ [{"Ca": 20.0, "Ru": 44.0, "O": 8.0}[e] for e in atoms.elements]) ** 2
    # A Maxwellian of 300 K: phi ~ exp(-a / lambda^2) / lambda^5 with a = h^2 / (2 m k T) = 949 / T angstrom^2.
    weight = np.exp(-949.0 / 300.0 / wavelength**2) / wavelength / sine**2
    alone = (wavelength < 1.69) & (wavelength > 0.9) & (np.gcd.reduce(hkl, axis=1) == 1)
    assert alone.sum() > 150
    counts = spots.counts[fit.spot][alone]
    right = spearmanr(counts, (neutron * weight)[alone]).statistic
    assert right > 0.9
    assert spearmanr(counts, (electrons * weight)[alone]).statistic < right - 0.2
