"""Where the crystal is now, from what was seen at other positions of the axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lauepilot.simulator.conventions import FloatArray, rotation_matrix, rotation_vector
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.target import Target

#: Axes that moved less than this, degrees or mm, did not move.
STILL = 1e-6


@dataclass(frozen=True)
class AxesTrust:
    """How well axes do what they say.

    Attributes
    ----------
    direction_deg
        Standard deviation of an axis' direction, about each of two directions at right angles to it.
    scale
        Standard deviation of the angle travelled, relative.
    """

    direction_deg: float = 0.15
    scale: float = 0.0005


def travel_covariance(
    goniometer: Goniometer, start: Mapping[str, float], end: Mapping[str, float], trust: AxesTrust
) -> FloatArray:
    """Covariance (3, 3), radians squared, of the laboratory rotation between two positions, from misdirected axes.

    An axis turned by ``t`` with its direction off by ``d`` leaves ``2 sin(t / 2) d`` across the axis; the rotation
    of outer axes carries what inner ones leave.
    """
    covariance = np.zeros((3, 3))
    columns = goniometer.jacobian(end)
    for axis, column in zip(goniometer.rotations, columns.T, strict=True):
        angle = math.radians(end.get(axis.name, 0.0) - start.get(axis.name, 0.0))
        if abs(angle) < math.radians(STILL):
            continue
        across = 2.0 * math.sin(min(abs(angle), math.pi) / 2.0) * math.radians(trust.direction_deg)
        along = abs(angle) * trust.scale
        parallel = np.outer(column, column)
        covariance += across**2 * (np.eye(3) - parallel) + along**2 * parallel
    return covariance


def play_covariance(
    goniometer: Goniometer, at: Mapping[str, float], slack: Mapping[str, float]
) -> FloatArray:
    """Covariance (3, 3) of the laboratory rotation from play ``slack`` (degrees, full width) left in axes by name."""
    covariance = np.zeros((3, 3))
    for axis, column in zip(goniometer.rotations, goniometer.jacobian(at).T, strict=True):
        width = math.radians(slack.get(axis.name, 0.0))
        covariance += width**2 / 12.0 * np.outer(column, column)
    return covariance


def relevant_sigma_deg(target: Target, covariance: FloatArray) -> float:
    """Standard deviation of the miss, worst direction: turns about a free primary direction do not count."""
    matrix = covariance
    if target.secondary is None:
        along = target.primary.in_laboratory()
        across = np.eye(3) - np.outer(along, along)
        matrix = across @ covariance @ across
    return float(np.rad2deg(np.sqrt(max(np.linalg.eigvalsh(matrix)[-1], 0.0))))


def combined(first: Orientation, second: Orientation) -> Orientation:
    """Weighted mean of two estimates of one orientation (both near each other, in one frame)."""
    w1, w2 = np.linalg.inv(first.covariance), np.linalg.inv(second.covariance)
    covariance = np.linalg.inv(w1 + w2)
    step = covariance @ w2 @ rotation_vector(second.u @ first.u.T)
    return Orientation(rotation_matrix(step) @ first.u, second.b, covariance)
