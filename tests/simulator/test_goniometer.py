"""Goniometers against Euler angles of scipy, finite differences and a stopwatch by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lauepilot.simulator.conventions import axis_rotation, rotation_matrix, rotation_vector
from lauepilot.simulator.goniometer import Axis, Goniometer, ReachError
from lauepilot.simulator.instrument import load_instrument

angles = st.tuples(*[st.floats(-90, 90)] * 3)


def cradle() -> Goniometer:
    return load_instrument("lab").goniometer


@given(angles)
def test_the_chain_is_intrinsic_euler_angles(degrees: tuple[float, float, float]) -> None:
    z = cradle().matrix(dict(zip(("omega", "chi", "phi"), degrees, strict=True)))
    np.testing.assert_allclose(z, Rotation.from_euler("YZY", degrees, degrees=True).as_matrix(), atol=1e-12)


@given(angles)
def test_jacobian_is_the_derivative(degrees: tuple[float, float, float]) -> None:
    gonio, step = cradle(), 1e-4
    here = dict(zip(("omega", "chi", "phi"), degrees, strict=True))
    jacobian = gonio.jacobian(here)
    for k, name in enumerate(here):
        there = {**here, name: here[name] + step}
        w = rotation_vector(gonio.matrix(there) @ gonio.matrix(here).T) / np.deg2rad(step)
        np.testing.assert_allclose(jacobian[:, k], w, atol=1e-6)


def test_the_inner_axis_turns_the_crystal_about_itself() -> None:
    """Whatever the outer axes do, phi turns the crystal about phi's own, carried, axis."""
    gonio = cradle()
    at = {"omega": 30.0, "chi": -40.0}
    carried = gonio.matrix(at) @ [0.0, 1.0, 0.0]
    turn = gonio.matrix({**at, "phi": 25.0}) @ gonio.matrix(at).T
    np.testing.assert_allclose(turn, axis_rotation(carried, np.deg2rad(25.0)), atol=1e-12)


def test_limits() -> None:
    with pytest.raises(ReachError, match=r"'chi' was asked to go to 101 deg, but its limits are -100 to 100"):
        cradle().check({"chi": 101.0})
    with pytest.raises(ReachError):
        cradle().check({"chi": float("nan")})
    with pytest.raises(KeyError, match="omega, chi, phi"):
        cradle().axis("kappa")
    cradle().check({"chi": 100.0})


def test_move_time_is_the_slowest_axis() -> None:
    gonio = Goniometer(
        (
            Axis("a", "rotation", (0, 1, 0), (-180, 180), speed=5.0, settle_s=1.0),
            Axis("x", "translation", (1, 0, 0), (-10, 10), speed=0.5, settle_s=0.2),
        )
    )
    assert gonio.move_time_s({}, {"a": 10.0}) == pytest.approx(3.0)
    assert gonio.move_time_s({"a": 10.0}, {"a": 0.0, "x": 5.0}) == pytest.approx(10.2)
    assert gonio.move_time_s({"a": 10.0}, {"a": 10.0}) == 0.0
    # Translations do not turn.
    np.testing.assert_allclose(gonio.matrix({"x": 5.0}), np.eye(3))
    assert gonio.jacobian({}).shape == (3, 1)


def test_misdirected_axes() -> None:
    error = rotation_matrix([0.01, 0.0, 0.0])
    turned = cradle().turned([error, np.eye(3), np.eye(3)])
    np.testing.assert_allclose(turned.axes[0].direction, error @ [0, 1, 0])
    z = turned.matrix({"omega": 20.0})
    np.testing.assert_allclose(z, error @ cradle().matrix({"omega": 20.0}) @ error.T, atol=1e-12)
