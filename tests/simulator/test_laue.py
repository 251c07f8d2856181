"""Laue patterns: conservation laws, the accepted fits of real frames, and LaueTools itself where it is installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lauepilot.bench import lauetools
from lauepilot.perception.files.lauetools import LaueToolsFit, read_fit
from lauepilot.simulator.conventions import HC_KEV_A, axis_rotation, random_rotation
from lauepilot.simulator.crystal import Crystal, load_crystal
from lauepilot.simulator.instrument import Instrument, InstrumentError, load_instrument
from lauepilot.simulator.laue import RayTable, beam_spectrum, cached_table, predict_spots, sin_theta_range

names = st.sampled_from(["si", "quartz", "feps3"])
PLACES = {name: load_instrument(name) for name in ("lab", "bm32", "koala")}
places = st.sampled_from(list(PLACES))


@given(names, places, st.integers(0, 10_000))
def test_braggs_law_and_elastic_scattering(name: str, where: str, seed: int) -> None:
    crystal = load_crystal(name)
    table = cached_table(crystal, PLACES[where])
    u = random_rotation(np.random.default_rng(seed))
    spots = predict_spots(table, u)
    np.testing.assert_allclose(np.linalg.norm(spots.k_out, axis=1), 1.0, atol=1e-12)
    # The angle on the detector, not the one of the calculation.
    ray = table.instrument.detector.pixels_to_rays(spots.pixels)
    theta = 0.5 * np.arccos(np.clip(ray[:, 2], -1, 1))
    d = 2 * np.pi / crystal.q_length(spots.hkl)
    np.testing.assert_allclose(spots.energy_kev, HC_KEV_A / (2 * d * np.sin(theta)), rtol=1e-7)
    # k_out - k_in is the reciprocal-lattice vector that it names.
    k = 2 * np.pi * spots.energy_kev / HC_KEV_A
    q = k[:, None] * (spots.k_out - [0.0, 0.0, 1.0])
    np.testing.assert_allclose(q, spots.hkl @ crystal.b.T @ u.T, atol=1e-9)


@given(names, st.integers(0, 10_000), st.floats(-3, 3))
def test_turning_crystal_and_detector_about_the_beam_changes_nothing(
    name: str, seed: int, angle: float
) -> None:
    table = cached_table(load_crystal(name), PLACES["lab"])
    turn, u = axis_rotation([0, 0, 1], angle), random_rotation(np.random.default_rng(seed))
    detector = table.instrument.detector
    before = predict_spots(table, u, on_sensor=False)
    turned = predict_spots(
        table, turn @ u, replace(detector, rotation=turn @ detector.rotation), on_sensor=False
    )
    np.testing.assert_array_equal(turned.ray, before.ray)
    np.testing.assert_allclose(turned.pixels, before.pixels, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(turned.rate_per_s, before.rate_per_s, rtol=1e-6)


@pytest.mark.parametrize("name", ["si", "yfe2ge2", "kyanite"])
def test_symmetry_of_the_crystal_is_that_of_its_patterns(name: str) -> None:
    crystal = load_crystal(name)
    table = RayTable.build(crystal, load_instrument("bm32"))
    u = random_rotation(np.random.default_rng(5))
    before = predict_spots(table, u)
    for s in crystal.symmetry:
        after = predict_spots(table, u @ s)
        assert len(after) == len(before)
        order, other = (np.lexsort(np.round(x.pixels, 3).T) for x in (before, after))
        np.testing.assert_allclose(after.pixels[other], before.pixels[order], atol=1e-5)
        np.testing.assert_allclose(after.rate_per_s[other], before.rate_per_s[order], rtol=1e-4)


def test_every_harmonic_named_is_in_the_beam_and_not_absent() -> None:
    crystal = load_crystal("si")
    table = cached_table(crystal, load_instrument("bm32"))
    spots = predict_spots(table, random_rotation(np.random.default_rng(1)))
    assert np.abs(crystal.structure_factors(spots.hkl)).min() > 0.1
    h, k, l = spots.hkl.T
    same = (h % 2 == k % 2) & (k % 2 == l % 2)
    assert np.all(same)
    band = beam_spectrum(table.instrument.beam)
    assert np.all(spots.energy_kev < 1.01 * HC_KEV_A / band.wavelength_min_a)
    assert np.all(spots.energy_kev > 0.99 * HC_KEV_A / band.wavelength_max_a)


def test_range_of_angles() -> None:
    low, high = sin_theta_range(load_instrument("lab").detector, margin=0.0)
    # The middle of a back-reflection film is at 2theta = 180, its corner at 180 - atan(70.7 / 40).
    assert high == pytest.approx(1.0, abs=1e-3)
    assert low == pytest.approx(np.sin(np.pi / 2 - np.arctan2(50 * np.sqrt(2), 40) / 2), abs=0.01)


def test_no_reflection_at_all() -> None:
    instrument = load_instrument("bm32")
    spectrum = {**instrument.beam.spectrum, "energy_range_kev": [1.0, 1.2], "cut_width_kev": 0.0}
    soft = replace(instrument, beam=replace(instrument.beam, spectrum=spectrum))
    with pytest.raises(InstrumentError, match="No reflection of 'cu' can be reached"):
        RayTable.build(load_crystal("cu"), soft)


# ------------------------------------------------------------------------------------------ real frames and LaueTools


def band(low: float, high: float) -> Instrument:
    return lauetools.bm32_band(low, high)


def at_home(crystal: Crystal, fit: LaueToolsFit) -> Crystal:
    """The crystal with the cell that the fit used (a label says Si where the cell may be strained)."""
    return replace(crystal, b=fit.b)


@pytest.mark.parametrize(
    ("file", "name"), [("3C-SiC_img_10066", "3c-sic"), ("Ge0001", "ge"), ("Ge_blanc_0000_LT_5", "ge")]
)
def test_accepted_fits_of_real_frames(shared_data: Path, file: str, name: str) -> None:
    """With the fit's geometry and orientation our spots are the measured ones, better than the fit's mean residual."""
    fit = read_fit(shared_data / "laue" / f"{file}.fit")
    assert fit.geometry is not None
    detector = fit.geometry.to_detector()
    instrument = band(5.0, 27.0).with_detector(detector)
    table = RayTable.build(at_home(load_crystal(name), fit), instrument, min_relative=1e-7)
    spots = predict_spots(table, fit.u_lab)
    index = {tuple(h): j for j, h in enumerate(table.hkl[spots.ray].tolist())}
    primitive = fit.hkl // np.gcd.reduce(fit.hkl, axis=1)[:, None]
    found = np.array([index.get(tuple(h), -1) for h in primitive.tolist()])
    assert np.all(found >= 0)
    calculated = np.linalg.norm(spots.pixels[found] - fit.predicted_px, axis=1)
    measured = np.linalg.norm(spots.pixels[found] - fit.pixels, axis=1)
    # The files' geometry has three decimals: 0.013 px at the corner.
    assert calculated.max() < 0.015
    assert measured.mean() <= fit.mean_residual_px + 0.001
    order = np.gcd.reduce(fit.hkl, axis=1) / np.gcd.reduce(spots.hkl[found], axis=1)
    np.testing.assert_allclose(spots.energy_kev[found] * order, fit.energy_kev, rtol=2e-4)


@pytest.mark.parametrize("name", ["si", "ge", "cu"])
def test_lauetools_own_simulation(name: str) -> None:
    """The same spots with the same pixels, indices and energies as LaueTools simulates for bm32, 5-22 keV."""
    peer = lauetools.load()
    if peer is None:
        pytest.skip("LaueTools is not installed (benchmarks/README.md says how)")
    instrument, crystal = band(5.0, 22.0), load_crystal(name)
    table = RayTable.build(crystal, instrument, min_relative=1e-9)
    for u in random_rotation(np.random.default_rng(2), 3):
        theirs = peer.simulate(crystal, instrument.detector, u, (5.0, 22.0), harmonics=True)
        spots = predict_spots(table, u)
        on = instrument.detector.sees(theirs.pixels)
        assert on.sum() > 20
        mine = {tuple(h): j for j, h in enumerate(table.hkl[spots.ray].tolist())}
        primitive = theirs.hkl[on] // np.gcd.reduce(theirs.hkl[on], axis=1)[:, None]
        found = np.array([mine.get(tuple(h), -1) for h in primitive.tolist()])
        assert np.all(found >= 0)
        np.testing.assert_allclose(spots.pixels[found], theirs.pixels[on], atol=1e-6)
        order = np.gcd.reduce(theirs.hkl[on], axis=1) / np.gcd.reduce(spots.hkl[found], axis=1)
        # Their hc is 12.398 keV angstrom.
        np.testing.assert_allclose(spots.energy_kev[found] * order, theirs.energy_kev[on], rtol=5e-5)
        # And we have none that they have not, but faint ones (the quasi-forbidden of silicon among them) and those with
        # a harmonic so near to an end of the band that it falls between two entries of the ray table.
        listed = {tuple(h) for h in primitive.tolist()}
        first = spots.energy_kev / np.gcd.reduce(spots.hkl, axis=1)
        orders = first[:, None] * np.arange(1, 12)
        clear = ~((np.abs(orders - 5.0) < 0.3) | (np.abs(orders - 22.0) < 1.2)).any(axis=1)
        clear &= spots.rate_per_s > 1e-4 * spots.rate_per_s.max()
        assert clear.sum() > 10
        extra = [h for h in table.hkl[spots.ray[clear]].tolist() if tuple(h) not in listed]
        assert extra == []
