"""The Mecademic Meca500 through its vendor's package, ``mecademicpy``.

The arm is moved joint by joint in straight joint moves along a way that was checked before (`ArmGoniometer`): the robot
plans nothing by itself. Its own limits are compared with ours at connection, since the tighter ones win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lauepilot.hardware.drivers.stage import ControllerError
from lauepilot.simulator.goniometer import Goniometer

_TIMEOUT_S = 5.0


class Meca500Controller:
    """A robot at an address; connect with `connect_meca500`.

    Parameters
    ----------
    robot
        A connected ``mecademicpy.robot.Robot``.
    chain
        Axes and their limits, in the order of the joints.
    """

    def __init__(self, robot: Any, chain: Goniometer) -> None:
        self._robot = robot
        self.names = chain.names
        self.chain = chain

    def position(self) -> dict[str, float]:
        """Read-back of the joints, degrees, asked of the robot now."""
        joints = self._ask(lambda: self._robot.GetRtJointPos(synchronous_update=True, timeout=_TIMEOUT_S))
        return dict(zip(self.names, map(float, joints), strict=True))

    def start(self, points: Sequence[Mapping[str, float]]) -> None:
        """Queue straight joint moves to these positions; joints not named stay."""
        self._healthy()
        here = self.position()

        def send() -> None:
            status = self._robot.GetStatusRobot(synchronous_update=True, timeout=_TIMEOUT_S)
            if status.pause_motion_status:
                # Whoever paused may have left moves in the queue: they must not wake up with ours.
                self._robot.ClearMotion()
                self._robot.WaitMotionCleared(timeout=_TIMEOUT_S)
                self._robot.ResumeMotion()
                self._robot.WaitMotionResumed(timeout=_TIMEOUT_S)
            for point in points:
                here.update(point)
                self._robot.MoveJoints(*(here[name] for name in self.names))

        self._ask(send)

    def moving(self) -> bool:
        """Whether moves are left in the robot's queue and it is not paused.

        Raises
        ------
        ControllerError
            If the robot is in error or does not answer.
        """
        status = self._healthy()
        return not (status.end_of_block_status or status.pause_motion_status)

    def stop(self) -> None:
        """Stop as fast as the robot can, and empty its queue; it stays paused until the next move."""
        self._ask(self._robot.ClearMotion)
        self._ask(lambda: self._robot.WaitMotionCleared(timeout=_TIMEOUT_S))

    def reset(self) -> None:
        """Reset the robot's error, and make it ready again, where somebody has looked at the cause."""
        self._ask(self._robot.ResetError)
        self._ask(self._make_ready)

    def disconnect(self) -> None:
        """Hang up."""
        self._robot.Disconnect()

    def make_ready(self) -> None:
        """Activate and home the robot if it is not: homing moves each joint by a few degrees."""
        self._healthy()
        self._ask(self._make_ready)

    def check_limits(self) -> None:
        """Compare the robot's own joint limits with ours.

        Raises
        ------
        ControllerError
            If ours allow more than the robot's: a move would bring it into error half-way.
        """
        for k, axis in enumerate(self.chain.axes, 1):
            low, high = self._ask(lambda k=k: self._robot.GetJointLimits(k, timeout=_TIMEOUT_S))
            if axis.limits[0] < low - 1e-6 or axis.limits[1] > high + 1e-6:
                raise ControllerError(
                    f"Joint {axis.name!r} may go from {axis.limits[0]:g} to {axis.limits[1]:g} deg here, but the robot "
                    f"itself allows {low:g} to {high:g} deg. Narrow the limits in the instrument's file."
                )

    def _make_ready(self) -> None:
        status = self._robot.GetStatusRobot(synchronous_update=True, timeout=_TIMEOUT_S)
        if not status.activation_state:
            self._robot.ActivateRobot()
            self._robot.WaitActivated(timeout=30.0)
        if not status.homing_state:
            self._robot.Home()
            self._robot.WaitHomed(timeout=60.0)

    def _healthy(self) -> Any:
        status = self._ask(lambda: self._robot.GetStatusRobot(synchronous_update=True, timeout=_TIMEOUT_S))
        if status.error_status:
            raise ControllerError(
                "The Meca500 is in error, and does not move. Look at its panel for the cause, remove it, then call reset()."
            )
        return status

    def _ask(self, question: Any) -> Any:
        """What the vendor's package answers; its errors as ours."""
        if not self._robot.IsConnected():
            raise ControllerError(
                "The connection to the Meca500 is lost. Check power and cable, then connect again."
            )
        try:
            return question()
        except Exception as error:
            raise ControllerError(
                f"The Meca500 did not answer as expected ({type(error).__name__}: {error}). If it is powered and reachable, "
                "connect again; if its light is red, reset its error first."
            ) from error


def connect_meca500(address: str, chain: Goniometer, *, speed_percent: float = 25.0) -> Meca500Controller:
    """Connect to a Meca500, make sure that limits agree, and make it ready.

    Parameters
    ----------
    address
        Its IP address, with ``:port`` if it is not 10000.
    chain
        Axes in the order of its joints.
    speed_percent
        Of its top speed.

    Raises
    ------
    ControllerError
        If the package is missing, the robot does not answer or is in error, or our limits are wider than its own.
    """
    try:
        from mecademicpy.robot import Robot  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise ControllerError(
            "The Meca500 needs its vendor's package mecademicpy: pip install lauepilot[arm]."
        ) from None
    if len(chain.axes) != 6 or len(chain.rotations) != 6:
        raise ControllerError(f"A Meca500 has six joints; this goniometer has {', '.join(chain.names)}.")
    if not 0.0 < speed_percent <= 100.0:
        raise ControllerError(f"speed_percent must be above 0 and up to 100; {speed_percent!r} came.")
    robot = Robot()
    try:
        robot.Connect(address, disconnect_on_exception=False)
    except Exception as error:
        raise ControllerError(
            f"No Meca500 answers at {address} ({error}). Check address, power and cable."
        ) from error
    controller = Meca500Controller(robot, chain)
    try:
        controller.check_limits()
        controller.make_ready()
        robot.SetJointVel(speed_percent)
    except BaseException:
        controller.disconnect()
        raise
    return controller
