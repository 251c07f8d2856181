from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lauepilot.perception.exchange.frames import TO_YOU
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.fourcircle import FourCircle, as_positions, ready_after
from lauepilot.simulator.fourcircle_twin import FourCircleFaults, FourCircleTwin
from lauepilot.simulator.goniometer import ReachError


def twin_of(name, seed=1, faults=None, **kwargs):
    faults = FourCircleFaults.none() if faults is None else faults
    return FourCircleTwin(load_crystal(name), rng=np.random.default_rng(seed), faults=faults, **kwargs)


def at_reflection(twin, hkl):
    q = twin.truth.u @ twin.crystal.b @ np.asarray(hkl, dtype=float)
    length = np.linalg.norm(q)
    return twin.instrument.bisecting(q / length, float(twin.instrument.tth_deg(length)))


def around(angles, axis, half, n):
    points = np.tile(angles, (n + 1, 1))
    points[:, axis] += np.linspace(-half, half, n + 1)
    return points


def test_diffcalc_agrees_where_reflections_are_excited():
    calc = pytest.importorskip("diffcalc.hkl.calc", reason="pip install diffcalc-core")
    from diffcalc.hkl.constraints import Constraints
    from diffcalc.ub.calc import UBCalculation

    rng = np.random.default_rng(5)
    crystal = load_crystal("ca2ruo4")
    wavelength = 2.0 * np.pi / FourCircle().k
    for _ in range(4):
        u = random_rotation(rng)
        twin = FourCircleTwin(crystal, rng=rng, faults=FourCircleFaults.none(), u=u)
        theirs = UBCalculation("twin")
        theirs.set_lattice("Ca2RuO4", *crystal.cell)
        theirs.set_u(np.asarray(TO_YOU @ u))
        hkl = calc.HklCalculation(theirs, Constraints({"mu": 0, "nu": 0, "bisect": True}))
        for h in ((0, 2, 0), (2, 0, 0), (1, 1, 3), (-2, 0, 2)):
            found = [s[0] for s in hkl.get_position(*h, wavelength)]
            fits = [
                [p.eta, p.chi, p.phi, p.delta]
                for p in found
                if twin.instrument.allows([p.eta, p.chi, p.phi, p.delta])
            ]
            assert fits
            for angles in fits:
                assert twin.off_bragg_deg(h, angles) < 1e-6
            assert min(np.abs(at_reflection(twin, h) - a).max() for a in fits) < 1e-6


def test_counts_peak_where_the_referee_says():
    twin = twin_of("si", faults=FourCircleFaults(direction_deg=0.0, play=0.0))
    angles = at_reflection(twin, (1, 1, 1))
    off = twin.off_bragg_deg((1, 1, 1), angles)
    assert 0.001 < off < 0.3  # zeros are not where one thinks
    true = angles - twin.truth.zeros_deg
    sweep = twin.sweep(around(true, 0, 0.4, 40), 0.2)
    centre = np.average(sweep.angles_deg[:, 0], weights=sweep.counts)
    assert centre == pytest.approx(true[0], abs=0.01)
    spread = np.sqrt(np.average((sweep.angles_deg[:, 0] - centre) ** 2, weights=sweep.counts))
    assert spread == pytest.approx(twin.instrument.width_deg(true[3], twin.truth.mosaic_deg), rel=0.08)


def test_the_aperture_sets_the_acceptance_in_chi():
    twin = twin_of("si")
    angles = at_reflection(twin, (1, 1, 1))
    for aperture, width in (("open", 6.0), ("closed", 1.0)):
        sweep = twin.sweep(around(angles, 1, 3.0, 120), 0.2, aperture=aperture)
        lit = sweep.angles_deg[sweep.counts > 0.5 * sweep.counts.max(), 1]
        wanted = np.rad2deg(width / 500.0 / (2.0 * np.sin(np.deg2rad(angles[3]) / 2.0)))
        assert np.ptp(lit) == pytest.approx(wanted, abs=0.12)


