"""Patterns of crystals that nobody told the solver of: the examination paper for unknown lattices.

Nothing is trained on this generator. The thresholds of `lauepilot.perception.unknown.trust` were set on its patterns with
other seeds than the benchmark's: the same families and spoils, so that they are calibrated for these and no others.

Families, ranges of lattice constants, numbers of spots and spectrum (Kramers' law, cut at 50 keV) are those of LaueRL (arXiv
2604.11773). Intensities: that spectrum in photons, ``lambda`` for the Lorentz factor of a thick absorbing crystal
(``lambda^4`` times a depth that goes with ``lambda^-3``), ``1 / sin^2(theta)``, polarisation, the form factor of iron with
B = 0.5 A^2 for one scatterer per lattice point, all harmonics summed; then |F|^2 of each orbit of equivalent reflections
times ``exp(sigma g)``, g normal. With ``lines`` the spectrum is that of the lab's tungsten tube, whose lines make planes of
any index bright that happen to reflect them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lauepilot.bench.lists import anywhere
from lauepilot.perception.observation import SpotList
from lauepilot.perception.unknown.lattice import RATIOS, holohedry, multiple
from lauepilot.simulator.conventions import BEAM, HC_KEV_A, FloatArray, random_rotation
from lauepilot.simulator.corrections import polarisation
from lauepilot.simulator.crystal import busing_levy_b, form_factor
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import beam_spectrum

#: LaueRL's families: centring of its space group (221, 139, 191), and the strongest spots that are seen.
LAUE_RL = {"cubic": ("P", (30, 60)), "tetragonal": ("I", (60, 120)), "hexagonal": ("P", (40, 90))}
#: The others, drawn alike: constants of 4 to 12 angstrom.
OTHERS = {"trigonal": "R", "orthorhombic": "P", "monoclinic": "P", "triclinic": "P"}
OTHER_SPOTS = (50, 100)
FILM_MM = (40.0, 60.0)
B_FACTOR_A2 = 0.5
#: Wavelength of 50 keV.
CUT_A = HC_KEV_A / 50.0
#: Reflections beyond this have no form factor left, 1/angstrom.
Q_MAX = 26.0


@dataclass(frozen=True)
class Spoil:
    """What is done to a true pattern.

    Attributes
    ----------
    sigma
        Standard deviation of ln |F|^2 between orbits of equivalent reflections.
    noise_px
        Standard deviation of positions, each direction.
    film
        Share of the film that is there: 1, 0.5 (left half) or 0.25 (upper left quarter).
    lines
        Whether the tube has its characteristic lines.
    missing, false
        Shares of the spots taken out at random, and put in anywhere.
    """

    sigma: float = 0.0
    noise_px: float = 0.5
    film: float = 1.0
    lines: bool = False
    missing: float = 0.0
    false: float = 0.0


@dataclass(frozen=True, eq=False)
class Case:
    """One crystal with its frames.

    Attributes
    ----------
    family, centring, ratios
        The lattice, ratios in the order of `RATIOS`.
    u
        True orientation (3, 3) at Z = 1.
    distance_mm
        True distance of the film.
    frames
        Spot lists with the goniometer's rotation Z (3, 3) of each.
    """

    family: str
    centring: str
    ratios: tuple[float, ...]
    u: FloatArray
    distance_mm: float
    frames: tuple[tuple[SpotList, FloatArray], ...]


@lru_cache(maxsize=1)
def film() -> Detector:
    """The film of ``lab`` at its drawn distance: what the solver is given."""
    return load_instrument("lab").detector


def draw(
    family: str,
    rng: np.random.Generator,
    spoil: Spoil | None = None,
    turns: Sequence[FloatArray] = (np.eye(3),),
) -> Case:
    """A random crystal of a family, seen at each of the goniometer's rotations ``turns``."""
    how = spoil or Spoil()
    cell, centring = _cell(family, rng)
    low, high = LAUE_RL[family][1] if family in LAUE_RL else OTHER_SPOTS
    distance = float(rng.uniform(*FILM_MM))
    true_film = replace(film(), distance_mm=distance)
    u, b = random_rotation(rng), busing_levy_b(cell)
    seed = int(rng.integers(2**62))
    frames = []
    for z in turns:
        pixels, rates = _spots(z @ u, b, family, centring, true_film, how, seed)
        number = int(rng.integers(low, high + 1))
        strongest = np.argsort(-rates)[:number]
        frames.append((_list(pixels[strongest], rates[strongest], true_film, how, rng), np.asarray(z)))
    a, bb, c = cell[:3]
    angles = np.deg2rad(cell[3:])
    known = {"b/a": bb / a, "c/a": c / a, "alpha": angles[0], "beta": angles[1], "gamma": angles[2]}
    ratios = tuple(float(known[name]) for name in RATIOS[family])
    return Case(family, centring, ratios, u, distance, tuple(frames))


def _cell(family: str, rng: np.random.Generator) -> tuple[tuple[float, ...], str]:
    if family == "cubic":
        a = rng.uniform(3.0, 15.0)
        return (a, a, a, 90.0, 90.0, 90.0), "P"
    if family == "tetragonal":
        a = rng.uniform(3.0, 6.0)
        return (a, a, rng.uniform(12.0, 15.0), 90.0, 90.0, 90.0), "I"
    if family == "hexagonal":
        a = rng.uniform(4.0, 7.0)
        return (a, a, rng.uniform(12.0, 15.0), 90.0, 90.0, 120.0), "P"
    a, b, c = rng.uniform(4.0, 12.0, 3)
    if family == "trigonal":
        return (a, a, c, 90.0, 90.0, 120.0), "R"
    alpha, beta, gamma = 90.0, 90.0, 90.0
    if family in ("monoclinic", "triclinic"):
        beta = rng.uniform(93.0, 115.0)
    if family == "triclinic":
        alpha, gamma = rng.uniform(93.0, 110.0), rng.uniform(75.0, 87.0)
    return (a, b, c, alpha, beta, gamma), OTHERS[family]


