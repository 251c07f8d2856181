"""Forward and inverse kinematics against pinocchio, published numbers and finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lauepilot.simulator.arm.kinematics import forward, inverse, jacobian, singularity, wrist_centre
from lauepilot.simulator.arm.model import ArmError, Joint, arm_from_dh, load_arm, parse_arm
from lauepilot.simulator.arm.urdf import read_urdf, write_urdf
from lauepilot.simulator.conventions import random_rotation, rotation_vector

MECA = load_arm("meca500")

# Written by hand in the usual way of URDF: every joint in its parent's frame, turned by rpy. Not spherical.
HAND = """<robot name="hand">
  <link name="a"/><link name="b"><collision>
  <origin xyz="0 0 0.05"/><geometry><cylinder radius="0.03" length="0.1"/></geometry>
  </collision></link><link name="c"/><link name="d"/><link name="e"/><link name="f"/><link name="g"/><link name="tool"/>
  <joint name="j1" type="revolute"><origin xyz="0 0 0.1"/><parent link="a"/><child link="b"/><axis xyz="0 0 1"/>
    <limit lower="-3" upper="3" effort="0" velocity="2"/></joint>
  <joint name="j2" type="revolute"><origin xyz="0.02 0 0.1" rpy="-1.5707963 0 0"/><parent link="b"/><child link="c"/>
    <axis xyz="0 0 1"/><limit lower="-2" upper="2" effort="0" velocity="2"/></joint>
  <joint name="j3" type="revolute"><origin xyz="0.2 0 0.03" rpy="0 0 0.3"/><parent link="c"/><child link="d"/>
    <axis xyz="0 0 1"/><limit lower="-2" upper="2" effort="0" velocity="2"/></joint>
  <joint name="j4" type="revolute"><origin xyz="0.15 0.04 0" rpy="0.2 1.4 0.1"/><parent link="d"/><child link="e"/>
    <axis xyz="0 0 1"/><limit lower="-3" upper="3" effort="0" velocity="2"/></joint>
  <joint name="j5" type="revolute"><origin xyz="0.01 0 0.08" rpy="1.5 0 0"/><parent link="e"/><child link="f"/>
    <axis xyz="0 1 1"/><limit lower="-2" upper="2" effort="0" velocity="2"/></joint>
  <joint name="j6" type="continuous"><origin xyz="0 0.06 0"/><parent link="f"/><child link="g"/><axis xyz="0 0 1"/>
    <limit effort="0" velocity="2"/></joint>
  <joint name="mount" type="fixed"><origin xyz="0 0 0.05" rpy="0.1 0.2 0.3"/><parent link="g"/><child link="tool"/></joint>
