"""Factors against NIST's tables, SpekPy's, xraydb's own materials, direct integration, and limits."""

from __future__ import annotations

import numpy as np
import pytest
import spekpy
import xraydb
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from lauepilot.simulator import corrections as c

unit_vectors = st.tuples(st.floats(0.0, np.pi), st.floats(-np.pi, np.pi)).map(
    lambda a: np.array([np.sin(a[0]) * np.cos(a[1]), np.sin(a[0]) * np.sin(a[1]), np.cos(a[0])])
)
degrees_of_polarisation = st.floats(-1.0, 1.0)


def test_electron_radius_is_the_published_one() -> None:
    assert pytest.approx(2.8179403e-5, rel=1e-7) == c.CLASSICAL_ELECTRON_RADIUS_A


# --- Lorentz and the absolute rate ------------------------------------------------------------------------


def test_rate_of_a_small_block_is_its_integrated_interference_function() -> None:
    """Sum the waves of every cell of a block over all wavelengths and directions around one reflection."""
    edge, cells, order, r = 4.0, 24, 2, c.CLASSICAL_ELECTRON_RADIUS_A
    theta = np.radians(65.0)
    wavelength_0 = 2 * edge / order * np.sin(theta)
    # Crystal frame: planes along e3, incident and scattered rays in the plane of e1 and e3.
    incident = np.array([np.cos(theta), 0.0, -np.sin(theta)])
    out_0 = np.array([np.cos(theta), 0.0, np.sin(theta)])
    in_plane = np.array([-np.sin(theta), 0.0, np.cos(theta)])
    across = np.array([0.0, 1.0, 0.0])
    span = np.linspace(-1.0, 1.0, 161) * 10.0 / cells  # ten fringes to each side
    wave, tilt, turn = np.meshgrid(
        wavelength_0 * (1 + 0.5 * span / order), 0.9 * span, 0.6 * span, indexing="ij"
    )
    out = (
        np.sqrt(1 - tilt**2 - turn**2)[..., None] * out_0
        + tilt[..., None] * in_plane
        + turn[..., None] * across
    )
    phases = (out - incident) * (2 * np.pi / wave * edge)[..., None] / 2
    at_maximum = np.abs(np.sin(phases)) < 1e-9
    fringes = np.where(at_maximum, cells, np.sin(cells * phases) / np.where(at_maximum, 1.0, np.sin(phases)))
    steps = [float(np.diff(axis)[0]) for axis in (wavelength_0 * 0.5 * span / order, 0.9 * span, 0.6 * span)]
    solid_angle = 1.0 / np.sqrt(1 - tilt**2 - turn**2)
    integral = float((np.prod(fringes**2, axis=-1) * solid_angle).sum() * np.prod(steps))
    structure_factor_squared, flux = 50.0, 1e9
    expected = flux * r**2 * 1e-14 * structure_factor_squared * integral  # 1 A^2 = 1e-14 mm^2
    rate = c.kinematical_rate(
        flux,
        c.lorentz_laue(wavelength_0, np.sin(theta)),
        structure_factor_squared,
        volume_mm3=(cells * edge * 1e-7) ** 3,
        cell_volume_a3=edge**3,
    )
    # The tails beyond ten fringes hold about 1 / (pi^2 * 10) of each of three directions.
    assert float(rate) == pytest.approx(expected, rel=0.05)


def test_lorentz_factor_values_and_refusals() -> None:
    np.testing.assert_allclose(c.lorentz_laue([1.0, 2.0], [1.0, 0.5]), [0.5, 32.0])
    with pytest.raises(ValueError, match="direct beam"):
        c.lorentz_laue(1.0, 0.0)
    with pytest.raises(ValueError, match="positive wavelengths"):
        c.lorentz_laue(-1.0, 0.5)


# --- Polarisation -----------------------------------------------------------------------------------------


@given(unit_vectors, degrees_of_polarisation)
def test_polarisation_is_a_share(k: np.ndarray, f: float) -> None:
    assert -1e-12 <= float(c.polarisation(k, f)) <= 1.0 + 1e-12


@given(unit_vectors, degrees_of_polarisation)
def test_quarter_turn_about_the_beam_swaps_the_degree(k: np.ndarray, f: float) -> None:
    turned = np.array([-k[1], k[0], k[2]])
    assert float(c.polarisation(turned, f)) == pytest.approx(float(c.polarisation(k, -f)), abs=1e-12)


@given(unit_vectors)
def test_unpolarised_beam_gives_the_textbook_factor(k: np.ndarray) -> None:
    cos_2theta = k[2]
    assert float(c.polarisation(k)) == pytest.approx((1 + cos_2theta**2) / 2, abs=1e-12)


