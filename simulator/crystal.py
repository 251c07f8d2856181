"""Crystals: cell, symmetry and atoms of a CIF, and what they scatter.

Everything is taken from the CIF through gemmi: cell, space group, sites, displacement parameters. Nothing is
absent by rule: a reflection is absent because its structure factor, computed from the atoms, vanishes.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.table_kernels import partial_sums

Radiation = Literal["xray", "neutron"]

#: Zoo names by common names that are spelled too differently to be guessed; they are suggested, never taken.
COMMON_NAMES = {
    "silicon": "si",
    "germanium": "ge",
    "copper": "cu",
    "nickel": "ni",
    "salt": "nacl",
    "halite": "nacl",
    "rocksalt": "nacl",
    "corundum": "sapphire",
    "alumina": "sapphire",
    "al2o3": "sapphire",
    "sio2": "quartz",
    "sic": "4h-sic",
    "sto": "srtio3",
}


class CrystalError(ValueError):
    """A crystal that does not exist, or a CIF that cannot be used."""


@dataclass(frozen=True, eq=False)
class Atoms:
    """All atoms of one unit cell.

    Attributes
    ----------
    elements
        Element symbols, one per atom.
    fractional
        (n, 3) coordinates.
    occupancy
        (n,) chemical occupancies.
    u_star
        (n, 3, 3) displacement tensors for ``exp(-2 pi^2 h U* h)`` (IUCr 1996, Acta Cryst. A52, 770, eq. 1.10).
    """

    elements: tuple[str, ...]
    fractional: FloatArray
    occupancy: FloatArray
    u_star: FloatArray

    def counts(self) -> dict[str, float]:
        """Atoms of each element in the cell, occupancies counted."""
        totals: dict[str, float] = {}
        for element, share in zip(self.elements, self.occupancy, strict=True):
            totals[element] = totals.get(element, 0.0) + float(share)
        return totals


@dataclass(frozen=True, eq=False)
class Crystal:
    """A crystal structure.

    Attributes
    ----------
    name
        Short name, as the user typed it.
    cell
        a, b, c in angstrom and alpha, beta, gamma in degrees, as in the CIF.
    space_group
        Extended Hermann-Mauguin symbol.
    centring
        Lattice letter: P, A, B, C, I, F or R.
    system
        Crystal system.
    b
        ``B`` (3, 3) with 2 pi (Busing & Levy 1967, eq. 3).
    symmetry
        (n, 3, 3) proper rotations of the Laue class in the crystal's Cartesian frame: those that a pattern obeying
        Friedel's law cannot tell apart.
    holohedry
        (m, 3, 3) proper rotations of the lattice alone (within half a degree of obliquity):
        the first suspects when an orientation fits that is not the right one.
    atoms
        The unit cell's content.
    """

    name: str
    cell: tuple[float, float, float, float, float, float]
    space_group: str
    centring: str
    system: str
    b: FloatArray
    symmetry: FloatArray
    holohedry: FloatArray
    atoms: Atoms

    @property
    def volume_a3(self) -> float:
        """Volume of the cell in cubic angstrom."""
        return float((2.0 * np.pi) ** 3 / np.linalg.det(self.b))

    def q_length(self, hkl: ArrayLike) -> FloatArray:
        """Length (...) of the reciprocal-lattice vectors of ``hkl`` (..., 3), per angstrom, with 2 pi."""
        return np.asarray(np.linalg.norm(np.asarray(hkl, dtype=float) @ self.b.T, axis=-1))

    def partial_structure_factors(
        self, hkl: ArrayLike, radiation: Radiation
    ) -> tuple[tuple[str, ...], NDArray[np.complex128], FloatArray]:
        """Geometric structure factors element by element: elements (m), sums (n, m) and form factors (n, m).

        ``sums`` hold occupancy, displacement and phase of all atoms of the element; ``form`` is f0 of the
        International Tables (X-rays; electrons) or the bound coherent scattering length (neutrons; fm), both
        from gemmi.
        """
        indices = np.asarray(hkl, dtype=float).reshape(-1, 3)
        elements = tuple(dict.fromkeys(self.atoms.elements))
        column = np.array([elements.index(e) for e in self.atoms.elements])
        atoms = self.atoms
        sums = partial_sums(indices, atoms.fractional, atoms.occupancy, atoms.u_star, column, len(elements))
        stol2 = (self.q_length(indices) / (4.0 * np.pi)) ** 2
        form = np.stack([form_factor(e, stol2, radiation) for e in elements], axis=1)
        return elements, sums, form

    def structure_factors(
        self, hkl: ArrayLike, radiation: Radiation = "xray", energy_kev: float | None = None
    ) -> NDArray[np.complex128]:
        """Structure factors F (n) of ``hkl`` (n, 3).

        X-rays: electrons, with f' and f'' (Cromer & Liberman 1970, from gemmi) if an energy is given.
        Neutrons: femtometres.
        """
        elements, sums, form = self.partial_structure_factors(hkl, radiation)
        factors: NDArray[np.complex128] = form.astype(complex)
        if radiation == "xray" and energy_kev is not None:
            factors = factors + np.array([dispersion(e, energy_kev) for e in elements])
        return np.asarray((sums * factors).sum(axis=1))

    def reflections(self, q_max: float) -> NDArray[np.int64]:
        """All ``hkl`` (n, 3) but the origin with a reciprocal-lattice vector not longer than ``q_max`` (2 pi /
        angstrom).
        """
        lengths = 2.0 * np.pi * np.linalg.norm(np.linalg.inv(self.b), axis=1)
        top = np.floor(q_max * lengths / (2.0 * np.pi) + 1e-9).astype(int)
        axes = [np.arange(-t, t + 1) for t in top]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        q = self.q_length(grid)
        return np.asarray(grid[(q <= q_max) & (q > 0.0)])


def dispersion(element: str, energy_kev: float) -> complex:
    """f' + i f'' of an element, electrons (Cromer & Liberman 1970, from gemmi)."""
    number = gemmi.Element(element).atomic_number
    real, imaginary = gemmi.cromer_liberman(z=number, energy=energy_kev * 1e3)
    return complex(real, imaginary)


