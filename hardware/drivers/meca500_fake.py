"""A Meca500 on the loopback: its documented text protocol, for tests and for trying things out without the robot.

Commands arrive on the control port, ended by a zero byte or a newline, as ``MoveJoints(10,0,0,0,0,0)``; answers are
``[code][text]`` and a zero byte. The monitoring port sends status and joints at an interval. What is here is what a
controller needs to be moved, stopped and asked; anything else is answered as the robot answers what it does not know.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque

import numpy as np

from lauepilot.hardware.drivers.meca500_line import Line
from lauepilot.simulator.arm.kinematics import forward, inverse
from lauepilot.simulator.arm.model import load_arm
from lauepilot.simulator.conventions import FloatArray, axis_rotation, rotation_matrix, rotation_vector

_TICK_S = 0.005
VERSION = "9.3.11"


class FakeMeca500:
    """The robot; ``with FakeMeca500() as robot: connect to robot.address``.

    Parameters
    ----------
    speedup
        How many times faster than the wall it moves.
    ready
        Whether it stands activated and homed from the start.
    """

    def __init__(self, speedup: float = 1.0, *, ready: bool = False) -> None:
        self.arm = load_arm("meca500")
        self.speedup = speedup
        self.joints: FloatArray = np.zeros(6)
        self.limits: list[tuple[float, float]] = [joint.limits for joint in self.arm.joints]
        self.activated = self.homed = ready
        self.error = 0
        self.paused = False
        self.received: list[str] = []
        self._velocity = 25.0  # per cent, the robot's default
        self._queue: deque[tuple[str, FloatArray]] = deque()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._stream = False
        self._eob = True
        self._line = Line(self, f"Connected to Meca500 R3 v{VERSION}")
        self.port, self.monitor_port = self._line.port, self._line.monitor_port
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Host and control port."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> FakeMeca500:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up and end its threads."""
        self._over.set()
        self.drop()
        self._line.close()
        self._thread.join(timeout=2.0)

    def drop(self) -> None:
        """Hang up on all clients, as a pulled cable does; the robot stops, since its controller is gone."""
        self.gone()
        self._line.drop()

    def fail(self, code: int = 3041, text: str = "Collision detected") -> None:
        """Stop with an error, as when a joint's torque is too high."""
        with self._lock:
            self._queue.clear()
            self.error = code
            self._line.say(code, text)
            self._tell_status()

    def press_stop(self) -> None:
        """Somebody else clears the motion."""
        with self._lock:
            self._clear()

    @property
    def moving(self) -> bool:
        """Whether motions are left and not paused."""
        with self._lock:
            return bool(self._queue) and not self.paused

    # ---------------------------------------------------------------------------------------------------- commands

    def connected(self) -> None:
        """A controller came."""
        self._stream = False

    def gone(self) -> None:
        """The controller went; the robot stops."""
        with self._lock:
            self._queue.clear()

    def obey(self, text: str) -> None:
        """A command."""
        name, _, rest = text.lstrip("-").partition("(")
        try:
            values = [float(part) for part in rest.rstrip(") ").split(",") if part.strip()]
            if not all(math.isfinite(value) for value in values):
                raise ValueError(text)
        except ValueError:
            self._line.say(1002, f"Syntax error: {text}")
            return
        with self._lock:
            self.received.append(text)
            handler = getattr(self, f"_do_{name}", None)
            if handler is not None:
                handler(values)
            elif name in {
                "SetRtc",
                "SetVariablesMonitoring",
                "SetBlending",
                "SetJointAcc",
                "SetJointVelLimit",
            }:
                pass  # accepted without an answer, and without an effect here
            else:
                self._line.say(1001, f"Command not recognized: {text}")

    def _tell_status(self) -> None:
        self._line.say(2007, self._status())

    def _status(self) -> str:
        flags = (
            self.activated,
            self.homed,
            False,
            self.error != 0,
            self.paused,
            not self._queue,
            not self._queue,
        )
        return ",".join(str(int(flag)) for flag in flags)

    def _do_ActivateRobot(self, _: list[float]) -> None:
        if self.error:
            self._line.say(1011, "The robot is in error.")
            return
        self.activated = True
        self._line.say(2000, "Motors activated.")
        self._tell_status()

    def _do_DeactivateRobot(self, _: list[float]) -> None:
        self._queue.clear()
        self.activated = self.homed = False
        self._line.say(2004, "Motors deactivated.")
        self._tell_status()

    def _do_Home(self, _: list[float]) -> None:
        if not self.activated:
            self._line.say(1005, "The robot is not activated.")
            return
        self._line.say(*((2003, "Homing already done.") if self.homed else (2002, "Homing done.")))
        self.homed = True
        self._tell_status()

    def _do_GetStatusRobot(self, _: list[float]) -> None:
        self._tell_status()

    def _do_GetRobotSerial(self, _: list[float]) -> None:
        self._line.say(2083, "m500-fake")

    def _do_GetFwVersionFull(self, _: list[float]) -> None:
        self._line.say(2082, f"{VERSION}.0-fake")

    def _do_GetRealTimeMonitoring(self, _: list[float]) -> None:
        self._line.say(2117, "")

    def _do_GetMonitoringInterval(self, _: list[float]) -> None:
        self._line.say(2116, "0.05")

    def _do_SetMonitoringInterval(self, _: list[float]) -> None:
        self._line.say(2116, "0.05")

    def _do_SetCtrlPortMonitoring(self, values: list[float]) -> None:
        self._stream = bool(values and values[0])
        self._tell_status()

    def _do_SyncCmdQueue(self, values: list[float]) -> None:
        self._line.say(2097, str(int(values[0]) if values else 0))

    def _do_GetJoints(self, _: list[float]) -> None:
        self._line.say(2026, _text(self.joints))

    def _do_GetRtJointPos(self, _: list[float]) -> None:
        self._line.say(2210, f"{time.monotonic_ns() // 1000},{_text(self.joints)}")

    def _do_GetRtTargetJointPos(self, _: list[float]) -> None:
        self._line.say(2200, f"{time.monotonic_ns() // 1000},{_text(self.joints)}")

    def _do_GetJointLimits(self, values: list[float]) -> None:
        k = abs(int(values[0])) if values else 0
        if 1 <= k <= 6:
            self._line.say(2090, f"{k},{self.limits[k - 1][0]},{self.limits[k - 1][1]}")
        else:
            self._line.say(1003, "Argument error: a joint's number is 1 to 6.")

    def _do_SetJointVel(self, values: list[float]) -> None:
        if len(values) == 1 and 0.0 < values[0] <= 100.0:
            self._velocity = values[0]
        else:
            self._refuse(1003, "Argument error: a velocity is above 0 and up to 100 per cent.")

    def _do_SetCheckpoint(self, values: list[float]) -> None:
        if self._may_move(values, 1):
            self._queue.append(("checkpoint", np.array(values)))

    def _do_MoveJoints(self, values: list[float]) -> None:
        if not self._may_move(values, 6):
            return
        for k, (value, (low, high)) in enumerate(zip(values, self.limits, strict=True), 1):
            if not low <= value <= high:
                self._refuse(
                    1007,
                    f"The requested joint #{k} position ({value:g}) is over its limit [{low:g},{high:g}].",
                )
                return
        self._queue.append(("joints", np.array(values)))
        self._eob = False

    def _do_MovePose(self, values: list[float]) -> None:
        if self._may_move(values, 6):
            self._queue_pose(values, 1)

    def _do_MoveLin(self, values: list[float]) -> None:
        if self._may_move(values, 6):
            self._queue_pose(values, 20)

    def _do_PauseMotion(self, _: list[float]) -> None:
        self.paused = True
        self._line.say(2042, "Motion paused.")
        self._line.say(3004, "End of movement.")
        self._tell_status()

    def _do_ResumeMotion(self, _: list[float]) -> None:
        self.paused = False
        self._line.say(2043, "Motion resumed.")
        self._tell_status()

    def _do_ClearMotion(self, _: list[float]) -> None:
        self._clear()

    def _do_ResetError(self, _: list[float]) -> None:
        self._line.say(
            *((2005, "The error was reset.") if self.error else (2006, "There was no error to reset."))
        )
        self.error = 0
        self._tell_status()

    def _clear(self) -> None:
        """Forget the queue and stay paused, as the robot does, until the motion is resumed."""
        self._queue.clear()
        self.paused = True
        self._line.say(2044, "The motion was cleared.")
        self._tell_status()

    def _may_move(self, values: list[float], n: int) -> bool:
        if self.error:
            self._line.say(1011, "The robot is in error.")
        elif not self.activated:
            self._refuse(1005, "The robot is not activated.")
        elif not self.homed:
            self._refuse(1006, "The robot is not homed.")
        elif len(values) != n:
            self._refuse(1002, f"Syntax error: {n} arguments are wanted, {len(values)} came.")
        else:
            return True
        return False

    def _refuse(self, code: int, text: str) -> None:
        """A command that cannot be obeyed brings the robot into error."""
        self._queue.clear()
        self.error = code
        self._line.say(code, text)
        self._tell_status()

    def _queue_pose(self, values: list[float], steps: int) -> None:
        """Flange to x, y, z (mm), turned by mobile XYZ Euler angles (degrees), in so many joint moves."""
        a, b, c = np.deg2rad(values[3:])
        wanted = axis_rotation((1, 0, 0), a) @ axis_rotation((0, 1, 0), b) @ axis_rotation((0, 0, 1), c)
        targets = [value for kind, value in self._queue if kind == "joints"]
        q = np.deg2rad(targets[-1] if targets else self.joints)
        # The DH frame of the flange has its x axis down at the zero pose, as the robot's own.
        start, place = forward(self.arm, q)
        turn = rotation_vector(wanted @ start.T)
        for k in range(1, steps + 1):
            share = k / steps
            found = inverse(
                self.arm,
                rotation_matrix(share * turn) @ start,
                place + share * (np.array(values[:3]) - place),
            )
            near = [
                s.q for s in found if np.max(np.abs(s.q - q)) < (np.deg2rad(60.0) if steps > 1 else np.inf)
            ]
            if not near:
                self._refuse(3005, "The pose cannot be reached.")
                return
            q = min(near, key=lambda other: float(np.max(np.abs(other - q))))
            self._queue.append(("joints", np.rad2deg(q)))
        self._eob = False

    # ------------------------------------------------------------------------------------------------------ motion

    def _run(self) -> None:
        """Move, and stream what monitors want."""
        last = streamed = time.monotonic()
        speeds = np.array([joint.speed for joint in self.arm.joints])
        while not self._over.wait(_TICK_S):
            now = time.monotonic()
            with self._lock:
                self._advance((now - last) * self.speedup, speeds * self._velocity / 100.0)
                if not self._queue and not self._eob:
                    self._eob = True
                    self._line.say(3012, "End of block.")
                    self._tell_status()
                if now - streamed > 0.05:
                    streamed = now
                    self._send_stream()
            last = now

    def _advance(self, seconds: float, speeds: FloatArray) -> None:
        while self._queue and not self.paused and seconds > 0.0:
            kind, values = self._queue[0]
            if kind == "checkpoint":
                self._line.say(3030, str(int(values[0])))
                self._queue.popleft()
                continue
            way = values - self.joints
            needed = float(np.max(np.abs(way) / speeds))
            if needed > seconds:
                self.joints = self.joints + way * (seconds / needed)
                return
            self.joints, seconds = values.copy(), seconds - needed
            self._queue.popleft()

    def _send_stream(self) -> None:
        if self._stream:
            self._tell_status()
            self._do_GetRtTargetJointPos([])
        self._line.feed((2007, self._status()), (2026, _text(self.joints)))


def _text(values: FloatArray) -> str:
    return ",".join(f"{value:.5f}" for value in values)
