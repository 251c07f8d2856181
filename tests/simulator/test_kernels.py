"""The compiled kernels against the plain reference, and detectors packed and plain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lauepilot.simulator import corrections
from lauepilot.simulator.conventions import HC_KEV_A, random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.kernels import on_sensor, pack_detector, project, trace_batch
from lauepilot.simulator.laue import RayTable, beam_spectrum, cached_table, predict_spots
from lauepilot.simulator.reference import (
    ReferenceSpot,
    primitive_directions,
    reference_pattern,
    reference_spot,
)
from lauepilot.simulator.spectra import Spectrum

CASES = [
    ("si", "lab"),
    ("quartz", "lab"),
    ("si", "bm32"),
    ("ybco", "bm32"),
    ("feps3", "bm32"),
    ("si", "koala"),
]


def smooth(spot: ReferenceSpot, table: RayTable, spectrum: Spectrum) -> bool:
    """Whether beam and absorption are straight lines, to 2 %, over the table's steps around each harmonic.

    The table cannot hold what is narrower than its steps: a tube's lines, absorption edges, the ends of the band.
    """
    crystal, instrument = table.crystal, table.instrument
    low, high = spectrum.wavelength_min_a, spectrum.wavelength_max_a
    bent, total = 0.0, spot.rate_per_s
    longest = 4 * np.pi * spot.sin_theta / float(crystal.q_length(spot.hkl))
    for order in range(1, round(longest / low) + 2):
        wavelength = longest / order
        half = wavelength * table.sin_theta_step / spot.sin_theta + (high - low) / 599
        if abs(wavelength - low) < half or abs(wavelength - high) < half:
            return False
    for harmonic in spot.harmonics:
        half = harmonic.wavelength_a * table.sin_theta_step / spot.sin_theta + (high - low) / 599
        near = harmonic.wavelength_a + half * np.linspace(-1, 1, 41)
        curve = spectrum.at(near)
        if instrument.beam.radiation == "xray":
            mu = corrections.crystal_attenuation_per_mm(
                crystal.atoms.counts(), crystal.volume_a3, HC_KEV_A / near
            )
            curve = curve * corrections.effective_depth_mm(mu, instrument.sample.thickness_mm)
        line = np.interp(near, near[[0, -1]], curve[[0, -1]])
        bent += harmonic.rate_per_s * float(np.abs(curve - line).max() / curve.max())
    return bent < 0.02 * total


@pytest.mark.parametrize(("name", "where"), CASES)
def test_kernel_is_the_reference(name: str, where: str) -> None:
    """Positions to 1e-6 px; rates to 3 % (median 0.3 %) wherever beam and absorption are smooth.

    Half a percent of the brightest is allowed on top: the table leaves out faint harmonics of faint rays.
    """
    crystal, instrument = load_crystal(name), load_instrument(where)
    table, spectrum = RayTable.build(crystal, instrument), beam_spectrum(instrument.beam)
    u = random_rotation(np.random.default_rng(3))
    spots = predict_spots(table, u)
    assert len(spots) > 10
    errors = []
    for j in range(min(len(spots), 60)):
        spot = reference_spot(crystal, instrument, table.hkl[spots.ray[j]], u, None, spectrum)
        assert spot is not None
        np.testing.assert_allclose(spots.pixels[j], spot.pixel, atol=1e-6)
        np.testing.assert_allclose(spots.k_out[j], spot.k_out, atol=1e-12)
        if smooth(spot, table, spectrum):
            off = abs(spots.rate_per_s[j] - spot.rate_per_s)
            assert off < 0.03 * spot.rate_per_s + 0.005 * spots.rate_per_s.max()
            errors.append(off / spot.rate_per_s)
    assert len(errors) >= (5 if where == "lab" else 10)
    assert np.median(errors) < 0.003


def test_nothing_bright_is_forgotten() -> None:
    """Every spot that the reference finds among all planes up to a length is in the kernel's list, if it is bright."""
    crystal, instrument = load_crystal("cu"), load_instrument("bm32")
    # The table keeps rays by their mean over the detector: a fainter limit, since one may be bright at its own place only.
    table = RayTable.build(crystal, instrument, min_relative=1e-3)
    u = random_rotation(np.random.default_rng(8))
    spots = predict_spots(table, u)
    listed = {tuple(h) for h in table.hkl[spots.ray].tolist()}
    reference = reference_pattern(crystal, instrument, u, 16.0)
    bright = [s for s in reference if s.rate_per_s > 0.03 * reference[0].rate_per_s]
    assert len(bright) >= 6
    assert {s.hkl for s in bright} <= listed
    everywhere = {tuple(h) for h in primitive_directions(crystal, 16.0).tolist()}
    assert {h for h in listed if crystal.q_length(h) <= 16.0} <= everywhere


