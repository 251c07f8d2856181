"""White beams: how many particles of which wavelength arrive at the sample.

One abscissa serves X-rays and neutrons alike: the wavelength in angstrom. A `Spectrum` is a piecewise linear
curve; the functions here make one from a tube's settings, a bending magnet's critical energy, a moderator's
temperature, or a table.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erfc

from lauepilot.simulator.conventions import HC_KEV_A, FloatArray
from lauepilot.simulator.corrections import linear_attenuation_per_mm, transmission
from lauepilot.simulator.sources import (
    G1_PEAK,
    maxwellian_scale_a,
    require_positive,
    unfiltered_tube,
    universal_g1,
)

Radiation = Literal["xray", "neutron"]

#: Step in angstrom of the grids made here: 5 eV at the tungsten L lines, 25 eV at the molybdenum K lines.
GRID_STEP_A = 1e-3


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Flux density of a white beam at the sample as a curve over the wavelength.

    Parameters
    ----------
    radiation
        "xray" or "neutron".
    wavelength_a
        Wavelengths in angstrom, (n,), ascending; copied and locked.
    flux
        Particles / s / mm^2 / angstrom at those wavelengths, (n,); straight lines between, nothing outside.
    label
        What the beam is, for people and records.

    Raises
    ------
    ValueError
        If the arrays do not fit each other, do not ascend, or hold anything but finite numbers >= 0.
    """

    radiation: Radiation
    wavelength_a: FloatArray
    flux: FloatArray
    label: str = ""

    def __post_init__(self) -> None:
        if self.radiation not in ("xray", "neutron"):
            raise ValueError(f"radiation must be 'xray' or 'neutron'; {self.radiation!r} came.")
        wavelength = np.array(self.wavelength_a, dtype=np.float64)
        flux = np.array(self.flux, dtype=np.float64)
        if wavelength.ndim != 1 or wavelength.size < 2 or wavelength.shape != flux.shape:
            raise ValueError(
                "A spectrum wants two arrays of one length (n,), n >= 2; the wavelengths have the shape "
                f"{wavelength.shape}, the flux {flux.shape}."
            )
        if not (np.isfinite(wavelength).all() and wavelength[0] > 0.0 and (np.diff(wavelength) > 0.0).all()):
            raise ValueError(
                "The wavelengths of a spectrum must be positive, finite and ascending without repeats; "
                f"they run from {wavelength[0]} to {wavelength[-1]} angstrom. Sort them first."
            )
        if not (np.isfinite(flux).all() and (flux >= 0.0).all()):
            raise ValueError(
                "The flux of a spectrum must be finite and not negative; the first bad value is "
                f"{flux[~(np.isfinite(flux) & (flux >= 0.0))][0]}."
            )
        wavelength.setflags(write=False)
        flux.setflags(write=False)
        object.__setattr__(self, "wavelength_a", wavelength)
        object.__setattr__(self, "flux", flux)

    @property
    def wavelength_min_a(self) -> float:
        """Shortest wavelength in angstrom."""
        return float(self.wavelength_a[0])

    @property
    def wavelength_max_a(self) -> float:
        """Longest wavelength in angstrom."""
        return float(self.wavelength_a[-1])

    def at(self, wavelength_a: ArrayLike) -> FloatArray:
        """Flux density in particles / s / mm^2 / angstrom, of the shape of ``wavelength_a``; zero outside."""
        wanted = np.asarray(wavelength_a, dtype=np.float64)
        return np.asarray(np.interp(wanted, self.wavelength_a, self.flux, left=0.0, right=0.0))

    def total(self) -> float:
        """Flux density over all wavelengths, particles / s / mm^2."""
        return float(np.trapezoid(self.flux, self.wavelength_a))

    def scaled(self, factor: ArrayLike, label: str | None = None) -> Spectrum:
        """The same beam times a number, or times an (n,) curve on its grid (a filter, an optic's gain)."""
        return Spectrum(
            self.radiation,
            self.wavelength_a,
            self.flux * np.asarray(factor, dtype=np.float64),
            self.label if label is None else label,
        )


