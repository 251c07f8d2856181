"""The Cramer-Rao bound against images of the simulator differentiated by brute force, and against the scatter of fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lauepilot.perception.indexing.refine import GeometryPrior
from lauepilot.perception.limits.bound import BoundError, FisherInformation, fisher_information
from lauepilot.simulator.conventions import random_rotation, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS, Detector
from lauepilot.simulator.image import background_rate, expected_image
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import RayTable, predict_spots
from lauepilot.simulator.spots_shape import instrument_covariances


def table(crystal: str, instrument: str = "lab", relative: float = 3e-2) -> RayTable:
    return RayTable.build(load_crystal(crystal), load_instrument(instrument), min_relative=relative)


def image(t: RayTable, u: np.ndarray, detector: Detector, seconds: float) -> np.ndarray:
    """Spots alone, photons, by the simulator; in doubles, since it will be differentiated."""
    spots = predict_spots(t, u, detector, on_sensor=False)
    near = np.abs(spots.pixels - np.array(detector.shape[::-1]) / 2).max(axis=1) < max(detector.shape)
    covariances = instrument_covariances(t.instrument, spots.k_out[near], detector)
    dark = replace(detector, background=replace(detector.background, flat_per_s_mm2=0.0, dome_per_s_mm2=0.0))
    return expected_image(dark, spots.pixels[near], spots.rate_per_s[near], covariances, seconds).astype(
        float
    )


def brute_force(t: RayTable, u: np.ndarray, detector: Detector, seconds: float) -> tuple[np.ndarray, ...]:
    """Means (pixels,) and derivatives (11, pixels) in the order of the library."""
    signal = image(t, u, detector, seconds)
    dark = background_rate(detector).astype(float) * seconds
    derivatives = []
    for k in range(3):
        turn = rotation_matrix(3e-5 * np.eye(3)[k])
        up, down = (image(t, r @ u, detector, seconds) for r in (turn, turn.T))
        derivatives.append((up - down) / 6e-5)
    for name, step in zip(GEOMETRY_PARAMETERS, (3e-3, 1e-2, 1e-2, 3e-5, 3e-5), strict=True):
        up, down = (image(t, u, detector.moved(**{name: s}), seconds) for s in (step, -step))
        derivatives.append((up - down) / (2 * step))
    derivatives += [signal, dark]
    wide, thin = (
        replace(
            detector, sensor=replace(detector.sensor, point_spread_px=detector.sensor.point_spread_px + s)
        )
        for s in (0.03, -0.03)
    )
    derivatives.append((image(t, u, wide, seconds) - image(t, u, thin, seconds)) / 0.06)
    return (signal + dark).ravel(), np.stack(derivatives).reshape(11, -1)


@pytest.mark.parametrize(
    ("crystal", "instrument", "shape"), [("si", "lab", (400, 400)), ("ca2ruo4", "koala", (200, 400))]
)
def test_information_is_that_of_the_simulators_images(
    crystal: str, instrument: str, shape: tuple[int, int]
) -> None:
    """Hole, edges and overlaps are in it: orientations at random, several hundred spots."""
    t = table(crystal, instrument, 0.1 if instrument == "koala" else 3e-2)
    detector = t.instrument.detector.binned(shape)
    detector = replace(detector, sensor=replace(detector.sensor, point_spread_px=1.2))
    u = random_rotation(np.random.default_rng(3))
    mean, derivatives = brute_force(t, u, detector, 5.0)
    live = mean > 0
    expected = (derivatives[:, live] / mean[live]) @ derivatives[:, live].T
    found = fisher_information(t, u, detector, seconds=5.0)
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        found.matrix / np.outer(scale, scale), expected / np.outer(scale, scale), atol=4e-3
    )
    assert found.signal_photons == pytest.approx(derivatives[8].sum(), rel=1e-3)
    assert found.background_photons == pytest.approx(derivatives[9].sum(), rel=1e-4)


def test_scatter_of_maximum_likelihood_reaches_the_bound() -> None:
    """300 frames of a small sensor, fitted by Fisher's scoring on the simulator's images: covariance as the bound says."""
    rng = np.random.default_rng(4)
    t = table("si")
    detector = t.instrument.detector.binned((100, 100))
    detector = replace(detector, sensor=replace(detector.sensor, point_spread_px=0.8))
    u = random_rotation(rng)
    # Held: geometry and width, so that 300 fits take seconds.
    bound = fisher_information(t, u, detector, seconds=2.0, parameters=("rotation", "flux", "background"))
    mean, _ = brute_force(t, u, detector, 2.0)
    errors = []
    for _ in range(300):
        counts = rng.poisson(mean)
        p = np.zeros(5)
        for _ in range(3):
            turned = rotation_matrix(p[:3]) @ u
            signal = np.exp(p[3]) * image(t, turned, detector, 2.0).ravel()
            dark = np.exp(p[4]) * background_rate(detector).astype(float).ravel() * 2.0
            slopes = [signal, dark]
            for k in (2, 1, 0):
                w = np.zeros(3)
                w[k] = 1e-3
                up, down = (image(t, rotation_matrix(s * w) @ turned, detector, 2.0).ravel() for s in (1, -1))
                slopes.insert(0, np.exp(p[3]) * (up - down) / 2e-3)
            d, mu = np.stack(slopes), signal + dark
            d, mu, n = d[:, mu > 0], mu[mu > 0], counts[mu > 0]
            p += np.linalg.solve((d / mu) @ d.T, d @ (n / mu - 1.0))
        errors.append(p)
    errors = np.array(errors)
    chi2 = np.einsum("ni,ij,nj->n", errors, bound.matrix, errors)
    # Five degrees of freedom, 300 frames: the mean has a standard deviation of 0.18.
    assert chi2.mean() == pytest.approx(5.0, abs=0.6)
    ratio = np.sqrt(np.mean(np.sum(errors[:, :3] ** 2, axis=1))) / np.deg2rad(bound.rms_deg)
    assert 0.92 < ratio < 1.1


def test_exposure_by_photons_and_by_seconds() -> None:
    t = table("si")
    u = random_rotation(np.random.default_rng(5))
    by_time = fisher_information(t, u, seconds=3.0)
    by_photons = fisher_information(t, u, signal_photons=by_time.signal_photons)
    np.testing.assert_allclose(by_photons.matrix, by_time.matrix, rtol=1e-9)
    # Four times the photons, background too: half the error; more background alone: a larger one.
    kwargs = {"parameters": ("rotation", "flux", "background", "width")}
    one = fisher_information(t, u, signal_photons=1e3, background_photons=1e3, **kwargs)
    four = fisher_information(t, u, signal_photons=4e3, background_photons=4e3, **kwargs)
    dark = fisher_information(t, u, signal_photons=1e3, background_photons=1e4, **kwargs)
    assert one.rms_deg / four.rms_deg == pytest.approx(2.0, rel=1e-9)
    assert dark.rms_deg > 1.02 * one.rms_deg
    # A wider spot says less about its place.
    wide = fisher_information(t, u, signal_photons=1e3, background_photons=1e3, width_px=3.0, **kwargs)
    assert wide.rms_deg > 1.2 * one.rms_deg


def test_what_is_unknown_costs_and_what_is_known_before_helps() -> None:
    t = table("si")
    u = random_rotation(np.random.default_rng(6))

    def bound(prior: GeometryPrior | None, *parameters: str) -> FisherInformation:
        return fisher_information(t, u, signal_photons=1e4, parameters=parameters, prior=prior)

    alone = bound(None, "rotation")
    free = bound(None, "rotation", "geometry")
    some = bound(GeometryPrior(0.5, 0.5, 0.5), "rotation", "geometry")
    held = bound(GeometryPrior(), "rotation", "geometry")
    tight = bound(GeometryPrior(1e-6, 1e-6, 1e-6), "rotation", "geometry")
    assert alone.rms_deg < some.rms_deg < free.rms_deg
    assert held.rms_deg == pytest.approx(alone.rms_deg, rel=1e-9)
    assert held.names == alone.names
    assert tight.rms_deg == pytest.approx(alone.rms_deg, rel=1e-3)
    assert alone.sigma_deg < alone.rms_deg < np.sqrt(3) * alone.sigma_deg


def test_no_background_is_no_trouble() -> None:
    t = table("si")
    u = random_rotation(np.random.default_rng(7))
    clean = fisher_information(t, u, signal_photons=1e3, background_photons=0.0)
    assert np.isfinite(clean.sigma_deg)
    assert np.isinf(clean.covariance[clean.names.index("log_background")].max())


def test_what_has_no_answer_is_refused() -> None:
    t = table("si")
    u = np.eye(3)
    with pytest.raises(BoundError, match="groups out of rotation, geometry"):
        fisher_information(t, u, seconds=1.0, parameters=("rotations",))
    with pytest.raises(BoundError, match="give one of both"):
        fisher_information(t, u)
    with pytest.raises(BoundError, match="seconds must be a positive finite number; -1"):
        fisher_information(t, u, seconds=-1.0)
    with pytest.raises(BoundError, match="is about log_flux only"):
        _ = fisher_information(t, u, seconds=1.0, parameters=("flux",)).orientation_covariance
    away = t.instrument.detector.moved(tilt_x_rad=np.pi)
    with pytest.raises(BoundError, match="no spot"):
        fisher_information(t, u, replace(away, shape=(4, 4), centre_px=(1e7, 1e7)), seconds=1.0)
