"""The twenty crystals of the zoo against the literature and against two independent packages.

Literature: contents of the cell, X-ray density, usual bond lengths and coordination numbers. Independent packages:
xrayutilities and Dans_Diffraction, with the structures that they ship and with their own structure factors. For the
crystals that neither ships (the README marks which numbers were recalled), these tests show that a file is sound,
near other determinations where one was found, and read alike by others, not that its last digits are the published ones.
"""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import constants

import lauepilot.simulator

ZOO = Path(lauepilot.simulator.__file__).parent / "zoo"

# name: space group as gemmi writes it, crystal system, atoms per cell (formula times Z), published density in
# g/cm3: AMCSD entries of the cited papers (cu, ni, nacl, quartz, sapphire, kyanite), ICSD entries (ca2ruo4,
# sr4ru3o10), handbooks (the rest); None where we know no published value for just this composition and cell.
EXPECTED: dict[str, tuple[str, str, dict[str, float], float | None]] = {
    "si": ("F d -3 m:2", "cubic", {"Si": 8}, 2.329),
    "ge": ("F d -3 m:2", "cubic", {"Ge": 8}, 5.323),
    "cu": ("F m -3 m", "cubic", {"Cu": 4}, 8.935),
    "ni": ("F m -3 m", "cubic", {"Ni": 4}, 8.909),
    "nacl": ("F m -3 m", "cubic", {"Na": 4, "Cl": 4}, 2.164),
    "srtio3": ("P m -3 m", "cubic", {"Sr": 1, "Ti": 1, "O": 3}, 5.12),
    "quartz": ("P 32 2 1", "trigonal", {"Si": 3, "O": 6}, 2.646),
    "sapphire": ("R -3 c:H", "trigonal", {"Al": 12, "O": 18}, 3.984),
    "3c-sic": ("F -4 3 m", "cubic", {"Si": 4, "C": 4}, 3.21),
    "4h-sic": ("P 63 m c", "hexagonal", {"Si": 4, "C": 4}, 3.21),
    "moo3": ("P b n m", "orthorhombic", {"Mo": 4, "O": 12}, 4.70),
    "ybco": ("P m m m", "orthorhombic", {"Y": 1, "Ba": 2, "Cu": 3, "O": 6.67}, None),
    "lsco": ("I 4/m m m", "tetragonal", {"La": 3.76, "Sr": 0.24, "Cu": 2, "O": 8}, None),
    "ca2ruo4": ("P b c a", "orthorhombic", {"Ca": 8, "Ru": 4, "O": 16}, 4.58),
    "sr4ru3o10": ("P b a m", "orthorhombic", {"Sr": 16, "Ru": 12, "O": 40}, 6.18),
    "yfe2ge2": ("I 4/m m m", "tetragonal", {"Y": 2, "Fe": 4, "Ge": 4}, None),
    "feps3": ("C 1 2/m 1", "monoclinic", {"Fe": 4, "P": 4, "S": 12}, None),
    "fepse3": ("R -3:H", "trigonal", {"Fe": 6, "P": 6, "Se": 18}, None),
    "jarosite": ("R -3 m:H", "trigonal", {"K": 3, "Fe": 9, "S": 6, "O": 42, "H": 18}, None),
    "kyanite": ("P -1", "triclinic", {"Al": 8, "Si": 4, "O": 20}, 3.666),
}

