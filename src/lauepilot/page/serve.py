"""Serves the page: NiceGUI in uvicorn, behind the guard; in this thread or in one of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lauepilot.hardware.page.guard import Guard, check_door, is_loopback
from lauepilot.hardware.page.session import Session

_MISSING = "The operator's page stands on NiceGUI, which is not installed here: pip install 'lauepilot[page]'"


def application(session: Session, live: Any, host: str, token: str | None) -> Guard:
    """The ASGI application; NiceGUI allows one in a process.

    Raises
    ------
    ModuleNotFoundError
        If NiceGUI is not installed; says what to type.
    """
    try:
        from fastapi import FastAPI, HTTPException
        from fastapi.responses import PlainTextResponse, Response
        from nicegui import ui
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_MISSING) from error
    from lauepilot.page.app import Page
    from lauepilot.page.pictures import SCALES

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/abort")
    def abort() -> PlainTextResponse:
        return PlainTextResponse(session.abort())

    @app.get("/picture/{number}/{scale}.png")
    def picture(number: int, scale: str) -> Response:
        sight = session.standing().sight
        if sight is None or sight.number != number or scale not in SCALES:
            # Never another frame than the one asked for: marks are drawn over it. The page will ask for the newer one.
            raise HTTPException(404, "There is no such pattern.")
        return Response(
            live.pictures.png(sight, scale), media_type="image/png", headers={"cache-control": "no-store"}
        )

    def page() -> None:
        Page(live)

    ui.run_with(
        app, root=page, title="lauepilot", dark=True, language="en-US", tailwind=False, show_welcome_message=False,
        reconnect_timeout=10.0, binding_refresh_interval=None,
    )  # fmt: skip
    return Guard(app, host, token)


@contextmanager
def _server(session: Session, host: str, port: int, token: str | None) -> Iterator[tuple[Any, Any, str]]:
    check_door(host, token)
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_MISSING) from error
    from lauepilot.page.live import Live

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen()  # whoever opens the address as soon as it is told waits, instead of being refused
        except OSError as error:
            raise OSError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Give another --port, or --port 0 for any free one."
            ) from error
        live = Live(session)
        try:
            config = uvicorn.Config(
                application(session, live, host, token), log_level="warning", access_log=False, server_header=False,
                ws="websockets-sansio", timeout_graceful_shutdown=1,
            )  # fmt: skip
            shown = f"[{host}]" if ":" in host else host
            if not is_loopback(host) and host in {"0.0.0.0", "::"}:
                shown = socket.gethostname()
            yield uvicorn.Server(config), listening, f"http://{shown}:{listening.getsockname()[1]}/"
        finally:
            live.close()
    finally:
        listening.close()


def serve(session: Session, host: str, port: int, token: str | None, say: Any) -> None:
    """Serve until Ctrl-C; ``say`` is told the address. The session is not closed.

    Raises
    ------
    DoorError
        If others could reach the page and there is no token, or a short one.
    OSError
        If the port is taken.
    """
    with _server(session, host, port, token) as (server, listening, address):
        say(address)
        with suppress(KeyboardInterrupt):  # uvicorn shuts down well, then raises it again
            server.run(sockets=[listening])


@contextmanager
def running_page(
    session: Session, host: str = "127.0.0.1", port: int = 0, token: str | None = None
) -> Iterator[str]:
    """Serve in a thread for one block of code; yields the address. Raises as `serve`."""
    with _server(session, host, port, token) as (server, listening, address):
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name="lauepilot-server", daemon=True
        )
        thread.start()
        end = time.monotonic() + 30.0
        while not server.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise RuntimeError("The page's server did not start; its log says why.")
            time.sleep(0.01)
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join(10.0)
