"""The same rig with an IOC under it: devices of ophyd or ophyd-async, the Twin in another process, Channel Access between.

The referee has its own connection to the IOC, and does not ask the devices that it judges.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lauepilot.bench.hardware.rig import PATIENCE_S, DummyEyes, Rig
from lauepilot.hardware.devices.config import usual_devices, wait_connected
from lauepilot.hardware.epics.process import RunningIOC, running_ioc
from lauepilot.hardware.errors import HardwareError
from lauepilot.simulator.instrument import load_instrument

LIBRARIES = {"EPICS, ophyd": "ophyd", "EPICS, ophyd-async": "ophyd-async"}
#: The clock of the Twin behind the IOC where a fault asks for none: a motion takes milliseconds.
AT_ONCE = 500.0

#: Wall seconds after which the referee's client has looked again for an IOC that came back: it looks ever more rarely.
RETURN_S = 90.0

#: Wall seconds that the first exposure of an IOC may take.
WARM_UP_S = 180.0

#: As ``lab``, with few pixels.
_INSTRUMENT = """
name: small
title: For the fault table
exposure_s: 1
beam:
  radiation: xray
  spectrum: {kind: tungsten_tube, kv: 35, current_ma: 10, distance_mm: 500, filtration_mm: {Be: 0.5, air: 500}}
  size_mm: [0.5, 0.5]
detectors:
  - {name: film, kind: flat, shape: [48, 64], pixel_mm: [1.5, 1.5], distance_mm: 40, centre_px: [31.5, 23.5],
     normal: [0, 0, -1], col_direction: [1, 0, 0], row_direction: [0, -1, 0], sensor: {readout_s: 0.1}}
goniometer:
  - {name: omega, direction: [0, 1, 0], limits: [-100, 100], speed: 5, settle_s: 0.1, resolution: 0.001}
  - {name: chi, direction: [0, 0, 1], limits: [-100, 100], speed: 5, settle_s: 0.1, resolution: 0.001}
  - {name: phi, direction: [0, 1, 0], limits: [-180, 180], speed: 5, settle_s: 0.1, resolution: 0.001}
"""


class Bench:
    """An IOC that is broken and mended again, and the referee's connection to it."""

    def __init__(self, ioc: RunningIOC, instrument_file: Path) -> None:
        import epics

        self.ioc, self.instrument = ioc, load_instrument(instrument_file)
        self._epics = epics
        self._pvs: dict[str, Any] = {}

    def pv(self, name: str) -> Any:
        """A process variable below the prefix, connected."""
        if name not in self._pvs:
            # No monitors, which would slow the IOC down; and of another form than ophyd's, which else were handed this one.
            self._pvs[name] = self._epics.PV(f"{self.ioc.prefix}{name}", form="native", auto_monitor=False)
        pv = self._pvs[name]
        if not pv.wait_for_connection(RETURN_S):
            raise HardwareError(f"The referee finds no {pv.pvname}. Is the IOC running?")
        return pv

    def put(self, name: str, value: object, wait: bool = True) -> None:
        """Write, and wait until it has been carried out."""
        self.pv(name).put(value, wait=wait, timeout=PATIENCE_S)

    def get(self, name: str) -> Any:
        """Read, from the IOC and not from a monitor."""
        return self.pv(name).get(use_monitor=False, timeout=5.0)

    def positions(self) -> dict[str, float]:
        """Where the axes stand by their encoders."""
        return {name: float(self.get(f"{name}.DRBV")) for name in self.instrument.goniometer.names}

    def resting(self) -> bool:
        """Whether motors and camera say that they are at rest."""
        motors = all(int(self.get(f"{name}.DMOV")) for name in self.instrument.goniometer.names)
        return motors and not int(self.get("cam1:Acquire"))

    def fault(self, axis: str, what: str) -> None:
        """Break a motor."""
        self.put("twin:FaultAxis", axis)
        self.put("twin:FaultMotor", what)

    def mend(self, speed: float = AT_ONCE) -> None:
        """Nothing broken, all axes at zero, and the clock at a speed."""
        if self.ioc.pid is None:
            self.ioc.start()
        names = self.instrument.goniometer.names
        for name in names:
            self.fault(name, "none")
        self.put("twin:FaultCamera", "none")
        self.put("twin:Speed", AT_ONCE)
        self.put("cam1:Acquire", 0)
        for name in names:
            self.put(f"{name}.STOP", 1)
        self.until(self.resting)
        for name, at in self.positions().items():
            if at != 0.0:
                self.put(name, 0.0, wait=False)  # all together
        self.until(lambda: all(at == 0.0 for at in self.positions().values()) and self.resting())
        self.put("twin:Speed", speed)

    def until(self, so: Callable[[], bool]) -> None:
        """Wait for something."""
        end = time.monotonic() + PATIENCE_S
        while not so():
            if time.monotonic() > end:
                raise HardwareError(f"The bench cannot be mended: {self.positions()}.")
            time.sleep(0.01)


@contextmanager
def epics_maker(setting: str) -> Iterator[Callable[[float], Rig]]:
    """What makes rigs of a setting, on an IOC that runs as long.

    Raises
    ------
    ImportError
        If a package is missing.
    """
    library: Any = LIBRARIES[setting]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.yaml"
        file.write_text(_INSTRUMENT, encoding="utf-8")
        with running_ioc(instrument=str(file), seed=3, speed=AT_ONCE, faults="none") as ioc:
            bench = Bench(ioc, file)
            # After an install the Twin compiles its loops at the first exposure, and answers nobody meanwhile.
            bench.pv("cam1:Acquire").put(1, wait=True, timeout=WARM_UP_S)

            def make(speed: float) -> Rig:
                return _rig(setting, library, bench, speed)

            yield make


def _rig(setting: str, library: Any, bench: Bench, speed: float) -> Rig:
    def anew() -> None:
        bench.mend(speed or AT_ONCE)

    anew()
    camera, goniometer = usual_devices(bench.ioc.prefix, bench.instrument, library)
    goniometer.stall_s, camera.grace_s = 1.0, 1.0  # type: ignore[attr-defined]

    def restart() -> None:
        bench.ioc.kill()
        bench.ioc.start()

    breaks: Mapping[str, Callable[[], object]] = {
        "motor stalls": lambda: bench.fault("omega", "stall"),
        "motor stops short": lambda: bench.fault("chi", "short"),
        "limit switch": lambda: bench.fault("omega", "switch"),
        "read-back off by 1 deg": lambda: bench.fault("chi", "readback"),
        "camera never ready": lambda: bench.put("twin:FaultCamera", "never"),
        "camera: wrong shape": lambda: bench.put("twin:FaultCamera", "shape"),
        "camera: no image": lambda: bench.put("twin:FaultCamera", "no image"),
        "moved by hand": lambda: bench.put("chi", 3.0),
        "STOP pressed elsewhere": lambda: bench.put("omega.STOP", 1),
        "IOC frozen": lambda: bench.put("twin:FaultFreeze", 6.0, wait=False),
        "IOC killed and restarted": restart,
        "repair": lambda: None,
    }
    return Rig(
        setting, camera, goniometer, DummyEyes(bench.instrument), bench.positions, bench.resting, dict(breaks),
        lambda engine: wait_connected(camera, goniometer, loop=engine.loop, timeout_s=20.0), anew,
    )  # fmt: skip
