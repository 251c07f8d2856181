"""Factors between a reflection's structure factor and the particles counted in its spot.

Each factor is one function, vectorised over its arguments, with its source. None of them knows about
crystals, detectors or spectra as objects: they take numbers and arrays, so that kernels and tests can use
them alike.

The expected rate of a Laue spot is the sum over the harmonics on its ray of::

    kinematical_rate(spectrum.at(wavelength), lorentz_laue(wavelength, sin_theta), f_squared, volume, cell)
        * polarisation(k_out) * detector_efficiency(...) * air_transmission(...)

X-ray attenuation comes from xraydb's copy of the Elam, Ravel & Sieber (2002) tables, Radiat. Phys. Chem. 63,
121.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import constants

from lauepilot.simulator.conventions import FloatArray

#: Classical electron radius in angstrom (CODATA, from scipy.constants): the X-ray scattering length of an
#: electron.
CLASSICAL_ELECTRON_RADIUS_A: float = constants.physical_constants["classical electron radius"][0] * 1e10

#: Energies in keV between which the tables of Elam et al. hold, as xraydb states.
ATTENUATION_RANGE_KEV = (0.1, 800.0)

Process = Literal["total", "photo"]

_A_PER_MM = 1e7


def lorentz_laue(wavelength_a: ArrayLike, sin_theta: ArrayLike) -> FloatArray:
    """Lorentz factor of a white beam on a still crystal, ``wavelength^4 / (2 sin^2 theta)``, in angstrom^4.

    It belongs to a flux density per unit of *wavelength*; theta is half of the scattering angle.
    Source: Zachariasen (1945), Theory of X-ray Diffraction in Crystals, chapter 3 (Laue method); James
    (1948), The Optical Principles of the Diffraction of X-rays, chapter 2.

    Raises
    ------
    ValueError
        If a ``sin_theta`` is not in (0, 1] or a wavelength is not positive.
    """
    wavelength = np.asarray(wavelength_a, dtype=np.float64)
    sine = np.asarray(sin_theta, dtype=np.float64)
    if not (np.all(sine > 0.0) and np.all(sine <= 1.0)):
        raise ValueError(
            f"lorentz_laue wants sin_theta in (0, 1]; it came from {sine.min()} to {sine.max()}. "
            "Leave out reflections that lie on the direct beam."
        )
    if not np.all(wavelength > 0.0):
        raise ValueError(
            f"lorentz_laue wants positive wavelengths in angstrom; the smallest is {wavelength.min()}."
        )
    return np.asarray(wavelength**4 / (2.0 * sine**2))


def polarisation(k_out: ArrayLike, degree: float = 0.0) -> FloatArray:
    """Polarisation factor of X-rays scattered into unit vectors ``k_out`` (..., 3), laboratory frame.

    ``P = (1 + f)/2 (1 - kx^2) + (1 - f)/2 (1 - ky^2)``: a beam along +z holds the share ``(1 + f)/2`` of
    waves that swing along x, and a wave that swings along a unit vector e radiates into k with ``1 - (e
    k)^2`` (dipole). For ``degree = 0`` it is the familiar ``(1 + cos^2 2theta)/2``. Neutrons have no such
    factor.
    Source: Jackson, Classical Electrodynamics, 3rd ed., section 14.8; Kahn et al. (1982), J. Appl. Cryst. 15,
    330.

    Parameters
    ----------
    k_out
        Unit vectors of the scattered rays, (..., 3).
    degree
        ``f = (I_x - I_y)/(I_x + I_y)``: 0 for a tube, about 0.99 for a bending magnet in its orbit plane (x,
        z).

    Raises
    ------
    ValueError
        If ``degree`` is outside [-1, 1] or the last axis of ``k_out`` has not three components.
    """
    direction = np.asarray(k_out, dtype=np.float64)
    if not -1.0 <= degree <= 1.0:
        raise ValueError(
            f"The degree of polarisation lies in [-1, 1]; {degree} came. Use 0 for an unpolarised tube."
        )
    if direction.ndim == 0 or direction.shape[-1] != 3:
        raise ValueError(f"polarisation wants directions (..., 3); the shape {direction.shape} came.")
    along_x = 0.5 * (1.0 + degree) * (1.0 - direction[..., 0] ** 2)
    along_y = 0.5 * (1.0 - degree) * (1.0 - direction[..., 1] ** 2)
    return np.asarray(along_x + along_y)


def kinematical_rate(
    flux: ArrayLike,
    lorentz_a4: ArrayLike,
    structure_factor_squared: ArrayLike,
    volume_mm3: float,
    cell_volume_a3: float,
    scattering_length_a: float = CLASSICAL_ELECTRON_RADIUS_A,
) -> FloatArray:
    """Particles per second in one reflection of a small ideally imperfect crystal, before all other factors.

    ``rate = I(wavelength) r^2 |F|^2 V / v^2 * lorentz``, with ``v`` the volume of the cell.
    Source: as `lorentz_laue`; the tests integrate the interference function of a small block to check it.

    Parameters
    ----------
    flux
        Flux density at the wavelength of the reflection, particles / s / mm^2 / angstrom (`Spectrum.at`).
    lorentz_a4
        `lorentz_laue`, angstrom^4.
    structure_factor_squared
        |F|^2 of one cell: electrons^2 for X-rays; for neutrons the square of the unit of
        ``scattering_length_a``.
    volume_mm3
        Illuminated volume of the crystal; for a slab, beam area times `effective_depth_mm`.
    cell_volume_a3
        Volume of the cell that |F|^2 belongs to.
    scattering_length_a
        Length in angstrom that one unit of F stands for: the electron radius, or 1e-5 if F is in fm
        (neutrons).
    """
    scale = scattering_length_a**2 * volume_mm3 / cell_volume_a3**2 * _A_PER_MM
    return np.asarray(
        np.asarray(flux, dtype=np.float64)
        * np.asarray(lorentz_a4, dtype=np.float64)
        * np.asarray(structure_factor_squared, dtype=np.float64)
        * scale
    )


def transmission(mu_per_mm: ArrayLike, thickness_mm: ArrayLike) -> FloatArray:
    """Share of particles that pass, ``exp(-mu t)`` (Beer & Lambert), in [0, 1].

    Raises
    ------
    ValueError
        If an attenuation or a thickness is negative.
    """
    mu, thickness = _attenuation_pair(mu_per_mm, thickness_mm)
    return np.asarray(np.exp(-mu * thickness))


def effective_depth_mm(mu_per_mm: ArrayLike, thickness_mm: ArrayLike) -> FloatArray:
    """Depth in mm of a slab that diffracts in back reflection, weighed by the attenuation in and out.

    ``(1 - exp(-2 mu t)) / (2 mu)``, the integral of ``exp(-2 mu z)`` over the thickness: normal incidence and
    exit close to it. It tends to t for mu -> 0 and to 1/(2 mu) for a thick crystal (``thickness_mm`` may be
    infinite).
    Source: International Tables C (2004), section 6.3.3, reflection from a plate, for equal angles of 90
    degrees.

    Raises
    ------
    ValueError
        If an attenuation or a thickness is negative.
    """
    mu, thickness = np.broadcast_arrays(*_attenuation_pair(mu_per_mm, thickness_mm))
    depth = np.array(thickness, dtype=np.float64)
    absorbs = mu > 1e-12  # below, one metre is off by 1e-9, and smaller numbers would lose their digits
    depth[absorbs] = -np.expm1(-2.0 * mu[absorbs] * thickness[absorbs]) / (2.0 * mu[absorbs])
    return depth


def linear_attenuation_per_mm(
    material: str | Mapping[str, float],
    energy_kev: ArrayLike,
    *,
    density_g_cm3: float | None = None,
    process: Process = "total",
) -> FloatArray:
    """Linear attenuation coefficient for X-rays in 1/mm, of the shape of ``energy_kev``.

    Parameters
    ----------
    material
        An element ("Be"), a name that xraydb knows ("air", "kapton"), a formula with ``density_g_cm3``
        ("CsI"), or a mapping from elements to number densities in atoms / angstrom^3.
    energy_kev
        Energies in keV, 0.1 to 800.
    density_g_cm3
        Density in g/cm^3; without it the tabulated one of the element or material. Not for mappings.
    process
        "total": every particle taken out of the beam; "photo": only those that are absorbed.

    Raises
    ------
    ValueError
        If the material or an element is unknown, a density is missing or unfit, or an energy lies outside the
        tables.
    """
    import xraydb  # its database toolkit takes 0.7 s to load, which a neutron instrument should not pay

    energy = np.asarray(energy_kev, dtype=np.float64)
    low, high = ATTENUATION_RANGE_KEV
    if not (np.all(energy >= low) and np.all(energy <= high)):
        raise ValueError(
            f"Attenuation is tabulated for {low} to {high} keV; energies from {energy.min()} to "
            f"{energy.max()} keV came. Give energies in keV, not eV."
        )
    if isinstance(material, str):
        grams_per_cm3 = _partial_densities(material, density_g_cm3)
    elif density_g_cm3 is not None:
        raise ValueError("A mapping already gives atoms / angstrom^3; leave density_g_cm3 out.")
    else:
        cm3_per_a3 = 1e-24
        grams_per_cm3 = {
            element: number / cm3_per_a3 * _atomic_mass(element) / constants.N_A
            for element, number in material.items()
        }
    negative = {element: value for element, value in grams_per_cm3.items() if not value >= 0.0}
    if negative:
        raise ValueError(f"Densities must not be negative; {negative} g/cm^3 came.")
    per_cm = np.zeros(energy.size)
    for element, partial_density in grams_per_cm3.items():
        if energy.size and partial_density > 0.0:
            per_cm += partial_density * xraydb.mu_elam(element, energy.ravel() * 1e3, kind=process)
    return np.asarray(per_cm.reshape(energy.shape) / 10.0)


def crystal_attenuation_per_mm(
    counts: Mapping[str, float], volume_a3: float, energy_kev: ArrayLike
) -> FloatArray:
    """Linear attenuation of a crystal for X-rays in 1/mm, from its cell.

    The sum of the atoms' cross-sections; diffraction itself (extinction) is left out.

    Parameters
    ----------
    counts
        Atoms of each element in a cell, occupancy counted in, e.g. ``{"Na": 4, "Cl": 4}``.
    volume_a3
        Volume of that cell in angstrom^3.
    energy_kev
        Energies in keV; the answer has their shape.

    Raises
    ------
    ValueError
        If the volume is not positive, or as in `linear_attenuation_per_mm`.
    """
    if not volume_a3 > 0.0:
        raise ValueError(f"The volume of a cell must be positive; {volume_a3} angstrom^3 came.")
    return linear_attenuation_per_mm({element: n / volume_a3 for element, n in counts.items()}, energy_kev)


def detector_efficiency(
    material: str, thickness_mm: float, energy_kev: ArrayLike, *, density_g_cm3: float | None = None
) -> FloatArray:
    """Share of X-rays that a flat sensor absorbs at normal incidence, ``1 - exp(-mu t)``, in [0, 1].

    ``mu`` is the photoelectric part: scattered photons leave little or no light behind at these energies.

    Parameters
    ----------
    material
        Sensor, as in `linear_attenuation_per_mm`: "Si", or "Gd2O2S" with its density of 7.3 g/cm^3.
    thickness_mm
        Thickness of the sensor.
    energy_kev
        Energies in keV.
    density_g_cm3
        Density of the layer, with its packing (half of the solid's for a powder screen).
    """
    mu = linear_attenuation_per_mm(material, energy_kev, density_g_cm3=density_g_cm3, process="photo")
    return np.asarray(-np.expm1(-np.multiply(*_attenuation_pair(mu, thickness_mm))))


def air_transmission(path_mm: ArrayLike, energy_kev: ArrayLike) -> FloatArray:
    """Share of X-rays that pass ``path_mm`` of dry air at 15 degrees Celsius and 1013 hPa (1.225 mg/cm^3)."""
    return transmission(linear_attenuation_per_mm("air", energy_kev), path_mm)


def _attenuation_pair(mu_per_mm: ArrayLike, thickness_mm: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both as arrays, if none is negative or not a number."""
    mu = np.asarray(mu_per_mm, dtype=np.float64)
    thickness = np.asarray(thickness_mm, dtype=np.float64)
    for name, value in (("attenuation in 1/mm", mu), ("thickness in mm", thickness)):
        if not np.all(value >= 0.0):
            raise ValueError(f"The {name} must not be negative; {value.min()} came.")
    return mu, thickness


def _partial_densities(material: str, density_g_cm3: float | None) -> dict[str, float]:
    """Grams of each element in a cm^3 of a material; elements go first, so that "Co" is never "CO"."""
    import xraydb

    elements = {xraydb.atomic_symbol(z) for z in range(1, 99)}
    if material in elements:
        density = xraydb.atomic_density(material) if density_g_cm3 is None else density_g_cm3
        return {material: float(density)}
    named = xraydb.get_materials().get(material.lower())
    formula = material if named is None else named.formula
    density = named.density if density_g_cm3 is None and named is not None else density_g_cm3
    try:
        composition = xraydb.chemparse(formula)
    except ValueError:
        composition = {}
    if not composition or not set(composition) <= elements:
        near = difflib.get_close_matches(material, [*elements, *xraydb.get_materials()], n=3)
        raise ValueError(
            f"No X-ray attenuation is known for {material!r}. Give an element, a formula with its density"
            f", or a name that xraydb knows{', e.g. ' + ', '.join(near) if near else ''}."
        )
    if density is None:
        raise ValueError(f"The density of {material!r} is not tabulated; give density_g_cm3 as well.")
    grams = {element: number * _atomic_mass(element) for element, number in composition.items()}
    return {element: float(density) * mass / sum(grams.values()) for element, mass in grams.items()}


def _atomic_mass(element: str) -> float:
    """Atomic mass in g/mol, with an error that names the element."""
    import xraydb

    try:
        return float(xraydb.atomic_mass(element))
    except ValueError as error:
        raise ValueError(
            f"{element!r} is not an element with X-ray tables; give symbols such as 'Si', without charge."
        ) from error