# name: (centre, neighbour, shortest and longest bond in angstrom, neighbours within the longest). The windows are
# usual bond lengths of the pair, narrowed around the structure: they catch slips of setting, sign and digit.
BONDS: dict[str, list[tuple[str, str, float, float, int]]] = {
    "si": [("Si", "Si", 2.351, 2.353, 4)],
    "ge": [("Ge", "Ge", 2.449, 2.451, 4)],
    "cu": [("Cu", "Cu", 2.555, 2.558, 12)],
    "ni": [("Ni", "Ni", 2.490, 2.494, 12)],
    "nacl": [("Na", "Cl", 2.819, 2.821, 6)],
    "srtio3": [("Ti", "O", 1.951, 1.954, 6), ("Sr", "O", 2.760, 2.763, 12)],
    "quartz": [("Si", "O", 1.600, 1.620, 4), ("O", "Si", 1.600, 1.620, 2)],
    "sapphire": [("Al", "O", 1.850, 1.980, 6)],
    "3c-sic": [("Si", "C", 1.880, 1.895, 4)],
    "4h-sic": [("Si", "C", 1.880, 1.900, 4), ("C", "Si", 1.880, 1.900, 4)],
    "moo3": [("Mo", "O", 1.66, 1.74, 2), ("Mo", "O", 1.66, 2.34, 6)],
    "ybco": [("Y", "O", 2.38, 2.42, 8), ("Ba", "O", 2.72, 2.98, 10), ("Cu", "O", 1.84, 1.98, 4)],
    "lsco": [("Cu", "O", 1.88, 1.90, 4), ("Cu", "O", 1.88, 2.43, 6), ("La", "O", 2.34, 2.76, 9)],
    "ca2ruo4": [("Ru", "O", 1.97, 2.02, 6)],
    "sr4ru3o10": [("Ru", "O", 1.93, 2.10, 6)],
    "yfe2ge2": [("Fe", "Ge", 2.38, 2.40, 4), ("Ge", "Ge", 2.50, 2.55, 1), ("Fe", "Fe", 2.79, 2.81, 4)],
    "feps3": [("P", "P", 2.16, 2.21, 1), ("P", "S", 2.01, 2.05, 3), ("Fe", "S", 2.53, 2.56, 6)],
    "fepse3": [("P", "P", 2.19, 2.26, 1), ("P", "Se", 2.18, 2.24, 3), ("Fe", "Se", 2.60, 2.70, 6)],
    "jarosite": [("S", "O", 1.45, 1.50, 4), ("Fe", "O", 1.96, 2.07, 6), ("H", "O", 0.90, 1.02, 1)],
    "kyanite": [("Si", "O", 1.61, 1.66, 4), ("Al", "O", 1.80, 2.00, 6)],
}

# Other determinations of the files with a star, none of just our crystal: (atoms, shift of the origin, tolerance in
# angstrom). The tolerances are what the samples or the listed digits differ by; a slip of sign or digit is more.
# jarosite: AMCSD 0004433, half of the K replaced by H3O. ybco: ICSD 83086, oxygen 6.97. lsco: AFLOW's (La,Ba)2CuO4.
# moo3: AFLOW's D0_8 to three digits, its (x, z) our (y, x). fepse3: AFLOW's in R 3, taken to hexagonal axes.
Listed = tuple[list[tuple[str, float, float, float]], tuple[float, float, float], float]
LISTED: dict[str, Listed] = {
    "jarosite": (
        [
            ("S", 0, 0, 0.3089),
            ("O", 0, 0, 0.394),
            ("O", 0.2224, -0.2224, -0.0557),
            ("O", 0.1266, -0.1266, 0.1358),
        ],
        (0, 0, 0),
        0.05,
    ),
    "ybco": (
        [
            ("Ba", 0.5, 0.5, 0.1841),
            ("Cu", 0, 0, 0.3551),
            ("O", 0, 0, 0.1586),
            ("O", 0.5, 0, 0.3775),
            ("O", 0, 0.5, 0.3778),
        ],
        (0, 0, 0),
        0.05,
    ),
    "lsco": ([("La", 0, 0, 0.36075), ("O", 0, 0, 0.1824)], (0, 0, 0), 0.01),
    "moo3": (
        [
            ("Mo", 0.425, 0.398, 0.25),
            ("O", -0.026, 0.074, 0.25),
            ("O", -0.066, 0.414, 0.25),
            ("O", 0.49, 0.276, 0.25),
        ],
        (0.5, 0.5, 0.5),
        0.2,
    ),
    "fepse3": (
        [
            ("Fe", 0, 0, 0.3911),
            ("P", 0, 0, 0.1132),
            ("Se", 0.0018, -0.3304, 0.1436),
            ("Se", 0.3061, -0.0157, 0.3090),
        ],
        (0, 0, -0.0566),
        0.12,
    ),
}


