"""``lauepilot ioc``: the simulated instrument as an EPICS IOC."""

from __future__ import annotations

import os
from pathlib import Path

from lauepilot.cli.output import Exit, UserError
from lauepilot.cli.simulate import fault_level
from lauepilot.hardware.errors import HardwareError


def run_ioc(
    crystal: str,
    instrument: str,
    *,
    prefix: str,
    seed: int,
    faults: str,
    speed: float,
    names_only: bool,
    anywhere: bool,
    autosave: Path | None = None,
) -> int:
    """Serve until Ctrl-C, or print the names of the process variables; the exit code."""
    try:
        import caproto  # noqa: F401
    except ImportError:
        raise UserError("The IOC needs caproto: pip install lauepilot[epics]") from None
    from lauepilot.hardware.epics.environment import USUAL_PORTS, is_free, use_loopback
    from lauepilot.hardware.epics.ioc import names, serve

    level = fault_level(faults)
    if names_only:
        print("\n".join(names(crystal, instrument, prefix)))
        return Exit.DONE
    usual = "EPICS_CA_SERVER_PORT" not in os.environ and is_free(USUAL_PORTS[0])
    told = {name: value for name, value in os.environ.items() if name.startswith("EPICS_CAS_")}
    environ = use_loopback(*USUAL_PORTS) if usual else use_loopback()
    os.environ.update(
        told
    )  # where to serve is the user's word: `serve` refuses it, or takes it with --anywhere
    print(f"{crystal} on {instrument} behind {prefix}..., clock {speed:g} times the wall's.")
    if usual:
        print(
            "'lauepilot align --epics' and 'lauepilot page --epics' find it as it is; other clients of this machine need"
        )
    else:
        print("Clients of this machine need")
    for name, value in environ.items():
        if name.startswith("EPICS_CA_"):
            print(f"  export {name}='{value}'")
    print("Ctrl-C ends it.", flush=True)
    try:
        serve(
            crystal,
            instrument,
            prefix=prefix,
            seed=seed,
            faults=level,
            speed=speed,
            anywhere=anywhere,
            autosave=autosave,
        )
    except HardwareError as error:
        raise UserError(str(error)) from None
    return Exit.DONE
