"""UB from reflections against two diffractometers' own records (SPEC), diffcalc-core, and known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lauepilot.perception.reflections.measured import (
    Reflection,
    ReflectionError,
    arm_direction,
    read_reflections,
)
from lauepilot.perception.reflections.ub import free_parameters, ub_from_reflections, ub_from_two
from lauepilot.simulator.conventions import (
    BEAM,
    HC_KEV_A,
    random_rotation,
    rotation_angle,
    rotation_between,
    rotation_matrix,
    rotation_vector,
)
from lauepilot.simulator.crystal import busing_levy_b, load_crystal
from lauepilot.simulator.goniometer import Axis, Goniometer
from lauepilot.simulator.instrument import load_instrument

TO_YOU = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # x up, y along the beam
#: You (1999): mu +x, eta -z, chi +y, phi -z in that frame.
YOU = Goniometer(
    tuple(
        Axis(name, "rotation", tuple(np.array(d, float) @ TO_YOU), (-360.0, 360.0), 1.0)
        for name, d in (("mu", (1, 0, 0)), ("eta", (0, 0, -1)), ("chi", (0, 1, 0)), ("phi", (0, 0, -1)))
    )
)
#: Any rotation: Euler angles about x, y, z.
FREE = Goniometer(
    tuple(Axis(f"r{i}", "rotation", tuple(np.eye(3)[i]), (-360.0, 360.0), 1.0) for i in range(3))
)
seeds = st.integers(0, 2**32 - 1)


def reflections_of(u, b, hkls, energy_kev, rng, sigma_deg=None):
    """Reflections of a crystal on a goniometer that can do anything (`FREE`), with errors of the angles."""
    k = 2 * np.pi * energy_kev / HC_KEV_A
    found = []
    for hkl in hkls:
        q = u @ b @ np.asarray(hkl, float)
        size, azimuth = np.linalg.norm(q), rng.uniform(0, 2 * np.pi)
        sine = size / (2 * k)
        direction = np.append(np.sqrt(1 - sine**2) * np.array([np.cos(azimuth), np.sin(azimuth)]), -sine)
        turn = rotation_between(q / size, direction)
        axes = dict(zip(FREE.names, Rotation.from_matrix(turn).as_euler("XYZ", degrees=True), strict=True))
        if sigma_deg is not None:
            sigma = np.deg2rad(sigma_deg)
            direction = rotation_matrix(np.cross(direction, sigma * rng.normal(size=3))) @ direction
            size = 2 * k * np.sin(np.arcsin(sine) + sigma * rng.normal() / 2)
        found.append(Reflection(tuple(map(float, hkl)), axes, direction, size, sigma_deg or 0.01))
    return found


# ------------------------------------------------------------------------- what diffractometers wrote themselves

# Headers of two SPEC data files: lattice, the two orienting reflections with their angles, and UB as SPEC computed it.
# fourc (tth th chi phi): LNO_LAO scan 14, in the examples of hklpy; psic (del eta chi phi nu mu): an hklscan of 2009, in the
# docstring of the spec reader by M. Newville and T. Trainor.
SPEC = {
    "fourc": (
        (3.781726143, 3.791444574, 3.79890313, 90.2546203, 90.01815424, 89.89967858),
        ((0, 0, 2), {"eta": 19.1335, "chi": 90.0135, "phi": 0.0}, (38.09875, 0.0)),
        ((1, 1, 3), {"eta": 32.82125, "chi": 115.23625, "phi": 48.1315}, (65.644, 0.0)),
        [[-1.65871244e00, 9.82002413e-02, -3.89705578e-04],
         [-9.55499031e-02, -1.65427863e00, 2.42844486e-03],
         [2.62981891e-04, 9.81574682e-03, 1.65396181e00]],
        3e-8,
    ),
    "psic": (
        (8.094, 4.988, 6.071, 90.0, 90.0, 90.0),
        ((0, 0, 4), {"eta": 0.0008, "chi": -0.1244, "phi": 175.2192, "mu": 16.27375}, (-0.0009, 31.965)),
        ((2, 0, 2.481), {"eta": 7.5478, "chi": 11.9002, "phi": -96.0482, "mu": 0.35625}, (15.0903, 17.59425)),
        [[-0.2392618672, 1.198330644, -0.002648198747],
         [-0.7384726, -0.3882605276, -0.005057797345],
         [-0.004221190899, 0.001168841303, 1.034934888]],
        3e-8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("geometry", SPEC)
def test_two_reflections_give_the_ub_that_spec_wrote(geometry):
    cell, first, second, expected, tolerance = SPEC[geometry]
    b = busing_levy_b(cell)
    pair = [
        Reflection.from_angles(hkl, axes, delta_deg=delta, nu_deg=nu)
        for hkl, axes, (delta, nu) in (first, second)
    ]
    found = ub_from_two(*pair, b, YOU)
    np.testing.assert_allclose(TO_YOU @ found.ub, expected, atol=tolerance)


# ----------------------------------------------------------------------------------------------------- diffcalc


@pytest.mark.parametrize("names", [("eta", "chi", "phi"), ("mu", "eta", "chi", "phi")], ids=["four", "six"])
def test_agreement_with_diffcalc(names):
    """Settings at random; the arm looks where the plane then reflects to, which takes another energy each time."""
    calc = pytest.importorskip("diffcalc.ub.calc", reason="diffcalc-core is not installed")
    geometry = pytest.importorskip("diffcalc.hkl.geometry")
    rng = np.random.default_rng(4)
    cell = (4.1, 5.3, 6.2, 80.0, 95.0, 101.0)
    b = busing_levy_b(cell)
    for _ in range(20):
        theirs = calc.UBCalculation("test")
        theirs.set_lattice("c", "Triclinic", *cell)
        u = random_rotation(rng)
        pair = []
        for plane in ((1, 0, 2), (0, 2, 1)):
            sine = 0.0
            while abs(sine) < 0.1:
                axes = dict(zip(names, rng.uniform(-90, 90, len(names)), strict=True))
                normal = YOU.matrix(axes) @ u @ b @ plane
                sine = -normal[2] / np.linalg.norm(normal)
            hkl = tuple(float(np.sign(sine)) * x for x in plane)
            normal *= np.sign(sine) / np.linalg.norm(normal)
            out = BEAM - 2 * normal[2] * normal
            nu, delta = np.rad2deg([np.arctan2(out[0], out[2]), np.arcsin(out[1])])
            np.testing.assert_allclose(arm_direction(delta, nu), out, atol=1e-12)
            theirs.add_reflection(hkl, geometry.Position(delta=delta, nu=nu, **axes), 12.0, str(hkl))
            pair.append(Reflection.from_angles(hkl, axes, delta_deg=delta, nu_deg=nu))
        theirs.calc_ub(1, 2)
        found = ub_from_two(*pair, b, YOU)
        np.testing.assert_allclose(TO_YOU @ found.u, theirs.U, atol=1e-9)
        np.testing.assert_allclose(TO_YOU @ found.ub, theirs.UB, atol=1e-9)
        assert rotation_angle(found.u @ u.T) < 1e-9


def test_the_free_cell_agrees_with_diffcalcs_least_squares(capsys):
    """Bisecting settings of a crystal whose cell is not quite the CIF's."""
    calc = pytest.importorskip("diffcalc.ub.calc", reason="diffcalc-core is not installed")
    geometry = pytest.importorskip("diffcalc.hkl.geometry")
    crystal = load_crystal("kyanite")
    cell = np.array(crystal.cell) * [1.002, 0.999, 1.001, 1.0005, 0.9995, 1.001]
    theirs = calc.UBCalculation("test")
    theirs.set_lattice("c", "Triclinic", *crystal.cell)
    u, b, k = random_rotation(np.random.default_rng(7)), busing_levy_b(cell), 2 * np.pi
    mine = []
    for hkl in [(2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 2), (-1, 2, 1)]:
        q = TO_YOU @ u @ b @ hkl
        theta = np.arcsin(np.linalg.norm(q) / (2 * k))
        chi, phi = np.arcsin(q[2] / np.linalg.norm(q)), np.arctan2(q[1], q[0])
        axes = dict(zip(("eta", "chi", "phi"), np.rad2deg([theta, chi, phi]), strict=True))
        delta = np.rad2deg(2 * theta)
        theirs.add_reflection(hkl, geometry.Position(delta=delta, **axes), 12.3984, str(hkl))
        # one angstrom: their h c is 12.3984 keV angstrom
        mine.append(Reflection.from_angles(hkl, axes, delta_deg=delta, energy_kev=HC_KEV_A))
    theirs.calc_ub(1, 2)
    their_u, their_cell = theirs.fit_ub([1, 2, 3, 4, 5])
    found = ub_from_reflections(mine, crystal, YOU, cell="free")
    np.testing.assert_allclose(found.cell, their_cell[1:], rtol=1e-9)
    np.testing.assert_allclose(found.cell, cell, rtol=1e-9)
    np.testing.assert_allclose(TO_YOU @ found.orientation.u, their_u, atol=1e-9)