def load(name: str) -> gemmi.SmallStructure:
    """Read one zoo file."""
    return gemmi.read_small_structure(str(ZOO / f"{name}.cif"))


def cell_atoms(structure: gemmi.SmallStructure) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Elements, fractional coordinates (n, 3) and occupancies (n,) of all atoms of the cell."""
    sites = structure.get_all_unit_cell_sites()
    elements = [site.element.name for site in sites]
    positions = np.array([site.fract.tolist() for site in sites], dtype=np.float64)
    return elements, positions, np.array([site.occ for site in sites], dtype=np.float64)


def distances(structure: gemmi.SmallStructure, centre: str, neighbour: str) -> NDArray[np.float64]:
    """Distances (centres, neighbours x 125) in angstrom, over the 5 x 5 x 5 nearest cells; itself at 0."""
    elements, positions, _ = cell_atoms(structure)
    is_centre = np.array([e == centre for e in elements])
    is_neighbour = np.array([e == neighbour for e in elements])
    shift = positions[is_neighbour][None, :, :] - positions[is_centre][:, None, :]
    shift -= np.round(shift)
    cells = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=3)), dtype=np.float64)
    vectors = (shift[:, :, None, :] + cells) @ np.array(structure.cell.orth.mat.tolist()).T
    return np.asarray(np.linalg.norm(vectors, axis=-1).reshape(len(shift), -1), dtype=np.float64)


def reflections(name: str, d_min: float = 0.9) -> NDArray[np.int_]:
    """Unique reflections (n, 3) down to d_min in angstrom."""
    structure = load(name)
    assert structure.spacegroup is not None
    return np.asarray(gemmi.make_miller_array(structure.cell, structure.spacegroup, d_min), dtype=np.int_)


def our_intensity(name: str, hkl: NDArray[np.int_]) -> NDArray[np.float64]:
    """Squared X-ray structure factors (n,) of a zoo crystal without displacements."""
    structure = load(name)
    for site in structure.sites:
        site.u_iso = 0.0
        site.aniso = gemmi.SMat33d(0, 0, 0, 0, 0, 0)
    return gemmi_intensity(structure, hkl)


def gemmi_intensity(structure: gemmi.SmallStructure, hkl: NDArray[np.int_]) -> NDArray[np.float64]:
    """Squared X-ray structure factors (n,) by gemmi, no anomalous terms."""
    structure.change_occupancies_to_crystallographic()
    calculator = gemmi.StructureFactorCalculatorX(structure.cell)
    amplitudes = [calculator.calculate_sf_from_small_structure(structure, h) for h in hkl.tolist()]
    return np.asarray(np.abs(np.array(amplitudes)) ** 2, dtype=np.float64)


def xrayutilities_intensity(
    material: Any, hkl: NDArray[np.int_], monkeypatch: pytest.MonkeyPatch
) -> NDArray[np.float64]:
    """Squared X-ray structure factors (n,) by xrayutilities, its anomalous terms set to zero."""
    atom = pytest.importorskip("xrayutilities.materials.atom").Atom
    monkeypatch.setattr(atom, "f1", lambda self, en="config": 0.0)
    monkeypatch.setattr(atom, "f2", lambda self, en="config": 0.0)
    # An energy nobody else asks for: the package remembers form factors by energy, anomalous terms included.
    amplitudes = [material.StructureFactor(material.Q(*h), en=12345.6) for h in hkl.tolist()]
    return np.asarray(np.abs(np.array(amplitudes)) ** 2, dtype=np.float64)


def assert_same_intensities(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], tolerance: float, weak: float = 0.001
) -> None:
    """Strong reflections (above 5 % of the strongest) agree relatively; the weak ones are weak in both."""
    strong = ours > 0.05 * ours.max()
    assert strong.sum() >= 5
    ratio = ours[strong] / theirs[strong]
    np.testing.assert_allclose(ratio / np.median(ratio), 1.0, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours / ours.max(), theirs / theirs.max(), rtol=0, atol=weak + tolerance)


def test_the_twenty_files_are_there_and_in_the_readme() -> None:
    assert {path.stem for path in ZOO.glob("*.cif")} == set(EXPECTED) == set(BONDS)
    readme = (ZOO / "README.md").read_text(encoding="utf-8")
    assert [name for name in EXPECTED if f"| `{name}` |" not in readme] == []
    assert len({system for _, system, _, _ in EXPECTED.values()}) == 7


@pytest.mark.parametrize("name", EXPECTED)
def test_space_group_contents_and_density(name: str) -> None:
    hermann_mauguin, system, expected, density = EXPECTED[name]
    structure = load(name)
    assert structure.spacegroup is not None
    assert structure.spacegroup.xhm() == hermann_mauguin
    assert structure.spacegroup.crystal_system_str() == system
    assert structure.cell.is_compatible_with_spacegroup(structure.spacegroup)
    elements, _, occupancies = cell_atoms(structure)
    contents: Counter[str] = Counter()
    for element, occupancy in zip(elements, occupancies, strict=True):
        contents[element] += occupancy
    assert dict(contents) == pytest.approx(expected, abs=1e-6)
    mass = sum(gemmi.Element(element).weight * n for element, n in contents.items())
    if density is not None:
        assert mass / (0.602214076 * structure.cell.volume) == pytest.approx(density, rel=0.004)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_file_agrees_with_itself(name: str) -> None:
    """Formula times Z is the cell's contents, and every atom has a displacement of plausible size."""
    structure = load(name)
    block = gemmi.cif.read(str(ZOO / f"{name}.cif")).sole_block()
    z = int(block.find_value("_cell_formula_units_Z") or 0)
    formula = gemmi.cif.as_string(block.find_value("_chemical_formula_sum") or "")
    parts = [
        (item.rstrip(".0123456789"), item.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
        for item in formula.split()
    ]
    assert {e: z * float(n or 1) for e, n in parts} == pytest.approx(EXPECTED[name][2], abs=1e-6)
    assert all(0.001 < site.u_iso < 0.05 for site in structure.sites)
    for site in structure.sites:
        if site.aniso.nonzero():
            assert min(np.linalg.eigvalsh(np.array(site.aniso.as_mat33().tolist()))) > 0


@pytest.mark.parametrize("name", BONDS)
def test_bonds_and_coordination(name: str) -> None:
    structure = load(name)
    for centre, neighbour, shortest, longest, coordination in BONDS[name]:
        found = distances(structure, centre, neighbour)
        bonded = (found > 1e-3) & (found <= longest)
        assert found[bonded].min() >= shortest, (centre, neighbour)
        assert bonded.sum(axis=1).tolist() == [coordination] * len(found), (centre, neighbour)


@pytest.mark.parametrize("name", LISTED)
def test_other_determinations_have_the_atoms_where_we_have_them(name: str) -> None:
    atoms, origin, tolerance = LISTED[name]
    structure = load(name)
    elements, positions, _ = cell_atoms(structure)
    to_angstrom = np.array(structure.cell.orth.mat.tolist()).T
    for element, *listed in atoms:
        apart = positions[[e == element for e in elements]] - (np.array(listed) + origin)
        nearest = np.linalg.norm((apart - np.round(apart)) @ to_angstrom, axis=1).min()
        assert nearest < tolerance, (element, listed)


def test_silicon_has_the_cell_of_codata() -> None:
    cell = load("si").cell.a
    assert cell == pytest.approx(1e10 * constants.value("lattice parameter of silicon"), abs=5e-7)


@pytest.mark.parametrize("name", EXPECTED)
def test_no_two_atoms_are_too_close(name: str) -> None:
    """No pair under 0.9 angstrom, but for atoms that share one site and together fill it at most once."""
    structure = load(name)
    elements, positions, occupancies = cell_atoms(structure)
    for first, second in itertools.combinations_with_replacement(sorted(set(elements) - {"H"}), 2):
        found = distances(structure, first, second)
        assert not np.any((found > 1e-3) & (found < 0.9)), (first, second)
    for position in positions:
        apart = positions - position
        same = np.all(np.abs(apart - np.round(apart)) < 1e-4, axis=1)
        assert occupancies[same].sum() <= 1 + 1e-9


@pytest.mark.parametrize(
    ("name", "material"),
    [
        ("si", "Si"),
        ("ge", "Ge"),
        ("cu", "Cu"),
        ("nacl", "NaCl"),
        ("srtio3", "SrTiO3"),
        ("quartz", "SiO2"),
        ("sapphire", "Al2O3"),
    ],
)
def test_intensities_of_the_structures_of_xrayutilities(
    name: str, material: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("xrayutilities", reason="install xrayutilities (extra 'test')")
    hkl = reflections(name)
    theirs = xrayutilities_intensity(getattr(package.materials, material), hkl, monkeypatch)
    assert_same_intensities(our_intensity(name, hkl), theirs, tolerance=0.002)


@pytest.mark.parametrize(
    ("name", "structure"),
    [("si", "Silicon"), ("cu", "Copper"), ("sapphire", "Sapphire"), ("ca2ruo4", "Ca2RuO4")],
)
def test_intensities_of_the_structures_of_dans_diffraction(name: str, structure: str) -> None:
    package = pytest.importorskip("Dans_Diffraction", reason="install Dans-Diffraction (extra 'test')")
    crystal = getattr(package.structure_list, structure)()
    crystal.Scatter._use_isotropic_thermal_factor = False
    # Waasmaier & Kirfel (1995) form factors; gemmi has those of the International Tables: within 1 %.
    crystal.Scatter._use_waaskirf_scattering_factor = True
    hkl = reflections(name)
    theirs = np.asarray(crystal.Scatter.x_ray(hkl), dtype=np.float64)
    assert_same_intensities(our_intensity(name, hkl), theirs, tolerance=0.01)


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - {"moo3"}))
def test_xrayutilities_reads_our_file_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting and origin are unambiguous: another reader builds the same cell from its Wyckoff positions.

    Not for moo3: that reader takes the space group from its number alone, so always in the standard setting.
    """
    package = pytest.importorskip("xrayutilities", reason="install xrayutilities (extra 'test')")
    crystal = package.materials.Crystal.fromCIF(str(ZOO / f"{name}.cif"))
    crystal.lattice._wbase = without_displacements(crystal.lattice._wbase)
    hkl = reflections(name, 1.6 if len(cell_atoms(load(name))[0]) > 15 else 1.0)
    assert_same_intensities(
        our_intensity(name, hkl), xrayutilities_intensity(crystal, hkl, monkeypatch), 1e-3
    )


def without_displacements(base: Any) -> Any:
    """The atoms of a lattice of xrayutilities again, with B = 0."""
    bare = type(base)()
    for atom, wyckoff, occupancy, _ in base:
        bare.append(atom, wyckoff, occupancy, 0.0)
    return bare


def test_moo3_in_the_standard_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our P b n m cell against P n m a built from Wyckoff 4c: (a, b, c) there is (b, c, a) here."""
    package = pytest.importorskip("xrayutilities", reason="install xrayutilities (extra 'test')")
    sites = [(site.element.name, site.fract.tolist()) for site in load("moo3").sites]
    lattice = package.materials.SGLattice(
        62,
        13.855,
        3.6964,
        3.9628,
        atoms=[getattr(package.materials.elements, element) for element, _ in sites],
        pos=[("4c", (y, x)) for _, (x, y, _) in sites],
    )
    hkl = reflections("moo3")
    crystal = package.materials.Crystal("MoO3", lattice)
    theirs = xrayutilities_intensity(crystal, hkl[:, [1, 2, 0]], monkeypatch)
    assert_same_intensities(our_intensity("moo3", hkl), theirs, tolerance=1e-3)


@pytest.mark.parametrize("name", EXPECTED)
def test_our_own_reader_agrees_with_gemmi(name: str) -> None:
    """Contents, system and structure factors, displacements included."""
    module = pytest.importorskip("lauepilot.simulator.crystal", reason="Crystal is not written yet")
    crystal = module.load_crystal(name)
    assert crystal.system == EXPECTED[name][1]
    assert crystal.atoms.counts() == pytest.approx(EXPECTED[name][2], abs=1e-6)
    hkl = reflections(name, 1.2)
    theirs = gemmi_intensity(load(name), hkl)
    ours = np.abs(crystal.structure_factors(hkl)) ** 2
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.max())