@given(unit_vectors, degrees_of_polarisation)
def test_polarisation_is_the_mean_square_of_the_transverse_fields(k: np.ndarray, f: float) -> None:
    """The part of the swing that a wave into k can carry, by projection, for both partial waves."""
    projector = np.eye(3) - np.outer(k, k)
    x, y = projector @ [1.0, 0.0, 0.0], projector @ [0.0, 1.0, 0.0]
    assert float(c.polarisation(k, f)) == pytest.approx((1 + f) / 2 * x @ x + (1 - f) / 2 * y @ y, abs=1e-12)


def test_polarisation_radiates_two_thirds_over_the_sphere_whatever_the_degree() -> None:
    k = np.random.default_rng(3).normal(size=(200_000, 3))
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    for f in (-1.0, 0.0, 0.7):
        assert c.polarisation(k, f).mean() == pytest.approx(2 / 3, abs=3e-3)


def test_polarisation_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        c.polarisation([0.0, 0.0, 1.0], 1.5)
    with pytest.raises(ValueError, match="shape"):
        c.polarisation([0.0, 1.0])


# --- Attenuation ------------------------------------------------------------------------------------------

# Hubbell & Seltzer (1995), NIST: mu/rho in cm^2/g at an energy in keV.
NIST = [
    ("Be", 10.0, 0.6466),
    ("Al", 10.0, 26.23),
    ("Si", 10.0, 33.89),
    ("Si", 20.0, 4.464),
    ("Cu", 8.0, 52.55),
    ("Ge", 20.0, 42.22),
    ("W", 20.0, 65.73),
    ("Pb", 20.0, 86.36),
]


@pytest.mark.parametrize(("element", "energy", "mass_attenuation"), NIST)
def test_elements_agree_with_nist(element: str, energy: float, mass_attenuation: float) -> None:
    per_mm = c.linear_attenuation_per_mm(element, energy, density_g_cm3=2.0)
    assert float(per_mm) == pytest.approx(mass_attenuation * 2.0 / 10.0, rel=0.02)


@pytest.mark.parametrize(
    ("material", "density", "mass_attenuation"), [("air", 0.001225, 5.120), ("water", 1.0, 5.329)]
)
def test_materials_agree_with_nist_at_10_kev(material: str, density: float, mass_attenuation: float) -> None:
    per_mm = float(c.linear_attenuation_per_mm(material, 10.0))
    assert per_mm == pytest.approx(mass_attenuation * density / 10, rel=0.02)


@pytest.mark.parametrize("material", ["air", "kapton", "quartz"])
def test_named_materials_agree_with_xraydb(material: str) -> None:
    energy = np.linspace(4.0, 60.0, 40)
    np.testing.assert_allclose(
        c.linear_attenuation_per_mm(material, energy) * 10,
        xraydb.material_mu(material, energy * 1e3),
        rtol=1e-9,
    )


def test_formula_with_density_and_number_densities_agree() -> None:
    """NaCl three ways: 4 formula units in (5.6402 A)^3 are 2.163 g/cm^3."""
    energy = np.array([[5.0, 10.0], [20.0, 40.0]])
    by_formula = c.linear_attenuation_per_mm("NaCl", energy, density_g_cm3=2.1633)
    by_cell = c.crystal_attenuation_per_mm({"Na": 4, "Cl": 4}, 5.6402**3, energy)
    by_number = c.linear_attenuation_per_mm({"Na": 4 / 5.6402**3, "Cl": 4 / 5.6402**3}, energy)
    assert by_formula.shape == (2, 2)
    np.testing.assert_allclose(by_cell, by_formula, rtol=1e-3)
    np.testing.assert_allclose(by_number, by_cell, rtol=1e-12)


def test_silicon_cell_agrees_with_the_element() -> None:
    cell = c.crystal_attenuation_per_mm({"Si": 8}, 5.43102**3, 12.0)
    assert float(cell) == pytest.approx(
        float(c.linear_attenuation_per_mm("Si", 12.0, density_g_cm3=2.329)), rel=1e-3
    )


def test_cobalt_is_not_carbon_monoxide() -> None:
    assert float(c.linear_attenuation_per_mm("Co", 10.0)) == pytest.approx(
        xraydb.mu_elam("Co", 1e4) * xraydb.atomic_density("Co") / 10
    )


