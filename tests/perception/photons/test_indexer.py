"""The photon indexer on frames rendered by the simulator."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2

from lauepilot.cli.photons import index_photons, spots_hopeless
from lauepilot.perception.photons.indexer import PhotonIndexer
from lauepilot.simulator.conventions import random_rotation, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.frame import Frame, FrameError
from lauepilot.simulator.image import add_spots, background_rate, live_pixels
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import cached_table, predict_spots
from lauepilot.simulator.orientation import Orientation, misorientation, nearest_equivalent
from lauepilot.simulator.spots_shape import instrument_covariances

SI, LAB = load_crystal("si"), load_instrument("lab")
LIVE = live_pixels(LAB.detector).astype(float)


@pytest.fixture(scope="module")
def indexer():
    return PhotonIndexer(SI, LAB)


def expected(u, signal, background, point_px=1.5, dome=True, crystal=SI):
    """Means of a frame with so many photons in spots and background."""
    table = cached_table(crystal, LAB, 3e-4)
    spots = predict_spots(table, u, on_sensor=False)
    near = np.all(np.abs(spots.pixels - 499.5) < 540.0, axis=1)
    wide = replace(LAB.detector, sensor=replace(LAB.detector.sensor, point_spread_px=point_px))
    image = np.zeros(LAB.detector.shape)
    covariances = instrument_covariances(LAB, spots.k_out[near], wide)
    add_spots(image, spots.pixels[near].copy(), spots.rate_per_s[near].copy(), covariances, 0.28, 2.0)
    image *= LIVE
    dark = background_rate(LAB.detector).astype(float) if dome else LIVE
    return image * (signal / image.sum()) + dark * (background / dark.sum())


def error(result, u):
    return float(np.rad2deg(misorientation(result.orientation.u, u, SI.symmetry)))


def test_forty_photons_are_enough(indexer):
    """Orientation, width, flux: none of them given. Ten frames, all backgrounds' shapes, several widths."""
    rng = np.random.default_rng(11)
    distances, signals = [], []
    for k in range(10):
        u = random_rotation(rng)
        counts = rng.poisson(expected(u, 40.0, 40.0, point_px=(1.2, 1.5, 1.9)[k % 3], dome=bool(k % 2)))
        result = indexer.index(counts)
        assert error(result, u) < 0.5
        assert result.verdict == "sure" and result.confidence > 0.99
        assert sum(m.probability for m in result.modes) <= 1.0 + 1e-9
        signals.append(result.signal_photons)
        _, w = nearest_equivalent(u, result.orientation.u, SI.symmetry)
        distances.append(w @ np.linalg.solve(result.orientation.covariance, w))
        assert result.signal_photons + result.background_photons == pytest.approx(counts.sum())
    assert np.mean(signals) == pytest.approx(40.0, rel=0.2)
    # Mean of ten squared Mahalanobis distances: 3 +- 0.8; the bounds are those that chance passes once in 2,000.
    assert chi2.ppf(2.5e-4, 30) / 10 < np.mean(distances) < chi2.ppf(1.0 - 2.5e-4, 30) / 10


def test_many_photons_are_as_good_as_the_error_bar_says(indexer):
    rng = np.random.default_rng(12)
    distances = []
    for _ in range(4):
        u = random_rotation(rng)
        result = indexer.index(rng.poisson(expected(u, 2e4, 2e4)))
        assert error(result, u) < 0.02
        assert result.width_px == pytest.approx(1.5, rel=0.05)
        assert result.signal_photons == pytest.approx(2e4, rel=0.03)
        _, w = nearest_equivalent(u, result.orientation.u, SI.symmetry)
        distances.append(w @ np.linalg.solve(result.orientation.covariance, w))
    assert chi2.ppf(2.5e-4, 12) / 4 < np.mean(distances) < chi2.ppf(1.0 - 2.5e-4, 12) / 4


def test_pure_background_is_unsure(indexer):
    rng = np.random.default_rng(13)
    dark = background_rate(LAB.detector).astype(float)
    for total in (30.0, 30.0, 100.0, 100.0, 1000.0):
        assert indexer.index(rng.poisson(dark * (total / dark.sum()))).verdict == "unsure"
    nothing = indexer.index(np.zeros(LAB.detector.shape, dtype=int))
    assert nothing.orientation is None and nothing.verdict == "unsure"


def test_another_crystal_is_not_declared(indexer):
    """Quartz in the frame, silicon asked for: some of its spots fit, the others are clumps without a reason."""
    rng = np.random.default_rng(18)
    for _ in range(2):
        counts = rng.poisson(expected(random_rotation(rng), 3e3, 3e3, crystal=load_crystal("quartz")))
        result = indexer.index(counts)
        assert result.verdict == "unsure"
        assert result.unexplained_photons > 0.2 * result.signal_photons


def test_too_few_photons_are_not_called_sure_wrongly(indexer):
    """Six photons: right now and then, sure and wrong never."""
    rng = np.random.default_rng(14)
    for _ in range(8):
        u = random_rotation(rng)
        result = indexer.index(rng.poisson(expected(u, 6.0, 6.0)))
        assert result.verdict != "sure" or error(result, u) < 0.5


