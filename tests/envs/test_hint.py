"""Quick kinematics against the exact ones of the simulator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lauepilot.envs.align.hint import chain, least_miss, pack_axes, pack_target, suggested_changes
from lauepilot.perception.task import usual_target
from lauepilot.simulator.conventions import random_rotation
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.target import Alignment, Target

GONIOMETER = load_instrument("lab").goniometer
FULL = Target(Alignment("uvw", (0, 0, 1), (0, 0, 1)), Alignment("hkl", (1, 0, 0), (0, 1, 0)))


@given(st.integers(0, 10**6))
def test_chain_is_the_goniometers(seed):
    at = np.random.default_rng(seed).uniform(-100, 100, 3)
    positions = dict(zip(GONIOMETER.names, at, strict=True))
    z, columns = np.zeros((3, 3)), np.zeros((3, 3))
    chain(pack_axes(GONIOMETER).directions, at, z, columns)
    np.testing.assert_allclose(z, GONIOMETER.matrix(positions), atol=1e-12)
    np.testing.assert_allclose(columns, GONIOMETER.jacobian(positions), atol=1e-12)


@pytest.mark.parametrize("crystal", ["si", "quartz", "kyanite"])
@pytest.mark.parametrize("target", [usual_target(), FULL], ids=["free", "full"])
def test_least_miss_is_the_targets_error(crystal, target):
    lattice = load_crystal(crystal)
    packed = pack_target(target, lattice)
    for seed in range(20):
        u = random_rotation(np.random.default_rng(seed))
        angle, _ = least_miss(u, packed, np.empty(3))
        assert angle == pytest.approx(target.error(u, lattice), abs=1e-9)


@pytest.mark.parametrize("crystal", ["si", "quartz", "ca2ruo4"])
def test_changes_reach_the_target(crystal):
    lattice = load_crystal(crystal)
    axes, target = pack_axes(GONIOMETER), pack_target(usual_target(), lattice)
    reached = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        u, at = random_rotation(rng), rng.uniform(-60, 60, 3)
        changes, left = suggested_changes(axes, u, target, at)
        there = at + changes
        assert np.all((there >= axes.low - 1e-9) & (there <= axes.high + 1e-9))
        z = GONIOMETER.matrix(dict(zip(GONIOMETER.names, there, strict=True)))
        assert usual_target().error(z @ u, lattice) == pytest.approx(left, abs=1e-7)
        reached += left < 1e-4
    assert reached >= 57


def test_no_axes_no_change():
    still = Goniometer(())
    target = pack_target(usual_target(), load_crystal("si"))
    changes, left = suggested_changes(pack_axes(still), np.eye(3), target, np.zeros(0))
    assert changes.shape == (0,)
    assert left == pytest.approx(0.0, abs=1e-9)
