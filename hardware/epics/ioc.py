"""The IOC: motor records and a camera with the Twin behind them.

::

    python -m lauepilot.hardware.epics.ioc --instrument lab --crystal si --prefix lab:

Below ``PREFIX`` there are a motor record for each axis, ``cam1:`` and ``image1:`` as of areaDetector, and ``twin:`` with the
instrument's clock and what can be made to fail.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from typing import Any

import numpy as np
from caproto import ChannelType
from caproto.asyncio.server import start_server
from caproto.server import PVGroup, pvproperty

from lauepilot.hardware.epics import camera, motor
from lauepilot.hardware.epics.environment import only_loopback, use_loopback
from lauepilot.hardware.epics.stage import Stage
from lauepilot.hardware.errors import HardwareError
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.faults import Faults
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import load_instrument
from lauepilot.simulator.twin import Twin

#: Said on standard output when clients can connect.
READY = "ready"


class TwinPVs(PVGroup):  # type: ignore[misc]
    """Clock, dose, the counting of the sensor, and the switches for faults (for tests: a real beamline has none)."""

    Clock_RBV = pvproperty(value=0.0, units="s", precision=3, read_only=True)
    Dose_RBV = pvproperty(value=0.0, units="s", precision=3, read_only=True)
    LiveTime_RBV = pvproperty(value=0.0, units="s", precision=3, read_only=True)
    Saturation_RBV = pvproperty(value=0.0, read_only=True)
    Gain_RBV = pvproperty(value=1.0, read_only=True)
    Offset_RBV = pvproperty(value=0.0, read_only=True)
    Instrument_RBV = camera.text("")
    Crystal_RBV = camera.text("")
    Seed_RBV = pvproperty(value=0, read_only=True)
    Speed = pvproperty(value=1.0)
    #: The true laboratory orientation, row by row: for referees, never for agents.
    TrueU_RBV = pvproperty(value=[0.0] * 9, read_only=True)
    FaultAxis = pvproperty(value="", dtype=ChannelType.STRING)
    FaultMotor = camera.enum(motor.FAULTS, "none")
    FaultCamera = camera.enum(camera.FAULTS, "none")
    FaultFreeze = pvproperty(value=0.0, units="s")
    FaultExit = pvproperty(value=0)

    def __init__(self, *args: Any, ioc: TwinIOC, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ioc = ioc

    async def show(self) -> None:
        """Clock, dose and orientation of now."""
        twin = self.ioc.stage.twin
        await self.Clock_RBV.write(twin.clock_s)
        await self.Dose_RBV.write(twin.dose_s)
        await self.TrueU_RBV.write(twin.u_lab().ravel())

    async def show_frame(self, frame: Frame) -> None:
        """What belongs to the last frame."""
        for pv, value in (
            (self.LiveTime_RBV, frame.live_time_s), (self.Saturation_RBV, frame.saturation),
            (self.Gain_RBV, frame.gain), (self.Offset_RBV, frame.offset),
        ):  # fmt: skip
            await pv.write(float(value))

    @Speed.putter
    async def Speed(self, instance: Any, value: float) -> float:
        """How many times faster than the wall the instrument's clock runs."""
        if not np.isfinite(value) or value <= 0.0:
            raise ValueError(f"Speed must be a positive number; {value!r} came.")
        self.ioc.stage.speed = float(value)
        return float(value)

    @FaultMotor.putter
    async def FaultMotor(self, instance: Any, value: Any) -> Any:
        """What goes wrong with the motor that FaultAxis names."""
        name = self.FaultAxis.value
        if name not in self.ioc.motors:
            raise ValueError(f"FaultAxis is {name!r}; write one of {', '.join(self.ioc.motors)} there first.")
        record = self.ioc.motors[name]
        record.fault = str(value) if str(value) in motor.FAULTS else motor.FAULTS[int(value)]
        if record.fault == "none":
            await record.clear()
        await record.refresh()
        return value

    @FaultCamera.putter
    async def FaultCamera(self, instance: Any, value: Any) -> Any:
        """What goes wrong with the camera."""
        self.ioc.cam.fault = str(value) if str(value) in camera.FAULTS else camera.FAULTS[int(value)]
        return value

    @FaultFreeze.putter
    async def FaultFreeze(self, instance: Any, value: float) -> float:
        """The whole IOC hangs for so many wall seconds."""
        time.sleep(min(float(value), 600.0))
        return 0.0

    @FaultExit.putter
    async def FaultExit(self, instance: Any, value: int) -> int:
        """The IOC dies at once."""
        if value:
            os._exit(3)
        return 0


