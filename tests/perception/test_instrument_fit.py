"""The whole instrument from spots of a known crystal, against the instrument that made them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lauepilot.perception.indexing.indexer import Indexer
from lauepilot.perception.instrument_fit import fit_instrument
from lauepilot.perception.instrument_fit_design import choose_positions, in_short_order
from lauepilot.perception.instrument_fit_frames import Shot, fit_orientations, split_zeros
from lauepilot.perception.instrument_fit_model import Chain, Model, State
from lauepilot.perception.instrument_fit_result import InstrumentFitError
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import random_rotation, rotation_angle, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.laue import predict_spots
from lauepilot.simulator.orientation import nearest_equivalent
from lauepilot.simulator.spots_shape import displacement_px

FAR = Faults(
    centre_mm=2.0, distance_mm=2.0, tilt_deg=1.0, axis_misdirection_deg=2.0, axis_zero_deg=5.0, backlash=0.0
)
NOISE_PX = 0.15


@pytest.fixture(scope="module")
def lab():
    return load_instrument("lab")


@pytest.fixture(scope="module")
def indexer(lab):
    return Indexer(load_crystal("si"), lab)


class Truth:
    """An instrument as it is, which makes lists of spots."""

    def __init__(self, indexer, instrument, seed, faults=FAR):
        self.rng = np.random.default_rng(seed)
        self.drawn = faults.draw(instrument, self.rng)
        self.instrument, self.table = self.drawn.instrument, indexer.table
        self.u = random_rotation(self.rng)
        self.sphere_mm = 0.04

    def z(self, axes):
        zeros = self.drawn.axis_zero_deg
        return self.instrument.goniometer.matrix({n: p + zeros.get(n, 0.0) for n, p in axes.items()})

    def pixels(self, axes, u=None):
        """Rays and their pixels without noise."""
        spots = predict_spots(
            self.table, self.z(axes) @ (self.u if u is None else u), self.instrument.detector
        )
        order = np.argsort(-spots.rate_per_s)[:90]
        return spots.ray[order], spots.pixels[order], spots.rate_per_s[order]

    def shot(self, axes, *, said=None, u=None, false=8):
        """Spots at ``axes``, in the sphere of confusion, with noise; ``said`` is what the read-back pretends."""
        _, pixels, rate = self.pixels(axes, u)
        way = self.rng.normal(size=3)
        offset = 0.5 * self.sphere_mm * self.rng.uniform() ** (1 / 3) * way / np.linalg.norm(way)
        pixels = pixels + displacement_px(self.instrument.detector, pixels, offset)
        pixels = pixels + self.rng.normal(scale=NOISE_PX, size=pixels.shape)
        rows, cols = self.instrument.detector.shape
        pixels = np.concatenate([pixels, self.rng.uniform(0, (cols, rows), (false, 2))])
        counts = np.concatenate([1e4 * rate, np.full(false, 1e4 * np.median(rate))])
        n = len(pixels)
        spread = np.broadcast_to(NOISE_PX**2 * np.eye(2), (n, 2, 2)).copy()
        spots = SpotList(pixels, spread, counts, np.sqrt(counts), np.zeros(n, dtype=bool))
        return Shot(spots, dict(axes if said is None else said))


@pytest.fixture(scope="module")
def places(lab):
    return choose_positions(lab.goniometer, 12)


@pytest.fixture(scope="module")
def calibrated(indexer, lab, places):
    truth = Truth(indexer, lab, 3)
    return truth, fit_instrument(indexer.crystal, lab, [truth.shot(p) for p in places], indexer=indexer)


def test_new_positions_are_predicted_and_commanded_rotations_come_out(calibrated, indexer, lab):
    truth, fit = calibrated
    assert fit.good, fit.problems
    rng, errors, turns = np.random.default_rng(9), [], []
    names = lab.goniometer.names
    for _ in range(30):
        here, there = (dict(zip(names, rng.uniform(-90, 90, 3), strict=True)) for _ in range(2))
        ray, pixels, _ = truth.pixels(here)
        u_true = truth.z(here) @ truth.u
        u = nearest_equivalent(fit.u_lab(here), u_true, indexer.crystal.symmetry)[0]
        mine = predict_spots(indexer.table, u, fit.instrument.detector, on_sensor=False)
        where = {int(r): p for r, p in zip(mine.ray, mine.pixels, strict=True)}
        errors += [np.linalg.norm(where[int(r)] - p) for r, p in zip(ray, pixels, strict=True)]
        z = fit.instrument.goniometer.matrix
        turns.append(rotation_angle((truth.z(there) @ truth.z(here).T) @ (z(there) @ z(here).T).T))
    assert np.quantile(errors, 0.95) < 0.15
    assert np.rad2deg(max(turns)) < 0.01
    # before, nothing was near
    assert min(r.before_px for r in fit.rows) > 10.0 > 0.3 > max(r.after_px for r in fit.rows)


def test_error_bars_hold(indexer, lab, places):
    """Eight instruments: pulls of the pose and of the axes have about unit spread."""
    pulls = []
    for seed in range(8):
        truth = Truth(indexer, lab, 20 + seed)
        fit = fit_instrument(indexer.crystal, lab, [truth.shot(p) for p in places], indexer=indexer)
        true = truth.instrument.detector
        gap = fit.instrument.detector
        turn = gap.rotation @ true.rotation.T
        delta = [
            gap.distance_mm - true.distance_mm,
            gap.centre_px[0] - true.centre_px[0],
            gap.centre_px[1] - true.centre_px[1],
            turn[2, 1],
            turn[0, 2],
        ]
        pulls.append(np.array(delta) / fit.sigma[:5])
    spread = np.sqrt(np.mean(np.square(pulls), axis=0))
    assert np.all((spread > 0.5) & (spread < 1.8)), spread


def test_the_sphere_of_confusion_is_told(calibrated):
    truth, fit = calibrated
    assert fit.sphere_mm == pytest.approx(truth.sphere_mm, rel=0.35)
    assert fit.turn_deg < 0.01


def test_what_cannot_be_told_is_said(calibrated):
    _, fit = calibrated
    assert fit.undetermined == ()
    text = " ".join(fit.conventions)
    for word in ("azimuth", "zero of phi", "zeros of omega, chi", "pixel's width"):
        assert word in text
    assert fit.zeros_deg["phi"] == 0.0


def test_zeros_and_directions_shared_out_give_the_same_goniometer(calibrated):
    """Folding zeros into directions changes nothing but the crystal's orientation."""
    _, fit = calibrated
    chain = fit.instrument.goniometer
    axes = tuple(replace(a, direction=tuple(fit.true_directions[a.name])) for a in chain.axes)
    apart = Goniometer(axes)
    moved = lambda p: {n: v + fit.zeros_deg[n] for n, v in p.items()}  # noqa: E731
    one, two = {"omega": 31.0, "chi": -40.0, "phi": 77.0}, {"omega": -5.0, "chi": 22.0, "phi": -130.0}
    left = chain.matrix(two) @ chain.matrix(one).T
    right = apart.matrix(moved(two)) @ apart.matrix(moved(one)).T
    np.testing.assert_allclose(left, right, atol=1e-12)


