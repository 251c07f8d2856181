"""Crystals against gemmi's own calculators, the group axioms, and diffcalc-core."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

import lauepilot.simulator
from lauepilot.simulator.crystal import (
    COMMON_NAMES,
    Crystal,
    CrystalError,
    busing_levy_b,
    load_crystal,
    parse_cif,
    zoo_names,
)

ZOO = Path(lauepilot.simulator.__file__).parent / "zoo"
LAUE_ROTATIONS = {
    "cubic": 24,
    "hexagonal": 12,
    "tetragonal": 8,
    "orthorhombic": 4,
    "monoclinic": 2,
    "triclinic": 1,
}


def small(name: str) -> gemmi.SmallStructure:
    structure = gemmi.read_small_structure(str(ZOO / f"{name}.cif"))
    structure.change_occupancies_to_crystallographic()
    return structure


def some_hkl(crystal: Crystal, n: int = 60) -> np.ndarray:
    every = crystal.reflections(9.0)
    return every[np.random.default_rng(1).choice(len(every), n, replace=False)]


@pytest.mark.parametrize("name", zoo_names())
def test_structure_factors_are_gemmis(name: str) -> None:
    crystal, structure = load_crystal(name), small(name)
    hkl = some_hkl(crystal)
    for radiation, calculator in (
        ("xray", gemmi.StructureFactorCalculatorX(structure.cell)),
        ("neutron", gemmi.StructureFactorCalculatorN(structure.cell)),
    ):
        theirs = [calculator.calculate_sf_from_small_structure(structure, h.tolist()) for h in hkl]
        ours = crystal.structure_factors(hkl, radiation)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-4 * np.abs(ours).max())


@pytest.mark.parametrize("name", ["ge", "quartz", "ybco", "feps3", "kyanite"])
@pytest.mark.parametrize("energy_kev", [7.9, 12.0, 30.0])
def test_dispersion_is_gemmis(name: str, energy_kev: float) -> None:
    """gemmi's calculator takes real terms: f'' goes in as a second run, turned by 90 degrees."""
    crystal, structure = load_crystal(name), small(name)
    hkl = some_hkl(crystal, 20)
    plain, real, imaginary = (gemmi.StructureFactorCalculatorX(structure.cell) for _ in range(3))
    for element in crystal.atoms.counts():
        entry = gemmi.Element(element)
        fp, fpp = gemmi.cromer_liberman(z=entry.atomic_number, energy=1e3 * energy_kev)
        real.addends.set(entry, fp)
        imaginary.addends.set(entry, fpp)

    def run(calculator: gemmi.StructureFactorCalculatorX) -> np.ndarray:
        return np.array([calculator.calculate_sf_from_small_structure(structure, h.tolist()) for h in hkl])

    theirs = run(real) + 1j * (run(imaginary) - run(plain))
    ours = crystal.structure_factors(hkl, "xray", energy_kev)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-4 * np.abs(ours).max())


def test_friedel_pairs_part_only_by_dispersion_without_a_centre() -> None:
    hkl = some_hkl(load_crystal("quartz"), 40)
    for name, parts in (("quartz", True), ("si", False)):
        crystal = load_crystal(name)
        plus, minus = (np.abs(crystal.structure_factors(s * hkl, "xray", 7.0)) for s in (1, -1))
        assert (np.abs(plus - minus).max() > 0.05) == parts
        plus, minus = (np.abs(crystal.structure_factors(s * hkl)) for s in (1, -1))
        np.testing.assert_allclose(plus, minus, atol=1e-9)


