"""The photon likelihood against plain sums over a rendered image, and its slopes against differences."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import poisson

from lauepilot.perception.photons.blocks import unexplained
from lauepilot.perception.photons.film import PAD, Film, listed, lone_pixels
from lauepilot.perception.photons.kernels import best_share, gradient, log_likelihood
from lauepilot.perception.photons.scene import PARAMETERS, SHAPE_PARAMETERS, Scene, View, workspace
from lauepilot.perception.photons.sky import beam_directions
from lauepilot.perception.photons.spread import clear, select, spread, turned
from lauepilot.simulator.conventions import random_rotation, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.detector import Region
from lauepilot.simulator.image import background_rate, reference_image
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.kernels import pack_detector
from lauepilot.simulator.laue import RayTable, predict_spots
from lauepilot.simulator.render import pack_blur
from lauepilot.simulator.spots_shape import instrument_covariances


def tiny(kind="flat"):
    """Silicon on a detector of 50 x 60 pixels with a hole; spots whose shape does not depend on where they fall."""
    instrument = load_instrument("lab")
    detector = replace(
        instrument.detector.binned((50, 60)),
        kind=kind,
        blind=(Region("circle", (22.0, 31.0), (9.0, 9.0)),),
        sensor=replace(instrument.detector.sensor, point_spread_px=2.0),
    )
    return replace(
        instrument.with_detector(detector),
        beam=replace(instrument.beam, size_mm=(1e-6, 1e-6), divergence_deg=0.0),
        sample=replace(instrument.sample, mosaic_deg=0.0),
    )


def scene_of(table, film):
    return Scene(
        table.direction, table.rate, table.sin_theta_min, table.sin_theta_step, pack_detector(film.detector),
        0.0, pack_blur(table.instrument, film.detector), 0.28, 2.0, film.visible, PAD, film.live, True, film.widest, True,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["flat", "cylinder"])
def case(request):
    rng = np.random.default_rng(3)
    instrument = tiny(request.param)
    table = RayTable.build(load_crystal("si"), instrument, min_relative=0.02)
    film = Film.build(instrument)
    scene = scene_of(table, film)
    u = random_rotation(rng)
    row, col = np.nonzero(film.live)
    count = rng.poisson(1.0, len(row)).astype(float)
    keep = count > 0
    row, col, count = row[keep], col[keep], count[keep]
    shares = np.array([0.3, 0.1, 0.5, 0.1])
    base = film.base(shares, col.astype(float), row.astype(float))
    photons = listed(col, row, count, base, film.detector.shape, float(count.sum()))
    rays = np.empty(len(table), np.int64)
    n = select(u, scene, len(rays), float(PAD - 2), rays)
    x = np.zeros(PARAMETERS)
    x[8], x[9] = np.log(2.0), 0.4
    return table, film, View(scene, photons, rays[:n], workspace(len(photons.col))), u, x, shares


def plain(table, film, photons, u, share, shares):
    """The mixture's log-likelihood, from an image of 6 x 6 points a pixel."""
    detector = film.detector
    spots = predict_spots(table, u, on_sensor=False)
    near = np.all(np.abs(spots.pixels - 27.5) < 60.0, axis=1)
    covariances = instrument_covariances(table.instrument, spots.k_out[near], detector)
    dark = replace(detector, background=replace(detector.background, flat_per_s_mm2=0.0, dome_per_s_mm2=0.0))
    image = reference_image(dark, spots.pixels[near], spots.rate_per_s[near], covariances, 1.0, samples=6)
    radius2 = ((np.indices(detector.shape) - np.array([24.5, 29.5])[:, None, None]) ** 2
               * np.array(detector.pixel_mm[::-1])[:, None, None] ** 2).sum(axis=0) / 40.0**2  # fmt: skip
    parts = [np.ones(detector.shape)] + [(1.0 + radius2 / w**2) ** -1.5 for w in (0.5, 1.0, 2.0)]
    live = detector.mask()
    base = sum(s * p / p[live].sum() for s, p in zip(shares, parts, strict=True))
    at = photons.row.astype(int), photons.col.astype(int)
    signal = image[at] / image[live].sum() / base[at]
    return float((photons.amount * np.log(1.0 - share + share * signal)).sum()), float(image[live].sum())


