"""A client of an IOC that runs in a process of its own."""

from __future__ import annotations

import time

import pytest

SPEED = 20.0


class Client:
    """Process variables below a prefix, by way of pyepics."""

    def __init__(self, epics, prefix):
        self.epics, self.prefix, self.pvs = epics, prefix, {}

    def pv(self, name):
        if name not in self.pvs:
            self.pvs[name] = self.epics.PV(self.prefix + name, form="ctrl")
            assert self.pvs[name].wait_for_connection(10.0), name
        return self.pvs[name]

    def get(self, name, **how):
        return self.pv(name).get(use_monitor=False, timeout=10.0, **how)

    def put(self, name, value, wait=True):
        return self.pv(name).put(value, wait=wait, timeout=30.0)

    def until(self, name, wanted, timeout=30.0):
        end = time.monotonic() + timeout
        while self.get(name) != wanted:
            assert time.monotonic() < end, f"{name} is {self.get(name)!r}, not {wanted!r}"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def client_of():
    pytest.importorskip("caproto", reason="needs caproto: pip install lauepilot[epics]")
    from lauepilot.hardware.epics.environment import use_loopback

    use_loopback()  # before pyepics looks
    epics = pytest.importorskip("epics", reason="needs pyepics: pip install lauepilot[epics]")
    return lambda prefix: Client(epics, prefix)


@pytest.fixture(scope="session")
def ioc(client_of):
    from lauepilot.hardware.epics.process import running_ioc

    with running_ioc(speed=SPEED, seed=4) as running:
        yield running


@pytest.fixture
def client(ioc, client_of):
    """Of the IOC that tests share, which is left without faults and at rest."""
    client = client_of(ioc.prefix)
    yield client
    client.put("twin:FaultAxis", "omega")
    client.put("twin:FaultMotor", 0)
    client.put("twin:FaultCamera", 0)
    for axis in ("omega", "chi", "phi"):
        client.put(f"{axis}.STOP", 1)
        client.until(f"{axis}.DMOV", 1)
    client.put("twin:Speed", SPEED)
