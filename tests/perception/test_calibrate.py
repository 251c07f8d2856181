"""Calibration: poses as wrong as drawings are, flat and cylindrical detectors; files read back; the raw germanium frame."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lauepilot.bench.lists import Spoiling, spoiled
from lauepilot.perception.calibrate import (
    CalibrationError,
    calibrate,
    drawing_prior,
    instrument_yaml,
    lauetools_det,
)
from lauepilot.perception.files.lauetools import FROM_LAUETOOLS, read_det, scattering_angles
from lauepilot.perception.files.readers import read_frame
from lauepilot.perception.indexing.indexer import Indexer, IndexingError
from lauepilot.perception.indexing.rough import distortions, hypotheses, index_rough
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import instrument_names, load_instrument, parse_instrument
from lauepilot.simulator.laue import predict_spots
from lauepilot.simulator.orientation import misorientation

#: What drawings are wrong by: 10 mm, 100 px, 1 degree.
WRONG = np.array([10.0, 100.0, 100.0, np.deg2rad(1.0), np.deg2rad(1.0)])


def indexer(crystal: str, instrument: str) -> Indexer:
    return Indexer(load_crystal(crystal), load_instrument(instrument))


def wrong_poses(ix: Indexer, n: int, seed: int):
    """True pose and orientation, and a list with a fifth of the spots missing and as many false."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        off = rng.choice([-1.0, 1.0], 5) * WRONG
        true, u = ix.instrument.detector.moved(*off), random_rotation(rng)
        yield off, true, u, spoiled(predict_spots(ix.table, u, true), true, Spoiling(0.2, 0.2, 0.3), rng)


def check(ix: Indexer, n: int, seed: int) -> np.ndarray:
    """Calibrate so often; all must be right: what they predict lies where the spots are. Returns (n, 5) errors in sigmas."""
    pulls = []
    for off, true, u, spots in wrong_poses(ix, n, seed):
        made = calibrate(ix.crystal, ix.instrument, spots, indexer=ix)
        assert made.sure and made.result.orientation is not None
        back = predict_spots(ix.table, made.result.orientation.u, made.detector)
        gap = cKDTree(back.pixels).query(predict_spots(ix.table, u, true).pixels)[0]
        assert np.median(gap) < 0.5
        pulls.append((made.change - off) / made.sigma)
        _, before, after = made.residuals_px()
        assert np.linalg.norm(after, axis=1).mean() < 0.6 < np.linalg.norm(before, axis=1).mean()
    return np.array(pulls)


@pytest.mark.parametrize(("crystal", "instrument"), [("ge", "bm32"), ("si", "lab"), ("quartz", "koala")])
def test_a_drawing_10_mm_100_px_and_1_degree_wrong_is_put_right(crystal: str, instrument: str) -> None:
    check(indexer(crystal, instrument), 2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crystal", "instrument"), [("ge", "bm32"), ("si", "lab"), ("quartz", "lab"), ("quartz", "koala")]
)
def test_forty_wrong_drawings_and_their_error_bars(crystal: str, instrument: str) -> None:
    pulls = check(indexer(crystal, instrument), 40, seed=2)
    assert np.all(np.sqrt((pulls**2).mean(axis=0)) < 1.5)


@pytest.mark.parametrize("signs", [(1, 1, 1, 1, 1), (-1, -1, 1, -1, 1), (-1, 1, -1, 1, -1)])
def test_raw_germanium_frame_from_a_wrong_drawing(shared_data: Path, signs: tuple[int, ...]) -> None:
    """The same answer as from the drawing as it is, whichever way it is wrong."""
    ix = indexer("ge", "bm32")
    spots = find_spots(read_frame(shared_data / "laue" / "ge.jp2"), ix.instrument.detector)
    good = index_rough(ix, spots, complete=True)
    off = ix.instrument.with_detector(ix.instrument.detector.moved(*(np.array(signs) * WRONG)))
    made = calibrate(ix.crystal, off, spots, indexer=Indexer(ix.crystal, off))
    assert made.sure and made.result.orientation is not None
    assert good.orientation is not None and good.refinement is not None
    u = made.result.orientation.u
    assert np.rad2deg(misorientation(u, good.orientation.u, ix.crystal.symmetry)) < 0.02
    here, there = made.detector, good.refinement.detector
    assert here.distance_mm == pytest.approx(there.distance_mm, abs=0.01)
    np.testing.assert_allclose(here.centre_px, there.centre_px, atol=0.3)
    assert made.result.n_indexed > 100


