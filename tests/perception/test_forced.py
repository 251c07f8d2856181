"""The last fit at predicted places: its kernels against plain numpy, its answers against truth and the Cramér-Rao bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from lauepilot.cli.index import index_file
from lauepilot.perception.indexing.expected import ExpectedSpots, misplaced, scattered
from lauepilot.perception.indexing.forced import LastFit, fit_frame
from lauepilot.perception.indexing.forced_kernels import lay_out, normal_equations
from lauepilot.perception.indexing.gauss_newton import STEPS
from lauepilot.perception.indexing.indexer import Indexer, IndexResult
from lauepilot.perception.indexing.refine import Refinement
from lauepilot.perception.limits.bound import fisher_information
from lauepilot.perception.observation import SpotList
from lauepilot.perception.observer import USUAL_PRIOR
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import FloatArray, random_rotation, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.frame import Frame, FrameError
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import RayTable, cached_table
from lauepilot.simulator.orientation import nearest_equivalent
from lauepilot.simulator.render import render_batch
from lauepilot.simulator.twin import Twin

HALO, OFFSET, GAIN = 0.28, 10.0, 2.0


@dataclass
class Scene:
    """Three spots, two of them touching and one over the edge, on a frame of 40 x 50 pixels."""

    spots: FloatArray
    slopes: FloatArray
    counts: FloatArray
    level: FloatArray

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sigma = np.sqrt(GAIN * (self.level - OFFSET))
        return tuple(np.ascontiguousarray(a, dtype=np.float32) for a in (self.counts, self.level, sigma))


@pytest.fixture(scope="module")
def scene() -> Scene:
    rng = np.random.default_rng(5)
    spots = np.array(
        [
            [20.3, 18.7, 3.0, 0.5, 2.2, np.log(900.0)],
            [24.1, 20.2, 2.5, -0.4, 3.1, np.log(400.0)],
            [0.4, 33.0, 4.0, 0.0, 4.0, np.log(700.0)],
        ]
    )
    slopes = rng.normal(size=(3, 6, 4)) * np.array([1.0, 1.0, 0.1, 0.1, 0.1, 0.2])[:, None]
    level = OFFSET + 6.0 + 0.02 * np.indices((40, 50))[1]
    mean = level + plain_image(spots, (40, 50))
    counts = OFFSET + GAIN * rng.poisson((mean - OFFSET) / GAIN)
    return Scene(spots, slopes, counts.astype(float), level)


def plain_image(spots: FloatArray, shape: tuple[int, int], one: int | None = None) -> FloatArray:
    """Core and halo at the middles of the pixels."""
    rows, cols = np.indices(shape)
    out = np.zeros(shape)
    for s, (col, row, cc, cr, rr, log) in enumerate(spots):
        if one is not None and s != one:
            continue
        d = np.stack([cols - col, rows - row], axis=-1)
        scale = 1.0 / (1.0 - HALO + 4.0 * HALO)
        for share, f in ((1.0 - HALO, scale), (HALO, 4.0 * scale)):
            c = f * np.array([[cc, cr], [cr, rr]])
            q = np.einsum("...i,ij,...j", d, np.linalg.inv(c), d)
            out += np.exp(log) * share * np.exp(-0.5 * q) / (2.0 * np.pi * np.sqrt(np.linalg.det(c)))
    return out


def stamps_of(
    scene: Scene, usable: np.ndarray | None = None, saturation: float = 1e9, foreign: object = None
):
    counts, level, sigma = scene.arrays()
    alive = np.ones(counts.shape, dtype=np.bool_) if usable is None else usable
    discs = np.zeros((0, 3)) if foreign is None else np.array(foreign, dtype=float)
    return lay_out(counts, level, sigma, alive, saturation, GAIN, scene.spots, HALO, discs)


def test_normal_equations_are_those_of_the_plain_model(scene: Scene) -> None:
    stamps = stamps_of(scene)
    change = 0.03
    got = normal_equations(stamps, scene.spots, scene.slopes, OFFSET, change, GAIN, HALO, True)
    shape = scene.counts.shape
    # Each spot counts within its stamp only.
    covered = np.zeros((3, *shape))
    for s in range(3):
        at = stamps.slot[stamps.first[s] : stamps.first[s + 1]]
        covered[s, stamps.row[at], stamps.col[at]] = 1.0

    def mean(x: FloatArray, amplitude: FloatArray) -> FloatArray:
        moved = scene.spots + scene.slopes @ x[:4]
        moved[:, 5] += x[4]
        moved[:, [2, 4]] += x[6]
        light = sum(amplitude[s] * covered[s] * plain_image(moved, shape, s) for s in range(3))
        return light + (change + x[5]) * (scene.level - OFFSET)

    zero, ones, step = np.zeros(7), np.ones(3), 1e-5
    g = [(mean(step * e, ones) - mean(-step * e, ones)) / (2.0 * step) for e in np.eye(7)]
    g += [(mean(zero, ones + step * e) - mean(zero, ones - step * e)) / (2.0 * step) for e in np.eye(3)]
    here = covered.any(axis=0)
    gradient = np.array([k[here] for k in g])
    noise = GAIN * (scene.level - OFFSET)
    model = mean(zero, ones)
    weight = (1.0 / (noise + GAIN * model))[here]
    excess = ((scene.counts - scene.level - model)[here]) * weight
    matrix, right = (gradient * weight) @ gradient.T, gradient @ excess
    np.testing.assert_allclose(got.matrix, matrix[:7, :7], rtol=2e-5, atol=2e-5 * np.abs(matrix).max())
    np.testing.assert_allclose(got.right, right[:7], rtol=1e-4, atol=1e-4 * np.abs(right).max())
    np.testing.assert_allclose(got.cross, matrix[7:, :7], rtol=2e-5, atol=2e-5 * np.abs(matrix).max())
    np.testing.assert_allclose(got.own, matrix[7:, 7:], rtol=2e-5, atol=1e-6 * np.abs(matrix[7:, 7:]).max())
    np.testing.assert_allclose(got.pull, right[7:], rtol=1e-4, atol=1e-4 * np.abs(right).max())
    assert got.pixels == here.sum()
    assert got.misfit == pytest.approx(np.sum(excess**2 / weight), rel=1e-5)
    # The score of a place is the likelihood's slope: here the touching spots' common one.
    both = scene.slopes.copy()
    both[:] = 0.0
    both[1, 0, 0] = 1.0
    alone = normal_equations(stamps, scene.spots, both, OFFSET, change, GAIN, HALO, False)
    assert alone.right[0] == pytest.approx(got.score[1, 0])
    assert alone.matrix[0, 0] == pytest.approx(got.information[1, 0])


def test_stamps_leave_out_what_says_nothing(scene: Scene) -> None:
    whole = stamps_of(scene)
    pixels = set(zip(whole.row.tolist(), whole.col.tolist(), strict=True))
    # Over the edge: clipped, not dropped.
    assert whole.first[3] - whole.first[2] > 30
    assert (33, 0) in pixels
    assert (19, 20) in pixels
    blind = np.ones(scene.counts.shape, dtype=np.bool_)
    blind[19, 20] = False
    top = float(scene.counts.max())
    for stamps in (
        stamps_of(scene, usable=blind),
        stamps_of(scene, foreign=[[20.0, 19.0, 2.5]]),
        stamps_of(scene, saturation=top),
    ):
        left = set(zip(stamps.row.tolist(), stamps.col.tolist(), strict=True))
        assert left < pixels
    dark = scene.counts.copy()
    dark[15, 20] = 5000.0
    hot = stamps_of(replace(scene, counts=dark))
    assert (15, 20) in pixels
    assert (15, 20) not in set(zip(hot.row.tolist(), hot.col.tolist(), strict=True))


def test_errors_of_places_are_told_from_scores() -> None:
    """Scores drawn as they are by definition: of noise alone nothing is found, of 0.1 px about that."""
    rng = np.random.default_rng(8)
    f = rng.uniform(1.0, 3000.0, 60)
    information = np.column_stack([f, np.zeros(60), f])
    calm = rng.normal(size=(60, 2)) * np.sqrt(f)[:, None]
    assert misplaced(calm, information) == 0.0
    off = calm + 0.1 * f[:, None] * rng.normal(size=(60, 2))
    assert misplaced(off, information) == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("true", [0.0, 0.5])
def test_scatter_of_intensities(true: float) -> None:
    rng = np.random.default_rng(9)
    variance = rng.uniform(0.001, 0.04, 80)
    ratio = 2.0 + rng.normal(size=80) * np.sqrt(variance + true**2)
    scatter, level = scattered(ratio, variance)
    assert scatter == pytest.approx(true, rel=0.3)
    assert level == pytest.approx(2.0, abs=0.15)


@pytest.fixture(scope="module")
def indexer() -> Indexer:
    return Indexer(load_crystal("si"), load_instrument("lab"))


def draw(
    table: RayTable, u: FloatArray, photons: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """A frame with so many photons expected in spots, on the instrument's background, and the bound's trace."""
    bound = fisher_information(
        table, u, signal_photons=photons, parameters=("rotation", "flux", "background", "width")
    )
    return render_batch(table, u, bound.seconds, rng)[0], float(np.trace(bound.orientation_covariance))


def both(indexer: Indexer, counts: np.ndarray) -> tuple[IndexResult, LastFit, SpotList, Frame]:
    frame = Frame(counts, 1.0)
    spots = find_spots(frame, indexer.instrument.detector)
    found = indexer.index(spots, complete=True)
    return found, fit_frame(frame, indexer, found, spots), spots, frame


def error(result: IndexResult, u: FloatArray, indexer: Indexer) -> tuple[float, float]:
    """Squared error, and squared distance in units of what the answer says."""
    assert result.orientation is not None
    _, w = nearest_equivalent(result.orientation.u, u, indexer.crystal.symmetry)
    return float(w @ w), float(w @ np.linalg.solve(result.orientation.covariance, w))


def test_slopes_are_differences_of_one_parameter_each(indexer: Indexer) -> None:
    """Turns and strains are computed together by turning the crystal's directions; here one after the other, exact rays."""
    table = cached_table(indexer.crystal, indexer.instrument, 1e-2)
    u = random_rotation(np.random.default_rng(24))
    prior, detector = USUAL_PRIOR, indexer.instrument.detector
    at = Refinement(
        u, detector, np.zeros((3, 3)), np.eye(3), np.zeros(5), 0.0, *(np.zeros(0, dtype=np.int64),) * 2,
        np.zeros((0, 3), dtype=np.int64), np.zeros((0, 2)),
    )  # fmt: skip
    model = ExpectedSpots(table, detector, prior, 1e-3, at)
    slopes = model.slopes(u, model.p)
    assert slopes.shape[2] == 13
    for i in range(13):
        ends = []
        for sign in (1.0, -1.0):
            q, turn = np.zeros(13), np.zeros(3)
            (turn if i < 3 else q)[i] = sign * STEPS[i]
            ends.append(model.values(rotation_matrix(turn) @ u, q))
        plain = (ends[0] - ends[1]) / (2.0 * STEPS[i])
        np.testing.assert_allclose(
            slopes[:, :2, i], plain[:, :2], rtol=1e-5, atol=1e-5 * np.abs(plain[:, :2]).max()
        )


