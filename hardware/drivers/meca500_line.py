"""The Meca500's two ports on the loopback: lines of text from one controller, answers to it, and a feed for monitors."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Protocol

_LONGEST = 4096


class Robot(Protocol):
    """Who is at the other end."""

    def connected(self) -> None:
        """A controller came."""

    def gone(self) -> None:
        """It went."""

    def obey(self, text: str) -> None:
        """It sent a command."""


class Line:
    """Both ports, served by threads.

    Parameters
    ----------
    robot
        Hears what the controller sends.
    greeting
        Said to everybody who connects.

    Attributes
    ----------
    port, monitor_port
        On 127.0.0.1, free ones.
    """

    def __init__(self, robot: Robot, greeting: str) -> None:
        self._robot, self._greeting = robot, greeting
        self._client: socket.socket | None = None
        self._monitors: list[socket.socket] = []
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._control, self._feed = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self.port, self.monitor_port = self._control.getsockname()[1], self._feed.getsockname()[1]
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._serve, self._serve_monitors)
        ]
        for thread in self._threads:
            thread.start()

    def say(self, code: int, text: str) -> None:
        """An answer to the controller, if there is one."""
        with self._lock:
            if self._client is not None:
                with contextlib.suppress(OSError):
                    self._client.sendall(_answer(code, text))

    def feed(self, *answers: tuple[int, str]) -> None:
        """Answers, as code and text, to all monitors; those that hung up are forgotten."""
        data = b"".join(_answer(code, text) for code, text in answers)
        with self._lock:
            for client in list(self._monitors):
                try:
                    client.sendall(data)
                except OSError:
                    self._monitors.remove(client)
                    client.close()

    def drop(self) -> None:
        """Hang up on everybody."""
        with self._lock:
            clients = [c for c in (self._client, *self._monitors) if c is not None]
            self._client, self._monitors = None, []
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()

    def close(self) -> None:
        """Hang up and serve no more."""
        self._over.set()
        self.drop()
        for server in (self._control, self._feed):
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        for thread in self._threads:
            thread.join(timeout=2.0)

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._control.accept()
            except OSError:
                return
            with self._lock:
                busy = self._client is not None
                if not busy:
                    self._client = client
            if busy:
                with contextlib.suppress(OSError):
                    client.sendall(_answer(3001, "Another user is already connected, closing connection."))
                client.close()
                continue
            self._robot.connected()
            threading.Thread(target=self._listen, args=(client,), daemon=True).start()

    def _listen(self, client: socket.socket) -> None:
        self.say(3000, self._greeting)
        buffer = b""
        with contextlib.suppress(OSError):
            while data := client.recv(4096):
                buffer = (buffer + data).replace(b"\n", b"\0")
                *commands, buffer = buffer.split(b"\0")
                if len(buffer) > _LONGEST:
                    self.say(3003, "Command is too long.")
                    break
                for command in commands:
                    if text := command.decode("ascii", "replace").strip():
                        self._robot.obey(text)
        with self._lock:
            hung_up = self._client is client
            if hung_up:
                self._client = None
        if hung_up:
            self._robot.gone()
        client.close()

    def _serve_monitors(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._feed.accept()
            except OSError:
                return
            with self._lock:
                self._monitors.append(client)
                with contextlib.suppress(OSError):
                    client.sendall(_answer(3000, self._greeting))


def _answer(code: int, text: str) -> bytes:
    return f"[{code}][{text}]\0".encode()
