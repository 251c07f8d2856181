"""``lauepilot arm``: what an arm at an instrument can do: its pose at rest, a turn of the crystal, the way there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.spatial import ConvexHull

from lauepilot.simulator.arm.goniometer import ArmGoniometer
from lauepilot.simulator.arm.model import Body
from lauepilot.simulator.conventions import FloatArray, rotation_matrix
from lauepilot.simulator.instrument import load_instrument


def run_arm(
    instrument: str = "lab-arm",
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0),
    picture: Path | None = None,
) -> dict[str, Any]:
    """What an arm does to turn the crystal from rest.

    Parameters
    ----------
    instrument
        Shipped name or YAML file of an instrument whose goniometer is an arm.
    turn_deg
        Rotation vector in the laboratory, degrees, from the pose at rest.
    picture
        PNG file for a picture of both poses; None draws none.

    Returns
    -------
    ``rest``, ``poses`` (all that hold the crystal so, the soonest first: joints, seconds, kind of path or what is
    in the way) and ``clearance_mm`` at rest with the bodies that are nearest.

    Raises
    ------
    ValueError
        If the instrument has no arm.
    """
    stage = load_instrument(instrument).goniometer
    if not isinstance(stage, ArmGoniometer):
        raise ValueError(f"The goniometer of {instrument!r} is no arm. Shipped with an arm: lab-arm.")
    rest, home = stage.rest, np.array(stage.home)
    z = rotation_matrix(np.deg2rad(turn_deg)) @ stage.matrix(rest)
    rows: list[dict[str, Any]] = []
    for q in stage.settings(z[None], home)[1]:
        joints = {name: float(value) for name, value in zip(stage.names, np.rad2deg(q), strict=True)}
        problem = stage.problem(rest, joints)
        rows.append(
            {
                "joints_deg": joints,
                "seconds": stage.move_time_s(rest, joints),
                "path": "" if problem else stage.path(rest, joints).kind,
                "problem": problem,
            }
        )
    rows.sort(key=lambda row: (bool(row["problem"]), row["seconds"]))
    contact = stage.scene.contact(home)
    if picture is not None:
        there = rows[0]["joints_deg"] if rows else rest
        draw_arm(stage, [rest, there]).savefig(picture, dpi=110)
    return {
        "arm": stage.scene.arm.name,
        "rest_deg": rest,
        "poses": rows,
        "clearance_mm": contact.clearance_mm,
        "nearest_bodies": [contact.first, contact.second],
    }


def draw_arm(stage: ArmGoniometer, poses: list[dict[str, float]]) -> Figure:
    """A figure of the arm at these positions (degrees), side by side, seen from -x: beam to the right, up is up.

    Bodies are drawn as the outlines of the shapes that are kept apart; the beam and the crystal in red.
    """
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(4.2 * len(poses), 4.0), layout="constrained")
        for axes, positions in zip(
            np.atleast_1d(figure.subplots(1, len(poses), sharey=True)), poses, strict=True
        ):
            q = np.deg2rad([positions[name] for name in stage.names])
            for index in range(len(stage.scene.bodies)):
                outline = _outline(stage.scene.placed(index, q))
                colour = "#777777" if index >= len(stage.scene.arm.bodies) else "#0072b2"
                axes.fill(outline[:, 0], outline[:, 1], color=colour, alpha=0.35, lw=0)
                axes.plot(*np.vstack([outline, outline[:1]]).T, color=colour, lw=0.8)
            axes.plot([-150.0, 0.0], [0.0, 0.0], color="#d55e00", lw=1.2)
            axes.plot([0.0], [0.0], "o", color="#d55e00", ms=4)
            axes.set(xlim=(-150, 330), ylim=(-225, 200), aspect="equal", xlabel="z, along the beam (mm)")
            axes.set_title(", ".join(f"{v:.0f}" for v in positions.values()) + " deg", fontsize=9)
        np.atleast_1d(np.array(figure.axes))[0].set_ylabel("y, up (mm)")
    return figure


def _outline(body: Body) -> FloatArray:
    """Convex outline (n, 2) of a body in z and y, with its radius."""
    round_ = np.deg2rad(np.arange(0.0, 360.0, 15.0))
    circle = body.radius * np.stack([np.cos(round_), np.sin(round_)], axis=1)
    points = (body.points[:, None, [2, 1]] + circle[None]).reshape(-1, 2)
    return np.asarray(points[ConvexHull(points, qhull_options="QJ").vertices])