def test_faint_frames_come_to_the_bound(indexer: Indexer) -> None:
    table = cached_table(indexer.crystal, indexer.instrument, 1e-3)
    rng = np.random.default_rng(21)
    before, after, bound, d2 = [], [], [], []
    for _ in range(16):
        u = random_rotation(rng)
        counts, b = draw(table, u, 1500.0, rng)
        found, last, _, _ = both(indexer, counts)
        assert last.used, last.remark
        before.append(error(found, u, indexer)[0])
        after.append(error(last.result, u, indexer)[0])
        d2.append(error(last.result, u, indexer)[1])
        bound.append(b)
    assert np.sum(after) < np.sum(before)
    # 16 frames of three directions: the root of their sum of squares scatters by a tenth.
    assert np.sqrt(np.sum(after) / np.sum(bound)) < 1.3
    assert np.count_nonzero(np.array(d2) < chi2.ppf(0.95, 3)) >= 13


def test_wrong_intensities_and_a_second_grain_do_no_harm(indexer: Indexer) -> None:
    true = cached_table(indexer.crystal, indexer.instrument, 1e-3)
    rng = np.random.default_rng(22)
    d2, scatter = [], []
    for k in range(10):
        u = random_rotation(rng)
        table = true
        if k % 2:
            factor = np.exp(0.7 * rng.normal(size=(len(true), 1)))
            table = replace(true, rate=(true.rate * factor).astype(np.float32))
        counts, _ = draw(table, u, 2e4, rng)
        if not k % 2:
            counts = counts + draw(true, random_rotation(rng), 8e3, rng)[0]
        _, last, _, _ = both(indexer, counts)
        scatter.append(last.scatter)
        d2.append(error(last.result, u, indexer)[1])
    assert np.median(scatter[1::2]) == pytest.approx(0.7, rel=0.4)
    # Below eight of ten has a chance of 1 %.
    assert np.count_nonzero(np.array(d2) < chi2.ppf(0.95, 3)) >= 8