def test_mask_hides_pixels(indexer):
    """A dead half full of nonsense changes nothing but what can be known."""
    rng = np.random.default_rng(15)
    u = random_rotation(rng)
    counts = rng.poisson(expected(u, 150.0, 150.0))
    dead = np.zeros(counts.shape, dtype=bool)
    dead[:, 500:] = True
    spoiled = np.where(dead, rng.poisson(0.01, counts.shape), counts)
    assert error(indexer.index(spoiled, mask=dead), u) < 0.5


def test_around_and_verify(indexer):
    rng = np.random.default_rng(16)
    u = random_rotation(rng)
    counts = rng.poisson(expected(u, 25.0, 100.0))
    off = Orientation(rotation_matrix([0.008, -0.01, 0.006]) @ u, SI.b, np.eye(3) * 0.01**2)
    result = indexer.index(counts, around=off)
    assert error(result, u) < 0.5 and result.verdict == "sure"
    odds, refined = indexer.verify(counts, off, 0.01)
    assert odds > 100.0
    assert np.rad2deg(misorientation(refined.u, u, SI.symmetry)) < 0.5
    wrong = Orientation(rotation_matrix([0.0, 0.1, 0.05]) @ u, SI.b, np.eye(3) * 0.01**2)
    assert indexer.verify(counts, wrong, 0.01)[0] < 0.01
    with pytest.raises(ValueError, match="positive angle"):
        indexer.verify(counts, off, 0.0)


def test_around_an_orientation_of_unknown_precision(indexer):
    """A covariance of zeros says nothing: it is looked there, and what is found is not pinned to it."""
    rng = np.random.default_rng(19)
    u = random_rotation(rng)
    counts = rng.poisson(expected(u, 60.0, 60.0))
    off = rotation_matrix([0.004, -0.003, 0.005]) @ u
    result = indexer.index(counts, around=Orientation(off, SI.b, np.zeros((3, 3))))
    assert error(result, u) < 0.25 < np.rad2deg(misorientation(off, u, SI.symmetry))
    one_axis = Orientation(off, SI.b, np.diag([0.01**2, 0.01**2, 0.0]))
    assert np.isfinite(indexer.index(counts, around=one_axis).log_evidence)


@pytest.mark.parametrize("hot", [(8, 8), (12, 12, 12), (50,), (500, 40)])
def test_hot_pixels_are_no_crystal(indexer, hot):
    """Background and a few pixels of many photons each: an answer would rest on them alone."""
    rng = np.random.default_rng(3)
    dark = background_rate(LAB.detector).astype(float)
    counts = rng.poisson(dark * (60.0 / dark.sum()))
    rows, cols = rng.integers(100, 400, (2, len(hot)))
    counts[rows, cols] = hot
    result = indexer.index(counts)
    assert result.verdict == "unsure"
    assert result.signal_photons + result.background_photons < counts.sum() - sum(hot) + 1


def test_sharper_spots_are_no_hot_pixels(indexer):
    """A sensor with 0.6 times the point spread that was believed."""
    rng = np.random.default_rng(20)
    u = random_rotation(rng)
    for signal in (60.0, 2e4):
        counts = rng.poisson(expected(u, signal, signal, point_px=0.9))
        result = indexer.index(counts)
        assert result.verdict == "sure" and error(result, u) < 0.5
        assert result.signal_photons + result.background_photons > 0.99 * counts.sum()


def test_frames_with_their_background_subtracted_are_refused(indexer):
    counts = np.zeros(LAB.detector.shape)
    counts[20, 30] = -3.0
    with pytest.raises(FrameError, match="before its background was subtracted"):
        indexer.index(counts)
    assert indexer.index(counts, mask=counts < 0).orientation is None
    # The electronics of a frame wobble about zero.
    noisy = Frame(
        100.0 + np.random.default_rng(1).normal(0.0, 1.6, LAB.detector.shape), 1.0, gain=20.0, offset=100.0
    )
    assert indexer.index(noisy).background_photons == 0.0


def test_wrong_frames_are_refused(indexer):
    with pytest.raises(FrameError, match="rows, columns"):
        indexer.index(np.zeros((10, 10), dtype=int))
    broken = np.zeros(LAB.detector.shape)
    broken[3, 4] = np.nan
    with pytest.raises(FrameError, match="NaN"):
        indexer.index(broken)


def test_what_a_user_sees():
    """A frame with offset, gain and a hot pixel; the words and the record say the same."""
    rng = np.random.default_rng(17)
    u = random_rotation(rng)
    counts = rng.poisson(expected(u, 60.0, 300.0)) * 2.0 + 10.0
    counts[700, 200] = 3000.0
    frame = Frame(counts, 1.0, gain=2.0, offset=10.0)
    assert spots_hopeless(None, frame)
    answer = index_photons(frame, SI, LAB, source="faint.h5")
    assert answer.sure and answer.lone == 1
    assert "Orientation known to" in "\n".join(answer.lines())
    record = answer.record()
    assert record["verdict"] == "sure" and record["file"] == "faint.h5"
    assert np.rad2deg(misorientation(record["modes"][0]["U"], u, SI.symmetry)) < 0.5
    dark = background_rate(LAB.detector).astype(float)
    empty = index_photons(Frame(rng.poisson(dark * (80.0 / dark.sum())), 1.0), SI, LAB)
    assert "I do not know" in "\n".join(empty.lines())
    assert not spots_hopeless(None, Frame(np.full(LAB.detector.shape, 50.0), 1.0))
