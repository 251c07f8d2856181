"""Levels of a four-circle's faults: what is drawn, and that what is not asked for draws nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lauepilot.simulator.conventions import BEAM, rotation_angle, rotation_matrix
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.fourcircle import as_positions
from lauepilot.simulator.fourcircle_twin import FourCircleFaults, FourCircleTwin


def twin(faults, seed=0, **more):
    return FourCircleTwin(load_crystal("si"), rng=np.random.default_rng(seed), faults=faults, **more)


def top_rate(made, seconds=10.0):
    """Rate at a strong reflection's peak, sent there by the truth."""
    hkl = made.hkl[int(np.argmax(made._relative))]
    q = made.truth.u @ made.crystal.b @ hkl
    length = float(np.linalg.norm(q))
    angles = made.instrument.bisecting(q / length, float(made.instrument.tth_deg(length)))
    if not made.instrument.allows(angles):
        angles = made.instrument.bisecting(-q / length, float(made.instrument.tth_deg(length)))
    made.move(as_positions(angles))
    return made.count(seconds) / seconds


def test_levels_by_name():
    assert FourCircleFaults.named("none") == FourCircleFaults.none()
    with pytest.raises(ValueError, match="none, lab, harsh"):
        FourCircleFaults.named("rough")


def test_what_is_not_asked_for_leaves_the_random_numbers_alone():
    plain, powered = twin(FourCircleFaults(), 3), twin(FourCircleFaults(power=1.0), 3)
    assert np.array_equal(plain.truth.u, powered.truth.u)
    assert np.array_equal(plain.truth.zeros_deg, powered.truth.zeros_deg)


def test_power_scales_rates():
    made = twin(replace(FourCircleFaults.none(), power=1.0), 5)
    plain = twin(FourCircleFaults.none(), 5)
    dark = 10.0  # background of the open aperture is far less
    assert top_rate(made) / top_rate(plain) == pytest.approx(made.mounting.power, rel=0.1, abs=dark / 20_000)


def test_background_scales_with_its_factor():
    made = twin(replace(FourCircleFaults.none(), background=1.0), 1, peak_rate_per_s=0.0)
    point = made.instrument.point
    wanted = point.background_per_s_mm2 * made.mounting.background * 36.0 + point.dark_per_s
    assert made.count(2000.0) / 2000.0 == pytest.approx(wanted, rel=0.1)


def test_a_second_crystallite_is_as_strong_as_drawn_and_lies_elsewhere():
    faults = replace(FourCircleFaults.none(), grain=1.0, grain_share=0.4)
    for seed in range(5):
        made = twin(faults, seed)
        assert len(made._q) == 2 * len(made.hkl)
        angle = np.rad2deg(rotation_angle(made.mounting.grain[None])[0])
        assert 3.0 - 1e-9 <= angle <= 60.0 + 1e-9
        assert 0.08 <= made.mounting.grain_share <= 0.4


def test_absorption_is_alike_for_beams_along_the_same_paths():
    """Of a centrosymmetric shape: a reflection and its Friedel mate have the same paths, backwards."""
    made = twin(replace(FourCircleFaults.none(), absorption=1.0), 2)
    index = {tuple(h): i for i, h in enumerate(made.hkl.astype(int).tolist())}
    t = made.mounting.transmission
    assert t.max() == pytest.approx(1.0) and t.min() < 0.9
    for h, i in list(index.items())[:50]:
        assert t[i] == pytest.approx(t[index[tuple(-x for x in h)]], rel=1e-9)


def test_a_turn_of_everything_about_the_beam_changes_nothing_for_the_referee():
    made = twin(FourCircleFaults(), 4)
    hkl, angles = (2, 2, 0), np.array([10.0, 20.0, 30.0, 20.0])
    before = made.off_bragg_deg(hkl, angles)
    turn = rotation_matrix(np.deg2rad(0.5) * BEAM)
    made.truth = replace(made.truth, u=turn @ made.truth.u, axes=made.truth.axes @ turn.T)
    assert made.off_bragg_deg(hkl, angles) == pytest.approx(before, abs=1e-9)


def test_the_referee_knows_both_crystallites():
    made = twin(replace(FourCircleFaults.none(), grain=1.0), 1)
    first, second = made.crystallites
    assert np.allclose(second, made.mounting.grain @ first)
    q = second @ made.crystal.b @ np.array([2.0, 2.0, 0.0])
    length = float(np.linalg.norm(q))
    angles = made.instrument.bisecting(q / length, float(made.instrument.tth_deg(length)))
    assert made.off_bragg_deg((2, 2, 0), angles, 1) < 1e-6 < made.off_bragg_deg((2, 2, 0), angles)
    assert len(twin(FourCircleFaults.none()).crystallites) == 1
