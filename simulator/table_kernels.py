"""The compiled inner loops of `RayTable.build`: structure factors and rates of very many reflections."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lauepilot.simulator.conventions import FloatArray

ComplexArray = NDArray[np.complex128]


@njit(cache=True)
def partial_sums(
    hkl: FloatArray,
    fractional: FloatArray,
    occupancy: FloatArray,
    u_star: FloatArray,
    column: NDArray[np.int64],
    elements: int,
) -> ComplexArray:
    """Sums (n, elements) over the atoms of each element: occupancy, displacement and phase of ``hkl`` (n, 3).

    ``column`` (atoms) is the element's number of each atom; ``u_star`` (atoms, 3, 3) as in `Atoms`.
    """
    n, atoms = hkl.shape[0], fractional.shape[0]
    out = np.zeros((n, elements), np.complex128)
    for i in range(n):
        h, k, m = hkl[i, 0], hkl[i, 1], hkl[i, 2]
        for a in range(atoms):
            u = u_star[a]
            b = h * h * u[0, 0] + k * k * u[1, 1] + m * m * u[2, 2]
            b += 2.0 * (h * k * u[0, 1] + h * m * u[0, 2] + k * m * u[1, 2])
            size = occupancy[a] * np.exp(-2.0 * np.pi**2 * b)
            phase = 2.0 * np.pi * (h * fractional[a, 0] + k * fractional[a, 1] + m * fractional[a, 2])
            out[i, column[a]] += size * complex(np.cos(phase), np.sin(phase))
    return out


@njit(cache=True)
def node_rates(
    q: FloatArray,
    static: ComplexArray,
    sums: ComplexArray,
    nodes: FloatArray,
    wavelength_min: float,
    wavelength_step: float,
    cumulative: FloatArray,
    hc: float,
    log_energy_min: float,
    log_energy_step: float,
    dispersion: ComplexArray,
) -> FloatArray:
    """Rates (2, n, nodes) of reflections and of their opposites, unpolarised.

    ``cumulative`` is the integral of the white curve on a uniform grid of wavelengths: each node takes the mean over its
    step of ``sin(theta)``, so that narrow lines of the spectrum keep their weight. ``dispersion`` (elements, m)
    is f' + i f'' on a uniform grid of log energy; no rows for neutrons.
    """
    n, elements = sums.shape
    out = np.zeros((2, n, nodes.shape[0]))
    half = 0.5 * (nodes[1] - nodes[0])
    last = cumulative.shape[0] - 1
    for i in range(n):
        for k in range(nodes.shape[0]):
            s = nodes[k]
            low = (4.0 * np.pi * (s - half) / q[i] - wavelength_min) / wavelength_step
            high = (4.0 * np.pi * (s + half) / q[i] - wavelength_min) / wavelength_step
            if high <= 0.0 or low >= last:
                continue
            weight = (
                (_at(cumulative, high) - _at(cumulative, low)) / ((high - low) * wavelength_step) / (s * s)
            )
            if weight <= 0.0:
                continue
            plus, minus = static[i], np.conj(static[i])
            if dispersion.shape[0] > 0:
                x = (np.log(hc * q[i] / (4.0 * np.pi * s)) - log_energy_min) / log_energy_step
                x = min(max(x, 0.0), dispersion.shape[1] - 1.000001)
                j = int(x)
                for e in range(elements):
                    shift = dispersion[e, j] + (x - j) * (dispersion[e, j + 1] - dispersion[e, j])
                    plus += sums[i, e] * shift
                    minus += np.conj(sums[i, e]) * shift
            out[0, i, k] = weight * (plus.real**2 + plus.imag**2)
            out[1, i, k] = weight * (minus.real**2 + minus.imag**2)
    return out


@njit(cache=True)
def _at(values: FloatArray, x: float) -> float:
    """Linear interpolation at a fractional index, held constant beyond the ends."""
    if x <= 0.0:
        return float(values[0])
    if x >= values.shape[0] - 1:
        return float(values[-1])
    i = int(x)
    return float(values[i] + (x - i) * (values[i + 1] - values[i]))