def _spots(
    u: FloatArray, b: FloatArray, family: str, centring: str, detector: Detector, how: Spoil, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Pixels (n, 2) and rates (n,) of all rays on the film."""
    hkl = _reachable(u, b, centring)
    q = hkl @ (u @ b).T
    length = np.linalg.norm(q, axis=1)
    normal = q / length[:, None]
    k_out = BEAM - 2.0 * (normal @ BEAM)[:, None] * normal
    pixels = detector.rays_to_pixels(k_out)
    seen = detector.sees(pixels)
    hkl, length, normal, k_out, pixels = hkl[seen], length[seen], normal[seen], k_out[seen], pixels[seen]
    sine = -normal[:, 2]
    wavelength = 4.0 * np.pi * sine / length
    flux = _tube(wavelength) if how.lines else np.maximum(wavelength / CUT_A - 1.0, 0.0) / wavelength**2
    stol2 = (length / (4.0 * np.pi)) ** 2
    f2 = (form_factor("Fe", stol2, "xray") * np.exp(-B_FACTOR_A2 * stol2)) ** 2
    rate = flux * wavelength / sine**2 * polarisation(k_out) * f2 * _scatter(hkl, b, family, how.sigma, seed)
    order = np.gcd.reduce(hkl, axis=1)
    _, first, ray = np.unique(hkl // order[:, None], axis=0, return_index=True, return_inverse=True)
    total = np.zeros(len(first))
    np.add.at(total, ray.reshape(-1), rate)
    bright = total > 0.0
    return pixels[first][bright], total[bright]


def _tube(wavelength: FloatArray) -> FloatArray:
    """The lab's spectrum (n,) at wavelengths (n,)."""
    spectrum = beam_spectrum(load_instrument("lab").beam)
    inside = (wavelength > spectrum.wavelength_min_a) & (wavelength < spectrum.wavelength_max_a)
    return np.where(inside, spectrum.at(wavelength), 0.0)


def _reachable(u: FloatArray, b: FloatArray, centring: str) -> NDArray[np.int64]:
    """Reflections (n, 3) within `Q_MAX` and 50 degrees of the beam's way back, that the lattice has."""
    most = np.floor(Q_MAX * np.linalg.norm(np.linalg.inv(b), axis=1)).astype(int)
    grid = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), -1).reshape(-1, 3)
    along = grid @ (u @ b)[2]
    grid = grid[along < 0.0]
    q2 = ((grid @ b.T) ** 2).sum(axis=1)
    grid = grid[(q2 <= Q_MAX**2) & (along[along < 0.0] ** 2 > 0.6 * q2)]
    return np.asarray(grid[multiple(grid, centring) == 1])


def _scatter(hkl: NDArray[np.int64], b: FloatArray, family: str, sigma: float, seed: int) -> FloatArray:
    """Log-normal factors (n,), the same for all equivalents and in all frames."""
    if sigma == 0.0 or len(hkl) == 0:
        return np.ones(len(hkl))
    turns = [np.rint(np.linalg.inv(b) @ s @ b).astype(np.int64) for s in holohedry(family)]
    images = np.stack([hkl @ t.T for t in turns] + [-hkl @ t.T for t in turns], axis=1)
    keys = ((images[..., 0] + 512) * 1024 + images[..., 1] + 512) * 1024 + images[..., 2] + 512
    # A normal number from each orbit's key, by Box and Muller (1958), so that every frame sees the same crystal.
    state = np.bitwise_xor(keys.max(axis=1).astype(np.uint64), np.uint64(seed))
    first, second = _hashed(state), _hashed(state + np.uint64(0x9E3779B97F4A7C15))
    return np.asarray(np.exp(sigma * np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)))


def _hashed(state: NDArray[np.uint64]) -> FloatArray:
    """Uniform numbers (n,) in (0, 1) from integers (n,): the mixer of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return np.asarray(((x >> np.uint64(11)).astype(float) + 0.5) / 2.0**53)


def _list(
    pixels: FloatArray, rates: FloatArray, detector: Detector, how: Spoil, rng: np.random.Generator
) -> SpotList:
    n = len(pixels)
    kept = rng.permutation(n)[: round(n * (1.0 - how.missing))]
    wanted = round(n * how.false)
    found = np.concatenate(
        [pixels[kept] + how.noise_px * rng.normal(size=(len(kept), 2)), anywhere(detector, wanted, rng)]
    )
    counts = 1e4 * np.concatenate([rates[kept], rng.choice(rates, wanted)]) / rates.max()
    middle = 0.5 * (np.array(detector.shape[::-1]) - 1.0)
    there = np.ones(len(found), dtype=bool)
    if how.film <= 0.5:
        there &= found[:, 0] < middle[0]
    if how.film <= 0.25:
        there &= found[:, 1] < middle[1]
    index = np.flatnonzero(there)
    index = index[np.argsort(-counts[index], kind="stable")]
    covariance = np.tile(np.eye(2) * max(how.noise_px, 0.05) ** 2, (len(index), 1, 1))
    counts = counts[index]
    return SpotList(found[index], covariance, counts, np.sqrt(counts), np.zeros(len(index), dtype=np.bool_))