def wavelength_from_energy(energy_kev: ArrayLike) -> FloatArray:
    """Wavelength in angstrom of a photon of an energy in keV, ``h c / E``."""
    return np.asarray(HC_KEV_A / np.asarray(energy_kev, dtype=np.float64))


def energy_from_wavelength(wavelength_a: ArrayLike) -> FloatArray:
    """Energy in keV of a photon of a wavelength in angstrom, ``h c / wavelength``."""
    return np.asarray(HC_KEV_A / np.asarray(wavelength_a, dtype=np.float64))


def tungsten_tube(
    kv: float,
    filtration_mm: Mapping[str, float],
    current_ma: float,
    distance_mm: float,
    anode_angle_deg: float = 12.0,
    anode: str = "W",
    wavelength_max_a: float = 3.0,
) -> Spectrum:
    """Beam of an X-ray tube with a thick reflecting anode: bremsstrahlung and lines, in absolute units.

    The unfiltered spectrum per mA s is SpekPy's model "casim"; the lines fill bins of
    `sources.LINE_WIDTH_KEV`. Filters are applied with `linear_attenuation_per_mm`. Photons are counted into
    the grid's cells, so that the integral is kept. Answers are remembered; the first takes a second or two.
    Source: Poludniowski, Omar, Bujila & Andreo (2021), Med. Phys. 48, 3630: half-value layers of measured
    tungsten and molybdenum spectra within 2 %, a CT tube's output over 70 to 140 kV within 4 %.

    Parameters
    ----------
    kv
        Tube voltage, 10 to 500 kV for tungsten, 10 to 50 kV for the others.
    filtration_mm
        Millimetres of elements or named materials on the way, such as ``{"Be": 0.3, "air": 200.0}``.
    current_ma
        Tube current.
    distance_mm
        From the focus to the sample; the flux falls with its square (`Spectrum.scaled` adds an optic's gain).
    anode_angle_deg
        Angle between the anode's face and the beam taken off.
    anode
        W, Mo, Rh, Cr, Cu, Ag or Au.
    wavelength_max_a
        Where the curve ends; the tube's voltage sets where it begins.

    Raises
    ------
    ValueError
        If a setting is outside the model, or a filter is unknown.
    """
    filters = tuple(sorted(filtration_mm.items()))
    return _tube(kv, filters, current_ma, distance_mm, anode_angle_deg, anode, wavelength_max_a)


def bending_magnet(
    critical_energy_kev: float,
    flux_peak: float,
    energy_range_kev: tuple[float, float] = (5.0, 23.0),
    filtration_mm: Mapping[str, float] | None = None,
    cut_width_kev: float = 0.0,
) -> Spectrum:
    """Beam of a bending magnet, integrated over the vertical angle: the function G1, cut to a range.

    Photons per relative bandwidth go with ``G1(E / E_c)``.
    Source: Schwinger (1949), Phys. Rev. 75, 1912; Kim, X-ray Data Booklet (2009), section 2.1.

    Parameters
    ----------
    critical_energy_kev
        Critical energy E_c, 0.665 E^2 [GeV^2] B [T].
    flux_peak
        Photons / s / mm^2 / 0.1 % bandwidth where G1 is highest (0.286 E_c), before filters and cut-offs.
    energy_range_kev
        Lowest and highest energy that mirrors and windows let through.
    filtration_mm
        Millimetres of elements or named materials on the way.
    cut_width_kev
        Standard deviation of the (error function) edges at both ends; 0 cuts sharply.

    Raises
    ------
    ValueError
        If a number is not positive, the range does not ascend, or a filter is unknown.
    """
    low, high = energy_range_kev
    require_positive(critical_energy_kev=critical_energy_kev, flux_peak=flux_peak, lowest_energy_kev=low)
    if not (high > low and cut_width_kev >= 0.0):
        raise ValueError(
            f"energy_range_kev must ascend and cut_width_kev must be >= 0; {energy_range_kev} and "
            f"{cut_width_kev} came. Give e.g. (5, 23) and 0.3."
        )
    reach = 3.0 * cut_width_kev
    wavelength = _grid(HC_KEV_A / (high + reach), HC_KEV_A / max(low - reach, 0.5 * low))
    energy = energy_from_wavelength(wavelength)
    relative = universal_g1(energy / critical_energy_kev) / universal_g1(G1_PEAK)
    flux = flux_peak * relative * 1e3 / wavelength
    if cut_width_kev > 0.0:
        scale = math.sqrt(2.0) * cut_width_kev
        flux = flux * 0.25 * erfc((low - energy) / scale) * erfc((energy - high) / scale)
    flux = flux * _filters(tuple((filtration_mm or {}).items()), energy)
    label = f"bending magnet, E_c {critical_energy_kev:g} keV, {low:g}-{high:g} keV"
    return Spectrum("xray", wavelength, flux, label)


