"""Families, cells and reduction against gemmi and against what a lattice is."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from lauepilot.perception.unknown import kernels
from lauepilot.perception.unknown.lattice import (
    CENTRINGS,
    FAMILIES,
    POINTS,
    RATIOS,
    b_matrix,
    holohedry,
    multiple,
)
from lauepilot.perception.unknown.reduce import conventional, reduced, relatives
from lauepilot.perception.unknown.variants import RHOMBOHEDRAL_CUBIC
from lauepilot.simulator.conventions import random_rotation

EXAMPLES = {
    "cubic": (),
    "hexagonal": (1.6,),
    "tetragonal": (2.7,),
    "trigonal": (2.73,),
    "orthorhombic": (1.2, 1.7),
    "monoclinic": (1.2, 0.8, 1.85),
    "triclinic": (1.2, 1.5, 1.7, 1.85, 1.45),
}
ORDERS = (24, 12, 8, 6, 4, 2, 1)


@pytest.mark.parametrize(("family", "order"), list(zip(FAMILIES, ORDERS, strict=True)))
def test_holohedries_keep_their_lattices(family: str, order: int) -> None:
    group = holohedry(family)
    assert len(group) == order
    b = b_matrix(family, EXAMPLES[family])
    for turn in group:
        indices = np.linalg.solve(b, turn @ b)
        np.testing.assert_allclose(indices, np.rint(indices), atol=1e-9)
        for centring in CENTRINGS[family]:
            if centring in "ABC" and family == "orthorhombic":
                continue
            hkl = np.array([[1, 0, 1], [1, 1, 0], [2, 1, 1], [1, 2, 4], [3, 1, 2]])
            images = np.rint(hkl @ indices.T).astype(int)
            np.testing.assert_array_equal(multiple(hkl, centring), multiple(images, centring))


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_b_is_busing_and_levys(family: str) -> None:
    ratios = EXAMPLES[family]
    x = np.array([*np.log(ratios[:2]), *ratios[2:]])
    b = np.empty((3, 3))
    det = kernels.fill_b(FAMILIES.index(family), x, b)
    np.testing.assert_allclose(2.0 * np.pi * b, b_matrix(family, ratios), atol=1e-12)
    assert det == pytest.approx(np.linalg.det(b))


@pytest.mark.parametrize("letter", "PIFABCR")
def test_extinctions_are_gemmis(letter: str) -> None:
    group = {"P": "P 1", "I": "I 1", "F": "F 1", "A": "A 1", "B": "B 1", "C": "C 1", "R": "R 3:H"}[letter]
    operations = gemmi.SpaceGroup(group).operations()
    hkl = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), axis=-1).reshape(-1, 3)
    for index in hkl:
        there = not operations.is_systematically_absent([int(i) for i in index])
        assert (int(multiple(index, letter)) == 1) == there
        assert kernels.order_of("PIFABCR".index(letter), *[int(i) for i in index]) == multiple(index, letter)
    assert kernels.points_of("PIFABCR".index(letter)) == POINTS[letter]


def test_chance_of_random_spots_is_a_chance() -> None:
    """Spots anywhere: the score that counts as one in e^n comes about as often as that, whatever the ratio."""
    rng = np.random.default_rng(5)
    normals = rng.normal(size=(4000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    hkl, chance, d2 = np.zeros((4000, 3), np.int64), np.zeros(4000), np.zeros(4000)
    for ratio in (1.0, 2.5, 7.5):
        b = np.empty((3, 3))
        det = kernels.fill_b(FAMILIES.index("tetragonal"), np.array([np.log(ratio)]), b)
        kernels.assess(normals, np.full(4000, 1e-7), b, det, 100.0, 0.0, 0, hkl, chance, d2)
        share = float((chance < 1e-2).mean()) / 1e-2
        assert 0.3 * kernels.OCTAVES < share < 3.0 * kernels.OCTAVES


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_found_in_any_basis_of_the_lattice(family: str) -> None:
    rng = np.random.default_rng(3)
    ratios, centring = EXAMPLES[family], CENTRINGS[family][-1] if family != "orthorhombic" else "C"
    u = random_rotation(rng)
    direct = 2.0 * np.pi * np.linalg.inv(u @ b_matrix(family, ratios)).T
    basis = direct @ _points(centring)
    basis = basis @ np.array([[1, 2, 0], [0, 1, -1], [1, 2, 1]])
    found = {(p.family, p.centring): p for p in conventional(basis, 50.0)}
    assert (family, centring) in found
    again = found[family, centring]
    if family in ("cubic", "tetragonal", "hexagonal", "trigonal"):
        assert again.ratios == pytest.approx(ratios, rel=1e-6)
    # The proposal spans the same lattice.
    theirs = 2.0 * np.pi * np.linalg.inv(again.u @ b_matrix(again.family, again.ratios)).T @ _points(centring)
    relation = np.linalg.solve(theirs, basis)
    relation /= np.cbrt(abs(np.linalg.det(relation)))
    np.testing.assert_allclose(relation, np.rint(relation), atol=1e-6)


def _points(centring: str) -> np.ndarray:
    half, third = 0.5, 1.0 / 3.0
    columns = {
        "P": np.eye(3),
        "I": np.array([[-half, half, half], [half, -half, half], [half, half, -half]]),
        "F": np.array([[0, half, half], [half, 0, half], [half, half, 0]]),
        "C": np.array([[half, -half, 0], [half, half, 0], [0, 0, 1]]),
        "R": np.array([[2 * third, -third, -third], [third, third, -2 * third], [third, third, third]]),
    }
    return columns[centring]


def test_reduction_agrees_with_gemmi() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        basis = rng.normal(size=(3, 3))
        if abs(np.linalg.det(basis)) < 0.3:
            continue
        lengths = np.sort(np.linalg.norm(reduced(basis), axis=0))
        metric = basis.T @ basis
        a, b, c = np.sqrt(np.diag(metric))
        angles = [
            np.rad2deg(np.arccos(metric[i, j] / np.sqrt(metric[i, i] * metric[j, j])))
            for i, j in ((1, 2), (0, 2), (0, 1))
        ]
        vector = gemmi.GruberVector(gemmi.UnitCell(a, b, c, *angles), "P")
        vector.niggli_reduce()
        assert lengths == pytest.approx(np.sort(vector.cell_parameters()[:3]), rel=1e-6)


def test_relatives_are_all_lattices_of_index_two_and_three() -> None:
    matrices = relatives()
    assert len(matrices) == 1 + 2 * (7 + 13)  # sums of divisors: Cassels (1971), lemma I.2
    assert sorted({round(abs(np.linalg.det(m)) * 6) for m in matrices}) == [2, 3, 6, 12, 18]


def test_cubic_lattices_have_their_rhombohedral_ratio() -> None:
    for letter, ratio in RHOMBOHEDRAL_CUBIC:
        direct = _points("PIF"[letter])
        families = {p.family: p for p in conventional(np.eye(3) @ direct, 50.0)}
        assert families["cubic"].centring == "PIF"[letter]
        assert families["trigonal"].ratios[0] == pytest.approx(ratio, rel=1e-6)


def test_wrong_numbers_of_ratios_are_refused() -> None:
    with pytest.raises(ValueError, match="cubic has 0 free ratios"):
        b_matrix("cubic", (1.0,))
    with pytest.raises(ValueError, match="no family 'quasicrystal'"):
        b_matrix("quasicrystal", ())
    assert set(RATIOS) == set(FAMILIES)
