"""What sources emit before optics, windows and air: tubes, bending magnets, moderators.

`lauepilot.simulator.spectra` turns these into beams at the sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import constants

from lauepilot.simulator.conventions import FloatArray

#: Width in keV of the bins into which a tube's lines fall.
LINE_WIDTH_KEV = 0.05

#: Energy over critical energy at which a bending magnet gives the most photons per relative bandwidth.
G1_PEAK = 0.28581

#: Anodes that the tube model knows, with the highest voltage in kV it holds for; the lowest is 10 kV.
ANODES: Mapping[str, float] = {
    "W": 500.0,
    "Mo": 50.0,
    "Rh": 50.0,
    "Cr": 50.0,
    "Cu": 50.0,
    "Ag": 50.0,
    "Au": 50.0,
}


@lru_cache(maxsize=16)
def unfiltered_tube(kv: float, anode: str, anode_angle_deg: float) -> tuple[FloatArray, FloatArray]:
    """Photons of a tube with a thick reflecting anode, 1 m from the focus, before any window or air.

    Parameters
    ----------
    kv
        Tube voltage, 10 kV up to the value in `ANODES`.
    anode
        One of `ANODES`.
    anode_angle_deg
        Angle between the anode's face and the beam taken off.

    Returns
    -------
    edges_kev
        Edges of the energy bins, (n + 1,), from 1 keV (at most one bin above) to the voltage; locked.
    photons
        Photons / mm^2 / (mA s) in each bin, (n,); locked. Lines fall into one bin each.

    Raises
    ------
    ValueError
        If a setting is outside the model.
    """
    if anode not in ANODES:
        raise ValueError(f"The tube model knows the anodes {', '.join(ANODES)}; {anode!r} came.")
    if not 10.0 <= kv <= ANODES[anode]:
        raise ValueError(f"A {anode} tube is modelled from 10 to {ANODES[anode]:g} kV; {kv:g} kV came.")
    if not 0.0 < anode_angle_deg < 90.0:
        raise ValueError(
            f"The anode angle lies between 0 and 90 degrees; {anode_angle_deg:g} came. 12 is usual."
        )
    import spekpy  # takes 0.7 s to load, which only tubes should pay

    tube = spekpy.Spek(
        kvp=kv, th=anode_angle_deg, dk=LINE_WIDTH_KEV, targ=anode, physics="casim", z=100.0, mas=1.0
    )
    middle, per_cm2_kev = tube.get_spectrum(edges=False, flu=True, diff=True)
    width = float(middle[1] - middle[0])
    edges = np.concatenate([middle - 0.5 * width, middle[-1:] + 0.5 * width])
    photons = np.asarray(per_cm2_kev * width / 100.0, dtype=np.float64)
    edges.setflags(write=False)  # the cache hands the same arrays to everybody
    photons.setflags(write=False)
    return edges, photons


def universal_g1(y: ArrayLike) -> FloatArray:
    """Universal function of synchrotron radiation, ``G1(y) = y * integral of K_5/3 from y on``, y > 0.

    The integral is Kostroun's (1980), Nucl. Instrum. Methods 172, 371: a trapezoidal sum that converges
    exponentially; tested to 1e-9 against quadrature.
    """
    argument = np.asarray(y, dtype=np.float64)
    step = 0.25
    total = 0.5 * np.exp(-argument)
    for r in range(1, 120):  # cosh(30) closes the sum for every y above 1e-10
        grown = math.cosh(r * step)
        total = total + np.exp(-argument * grown) * (math.cosh(5.0 / 3.0 * r * step) / grown)
    return np.asarray(argument * step * total)


def maxwellian_scale_a(temperature_k: float) -> float:
    """Wavelength in angstrom of a neutron of energy k T, ``h / sqrt(2 m k T)``: 1.78 at 300 K."""
    return float(constants.h / math.sqrt(2.0 * constants.m_n * constants.k * temperature_k) * 1e10)


def require_positive(**values: float) -> None:
    """Raise a ValueError that names the first value that is not a positive finite number."""
    for name, value in values.items():
        if not (value > 0.0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a positive number; {value} came.")
