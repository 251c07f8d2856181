"""What an arm is: joints as lines in space, and bodies as swelled convex hulls, all as they stand at the zero pose.

With joint ``j`` turning about the line through ``point_j`` along ``axis_j`` (both at zero), what hangs on it moves by the
product of exponentials ``E_1(q_1) ... E_j(q_j)`` (Murray, Li & Sastry 1994, chapter 3). No frames on links are needed;
Denavit-Hartenberg parameters and URDF files are turned into these lines when they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Annotated

import numpy as np
import yaml
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lauepilot.simulator.conventions import FloatArray, axis_rotation

Vector = tuple[float, float, float]
Finite = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ArmError(ValueError):
    """An arm, its bodies or its file are wrong."""


@dataclass(frozen=True)
class Joint:
    """One revolute joint, outermost first; limits in degrees, speed in degrees/s."""

    name: str
    limits: tuple[float, float]
    speed: float


@dataclass(frozen=True, eq=False)
class Body:
    """The convex hull of points (n, 3), mm, swelled by a radius: a sphere, a capsule, a box, any hull.

    ``link`` is the number of joints between it and the ground; the points are those of the zero pose.
    """

    name: str
    link: int
    points: FloatArray
    radius: float = 0.0

    def placed(self, rotation: FloatArray, shift: FloatArray) -> Body:
        """The same body turned (3, 3) and shifted (3,)."""
        return replace(self, points=self.points @ rotation.T + shift)


@dataclass(frozen=True, eq=False)
class Arm:
    """A serial arm.

    Attributes
    ----------
    name, source
        Short name, and where its numbers come from.
    joints
        Names, limits and speeds, outermost first.
    axes, points
        (n, 3) unit vectors, and a point (mm) on each, at the zero pose.
    tip, tip_rotation
        Tool centre point (3,) mm and the rotation (3, 3) of its frame, at the zero pose.
    bodies
        Shapes that move with the links; link 0 stands still.
    """

    name: str
    source: str
    joints: tuple[Joint, ...]
    axes: FloatArray
    points: FloatArray
    tip: FloatArray
    tip_rotation: FloatArray
    bodies: tuple[Body, ...] = ()

    def __post_init__(self) -> None:
        """Refuse shapes and numbers that make no arm."""
        n = len(self.joints)
        if n == 0 or self.axes.shape != (n, 3) or self.points.shape != (n, 3):
            raise ArmError(
                f"{self.name}: {n} joints need axes and points of shape ({n}, 3), and at least one joint."
            )
        numbers = np.concatenate(
            [self.axes.ravel(), self.points.ravel(), self.tip, self.tip_rotation.ravel()]
        )
        if not np.all(np.isfinite(numbers)) or not np.allclose(
            np.linalg.norm(self.axes, axis=1), 1.0, atol=1e-9
        ):
            raise ArmError(f"{self.name}: axes must be unit vectors, points and tip finite.")
        for body in self.bodies:
            if not 0 <= body.link <= n:
                raise ArmError(
                    f"{self.name}: body {body.name!r} is on link {body.link}; there are links 0 to {n}."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the joints."""
        return tuple(joint.name for joint in self.joints)

    @property
    def limits(self) -> FloatArray:
        """(n, 2) radians."""
        return np.deg2rad([joint.limits for joint in self.joints])

    def placed(self, rotation: ArrayLike, shift: ArrayLike) -> Arm:
        """The arm with its base turned (3, 3) and then shifted (3,) mm: the same in another frame."""
        r, t = np.asarray(rotation, dtype=float), np.asarray(shift, dtype=float)
        return replace(
            self,
            axes=self.axes @ r.T,
            points=self.points @ r.T + t,
            tip=r @ self.tip + t,
            tip_rotation=r @ self.tip_rotation,
            bodies=tuple(body.placed(r, t) for body in self.bodies),
        )

    def with_tool(self, offset_mm: ArrayLike, bodies: Sequence[Body] = ()) -> Arm:
        """The arm with its tip moved by ``offset_mm`` (3,) in the tip's frame, and further bodies in that frame."""
        offset = np.asarray(offset_mm, dtype=float)
        held = tuple(body.placed(self.tip_rotation, self.tip) for body in bodies)
        return replace(self, tip=self.tip + self.tip_rotation @ offset, bodies=(*self.bodies, *held))