def maxwellian(
    temperature_k: float, total_flux: float, wavelength_min_a: float, wavelength_max_a: float
) -> Spectrum:
    """Thermal-neutron beam: the flux of a Maxwellian moderator over the wavelength, between two cut-offs.

    ``flux ~ a^2 wavelength^-5 exp(-a / wavelength^2)``, ``a = h^2 / (2 m k T)``; its maximum is at ``sqrt(2 a
    / 5)``.
    Source: Squires (1978), Introduction to the Theory of Thermal Neutron Scattering, chapter 1.

    Parameters
    ----------
    temperature_k
        Temperature of the moderator in kelvin.
    total_flux
        Neutrons / s / mm^2 between the cut-offs.
    wavelength_min_a, wavelength_max_a
        Cut-offs of guide, filter or chopper.

    Raises
    ------
    ValueError
        If a number is not positive or the cut-offs do not ascend.
    """
    require_positive(temperature_k=temperature_k, total_flux=total_flux, wavelength_min_a=wavelength_min_a)
    if not wavelength_max_a > wavelength_min_a:
        raise ValueError(
            f"wavelength_max_a ({wavelength_max_a}) must exceed wavelength_min_a ({wavelength_min_a})."
        )
    wavelength = _grid(wavelength_min_a, wavelength_max_a)
    a = maxwellian_scale_a(temperature_k) ** 2
    # The logarithm keeps the shape where exp(-a / wavelength^2) alone would underflow.
    logarithm = -5.0 * np.log(wavelength) - a / wavelength**2
    shape = np.exp(logarithm - logarithm.max())
    flux = total_flux * shape / np.trapezoid(shape, wavelength)
    return Spectrum("neutron", wavelength, flux, f"Maxwellian, {temperature_k:g} K")


def tabulated(
    flux: ArrayLike,
    *,
    wavelength_a: ArrayLike | None = None,
    energy_kev: ArrayLike | None = None,
    radiation: Radiation = "xray",
    label: str = "tabulated",
) -> Spectrum:
    """Beam from a measured or computed table, ascending or descending.

    Parameters
    ----------
    flux
        (n,) particles / s / mm^2 / angstrom if ``wavelength_a`` is given; photons / s / mm^2 / keV if
        ``energy_kev`` is, which is turned with ``|dE / d wavelength| = E^2 / (h c)``.
    wavelength_a, energy_kev
        The abscissa (n,): exactly one of both. Neutrons want wavelengths.
    radiation
        "xray" or "neutron".
    label
        What the beam is.

    Raises
    ------
    ValueError
        If not exactly one abscissa is given, or as `Spectrum` raises it.
    """
    if (wavelength_a is None) == (energy_kev is None):
        raise ValueError("A tabulated spectrum wants exactly one of wavelength_a and energy_kev.")
    density = np.asarray(flux, dtype=np.float64)
    if wavelength_a is not None:
        wavelength = np.asarray(wavelength_a, dtype=np.float64)
    else:
        if radiation == "neutron":
            raise ValueError(
                "Neutrons are tabulated over the wavelength: give wavelength_a instead of energy_kev."
            )
        energy = np.asarray(energy_kev, dtype=np.float64)
        if energy.shape != density.shape or not np.all(energy > 0.0):
            raise ValueError(
                f"energy_kev must be positive and as long as flux; the shapes are {energy.shape} and "
                f"{density.shape}."
            )
        wavelength = wavelength_from_energy(energy)
        density = density * energy**2 / HC_KEV_A
    if wavelength.ndim == 1 and wavelength.size > 1 and wavelength[0] > wavelength[-1]:
        wavelength, density = wavelength[::-1], density[::-1]
    return Spectrum(radiation, wavelength, density, label)