# ----------------------------------------------------------------------------------------------------- known truth


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_exact_reflections_give_back_the_orientation(seed):
    rng = np.random.default_rng(seed)
    crystal, u = load_crystal("quartz"), random_rotation(rng)
    found = reflections_of(u, crystal.b, [(1, 0, 1), (0, 1, 2), (-1, 1, 3)], 12.0, rng)
    assert rotation_angle(ub_from_two(*found[:2], crystal.b, FREE).u @ u.T) < 1e-10
    fit = ub_from_reflections(found, crystal, FREE)
    assert rotation_angle(fit.orientation.u @ u.T) < 1e-10
    np.testing.assert_allclose(fit.length_ratio, 1.0, atol=1e-10)


HKLS = [(2, 0, 0), (0, 2, 0), (0, 0, 4), (1, 1, 2), (-1, 1, 2), (2, 1, 1), (1, -2, 3), (0, 1, 3)]


def chi2_of(u, fit):
    off = rotation_vector(u @ fit.orientation.u.T)
    return float(off @ np.linalg.solve(fit.orientation.covariance, off))


@pytest.mark.parametrize("cell", ["fixed", "system"])
def test_covariance_holds_what_it_says(cell):
    """Coverage of the 95 % region over 200 draws (60 with the cell), three degrees of freedom; so for the cell."""
    rng = np.random.default_rng(3)
    crystal = load_crystal("ca2ruo4")
    inside, pulls = [], []
    for _ in range(200 if cell == "fixed" else 60):
        u = random_rotation(rng)
        found = reflections_of(u, crystal.b, HKLS, 12.0, rng, sigma_deg=0.02)
        fit = ub_from_reflections(found, crystal, FREE, cell=cell)
        inside.append(chi2_of(u, fit) < 7.815)
        if cell == "system":
            pulls.append((fit.cell - crystal.cell)[:3] / fit.cell_sigma[:3])
    assert 0.9 <= np.mean(inside) <= 0.99
    if cell == "system":
        assert 0.8 < np.std(pulls) < 1.2
        assert not fit.cell_sigma[3:].any()


