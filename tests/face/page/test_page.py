"""The operator's page in a real browser, with a RunEngine and a Twin behind it."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace

import pytest
from PIL import Image

from lauepilot.hardware.page.standing import State

#: Set to have the documentation's picture taken anew.
TAKE = "LAUEPILOT_TAKE_PICTURES"


def wait_state(page, words, timeout=30_000):
    page.wait_for_function(
        "w => new RegExp(w).test(document.getElementById('state').textContent)", arg=words, timeout=timeout
    )


def until(condition, timeout_s=60.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def until_moving(session):
    until(lambda: session.standing().activity == "moving")


def sent_last(folder):
    """Where the last recorded move was to lead."""
    events = [json.loads(line)["doc"] for line in (folder / "documents.jsonl").read_text().splitlines()]
    kept = [
        event["data"]["align_checkpoint"] for event in events if "align_checkpoint" in event.get("data", {})
    ]
    return json.loads(kept[-1])["decision"]["axes"]


def stop_document(folder):
    last = json.loads((folder / "documents.jsonl").read_text().splitlines()[-1])
    assert last["name"] == "stop"
    return last["doc"]


def test_from_start_to_declared(page, session, project):
    assert page.locator("#state").inner_text().endswith(("READY", "ABORTED", "ON TARGET"))
    picture = project / "docs" / "_static" / "operator-page.png"
    if os.environ.get(TAKE):  # in the middle of a move, which lasts
        session.start(replace(session.maker.first, speed=1.0))
    else:
        page.click("#start")
    until(lambda: session.standing().step is not None and session.standing().activity == "moving")
    wait_state(page, "RUNNING")
    if os.environ.get(TAKE):
        page.wait_for_selector("#pattern[data-shown$='log.png']")
        page.wait_for_timeout(1_500)
        take_picture(page, picture)
    wait_state(page, "ON TARGET", 60_000)
    at = session.standing()
    assert at.state is State.DECLARED
    page.wait_for_selector("#ending .ub")
    ub = [float(cell.replace("−", "-")) for cell in page.locator("#ending td").all_inner_texts()]
    assert ub == pytest.approx(at.result.orientation.ub.ravel(), abs=1e-5)
    assert "±" in page.inner_text("#ending .ub")
    assert page.inner_text("#ending code") == str(at.folder)
    assert json.loads((at.folder / "ub.json").read_text())["declared"] is True
    assert stop_document(at.folder)["exit_status"] == "success"
    page.wait_for_selector(f"#pattern[data-shown='/picture/{at.sight.number}/log.png']")
    assert "away" in page.locator("#stereogram svg").get_attribute("aria-label")
    page.wait_for_function("document.getElementById('off').textContent === '0.00°'")
    shown = page.locator("#axes [role=meter]").evaluate_all(
        "all => Object.fromEntries(all.map(m => [m.ariaLabel, +m.getAttribute('aria-valuenow')]))"
    )
    assert shown == pytest.approx(at.axes, abs=1e-3)
    assert re.search(r"\d+\. declared\. On target", page.inner_text("#log"))
    # nothing went wrong in the browser, and nothing was asked of anybody else
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith((page.url, "data:", "blob:"))] == []
    assert picture.is_file(), f"take it with {TAKE}=1"
    assert picture.stat().st_size < 150_000


def take_picture(page, path):
    page.wait_for_timeout(300)
    page.screenshot(path=path)
    colours = [(v, v, v) for v in (5, 11, 20, 30, 42, 60, 85, 115, 150, 185, 215, 241, 255)]
    colours += [(11, 13, 17), (20, 24, 30), (49, 56, 67), (38, 45, 55), (174, 183, 195)]
    for name in ("#56b4e9", "#ff9147", "#2fd6a3", "#d40000", "#f0b429", "#ffd3b0", "#0b5f8f"):
        shade = [int(name[k : k + 2], 16) for k in (1, 3, 5)]
        colours += [tuple(round(a * v + (1 - a) * 16) for v in shade) for a in (0.35, 0.7, 1.0)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in colours for value in colour])
    with Image.open(path) as full:
        full.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE).save(
            path, "PNG", optimize=True
        )


@pytest.mark.slow
def test_pause_and_resume(page, session):
    page.click("#start")
    until_moving(session)
    page.click("#pause")
    wait_state(page, "PAUSED")
    assert session.standing().at_rest
    page.wait_for_function("document.getElementById('pause').textContent === 'Resume'")
    page.click("#pause")
    until_moving(session)
    page.click("#abort")
    wait_state(page, "ABORTED")


def test_abort_in_motion(page, session):
    """How soon is measured by `bench hardware`; here: before the motion, which lasts seconds, has come to its end."""
    session.start(replace(session.maker.first, speed=2.0))
    until_moving(session)
    page.get_by_role("button", name="Abort: stop motors and shutter now").click()
    wait_state(page, "ABORTED")
    at = session.standing()
    assert at.at_rest
    sent = sent_last(at.folder)
    assert any(abs(at.axes[name] - there) > 0.5 for name, there in sent.items()), (at.axes, sent)
    stop = stop_document(at.folder)
    assert (stop["exit_status"], stop["reason"]) == ("abort", "aborted by the operator")
    limits = {axis.name: axis.limits for axis in session.job.goniometer.chain.axes}
    assert all(limits[name][0] <= value <= limits[name][1] for name, value in at.axes.items())


def test_abort_while_the_socket_is_lost(page, session):
    page.click("#start")
    until_moving(session)
    page.evaluate("window.socket.io.engine.close()")
    page.click("#abort")
    until(lambda: session.standing().state is State.ABORTED)
    assert session.standing().at_rest
    wait_state(page, "ABORTED")  # the socket has come back by itself


@pytest.mark.slow
def test_abort_without_a_network_is_sent_when_it_is_back(page, session):
    page.click("#start")
    until_moving(session)
    page.context.set_offline(True)
    page.click("#abort")
    page.wait_for_selector("#abort-said.shown")
    assert "emergency stop" in page.inner_text("#abort-said")
    assert session.standing().busy
    page.context.set_offline(False)
    until(lambda: session.standing().state is State.ABORTED)
    page.wait_for_selector("#abort-said:not(.shown)", state="attached")


@pytest.mark.slow
def test_what_is_shown_is_called_old_when_nothing_comes(page, session):
    page.evaluate("window.socket.disconnect()")
    page.wait_for_selector("#old.shown")
    assert page.locator("#abort").is_enabled()
    page.reload()
    page.wait_for_selector("#axes .axis")
    assert not page.locator("#old").is_visible()


@pytest.mark.slow
def test_a_run_goes_on_without_a_browser_and_all_browsers_see_the_same(open_page, session, served):
    first, second = open_page(), open_page(820, 1180)
    session.start(replace(session.maker.first, speed=20.0, crystal="ge"))
    for page in (first, second):
        page.wait_for_selector("#start[disabled]")
        assert page.locator("#choose-target").is_disabled()
        page.wait_for_function("document.getElementById('choose-crystal').value === 'ge'")
    # what the page refuses to send is refused behind it, too
    with pytest.raises(ValueError, match="A run is on"):
        session.start(session.maker.first)
    second.close()
    first.goto("about:blank")
    at = session.wait(timeout_s=60.0)
    assert at.state is State.DECLARED
    second = open_page(820, 1180)
    first.goto(served.address)
    for page in (first, second):
        wait_state(page, "ON TARGET")
        page.wait_for_selector("#ending .ub")
    for part in ("why", "log", "ending", "axes"):
        assert first.inner_text(f"#{part}") == second.inner_text(f"#{part}"), part
    assert first.inner_html("#stereogram") == second.inner_html("#stereogram")


def test_wrong_choices_are_told_in_words_and_start_waits(page, session):
    page.fill("#choose-target", "[0 0 1] sideways")
    page.wait_for_selector("#start[disabled]")
    page.wait_for_function("document.getElementById('problem').textContent.includes('sideways')")
    page.fill("#choose-target", "[0 0 1] beam, (1 0 0) up")
    page.wait_for_selector("#start:not([disabled])")
    page.fill("#choose-exposure", "-3")
    page.wait_for_function("document.getElementById('problem').textContent.includes('more than 0')")
    page.fill("#choose-exposure", "60")
    page.wait_for_selector("#start:not([disabled])")
    with pytest.raises(ValueError, match="named when the page is started"):
        session.start(replace(session.maker.first, crystal="/etc/passwd"))


@pytest.mark.slow
def test_the_pattern_zooms_and_switches(page):
    page.wait_for_selector("#pattern[data-shown]")

    def ink():
        page.wait_for_timeout(120)
        return page.evaluate("document.querySelector('#pattern canvas').toDataURL()")

    before = ink()
    page.locator("#pattern").hover()
    page.mouse.wheel(0, -600)
    near = ink()
    assert near != before
    page.get_by_role("button", name="Whole pattern").click()
    assert ink() == before
    page.get_by_role("checkbox", name="predicted").click()
    assert ink() != before
    page.get_by_role("checkbox", name="predicted").click()
    page.get_by_role("button", name="linear").click()
    page.wait_for_selector("#pattern[data-shown$='linear.png']")
    assert ink() != before
    page.get_by_role("button", name="log", exact=True).click()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1180, 820), (820, 1180), (390, 844)])
def test_abort_is_in_sight_on_every_screen(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.mouse.wheel(0, 2000)
    box = page.locator("#abort").bounding_box()
    assert box["x"] >= 0
    assert box["y"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["y"] + box["height"] <= 200
    assert box["width"] * box["height"] > 9_000
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # what can be pressed or filled in has a name
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input')].filter(e => e.offsetParent && !(e.ariaLabel || e.textContent.trim()"
        " || e.labels?.length || e.closest('[aria-label]'))).map(e => e.outerHTML)"
    )
    assert nameless == []
    page.set_viewport_size({"width": 1280, "height": 800})
