"""``lauepilot page`` as a process of its own, with a browser in front: behind a token, and on one's own devices."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

#: Only ends what hangs: after an install a busy machine compiles for minutes.
HANGS_MS = 600_000


@contextlib.contextmanager
def lauepilot_page(folder, *arguments):
    """Serve in a process of its own; yields the address that it prints."""
    pytest.importorskip("nicegui", reason="NiceGUI is not installed: pip install 'lauepilot[page]'")
    command = [sys.executable, "-m", "lauepilot", "page", *map(str, arguments)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
    assert process.returncode == 0


def on_this_machine(address):
    """The address that was printed, by number: names of this machine may lead nowhere."""
    there = urlsplit(address)
    return f"http://127.0.0.1:{there.port}/", there.query


def wait_state(page, words, timeout=30_000):
    page.wait_for_function(
        "w => new RegExp(w).test(document.getElementById('state').textContent)", arg=words, timeout=timeout
    )


def test_a_page_for_others_wants_its_token_once(chromium, tmp_path):
    with lauepilot_page(tmp_path, "--host", "0.0.0.0", "--token", "new", "--seed", "1") as printed:
        address, query = on_this_machine(printed)
        assert query.startswith("token=")
        context = chromium.new_context()
        page = context.new_page()
        assert page.goto(address).status == 401
        assert "A token is wanted" in page.inner_text("body")
        assert page.goto(f"{address}?token=not-the-one-that-was-drawn").status == 401
        page.goto(f"{address}?{query}")
        wait_state(page, "READY", HANGS_MS)  # by the socket, which the guard lets in with the cookie alone
        assert page.url == address
        assert page.evaluate("document.cookie") == ""  # no script can read it
        with page.expect_response(lambda answer: answer.url.endswith("/abort")) as told:
            page.click("#abort")
        assert told.value.status == 200
        assert page.goto(address).status == 200  # not asked again
        other = chromium.new_context()
        assert other.new_page().goto(address).status == 401
        for opened in (other, context):
            opened.close()


@pytest.mark.slow
def test_own_devices_in_a_browser(chromium, ioc, tmp_path):
    axes = "".join(f"    {name}: {{pv: '{ioc.prefix}{name}'}}\n" for name in ("omega", "chi", "phi"))
    camera = (
        f"camera: {{cam: '{ioc.prefix}cam1:', image: '{ioc.prefix}image1:', twin: '{ioc.prefix}twin:'}}\n"
    )
    (tmp_path / "my.yaml").write_text(f"instrument: lab\ngoniometer:\n  axes:\n{axes}{camera}")
    with lauepilot_page(tmp_path, "--devices", "my.yaml", "--exposure", "60", "--out", "runs") as address:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(address)
        wait_state(page, "READY", HANGS_MS)
        page.wait_for_selector("#axes [role=meter]")
        assert page.locator("#choose-faults").count() == 0  # a real instrument has none to choose
        omega = "+document.querySelector('#axes [role=meter]').getAttribute('aria-valuenow')"
        before = page.evaluate(omega)
        page.click("#start")
        page.wait_for_function(f"Math.abs({omega} - ({before})) > 0.5", timeout=HANGS_MS)
        page.click("#abort")
        wait_state(page, "ABORTED", HANGS_MS)
        page.wait_for_selector("#start:not([disabled])")
        page.click("#start")
        wait_state(page, "ON TARGET", HANGS_MS)
        context.close()
    ended = {}
    for record in (tmp_path / "runs").iterdir():
        first, *_, last = (json.loads(line) for line in (record / "documents.jsonl").read_text().splitlines())
        assert (first["doc"]["where"], first["doc"]["from"]) == ("my.yaml", "page")
        ended[last["doc"]["exit_status"]] = (record / "ub.json").is_file()
    assert ended == {"abort": False, "success": True}