def test_covariance_of_two_reflections():
    rng = np.random.default_rng(5)
    crystal = load_crystal("ca2ruo4")
    chi2 = []
    for _ in range(300):
        u = random_rotation(rng)
        pair = reflections_of(u, crystal.b, HKLS[:2], 12.0, rng, sigma_deg=0.02)
        found = ub_from_two(*pair, crystal.b, FREE)
        off = rotation_vector(u @ found.u.T)
        chi2.append(float(off @ np.linalg.solve(found.covariance, off)))
    assert np.mean(chi2) == pytest.approx(3.0, abs=0.45)


@pytest.mark.parametrize("name", ["si", "srtio3", "quartz", "jarosite", "ca2ruo4", "feps3", "kyanite"])
def test_the_system_says_what_is_free(name):
    crystal = load_crystal(name)
    free = free_parameters(crystal, "system")
    count = {"cubic": 1, "tetragonal": 2, "hexagonal": 2, "trigonal": 2, "orthorhombic": 3, "monoclinic": 4}
    assert len(free) == count.get(crystal.system, 6)
    rng = np.random.default_rng(1)
    u = random_rotation(rng)
    six = np.array(crystal.cell)
    for value, (_, places) in zip((1.003, 0.998, 1.001, 1.002, 0.999, 1.001), free, strict=False):
        for place in places:
            six[place] *= value
    found = reflections_of(u, busing_levy_b(six), HKLS, 25.0, rng)
    fit = ub_from_reflections(found, crystal, FREE, cell="system")
    np.testing.assert_allclose(fit.cell, six, rtol=1e-8)
    assert rotation_angle(fit.orientation.u @ u.T) < 1e-8