def test_value_is_that_of_a_plain_image(case):
    table, film, view, u, x, shares = case
    share = 1.0 / (1.0 + np.exp(-x[9]))
    ours = log_likelihood(u, x, view)
    wanted, _ = plain(table, film, view.photons, u, share, shares)
    assert abs(wanted) > 50.0
    assert ours == pytest.approx(wanted, rel=4e-3)


def test_visible_rate_clips_stamps(case):
    """Spots over the edge and the hole count with what is seen of them, not by where their middle is."""

    table, film, view, u, x, shares = case
    visible, touched = spread(u, x, view, 0, np.empty(SHAPE_PARAMETERS))
    clear(view.work, touched)
    _, wanted = plain(table, film, view.photons, u, 0.5, shares)
    assert visible == pytest.approx(wanted, rel=3e-3)
    middles = predict_spots(table, u).rate_per_s.sum()
    assert abs(middles / wanted - 1.0) > 0.005  # by middles alone it would be wrong by more


def test_slopes_are_differences(case):
    _, _, view, u, x, _ = case
    slope, information = np.empty(PARAMETERS), np.empty((PARAMETERS, PARAMETERS))
    value = gradient(u, x, view, slope, information)
    assert value == pytest.approx(log_likelihood(u, x, view), rel=1e-12)
    steps = np.array([2e-4] * 3 + [0.05, 0.3, 0.3, 2e-4, 2e-4, 1e-2, 1e-2])
    for i in range(PARAMETERS):
        slopes = []
        for step in steps[i] * np.array([0.05, 0.1, 0.15, 0.25, 0.4]):
            values = []
            for sign in (1.0, -1.0):
                y = x.copy()
                y[i] += sign * step
                v = turned(u, *y[:3])
                y[:3] = 0.0
                values.append(log_likelihood(v, y, view))
            slopes.append((values[0] - values[1]) / (2.0 * step))
        # The median: a photon that crosses the rim of a stamp makes a jump.
        scale = np.sqrt(information[i, i])
        assert slope[i] == pytest.approx(np.median(slopes), rel=5e-3, abs=0.02 * scale), i
    assert np.all(np.linalg.eigvalsh(information) > -1e-9 * np.trace(information))


def test_what_is_skipped_makes_no_difference(case):
    """Spots without a photon near count by their rate alone, slopes of a known pose are not made: the rest is the same."""
    _, _, view, u, x, _ = case
    some = slice(0, 4)
    p = view.photons
    few = listed(p.col[some], p.row[some], p.amount[some], p.base[some], (50, 60), 6.0)
    found = []
    for widest, free in ((view.scene.widest, False), (1e4, True)):
        scene = view.scene._replace(widest=widest, pose_free=free)
        slope, information = np.empty(PARAMETERS), np.empty((PARAMETERS, PARAMETERS))
        seen = View(scene, few, view.rays, workspace(len(few.col)))
        found.append((gradient(u, x, seen, slope, information), slope, information))
    kept = [0, 1, 2, 8, 9]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    # Spots of which a ten-thousandth is clipped are taken for whole.
    assert found[0][1][kept] == pytest.approx(found[1][1][kept], rel=1e-3, abs=2e-3)
    assert found[0][2][np.ix_(kept, kept)] == pytest.approx(
        found[1][2][np.ix_(kept, kept)], rel=2e-3, abs=1e-2
    )
    assert not found[0][1][3:8].any() and found[1][1][3:8].all()


def test_best_share_is_the_highest(case):
    _, _, view, u, x, _ = case
    share = best_share(u, x, view)

    def at(f):
        y = x.copy()
        y[9] = np.log(f / (1.0 - f))
        return log_likelihood(u, y, view)

    assert at(share) >= max(at(f) for f in np.linspace(0.001, 0.99, 60)) - 1e-4


