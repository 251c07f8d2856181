"""Beams against SpekPy, the published lines, analytic maxima and moments, and quadrature."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import spekpy
import xraydb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import constants, integrate, special

from lauepilot.simulator import sources
from lauepilot.simulator import spectra as s
from lauepilot.simulator.conventions import HC_KEV_A
from lauepilot.simulator.corrections import linear_attenuation_per_mm, transmission

LAB = {"Be": 0.3, "air": 200.0}


def test_spectrum_is_zero_outside_and_straight_inside() -> None:
    beam = s.Spectrum("xray", np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 0.0]), "three points")
    np.testing.assert_allclose(beam.at([[0.99, 1.0], [1.5, 3.0]]), [[0.0, 2.0], [3.0, 2.0]])
    assert float(beam.at(4.01)) == 0.0
    assert beam.total() == pytest.approx(3.0 + 4.0)
    assert (beam.wavelength_min_a, beam.wavelength_max_a) == (1.0, 4.0)
    assert beam.scaled(2.5).total() == pytest.approx(17.5)


def test_spectrum_is_locked_against_changes() -> None:
    wavelength = np.array([1.0, 2.0])
    beam = s.Spectrum("neutron", wavelength, np.array([1.0, 1.0]))
    wavelength[0] = 0.1
    assert beam.wavelength_min_a == 1.0
    with pytest.raises(ValueError, match="read-only"):
        beam.flux[0] = 3.0


@pytest.mark.parametrize(
    ("radiation", "wavelength", "flux", "message"),
    [
        ("light", [1, 2], [1, 1], "'light'"),
        ("xray", [1, 2, 3], [1, 1], "one length"),
        ("xray", [1], [1], "one length"),
        ("xray", [2, 1], [1, 1], "ascending"),
        ("xray", [1, 1], [1, 1], "ascending"),
        ("xray", [0, 1], [1, 1], "positive"),
        ("xray", [1, 2], [1, -1], "-1.0"),
        ("xray", [1, 2], [1, np.nan], "nan"),
    ],
)
def test_bad_spectra_are_refused(
    radiation: s.Radiation, wavelength: list[float], flux: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        s.Spectrum(radiation, np.array(wavelength, dtype=float), np.array(flux, dtype=float))


@given(st.floats(0.1, 800.0))
def test_energy_and_wavelength_are_inverse(energy: float) -> None:
    assert float(s.energy_from_wavelength(s.wavelength_from_energy(energy))) == pytest.approx(energy)


def test_copper_k_alpha_is_1_5406_angstrom() -> None:
    assert float(s.wavelength_from_energy(8.0478)) == pytest.approx(1.5406, abs=1e-4)


# --- Tube -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kv", "anode"), [(20.0, "W"), (30.0, "W"), (50.0, "W"), (45.0, "Mo")])
def test_tube_agrees_with_spekpy_filtered_by_spekpy(kv: float, anode: str) -> None:
    """Absolute photons in 1 keV bands above 5 keV; filters and air density differ by up to 2 %."""
    beam = s.tungsten_tube(kv, LAB, current_ma=2.0, distance_mm=250.0, anode=anode)
    tube = spekpy.Spek(kvp=kv, th=12, dk=0.05, physics="casim", targ=anode, z=25.0, mas=2.0)
    tube.multi_filter([("Be", 0.3), ("Air", 200.0)])
    energy, per_cm2_kev = tube.get_spectrum(edges=False, flu=True, diff=True)
    below = np.concatenate([[0.0], np.cumsum(per_cm2_kev * 0.05 / 100.0)])
    edges = np.concatenate([energy - 0.025, energy[-1:] + 0.025])
    bands = np.arange(5.0, kv, 1.0)
    theirs = np.diff(np.interp(bands, edges, below))
    fine = np.linspace(HC_KEV_A / kv, 3.0, 400_001)
    cumulative = np.concatenate([[0.0], integrate.cumulative_trapezoid(beam.at(fine), fine)])
    ours = -np.diff(np.interp(HC_KEV_A / bands, fine, cumulative))
    # At 40 keV one step of the wavelength grid is 0.13 keV, so bands near the cut-off share some photons.
    np.testing.assert_allclose(ours, theirs, rtol=0.03, atol=0.01 * theirs.max())
    assert ours.sum() == pytest.approx(theirs.sum(), rel=0.01)


def test_tube_keeps_every_photon() -> None:
    """The trapezoidal total of the grid is the sum over SpekPy's bins, filtered with the same tables."""
    tube = spekpy.Spek(kvp=30, th=12, dk=0.05, physics="casim", z=100.0, mas=1.0)
    energy, per_cm2_kev = tube.get_spectrum(edges=False, flu=True, diff=True)
    passed = per_cm2_kev * transmission(linear_attenuation_per_mm("Al", energy), 0.2)
    beam = s.tungsten_tube(30.0, {"Al": 0.2}, 1.0, 1000.0, wavelength_max_a=HC_KEV_A / 1.0)
    assert beam.total() == pytest.approx(passed.sum() * 0.05 / 100.0, rel=1e-9)


