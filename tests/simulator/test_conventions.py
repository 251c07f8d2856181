"""Frames and rotations against quaternion algebra of scipy and textbook cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import constants
from scipy.spatial.transform import Rotation

from lauepilot.simulator.conventions import (
    HC_KEV_A,
    axis_rotation,
    nearest_rotation,
    random_rotation,
    rotation_angle,
    rotation_between,
    rotation_matrix,
    rotation_vector,
)

vectors = st.tuples(*[st.floats(-1.7, 1.7)] * 3).map(np.array)
directions = vectors.filter(lambda v: np.linalg.norm(v) > 1e-3)


def test_hc() -> None:
    assert pytest.approx(12.398419843320026, rel=1e-12) == HC_KEV_A
    assert (
        pytest.approx(constants.physical_constants["inverse meter-electron volt relationship"][0] * 1e7)
        == HC_KEV_A
    )


def test_positive_turns_are_right_handed() -> None:
    x, y, z = np.eye(3)
    np.testing.assert_allclose(axis_rotation(z, np.pi / 2) @ x, y, atol=1e-15)
    np.testing.assert_allclose(axis_rotation(x, np.pi / 2) @ y, z, atol=1e-15)
    np.testing.assert_allclose(axis_rotation(2 * y, np.pi / 2) @ z, x, atol=1e-15)
    with pytest.raises(ValueError, match="needs a direction"):
        axis_rotation([0, 0, 0], 1.0)


@given(vectors)
def test_rotation_vectors_go_there_and_back(vector: np.ndarray) -> None:
    matrix = rotation_matrix(vector)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation_vector(matrix), vector, atol=1e-9)
    assert rotation_angle(matrix) == pytest.approx(np.linalg.norm(vector), abs=1e-12)


@given(directions, directions)
def test_rotation_between_is_the_shortest(start: np.ndarray, end: np.ndarray) -> None:
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    turn = rotation_between(start, end)
    np.testing.assert_allclose(turn @ a, b, atol=1e-9)
    assert rotation_angle(turn) == pytest.approx(2 * np.arcsin(min(np.linalg.norm(a - b) / 2, 1.0)), abs=1e-7)


def test_rotation_between_opposites() -> None:
    for v in np.eye(3):
        np.testing.assert_allclose(rotation_between(v, -v) @ v, -v, atol=1e-12)


@given(vectors, st.integers(0, 1000))
def test_nearest_rotation_undoes_noise(vector: np.ndarray, seed: int) -> None:
    clean = rotation_matrix(vector)
    noisy = clean + 1e-4 * np.random.default_rng(seed).normal(size=(3, 3))
    found = nearest_rotation(noisy)
    assert np.linalg.det(found) == pytest.approx(1.0)
    assert np.linalg.norm(found - noisy) <= np.linalg.norm(clean - noisy) + 1e-12
    np.testing.assert_allclose(found, Rotation.from_matrix(noisy).as_matrix(), atol=1e-6)


def test_random_rotations_are_uniform() -> None:
    """The angle of a uniform rotation has the density (1 - cos w)/pi (Miles 1965); axes fill the sphere."""
    matrices = random_rotation(np.random.default_rng(0), 20000)
    angles = np.sort(rotation_angle(matrices))
    expected = (angles - np.sin(angles)) / np.pi
    assert np.abs(expected - (np.arange(20000) + 0.5) / 20000).max() < 1.63 / np.sqrt(20000)
    assert np.abs(matrices.mean(axis=0)).max() < 4 / np.sqrt(3 * 20000)
    np.testing.assert_allclose(random_rotation(np.random.default_rng(0)), matrices[0])
