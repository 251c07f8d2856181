"""The indexer against brute force, simulated lists with missing and false spots, and accepted fits of real lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lauepilot.perception.files.lauetools import read_cor, read_dat, read_fit
from lauepilot.perception.files.readers import read_any
from lauepilot.perception.grains.find import index_grains
from lauepilot.perception.indexing.catalogue import Catalogue, cell_of
from lauepilot.perception.indexing.indexer import Indexer, IndexingError
from lauepilot.perception.indexing.refine import GeometryPrior, pose_difference, refine
from lauepilot.perception.indexing.rough import index_rough
from lauepilot.perception.indexing.score import quick_score
from lauepilot.perception.indexing.sphere import on_sphere, pixel_area, pixel_normals
from lauepilot.perception.observation import SpotList
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import nearest_rotation, random_rotation, rotation_angle, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import RayTable, predict_spots
from lauepilot.simulator.orientation import misorientation

INDEXERS: dict[tuple[str, str], Indexer] = {}


def indexer(crystal: str, instrument: str) -> Indexer:
    key = (crystal, instrument)
    if key not in INDEXERS:
        INDEXERS[key] = Indexer(load_crystal(crystal), load_instrument(instrument))
    return INDEXERS[key]


def spot_list(pixels, counts, sigma_px=0.5) -> SpotList:
    n = len(pixels)
    covariance = np.tile(np.eye(2) * sigma_px**2, (n, 1, 1))
    return SpotList(np.asarray(pixels, float), covariance, counts, np.sqrt(counts), np.zeros(n, bool))


def shuffled_list(ix: Indexer, u, rng, share: float, detector=None, sigma_px=0.5) -> SpotList:
    """A pattern with ``share`` of its spots missing and as many false ones."""
    where = ix.instrument.detector if detector is None else detector
    spots = predict_spots(ix.table, u, where)
    kept = rng.random(len(spots)) >= share
    pixels = spots.pixels[kept] + rng.normal(scale=sigma_px, size=(kept.sum(), 2))
    counts = 60 * spots.rate_per_s[kept] * np.exp(0.3 * rng.normal(size=kept.sum()))
    false = rng.random((4 * len(spots), 2)) * [where.shape[1], where.shape[0]]
    false = false[where.sees(false)][: round(share * len(spots))]
    bright = rng.choice(counts, len(false)) if len(false) else np.zeros(0)
    return spot_list(np.concatenate([pixels, false]), np.concatenate([counts, bright]), sigma_px)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(
    ("crystal", "instrument"), [("si", "lab"), ("quartz", "bm32"), ("feps3", "bm32"), ("yfe2ge2", "lab")]
)
def test_orientation_is_found_without_a_guess(crystal: str, instrument: str, share: float) -> None:
    ix = indexer(crystal, instrument)
    rng = np.random.default_rng(7)
    for _ in range(6):
        u = random_rotation(rng)
        result = ix.index(shuffled_list(ix, u, rng, share))
        assert result.orientation is not None
        assert np.rad2deg(misorientation(result.orientation.u, u, ix.crystal.symmetry)) < 0.05
        assert result.confidence > 0.999


def test_false_spots_alone_are_not_declared() -> None:
    ix = indexer("si", "lab")
    rng = np.random.default_rng(11)
    for _ in range(10):
        pixels = rng.random((80, 2)) * 999
        pixels = pixels[ix.instrument.detector.sees(pixels)]
        result = ix.index(spot_list(pixels, rng.lognormal(8.0, 1.0, len(pixels))))
        assert result.confidence < 0.5


@pytest.mark.parametrize("offered", ["si", "quartz", "yfe2ge2", "4h-sic"])
def test_another_crystal_is_not_declared(offered: str) -> None:
    """Clean patterns of each of four crystals, indexed as each of the others: common axes must not pass for an answer."""
    rng = np.random.default_rng(12)
    ix = indexer(offered, "lab")
    for true in ("si", "quartz", "yfe2ge2", "4h-sic"):
        for _ in range(3):
            spots = shuffled_list(indexer(true, "lab"), random_rotation(rng), rng, 0.0)
            assert (ix.index(spots).confidence >= 0.999) == (true == offered)


def test_few_spots_that_any_orientation_could_explain_are_not_sure() -> None:
    """Five true spots of a large cell: the right orientation scores no better than the best of all wrong ones."""
    ix = indexer("kyanite", "lab")
    rng = np.random.default_rng(18)
    for _ in range(6):
        spots = predict_spots(ix.table, random_rotation(rng))
        some = rng.choice(len(spots), 5, replace=False)
        result = ix.index(
            spot_list(spots.pixels[some] + rng.normal(size=(5, 2)), 60 * spots.rate_per_s[some])
        )
        assert result.confidence < 0.9


def test_the_freedom_of_the_pose_has_its_price() -> None:
    """Twelve false spots under a loose pose: eight numbers are free to fit them, and that must not count as evidence."""
    ix = indexer("4h-sic", "bm32")
    rng = np.random.default_rng(19)
    for _ in range(8):
        pixels = rng.random((12, 2)) * 2015
        result = ix.index(spot_list(pixels, rng.lognormal(8.0, 1.0, 12)), prior=GeometryPrior(2.0, 2.0, 1.0))
        assert result.confidence < 0.9


def test_dauphine_twin_is_told_by_intensities() -> None:
    """A turn by 180 degrees about c leaves the positions of quartz: only intensities tell, and they must."""
    ix = indexer("quartz", "bm32")
    rng = np.random.default_rng(13)
    twin = rotation_matrix([0.0, 0.0, np.pi])
    for _ in range(5):
        u = random_rotation(rng)
        result = ix.index(shuffled_list(ix, u, rng, 0.3))
        assert result.orientation is not None
        assert misorientation(result.orientation.u, u, ix.crystal.symmetry) < 1e-2
        assert misorientation(result.orientation.u, u @ twin, ix.crystal.symmetry) > 1.0


def test_pseudosymmetric_turn_of_kyanite_is_not_taken_for_the_truth() -> None:
    """Kyanite turned by 180 degrees about [001] shares half of its spots; the truth has to win from short exposures too."""
    ix = indexer("kyanite", "lab")
    pseudo = rotation_matrix(np.pi * (turn := np.linalg.inv(ix.crystal.b)[2]) / np.linalg.norm(turn))
    assert min(rotation_angle(pseudo.T @ r) for r in ix.catalogue.impostors) < np.deg2rad(0.01)
    rng = np.random.default_rng(20)
    for _ in range(10):
        u = random_rotation(rng)
        spots = predict_spots(ix.table, u)
        bright = np.argsort(-spots.rate_per_s)[:70]
        pixels = spots.pixels[bright] + 0.3 * rng.normal(size=(70, 2))
        result = ix.index(
            spot_list(pixels, 2 * spots.rate_per_s[bright], 0.3), prior=GeometryPrior(0.5, 0.5, 0.5)
        )
        assert result.orientation is not None
        assert misorientation(result.orientation.u, u, ix.crystal.symmetry) < 5e-3


def test_too_few_spots_are_refused() -> None:
    with pytest.raises(IndexingError, match="3 spots were found; an orientation needs at least 4"):
        indexer("si", "lab").index(spot_list(np.ones((3, 2)), np.ones(3)))


@pytest.mark.parametrize("wrong", ["pixels", "counts", "covariance_px2"])
def test_spots_that_are_no_numbers_are_refused_before_compiled_code_reads_them(wrong: str) -> None:
    """A NaN pixel used to end the interpreter: it pointed outside the grid of rays."""
    ix = indexer("si", "lab")
    spots = shuffled_list(ix, np.eye(3), np.random.default_rng(1), 0.0)
    values = getattr(spots, wrong).copy()
    values[2] = np.nan
    broken = replace(spots, **{wrong: values})
    for ask in (ix.index, lambda s: index_rough(ix, s), lambda s: index_grains(ix, s)):
        with pytest.raises(IndexingError, match=r"1 of .* no finite numbers; the first is number 2"):
            ask(broken)
    with pytest.raises(IndexingError, match="are wanted"):
        ix.index(replace(spots, counts=spots.counts[1:]))


def test_spots_that_are_listed_again_and_again_are_refused() -> None:
    """Evidence counted four times made forty random spots look nine parts in ten sure."""
    rng = np.random.default_rng(3)
    pixels = np.tile(rng.uniform(50, 950, (10, 2)), (4, 1)) + rng.normal(0.0, 0.05, (40, 2))
    with pytest.raises(IndexingError, match="40 of 40 spots lie within"):
        indexer("si", "lab").index(spot_list(pixels, np.ones(40)))


def test_pose_is_found_with_the_orientation() -> None:
    """Centre 0.5 mm, distance 0.5 mm, tilts 0.5 degrees off: the pose comes back, predictions to a tenth of a pixel."""
    ix = indexer("si", "lab")
    rng = np.random.default_rng(14)
    prior = GeometryPrior(0.5, 0.5, 0.5)
    for _ in range(4):
        sigmas = prior.sigmas(ix.instrument.detector)
        true = ix.instrument.detector.moved(*(rng.normal(size=5) * sigmas))
        u = random_rotation(rng)
        result = ix.index(shuffled_list(ix, u, rng, 0.3, true, 0.2), prior=prior)
        assert result.orientation is not None and result.refinement is not None
        assert np.rad2deg(misorientation(result.orientation.u, u, ix.crystal.symmetry)) < 0.05
        # The pose alone is known up to what a turn of the crystal takes up: compare spots, not rays.
        back = predict_spots(ix.table, result.orientation.u, result.refinement.detector)
        there = predict_spots(ix.table, u, true)
        gap = cKDTree(back.pixels).query(there.pixels)[0]
        assert np.median(gap) < 0.2


def test_error_bars_cover() -> None:
    """Of 200 refinements, 68 % and 95 % ellipsoids hold the truth as often as they say (binomial limits)."""
    ix = indexer("si", "lab")
    rng = np.random.default_rng(15)
    inside68 = inside95 = 0
    for _ in range(200):
        u = random_rotation(rng)
        spots = predict_spots(ix.table, u)
        noisy = spot_list(
            spots.pixels + 0.3 * rng.normal(size=spots.pixels.shape), 60 * spots.rate_per_s + 1, 0.3
        )
        fit = refine(ix.table, u, ix.instrument.detector, noisy, tolerance_px=3.0)
        error = u @ fit.u.T
        w = np.array([error[2, 1] - error[1, 2], error[0, 2] - error[2, 0], error[1, 0] - error[0, 1]]) / 2
        distance2 = w @ np.linalg.solve(fit.covariance, w)
        inside68 += distance2 < 3.527
        inside95 += distance2 < 7.815
    assert 0.58 < inside68 / 200 < 0.80
    assert inside95 / 200 > 0.90


def test_compiled_score_equals_plain_python() -> None:
    ix = indexer("yfe2ge2", "lab")
    rng = np.random.default_rng(16)
    u = random_rotation(rng)
    s = on_sphere(shuffled_list(ix, u, rng, 0.3), ix.instrument.detector, GeometryPrior())
    arguments = (u, s, 1.0, ix.catalogue.rays, 10.0, 3, -1e9)
    assert quick_score(*arguments) == pytest.approx(quick_score.py_func(*arguments), rel=1e-9)


def test_grid_lists_every_ray_within_reach() -> None:
    catalogue = Catalogue.build(RayTable.build(load_crystal("kyanite"), load_instrument("bm32")), voters=50)
    rng = np.random.default_rng(17)
    points = rng.normal(size=(500, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    grid = catalogue.rays
    for p in points:
        near = set(np.flatnonzero(catalogue.table.direction @ p > np.cos(grid.reach_rad)).tolist())
        cell = cell_of(*p)
        assert near <= set(grid.members[grid.starts[cell] : grid.starts[cell + 1]].tolist())


def test_impostors_are_no_symmetries() -> None:
    for name in ("si", "quartz", "feps3"):
        ix = indexer(name, "bm32")
        for rotation in ix.catalogue.impostors:
            assert rotation_angle(rotation @ np.transpose(ix.crystal.symmetry, (0, 2, 1))).min() > 1e-3


def test_pose_difference_undoes_moved() -> None:
    detector = load_instrument("bm32").detector
    change = np.array([1.0, -20.0, 30.0, 0.01, -0.005])
    np.testing.assert_allclose(pose_difference(detector, detector.moved(*change)), change, atol=1e-9)


def test_pixel_area_adds_up_to_the_solid_angle_of_normals() -> None:
    """Normals of the whole back half-sphere fill 2 pi; here a cap: its area by pixels equals 2 pi (1 - cos)."""
    detector = load_instrument("lab").detector
    pixels = np.stack(np.meshgrid(np.arange(1000.0), np.arange(1000.0)), axis=-1).reshape(-1, 2)
    inside = np.linalg.norm(pixels - 499.5, axis=1) < 400
    rim = pixel_normals(np.array([[499.5 + 400.0, 499.5]]), detector)[0]
    assert pixel_area(pixels[inside], detector).sum() == pytest.approx(2 * np.pi * (1 + rim[2]), rel=1e-3)


REAL = [
    ("Ge_blanc_0000_LT_5", "ge", ".dat"),
    ("Ge0001", "ge", ".dat"),
    ("Ge0001", "si", ".cor"),
    ("3C-SiC_img_10066", "3c-sic", ".fit"),
]


@pytest.mark.parametrize(("name", "crystal", "suffix"), REAL)
def test_real_lists_give_the_accepted_orientation(
    shared_data: Path, name: str, crystal: str, suffix: str
) -> None:
    folder = shared_data / "laue"
    fit = read_fit(folder / f"{name}.fit")
    assert fit.geometry is not None
    reader = {".dat": read_dat, ".cor": read_cor, ".fit": read_fit}[suffix]
    spots = reader(folder / f"{name}{suffix}").spot_list()
    ix = indexer(crystal, "bm32")
    result = ix.index(spots, fit.geometry.to_detector(), cell_sigma=5e-4, complete=True)
    assert result.orientation is not None and result.refinement is not None
    # Their U holds the strain of a refined cell; its rotation is that of the polar decomposition.
    accepted = nearest_rotation(fit.ub @ np.linalg.inv(ix.crystal.b))
    assert np.rad2deg(misorientation(result.orientation.u, accepted, ix.crystal.symmetry)) < 0.02
    found = cKDTree(spots.pixels[result.refinement.spot]).query(fit.pixels)[0] < 0.5
    assert found.mean() >= 0.9
    assert result.confidence > 0.999


@pytest.mark.parametrize("name", ["Ge_blanc_0000_LT_5", "Ge0001"])
def test_real_lists_without_their_geometry(shared_data: Path, name: str) -> None:
    """From the drawing of another camera, another pixel too: the accepted orientation, and no false one on the way."""
    folder = shared_data / "laue"
    fit = read_fit(folder / f"{name}.fit")
    ix = indexer("ge", "bm32")
    result = index_rough(ix, read_dat(folder / f"{name}.dat").spot_list(), complete=True)
    assert result.orientation is not None
    accepted = nearest_rotation(fit.ub @ np.linalg.inv(ix.crystal.b))
    assert np.rad2deg(misorientation(result.orientation.u, accepted, ix.crystal.symmetry)) < 0.05


@pytest.mark.parametrize(
    ("name", "crystal"), [(n, c) for n, _, _ in REAL[1:] for c in ("4h-sic", "yfe2ge2", "quartz")]
)
def test_real_lists_are_not_declared_as_another_crystal(shared_data: Path, name: str, crystal: str) -> None:
    fit = read_fit(shared_data / "laue" / f"{name}.fit")
    assert fit.geometry is not None
    for prior in (GeometryPrior(), GeometryPrior(0.5, 0.5, 0.5)):
        result = indexer(crystal, "bm32").index(fit.spot_list(), fit.geometry.to_detector(), prior=prior)
        assert result.confidence < 0.95


@pytest.mark.parametrize("off", [(0, 0, 0), (8.0, -80.0, -70.0)])
def test_raw_germanium_frame_from_rough_geometry(shared_data: Path, off: tuple[float, float, float]) -> None:
    ix = indexer("ge", "bm32")
    frame = read_any(shared_data / "laue" / "ge.jp2").frame
    assert frame is not None
    spots = find_spots(frame, ix.instrument.detector)
    prior = GeometryPrior(10.0, 7.3, 1.0) if any(off) else GeometryPrior(3.0, 3.0, 1.0)
    result = index_rough(ix, spots, ix.instrument.detector.moved(*off), prior=prior, complete=True)
    assert result.orientation is not None and result.refinement is not None
    table = RayTable.build(ix.crystal, ix.instrument, min_relative=1e-3)
    predicted = predict_spots(table, result.orientation.u, result.refinement.detector)
    strongest = np.argsort(-predicted.rate_per_s)[:100]
    gap = cKDTree(spots.pixels).query(predicted.pixels[strongest])[0]
    assert (gap < 1.0).mean() >= 0.95
    assert gap[gap < 1.0].mean() <= 0.25