@pytest.mark.parametrize("name", zoo_names())
def test_absences_come_out_of_the_atoms(name: str) -> None:
    """What the space group forbids vanishes; and nothing else does in general."""
    crystal = load_crystal(name)
    operations = small(name).spacegroup.operations()
    hkl = crystal.reflections(5.0 if crystal.volume_a3 < 500 else 3.5)
    forbidden = operations.systematic_absences(hkl.astype(np.int32))
    assert np.array_equal(forbidden[:50], [operations.is_systematically_absent(h.tolist()) for h in hkl[:50]])
    f = np.abs(crystal.structure_factors(hkl))
    # Coordinates such as 0.6667 in a CIF leave a little.
    assert f[forbidden].max(initial=0.0) < 2e-3 * f.max()
    assert np.mean(f[~forbidden] > 1e-4 * f.max()) > 0.45


@pytest.mark.parametrize("name", zoo_names())
def test_equivalent_reflections_have_equal_intensities(name: str) -> None:
    crystal = load_crystal(name)
    hkl = some_hkl(crystal)
    expected = np.abs(crystal.structure_factors(hkl)) ** 2
    for rotation in crystal.symmetry:
        turned = hkl @ (np.linalg.inv(crystal.b) @ rotation @ crystal.b).T
        np.testing.assert_allclose(turned, np.rint(turned), atol=1e-6)
        same = np.abs(crystal.structure_factors(np.rint(turned))) ** 2
        np.testing.assert_allclose(same, expected, rtol=2e-3, atol=2e-3 * expected.max())


@pytest.mark.parametrize("name", zoo_names())
def test_symmetry_is_a_group_of_rotations(name: str) -> None:
    crystal = load_crystal(name)
    for group in (crystal.symmetry, crystal.holohedry):
        np.testing.assert_allclose(np.linalg.det(group), 1.0, atol=1e-9)
        np.testing.assert_allclose(
            group @ group.transpose(0, 2, 1), np.tile(np.eye(3), (len(group), 1, 1)), atol=1e-9
        )
        products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 3, 3)
        nearest = np.abs(products[:, None] - group[None]).max(axis=(2, 3)).min(axis=1)
        # Lattices that are symmetric only within half a degree close to that degree.
        assert nearest.max() < (1e-6 if group is crystal.symmetry else 0.02)
    if crystal.system in LAUE_ROTATIONS and name not in ("lsco",):
        assert len(crystal.symmetry) == LAUE_ROTATIONS[crystal.system]
    assert len(crystal.holohedry) % len(crystal.symmetry) == 0


@pytest.mark.parametrize("name", zoo_names())
def test_b_has_gemmis_metric(name: str) -> None:
    crystal = load_crystal(name)
    cell = gemmi.UnitCell(*crystal.cell)
    hkl = some_hkl(crystal, 30)
    d = [cell.calculate_d(h.tolist()) for h in hkl]
    np.testing.assert_allclose(crystal.q_length(hkl), 2 * np.pi / np.array(d), rtol=1e-12)
    assert crystal.volume_a3 == pytest.approx(cell.volume)
    # Upper triangular with a positive diagonal: a* along x, b* in the xy plane.
    assert np.all(np.tril(crystal.b, -1) == 0.0)
    assert np.all(np.diag(crystal.b) > 0.0)


@pytest.mark.parametrize("name", zoo_names())
def test_b_is_diffcalcs(name: str) -> None:
    package = pytest.importorskip("diffcalc.ub.crystal", reason="pip install --no-deps diffcalc-core")
    crystal = load_crystal(name)
    theirs = package.Crystal(name, *(float(x) for x in crystal.cell)).B
    np.testing.assert_allclose(crystal.b, theirs, atol=1e-9)