@pytest.mark.parametrize(
    ("material", "message"),
    [
        ("berylium", "beryllium"),
        ("Xx", "No X-ray attenuation"),
        ("CsI", "density_g_cm3"),
        ({"Xx": 1.0}, "not an element"),
        ({"Si": -1.0}, "negative"),
        ("", "No X-ray attenuation"),
    ],
)
def test_unknown_materials_are_named(material: str | dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        c.linear_attenuation_per_mm(material, 10.0)


def test_energies_outside_the_tables_are_refused() -> None:
    for energy in (8048.0, 0.01, np.nan):
        with pytest.raises(ValueError, match="keV"):
            c.linear_attenuation_per_mm("Si", energy)


def test_crystal_needs_a_volume_and_mappings_no_density() -> None:
    with pytest.raises(ValueError, match="volume"):
        c.crystal_attenuation_per_mm({"Si": 8}, 0.0, 10.0)
    with pytest.raises(ValueError, match="leave density_g_cm3 out"):
        c.linear_attenuation_per_mm({"Si": 0.05}, 10.0, density_g_cm3=2.3)


@pytest.mark.parametrize(
    ("name", "here", "density", "thickness"),
    [("Be", "Be", None, 1.0), ("Al", "Al", None, 0.5), ("Air", "air", 0.001205, 500.0)],
)
def test_filters_agree_with_spekpys_own_tables(
    name: str, here: str, density: float | None, thickness: float
) -> None:
    """Attenuation where at least a thousandth passes. SpekPy interpolates NIST's tables coarsely,
    so only energies close to tabulated ones count.
    """
    bare = spekpy.Spek(kvp=40, th=12, dk=0.1, physics="casim", mu_data_source="nist")
    filtered = spekpy.Spek(kvp=40, th=12, dk=0.1, physics="casim", mu_data_source="nist").filter(
        name, thickness
    )
    energy, unfiltered = bare.get_spectrum(edges=False)
    theirs = filtered.get_spectrum(edges=False)[1] / unfiltered
    ours = c.transmission(c.linear_attenuation_per_mm(here, energy, density_g_cm3=density), thickness)
    tabulated = np.abs(energy[:, None] - [4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0]).min(axis=1) < 0.06
    counts = tabulated & (theirs > 1e-3)
    assert counts.sum() >= 8
    np.testing.assert_allclose(np.log(ours[counts]), np.log(theirs[counts]), rtol=0.025)


# --- What follows from it ---------------------------------------------------------------------------------


@given(st.floats(0.0, 50.0), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_transmissions_multiply(mu: float, first: float, second: float) -> None:
    product = float(c.transmission(mu, first) * c.transmission(mu, second))
    assert float(c.transmission(mu, first + second)) == pytest.approx(product, rel=1e-9, abs=1e-300)


@given(st.floats(0.0, 30.0), st.floats(0.0, 5.0))
def test_effective_depth_is_the_integral_over_the_slab(mu: float, thickness: float) -> None:
    integral, _ = integrate.quad(lambda z: np.exp(-2 * mu * z), 0.0, thickness)
    assert float(c.effective_depth_mm(mu, thickness)) == pytest.approx(integral, rel=1e-7, abs=1e-12)


def test_effective_depth_limits() -> None:
    np.testing.assert_allclose(c.effective_depth_mm([0.0, 1e-12, 4.0], [0.3, 0.3, np.inf]), [0.3, 0.3, 0.125])
    assert c.effective_depth_mm(np.ones((3, 1)), np.ones(4)).shape == (3, 4)
    with pytest.raises(ValueError, match="thickness"):
        c.effective_depth_mm(1.0, -1.0)
    with pytest.raises(ValueError, match="attenuation"):
        c.transmission(-1.0, 1.0)


def test_detector_efficiency_agrees_with_chantlers_photoabsorption() -> None:
    """Chantler's tables were computed apart from Elam's; for silicon they differ by up to 5 %."""
    energy = np.array([8.05, 12.4, 17.48, 22.16])
    per_mm = xraydb.mu_chantler("Si", energy * 1e3, photo=True) * 2.329 / 10
    theirs = 1 - np.exp(-per_mm * 0.32)
    np.testing.assert_allclose(c.detector_efficiency("Si", 0.32, energy), theirs, rtol=0.05)


def test_detector_efficiency_grows_to_one_and_never_exceeds_attenuation() -> None:
    energy = np.linspace(5.0, 60.0, 30)
    thin = c.detector_efficiency("Gd2O2S", 0.02, energy, density_g_cm3=7.3)
    thick = c.detector_efficiency("Gd2O2S", 5.0, energy, density_g_cm3=7.3)
    total = 1 - c.transmission(c.linear_attenuation_per_mm("Gd2O2S", energy, density_g_cm3=7.3), 0.02)
    assert (thin < total).all()
    assert (thin > 0).all()
    np.testing.assert_allclose(thick, 1.0, atol=1e-3)


def test_air_at_8_kev_halves_in_about_60_cm() -> None:
    """NIST: 9.921 cm^2/g at 8 keV, so 1.225 mg/cm^3 halve the beam in 57 cm."""
    assert float(c.air_transmission(570.0, 8.0)) == pytest.approx(0.5, abs=0.01)
