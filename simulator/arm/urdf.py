"""Arms from and to URDF, the XML of robots: one chain of revolute and fixed joints, shapes without meshes.

Lengths in the file are metres, angles radians, as URDF wants. The text is read without its entities: a document type, by
which XML can be made to read other files or to swell without end, is refused before anything is parsed.
"""

from __future__ import annotations

import xml.etree.ElementTree as Tree

import numpy as np

from lauepilot.simulator.arm.model import Arm, ArmError, Body, Joint, box_points
from lauepilot.simulator.conventions import FloatArray, axis_rotation

_MOST_CHARACTERS = 2_000_000
_MM = 1000.0


def read_urdf(text: str, origin: str = "<text>", tip: str = "") -> Arm:
    """An arm from the text of a URDF file.

    Parameters
    ----------
    text
        The file.
    origin
        Its name in messages.
    tip
        Link that carries the tool, where the tree has branches; empty takes the only end.

    Raises
    ------
    ArmError
        If it is no URDF, has joints of other kinds on the way to the tip, meshes, or joints without limits.
    """
    if len(text) > _MOST_CHARACTERS or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ArmError(
            f"{origin}: a URDF has no document type, no entities, and at most {_MOST_CHARACTERS} characters."
        )
    try:
        robot = Tree.fromstring(text)
    except Tree.ParseError as error:
        raise ArmError(f"{origin} is not XML: {error}") from None
    if robot.tag != "robot":
        raise ArmError(f"{origin}: the outermost element of a URDF is <robot>; this one is <{robot.tag}>.")
    joints, axes, points, bodies = [], [], [], []
    rotation, place = np.eye(3), np.zeros(3)
    elements = _chain(robot, origin, tip)
    links = {link.get("name", ""): link for link in robot.findall("link")}
    bodies += _bodies(links, elements[0][0], 0, rotation, place, origin)
    for _, element, child in elements:
        turn, shift = _origin(element, origin)
        place, rotation = place + rotation @ shift, rotation @ turn
        kind = element.get("type", "")
        if kind in {"revolute", "continuous"}:
            axis = element.find("axis")
            direction = _numbers(axis, "xyz", origin) if axis is not None else np.array([1.0, 0.0, 0.0])
            norm = float(np.linalg.norm(direction))
            if norm == 0.0:
                raise ArmError(f"{origin}: joint {element.get('name')!r} has an axis of length 0.")
            axes.append(rotation @ direction / norm)
            points.append(place)
            joints.append(_joint(element, kind, origin))
        elif kind != "fixed":
            raise ArmError(
                f"{origin}: joint {element.get('name')!r} is {kind!r}; revolute, continuous and fixed are known."
            )
        bodies += _bodies(links, child, len(joints), rotation, place, origin)
    return Arm(
        robot.get("name", "arm"), origin, tuple(joints), np.array(axes).reshape(-1, 3), np.array(points).reshape(-1, 3),
        place, rotation, tuple(bodies),
    )  # fmt: skip


def write_urdf(arm: Arm) -> str:
    """The arm's kinematics as URDF text, for other programs; all link frames stand parallel at the zero pose.

    Bodies are left out: swelled hulls are not known to URDF.
    """
    robot = Tree.Element("robot", name=arm.name)
    Tree.SubElement(robot, "link", name="link0")
    before = np.zeros(3)
    for k, joint in enumerate(arm.joints, 1):
        Tree.SubElement(robot, "link", name=f"link{k}")
        element = Tree.SubElement(robot, "joint", name=joint.name, type="revolute")
        Tree.SubElement(element, "origin", xyz=_text((arm.points[k - 1] - before) / _MM), rpy="0 0 0")
        Tree.SubElement(element, "parent", link=f"link{k - 1}")
        Tree.SubElement(element, "child", link=f"link{k}")
        Tree.SubElement(element, "axis", xyz=_text(arm.axes[k - 1]))
        low, high = np.deg2rad(joint.limits)
        Tree.SubElement(
            element, "limit", lower=repr(float(low)), upper=repr(float(high)), effort="0",
            velocity=repr(float(np.deg2rad(joint.speed))),
        )  # fmt: skip
        before = arm.points[k - 1]
    r = arm.tip_rotation
    pitch = np.arctan2(-r[2, 0], np.hypot(r[0, 0], r[1, 0]))
    if abs(np.cos(pitch)) > 1e-9:
        roll, yaw = np.arctan2(r[2, 1], r[2, 2]), np.arctan2(r[1, 0], r[0, 0])
    else:
        roll, yaw = np.arctan2(-r[1, 2], r[1, 1]), 0.0
    Tree.SubElement(robot, "link", name="tool")
    last = Tree.SubElement(robot, "joint", name="tool_mount", type="fixed")
    Tree.SubElement(
        last, "origin", xyz=_text((arm.tip - before) / _MM), rpy=_text(np.array([roll, pitch, yaw]))
    )
    Tree.SubElement(last, "parent", link=f"link{len(arm.joints)}")
    Tree.SubElement(last, "child", link="tool")
    Tree.indent(robot)
    return Tree.tostring(robot, encoding="unicode") + "\n"


