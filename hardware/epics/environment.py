"""Channel Access on loopback only, with ports of its own: nothing of it is seen from outside, and it sees nothing outside."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, MutableMapping

from lauepilot.hardware.errors import HardwareError

LOOPBACK = "127.0.0.1"

#: Bytes of the largest array that travels; 4,096 x 4,096 pixels of four bytes and a little.
MAX_ARRAY_BYTES = 70_000_000


def free_port() -> int:
    """A port that neither UDP nor TCP uses now on loopback."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        ):
            udp.bind((LOOPBACK, 0))
            port = int(udp.getsockname()[1])
            try:
                tcp.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def loopback(server_port: int | None = None, repeater_port: int | None = None) -> dict[str, str]:
    """The variables of EPICS for clients and servers that talk on loopback alone.

    Parameters
    ----------
    server_port, repeater_port
        Of Channel Access; None takes free ones. All programs that are to see each other need the same.
    """
    server = free_port() if server_port is None else server_port
    repeater = free_port() if repeater_port is None else repeater_port
    return {
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_ADDR_LIST": LOOPBACK,
        "EPICS_CA_SERVER_PORT": str(server),
        "EPICS_CA_REPEATER_PORT": str(repeater),
        "EPICS_CA_MAX_ARRAY_BYTES": str(MAX_ARRAY_BYTES),
        "EPICS_CAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_ADDR_LIST": LOOPBACK,
        "EPICS_CAS_BEACON_PORT": str(repeater),
    }


def use_loopback(
    server_port: int | None = None,
    repeater_port: int | None = None,
    environ: MutableMapping[str, str] | None = None,
) -> dict[str, str]:
    """Set `loopback` for this process, if nothing else is set; what holds then is returned.

    Raises
    ------
    HardwareError
        If a library of Channel Access was imported before, and other ports are asked for: it looks at them once.
    """
    into = os.environ if environ is None else environ
    wanted = loopback(server_port, repeater_port)
    if server_port is None and "EPICS_CA_SERVER_PORT" in into:
        return {name: into.get(name, value) for name, value in wanted.items()}
    loaded = [name for name in ("epics", "aioca", "caproto") if name in sys.modules]
    if loaded and into.get("EPICS_CA_SERVER_PORT") != wanted["EPICS_CA_SERVER_PORT"]:
        raise HardwareError(
            f"{', '.join(loaded)} was imported before the ports of Channel Access were set, and would not see them. Call "
            "use_loopback() first, or set EPICS_CA_SERVER_PORT before the program starts."
        )
    into.update(wanted)
    return wanted


def only_loopback(environ: Mapping[str, str]) -> bool:
    """Whether a server started in this environment is seen on this machine alone."""
    return environ.get("EPICS_CAS_INTF_ADDR_LIST", "").split() == [LOOPBACK]