def test_a_spot_is_the_sum_of_its_orders() -> None:
    """100, 200, 300 ... of NaCl fall on one spot: its rate is their sum, each by itself from a beam that holds it alone."""
    crystal, instrument = load_crystal("nacl"), load_instrument("koala")
    table, spectrum = cached_table(crystal, instrument), beam_spectrum(instrument.beam)
    ray = int(np.flatnonzero((table.hkl == [1, 0, 0]).all(axis=1))[0])
    assert (table.order[ray][table.rate[ray] > 0] % 2 == 0).all()
    u = random_rotation(np.random.default_rng(0), 400)
    u = next(x for x in u if ray in predict_spots(table, x).ray)
    spots = predict_spots(table, u)
    mine = int(np.flatnonzero(spots.ray == ray)[0])
    spot = reference_spot(crystal, instrument, (1, 0, 0), u, None, spectrum)
    assert spot is not None
    orders = [h for h in spot.harmonics if h.rate_per_s > 1e-9 * spot.rate_per_s]
    assert len(orders) >= 2
    assert all(h.hkl[0] % 2 == 0 for h in orders)
    assert spots.rate_per_s[mine] == pytest.approx(sum(h.rate_per_s for h in orders), rel=0.01)
    np.testing.assert_array_equal(spots.hkl[mine], max(orders, key=lambda h: h.rate_per_s).hkl)


@given(st.sampled_from(["lab", "bm32", "koala"]), st.integers(0, 10_000))
def test_projection_is_the_detectors(where: str, seed: int) -> None:
    detector = load_instrument(where).detector
    packed = pack_detector(detector)
    rays = random_rotation(np.random.default_rng(seed), 30)[:, 0]
    plain = detector.rays_to_pixels(rays)
    for ray, pixel in zip(rays, plain, strict=True):
        col, row, meets = project(packed, *ray)
        assert meets == bool(np.isfinite(pixel).all())
        if meets:
            np.testing.assert_allclose([col, row], pixel, rtol=1e-12, atol=1e-9)
            assert on_sensor(packed, col, row) == bool(detector.sees(pixel))


def lists(
    result: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]], k: int
) -> tuple:
    ray, pixel, rate, ends = result
    part = slice(ends[k], ends[k + 1])
    return ray[part], pixel[part], rate[part]


@pytest.mark.parametrize("where", ["lab", "bm32", "koala"])
def test_a_batch_is_its_patterns_one_by_one(where: str) -> None:
    table = cached_table(load_crystal("si"), load_instrument(where))
    packed = pack_detector(table.instrument.detector)
    us = random_rotation(np.random.default_rng(1), 5)
    batch = trace_batch(us, table, packed, table.polarisation)
    assert batch[3][0] == 0
    assert batch[3][-1] == len(batch[0])
    for k, u in enumerate(us):
        for a, b in zip(
            lists(batch, k), lists(trace_batch(u[None], table, packed, table.polarisation), 0), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        assert np.all(np.diff(lists(batch, k)[0]) > 0)


def test_spots_off_the_sensor_are_listed_if_asked_for() -> None:
    table = cached_table(load_crystal("si"), load_instrument("lab"))
    u = random_rotation(np.random.default_rng(1))
    seen, all_of_them = predict_spots(table, u), predict_spots(table, u, on_sensor=False)
    on = table.instrument.detector.sees(all_of_them.pixels)
    np.testing.assert_array_equal(all_of_them.ray[on], seen.ray)
    assert len(all_of_them) > len(seen)


def test_neutrons_are_not_polarised() -> None:
    table = cached_table(load_crystal("si"), load_instrument("koala"))
    assert table.polarisation is None
    xray = cached_table(load_crystal("si"), load_instrument("bm32"))
    dim = replace(xray.instrument, beam=replace(xray.instrument.beam, polarisation=-0.95))
    u = random_rotation(np.random.default_rng(4))
    a, b = predict_spots(xray, u), predict_spots(RayTable.build(xray.crystal, dim), u)
    ratio = corrections.polarisation(a.k_out, 0.95) / corrections.polarisation(a.k_out, -0.95)
    np.testing.assert_allclose(a.rate_per_s / b.rate_per_s, ratio, rtol=1e-6)