# ------------------------------------------------------------------------------------------------------ bad input


def test_parallel_reflections_are_refused():
    crystal, rng = load_crystal("si"), np.random.default_rng(0)
    found = reflections_of(np.eye(3), crystal.b, [(1, 1, 1), (-2, -2, -2)], 12.0, rng)
    with pytest.raises(ReflectionError, match=r"parallel.*0\.0000 deg"):
        ub_from_two(*found, crystal.b, FREE)
    with pytest.raises(ReflectionError, match="parallel"):
        ub_from_reflections(found, crystal, FREE)


def test_an_angle_that_is_not_the_cells_is_refused_with_both():
    crystal, rng = load_crystal("si"), np.random.default_rng(0)
    found = reflections_of(np.eye(3), crystal.b, [(1, 1, 1), (2, 0, 0)], 12.0, rng)
    wrong = Reflection((1.0, 1.0, 0.0), found[1].axes, found[1].direction)
    for attempt in (
        lambda: ub_from_two(found[0], wrong, crystal.b, FREE),
        lambda: ub_from_reflections([found[0], wrong], crystal, FREE),
    ):
        with pytest.raises(ReflectionError, match=r"35\.264 deg in this cell, but 54\.736"):
            attempt()


def test_the_odd_one_out_is_named():
    crystal, rng = load_crystal("quartz"), np.random.default_rng(2)
    found = reflections_of(random_rotation(rng), crystal.b, HKLS[:5], 12.0, rng)
    found[2] = Reflection((1.0, 0.0, 4.0), found[2].axes, found[2].direction)
    with pytest.raises(ReflectionError, match=r"Without 1 0 4 the others agree to 0\.000"):
        ub_from_reflections(found, crystal, FREE)


def test_indices_of_the_other_hand_are_recognised():
    crystal, rng = load_crystal("kyanite"), np.random.default_rng(2)
    found = reflections_of(
        random_rotation(rng), crystal.b, [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)], 12.0, rng
    )
    flipped = [Reflection(tuple(-x for x in r.hkl), r.axes, r.direction) for r in found]
    with pytest.raises(ReflectionError, match="other hand"):
        ub_from_reflections(flipped, crystal, FREE)


