"""The page's session on process variables: the Twin's IOC in a process of its own."""

from __future__ import annotations

import json
import time

import pytest

from lauepilot.hardware.page.job import Choice
from lauepilot.hardware.page.session import Session
from lauepilot.hardware.page.standing import SILENT, State
from lauepilot.page.panels import under_the_word

pytestmark = pytest.mark.slow
FIRST = Choice("si", "[0 0 1] beam", 60.0)


@pytest.fixture
def session(ioc, tmp_path):
    from lauepilot.cli.page import EpicsMaker, devices_for_page

    made = Session(EpicsMaker(devices_for_page(ioc.prefix, None, "lab"), FIRST, ioc.prefix), tmp_path)
    made.wait(State.READY)
    yield made
    made.close()


def until_moving(session):
    end = time.monotonic() + 60.0
    while session.standing().activity != "moving":
        assert time.monotonic() < end, session.standing()
        time.sleep(0.005)


def decided(folder):
    documents = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
    return [
        d["doc"]["data"] for d in documents if d["name"] == "event" and "align_checkpoint" in d["doc"]["data"]
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_abort_pause_and_an_ioc_that_dies(session, ioc):
    session.start(FIRST)
    until_moving(session)
    before = session.standing().axes
    session.abort()  # bench hardware measures how soon
    at = session.wait()
    assert (at.state, at.at_rest) == (State.ABORTED, True)
    sent = json.loads(decided(at.folder)[-1]["align_checkpoint"])["decision"]["axes"]
    assert any(abs(at.axes[name] - there) > 1.0 for name, there in sent.items()), (before, at.axes, sent)
    assert json.loads((at.folder / "run.json").read_text())["exit_status"] == "abort"
    session.start(FIRST)
    until_moving(session)
    session.pause()
    at = session.wait(State.PAUSED)
    assert at.at_rest
    session.resume()
    at = session.wait(timeout_s=120.0)
    assert at.state is State.DECLARED, at.words
    assert json.loads((at.folder / "ub.json").read_text())["declared"] is True
    session.start(Choice("si", "[1 1 0] beam", 30.0))
    until_moving(session)
    ioc.kill()
    at = session.wait(timeout_s=120.0)
    assert at.state is State.FAILED
    assert "does not answer" in at.words
    assert (at.at_rest, at.activity) == (False, SILENT)
    assert "IOC" in under_the_word(at)
    ioc.start()
    session.start(FIRST)
    assert session.wait(timeout_s=120.0).state is State.DECLARED