def _chain(robot: Tree.Element, origin: str, tip: str) -> list[tuple[str, Tree.Element, str]]:
    """Joints with their parent and child links from the root to the tip."""
    above: dict[str, tuple[str, Tree.Element]] = {}
    parents = set()
    for joint in robot.findall("joint"):
        up, down = joint.find("parent"), joint.find("child")
        if up is None or down is None:
            raise ArmError(f"{origin}: joint {joint.get('name')!r} needs a parent and a child.")
        above[down.get("link", "")] = (up.get("link", ""), joint)
        parents.add(up.get("link", ""))
    ends = sorted(set(above) - parents)
    if not tip and len(ends) != 1:
        raise ArmError(f"{origin} has {len(ends)} ends ({', '.join(ends)}); say which carries the tool.")
    link = tip or ends[0]
    chain: list[tuple[str, Tree.Element, str]] = []
    while link in above:
        parent, element = above[link]
        chain.append((parent, element, link))
        link = parent
        if len(chain) > len(above):
            raise ArmError(f"{origin}: its joints make a loop.")
    if not chain:
        raise ArmError(f"{origin}: no joint leads to a link {tip!r}.")
    return chain[::-1]


def _joint(element: Tree.Element, kind: str, origin: str) -> Joint:
    name, limit = element.get("name", ""), element.find("limit")
    if limit is None or limit.get("velocity") is None or (kind == "revolute" and limit.get("upper") is None):
        raise ArmError(f"{origin}: joint {name!r} needs a <limit> with lower, upper and velocity.")
    low, high = (
        (-360.0, 360.0)
        if kind == "continuous"
        else tuple(_number(limit, k, origin) for k in ("lower", "upper"))
    )
    if kind == "revolute":
        low, high = float(np.rad2deg(low)), float(np.rad2deg(high))
    speed = float(np.rad2deg(_number(limit, "velocity", origin)))
    if not low < high or not speed > 0.0:
        raise ArmError(f"{origin}: joint {name!r} needs lower < upper and velocity > 0.")
    return Joint(name, (low, high), speed)


def _bodies(
    links: dict[str, Tree.Element], name: str, k: int, rotation: FloatArray, place: FloatArray, origin: str
) -> list[Body]:
    """Collision shapes of a link, where they stand at the zero pose; a cylinder becomes the capsule about it."""
    out = []
    for shape in links[name].findall("collision") if name in links else []:
        turn, shift = _origin(shape, origin)
        geometry = shape.find("geometry")
        kinds = [] if geometry is None else list(geometry)
        if len(kinds) != 1 or kinds[0].tag not in {"box", "cylinder", "sphere"}:
            raise ArmError(
                f"{origin}: link {name!r}: collision shapes are box, cylinder or sphere; give hulls in YAML."
            )
        kind, radius = kinds[0], 0.0
        if kind.tag == "box":
            points = box_points((0, 0, 0), _numbers(kind, "size", origin) * _MM)
        else:
            radius = _number(kind, "radius", origin) * _MM
            half = 0.5 * _number(kind, "length", origin) * _MM if kind.tag == "cylinder" else 0.0
            points = np.array([[0, 0, -half], [0, 0, half]]) if half else np.zeros((1, 3))
        out.append(Body(name, k, (points @ turn.T + shift) @ rotation.T + place, radius))
    return out


def _origin(element: Tree.Element, origin: str) -> tuple[FloatArray, FloatArray]:
    found = element.find("origin")
    if found is None:
        return np.eye(3), np.zeros(3)
    roll, pitch, yaw = _numbers(found, "rpy", origin) if found.get("rpy") else (0.0, 0.0, 0.0)
    shift = _numbers(found, "xyz", origin) * _MM if found.get("xyz") else np.zeros(3)
    turn = axis_rotation((0, 0, 1), yaw) @ axis_rotation((0, 1, 0), pitch) @ axis_rotation((1, 0, 0), roll)
    return turn, shift


def _numbers(element: Tree.Element, key: str, origin: str) -> FloatArray:
    try:
        values = np.array([float(part) for part in element.get(key, "").split()])
    except ValueError:
        values = np.zeros(0)
    if values.shape != (3,) or not np.all(np.isfinite(values)):
        raise ArmError(
            f"{origin}: <{element.tag} {key}=...> wants three finite numbers; {element.get(key)!r} came."
        )
    return values


def _number(element: Tree.Element, key: str, origin: str) -> float:
    try:
        value = float(element.get(key, ""))
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ArmError(
            f"{origin}: <{element.tag} {key}=...> wants a finite number; {element.get(key)!r} came."
        )
    return value


def _text(values: FloatArray) -> str:
    return " ".join(repr(float(v)) for v in values)