def form_factor(element: str, stol2: FloatArray, radiation: Radiation) -> FloatArray:
    """f0 (n,) at ``(sin(theta)/lambda)^2`` (n,): International Tables C in electrons, or a scattering length
    in fm (gemmi).
    """
    entry = gemmi.Element(element)
    if radiation == "neutron":
        return np.full(len(stol2), float(entry.neutron92.calculate_sf(0.0)))
    # Deuterium and unknown elements have no X-ray table of their own.
    table = gemmi.Element("H").it92 if element == "D" else entry.it92
    if table is None:
        raise CrystalError(
            f"gemmi has no X-ray form factor for element {element!r}; check the CIF's type symbols."
        )
    a, b, c = np.array(table.a), np.array(table.b), float(table.c)
    return np.asarray((a * np.exp(-b * stol2[:, None])).sum(axis=1) + c)


def zoo_names() -> tuple[str, ...]:
    """Names of the built-in crystals."""
    folder = resources.files("lauepilot.simulator") / "zoo"
    return tuple(sorted(p.name[:-4] for p in folder.iterdir() if p.name.endswith(".cif")))


def load_crystal(name_or_path: str | Path) -> Crystal:
    """A crystal of the zoo by name (``si``, ``ca2ruo4``, ...) or from a CIF by path.

    Raises
    ------
    CrystalError
        If there is none of that name (the nearest is named), or the CIF is missing or broken (says what is wrong).
    """
    text = str(name_or_path)
    if text.lower() in zoo_names():
        return _zoo_crystal(text.lower())
    path = Path(text)
    if path.suffix.lower() == ".cif" or path.is_file():
        if not path.is_file():
            raise CrystalError(f"No CIF file {text!r}. Give the path of a file that exists.")
        try:
            content = path.read_text("utf-8", errors="replace")
        except OSError as error:
            raise CrystalError(f"{text} cannot be read: {error.strerror}.") from None
        return parse_cif(content, path.stem, origin=text)
    common = {name: name for name in zoo_names()} | COMMON_NAMES
    # A slip in a common name has to be small: short zoo names would else be found in any word.
    near = difflib.get_close_matches(text.lower(), COMMON_NAMES, n=1, cutoff=0.75)
    near = near or difflib.get_close_matches(text.lower(), zoo_names(), n=1, cutoff=0.3)
    hint = f"Did you mean {common[near[0]]!r}? " if near else ""
    raise CrystalError(
        f"No crystal {text!r}. {hint}Built in: {', '.join(zoo_names())}; or give the path of a CIF."
    )


