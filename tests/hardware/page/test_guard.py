"""The guard, asked directly and by raw headers: what a hostile page in the same browser could send."""

from __future__ import annotations

import asyncio

import pytest

from lauepilot.hardware.page.guard import DoorError, Guard, check_door, is_loopback, new_token

TOKEN = "a-token-of-some-length"


async def inner(scope, receive, send):
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"in"})


def ask(guard, method="GET", path="/", query="", kind="http", **headers):
    """Status (or ``accept``/``close``), headers and body of one request."""
    sent = []

    async def receive():
        return {"type": "websocket.connect" if kind == "websocket" else "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    headers = {"host": "127.0.0.1:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items() if value is not None],
    }
    asyncio.run(guard(scope, receive, send))
    if kind == "websocket":
        return sent[-1]["type"].split(".")[1], {}, b""
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, sent[1]["body"]


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:1234", "LOCALHOST", "[::1]:8000"])
def test_the_page_goes_by_its_own_names(host):
    status, headers, body = ask(Guard(inner), host=host)
    assert (status, body) == (200, b"in")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "10.0.0.7:8000", "", None],
)
def test_a_name_that_was_bound_to_this_machine_is_refused(host):
    assert ask(Guard(inner), host=host)[0] == 403
    assert ask(Guard(inner), kind="websocket", host=host, origin=f"http://{host}")[0] == "close"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},  # another port is another site's page
        {"origin": "http://127.0.0.1:8000.evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {},  # no browser: says so itself with an Origin header
    ],
)
def test_posts_from_elsewhere_are_refused(headers):
    status, _, body = ask(Guard(inner), "POST", "/abort", **headers)
    assert status == 403
    assert body != b"in"


def test_a_post_of_the_page_itself_is_let_in():
    ours = {"origin": "http://127.0.0.1:8000", "sec_fetch_site": "same-origin"}
    assert ask(Guard(inner), "POST", "/abort", **ours)[0] == 200
    assert ask(Guard(inner), kind="websocket", **ours)[0] == "accept"


def test_other_pages_may_link_here_but_neither_frame_nor_read_nor_connect():
    guard = Guard(inner)
    elsewhere = {"sec_fetch_site": "cross-site"}
    assert ask(guard, **elsewhere, sec_fetch_mode="navigate", sec_fetch_dest="document")[0] == 200
    assert ask(guard, **elsewhere, sec_fetch_mode="navigate", sec_fetch_dest="iframe")[0] == 403
    assert ask(guard, **elsewhere, sec_fetch_mode="no-cors", sec_fetch_dest="script")[0] == 403
    assert ask(guard, origin="http://evil.example")[0] == 403
    assert ask(guard, kind="websocket", origin="http://evil.example")[0] == "close"
    assert ask(guard, kind="websocket")[0] == "close"  # browsers always say whose socket it is


def test_a_token_is_asked_for_once_and_leaves_no_trace():
    guard = Guard(inner, "0.0.0.0", TOKEN)
    status, _, body = ask(guard)
    assert (status, b"token is wanted" in body) == (401, True)
    assert ask(guard, query="token=wrong-token-of-length")[0] == 401
    assert ask(guard, query="token=")[0] == 401
    assert ask(guard, "POST", "/abort", query=f"token={TOKEN}", origin="http://127.0.0.1:8000")[0] == 401
    status, headers, _ = ask(guard, query=f"token={TOKEN}&x=1")
    assert status == 303
    assert headers["location"] == "/?x=1"
    cookie = headers["set-cookie"]
    assert TOKEN not in cookie  # who reads the cookie has this process' key, not the token
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    held = cookie.split(";")[0]
    assert ask(guard, cookie=held)[0] == 200
    ours = {"cookie": held, "origin": "http://127.0.0.1:8000"}
    assert ask(guard, "POST", "/abort", **ours)[0] == 200
    assert ask(guard, kind="websocket", **ours)[0] == "accept"
    name, value = held.split("=", 1)
    assert ask(guard, cookie=f"{name}={value[:-1]}")[0] == 401
    assert ask(guard, kind="websocket", origin="http://127.0.0.1:8000")[0] == "close"
    assert ask(Guard(inner, "0.0.0.0", TOKEN), cookie=held)[0] == 401  # another process, another key


def test_the_way_on_stays_here():
    guard = Guard(inner, "127.0.0.1", TOKEN)
    assert ask(guard, path="//evil.example/", query=f"token={TOKEN}")[1]["location"] == "/"
    assert "\n" not in ask(guard, path="/a\r\nx: y", query=f"token={TOKEN}")[1]["location"]


@pytest.mark.parametrize(
    ("host", "token", "message"),
    [
        ("0.0.0.0", None, "--token new"),
        ("beamline.example", None, "--token new"),
        ("::", None, "--token new"),
        ("", None, "every network"),
        ("127.0.0.1", "short", "at least 16"),
        ("0.0.0.0", "short", "at least 16"),
    ],
)
def test_doors_that_stay_shut(host, token, message):
    with pytest.raises(DoorError, match=message):
        check_door(host, token)


def test_doors_that_open():
    check_door("127.0.0.1", None)
    check_door("localhost", new_token())
    check_door("0.0.0.0", TOKEN)
    assert is_loopback("127.8.9.1")
    assert not is_loopback("localhost.example")
    assert new_token() != new_token()