class TwinIOC:
    """All process variables of a Twin.

    Parameters
    ----------
    twin
        What is behind.
    prefix
        Before each name, as ``lab:``.
    speed
        How many times faster than the wall the instrument's clock runs.
    seed
        Told to clients; the Twin was made with it.
    """

    def __init__(self, twin: Twin, prefix: str, speed: float, seed: int) -> None:
        if not np.isfinite(speed) or speed <= 0.0:
            raise HardwareError(f"An IOC needs time to pass: --speed must be positive; {speed} came.")
        self.stage = Stage(twin, speed, self._told)
        self._seed = seed
        detector = twin.instrument.detector
        plugin = camera.image_plugin(detector.shape, camera.wire_bits(detector.sensor.bit_depth))
        self.image = plugin(prefix=f"{prefix}image1:")
        self.twin = TwinPVs(prefix=f"{prefix}twin:", ioc=self)
        self.cam = camera.Cam(
            prefix=f"{prefix}cam1:", stage=self.stage, image=self.image, told=self.twin.show_frame
        )
        self.motors = {
            axis.name: motor.MotorRecord(prefix=f"{prefix}{axis.name}", axis=axis, stage=self.stage)
            for axis in twin.instrument.goniometer.axes
        }
        self.pvdb: dict[str, Any] = {}
        for group in (self.image, self.twin, self.cam, *self.motors.values()):
            self.pvdb |= group.pvdb

    async def _told(self) -> None:
        await self.twin.show()
        for record in self.motors.values():
            await record.refresh()

    async def begin(self, async_lib: Any = None) -> None:
        """Show what is known before anything moves."""
        twin = self.stage.twin
        sensor = twin.instrument.detector.sensor
        await self.twin.Instrument_RBV.write(twin.instrument.name)
        await self.twin.Crystal_RBV.write(twin.crystal.name)
        await self.twin.Seed_RBV.write(self._seed)
        await self.twin.Speed.write(self.stage.speed)
        await self.twin.Saturation_RBV.write(min(sensor.saturation_adu, 2.0**sensor.bit_depth - 1.0))
        await self.twin.Gain_RBV.write(sensor.gain_adu)
        await self.twin.Offset_RBV.write(sensor.offset_adu)
        await self.twin.show()


def names(crystal: str, instrument: str, prefix: str) -> list[str]:
    """All process variables, without the fields of records."""
    twin = Twin(load_crystal(crystal), load_instrument(instrument), rng=np.random.default_rng(0))
    return list(TwinIOC(twin, prefix, 1.0, 0).pvdb)


def serve(
    crystal: str,
    instrument: str,
    *,
    prefix: str = "lab:",
    seed: int = 0,
    faults: Faults | None = None,
    speed: float = 1.0,
    anywhere: bool = False,
) -> None:
    """Serve until interrupted; `READY` is printed when clients can connect.

    Parameters
    ----------
    crystal, instrument
        Names or files.
    prefix, seed, faults, speed
        As for `TwinIOC` and `Twin`.
    anywhere
        Whether clients on other machines may connect, as the EPICS variables of the environment say. Without, loopback only.

    Raises
    ------
    HardwareError
        If the environment would let others in and ``anywhere`` is not set.
    """
    use_loopback()
    if not anywhere and not only_loopback(os.environ):
        raise HardwareError(
            "EPICS_CAS_INTF_ADDR_LIST lets other machines move these motors. Set it to 127.0.0.1, or say --anywhere if "
            "that is meant."
        )
    twin = Twin(
        load_crystal(crystal), load_instrument(instrument), rng=np.random.default_rng(seed), faults=faults
    )
    ioc = TwinIOC(twin, prefix, speed, seed)

    async def ready(async_lib: Any) -> None:
        await ioc.begin()
        print(READY, flush=True)

    interfaces = os.environ.get("EPICS_CAS_INTF_ADDR_LIST", "127.0.0.1").split() or ["127.0.0.1"]
    asyncio.run(start_server(ioc.pvdb, interfaces=interfaces, log_pv_names=False, startup_hook=ready))


def main(arguments: list[str] | None = None) -> int:
    """The module as a program, for processes that are started by others."""
    parser = argparse.ArgumentParser(prog="python -m lauepilot.hardware.epics.ioc", description=serve.__doc__)
    parser.add_argument("--crystal", default="si")
    parser.add_argument("--instrument", default="lab")
    parser.add_argument("--prefix", default="lab:")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--faults", choices=("none", "lab"), default="lab")
    given = parser.parse_args(arguments)
    faults = Faults.none() if given.faults == "none" else None
    try:
        serve(
            given.crystal,
            given.instrument,
            prefix=given.prefix,
            seed=given.seed,
            faults=faults,
            speed=given.speed,
        )
    except (HardwareError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