@lru_cache(maxsize=64)
def _zoo_crystal(name: str) -> Crystal:
    content = (resources.files("lauepilot.simulator") / "zoo" / f"{name}.cif").read_text("utf-8")
    return parse_cif(content, name, origin=f"{name}.cif")


def parse_cif(text: str, name: str, origin: str = "<text>") -> Crystal:
    """A crystal from the text of a CIF; ``origin`` names the file in messages.

    Raises
    ------
    CrystalError
        If the text is no CIF, or lacks cell, space group or atoms.
    """
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise CrystalError(f"{origin} is not a readable CIF: {error}") from None
    if len(document) == 0:
        raise CrystalError(f"{origin} holds no data block; a CIF starts with a line 'data_NAME'.")
    try:
        small = gemmi.make_small_structure_from_block(document[0])
    except (ValueError, RuntimeError) as error:  # an angle of 0 degrees, for one
        raise CrystalError(f"{origin} holds no usable structure: {error} Check the _cell_ entries.") from None
    cell = small.cell
    _check_angles((cell.alpha, cell.beta, cell.gamma), origin)
    if not cell.is_crystal() or not np.isfinite(cell.volume) or cell.volume < 1.0:
        raise CrystalError(f"{origin} gives no usable cell; _cell_length_a ... _cell_angle_gamma are needed.")
    group = small.spacegroup
    if group is None:
        named = small.spacegroup_hm or small.spacegroup_hall or "nothing"
        raise CrystalError(
            f"{origin} names no space group that is known (got {named!r}); "
            "give _space_group_name_H-M_alt or _symmetry_equiv_pos_as_xyz."
        )
    if len(small.sites) == 0:
        raise CrystalError(f"{origin} lists no atoms; an _atom_site_ loop is needed.")
    b = busing_levy_b((cell.a, cell.b, cell.c, cell.alpha, cell.beta, cell.gamma))
    operations = group.operations()
    lattice = gemmi.find_lattice_symmetry(cell, group.centring_type(), 0.5)
    return Crystal(
        name=name,
        cell=(cell.a, cell.b, cell.c, cell.alpha, cell.beta, cell.gamma),
        space_group=group.xhm(),
        centring=group.centring_type(),
        system=group.crystal_system_str(),
        b=b,
        symmetry=_proper_rotations(operations.sym_ops, b),
        holohedry=_proper_rotations(lattice.sym_ops, b),
        atoms=_unit_cell(small, operations, b, origin),
    )


def _check_angles(angles_deg: tuple[float, float, float], origin: str) -> None:
    """Refuse angles that no three vectors can have; gemmi computes a cell of no sense from them."""
    angles = sorted(angles_deg)
    possible = angles[0] > 0.0 and angles[2] < angles[0] + angles[1] and sum(angles) < 360.0
    if not possible:
        said = "/".join(f"{a:g}" for a in angles_deg)
        raise CrystalError(
            f"{origin}: cell angles {said} degrees are impossible: each must be positive and less than the sum of the "
            "others, and all three together less than 360. Check _cell_angle_alpha, _beta and _gamma."
        )


