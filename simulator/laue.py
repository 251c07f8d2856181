"""Laue patterns: which planes reflect, where their spots fall and how bright they are.

A plane with unit normal ``g`` reflects a white beam along ``k = +z`` when ``sin(theta) = -g.k`` is positive; it chooses the
wavelength ``2 d sin(theta)`` and sends it to ``k - 2 (g.k) g``. All harmonics of a direction (a *ray*) fall on
one spot and are summed. Along a ray everything but the polarisation depends on ``sin(theta)`` alone, so that a
crystal on an instrument is compiled into one table: rays times nodes of ``sin(theta)``. The kernels in
`lauepilot.simulator.kernels` read it; the plain reference in `lauepilot.simulator.reference` does the sum
harmonic by harmonic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator import corrections, spectra
from lauepilot.simulator.beams import SPECTRA
from lauepilot.simulator.conventions import HC_KEV_A, FloatArray
from lauepilot.simulator.crystal import Crystal, dispersion, form_factor
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.instrument import Beam, Instrument, InstrumentError
from lauepilot.simulator.kernels import pack_detector, trace_batch
from lauepilot.simulator.table_kernels import node_rates

#: Scattering length of one electron, or of one femtometre, in angstrom.
UNIT_LENGTH_A = {"xray": corrections.CLASSICAL_ELECTRON_RADIUS_A, "neutron": 1e-5}

#: Nodes of sin(theta) in a ray table. Between them intensities are interpolated linearly.
NODES = 64

#: Energies of the dispersion tables: log keV, in steps of 0.5 %.
LOG_ENERGY = np.linspace(np.log(1.0), np.log(120.0), 960)


def beam_spectrum(beam: Beam) -> spectra.Spectrum:
    """The spectrum that an instrument's ``beam.spectrum`` names.

    Raises
    ------
    InstrumentError
        If there is no such spectrum or its arguments are wrong.
    """
    arguments: dict[str, Any] = dict(beam.spectrum)
    kind = arguments.pop("kind", None)
    if kind not in SPECTRA:
        raise InstrumentError(f"beam.spectrum.kind: got {kind!r}; allowed are {', '.join(SPECTRA)}.")
    for key, value in arguments.items():
        arguments[key] = tuple(value) if isinstance(value, list) else value
    try:
        spectrum = SPECTRA[kind](**arguments)
    except (TypeError, ValueError) as error:
        raise InstrumentError(f"beam.spectrum ({kind}): {error}") from None
    if spectrum.radiation != beam.radiation:
        raise InstrumentError(
            f"beam.spectrum.kind {kind!r} is for {spectrum.radiation}, the beam is {beam.radiation}."
        )
    return spectrum


def white_curve(crystal: Crystal, instrument: Instrument) -> tuple[FloatArray, FloatArray]:
    """All factors of a spot's rate that depend on the wavelength alone: grid (n) in angstrom, and values (n).

    ``rate = value(wavelength) |F|^2 / sin^2(theta) * polarisation`` in particles a second, for structure
    factors in electrons or femtometres: flux, lambda^4 / 2 of the Lorentz factor, diffracting volume
    (`corrections.effective_depth_mm`), scattering length, air and sensor (`corrections`).
    """
    beam, sample, sensor = instrument.beam, instrument.sample, instrument.detector.sensor
    spectrum = beam_spectrum(beam)
    wavelength = np.linspace(spectrum.wavelength_min_a, spectrum.wavelength_max_a, 4096)
    flux = spectrum.at(wavelength)
    depth = np.full(len(wavelength), sample.thickness_mm)
    passed = np.ones(len(wavelength))
    if beam.radiation == "xray":
        # xraydb interpolates in a Python loop: 600 points keep absorption edges sharp enough and cost little.
        coarse = np.linspace(wavelength[0], wavelength[-1], 600)
        energy = HC_KEV_A / coarse
        mu = corrections.crystal_attenuation_per_mm(crystal.atoms.counts(), crystal.volume_a3, energy)
        depth = np.interp(wavelength, coarse, corrections.effective_depth_mm(mu, sample.thickness_mm))
        if sample.air_path_mm > 0.0:
            passed *= np.interp(wavelength, coarse, corrections.air_transmission(sample.air_path_mm, energy))
        if sensor.material:
            seen = corrections.detector_efficiency(sensor.material, sensor.thickness_mm, energy)
            passed *= np.interp(wavelength, coarse, seen)
    area = beam.size_mm[0] * beam.size_mm[1]
    rate = corrections.kinematical_rate(
        flux * passed,
        corrections.lorentz_laue(wavelength, 1.0),
        1.0,
        1.0,
        crystal.volume_a3,
        UNIT_LENGTH_A[beam.radiation],
    )
    return wavelength, rate * area * depth


@dataclass(frozen=True, eq=False)
class RayTable:
    """A crystal on an instrument, compiled; brightest rays first.

    Attributes
    ----------
    crystal, instrument
        What was compiled. The instrument's pose only sets the range of ``sin(theta)``, with a margin.
    hkl
        (n, 3) primitive indices of each ray (both signs are listed).
    direction
        (n, 3) unit vectors of the plane normals in the crystal's Cartesian frame.
    q_length
        (n,) length of the primitive reciprocal vector, 2 pi / angstrom.
    rate
        (n, nodes) particles a second, all harmonics, without polarisation.
    order
        (n, nodes) the strongest harmonic.
    sin_theta_min, sin_theta_step
        Node k stands at ``sin_theta_min + k sin_theta_step``.
    """

    crystal: Crystal
    instrument: Instrument
    hkl: NDArray[np.int64]
    direction: FloatArray
    q_length: FloatArray
    rate: NDArray[np.float32]
    order: NDArray[np.uint8]
    sin_theta_min: float
    sin_theta_step: float

    def __len__(self) -> int:
        return len(self.hkl)

    @property
    def polarisation(self) -> float | None:
        """Degree of polarisation of the beam; None for neutrons."""
        beam = self.instrument.beam
        return beam.polarisation if beam.radiation == "xray" else None

    @property
    def sin_theta(self) -> FloatArray:
        """Nodes (nodes,)."""
        return np.asarray(self.sin_theta_min + self.sin_theta_step * np.arange(self.rate.shape[1]))

    def harmonic(self, ray: NDArray[np.int64], sin_theta: FloatArray) -> NDArray[np.int64]:
        """The strongest harmonics (n,) of rays (n,) at ``sin_theta`` (n,), from the nearest node."""
        node = np.rint((sin_theta - self.sin_theta_min) / self.sin_theta_step).astype(int)
        return np.asarray(self.order[ray, np.clip(node, 0, self.order.shape[1] - 1)], dtype=np.int64)

    @classmethod
    def build(cls, crystal: Crystal, instrument: Instrument, *, min_relative: float = 1e-2) -> RayTable:
        """Compile a crystal on an instrument.

        Rays whose rate, averaged over the range of ``sin(theta)``, is below ``min_relative`` of the brightest
        ray's are left out, and so are harmonics that contribute less than a hundredth of that.

        Raises
        ------
        InstrumentError
            If no reflection of the crystal can be reached with this spectrum and detector.
        """
        wavelength, curve = white_curve(crystal, instrument)
        low, high = sin_theta_range(instrument.detector)
        nodes = np.linspace(low, high, NODES)
        # Harmonics count long before they would be rays of their own.
        q_max = _longest_q(crystal, instrument, wavelength, curve, nodes, 0.01 * min_relative)
        hkl, rates = _harmonic_rates(
            crystal, instrument, crystal.reflections(q_max), wavelength, curve, nodes, min_relative
        )
        order = np.gcd.reduce(hkl, axis=1)
        primitive, ray = np.unique(hkl // np.maximum(order, 1)[:, None], axis=0, return_inverse=True)
        ray = ray.reshape(-1)
        table = np.zeros((len(primitive), NODES))
        np.add.at(table, ray, rates)
        strength = table.mean(axis=1)
        if len(strength) == 0 or strength.max() <= 0.0:
            raise InstrumentError(
                f"No reflection of {crystal.name!r} can be reached on {instrument.name!r} "
                f"(wavelengths {wavelength[0]:.3g} to {wavelength[-1]:.3g} angstrom, "
                f"sin(theta) {low:.3g} to {high:.3g})."
            )
        strongest = np.ones_like(table, dtype=np.uint8)
        level = np.zeros_like(table)
        for m in np.unique(order):
            rows = np.flatnonzero(order == m)
            above = rates[rows] > level[ray[rows]]
            strongest[ray[rows]] = np.where(above, m, strongest[ray[rows]])
            level[ray[rows]] = np.where(above, rates[rows], level[ray[rows]])
        keep = np.flatnonzero(strength >= min_relative * strength.max())
        keep = keep[np.argsort(-strength[keep], kind="stable")]
        vectors = primitive[keep] @ crystal.b.T
        lengths = np.linalg.norm(vectors, axis=1)
        return cls(
            crystal=crystal,
            instrument=instrument,
            hkl=primitive[keep],
            direction=np.ascontiguousarray(vectors / lengths[:, None]),
            q_length=lengths,
            rate=np.ascontiguousarray(table[keep], dtype=np.float32),
            order=strongest[keep],
            sin_theta_min=low,
            sin_theta_step=(high - low) / (NODES - 1),
        )


@lru_cache(maxsize=32)
def cached_table(crystal: Crystal, instrument: Instrument, min_relative: float = 1e-2) -> RayTable:
    """`RayTable.build`, remembered for the same crystal and instrument objects."""
    return RayTable.build(crystal, instrument, min_relative=min_relative)


def sin_theta_range(detector: Detector, margin: float = 0.03) -> tuple[float, float]:
    """Smallest and largest ``sin(theta)`` on a detector, widened by ``margin`` for a pose that is off."""
    rows = np.linspace(0, detector.shape[0] - 1, 65)
    cols = np.linspace(0, detector.shape[1] - 1, 65)
    grid = np.stack(np.meshgrid(cols, rows), axis=-1).reshape(-1, 2)
    cos_two_theta = detector.pixels_to_rays(grid)[:, 2]
    s = np.sqrt(np.clip(0.5 * (1.0 - cos_two_theta), 0.0, 1.0))
    return max(float(s.min()) - margin, 0.02), min(float(s.max()) + margin, 1.0)


def _longest_q(
    crystal: Crystal,
    instrument: Instrument,
    wavelength: FloatArray,
    curve: FloatArray,
    nodes: FloatArray,
    min_relative: float,
) -> float:
    """Reciprocal length beyond which no reflection can pass ``min_relative``, by an upper bound on its rate.

    The bound: all atoms in phase, averaged over the nodes. It is compared with the strongest of the reflections
    at short ``q``, so that it never cuts what `RayTable.build` would keep.
    """
    q_end = float(4.0 * np.pi * nodes[-1] / wavelength[0])
    q_first = float(np.linalg.norm(crystal.b, axis=0).min()) * 4.0
    sample = crystal.reflections(min(q_first, q_end))
    _, rates = _harmonic_rates(crystal, instrument, sample, wavelength, curve, nodes, 0.0)
    best = float(rates.mean(axis=1).max(initial=0.0))
    shells = np.linspace(0.0, q_end, 400)[1:]
    amplitude = np.zeros(len(shells))
    metric = crystal.b.T @ crystal.b / (2.0 * np.pi) ** 2
    u_iso = np.array([np.trace(np.linalg.solve(metric, u)) / 3.0 for u in crystal.atoms.u_star])
    form = {
        e: np.abs(form_factor(e, (shells / (4.0 * np.pi)) ** 2, instrument.beam.radiation))
        for e in crystal.atoms.counts()
    }
    for element, share, u in zip(crystal.atoms.elements, crystal.atoms.occupancy, u_iso, strict=True):
        # Half the isotropic displacement: anisotropic atoms move less along some directions.
        amplitude += share * form[element] * np.exp(-0.25 * np.maximum(u, 0.0) * shells**2)
    bound = amplitude**2 * _mean_weight(shells, wavelength, curve, nodes)
    possible = np.flatnonzero(bound >= min_relative * best)
    return float(shells[min(possible[-1] + 1, len(shells) - 1)]) if len(possible) else q_end


def _mean_weight(q: FloatArray, wavelength: FloatArray, curve: FloatArray, nodes: FloatArray) -> FloatArray:
    """Mean over the nodes of ``curve(wavelength) / sin^2(theta)`` for reciprocal lengths ``q`` (n,)."""
    lam = 4.0 * np.pi * nodes / q[:, None]
    return np.asarray((np.interp(lam, wavelength, curve, left=0.0, right=0.0) / nodes**2).mean(axis=1))


def _harmonic_rates(
    crystal: Crystal,
    instrument: Instrument,
    hkl: NDArray[np.int64],
    wavelength: FloatArray,
    curve: FloatArray,
    nodes: FloatArray,
    min_relative: float,
) -> tuple[NDArray[np.int64], FloatArray]:
    """Reflections (m, 3) of ``hkl`` (both signs of each given) that matter, and their rates (m, nodes),
    unpolarised.
    """
    radiation = instrument.beam.radiation
    first = np.take_along_axis(hkl, np.argmax(hkl != 0, axis=1)[:, None], axis=1)[:, 0]
    half = hkl[first > 0]
    elements, sums, form = crystal.partial_structure_factors(half, radiation)
    q = crystal.q_length(half)
    grid = np.linspace(q.min(initial=1.0) * 0.999, q.max(initial=1.0) * 1.001, 2000)
    weight = np.interp(q, grid, _mean_weight(grid, wavelength, curve, nodes))
    static = (sums * form).sum(axis=1)
    # 12 electrons bound |f' + i f''| away from the deepest edges: only a pre-selection.
    limit = (np.abs(static) + (12.0 * np.abs(sums).sum(axis=1) if radiation == "xray" else 0.0)) ** 2 * weight
    estimate = np.abs(static) ** 2 * weight
    chosen = limit >= 0.01 * min_relative * estimate.max(initial=0.0)
    half, sums, q, form = half[chosen], sums[chosen], q[chosen], form[chosen]
    static = (sums * form).sum(axis=1)
    step = wavelength[1] - wavelength[0]
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (curve[1:] + curve[:-1])) * step])
    table = np.zeros((0, 2), dtype=complex)
    if radiation == "xray":
        table = np.stack([_dispersion_table(e) for e in elements])
    rates = node_rates(
        q,
        static,
        sums,
        nodes,
        float(wavelength[0]),
        float(step),
        cumulative,
        HC_KEV_A,
        float(LOG_ENERGY[0]),
        float(LOG_ENERGY[1] - LOG_ENERGY[0]),
        table,
    )
    return np.concatenate([half, -half]), rates.reshape(-1, len(nodes))


@lru_cache(maxsize=128)
def _dispersion_table(element: str) -> NDArray[np.complex128]:
    """f' + i f'' of an element at the energies of `LOG_ENERGY`, from gemmi."""
    return np.array([dispersion(element, float(e)) for e in np.exp(LOG_ENERGY)])


