"""The Laue pattern once more, slowly and plainly: what the kernels are held against.

Nothing is tabulated, binned or compiled here: every harmonic of every plane is taken by itself, at its own wavelength, and
each factor of its rate is one call of the function in `lauepilot.simulator.corrections` that has the source. The only
things shared with the fast way are those functions, the spectrum and the crystal's atoms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator import corrections
from lauepilot.simulator.conventions import BEAM, HC_KEV_A, FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.laue import UNIT_LENGTH_A, beam_spectrum
from lauepilot.simulator.spectra import Spectrum


@dataclass(frozen=True, eq=False)
class Harmonic:
    """One reflection of a ray.

    Attributes
    ----------
    hkl
        Its indices.
    wavelength_a, energy_kev
        What it selects from the beam: ``2 d sin(theta)``, and the energy of a photon of that wavelength.
    f_squared
        |F|^2 of the cell at that energy, electrons^2 or fm^2.
    rate_per_s
        Particles a second, polarisation included.
    """

    hkl: tuple[int, int, int]
    wavelength_a: float
    energy_kev: float
    f_squared: float
    rate_per_s: float


@dataclass(frozen=True, eq=False)
class ReferenceSpot:
    """One spot: all harmonics of one primitive direction.

    Attributes
    ----------
    hkl
        Primitive indices.
    pixel
        (2,) as (col, row).
    k_out
        (3,) unit vector of the scattered ray, laboratory.
    sin_theta
        Sine of half the scattering angle.
    harmonics
        Those whose wavelength is in the beam, longest wavelength first.
    """

    hkl: tuple[int, int, int]
    pixel: FloatArray
    k_out: FloatArray
    sin_theta: float
    harmonics: tuple[Harmonic, ...]

    @property
    def rate_per_s(self) -> float:
        """Particles a second in the spot, all harmonics."""
        return sum(h.rate_per_s for h in self.harmonics)


def reference_spot(
    crystal: Crystal,
    instrument: Instrument,
    hkl: ArrayLike,
    u_lab: ArrayLike,
    detector: Detector | None = None,
    spectrum: Spectrum | None = None,
) -> ReferenceSpot | None:
    """The spot of one primitive direction, or None if it cannot reflect or misses the detector.

    Parameters
    ----------
    crystal, instrument
        What is exposed, and where.
    hkl
        (3,) primitive indices; the sign is that of the plane's normal against the beam.
    u_lab
        (3, 3) laboratory orientation.
    detector
        The instrument's first by default.
    spectrum
        `beam_spectrum` of the instrument, if it is at hand already: some take long to build.
    """
    beam, sample, sensor = instrument.beam, instrument.sample, instrument.detector.sensor
    where = instrument.detector if detector is None else detector
    white = beam_spectrum(beam) if spectrum is None else spectrum
    primitive = np.asarray(hkl, dtype=np.int64)
    q = np.asarray(u_lab, dtype=float) @ crystal.b @ primitive
    length = math.sqrt(float(q @ q))
    normal = q / length
    sin_theta = -float(normal @ BEAM)
    if sin_theta <= 0.0:
        return None
    k_out = BEAM + 2.0 * sin_theta * normal
    pixel = where.rays_to_pixels(k_out)
    if not where.sees(pixel):
        return None
    harmonics = []
    order = 1
    while True:
        # Bragg: lambda = 2 d sin(theta), with d = 2 pi / |n q|.
        wavelength = 4.0 * math.pi * sin_theta / (order * length)
        if wavelength < white.wavelength_min_a:
            break
        if wavelength <= white.wavelength_max_a:
            energy = HC_KEV_A / wavelength
            indices = order * primitive
            factor = crystal.structure_factors(indices[None], beam.radiation, energy)[0]
            depth_mm, passed = sample.thickness_mm, 1.0
            if beam.radiation == "xray":
                mu = corrections.crystal_attenuation_per_mm(crystal.atoms.counts(), crystal.volume_a3, energy)
                depth_mm = float(corrections.effective_depth_mm(mu, sample.thickness_mm))
                passed = float(corrections.polarisation(k_out, beam.polarisation))
                if sample.air_path_mm > 0.0:
                    passed *= float(corrections.air_transmission(sample.air_path_mm, energy))
                if sensor.material:
                    passed *= float(
                        corrections.detector_efficiency(sensor.material, sensor.thickness_mm, energy)
                    )
            rate = corrections.kinematical_rate(
                white.at(wavelength),
                corrections.lorentz_laue(wavelength, sin_theta),
                abs(factor) ** 2,
                beam.size_mm[0] * beam.size_mm[1] * depth_mm,
                crystal.volume_a3,
                UNIT_LENGTH_A[beam.radiation],
            )
            harmonics.append(
                Harmonic(
                    (int(indices[0]), int(indices[1]), int(indices[2])),
                    wavelength,
                    energy,
                    float(abs(factor) ** 2),
                    float(rate) * passed,
                )
            )
        order += 1
    name = (int(primitive[0]), int(primitive[1]), int(primitive[2]))
    return ReferenceSpot(name, pixel, k_out, sin_theta, tuple(harmonics))


def reference_pattern(
    crystal: Crystal, instrument: Instrument, u_lab: ArrayLike, q_max: float, detector: Detector | None = None
) -> list[ReferenceSpot]:
    """All spots of the primitive directions no longer than ``q_max`` (per angstrom, with 2 pi), brightest first.

    Spots without a particle are left out.
    """
    spectrum = beam_spectrum(instrument.beam)
    spots = []
    for hkl in primitive_directions(crystal, q_max):
        spot = reference_spot(crystal, instrument, hkl, u_lab, detector, spectrum)
        if spot is not None and spot.rate_per_s > 0.0:
            spots.append(spot)
    return sorted(spots, key=lambda s: -s.rate_per_s)


def primitive_directions(crystal: Crystal, q_max: float) -> NDArray[np.int64]:
    """Indices (n, 3) without common divisor, both signs, no longer than ``q_max`` (per angstrom, with 2 pi)."""
    hkl = crystal.reflections(q_max)
    return np.asarray(hkl[np.gcd.reduce(hkl, axis=1) == 1])