def test_turned_is_a_rotation():
    w = np.array([0.1, -0.2, 0.05])
    u = random_rotation(np.random.default_rng(0))
    assert np.allclose(turned(u, *w), rotation_matrix(w) @ u, atol=1e-12)


def test_beam_directions_cover_the_sphere():
    """Every direction has a grid point, up to symmetry, closer than the spacing; and none is listed twice."""
    symmetry = load_crystal("si").symmetry
    grid = beam_directions(symmetry, 0.03)
    assert len(grid) == pytest.approx(4.0 * np.pi / 24.0 / 0.03**2, rel=0.1)
    v = np.random.default_rng(1).normal(size=(300, 3))
    v /= np.linalg.norm(v, axis=1)[:, None]
    nearest = np.einsum("sij,nj,gi->nsg", symmetry, v, grid).max(axis=(1, 2))
    assert np.rad2deg(np.arccos(nearest.min())) < np.rad2deg(0.03)


def test_background_parts_are_found_again():
    """Shares fitted to a dome agree with the dome's image."""
    instrument = load_instrument("lab")
    film = Film.build(instrument)
    detector = instrument.detector
    truth = background_rate(detector).astype(float)
    frame = np.random.default_rng(2).poisson(truth / truth.sum() * 3e5)
    shares, level = film.fit_frame(film.cell_sums(frame))
    rows, cols = np.nonzero(film.live)
    fitted = film.base(shares, cols.astype(float), rows.astype(float))
    assert fitted.sum() == pytest.approx(1.0, abs=2e-3)
    assert level == pytest.approx(3e5, rel=0.03)
    assert np.abs(fitted * truth.sum() / truth[rows, cols] - 1.0).max() < 0.08


def test_background_shares_are_a_fixed_point_of_em():
    """Dempster, Laird & Rubin's step, written out, does not move the shares that Newton's method found."""
    film = Film.build(load_instrument("lab"))
    rng = np.random.default_rng(6)
    for total in (20.0, 3e3, 1e6):
        counts = rng.poisson(total * (np.array([0.2, 0.5, 0.0, 0.3]) @ film.cells)).astype(float)
        shares = film.fit(counts)
        mixed = shares[:, None] * film.cells
        step = 1.0 + (mixed / np.maximum(mixed.sum(axis=0), 1e-300) * counts).sum(axis=1)
        assert shares.sum() == pytest.approx(1.0)
        assert step / step.sum() == pytest.approx(shares, abs=1e-4)


def test_unexplained_clumps_are_those_of_the_quantile_everywhere():
    rng = np.random.default_rng(7)
    for mean in (0.02, 3.0):
        left = rng.poisson(mean, (60, 70)).astype(float)
        left[20:22, 30:32] += (3.0, 40.0)
        expected = np.full(left.shape, mean)
        wanted = 0.0
        for i, j in np.ndindex(left.shape):
            near = np.s_[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            limit = poisson.isf(0.01 / left.size, expected[near].sum()) + 1.0
            if left[near].sum() >= max(limit, 3.0):
                wanted += max(left[i, j] - mean, 0.0)
        assert wanted > 80.0
        assert unexplained(left, expected) == pytest.approx(wanted)


def test_lone_pixels():
    rng = np.random.default_rng(5)
    frame = rng.poisson(0.05, (80, 90))
    y, x = np.mgrid[:80, :90]
    frame += rng.poisson(
        900.0 * np.exp(-0.5 * ((x - 40) ** 2 + (y - 30) ** 2) / 1.6**2) / (2 * np.pi * 1.6**2)
    )
    frame[60, 20] += 12
    frame[10, 50:55] += 300
    found = lone_pixels(frame, 1.5)
    assert found[60, 20] and found[10, 51:54].all()
    assert not found[20:41, 30:51].any()