</robot>"""


def draws(arm, rng, n):
    return rng.uniform(arm.limits[:, 0], arm.limits[:, 1], size=(n, len(arm.joints)))


def test_the_zero_pose_is_the_makers():
    rotation, place = forward(MECA, np.zeros(6))
    assert np.allclose(place, (190.0, 0.0, 308.0), atol=1e-9)
    assert np.allclose(rotation[:, 2], (1.0, 0.0, 0.0), atol=1e-12)
    # The wrist reaches 260 mm from the shoulder, says the maker: to the full millimetre.
    stretched = replace(MECA, tip=wrist_centre(MECA))
    far = max(
        np.linalg.norm(forward(stretched, (0, 0, t, 0, 0, 0))[1] - (0, 0, 135))
        for t in np.linspace(-2, 0, 2001)
    )
    assert int(far) == 260


@pytest.mark.parametrize(
    "text", [write_urdf(MECA.with_tool((3.0, -4.0, 55.0))), HAND], ids=["meca500", "hand"]
)
def test_forward_agrees_with_pinocchio(text):
    pin = pytest.importorskip("pinocchio", reason="pip install pin (extra test)")
    arm = read_urdf(text, "test")
    model = pin.buildModelFromXML(text)
    data, frame = model.createData(), model.getFrameId("tool")
    names = [name for name in model.names if name != "universe"]
    assert names == list(arm.names)
    worst = 0.0
    for q in draws(arm, np.random.default_rng(1), 200):
        # pinocchio keeps a joint without limits as a point on a circle
        full = np.concatenate([q[:-1], [np.cos(q[-1]), np.sin(q[-1])]]) if model.nq == 7 else q
        pin.framesForwardKinematics(model, data, full)
        rotation, place = forward(arm, q)
        worst = max(worst, np.abs(rotation - data.oMf[frame].rotation).max())
        worst = max(worst, np.abs(place / 1000.0 - data.oMf[frame].translation).max())
        theirs = pin.computeFrameJacobian(model, data, full, frame, pin.LOCAL_WORLD_ALIGNED)
        theirs[:3] *= 1000.0
        assert np.allclose(jacobian(arm, q), theirs, atol=1e-9)
    assert worst <= 1e-9


def test_dh_and_urdf_say_the_same():
    again = read_urdf(write_urdf(MECA))
    for q in draws(MECA, np.random.default_rng(2), 20):
        for a, b in zip(forward(MECA, q), forward(again, q), strict=True):
            assert np.allclose(a, b, atol=1e-9)
    assert np.allclose([j.limits for j in again.joints], [j.limits for j in MECA.joints])


def test_the_jacobian_is_the_derivative():
    q, step = np.array([0.3, -0.4, 0.5, -0.6, 0.7, -0.8]), 1e-6
    columns = []
    for k in range(6):
        d = np.eye(6)[k] * step
        (r0, p0), (r1, p1) = forward(MECA, q - d), forward(MECA, q + d)
        columns.append(np.concatenate([p1 - p0, rotation_vector(r1 @ r0.T)]) / (2 * step))
    assert np.allclose(jacobian(MECA, q), np.stack(columns, axis=1), atol=1e-5)


def test_all_solutions_of_reachable_poses_are_found():
    arm = MECA.with_tool((0.0, 0.0, 45.0))
    found = 0
    for q in draws(arm, np.random.default_rng(3), 300):
        rotation, place = forward(arm, q)
        solutions = inverse(arm, rotation, place)
        for s in solutions:
            r, p = forward(arm, s.q)
            assert np.allclose(r, rotation, atol=1e-8)
            assert np.allclose(p, place, atol=1e-6)
            assert np.all((s.q >= arm.limits[:, 0]) & (s.q <= arm.limits[:, 1]))
        apart = [np.max(np.abs((s.q - q + np.pi) % (2 * np.pi) - np.pi)) for s in solutions]
        found += min(apart, default=9.0) < 1e-6
        assert [s.singularity for s in solutions] == sorted((s.singularity for s in solutions), reverse=True)
    assert found == 300


def test_no_more_than_least_squares_finds():
    # Another way to the same end: every solution that many starts find is one of ours.
    from lauepilot.simulator.arm.kinematics import raw_solutions

    for q in draws(MECA, np.random.default_rng(4), 3):
        rotation, place = forward(MECA, q)
        z = rotation @ MECA.tip_rotation.T
        ours = raw_solutions(MECA, wrist_centre(MECA), z, place)
        for other in raw_solutions(MECA, None, z, place):
            assert min(np.max(np.abs((s - other + np.pi) % (2 * np.pi) - np.pi)) for s in ours) < 1e-4
        assert len(ours) in {2, 4, 6, 8}


def test_an_arm_without_a_spherical_wrist_is_solved_by_steps():
    arm = read_urdf(HAND)
    assert wrist_centre(arm) is None
    solved = 0
    for q in draws(arm, np.random.default_rng(5), 8):
        rotation, place = forward(arm, q)
        solutions = inverse(arm, rotation, place)
        solved += bool(solutions)
        for s in solutions:
            assert np.allclose(forward(arm, s.q)[1], place, atol=1e-5)
    assert solved == 8


def test_singular_poses_are_told_and_solved():
    straight = np.array([0.2, 0.1, -0.3, 0.4, 0.0, 0.5])  # wrist straight: axes 4 and 6 are one
    assert singularity(MECA, straight) < 1e-9
    assert singularity(MECA, straight + np.eye(6)[4] * 0.8) > 0.05
    rotation, place = forward(MECA, straight)
    assert any(
        np.allclose(forward(MECA, s.q)[0], rotation, atol=1e-7) for s in inverse(MECA, rotation, place)
    )


def test_out_of_reach_is_no_solution():
    rng = np.random.default_rng(6)
    assert inverse(MECA, random_rotation(rng), (0.0, 600.0, 0.0)) == []
    for wrong in (np.diag([1.0, 1.0, -1.0]), np.full((3, 3), np.nan), np.eye(4)):
        with pytest.raises(ArmError, match="rotation"):
            inverse(MECA, wrong, (0, 0, 0))
    with pytest.raises(ArmError, match="6 joints"):
        forward(MECA, (0.0,) * 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<robot", "<!DOCTYPE r [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><robot"), "no document type"),
        (('type="continuous"', 'type="prismatic"'), "prismatic"),
        (('upper="3"', 'higher="3"'), "needs a <limit>"),
        (('xyz="0 0 0.1"', 'xyz="0 0 nan"'), "three finite numbers"),
        (("<cylinder", "<mesh filename='x.stl'/><cylinder"), "box, cylinder or sphere"),
        (("</robot>", ""), "not XML"),
        (('<child link="tool"/>', '<child link="a"/>'), "ends|loop"),
    ],
)
def test_wrong_urdfs_are_refused(change, message):
    with pytest.raises(ArmError, match=message):
        read_urdf(HAND.replace(*change))


def test_urdf_shapes_stand_where_the_file_says():
    body = read_urdf(HAND).bodies[0]
    assert (body.link, body.radius) == (1, 30.0)
    assert np.allclose(body.points, [[0, 0, 100], [0, 0, 200]])


def test_wrong_arm_files_are_refused():
    good = "name: x\njoints:\n  - {name: j1, theta: 0, d: 1, a: 0, alpha: 0, limits: [-1, 1], speed: 1}\n"
    assert parse_arm(good).names == ("j1",)
    for old, new, message in (
        ("speed: 1", "speed: 0", "speed"),
        ("[-1, 1]", "[1, -1]", "low < high"),
        ("d: 1", "d: .nan", "finite"),
        ("name: x", "nane: x", "nane"),
        ("joints:", "joints: [", "YAML"),
    ):
        with pytest.raises(ArmError, match=message):
            parse_arm(good.replace(old, new))
    with pytest.raises(ArmError, match="Shipped: meca500"):
        load_arm("ur5")
    with pytest.raises(ArmError, match="DH rows"):
        arm_from_dh("x", [Joint("a", (-1, 1), 1)], np.zeros((2, 4)))