def test_a_free_pose_is_fitted_too() -> None:
    instrument = load_instrument("lab")
    indexer = Indexer(load_crystal("si"), instrument, USUAL_PRIOR)
    twin = Twin(indexer.crystal, instrument, rng=np.random.default_rng(0))
    before, after, d2 = [], [], []
    for k in range(10):
        twin.reset(np.random.default_rng((k, 31)))
        frame = twin.expose(5.0)
        spots = find_spots(frame, instrument.detector)
        found = indexer.index(spots)
        last = fit_frame(frame, indexer, found, spots)
        before.append(error(found, twin.u_lab(), indexer)[0])
        e2, distance2 = error(last.result, twin.u_lab(), indexer)
        after.append(e2)
        d2.append(distance2)
    assert np.sum(after) < np.sum(before)
    assert np.count_nonzero(np.array(d2) < chi2.ppf(0.95, 3)) >= 7


def test_what_is_not_believed_leaves_the_answer_alone(indexer: Indexer) -> None:
    table = cached_table(indexer.crystal, indexer.instrument, 1e-3)
    rng = np.random.default_rng(23)
    found, last, spots, frame = both(indexer, draw(table, random_rotation(rng), 3e3, rng)[0])
    assert last.used
    assert found.refinement is not None
    sure = replace(found, refinement=replace(found.refinement, covariance=1e-8 * found.refinement.covariance))
    far = fit_frame(frame, indexer, sure, spots)
    assert not far.used
    assert far.result is sure
    assert "moves the orientation" in far.remark
    none = fit_frame(frame, indexer, IndexResult(None, 0.0, 0.0, 0, None), spots)
    assert not none.used
    assert "fewer than" in none.remark
    with pytest.raises(FrameError, match="shape"):
        fit_frame(Frame(np.ones((10, 10)), 1.0), indexer, found, spots)


def test_a_measured_frame_keeps_its_answer(shared_data: Path) -> None:
    """Measured spots lie off any model by a fifth of a pixel: faint ones add nothing, and the remark says so."""
    done = index_file(shared_data / "laue" / "ge.jp2", load_crystal("ge"), load_instrument("bm32"))
    assert "off the model" in done.last_fit
    assert done.result.refinement is not None
    assert done.result.refinement.mean_residual_px < 0.25
