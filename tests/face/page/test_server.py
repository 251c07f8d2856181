"""The server's door, asked without a browser; and what the command refuses before it opens any."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest

from lauepilot.cli.page import run_page
from lauepilot.hardware.page.guard import DoorError


def ask(served, method, path, **headers):
    place = urlsplit(served.address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=10.0)
    connection.request(method, path, headers={n.replace("_", "-"): v for n, v in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_it_listens_on_this_machine_alone(served):
    assert urlsplit(served.address).hostname == "127.0.0.1"


def test_other_sites_can_neither_command_nor_listen(served):
    evil = {"Origin": "http://evil.example"}
    assert ask(served, "POST", "/abort", **evil)[0] == 403
    assert ask(served, "POST", "/abort")[0] == 403
    assert ask(served, "GET", "/_nicegui_ws/socket.io/?EIO=4&transport=polling", **evil)[0] == 403
    assert ask(served, "GET", "/", Host="evil.example")[0] == 403
    status, headers, _ = ask(served, "GET", "/")
    assert status == 200
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert headers["access-control-allow-origin"] is None


def test_the_page_itself_may_abort(served):
    origin = served.address.rstrip("/")
    status, _, body = ask(served, "POST", "/abort", Origin=origin)
    assert status == 200
    assert b"Nothing runs" in body


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/picture/1/jet.png", "/picture/x/log.png"])
def test_there_is_no_more_than_the_page_needs(served, path):
    status, _, body = ask(served, "GET", path)
    assert status in {200, 404, 422}  # the page itself, or an error
    assert b"openapi" not in body
    assert not body.startswith(b"\x89PNG")


def wrong(**changes):
    usual = {
        "crystal": "si", "instrument": "lab", "target": "[0 0 1] beam", "exposure": None, "faults": "default",
        "speed": 10.0, "seed": 1, "host": "127.0.0.1", "port": 0, "token": None, "out": None,
    }  # fmt: skip
    return usual | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, "--token new"),
        ({"host": "0.0.0.0", "token": "short"}, "at least 16"),
        ({"port": 70_000}, "65535"),
        ({"target": "[0 0 1] sideways"}, "sideways"),
        ({"faults": "awful"}, "none, default, lab, harsh"),
        ({"exposure": -1.0}, "more than 0"),
        ({"epics": "lab:", "devices": "my.yaml"}, "not both"),
        ({"devices": "none.yaml"}, "No file of devices 'none.yaml'"),
    ],
)
def test_what_the_command_refuses(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        run_page(**wrong(**changes))
    assert "host" not in changes or isinstance(caught.value, DoorError)


def test_devices_that_live_in_one_run_are_refused(tmp_path):
    for package in ("ophyd_async", "aioca"):
        pytest.importorskip(package, reason="pip install lauepilot[epics]")
    file = tmp_path / "my.yaml"
    axes = "".join(f"    {name}: {{pv: 'bl:{name}'}}\n" for name in ("omega", "chi", "phi"))
    camera = "camera: {cam: 'bl:cam1:', image: 'bl:image1:'}\n"
    file.write_text(f"instrument: lab\nlibrary: ophyd-async\ngoniometer:\n  axes:\n{axes}{camera}")
    with pytest.raises(ValueError, match="library: ophyd there"):
        run_page(**wrong(devices=file))


def test_records_go_into_a_folder(tmp_path):
    file = tmp_path / "records"
    file.write_text("")
    with pytest.raises(ValueError, match="is a file"):
        run_page(**wrong(out=file))


def test_a_taken_port_is_told_of(served, tmp_path, monkeypatch):
    from lauepilot.page import serve

    with pytest.raises(OSError, match="--port 0"):
        serve.serve(served.session, "127.0.0.1", urlsplit(served.address).port, None, print)
