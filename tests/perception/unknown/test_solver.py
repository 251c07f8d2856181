"""Unknown lattices end to end, on the examination's patterns; LaueTools' geometry is not needed, only the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lauepilot.bench.unknown import TURNS_DEG, judged, turn
from lauepilot.bench.unknown_cases import Case, Spoil, draw, film
from lauepilot.perception.observation import SpotList
from lauepilot.perception.unknown.axes import find_axes
from lauepilot.perception.unknown.lattice import holohedry
from lauepilot.perception.unknown.predict import low_index_spots
from lauepilot.perception.unknown.result import Proposal
from lauepilot.perception.unknown.settle import settle
from lauepilot.perception.unknown.sky import UnknownLatticeError, build_sky, with_distance
from lauepilot.perception.unknown.solve import solve_unknown
from lauepilot.simulator.conventions import rotation_matrix
from lauepilot.simulator.orientation import misorientation

TOLD = (38.0, 62.0)
FAMILIES = ("cubic", "tetragonal", "hexagonal")


def case(family: str, seed: int = 8, **spoil: float) -> Case:
    return draw(family, np.random.default_rng((seed, len(family))), Spoil(**spoil))


@pytest.mark.parametrize("sigma", [0.0, 2.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_frame_gives_axes_family_and_ratio(family: str, sigma: float) -> None:
    truth = case(family, sigma=sigma)
    result = solve_unknown(truth.frames, film(), TOLD)
    trial = judged(truth, result, 0.0)
    assert trial.axes
    assert trial.lattice
    best = result.best
    assert best is not None
    assert abs(best.distance_mm - truth.distance_mm) < 5.0 * best.distance_sigma_mm
    for found, sigma_of, true in zip(best.ratios, best.ratios_sigma, truth.ratios, strict=True):
        assert abs(found - true) < 5.0 * sigma_of
    assert best.residual_px < 1.2


def test_low_family_from_three_frames() -> None:
    truth = draw(
        "orthorhombic", np.random.default_rng((1, 0, 12)), Spoil(), [turn(*angles) for angles in TURNS_DEG]
    )
    trial = judged(truth, solve_unknown(truth.frames, film(), TOLD), 0.0)
    assert trial.axes
    assert trial.lattice
    assert trial.sure


def test_spots_strewn_anywhere_are_never_sure() -> None:
    rng = np.random.default_rng(4)
    for n in (12, 25):
        pixels = rng.uniform(0.0, 999.0, (n, 2))
        spots = SpotList(
            pixels, np.tile(np.eye(2) * 0.25, (n, 1, 1)), np.ones(n), np.ones(n), np.zeros(n, dtype=bool)
        )
        result = solve_unknown([(spots, np.eye(3))], film(), TOLD)
        assert not result.sure


def test_proposals_of_others_are_settled() -> None:
    truth = case("tetragonal")
    rough = Proposal(
        rotation_matrix([0.004, -0.003, 0.005]) @ truth.u,
        "tetragonal",
        (truth.ratios[0] * 1.01,),
        truth.distance_mm * 1.01,
    )
    result = settle([rough], truth.frames[0][0], film(), TOLD)
    assert judged(truth, result, 0.0).lattice
    assert result.best is not None
    assert misorientation(result.best.orientation.u, truth.u, holohedry("tetragonal")) < np.deg2rad(0.05)
    assert result.best.centring == "I"
    # Half of that cell along c explains the spots as well, were extinctions and chance not asked.
    assert all(s.score <= result.best.score + 8.0 for s in result.alternatives)


@pytest.mark.parametrize("tilt_deg", [0.5, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tilted_detector_keeps_family_and_axes(family: str, tilt_deg: float) -> None:
    """Sharp spots of a crystal, moved to where a tilted film sees them; the solver is given the film as it should hang."""
    truth = case(family, seed=21, noise_px=0.1)
    spots, z = truth.frames[0]
    straight = with_distance(film(), truth.distance_mm)
    about = np.deg2rad(tilt_deg) * np.array([np.cos(2.0), np.sin(2.0)])
    tilted = straight.moved(tilt_x_rad=float(about[0]), tilt_y_rad=float(about[1]))
    moved = replace(spots, pixels=tilted.rays_to_pixels(straight.pixels_to_rays(spots.pixels)))
    result = solve_unknown([(moved, z)], film(), TOLD)
    trial = judged(truth, result, 0.0)
    assert trial.lattice
    # A tilt that is let be turns the axes by half of itself; half a degree is not always asked for by thirty spots.
    assert trial.error_deg < (0.15 if tilt_deg == 1.0 else 0.3)
    assert result.best is not None
    if tilt_deg == 1.0:
        np.testing.assert_allclose(result.best.tilts_rad, about, atol=np.deg2rad(0.2))


def test_tilts_that_nothing_asks_for_stay() -> None:
    truth = case("tetragonal", seed=21)
    result = solve_unknown(truth.frames, film(), TOLD)
    assert result.best is not None
    assert result.best.tilts_rad == (0.0, 0.0)


def test_relatives_of_low_families_are_looked_at() -> None:
    """From a cell doubled along one axis, whose reciprocal lattice holds every spot, back to the crystal's own."""
    truth = draw("orthorhombic", np.random.default_rng(5), Spoil(), [turn(*a) for a in TURNS_DEG])
    b, c = truth.ratios
    doubled = Proposal(truth.u, "orthorhombic", (2.0 * b, c), truth.distance_mm, centring="P")
    assert judged(truth, settle([doubled], truth.frames, film(), TOLD), 0.0).lattice