def test_zeros_alone_are_found_as_zeros(lab):
    chain = Chain(lab.goniometer)
    zeros, turn, seen = np.deg2rad([4.0, -6.0, 0.0]), np.eye(3), []
    for direction, zero in zip(chain.directions, zeros, strict=True):
        seen.append(turn @ direction)
        turn = turn @ rotation_matrix(direction * zero)
    found, true = split_zeros(chain, np.array(seen), np.deg2rad(2.0), np.deg2rad(5.0))
    # What may be both is shared as variances are.
    np.testing.assert_allclose(found, zeros * 25.0 / 29.0, rtol=1e-3, atol=1e-9)
    found, true = split_zeros(chain, np.array(seen), 1e-5, np.deg2rad(5.0))
    np.testing.assert_allclose(found, zeros, atol=1e-6)
    np.testing.assert_allclose(true, chain.directions, atol=1e-6)


def test_axes_that_turn_the_other_way_are_found(indexer, lab, places):
    truth = Truth(indexer, lab, 5)
    truth.instrument = replace(
        truth.instrument,
        goniometer=Goniometer(
            tuple(
                replace(a, direction=tuple(-np.array(a.direction))) if a.name == "chi" else a
                for a in truth.instrument.goniometer.axes
            )
        ),
    )
    fit = fit_instrument(indexer.crystal, lab, [truth.shot(p) for p in places], indexer=indexer)
    assert fit.reversed_axes == ("chi",)
    assert fit.good


def test_a_frame_of_something_else_is_named_and_left_out(indexer, lab, places):
    truth = Truth(indexer, lab, 6)
    shots = [truth.shot(p) for p in places]
    wrong = {**places[4], "phi": places[4]["phi"] + 37.0}
    shots[4] = truth.shot(wrong, said=places[4])
    fit = fit_instrument(indexer.crystal, lab, shots, indexer=indexer)
    assert [i for i, r in enumerate(fit.rows) if not r.used] == [4]
    assert fit.good
    assert np.all([r.after_px < 0.3 for i, r in enumerate(fit.rows) if i != 4])


def test_motors_with_wrong_steps_are_refused(indexer, lab, places):
    truth = Truth(indexer, lab, 7)
    shots = [truth.shot({**p, "phi": 1.1 * p["phi"]}, said=p) for p in places[:6]]
    with pytest.raises(InstrumentFitError, match="steps per degree"):
        fit_instrument(indexer.crystal, lab, shots, indexer=indexer)


def test_an_axis_that_never_moved_is_undetermined(indexer, lab, places):
    truth = Truth(indexer, lab, 8)
    shots = [truth.shot({**p, "omega": 10.0, "chi": 20.0}) for p in places]
    fit = fit_instrument(indexer.crystal, lab, shots, indexer=indexer)
    assert not fit.good
    assert "do not tell" in fit.problems[-1]
    assert any(name.startswith("omega") for name in fit.undetermined)


