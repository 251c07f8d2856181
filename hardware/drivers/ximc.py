"""Standa 8SMC controllers through their vendor's ``libximc``: one controller an axis.

``libximc`` has virtual axes behind the real driver, ``xi-emu:///path/file.bin``; they do not enforce their borders
(nor does a real controller whose border flags are off), so limits are looked at here before every move, whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lauepilot.hardware.drivers.stage import ControllerError
from lauepilot.simulator.goniometer import Goniometer

_MICRO = 256  # microsteps a step, the controllers' usual mode


class XimcController:
    """Axes by name; connect with `connect_ximc`.

    Parameters
    ----------
    axes
        Opened ``libximc.highlevel.Axis`` by axis name.
    steps_per_unit
        Whole motor steps a degree or mm, by axis name; negative where the motor counts the other way.
    chain
        Names, limits and speeds.
    """

    def __init__(
        self, axes: Mapping[str, Any], steps_per_unit: Mapping[str, float], chain: Goniometer
    ) -> None:
        self._axes = dict(axes)
        self._steps = {name: float(steps_per_unit[name]) for name in axes}
        self._chain = chain

    def position(self) -> dict[str, float]:
        """Read-back, degrees and mm."""
        here = {}
        for name in self._steps:
            status = self._ask(name, "get_status")
            here[name] = (status.CurPosition + status.uCurPosition / _MICRO) / self._steps[name]
        return here

    def start(self, points: Sequence[Mapping[str, float]]) -> None:
        """Move all named axes at once to the one point there is.

        Raises
        ------
        ControllerError
            If there are several points: these controllers know no paths.
        ReachError
            If a position is outside the limits; then nothing moves.
        """
        if len(points) != 1:
            raise ControllerError(
                f"An ximc controller goes to one place at a time; {len(points)} points came."
            )
        self._chain.check(points[0])
        unknown = sorted(set(points[0]) - set(self._axes))
        if unknown:
            raise ControllerError(
                f"No controller for axis {unknown[0]!r}; there are {', '.join(self._axes)}."
            )
        for name, position in points[0].items():
            self._ask(name, "command_move", *self._in_steps(name, position))

    def moving(self) -> bool:
        """Whether any axis runs.

        Raises
        ------
        ControllerError
            If an axis reports a failed command or an alarm.
        """
        from libximc.highlevel import MvcmdStatus, StateFlags  # type: ignore[import-untyped, import-not-found, unused-ignore]

        running = False
        for name in self._axes:
            status = self._ask(name, "get_status")
            if status.MvCmdSts & MvcmdStatus.MVCMD_ERROR or status.Flags & StateFlags.STATE_ALARM:
                raise ControllerError(
                    f"Axis {name!r} reports an error or alarm. Look at its motor and cable."
                )
            running |= bool(status.MvCmdSts & MvcmdStatus.MVCMD_RUNNING)
        return running

    def stop(self) -> None:
        """Stop all axes at once; every one is told, even if another does not answer."""
        failed = []
        for name in self._axes:
            try:
                self._ask(name, "command_stop")
            except ControllerError as error:
                failed.append(str(error))
        if failed:
            raise ControllerError(" ".join(failed))

    def disconnect(self) -> None:
        """Close all axes."""
        for axis in self._axes.values():
            axis.close_device()
        self._axes = {}

    def prepare(self) -> None:
        """Give the controllers our limits as borders and our speeds."""
        for name in self._axes:
            axis = self._chain.axis(name)
            ends = sorted(self._in_steps(name, limit) for limit in axis.limits)
            edges = self._ask(name, "get_edges_settings")
            (edges.LeftBorder, edges.uLeftBorder), (edges.RightBorder, edges.uRightBorder) = ends
            self._ask(name, "set_edges_settings", edges)
            speed = divmod(round(abs(self._steps[name]) * axis.speed * _MICRO), _MICRO)
            move = self._ask(name, "get_move_settings")
            move.Speed, move.uSpeed = max(int(speed[0]), 1), int(speed[1])
            self._ask(name, "set_move_settings", move)

    def _in_steps(self, name: str, position: float) -> tuple[int, int]:
        micro = round(position * self._steps[name] * _MICRO)
        # Steps and microsteps have one sign on the wire.
        whole = int(np.fix(micro / _MICRO))
        return whole, micro - whole * _MICRO

    def _ask(self, name: str, command: str, *values: Any) -> Any:
        axis = self._axes.get(name)
        if axis is None:
            raise ControllerError(f"The connection to axis {name!r} is closed. Connect again.")
        try:
            return getattr(axis, command)(*values)
        except Exception as error:
            raise ControllerError(
                f"Axis {name!r} did not answer {command} ({type(error).__name__}: {error}). Check power and cable."
            ) from error


def connect_ximc(
    uris: Mapping[str, str], steps_per_unit: Mapping[str, float], chain: Goniometer
) -> XimcController:
    """Open one controller for each axis of a stage.

    Parameters
    ----------
    uris
        By axis name, as libximc writes them: ``xi-com:///dev/ximc/00000001``, ``xi-net://host/serial``,
        ``xi-emu:///path/file.bin`` for a virtual axis.
    steps_per_unit
        Whole motor steps a degree or mm, by axis name, negative where the motor counts the other way.
    chain
        The axes as believed.

    Raises
    ------
    ControllerError
        If the package is missing, names do not fit the axes, or a controller cannot be opened.
    """
    try:
        import libximc.highlevel as ximc  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except (ImportError, OSError) as error:
        raise ControllerError(
            f"The ximc controllers need their vendor's library ({error}): pip install lauepilot[arm]; of libximc not 3.1.2, "
            "which cannot be imported on Linux."
        ) from None
    names = set(chain.names)
    if set(uris) != names or set(steps_per_unit) != names:
        raise ControllerError(
            f"Give a URI and steps_per_unit for each of {', '.join(chain.names)}, and for no other axis."
        )
    if any(not np.isfinite(value) or value == 0.0 for value in steps_per_unit.values()):
        raise ControllerError("steps_per_unit must be finite and not 0.")
    opened: dict[str, Any] = {}
    try:
        for name, uri in uris.items():
            opened[name] = ximc.Axis(uri)
            opened[name].open_device()
        controller = XimcController(opened, steps_per_unit, chain)
        controller.prepare()
    except Exception as error:
        for axis in opened.values():
            try:
                axis.close_device()
            except Exception:  # it was never open
                continue
        raise ControllerError(
            f"Could not open the ximc axes: {error}. Check the URIs, and that no other program holds them."
        ) from error
    return controller
