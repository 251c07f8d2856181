"""The IOC: motor records and a camera of areaDetector, with the Twin behind them.

::

    python -m lauepilot.hardware.epics.ioc --instrument lab --crystal si --prefix lab:

Under the prefix there are a motor record for each axis, ``cam1:`` and ``image1:`` as of areaDetector, and ``twin:`` with the
instrument's clock and with what can be made to fail.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from caproto import CaprotoNetworkError
from caproto.asyncio.server import Context
from caproto.server import PVGroup, pvproperty

from lauepilot.hardware.epics import camera, motor_fields
from lauepilot.hardware.epics.autosave import Autosave
from lauepilot.hardware.epics.environment import loopback, only_loopback, use_loopback
from lauepilot.hardware.epics.motor import MotorRecord
from lauepilot.hardware.epics.stage import Stage
from lauepilot.hardware.epics.values import Refused, pvs, show
from lauepilot.hardware.errors import HardwareError
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import LEVELS, Faults
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

logger = logging.getLogger("lauepilot.hardware")

#: Printed when clients can connect.
READY = "ready"

#: Wall seconds between looks at what is to be saved.
KEEP_S = 0.5

READ = {
    "Clock_RBV": 0.0, "Dose_RBV": 0.0, "LiveTime_RBV": 0.0, "Saturation_RBV": 0.0, "Gain_RBV": 1.0, "Offset_RBV": 0.0,
    "Instrument_RBV": "", "Crystal_RBV": "", "Seed_RBV": 0, "Axes_RBV": "",
}  # fmt: skip
SETTINGS = {
    "Speed": 1.0, "Seed": 0, "FaultAxis": "", "FaultMotor": ("none", motor_fields.FAULTS), "FaultReadback": 1.0,
    "FaultCamera": ("none", camera.FAULTS), "FaultFreeze": 0.0, "FaultDisconnect": 0, "FaultExit": 0,
}  # fmt: skip


_TwinPVs = type("_TwinPVs", (PVGroup,), {**pvs(READ, read_only=True), **pvs(SETTINGS)})


class TwinPVs(_TwinPVs):  # type: ignore[misc, valid-type]
    """Clock, dose, the counting of the sensor; and what can be made to fail (a real beamline has no such switches)."""

    #: The true laboratory orientation, row by row: for referees, never for agents.
    TrueU_RBV = pvproperty(value=[0.0] * 9, read_only=True)

    def channel(self, name: str) -> Any:
        """A process variable by its name without prefix."""
        return self.pvdb[f"{self.prefix}{name}"]

    async def tell(self, **values: Any) -> None:
        """Show read-backs."""
        for name, value in values.items():
            await show(self.channel(f"{name}_RBV"), value)


class _Server(Context):  # type: ignore[misc]
    """caproto's server, whose answers leave at once: asyncio spares its sockets that, and each answer would wait 40 ms."""

    async def tcp_handler(self, client: Any, addr: Any) -> None:
        """A client has connected."""
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await super().tcp_handler(client, addr)


