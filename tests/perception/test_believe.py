"""Beliefs of faint and bright frames, beside what spots alone tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lauepilot.perception.believe import CLEAR, SOUND_NATS, Believer, confidence
from lauepilot.perception.indexing.forced import fit_frame_near
from lauepilot.perception.observer import USUAL_PRIOR
from lauepilot.perception.photons.film import track_pixels
from lauepilot.perception.photons.result import PhotonResult
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.orientation import Orientation, misorientation
from lauepilot.simulator.twin import Twin

SI, LAB = load_crystal("si"), load_instrument("lab")


@pytest.fixture(scope="module")
def believer():
    return Believer(SI, LAB, USUAL_PRIOR)


def a_twin(seed, power, background=4.0):
    faults = replace(
        Faults.lab(),
        power_factor=power,
        power_spread=1.0,
        background_factor=background,
        background_spread=1.0,
    )
    return Twin(SI, LAB, rng=np.random.default_rng(seed), faults=faults)


def off_deg(orientation, twin):
    return float(np.rad2deg(misorientation(orientation.u, twin.u_lab(), SI.symmetry)))


def test_faint_frames_are_believed_where_spots_say_nothing(believer):
    """Spots of 4 s at a twentieth of the power are too few; photons give the orientation, and an error bar that holds it."""
    only_spots = Believer(SI, LAB, USUAL_PRIOR, photons=False)
    sure = 0
    for seed in (0, 1, 4, 6, 7):
        twin = a_twin(seed, 0.05)
        frame = twin.expose(4.0)
        spots = find_spots(frame, LAB.detector)
        assert only_spots.belief(frame, spots).confidence < CLEAR
        belief = believer.belief(frame, spots)
        assert np.isfinite(belief.evidence)
        if belief.confidence > 0.9:
            sure += 1
            assert off_deg(belief.orientation, twin) < 4.0 * belief.orientation.sigma_deg
            assert belief.orientation.sigma_deg < 0.3
    assert sure >= 3


def test_bright_frames_are_made_more_precise(believer):
    twin = a_twin(1, 1.0, 1.0)
    frame = twin.expose(4.0)
    spots = find_spots(frame, LAB.detector)
    alone = believer.indexer.index(spots)
    belief = believer.belief(frame, spots)
    assert np.isnan(belief.evidence)
    assert belief.orientation.sigma_deg < alone.orientation.sigma_deg
    assert off_deg(belief.orientation, twin) < 4.0 * belief.orientation.sigma_deg


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_bright_things_are_no_pattern(believer, n):
    """Splinters of something else, as bright as spots: through two of them an orientation can be laid."""
    frame = a_twin(1, 1e-9).expose(4.0)
    counts = frame.counts.astype(float)
    row, col = np.mgrid[:1000, :1000]
    rng = np.random.default_rng(4)
    for x, y in ((300.0, 260.0), (700.0, 640.0))[:n]:
        counts += rng.poisson(2000.0 / (2.0 * np.pi * 4.0) * np.exp(-((col - x) ** 2 + (row - y) ** 2) / 8.0))
    dirty = replace(frame, counts=counts)
    found = believer.photon_indexer.index(dirty)
    assert found.llr > 500.0
    assert found.rest_llr < 20.0
    belief = believer.belief(dirty, find_spots(dirty, LAB.detector))
    assert belief.confidence < 0.9
    assert belief.evidence < 20.0


def test_tracks_of_cosmic_rays_are_left_out(believer):
    """In this frame a ray of the cosmos runs through pixels side by side, none of which is alone."""
    assert believer.photon_indexer.index(a_twin(2, 1e-9).expose(4.0)).llr < 0.0
    spot = np.zeros((21, 21))
    row, col = np.mgrid[:21, :21]
    for sigma in (0.6, 1.0, 3.0):
        spot = 1e4 * np.exp(-((col - 10.3) ** 2 + (row - 9.6) ** 2) / (2.0 * sigma**2)) / sigma**2
        assert not track_pixels(spot + 5.0).any()
    for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
        track = np.full((21, 21), 5.0)
        for k in range(4):
            track[10 + k * step[0], 10 + k * step[1]] = 200.0 + 50.0 * k
        assert np.array_equal(track_pixels(track), track > 100.0)


def test_another_crystals_photons_are_not_believed(believer):
    """Photons of quartz, looked at as silicon's."""
    faults = replace(Faults(), power_factor=0.1)
    for seed in range(3):
        twin = Twin(load_crystal("quartz"), LAB, rng=np.random.default_rng(seed), faults=faults)
        frame = twin.expose(1.0)
        assert believer.belief(frame, find_spots(frame, LAB.detector)).confidence < 0.9


def test_frames_without_their_background_are_left_to_the_spots(believer):
    twin = a_twin(2, 0.05)
    frame = twin.expose(4.0)
    subtracted = replace(frame, counts=frame.counts.astype(float) - np.median(frame.counts))
    spots = find_spots(frame, LAB.detector)
    belief = believer.belief(subtracted, spots)
    assert belief.confidence < CLEAR
    assert np.isnan(belief.evidence)


def test_the_fit_needs_the_pose_that_goes_with_the_orientation(believer):
    """The photons' orientation beside the drawn pose is no place to start from; with its own pose it is."""
    twin = a_twin(4, 0.2)
    frame = twin.expose(4.0)
    spots = find_spots(frame, LAB.detector)
    found = believer.photon_indexer.index(frame)
    near = fit_frame_near(
        frame, believer.indexer, found.orientation, found.modes[0].pose, found.signal_photons, spots
    )
    assert not isinstance(near, str)
    orientation = Orientation(near.u, SI.b, near.covariance)
    assert off_deg(orientation, twin) < 4.0 * orientation.sigma_deg


def test_confidence_of_photons():
    answer = Orientation(np.eye(3), SI.b, np.eye(3) * 1e-6)
    sure = PhotonResult(answer, 1.0, (), 500.0, 0.0, 2.0, 900.0, rest_llr=60.0)
    assert confidence(replace(sure, rest_llr=SOUND_NATS)) == pytest.approx(0.99)
    assert confidence(replace(sure, rest_llr=600.0)) == pytest.approx(1.0)
    assert confidence(replace(sure, rest_llr=2.0)) == 0.5
    assert confidence(replace(sure, confidence=0.9)) == 0.5
    assert confidence(replace(sure, unexplained_photons=400.0)) == 0.5