@dataclass(frozen=True, eq=False)
class PredictedSpots:
    """Spots of one pattern.

    Attributes
    ----------
    ray
        (n,) index in the ray table.
    hkl
        (n, 3) the strongest harmonic.
    pixels
        (n, 2) as (col, row).
    k_out
        (n, 3) unit vectors of the scattered rays, laboratory.
    sin_theta
        (n,).
    energy_kev
        (n,) energy (of a photon of the wavelength) that ``hkl`` selects.
    rate_per_s
        (n,) expected particles a second in the whole spot, all harmonics.
    """

    ray: NDArray[np.int64]
    hkl: NDArray[np.int64]
    pixels: FloatArray
    k_out: FloatArray
    sin_theta: FloatArray
    energy_kev: FloatArray
    rate_per_s: FloatArray

    def __len__(self) -> int:
        return len(self.ray)


def predict_spots(
    table: RayTable, u_lab: ArrayLike, detector: Detector | None = None, *, on_sensor: bool = True
) -> PredictedSpots:
    """The pattern of a crystal at laboratory orientation ``u_lab`` (3, 3), on ``detector`` or the table's own.

    With ``on_sensor=False`` spots that miss the sensor or fall into blind regions are listed too (as far as
    their ray meets the detector's surface).
    """
    u = np.asarray(u_lab, dtype=float)
    where = table.instrument.detector if detector is None else detector
    ray, pixels, rate, _ = trace_batch(u[None], table, pack_detector(where), table.polarisation, on_sensor)
    g = table.direction[ray] @ u.T
    sin_theta = -g[:, 2]
    k_out = np.array([0.0, 0.0, 1.0]) + 2.0 * sin_theta[:, None] * g
    order = table.harmonic(ray, sin_theta)
    energy = HC_KEV_A * table.q_length[ray] * order / (4.0 * np.pi * sin_theta)
    return PredictedSpots(ray, table.hkl[ray] * order[:, None], pixels, k_out, sin_theta, energy, rate)