def test_hypotheses_leave_no_pose_uncovered() -> None:
    """Any pose within 1.2 standard deviations: a hypothesis is within half a step of it along each distortion."""
    rng = np.random.default_rng(3)
    for name in ("lab", "bm32", "koala"):
        detector = load_instrument(name).detector
        prior = drawing_prior(detector)
        shifts, spread = distortions(detector, prior)
        assert np.all(np.diff(spread) <= 0.0)
        poses = hypotheses(detector, shifts, spread)
        change = np.linalg.inv(shifts)
        cells = np.array(
            [
                (np.array([p.distance_mm, *p.centre_px]) - [detector.distance_mm, *detector.centre_px])
                for p in poses
            ]
        )
        assert poses[0] is detector
        if len(poses) == 600:  # cut: only the nearest are kept
            continue
        # The tilts hardly distort; distance and centre alone place a hypothesis.
        for _ in range(50):
            z = rng.normal(size=5)
            z *= 1.2 * rng.random() / np.linalg.norm(z)
            pose = z @ shifts
            gaps = np.column_stack([cells - pose[:3], np.zeros((len(cells), 2))]) @ change
            assert np.abs(gaps[:, :2] * spread[:2]).max(axis=1).min() < np.deg2rad(0.45)


def test_another_crystal_does_not_calibrate() -> None:
    """4H-SiC offered for silicon: no calibration."""
    si, other = indexer("si", "bm32"), indexer("4h-sic", "bm32")
    _, _, _, spots = next(wrong_poses(si, 1, seed=4))
    assert not calibrate(other.crystal, other.instrument, spots, indexer=other).sure


def test_spots_of_no_crystal_are_said_to_be_none() -> None:
    ix, rng = indexer("cu", "bm32"), np.random.default_rng(7)
    spots = spoiled(
        predict_spots(ix.table, random_rotation(rng)), ix.instrument.detector, Spoiling(0.0, 0.0), rng
    )
    spots = replace(spots, pixels=np.full(spots.pixels.shape, 1000.0) + rng.normal(size=spots.pixels.shape))
    with pytest.raises(CalibrationError, match="Is it this crystal"):
        calibrate(ix.crystal, ix.instrument, spots, indexer=ix)


def test_too_few_spots_are_refused() -> None:
    ix = indexer("si", "lab")
    spots = next(wrong_poses(ix, 1, 5))[3].take(np.arange(3))
    with pytest.raises(IndexingError, match="3 spots were found"):
        calibrate(ix.crystal, ix.instrument, spots, indexer=ix)


@pytest.mark.parametrize("name", instrument_names())
def test_instruments_survive_their_yaml(name: str) -> None:
    first = load_instrument(name)
    text = instrument_yaml(first, "a comment\nof two lines")
    again = parse_instrument(text)
    assert text.startswith("# a comment\n# of two lines\n")
    assert instrument_yaml(again) == instrument_yaml(first)
    for one, other in zip(first.detectors, again.detectors, strict=True):
        np.testing.assert_allclose(one.rotation, other.rotation, atol=1e-12)
        assert (one.distance_mm, one.centre_px, one.shape, one.blind) == (
            other.distance_mm, other.centre_px, other.shape, other.blind,
        )  # fmt: skip
    assert (first.beam, first.goniometer.axes, first.sample) == (
        again.beam,
        again.goniometer.axes,
        again.sample,
    )


def test_lauetools_gets_the_same_geometry_and_orientation(tmp_path: Path) -> None:
    """2theta of all pixels as their reader has it is ours; detector and crystal are turned about the beam together."""
    ix = indexer("ge", "bm32")
    _, _, _, spots = next(wrong_poses(ix, 1, 6))
    made = calibrate(ix.crystal, ix.instrument, spots, indexer=ix)
    path = tmp_path / "geometry.det"
    path.write_text(lauetools_det(made))
    theirs = read_det(path).to_detector()
    pixels = np.array(list(product([0.0, 900.0, 2000.0], repeat=2)))
    np.testing.assert_allclose(
        scattering_angles(made.detector, pixels)[0], scattering_angles(theirs, pixels)[0], atol=1e-6
    )
    matrix = np.array(json.loads(path.read_text().splitlines()[4]))
    u = FROM_LAUETOOLS @ matrix
    assert made.result.orientation is not None
    about = u @ made.result.orientation.u.T  # a turn about the beam, by as much as the detector was turned
    np.testing.assert_allclose(about[2], [0.0, 0.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(theirs.rotation, about @ made.detector.rotation, atol=1e-5)