def test_a_frame_shows_the_spot_where_its_beam_goes():
    twin = twin_of("ca2ruo4")
    area = twin.instrument.area
    angles = at_reflection(twin, (0, 2, 0))
    tilted = angles + np.array([0.0, 4.0, 0.0, 1.0])  # out of the middle, both ways
    sweep = twin.sweep(around(tilted, 0, 0.8, 16), 0.5, detector="area")
    image = sweep.frames.sum(axis=0)
    row, col = np.unravel_index(image.argmax(), image.shape)
    omega = np.average(sweep.angles_deg[:, 0], weights=sweep.frames[:, row, col])
    ray = area.rays([(col, row)], tilted[3])[0]
    q = twin.instrument.q_of_rays(ray[None])[0]
    wanted = twin.instrument.matrix([omega, *tilted[1:3]]) @ twin.truth.u @ twin.crystal.b @ [0, 2, 0]
    assert np.linalg.norm(q - wanted) / np.linalg.norm(wanted) < 0.008  # a pixel is 0.0043 of this Q
    assert area.pixels(area.rays([(3.0, 100.0)], 31.0), 31.0) == pytest.approx(np.array([[3.0, 100.0]]))


def test_counter_has_dead_time_background_and_noise():
    twin = twin_of("si", peak_rate_per_s=1e6)
    angles = at_reflection(twin, (1, 1, 1))
    twin.move(as_positions(angles))
    bright = twin.count(1.0)
    slow = replace(twin.instrument, point=replace(twin.instrument.point, dead_time_s=0.0))
    other = FourCircleTwin(
        twin.crystal, slow, rng=np.random.default_rng(1), faults=FourCircleFaults.none(), u=twin.truth.u, peak_rate_per_s=1e6
    )  # fmt: skip
    other.move(as_positions(angles))
    true = other.count(1.0)
    assert bright == pytest.approx(true / (1.0 + true * 2e-6), rel=0.01)
    twin.move({"omega": angles[0] + 5.0})
    dark = [twin.count(1.0) for _ in range(300)]
    expected = 0.05 * 36 + 0.5
    assert np.mean(dark) == pytest.approx(expected, abs=0.3)
    assert np.var(dark) == pytest.approx(expected, rel=0.3)


def test_time_passes_as_axes_move_and_count():
    twin = twin_of("si")
    twin.move({"phi": 60.0, "chi": 10.0})
    assert twin.clock_s == pytest.approx(60.0 / 6.0 + 0.2)
    before = twin.clock_s
    sweep = twin.sweep(np.linspace([0, 10, 60, 0], [0, 10, 120, 0], 11), 0.5)
    assert sweep.seconds == pytest.approx(np.full(10, 1.0))  # 6 degrees a bin at 6 degrees a second
    assert twin.clock_s - before == pytest.approx(10.0)
    assert twin.dose_s == pytest.approx(10.0)


def test_play_shifts_what_comes_from_the_other_side():
    twin = twin_of("si", faults=replace(FourCircleFaults.none(), play=20.0))
    angles = at_reflection(twin, (1, 1, 1))
    centres = []
    for sign in (1.0, -1.0):
        points = around(angles, 0, 0.5, 40)[:: int(sign)]
        twin.move(as_positions(points[0] - sign * np.array([1.0, 0, 0, 0])))
        sweep = twin.sweep(points, 0.2)
        centres.append(np.average(sweep.angles_deg[:, 0], weights=sweep.counts))
    assert centres[0] - centres[1] == pytest.approx(20.0 * 0.01, abs=0.02)
    axis = twin.instrument.motors.axis("omega")
    assert ready_after(axis, 5.0, 3.0) == pytest.approx(2.8)
    assert ready_after(axis, 1.0, 3.0) is None


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([[0, 0, 0, 0]], "two corners"),
        ([[0, 0, 0, 0], [0, np.nan, 0, 0]], "finite"),
        ([[0, 0, 0]] * 2, "corners"),
    ],
)
def test_paths_that_make_no_sense(points, said):
    with pytest.raises(ValueError, match=said):
        twin_of("si").sweep(points, 1.0)


def test_limits_are_refused_before_anything_moves():
    twin = twin_of("si")
    with pytest.raises(ReachError, match="chi"):
        twin.sweep([[0, 0, 0, 0], [0, 101, 0, 0]], 1.0)
    with pytest.raises(ValueError, match="positive time"):
        twin.count(0.0)
    with pytest.raises(ValueError, match="aperture"):
        twin.count(1.0, "half")
    assert twin.clock_s == 0.0


def test_the_same_seed_gives_the_same_counts():
    frames = [
        twin_of("si", 7).sweep([[6, 0, 0, 13], [6, 0, 90, 13]], 1.0, detector="area").frames for _ in range(2)
    ]
    assert np.array_equal(*frames)