@pytest.mark.parametrize("kv", [10.0, 33.333, 60.0])
def test_bins_of_the_bare_tube_reach_from_one_kev_to_the_voltage(kv: float) -> None:
    edges, photons = sources.unfiltered_tube(kv, "W", 12.0)
    assert 1.0 - 1e-9 <= edges[0] <= 1.0 + sources.LINE_WIDTH_KEV
    assert edges[-1] == pytest.approx(kv, abs=1e-9)
    assert photons.shape == (edges.size - 1,)
    assert (photons >= 0.0).all()


def test_tube_ends_at_the_cut_off_of_duane_and_hunt() -> None:
    beam = s.tungsten_tube(30.0, LAB, 1.0, 300.0)
    assert beam.wavelength_min_a == pytest.approx(12.39842 / 30.0, rel=1e-6)
    assert float(beam.at(beam.wavelength_min_a - 1e-6)) == 0.0


@pytest.mark.parametrize(("anode", "line"), [("W", "La1"), ("W", "Lb1"), ("Mo", "Ka1")])
def test_tube_has_the_lines_of_its_anode(anode: str, line: str) -> None:
    beam = s.tungsten_tube(45.0, LAB, 1.0, 300.0, anode=anode)
    published = HC_KEV_A / xraydb.xray_lines(anode)[line].energy * 1e3
    half_width = 0.5 * sources.LINE_WIDTH_KEV * published**2 / HC_KEV_A + 2 * s.GRID_STEP_A
    near = np.abs(beam.wavelength_a - published) < half_width
    away = np.abs(np.abs(beam.wavelength_a - published) - 6 * half_width) < half_width
    assert beam.flux[near].max() > 2.0 * np.median(beam.flux[away])


def test_tube_goes_with_current_and_inverse_square_of_distance() -> None:
    one = s.tungsten_tube(30.0, LAB, 1.0, 300.0).total()
    assert s.tungsten_tube(30.0, LAB, 30.0, 600.0).total() == pytest.approx(30.0 / 4.0 * one)


def test_tube_answers_in_time_and_remembers() -> None:
    start = time.process_time()  # processor time: a busy machine must not fail the test
    first = s.tungsten_tube(37.0, LAB, 1.0, 300.0)
    assert time.process_time() - start < 3.0
    assert s.tungsten_tube(37.0, dict(reversed(LAB.items())), 1.0, 300.0) is first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv": 5.0}, "10 to 500 kV"),
        ({"anode": "Co"}, "'Co'"),
        ({"kv": 60.0, "anode": "Mo"}, "10 to 50 kV"),
        ({"anode_angle_deg": 0.0}, "anode angle"),
        ({"current_ma": 0.0}, "current_ma"),
        ({"distance_mm": -1.0}, "distance"),
        ({"wavelength_max_a": 0.2}, "cut-off"),
        ({"wavelength_max_a": 20.0}, "12.40"),
        ({"filtration_mm": {"Berylium": 1.0}}, "Berylium"),
        ({"filtration_mm": {"Be": -1.0}}, "thickness"),
    ],
)
def test_tube_refuses_settings_outside_its_model(change: dict[str, object], message: str) -> None:
    settings_of_tube: dict[str, object] = {
        "kv": 30.0,
        "filtration_mm": LAB,
        "current_ma": 1.0,
        "distance_mm": 300.0,
    }
    with pytest.raises(ValueError, match=message):
        s.tungsten_tube(**(settings_of_tube | change))  # type: ignore[arg-type]


