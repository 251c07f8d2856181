"""The arm of an instrument's YAML file: which arm, where it stands, what it holds, what stands around it."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lauepilot.simulator.arm.collision import Scene
from lauepilot.simulator.arm.goniometer import ArmGoniometer, arm_goniometer, home_pose
from lauepilot.simulator.arm.model import ArmError, Body, BodyModel, Vector, load_arm

Positive = Annotated[float, Field(gt=0)]


class ArmStage(BaseModel):
    """``goniometer:`` of an instrument, where it is an arm instead of a list of axes.

    Lengths in mm, angles in degrees. ``base_mm`` and ``base_x``, ``base_z`` place the arm's base frame in the laboratory;
    ``crystal_mm`` is the crystal and ``tool`` are bodies in the flange's frame; ``around`` are bodies in the laboratory;
    ``home`` is the pose at rest (its tip is brought to the beam exactly), ``via`` are poses to go by.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    arm: str
    base_mm: Vector
    base_x: Vector
    base_z: Vector
    crystal_mm: Vector
    tool: tuple[BodyModel, ...] = ()
    around: tuple[BodyModel, ...] = ()
    ignore: tuple[tuple[str, str], ...] = ()
    home: tuple[float, ...]
    via: tuple[tuple[float, ...], ...] = ()
    margin_mm: Positive = 2.0
    drift_mm: Positive = 0.05
    speed: Positive = 30.0
    settle_s: Annotated[float, Field(ge=0)] = 0.5
    resolution: Positive = 0.001

    def build(self) -> ArmGoniometer:
        """The goniometer.

        Raises
        ------
        ArmError
            If there is no such arm, or it cannot stand or rest as described.
        """
        arm = load_arm(self.arm)
        n = len(arm.joints)
        for pose in (self.home, *self.via):
            if len(pose) != n:
                raise ArmError(f"goniometer: {arm.name} has {n} joints; a pose of {len(pose)} angles came.")
        x, z = np.array(self.base_x), np.array(self.base_z)
        if not np.allclose([x @ x, z @ z, x @ z], [1.0, 1.0, 0.0], atol=1e-6):
            raise ArmError("goniometer: base_x and base_z must be unit vectors at right angles.")
        tool = [Body(b.name, n, b.build().points, b.radius) for b in self.tool]
        placed = arm.with_tool(self.crystal_mm, tool).placed(
            np.stack([x, np.cross(z, x), z], axis=1), self.base_mm
        )
        scene = Scene(placed, [b.build() for b in self.around], self.margin_mm, self.ignore)
        home = home_pose(scene, np.deg2rad(self.home))
        via = tuple(tuple(float(v) for v in np.deg2rad(pose)) for pose in self.via)
        return arm_goniometer(
            scene, home, via=via, speed_deg_s=self.speed, settle_s=self.settle_s, resolution=self.resolution,
            drift_mm=self.drift_mm,
        )  # fmt: skip