def test_another_crystal_is_refused(indexer, lab, places):
    truth = Truth(indexer, lab, 9)
    rng = np.random.default_rng(1)
    shots = []
    for p in places:
        shot = truth.shot(p)
        shots.append(replace(shot, spots=replace(shot.spots, pixels=rng.uniform(0, 1000, (98, 2)))))
    with pytest.raises(InstrumentFitError, match="Is it this crystal"):
        fit_instrument(indexer.crystal, lab, shots, indexer=indexer)


def test_derivatives_are_those_of_the_predictions(indexer, lab, places):
    truth = Truth(indexer, lab, 10)
    rng, chain = np.random.default_rng(2), Chain(lab.goniometer)
    shots = [truth.shot(p) for p in places[:2]]
    model = Model(indexer.table, lab.detector, chain, chain.angles(places[:2]), [s.spots for s in shots])
    state = State(
        np.array([0.5, 3.0, -2.0, 0.01, -0.02]),
        rng.normal(scale=0.05, size=(3, 2)),
        truth.u,
        rng.normal(scale=0.1, size=(2, 3)),
        rng.normal(scale=0.01, size=(2, 3)),
    )
    matches = [model.match(state, i, 1e3) for i in range(2)]
    shared, own = model.jacobians(state, matches)[1]
    assert len(matches[1].spot) > 20
    before = model.residuals(state, matches)[1]
    p = shared.shape[2]
    for k in range(p + 6):
        step = np.zeros(p + 12)
        step[k if k < p else k + 6] = h = 1e-5
        change = -(model.residuals(state.moved(step), matches)[1] - before) / h
        mine = shared[:, :, k] if k < p else own[:, :, k - p]
        np.testing.assert_allclose(mine, change, atol=2e-3 * max(np.abs(change).max(), 1.0), err_msg=str(k))


def test_chosen_positions_tell_more_than_chance(lab):
    chain = Chain(lab.goniometer)
    chosen = choose_positions(lab.goniometer, 10, margin={"omega": 1.0})
    rng = np.random.default_rng(0)

    def worth(positions):
        rows = np.concatenate(chain.slopes(np.zeros((3, 2)), np.eye(3), chain.angles(positions)))
        return np.linalg.slogdet(rows.T @ rows)[1]

    random = [
        worth([{a.name: rng.uniform(*a.limits) for a in lab.goniometer.axes} for _ in range(10)])
        for _ in range(20)
    ]
    assert worth(chosen) > max(random)
    for p in chosen:
        lab.goniometer.check(p)
        assert p["omega"] >= -99.0
    ordered = in_short_order(lab.goniometer, chosen, {})
    assert sorted(map(str, ordered)) == sorted(map(str, chosen))

    def way(ps):
        return sum(lab.goniometer.move_time_s(a, b) for a, b in zip([{}, *ps], ps, strict=False))

    assert way(ordered) <= way(chosen)


def test_ways_that_are_not_free_are_not_gone(lab):
    places = [{"omega": float(x)} for x in (50, 10, 30, -20)]
    order = in_short_order(lab.goniometer, places, {"omega": 0.0}, lambda a, b: b["omega"] > -10.0)
    assert [p["omega"] for p in order] == [10.0, 30.0, 50.0]


def test_forbidden_positions_are_not_chosen(lab):
    few = choose_positions(lab.goniometer, 6, allowed=lambda p: p["chi"] > 0.0)
    assert all(p["chi"] > 0.0 for p in few)
    with pytest.raises(ValueError, match="only 0 are allowed"):
        choose_positions(lab.goniometer, 6, allowed=lambda p: False)


@pytest.mark.parametrize("name", ["koala", "bm32", "lab-toronto"])
def test_any_goniometer_gets_positions(name):
    goniometer = load_instrument(name).goniometer
    for p in choose_positions(goniometer, 5):
        goniometer.check(p)
        assert set(p) == {a.name for a in goniometer.rotations}


def test_orientations_up_to_symmetry_give_the_axes(indexer, lab, places):
    truth = Truth(indexer, lab, 11)
    symmetry = indexer.crystal.symmetry
    seen = {
        i: truth.z(p) @ truth.u @ symmetry[truth.rng.integers(len(symmetry))] for i, p in enumerate(places)
    }
    chain = Chain(lab.goniometer)
    rough = fit_orientations(chain, chain.angles(places), seen, symmetry, np.deg2rad([3.0, 8.0, 12.0]))
    assert rough.used == tuple(range(12))
    z = chain.matrices(chain.turned(rough.tilts), chain.angles(places))
    for i, p in enumerate(places):
        away = rotation_angle(
            np.einsum("ij,njk,lk->nil", z[i] @ rough.u, symmetry, truth.z(p) @ truth.u)
        ).min()
        assert np.rad2deg(away) < 0.05