# --- Bending magnet ---------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 20.0))
def test_universal_function_is_its_integral(y: float) -> None:
    integral, _ = integrate.quad(
        lambda t: special.kv(5 / 3, t), y, y + 60.0, epsabs=0.0, epsrel=1e-11, limit=400
    )
    assert float(sources.universal_g1(y)) == pytest.approx(y * integral, rel=1e-9)


def test_universal_function_has_its_published_values() -> None:
    """X-ray Data Booklet: G1(1) = 0.6514, maximum 0.918 at 0.286; E_c halves the power."""
    assert float(sources.universal_g1(1.0)) == pytest.approx(0.6514, abs=1e-4)
    grid = np.linspace(0.2, 0.4, 20_001)
    assert grid[sources.universal_g1(grid).argmax()] == pytest.approx(sources.G1_PEAK, abs=2e-5)
    assert float(sources.universal_g1(sources.G1_PEAK)) == pytest.approx(0.918, abs=1e-3)
    power = [
        integrate.quad(lambda y: float(sources.universal_g1(y)), *ends)[0]
        for ends in ((1e-9, 1.0), (1.0, 60.0))
    ]
    assert power[0] == pytest.approx(power[1], rel=1e-3)
    assert sum(power) == pytest.approx(8 * math.pi / (9 * math.sqrt(3)), rel=1e-6)


def test_bending_magnet_peaks_at_the_given_flux() -> None:
    beam = s.bending_magnet(20.0, 1e9, (2.0, 60.0))
    per_bandwidth = beam.flux * beam.wavelength_a * 1e-3
    assert per_bandwidth.max() == pytest.approx(1e9, rel=1e-5)
    assert HC_KEV_A / beam.wavelength_a[per_bandwidth.argmax()] == pytest.approx(0.2858 * 20.0, rel=0.01)


def test_bending_magnet_counts_photons_as_in_energy() -> None:
    """The total over wavelengths is the integral over dE / E of the flux per relative bandwidth."""
    beam = s.bending_magnet(19.2, 1e9, (5.0, 23.0))
    peak = float(sources.universal_g1(sources.G1_PEAK))
    expected, _ = integrate.quad(lambda e: 1e12 * float(sources.universal_g1(e / 19.2)) / peak / e, 5.0, 23.0)
    assert beam.total() == pytest.approx(expected, rel=1e-5)
    assert (beam.wavelength_min_a, beam.wavelength_max_a) == pytest.approx((HC_KEV_A / 23.0, HC_KEV_A / 5.0))


