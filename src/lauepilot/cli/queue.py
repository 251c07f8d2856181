"""``lauepilot queue-startup``: the startup folder for bluesky-queueserver."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import numpy as np

from lauepilot.cli.output import Exit, UserError, print_json
from lauepilot.cli.tables import console
from lauepilot.queue_startup.folder import STARTUP, server_arguments, write_folder
from lauepilot.simulator.crystal import load_crystal
from lauepilot.simulator.instrument import load_instrument


def run_queue_startup(
    *,
    folder: Path,
    crystal: str,
    instrument: str,
    devices: Path | None,
    records: Path,
    speed: float,
    four_circle: bool,
    as_json: bool,
) -> int:
    """Write the startup folder if there is none, and print where it is and how to start; the exit code.

    Parameters
    ----------
    folder
        Of the startup file.
    crystal, instrument
        What is mounted; the simulated instrument.
    devices
        YAML file of process variables instead of the simulated instrument.
    records
        Folder for the records of runs.
    speed
        How many times faster than the wall a simulated instrument's clock runs.
    four_circle
        Whether to simulate a four-circle beside it, for ``build_ub``.
    as_json
        Print one JSON object and nothing else.
    """
    if importlib.util.find_spec("bluesky_queueserver") is None:
        raise UserError("bluesky-queueserver is not installed. Type: pip install 'lauepilot[queue]'.")
    if not np.isfinite(speed) or speed < 0.0:
        raise UserError(f"--speed must be 0 (at once) or positive; {speed} came.")
    load_crystal(crystal)
    load_instrument(instrument)
    if devices is not None and not devices.is_file():
        raise UserError(f"--devices {str(devices)!r}: there is no such file.")
    place = folder.absolute()
    written = write_folder(
        place,
        {
            "crystal": str(Path(crystal).absolute()) if Path(crystal).is_file() else crystal,
            "instrument": str(Path(instrument).absolute()) if Path(instrument).is_file() else instrument,
            "devices": None if devices is None else str(devices.absolute()),
            "records": str(records.absolute()),
            "speed": float(speed),
            "four_circle": bool(four_circle),
        },
    )
    command = server_arguments(place)
    if as_json:
        print_json(
            {"folder": str(place), "startup": str(place / STARTUP), "written": written, "command": command}
        )
        return Exit.DONE
    screen = console()
    screen.print(str(place), soft_wrap=True)
    if not written:
        screen.print(f"{STARTUP} was there already and is as it was; edit it, or name another folder.")
    screen.print("Start redis-server (Debian: apt install redis-server), then:")
    screen.print("  " + shlex.join(command), soft_wrap=True)
    screen.print(
        "and from another terminal: qserver environment open; qserver queue add plan ...; qserver queue start"
    )
    return Exit.DONE