class TwinIOC:
    """All process variables of a Twin; make one inside a running event loop.

    Parameters
    ----------
    twin
        What is behind.
    prefix
        Before each name, as ``lab:``.
    speed
        How many times faster than the wall the instrument's clock runs; 0 for at once.
    seed
        Told to clients; the Twin was made with it.
    autosave
        Where the state of the motors is kept; None keeps nothing. What it holds is taken over.

    Raises
    ------
    HardwareError
        If the file of ``autosave`` is of no use.
    """

    def __init__(
        self, twin: Twin, prefix: str, speed: float, seed: int, autosave: Autosave | None = None
    ) -> None:
        self.twin = twin
        self._autosave = autosave
        self._kept = {} if autosave is None else autosave.load()
        if self._kept:
            twin.move({name: float(state["dial"]) for name, state in self._kept.items()}, seconds=0.0)
        self.stage = Stage(twin, _speed(speed), self._tell)
        self._seed = seed
        self.facts = TwinPVs(prefix=f"{prefix}twin:")
        self.image = camera.image_pvs(twin.instrument, f"{prefix}image1:")
        self.cam = camera.Cam(
            prefix=f"{prefix}cam1:", stage=self.stage, image=self.image, told=self._tell_frame
        )
        self.motors = {
            axis.name: MotorRecord(prefix=f"{prefix}{axis.name}", axis=axis, stage=self.stage)
            for axis in twin.instrument.goniometer.axes
        }
        self.pvdb: dict[str, Any] = {}
        groups: list[Any] = [self.facts, self.image, self.cam, *self.motors.values()]
        for group in groups:
            self.pvdb |= group.pvdb
        self._context: Any = None

    async def run(self, interfaces: list[str]) -> None:
        """Serve on these interfaces until cancelled; `READY` is printed when clients can connect."""
        for name, record in self.motors.items():
            await record.prepare(self._kept.get(name))
        await self.cam.prepare()
        sensor = self.twin.instrument.detector.sensor
        await self.facts.tell(
            Instrument=self.twin.instrument.name[:39], Crystal=self.twin.crystal.name[:39], Seed=self._seed % 2**31,
            Axes=" ".join(self.motors)[:39],
            Saturation=min(sensor.saturation_adu, 2.0**sensor.bit_depth - 1.0),
            Gain=sensor.gain_adu, Offset=sensor.offset_adu,
        )  # fmt: skip
        await show(self.facts.channel("Speed"), self.stage.speed)
        await show(self.facts.channel("Seed"), self._seed % 2**31)
        await show(self.facts.channel("FaultAxis"), next(iter(self.motors), ""))
        await self._tell()
        for name, putter in (
            ("Speed", self._put_speed), ("Seed", self._put_seed), ("FaultAxis", self._put_fault_axis),
            ("FaultMotor", self._put_fault_motor),
            ("FaultCamera", self._put_fault_camera), ("FaultReadback", self._put_fault_readback),
            ("FaultFreeze", self._put_freeze), ("FaultDisconnect", self._put_disconnect), ("FaultExit", self._put_exit),
        ):  # fmt: skip
            self.facts.channel(name).putter = putter
        for name in ("caproto", "caproto.bcast", "caproto.ch", "caproto.circ", "caproto.ctx"):
            logging.getLogger(name).addFilter(_worth_saying)
        self._context = _Server(self.pvdb, interfaces)
        keeping = asyncio.create_task(self._keep_on())
        try:
            await self._context.run(startup_hook=self._say_ready)
        finally:
            keeping.cancel()
            self._keep()

    async def _say_ready(self, _: Any) -> None:
        while True:  # the listening begins a little after the sockets are there
            try:
                _, writer = await asyncio.open_connection(self._context.interfaces[0], self._context.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            break
        print(READY, flush=True)

    def _keep(self) -> None:
        if self._autosave is not None:
            try:
                self._autosave.save({name: record.state() for name, record in self.motors.items()})
            except OSError as error:  # a full disk is no reason to let go of motors
                logger.error("Where the motors stand could not be saved: %s", error)

    async def _keep_on(self) -> None:
        while self._autosave is not None:
            self._keep()
            await asyncio.sleep(KEEP_S)

    async def _tell(self) -> None:
        self._keep()  # at the end of each motion, before its motors say so
        await self.facts.tell(Clock=self.twin.clock_s, Dose=self.twin.dose_s, TrueU=self.twin.u_lab().ravel())

    async def _tell_frame(self, frame: Frame) -> None:
        await self.facts.tell(
            LiveTime=float(frame.live_time_s), Saturation=float(frame.saturation), Gain=float(frame.gain),
            Offset=float(frame.offset),
        )  # fmt: skip

    async def _put_speed(self, _: Any, value: Any) -> float:
        try:
            self.stage.speed = _speed(float(value))
        except HardwareError as error:
            raise Refused(str(error)) from None
        return float(value)

    async def _put_seed(self, _: Any, value: Any) -> int:
        """Mount another crystal, on an instrument with other faults, as a Twin made with this seed has them."""
        if int(value) < 0:
            raise Refused(f"A seed is 0 or more; {int(value)} came.")
        if self.cam.busy or any(record.moving for record in self.motors.values()):
            raise Refused(
                "The instrument moves or exposes; wait for its end before another crystal is mounted."
            )
        self.twin.reset(np.random.default_rng(int(value)))
        for name, record in self.motors.items():
            record.drive.stand(float(self.twin.positions[name]))
            await record.show_frame(record.drive.dial)
        await self.facts.tell(Seed=int(value))
        await self._tell()
        return int(value)

    async def _put_fault_axis(self, _: Any, value: str) -> str:
        if value not in self.motors:
            raise Refused(f"There is no axis {value!r}; there are {', '.join(self.motors)}.")
        await show(self.facts.channel("FaultMotor"), self.motors[value].fault)
        return value

    async def _put_fault_motor(self, _: Any, value: str) -> str:
        await self.motors[self.facts.channel("FaultAxis").value].set_fault(value)
        return value

    async def _put_fault_readback(self, _: Any, value: Any) -> float:
        for record in self.motors.values():
            record.readback_error = float(value)
        return float(value)

    async def _put_fault_camera(self, _: Any, value: str) -> str:
        self.cam.fault = value
        return value

    async def _put_freeze(self, _: Any, value: Any) -> float:
        time.sleep(min(max(float(value), 0.0), 600.0))  # the whole loop hangs: that is the fault
        return 0.0

    async def _put_disconnect(self, _: Any, value: Any) -> int:
        if value:
            for circuit in list(self._context.circuits):
                circuit.client.close()
        return 0

    async def _put_exit(self, _: Any, value: Any) -> int:
        if value:
            os._exit(3)
        return 0


def _worth_saying(record: logging.LogRecord) -> bool:
    """Whether caproto's log is of a fault: not of a put that was refused, whose client knows, nor of missing listeners."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, Refused | CaprotoNetworkError)


def _speed(value: float) -> float:
    if not math.isfinite(value) or value < 0.0:
        raise HardwareError(
            f"The speed of the instrument's clock is 0 (at once) or a positive number; {value} came."
        )
    return value


def names(crystal: str, instrument: str, prefix: str) -> list[str]:
    """All process variables, without the fields of records."""
    twin = Twin(load_crystal(crystal), load_instrument(instrument), rng=np.random.default_rng(0))

    async def made() -> list[str]:
        return list(TwinIOC(twin, prefix, 1.0, 0).pvdb)

    return asyncio.run(made())


def serve(
    crystal: str,
    instrument: str,
    *,
    prefix: str = "lab:",
    seed: int = 0,
    faults: Faults | None = None,
    speed: float = 1.0,
    anywhere: bool = False,
    autosave: Path | None = None,
) -> None:
    """Serve until interrupted or told to end (SIGTERM); `READY` is printed when clients can connect.

    Parameters
    ----------
    crystal, instrument
        Shipped names, or paths of files.
    prefix, seed, faults, speed
        As for `TwinIOC` and `Twin`.
    anywhere
        Whether clients on other machines may connect, as the EPICS variables of the environment say. Without, loopback only.
    autosave
        File in which place and settings of the motors are kept, and from which they are taken over.

    Raises
    ------
    HardwareError
        If the environment would let others in and ``anywhere`` is not set, or ``autosave`` is of no use.
    """
    use_loopback()
    if not anywhere:  # what clients need may be set, and nothing of servers
        for name, value in loopback().items():
            if name.startswith("EPICS_CAS_"):
                os.environ.setdefault(name, value)
    if not anywhere and not only_loopback(os.environ):
        raise HardwareError(
            "EPICS_CAS_INTF_ADDR_LIST lets other machines move these motors. Set it to 127.0.0.1, or say --anywhere if "
            "that is meant."
        )
    interfaces = os.environ.get("EPICS_CAS_INTF_ADDR_LIST", "").split() or ["127.0.0.1"]
    _speed(speed)
    twin = Twin(
        load_crystal(crystal), load_instrument(instrument), rng=np.random.default_rng(seed), faults=faults
    )

    # What is compiled at the first frame is compiled now: clients would take the wait for a camera that hangs.
    Twin(twin.crystal, twin.instrument, rng=np.random.default_rng(seed), faults=faults).expose(1e-3)

    async def run() -> None:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        keeper = None if autosave is None else Autosave(autosave, twin.instrument)
        await TwinIOC(twin, prefix, speed, seed, keeper).run(interfaces)

    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(run())


def main(arguments: list[str] | None = None) -> int:
    """The module as a program, for processes that others start."""
    parser = argparse.ArgumentParser(prog="python -m lauepilot.hardware.epics.ioc")
    parser.add_argument("--crystal", default="si")
    parser.add_argument("--instrument", default="lab")
    parser.add_argument("--prefix", default="lab:")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--faults", choices=tuple(LEVELS), default="default")
    parser.add_argument("--autosave", type=Path)
    given = parser.parse_args(arguments)
    try:
        serve(
            given.crystal,
            given.instrument,
            prefix=given.prefix,
            seed=given.seed,
            faults=LEVELS[given.faults](),
            speed=given.speed,
            autosave=given.autosave,
        )
    except (HardwareError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