def test_soft_edges_halve_the_flux_at_the_cut_offs_and_filters_take_the_soft_end() -> None:
    sharp, soft = s.bending_magnet(20.0, 1e9), s.bending_magnet(20.0, 1e9, cut_width_kev=0.3)
    wide = s.bending_magnet(20.0, 1e9, (2.0, 60.0))
    edges = HC_KEV_A / np.array([5.0, 23.0])
    np.testing.assert_allclose(soft.at(edges) / wide.at(edges), 0.5, atol=2e-3)
    assert float(soft.at(1.0)) == pytest.approx(float(sharp.at(1.0)), rel=1e-5)
    filtered = s.bending_magnet(20.0, 1e9, filtration_mm={"Al": 0.1})
    mu_per_cm = xraydb.material_mu(
        "Al", HC_KEV_A / sharp.wavelength_a * 1e3, density=xraydb.atomic_density("Al")
    )
    np.testing.assert_allclose(filtered.flux / sharp.flux, np.exp(-0.01 * mu_per_cm), rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0), "critical_energy_kev"),
        ((20.0, -1.0), "flux_peak"),
        ((20.0, 1.0, (23.0, 5.0)), "ascend"),
        ((20.0, 1.0, (0.0, 5.0)), "lowest"),
    ],
)
def test_bending_magnet_refuses_nonsense(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        s.bending_magnet(*arguments)  # type: ignore[arg-type]


# --- Neutrons ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [20.0, 300.0, 2000.0])
def test_maxwellian_has_its_analytic_maximum_and_moments(temperature: float) -> None:
    scale = constants.h / math.sqrt(2 * constants.m_n * constants.k * temperature) * 1e10
    beam = s.maxwellian(temperature, 5e6, 0.05 * scale, 60.0 * scale)
    wavelength, flux = beam.wavelength_a, beam.flux
    assert beam.radiation == "neutron"
    assert beam.total() == pytest.approx(5e6, rel=1e-12)
    assert wavelength[flux.argmax()] == pytest.approx(scale * math.sqrt(0.4), abs=2 * s.GRID_STEP_A)
    mean = np.trapezoid(flux * wavelength, wavelength) / beam.total()
    assert mean == pytest.approx(scale * math.sqrt(math.pi) / 2, rel=1e-3)
    inverse_square = np.trapezoid(flux / wavelength**2, wavelength) / beam.total()
    assert inverse_square * scale**2 == pytest.approx(2.0, rel=1e-3)  # the mean energy in a beam is 2 k T


def test_maxwellian_is_cut_and_survives_underflow() -> None:
    beam = s.maxwellian(300.0, 1e6, 0.01, 4.0)
    assert np.isfinite(beam.flux).all()
    assert float(beam.at(4.001)) == 0.0
    with pytest.raises(ValueError, match="temperature_k"):
        s.maxwellian(0.0, 1e6, 0.85, 4.0)
    with pytest.raises(ValueError, match="exceed"):
        s.maxwellian(300.0, 1e6, 4.0, 0.85)


# --- Tables -----------------------------------------------------------------------------------------------


def test_table_over_energy_keeps_the_photons() -> None:
    energy = np.linspace(5.0, 25.0, 4001)
    per_kev = 1e6 * np.exp(-energy / 8.0)
    beam = s.tabulated(per_kev, energy_kev=energy, label="fall-off")
    assert beam.total() == pytest.approx(8e6 * (math.exp(-5 / 8) - math.exp(-25 / 8)), rel=1e-5)
    assert (beam.wavelength_min_a, beam.wavelength_max_a) == pytest.approx((HC_KEV_A / 25, HC_KEV_A / 5))


def test_table_may_descend_and_wants_one_abscissa() -> None:
    beam = s.tabulated([3.0, 1.0], wavelength_a=[2.0, 1.0], radiation="neutron")
    np.testing.assert_allclose(beam.flux, [1.0, 3.0])
    with pytest.raises(ValueError, match="exactly one"):
        s.tabulated([1.0, 2.0])
    with pytest.raises(ValueError, match="Neutrons"):
        s.tabulated([1.0, 2.0], energy_kev=[1.0, 2.0], radiation="neutron")
    with pytest.raises(ValueError, match="as long as flux"):
        s.tabulated([1.0, 2.0], energy_kev=[1.0, 2.0, 3.0])


def test_csv_is_read_with_comments_and_other_columns(tmp_path: Path) -> None:
    file = tmp_path / "koala.csv"
    text = "# measured 2020\nwavelength_a, flux, error\n\n1.0, 10, 1\n# dead\n2.0, 30, 1\n"
    file.write_text(text, encoding="utf-8")
    beam = s.from_csv(file, radiation="neutron")
    assert (beam.label, beam.radiation, float(beam.at(1.5))) == ("koala", "neutron", 20.0)
    file.write_text("energy_kev,flux\n5,1\n10,1\n", encoding="utf-8")
    assert s.from_csv(file).wavelength_max_a == pytest.approx(HC_KEV_A / 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns are none"),
        ("energy,flux\n1,2\n", "columns are energy, flux"),
        ("wavelength_a,flux\n1,2\n2,abc\n", "line 3, column flux: wants a number; 'abc'"),
        ("wavelength_a,flux\n1,2\n2\n", "line 3, column flux"),
        ("wavelength_a,flux\n1,2\n", "columns wavelength_a and flux"),
        ("wavelength_a,flux\n1,2\n2,-3\n", "beam.csv.*-3"),
        ("energy_kev,wavelength_a,flux\n", "one of"),
    ],
)
def test_bad_csv_is_named_by_file_and_column(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "beam.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        s.from_csv(file)


def test_missing_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        s.from_csv(tmp_path / "none.csv")