def from_csv(path: str | Path, radiation: Radiation = "xray") -> Spectrum:
    """Beam from a CSV file with the columns ``flux`` and ``wavelength_a`` or ``energy_kev``.

    Units as in `tabulated`.
    Lines that begin with ``#`` and empty lines are skipped; other columns are ignored.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing or a value is not fit; file, line and column are named.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"No spectrum at {file}: give a CSV file with the columns wavelength_a,flux.")
    lines = [
        (number, line)
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    rows = list(csv.reader(line for _, line in lines))
    header = [name.strip() for name in rows[0]] if rows else []
    abscissae = [name for name in ("wavelength_a", "energy_kev") if name in header]
    if "flux" not in header or len(abscissae) != 1:
        raise ValueError(
            f"{file}: wants the column flux and one of wavelength_a, energy_kev in its first line; the "
            f"columns are {', '.join(header) or 'none'}."
        )
    columns: dict[str, list[float]] = {abscissae[0]: [], "flux": []}
    for (number, _), row in zip(lines[1:], rows[1:], strict=True):
        for name, values in columns.items():
            text = row[header.index(name)] if header.index(name) < len(row) else ""
            try:
                values.append(float(text))
            except ValueError:
                raise ValueError(
                    f"{file}, line {number}, column {name}: wants a number; {text!r} came."
                ) from None
    try:
        return tabulated(
            columns["flux"],
            wavelength_a=columns.get("wavelength_a"),
            energy_kev=columns.get("energy_kev"),
            radiation=radiation,
            label=file.stem,
        )
    except ValueError as error:
        raise ValueError(f"{file}, columns {abscissae[0]} and flux: {error}") from error


@lru_cache(maxsize=64)
def _tube(
    kv: float,
    filtration_mm: tuple[tuple[str, float], ...],
    current_ma: float,
    distance_mm: float,
    anode_angle_deg: float,
    anode: str,
    wavelength_max_a: float,
) -> Spectrum:
    """`tungsten_tube` on arguments that can be remembered."""
    require_positive(current_ma=current_ma, distance_mm=distance_mm)
    edges, per_mas = unfiltered_tube(kv, anode, anode_angle_deg)
    shortest, longest = HC_KEV_A / kv, HC_KEV_A / edges[0]
    if not shortest < wavelength_max_a <= longest:
        raise ValueError(
            f"wavelength_max_a must lie between {shortest:.4f} (the cut-off at {kv:g} kV) and "
            f"{longest:.2f} angstrom; {wavelength_max_a:g} came."
        )
    photons = per_mas * _filters(filtration_mm, 0.5 * (edges[1:] + edges[:-1]))
    photons = photons * (current_ma * (1000.0 / distance_mm) ** 2)
    # Count each photon into the cell around its grid point: the trapezoidal integral of the curve is exact.
    wavelength = _grid(shortest, wavelength_max_a)
    cells = np.concatenate([wavelength[:1], 0.5 * (wavelength[1:] + wavelength[:-1]), wavelength[-1:]])
    below = np.concatenate([[0.0], np.cumsum(photons)])
    counted = -np.diff(np.interp(HC_KEV_A / cells, edges, below))
    flux = np.maximum(counted, 0.0) / np.diff(cells)
    return Spectrum("xray", wavelength, flux, f"{anode} tube, {kv:g} kV, {current_ma:g} mA")


def _filters(filtration_mm: tuple[tuple[str, float], ...], energy_kev: FloatArray) -> FloatArray:
    """Transmission (n,) of all filters together."""
    passed = np.ones_like(energy_kev)
    for material, thickness in filtration_mm:
        passed = passed * transmission(linear_attenuation_per_mm(material, energy_kev), thickness)
    return passed


def _grid(low_a: float, high_a: float) -> FloatArray:
    """Uniform wavelengths from one end to the other, not farther apart than `GRID_STEP_A`."""
    return np.linspace(low_a, high_a, max(2, math.ceil((high_a - low_a) / GRID_STEP_A) + 1))
