"""The guard at the page's door: who may ask, from where, and what a browser may do with the answer.

A page on loopback is within reach of every other page that the same browser has open: by requests across sites, and by a
name that is made to point to 127.0.0.1 (DNS rebinding). Both tell themselves by their ``Host``, ``Origin`` and
``Sec-Fetch-Site`` headers; all three are looked at before anything else. A page that others can reach wants a token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

#: A token that people choose must not be shorter.
SHORTEST = 16
COOKIE = "lauepilot_page"  # and the port, since browsers keep one jar for all ports of a host

#: Nothing from elsewhere, nothing to elsewhere. NiceGUI compiles templates in the browser, hence eval.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


class DoorError(ValueError):
    """A host or token with which the page must not be served."""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone: ``localhost`` or a loopback address.

    >>> [is_loopback(h) for h in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "beamline")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_door(host: str, token: str | None) -> None:
    """Refuse to serve beyond this machine without a token, or with one that can be guessed.

    Raises
    ------
    DoorError
        Says what to type.
    """
    if not host.strip():
        raise DoorError(
            "--host is empty, which would mean every network. Leave it out for this machine alone."
        )
    if token is not None and len(token) < SHORTEST:
        raise DoorError(
            f"The token has {len(token)} characters; at least {SHORTEST} are wanted. Give --token new to have one drawn."
        )
    if token is None and not is_loopback(host):
        raise DoorError(
            f"--host {host} would let others on the network move the motors. Give --token new (one is drawn and shown), "
            "or leave --host out and come by 'ssh -L'."
        )


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


class Guard:
    """An ASGI application around another: looks at each request and socket before it is let in.

    Parameters
    ----------
    app
        What is guarded.
    host
        Where it is served: besides addresses and this machine's names, the only name it may be called by.
    token
        Wanted once in the query (``?token=...``), then kept in a cookie; None wants none.
    """

    def __init__(self, app: Any, host: str = "127.0.0.1", token: str | None = None) -> None:
        self.app = app
        names = {"localhost", host.lower()}
        if not is_loopback(host):
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._names = names
        self._local = is_loopback(host)
        self._token = None if token is None else _digest(token)
        # The cookie holds a key of this process, not the token.
        self._key = new_token()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in or refuse."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        problem = self._problem(scope, headers)
        if problem:
            await _refuse(scope, receive, send, 403, problem)
            return
        if self._token is not None and not self._known(scope, headers):
            await self._ask_for_token(scope, receive, send)
            return
        await self.app(scope, receive, _with_headers(send))

    def _problem(self, scope: Scope, headers: dict[str, str]) -> str:
        """What is wrong with where a request comes from; nothing if all is well."""
        host = headers.get("host", "")
        if not self._called_rightly(host):
            return (
                "This page does not go by that name. Open it by the address that lauepilot printed (or start lauepilot "
                "with --host NAME)."
            )
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        ours = origin is not None and origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}
        if origin is not None and not ours:
            return "Another site asked for this. Open the page by itself."
        opens = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        if site not in {None, "same-origin", "none"}:
            # A link may lead here; nothing else from elsewhere.
            linked = (
                headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            )
            if not (opens and linked):
                return "Another site asked for this. Open the page by itself."
        if not opens and not ours:
            return "This has to come from the page itself (its Origin header is missing)."
        return ""

    def _called_rightly(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in self._names:
            return True
        try:  # an address cannot be rebound
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._local

    def _known(self, scope: Scope, headers: dict[str, str]) -> bool:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        held = cookies.get(_cookie(scope))
        return held is not None and hmac.compare_digest(held.value.encode(), self._key.encode())

    async def _ask_for_token(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        offered = query.pop("token", [""])[0]
        get = scope["type"] == "http" and scope["method"] == "GET"
        if get and self._token is not None and hmac.compare_digest(_digest(offered), self._token):
            await send({"type": "http.response.start", "status": 303, "headers": self._welcome(scope, query)})
            await send({"type": "http.response.body", "body": b""})
            return
        what = "That token is not the right one." if offered else "A token is wanted."
        await _refuse(
            scope, receive, send, 401, f"{what} Open the address with ?token=... that lauepilot printed."
        )

    def _welcome(self, scope: Scope, query: dict[str, list[str]]) -> list[tuple[bytes, bytes]]:
        """Headers that give the cookie and lead at once to the address without the token: it stays out of the history."""
        path = scope["path"] if scope["path"].startswith("/") and not scope["path"].startswith("//") else "/"
        rest = urlencode(query, doseq=True)
        place = quote(path) + (f"?{rest}" if rest else "")
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{_cookie(scope)}={self._key}; HttpOnly; SameSite=Strict; Path=/{secure}"
        return [
            (b"location", place.encode("ascii")),
            (b"set-cookie", cookie.encode()),
            (b"cache-control", b"no-store"),
            (b"content-length", b"0"),
            *_HEADERS,
        ]


def _cookie(scope: Scope) -> str:
    server = scope.get("server")
    return f"{COOKIE}_{server[1]}" if server else COOKIE


def _digest(token: str) -> bytes:
    """Of one length, so that comparing tells nothing."""
    return hashlib.sha256(token.encode()).digest()


def _with_headers(send: Send) -> Send:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            held = {name.lower() for name, _ in message.get("headers", [])}
            added = [item for item in _HEADERS if item[0] not in held]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sending


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4401 if status == 401 else 4403})
        return
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *_HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
