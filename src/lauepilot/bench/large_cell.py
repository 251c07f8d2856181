"""A large cell to search in, made up: no published structure of this size is in the zoo."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lauepilot.simulator.crystal import Crystal, parse_cif

#: Axes in angstrom; atoms of the asymmetric unit, as few as an open framework has; their mean square displacement, A^2.
CELL_A = (25.0, 27.0, 30.0)
ATOMS = {"Zn": 6, "O": 26, "C": 48}
U_ISO_A2 = 0.06


@lru_cache(maxsize=1)
def large_crystal() -> Crystal:
    """Zinc, oxygen and carbon at random places in P 21 21 2."""
    rng = np.random.default_rng(25_27_30)
    sites = [
        f"{element}{k} {element} {x:.5f} {y:.5f} {z:.5f} 1 {U_ISO_A2}"
        for element, n in ATOMS.items()
        for k, (x, y, z) in enumerate(rng.random((n, 3)))
    ]
    names = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy", "U_iso_or_equiv")
    text = "\n".join(
        [
            "data_large",
            *(f"_cell_length_{axis} {length}" for axis, length in zip("abc", CELL_A, strict=True)),
            *(f"_cell_angle_{angle} 90" for angle in ("alpha", "beta", "gamma")),
            "_space_group_name_H-M_alt 'P 21 21 2'",
            "loop_",
            *(f"_atom_site_{name}" for name in names),
            *sites,
        ]
    )
    return parse_cif(text, "large")