def busing_levy_b(cell: Sequence[float]) -> FloatArray:
    """``B`` (3, 3) with 2 pi of a cell (angstrom, degrees): Busing & Levy (1967), eq. 3.

    >>> (busing_levy_b((2, 2, 4, 90, 90, 90)) / (2 * np.pi)).round(9)
    array([[0.5 , 0.  , 0.  ],
           [0.  , 0.5 , 0.  ],
           [0.  , 0.  , 0.25]])
    """
    a, b, c = (float(x) for x in cell[:3])
    alpha, beta, gamma = np.deg2rad(np.asarray(cell[3:6], dtype=float))
    ca, cb, cg = np.cos([alpha, beta, gamma])
    volume = a * b * c * np.sqrt(1 - ca**2 - cb**2 - cg**2 + 2 * ca * cb * cg)
    ra, rb, rc = b * c * np.sin(alpha) / volume, a * c * np.sin(beta) / volume, a * b * np.sin(gamma) / volume
    cos_rb = (ca * cg - cb) / (np.sin(alpha) * np.sin(gamma))
    cos_rg = (ca * cb - cg) / (np.sin(alpha) * np.sin(beta))
    sin_rg, sin_rb = np.sqrt(1 - cos_rg**2), np.sqrt(1 - cos_rb**2)
    matrix = np.array(
        [[ra, rb * cos_rg, rc * cos_rb], [0.0, rb * sin_rg, -rc * sin_rb * ca], [0.0, 0.0, 1.0 / c]]
    )
    matrix[np.abs(matrix) < 1e-15 * ra] = 0.0
    return np.asarray(2.0 * np.pi * matrix)


def _proper_rotations(operations: Sequence[gemmi.Op], b: FloatArray) -> FloatArray:
    """Proper rotations (n, 3, 3), Cartesian, of the group generated by the operations and the inversion."""
    direct = np.linalg.inv(b).T
    found: dict[tuple[int, ...], FloatArray] = {}
    for operation in operations:
        w = np.array(operation.rot, dtype=float) / gemmi.Op.DEN
        w = w * np.sign(np.linalg.det(w))
        key = tuple(np.rint(w).astype(int).ravel().tolist())
        if key not in found:
            u, _, vt = np.linalg.svd(direct @ w @ np.linalg.inv(direct))
            found[key] = u @ vt
    return np.stack([found[key] for key in sorted(found, reverse=True)])


def _unit_cell(small: gemmi.SmallStructure, operations: gemmi.GroupOps, b: FloatArray, origin: str) -> Atoms:
    reciprocal = b / (2.0 * np.pi)
    metric = reciprocal.T @ reciprocal
    lengths = np.linalg.norm(reciprocal, axis=0)
    direct = np.linalg.inv(reciprocal).T
    elements: list[str] = []
    positions: list[FloatArray] = []
    shares: list[float] = []
    tensors: list[FloatArray] = []
    for site in small.sites:
        symbol = site.element.name
        if symbol == "X":
            raise CrystalError(
                f"{origin}: atom {site.label!r} has no known element (type {site.type_symbol!r})."
            )
        if not np.all(np.isfinite(site.fract.tolist())):
            raise CrystalError(
                f"{origin}: atom {site.label!r} has unknown coordinates; give numbers for its _atom_site_fract_x, _y "
                "and _z, or take it out of the list."
            )
        if site.aniso.nonzero():
            u = site.aniso
            u_star = np.array([[u.u11, u.u12, u.u13], [u.u12, u.u22, u.u23], [u.u13, u.u23, u.u33]])
            u_star = u_star * np.outer(lengths, lengths)
        else:
            u_star = site.u_iso * metric
        # Special positions are reached by several operations: one atom each (within 0.05 angstrom), whose displacement
        # is the mean over them, so that it has the symmetry of its site even where the CIF's rounding has not.
        seen: list[FloatArray] = []
        turned: list[list[FloatArray]] = []
        for operation in operations:
            w = np.array(operation.rot, dtype=float) / gemmi.Op.DEN
            x = (
                w @ np.array(site.fract.tolist()) + np.array(operation.tran, dtype=float) / gemmi.Op.DEN
            ) % 1.0
            gaps = [float(np.linalg.norm(direct @ ((x - y) - np.rint(x - y)))) for y in seen]
            same = next((i for i, gap in enumerate(gaps) if gap < 0.05), len(seen))
            if same == len(seen):
                seen.append(x)
                turned.append([])
            turned[same].append(w @ u_star @ w.T)
        elements += [symbol] * len(seen)
        positions += seen
        shares += [float(site.occ)] * len(seen)
        tensors += [np.mean(t, axis=0) for t in turned]
    return Atoms(tuple(elements), np.array(positions), np.array(shares), np.array(tensors))
