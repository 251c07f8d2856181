"""Channel Access on loopback only, with ports of its own: nothing of it is seen from outside, nor does it see anything."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, MutableMapping

from lauepilot.hardware.errors import HardwareError

LOOPBACK = "127.0.0.1"

#: Ports beside the first one at which clients look for servers.
SPARE_PORTS = 4

#: Ports of Channel Access where nothing else is said: server and repeater.
USUAL_PORTS = (5064, 5065)

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

    Two servers at one port would share its searches, and each would be found now and then: clients look at `SPARE_PORTS`
    more, of which each `lauepilot.hardware.epics.process.running_ioc` takes one of its own.
    """
    server = free_port() if server_port is None else server_port
    repeater = free_port() if repeater_port is None else repeater_port
    spare: set[int] = set()
    while len(spare) < SPARE_PORTS:
        spare |= {free_port()} - {server, repeater}
    return {
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_ADDR_LIST": " ".join([LOOPBACK, *(f"{LOOPBACK}:{port}" for port in sorted(spare))]),
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
        If pyepics or aioca was imported before, and other ports are asked for: it looks at them once.
    """
    into = os.environ if environ is None else environ
    wanted = loopback(server_port, repeater_port)
    if server_port is None and "EPICS_CA_SERVER_PORT" in into:
        return {name: into.get(name, value) for name, value in wanted.items()}
    # caproto asks anew for each server and client; libca, which these two stand on, once.
    loaded = [name for name in ("epics", "aioca") if name in sys.modules]
    if loaded and into.get("EPICS_CA_SERVER_PORT") != wanted["EPICS_CA_SERVER_PORT"]:
        raise HardwareError(
            f"{', '.join(loaded)} was imported before the ports of Channel Access were set, and would not see them. Call "
            "use_loopback() first, or set EPICS_CA_SERVER_PORT before the program starts."
        )
    into.update(wanted)
    return wanted


def is_free(port: int) -> bool:
    """Whether no server on loopback has this port for its searches."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def only_loopback(environ: Mapping[str, str]) -> bool:
    """Whether a server started in this environment is seen on this machine alone."""
    return environ.get("EPICS_CAS_INTF_ADDR_LIST", "").split() == [LOOPBACK]


def port_for_server(environ: Mapping[str, str]) -> str:
    """A port for one more server where clients of this environment look: a spare one if there is one left, or the first.

    Raises
    ------
    HardwareError
        If all are taken.
    """
    named = environ.get("EPICS_CA_ADDR_LIST", "").split()
    spare = [address.rpartition(":")[2] for address in named if address.startswith(f"{LOOPBACK}:")]
    ports = [*spare, environ.get("EPICS_CA_SERVER_PORT", "5064")]
    for port in ports:
        if is_free(int(port)):
            return port
    raise HardwareError(
        f"All ports where clients look for servers are taken ({', '.join(ports)}). End an IOC, or name more of them in "
        "EPICS_CA_ADDR_LIST before the program starts."
    )


#: Any of these says where the user's IOCs are.
_TOLD = ("EPICS_CA_ADDR_LIST", "EPICS_CA_AUTO_ADDR_LIST", "EPICS_CA_NAME_SERVERS")


def loopback_unless_told(environ: MutableMapping[str, str]) -> bool:
    """Look for IOCs on this machine alone, if the environment does not say where they are; whether it was so set."""
    if any(name in environ for name in _TOLD):
        return False
    environ.update({"EPICS_CA_ADDR_LIST": "127.0.0.1", "EPICS_CA_AUTO_ADDR_LIST": "NO"})
    return True