def test_axes_need_no_intensities() -> None:
    truth = case("tetragonal", sigma=2.0)
    spots, z = truth.frames[0]
    rng = np.random.default_rng(0)
    blind = SpotList(
        spots.pixels, spots.covariance_px2, rng.permutation(spots.counts), spots.counts_sigma, spots.saturated
    )
    seen, other = (find_axes(build_sky([(s, z)], film(), TOLD), 5) for s in (spots, blind))
    assert seen[0].surprise == pytest.approx(other[0].surprise)
    two_fold = [s for s in holohedry("tetragonal") if abs(np.trace(s) + 1.0) < 1e-9]
    axes = truth.u @ np.stack([np.linalg.eigh(s)[1][:, -1] for s in two_fold]).T
    angles = [np.rad2deg(np.arccos(min(1.0, np.abs(axis.directions @ axes).max()))) for axis in seen]
    assert min(angles) < 0.5


def test_every_spot_lies_on_a_low_index_prediction() -> None:
    truth = case("hexagonal")
    result = solve_unknown(truth.frames, film(), TOLD)
    assert result.best is not None
    shift = tuple(np.subtract(result.best.centre_px, film().centre_px))
    detector = with_distance(film(), result.best.distance_mm, (float(shift[0]), float(shift[1])))
    _, pixels = low_index_spots(result.best, np.eye(3), detector, 600)
    found = truth.frames[0][0].pixels
    nearest = np.linalg.norm(found[:, None] - pixels[None], axis=2).min(axis=1)
    assert float(np.quantile(nearest, 0.9)) < 2.0


def test_bad_input_is_refused_in_words() -> None:
    truth = case("cubic")
    spots = truth.frames[0][0]
    with pytest.raises(UnknownLatticeError, match="needs 8 spots"):
        solve_unknown([(spots.take(slice(0, 5)), np.eye(3))], film(), TOLD)
    with pytest.raises(UnknownLatticeError, match="No spots"):
        solve_unknown([], film(), TOLD)
    with pytest.raises(UnknownLatticeError, match="rotation"):
        solve_unknown([(spots, np.ones((3, 3)))], film(), TOLD)
    with pytest.raises(UnknownLatticeError, match="no mirror"):
        solve_unknown([(spots, np.diag([1.0, 1.0, -1.0]))], film(), TOLD)
    with pytest.raises(UnknownLatticeError, match="distance_mm"):
        solve_unknown([(spots, np.eye(3))], film(), (40.0, np.inf))
    errors = spots.covariance_px2.copy()
    errors[0] = np.nan
    with pytest.raises(UnknownLatticeError, match="their errors"):
        solve_unknown([(replace(spots, covariance_px2=errors), np.eye(3))], film(), TOLD)
    with pytest.raises(UnknownLatticeError, match="distance_mm"):
        solve_unknown([(spots, np.eye(3))], film(), (60.0, 40.0))
    spots.pixels[0, 0] = np.nan
    with pytest.raises(UnknownLatticeError, match="NaN"):
        solve_unknown([(spots, np.eye(3))], film(), TOLD)