def test_oblique_cell_b_by_hand() -> None:
    """Busing & Levy's own property: B^-T has the direct lattice in its columns."""
    cell = (7.1, 7.8, 5.6, 80.0, 101.0, 106.0)
    direct = 2 * np.pi * np.linalg.inv(busing_levy_b(cell)).T
    np.testing.assert_allclose(np.linalg.norm(direct, axis=0), cell[:3])
    cosines = [direct[:, i] @ direct[:, j] / (cell[i] * cell[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    np.testing.assert_allclose(cosines, np.cos(np.deg2rad(cell[3:])))


def test_reflections_are_all_and_only_those_within_the_sphere() -> None:
    crystal = load_crystal("kyanite")
    hkl = crystal.reflections(4.0)
    cell = gemmi.UnitCell(*crystal.cell)
    theirs = gemmi.make_miller_array(cell, gemmi.SpaceGroup("P 1"), 2 * np.pi / 4.0, unique=False)
    assert {tuple(h) for h in hkl.tolist()} == {tuple(h) for h in np.asarray(theirs).tolist()} - {(0, 0, 0)}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("silicon", "si"), ("Germanium", "ge"), ("copper", "cu"), ("nickle", "ni"), ("salt", "nacl"), ("corundum", "sapphire"),
     ("quarz", "quartz"), ("sapphir", "sapphire")],
)  # fmt: skip
def test_common_names_are_suggested_and_not_taken(typed: str, meant: str) -> None:
    with pytest.raises(CrystalError, match=f"No crystal '{typed}'. Did you mean '{meant}'"):
        load_crystal(typed)


def test_common_names_lead_to_the_zoo() -> None:
    assert set(COMMON_NAMES.values()) <= set(zoo_names())
    assert not set(COMMON_NAMES) & set(zoo_names())


@pytest.mark.parametrize("unknown", ["?", "."])
def test_an_atom_without_coordinates_is_named(unknown: str) -> None:
    text = (ZOO / "si.cif").read_text().replace("Si1  Si       0.125 ", f"Si1  Si  {unknown} ")
    with pytest.raises(CrystalError, match=r"x\.cif: atom 'Si1' has unknown coordinates"):
        parse_cif(text, "x", "x.cif")


@pytest.mark.parametrize("angles", [(120, 120, 120), (30, 40, 80), (90, 90, 180), (130, 130, 110)])
def test_impossible_angles_are_refused(angles: tuple[int, int, int]) -> None:
    with pytest.raises(CrystalError, match=r"x\.cif: cell angles .* degrees are impossible"):
        parse_cif(triclinic(*angles), "x", "x.cif")


def test_an_angle_of_nothing_is_refused() -> None:
    with pytest.raises(CrystalError, match=r"x\.cif holds no usable structure: Impossible angle"):
        parse_cif(triclinic(0, 90, 90), "x", "x.cif")


@pytest.mark.parametrize("angles", [(119, 119, 119), (60, 60, 119), (91, 95, 100)])
def test_odd_but_possible_angles_are_taken(angles: tuple[int, int, int]) -> None:
    assert parse_cif(triclinic(*angles), "x").volume_a3 == pytest.approx(
        gemmi.UnitCell(5, 6, 7, *angles).volume
    )


def triclinic(alpha: float, beta: float, gamma: float) -> str:
    return (
        "data_x\n_cell_length_a 5\n_cell_length_b 6\n_cell_length_c 7\n"
        f"_cell_angle_alpha {alpha}\n_cell_angle_beta {beta}\n_cell_angle_gamma {gamma}\n"
        "_space_group_name_H-M_alt 'P 1'\nloop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n"
        "_atom_site_fract_y\n_atom_site_fract_z\nSi1 Si 0 0 0\n"
    )


def test_messages(tmp_path: Path) -> None:
    with pytest.raises(CrystalError, match="Did you mean 'quartz'"):
        load_crystal("quarz")
    with pytest.raises(CrystalError, match=r"No CIF file .*gone\.cif"):
        load_crystal(tmp_path / "gone.cif")
    with pytest.raises(CrystalError, match="not a readable CIF"):
        parse_cif("loop_ data_", "x", "x.cif")
    with pytest.raises(CrystalError, match=r"x\.cif gives no usable cell"):
        parse_cif("data_x\n_cell_length_a 1\n", "x", "x.cif")
    si = (ZOO / "si.cif").read_text()
    assert parse_cif(si, "mine").b == pytest.approx(load_crystal("si").b)
    (tmp_path / "mine.cif").write_text(si)
    assert load_crystal(tmp_path / "mine.cif").name == "mine"
