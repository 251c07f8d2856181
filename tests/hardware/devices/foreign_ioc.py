"""Somebody else's IOC, as plain as they come: caproto's own example motors and a camera of a few process variables.

Its motors are known to tell clients no control limits and to have no put-completion. Run as a script in a process of its
own; it says ``ready`` when it serves.
"""

from __future__ import annotations

import sys

import numpy as np
from caproto import ChannelType
from caproto.ioc_examples.fake_motor_record import FakeMotor
from caproto.server import PVGroup, SubGroup, pvproperty, run

AXES = ("omega", "chi", "phi")
ROWS, COLS = 48, 64


class Cam(PVGroup):
    """A camera whose image is its number, at once."""

    AcquireTime = pvproperty(value=0.1)
    Acquire = pvproperty(value="Done", dtype=ChannelType.ENUM, enum_strings=["Done", "Acquire"])
    Acquire_RBV = pvproperty(value="Done", dtype=ChannelType.ENUM, enum_strings=["Done", "Acquiring"])
    ImageMode = pvproperty(
        value="Single", dtype=ChannelType.ENUM, enum_strings=["Single", "Multiple", "Continuous"]
    )
    TriggerMode = pvproperty(value="Internal", dtype=ChannelType.ENUM, enum_strings=["Internal", "External"])
    NumImages = pvproperty(value=1)
    DetectorState_RBV = pvproperty(
        value="Idle", dtype=ChannelType.ENUM, enum_strings=["Idle", "Acquire", "Aborted"]
    )
    DataType_RBV = pvproperty(
        value="UInt16", dtype=ChannelType.ENUM, enum_strings=["Int8", "UInt8", "UInt16"]
    )
    Manufacturer_RBV = pvproperty(value="nobody", dtype=ChannelType.STRING)
    Model_RBV = pvproperty(value="plain", dtype=ChannelType.STRING)
    # For tests: 1 never finishes, 2 forgets the image, 3 is stopped by somebody and gives the image until then.
    Broken = pvproperty(value=0)

    @Acquire.putter
    async def Acquire(self, instance, value):
        if str(value) in ("0", "Done"):
            await self.Acquire_RBV.write(0)
            await self.DetectorState_RBV.write("Idle")
            return 0
        if self.Acquire_RBV.value not in (0, "Done"):
            return 1
        await self.Acquire_RBV.write(1)
        await self.DetectorState_RBV.write("Acquire")
        if self.Broken.value == 1:
            return 1
        cut = self.Broken.value == 3
        await self.async_lib.library.sleep(self.AcquireTime.value * (0.3 if cut else 1.0))
        await self.DetectorState_RBV.write("Aborted" if cut else "Idle")
        await self.Acquire_RBV.write(0)
        if self.Broken.value in (0, 3):
            await self.parent.image.new()
        return 0

    @Acquire.startup
    async def Acquire(self, instance, async_lib):
        self.async_lib = async_lib


class Image(PVGroup):
    """What the image plugin serves: 16 bits travel as signed ones."""

    ArrayData = pvproperty(value=[0], dtype=ChannelType.INT, max_length=ROWS * COLS * 2)
    ArraySize0_RBV = pvproperty(value=COLS)
    ArraySize1_RBV = pvproperty(value=ROWS)
    UniqueId_RBV = pvproperty(value=0)

    async def new(self):
        number = self.UniqueId_RBV.value + 1
        pixels = np.arange(ROWS * COLS).reshape(ROWS, COLS) + 40_000 + number
        await self.ArrayData.write(pixels.astype(np.uint16).view(np.int16).ravel())
        await self.UniqueId_RBV.write(number)


class Foreign(PVGroup):
    """The whole."""

    cam = SubGroup(Cam, prefix="cam1:")
    image = SubGroup(Image, prefix="image1:")
    # Against the instrument's sense, and off by 30 deg.
    omega = SubGroup(FakeMotor, prefix="m1", velocity=40.0, user_limits=(-100.0, 100.0), tick_rate_hz=50.0)
    chi = SubGroup(FakeMotor, prefix="m2", velocity=40.0, user_limits=(-100.0, 100.0), tick_rate_hz=50.0)
    phi = SubGroup(FakeMotor, prefix="m3", velocity=40.0, user_limits=(-20.0, 20.0), tick_rate_hz=50.0)


async def say_ready(_):
    print("ready", flush=True)


if __name__ == "__main__":
    run(
        Foreign(prefix=sys.argv[1]).pvdb, interfaces=["127.0.0.1"], log_pv_names=False, startup_hook=say_ready
    )