def arm_from_dh(
    name: str,
    joints: Sequence[Joint],
    dh: ArrayLike,
    bodies: Sequence[Body] = (),
    source: str = "",
) -> Arm:
    """An arm from standard Denavit-Hartenberg rows.

    Parameters
    ----------
    name, source
        Short name, and where the numbers come from.
    joints
        One for each row.
    dh
        (n, 4): theta at the zero pose (radians), d (mm), a (mm), alpha (radians). Row by row, the frame turns by theta
        plus the joint's position about z, shifts by d along z and by a along x, and turns by alpha about x.
    bodies
        Shapes in the base frame at the zero pose.
    """
    rows = np.asarray(dh, dtype=float)
    if rows.shape != (len(joints), 4):
        raise ArmError(
            f"{name}: {len(joints)} joints need DH rows of shape ({len(joints)}, 4), not {rows.shape}."
        )
    rotation, place, axes, points = np.eye(3), np.zeros(3), [], []
    for theta, d, a, alpha in rows:
        axes.append(rotation[:, 2].copy())
        points.append(place.copy())
        turned = rotation @ axis_rotation((0, 0, 1), theta)
        place = place + rotation[:, 2] * d + turned[:, 0] * a
        rotation = turned @ axis_rotation((1, 0, 0), alpha)
    return Arm(name, source, tuple(joints), np.array(axes), np.array(points), place, rotation, tuple(bodies))


class _Box(BaseModel):
    model_config = Finite
    centre: Vector
    size: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class BodyModel(BaseModel):
    """A body in a YAML file: ``points`` with a ``radius``, or a ``box``; mm."""

    model_config = Finite
    name: str
    link: Annotated[int, Field(ge=0)] = 0
    points: Annotated[tuple[Vector, ...], Field(max_length=1000)] = ()
    box: _Box | None = None
    radius: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _one_shape(self) -> BodyModel:
        if bool(self.points) == (self.box is not None):
            raise ValueError("give either points (with a radius) or a box")
        return self

    def build(self) -> Body:
        """The body."""
        if self.box is None:
            return Body(self.name, self.link, np.array(self.points, dtype=float), self.radius)
        return Body(self.name, self.link, box_points(self.box.centre, self.box.size), self.radius)


class _Row(BaseModel):
    model_config = Finite
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    theta: float
    d: float
    a: float
    alpha: float
    limits: tuple[float, float]
    speed: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> _Row:
        if self.limits[0] >= self.limits[1]:
            raise ValueError(f"limits must be (low, high) with low < high, not {self.limits}")
        return self


class _ArmFile(BaseModel):
    model_config = Finite
    name: str
    source: str = ""
    joints: Annotated[tuple[_Row, ...], Field(min_length=1, max_length=20)]
    bodies: tuple[BodyModel, ...] = ()


def box_points(centre: ArrayLike, size: ArrayLike) -> FloatArray:
    """Corners (8, 3) of a box along the axes, from its centre (3,) and full widths (3,)."""
    corners = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5], indexing="ij"), -1).reshape(8, 3)
    return np.asarray(np.asarray(centre, dtype=float) + corners * np.asarray(size, dtype=float))


def parse_arm(text: str, origin: str = "<text>") -> Arm:
    """An arm from the text of a YAML file with DH rows and bodies; see ``simulator/arm/meca500.yaml``.

    Raises
    ------
    ArmError
        Names file, key and what is allowed.
    """
    try:
        model = _ArmFile.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ArmError(f"{origin} is not YAML: {error}") from None
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(file)'}: {e['msg']}" for e in error.errors()]
        raise ArmError(f"{origin} is not a valid arm:\n" + "\n".join(lines)) from None
    if len({row.name for row in model.joints}) != len(model.joints):
        raise ArmError(f"{origin}: joints: names must differ.")
    joints = [Joint(row.name, row.limits, row.speed) for row in model.joints]
    dh = [(np.deg2rad(row.theta), row.d, row.a, np.deg2rad(row.alpha)) for row in model.joints]
    return arm_from_dh(model.name, joints, dh, [body.build() for body in model.bodies], model.source)


def arm_names() -> tuple[str, ...]:
    """Names of the arms that are shipped."""
    folder = resources.files("lauepilot.simulator") / "arm"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml")))


def load_arm(name: str) -> Arm:
    """A shipped arm by its name.

    Raises
    ------
    ArmError
        If there is none of that name.
    """
    if name not in arm_names():
        raise ArmError(f"No arm {name!r}. Shipped: {', '.join(arm_names())}.")
    text = (resources.files("lauepilot.simulator") / "arm" / f"{name}.yaml").read_text("utf-8")
    return parse_arm(text, f"{name}.yaml")
