"""The Twin: what it does to axes, time and photons, and that its faults are the ones asked for."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from lauepilot.simulator.conventions import axis_rotation, rotation_angle
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.goniometer import ReachError
from lauepilot.simulator.image import background_rate
from lauepilot.simulator.instrument import Instrument, instrument_names, load_instrument
from lauepilot.simulator.laue import predict_spots
from lauepilot.simulator.twin import Twin


@pytest.fixture(scope="module")
def lab() -> Instrument:
    return load_instrument("lab")


def a_twin(lab: Instrument, faults: Faults | None = None, seed: int = 0, **changes: object) -> Twin:
    return Twin(load_crystal("si"), lab, rng=np.random.default_rng(seed), faults=faults, **changes)  # type: ignore[arg-type]


def test_a_perfect_twin_is_what_it_is_believed_to_be(lab: Instrument) -> None:
    twin = a_twin(lab, Faults.none(), u=np.eye(3))
    np.testing.assert_array_equal(twin.truth.u, np.eye(3))
    twin.move({"omega": 10.0, "chi": -20.0, "phi": 30.0})
    wanted = lab.goniometer.matrix(twin.positions)
    np.testing.assert_allclose(twin.u_lab(), wanted, atol=1e-12)
    assert twin.truth.instrument.detector.centre_px == lab.detector.centre_px
    assert twin.truth.instrument.detector.distance_mm == lab.detector.distance_mm


def test_spots_stand_where_they_are_predicted(lab: Instrument) -> None:
    twin = a_twin(lab, Faults.none(), seed=4)
    image = twin.expected(60.0) - 60.0 * background_rate(lab.detector)
    spots = predict_spots(twin.table, twin.u_lab(), lab.detector)
    bright = np.argsort(-spots.rate_per_s)[:20]
    found = 0
    for (col, row), rate in zip(spots.pixels[bright], spots.rate_per_s[bright], strict=True):
        others = np.hypot(*(spots.pixels - [col, row]).T)
        if (
            np.sort(others)[1] < 30
            or min(col, row, 999 - col, 999 - row) < 20
            or np.hypot(col - 499.5, row - 499.5) < 75
        ):
            continue
        c, r = round(col), round(row)
        window = image[r - 12 : r + 13, c - 12 : c + 13].astype(float)
        y, x = np.mgrid[-12:13, -12:13]
        assert (window * x).sum() / window.sum() + c == pytest.approx(col, abs=0.1)
        assert (window * y).sum() / window.sum() + r == pytest.approx(row, abs=0.1)
        assert window.sum() == pytest.approx(60 * rate, rel=0.03)
        found += 1
    assert found >= 8


def test_moves_take_time_and_are_quantised(lab: Instrument) -> None:
    twin = a_twin(lab)
    assert twin.positions == {"omega": 0.0, "chi": 0.0, "phi": 0.0}
    back = twin.move({"omega": 10.00037, "phi": -50.0})
    assert back == twin.positions
    assert back["omega"] == pytest.approx(10.0, abs=1e-9)
    assert twin.clock_s == pytest.approx(50.0 / 5.0 + 1.0)
    twin.move({"phi": -50.0})
    assert twin.clock_s == pytest.approx(11.0)
    assert twin.dose_s == 0.0


def test_nothing_moves_if_one_axis_would_leave_its_limits(lab: Instrument) -> None:
    twin = a_twin(lab)
    with pytest.raises(ReachError, match=r"chi.*limits"):
        twin.move({"omega": 10.0, "chi": 170.0})
    with pytest.raises(KeyError, match="kappa"):
        twin.move({"omega": 10.0, "kappa": 1.0})
    with pytest.raises(ReachError):
        twin.move({"omega": float("nan")})
    assert twin.positions["omega"] == 0.0
    assert twin.clock_s == 0.0


def test_axes_have_play(lab: Instrument) -> None:
    """Approached from one side the position repeats; from the other it differs by the play."""
    twin = a_twin(lab, replace(Faults.none(), backlash=10.0), u=np.eye(3))

    def angle_at(target: float, start: float) -> float:
        twin.move({"omega": start})
        twin.move({"omega": target})
        u = twin.u_lab()
        return float(np.rad2deg(np.arctan2(u[0, 2], u[2, 2])))

    from_below, from_above, again = angle_at(20.0, 10.0), angle_at(20.0, 30.0), angle_at(20.0, 0.0)
    assert from_above - from_below == pytest.approx(0.2, abs=1e-9)
    assert again == pytest.approx(from_below, abs=1e-9)
    before = twin.u_lab()
    twin.move({"omega": 19.9})
    np.testing.assert_allclose(twin.u_lab(), before, atol=1e-12)  # still inside the play


def test_an_exposure_counts_time_and_dose(lab: Instrument) -> None:
    twin = a_twin(lab)
    frame = twin.expose(3.0)
    frame.check(lab.detector.shape)
    assert frame.live_time_s == 3.0
    assert frame.instrument == "lab"
    assert frame.counts.dtype == np.uint16
    assert twin.clock_s == pytest.approx(3.0 + lab.detector.sensor.readout_s)
    assert twin.dose_s == 3.0
    assert frame.metadata == {"started_s": 0.0, "clock_s": twin.clock_s, "dose_s": 3.0}
    assert dict(frame.axes) == twin.positions


@pytest.mark.parametrize("seconds", [0.0, -2.0, float("nan"), float("inf")])
def test_an_impossible_exposure_changes_nothing(lab: Instrument, seconds: float) -> None:
    twin = a_twin(lab)
    with pytest.raises(ValueError, match="positive finite number of seconds"):
        twin.expose(seconds)
    assert twin.clock_s == twin.dose_s == 0.0


def test_one_seed_gives_one_history(lab: Instrument) -> None:
    def history(seed: int) -> list[np.ndarray]:
        twin = a_twin(lab, Faults.harsh(), seed=seed)
        first = twin.expose(10.0).counts
        twin.move({"chi": 12.0})
        return [twin.truth.u, first, twin.expose(10.0).counts]

    for a, b in zip(history(5), history(5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(history(5)[1] != history(6)[1])


def test_reset_mounts_anew(lab: Instrument) -> None:
    twin = a_twin(lab)
    u = twin.truth.u
    twin.move({"phi": 30.0})
    twin.expose(1.0)
    twin.reset(np.random.default_rng(9))
    assert twin.clock_s == twin.dose_s == 0.0
    assert set(twin.positions.values()) == {0.0}
    assert rotation_angle(twin.truth.u @ u.T) > 0.01
    with pytest.raises(ValueError, match="rotation matrix"):
        twin.reset(np.random.default_rng(9), u=np.diag([1.0, 1.0, -1.0]))


def test_faults_are_as_large_as_they_are_said_to_be(lab: Instrument) -> None:
    faults = Faults(axis_zero_deg=0.2, power_sigma=0.5, power_factor=0.5)
    rng = np.random.default_rng(0)
    drawn = [faults.draw(lab, rng) for _ in range(600)]
    believed = lab.detector
    centres = np.array([np.array(d.instrument.detector.centre_px) - believed.centre_px for d in drawn]) * 0.1
    np.testing.assert_allclose(centres.std(axis=0), 0.3, rtol=0.1)
    distances = np.array([d.instrument.detector.distance_mm for d in drawn])
    assert distances.std() == pytest.approx(0.3, rel=0.1)
    tilts = np.array([rotation_angle(d.instrument.detector.rotation @ believed.rotation.T) for d in drawn])
    assert np.rad2deg(np.sqrt((tilts**2).mean())) == pytest.approx(0.3 * np.sqrt(2), rel=0.1)
    turns = [
        np.arccos(np.clip(np.dot(d.instrument.goniometer.axes[0].direction, (0, 1, 0)), -1, 1)) for d in drawn
    ]
    assert np.rad2deg(np.sqrt(np.mean(np.square(turns)))) == pytest.approx(0.1 * np.sqrt(2), rel=0.1)
    assert np.std([d.axis_zero_deg["chi"] for d in drawn]) == pytest.approx(0.2, rel=0.1)
    assert np.std(np.log([d.power for d in drawn])) == pytest.approx(0.5, rel=0.1)
    assert np.median([d.power for d in drawn]) == pytest.approx(0.5, rel=0.1)
    assert all(
        d.instrument.detector.blind == believed.blind for d in drawn
    )  # the hole is a hole of the sensor


def test_a_second_grain_takes_its_share_and_turns_along(lab: Instrument) -> None:
    alone = a_twin(lab, Faults.none(), seed=2)
    both = a_twin(lab, replace(Faults.none(), second_grain_fraction=0.3, second_grain_deg=4.0), seed=2)
    grain = both.truth.faults.second_grain
    assert np.rad2deg(rotation_angle(grain)) == pytest.approx(4.0)
    other = a_twin(lab, Faults.none(), u=grain @ alone.truth.u)
    for twin in (alone, both, other):
        twin.move({"omega": 15.0, "chi": 20.0})
    mixed = 0.7 * alone.expected(60.0) + 0.3 * other.expected(60.0)
    np.testing.assert_allclose(both.expected(60.0), mixed, rtol=1e-3, atol=0.05)


def test_shade_power_and_mosaic(lab: Instrument) -> None:
    plain = a_twin(lab, Faults.none(), seed=1)
    shaded = a_twin(lab, replace(Faults.none(), shaded_fraction=0.3), seed=1)
    ratio = shaded.expected(10.0)[lab.detector.mask()] / plain.expected(10.0)[lab.detector.mask()]
    assert np.mean(ratio < 0.5) == pytest.approx(0.3, abs=0.04)
    assert ratio.min() < 0.1
    assert ratio.max() > 0.95
    weak = a_twin(lab, replace(Faults.none(), power_factor=0.25), seed=1)
    blank = plain.expected(10.0).min()
    assert (weak.expected(10.0).max() - blank) == pytest.approx(0.25 * plain.expected(10.0).max(), rel=0.05)
    broad = a_twin(lab, replace(Faults.none(), mosaic_deg=1.0), seed=1)
    assert broad.expected(10.0).max() < 0.5 * plain.expected(10.0).max()
    assert broad.expected(10.0).sum() == pytest.approx(plain.expected(10.0).sum(), rel=0.03)


def test_the_crystal_wanders_only_when_axes_move(lab: Instrument) -> None:
    twin = a_twin(lab, replace(Faults.none(), sphere_of_confusion_mm=0.5), u=axis_rotation([1, 2, 3], 0.5))
    first = twin.expected(10.0)
    np.testing.assert_array_equal(first, twin.expected(10.0))
    twin.move({"omega": 5.0})
    twin.move({"omega": 0.0})
    assert np.abs(twin.expected(10.0) - first).max() > 10.0


@pytest.mark.parametrize("field", ["centre_mm", "second_grain_fraction", "backlash"])
def test_faults_refuse_nonsense(field: str) -> None:
    for value in (-0.1, float("nan"), *((1.5,) if field.endswith("fraction") else ())):
        with pytest.raises(ValueError, match=field):
            Faults(**{field: value})


@pytest.mark.parametrize("name", ["lab", "lab-toronto", "bm32", "aps34", "koala"])
def test_usual_frames_have_spots_over_a_background(name: str) -> None:
    """A usual exposure of a usual crystal: tens of spots far above the noise, no flood, few saturated pixels."""
    assert name in instrument_names()
    instrument = load_instrument(name)
    crystal = load_crystal({"koala": "nacl", "bm32": "ge"}.get(name, "si"))
    twin = Twin(crystal, instrument, rng=np.random.default_rng(11))
    frame = twin.expose(instrument.exposure_s)
    frame.check(instrument.detector.shape)
    photons = (frame.counts.astype(float) - frame.offset) / frame.gain
    live = instrument.detector.mask()
    assert 1.0 < np.median(photons[live]) < 1000.0
    assert np.count_nonzero(frame.counts >= frame.saturation) < 500
    spots = predict_spots(twin.table, twin.u_lab(), twin.truth.instrument.detector)
    noise = np.sqrt(np.median(photons[live]) * 4 * np.pi * 2.5**2)
    assert 20 <= np.count_nonzero(spots.rate_per_s * instrument.exposure_s > 5 * noise) <= 400


def test_a_twin_is_cheap(lab: Instrument) -> None:
    first = a_twin(lab)
    start = time.process_time()
    for seed in range(20):
        a_twin(lab, seed=seed, table=first.table)
    assert (time.process_time() - start) / 20 < 5e-3


def test_strength_and_background_spread_evenly(lab):
    faults = replace(
        Faults.none(), power_factor=0.1, power_spread=100.0, background_factor=2.0, background_spread=4.0
    )
    drawn = [faults.draw(lab, np.random.default_rng(seed)) for seed in range(400)]
    for values, low, high in (
        ([d.power for d in drawn], 0.01, 1.0),
        ([d.background for d in drawn], 1.0, 4.0),
    ):
        where = np.log(np.array(values) / low) / np.log(high / low)
        assert 0.0 <= where.min() < 0.02
        assert 0.98 < where.max() <= 1.0
        assert abs(where.mean() - 0.5) < 4.0 / np.sqrt(12.0 * 400)


def test_background_factor_scales_the_background_alone(lab):
    plain = a_twin(lab, Faults.none(), seed=1)
    bright = a_twin(lab, replace(Faults.none(), background_factor=3.0), seed=1)
    more = bright.expected(10.0) - plain.expected(10.0)
    live = lab.detector.mask()
    assert np.allclose(more[live], 20.0 * background_rate(lab.detector)[live], rtol=1e-3, atol=1e-3)


def test_rays_that_are_missing_stray_or_off(lab):
    plain = a_twin(lab, Faults.none(), seed=1)
    crystal = predict_spots(plain.table, np.eye(3), lab.detector)
    gone = a_twin(lab, replace(Faults.none(), missing_fraction=1.0), seed=1, u=np.eye(3))
    assert np.allclose(
        gone.expected(1.0)[lab.detector.mask()], background_rate(lab.detector)[lab.detector.mask()]
    )
    off = a_twin(lab, replace(Faults.none(), factor_sigma=0.5), seed=1, u=np.eye(3)).truth.faults
    rays = off.spoiled(plain.table, np.random.default_rng(3))
    scatter = np.log(rays.rate.sum(axis=1) / plain.table.rate.sum(axis=1))
    assert abs(scatter.std() - 0.5) < 0.05
    assert np.array_equal(rays.direction, plain.table.direction)
    dirty = a_twin(lab, replace(Faults.none(), stray_fraction=1.0), seed=1, u=np.eye(3)).truth.faults
    rays = dirty.spoiled(plain.table, np.random.default_rng(3))
    assert len(rays) == 2 * len(plain.table)
    spots = predict_spots(rays, np.eye(3), lab.detector)
    assert 1.5 * len(crystal.pixels) < len(spots.pixels) < 2.5 * len(crystal.pixels)


@pytest.mark.parametrize(
    "wrong", [{"power_spread": 0.5}, {"background_spread": 0.0}, {"stray_fraction": 1.5}]
)
def test_levels_refuse_nonsense(wrong):
    with pytest.raises(ValueError, match="Faults"):
        Faults(**wrong)
