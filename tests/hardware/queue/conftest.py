"""A queue server on loopback, on free ports, with a redis of its own that keeps nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(*command, **how):
    """A program in a group of its own, ended with all it started."""
    running = subprocess.Popen(command, start_new_session=True, **how)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait(10)


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory):
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt install redis-server)")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with process(*command, "--dir", str(folder), stdout=subprocess.DEVNULL):
        wait_for(lambda: answers(port), 10, "redis-server did not start")
        yield port


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as link:
        link.sendall(b"PING\r\n")
        return link.recv(7) == b"+PONG\r\n"
    return False


def wait_for(ready, seconds, otherwise):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.05)
    pytest.fail(otherwise)


class Queue:
    """The few requests that the tests make, over the wire: the package's own helper leaves its sockets open."""

    def __init__(self, address):
        self.address = address

    def ask(self, method, **params):
        import zmq

        with zmq.Context() as context, context.socket(zmq.REQ) as link:
            link.linger, link.rcvtimeo = 0, 5000
            link.connect(self.address)
            link.send_json({"method": method, "params": params})
            return link.recv_json()

    def status(self):
        return self.ask("status")

    def until(self, holds, seconds=40):
        wait_for(lambda: holds(self.status()), seconds, f"did not happen: {self.status()}")

    def wait(self, state, seconds=40):
        self.until(lambda status: status["manager_state"] == state, seconds)

    def add(self, name, **arguments):
        item = {"item_type": "plan", "name": name, "kwargs": arguments}
        return self.ask("queue_item_add", item=item, user="test", user_group="primary")

    def history(self):
        return self.ask("history_get")["items"]


@pytest.fixture(scope="session")
def startup_folder(tmp_path_factory):
    pytest.importorskip(
        "bluesky_queueserver", reason="bluesky-queueserver is not installed: pip install 'lauepilot[queue]'"
    )
    from lauepilot.queue_startup.folder import write_folder

    folder = tmp_path_factory.mktemp("queue")
    settings = {
        "crystal": "si",
        "instrument": "lab",
        "records": str(folder / "records"),
        "seed": 4,
        "speed": 20.0,
    }
    assert write_folder(folder, settings)
    return folder


@pytest.fixture(scope="session")
def queue(redis_port, startup_folder):
    import zmq

    from lauepilot.queue_startup.folder import server_arguments

    address = f"tcp://127.0.0.1:{free_port()}"
    command = server_arguments(startup_folder, control=address, info=f"tcp://127.0.0.1:{free_port()}")
    command[command.index("--redis-addr") + 1] = f"127.0.0.1:{redis_port}"
    code = "from bluesky_queueserver.manager.start_manager import start_manager; start_manager()"
    program = [sys.executable, "-c", code]
    log = startup_folder / "manager.log"
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as out, process(*program, *command[1:], stdout=out, stderr=out, env=environ):
        server = Queue(address)

        def up():
            with contextlib.suppress(zmq.ZMQError):
                return server.status()["manager_state"] == "idle"

        wait_for(up, 30, "the queue server did not start")
        assert server.ask("environment_open")["success"]
        wait_for(lambda: server.status()["worker_environment_exists"], 60, "the environment did not open")
        server.wait("idle")
        server.log = log
        yield server