def test_a_cell_that_is_not_determined_is_refused():
    crystal, rng = load_crystal("ca2ruo4"), np.random.default_rng(2)
    flat = reflections_of(
        random_rotation(rng), crystal.b, [(2, 0, 0), (0, 2, 0), (1, 1, 0), (2, 1, 0)], 12.0, rng
    )
    with pytest.raises(ReflectionError, match=r"do not determine c "):
        ub_from_reflections(flat, crystal, FREE, cell="system")
    with pytest.raises(ReflectionError, match="6 numbers; U and the cell"):
        ub_from_reflections(flat[:2], crystal, FREE, cell="free")
    bare = [Reflection(r.hkl, r.axes, r.direction) for r in flat]
    with pytest.raises(ReflectionError, match="energy_kev or wavelength_a"):
        ub_from_reflections(bare, crystal, FREE, cell="system")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("h,k,l,omega,delta\n", "no reflections"),
        ("h,k,omega,delta\n1,0,0,1\n", "no column l"),
        ("h,k,l,eta,delta\n1,0,0,1,1\n", "unknown column eta.*omega, chi, phi"),
        ("h,k,l,omega\n1,0,0,1\n", "no columns for the detector"),
        ("h,k,l,delta,col,row\n1,0,0,1,1,1\n", "both delta nu and col row"),
        ("h,k,l,delta\n1,0,0\n", "reflection 1 has 3 values for 4 columns"),
        ("h,k,l,delta\n1,0,x,20\n", "reflection 1: could not convert"),
        ("h,k,l,delta\n0,0,0,20\n", "not all zero"),
        ("h,k,l,delta\n1,0,0,0\n", "leaves the direct one"),
        ("h,k,l,delta,energy_kev\n1,0,0,20,-8\n", "energy must be positive"),
        ("h,k,l,col,row\n1,0,0,5,\n", "reflection 1 has no row"),
        ("h,k,l,chi,delta\n1,0,0,,5\n", "reflection 1 has no chi"),
        ("h,k,l,qx,qy,qz,energy_kev\n1,0,0,0,0,1,8\n", "against the beam"),
        ("h,k,l,qx,qy,qz,energy_kev\n1,0,0,0,0.1,-1,-8\n", "energy must be positive"),
        ("h,k,l,qx,qy,qz,energy_kev\n1,0,0,0,0.1,-1,nan\n", "energy must be positive"),
        ("h,k,l,delta\n1,0,0,nan\n", "three numbers"),
    ],
)
def test_bad_lists_say_what_is_wrong(tmp_path, text, match):
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(ReflectionError, match=match):
        read_reflections(path, load_instrument("lab"))


@pytest.mark.parametrize("beam", [(0.0, 0.0, 0.0), (0.0, 1.0), (np.nan, 0.0, 1.0)])
def test_a_beam_that_is_no_direction_is_refused(beam):
    with pytest.raises(ReflectionError, match="three numbers"):
        Reflection.from_beam((1, 0, 0), {}, beam, 8.0)


@pytest.mark.parametrize("length", [-2.0, 0.0, np.inf])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(ReflectionError, match="length of Q must be positive"):
        Reflection((1, 0, 0), {}, np.array([0.0, 0.0, -1.0]), length)


def test_lists_of_all_three_kinds_say_the_same(tmp_path):
    instrument = load_instrument("lab")
    pixel = (300.0, 650.0)
    k_out = instrument.detector.pixels_to_rays(pixel)
    nu, delta = np.rad2deg([np.arctan2(k_out[0], k_out[2]), np.arcsin(k_out[1])])
    q = k_out - BEAM
    lists = {
        "a": f"# a comment\nh,k,l,omega,delta,nu,wavelength_a\n1,2,3,10,{delta!r},{nu!r},1.2\n",
        "b": "h,k,l,omega,col,row\n1,2,3,10,300,650\n",
        "c": "h,k,l,omega,qx,qy,qz\n1,2,3,10," + ",".join(repr(float(x)) for x in q) + "\n",
    }
    rows = []
    for name, text in lists.items():
        (tmp_path / name).write_text(text.replace("np.float64(", "").replace(")", ""))
        (r,) = read_reflections(tmp_path / name, instrument, energy_kev=HC_KEV_A / 1.2)
        assert r.axes == {"omega": 10.0, "chi": 0.0, "phi": 0.0}
        rows.append(np.append(r.direction, r.length))
    np.testing.assert_allclose(rows[1:], [rows[0]] * 2, atol=1e-12)
    with pytest.raises(FileNotFoundError, match="Columns: h k l"):
        read_reflections(tmp_path / "none.csv", instrument)
