"""The page as it is served, with a Twin behind it, and a Chromium in front, where there is one."""

from __future__ import annotations

import contextlib
import logging
import shutil
from types import SimpleNamespace

import pytest

from lauepilot.cli.output import RUNS
from lauepilot.cli.page import TwinMaker
from lauepilot.hardware.page.job import Choice
from lauepilot.hardware.page.session import Session
from lauepilot.hardware.page.standing import State

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Of a crystal from which the target can be reached, a long way off.
SEED = 7


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """One server for all tests here: NiceGUI allows one in a process."""
    pytest.importorskip("nicegui", reason="NiceGUI is not installed: pip install 'lauepilot[page]'")
    from lauepilot.page.serve import running_page

    logging.getLogger("bluesky").addHandler(logging.NullHandler())
    first = Choice("si", "[0 0 1] beam, (1 0 0) up", 60.0, "default", 10.0)
    with contextlib.chdir(
        tmp_path_factory.mktemp("page")
    ):  # the folder stands on the page as the user sees it
        session = Session(TwinMaker("lab", first, SEED), RUNS)
        session.wait(State.READY, timeout_s=600.0)  # after an install a busy machine compiles for minutes
        with running_page(session) as address:
            yield SimpleNamespace(session=session, address=address)
        session.close()


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with api.sync_playwright() as player:
        try:
            browser = player.chromium.launch(executable_path=installed, args=list(FLAGS))
        except api.Error as error:
            pytest.skip(
                f"no Chromium can be started (Debian: apt install chromium): {str(error).splitlines()[0]}"
            )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def ioc():
    """The Twin's IOC in a process of its own."""
    pytest.importorskip("caproto", reason="caproto is not installed: pip install 'lauepilot[epics]'")
    pytest.importorskip("epics", reason="pyepics is not installed: pip install 'lauepilot[epics]'")
    from lauepilot.hardware.epics.process import running_ioc

    logging.getLogger("bluesky").addHandler(logging.NullHandler())
    with running_ioc(speed=5.0, faults="none", seed=1) as running:
        yield running


@pytest.fixture
def session(served):
    """The session, with nothing on before and after."""
    yield served.session
    if served.session.standing().busy:
        served.session.abort("the test is over")
        served.session.wait()


@pytest.fixture(scope="module")
def opener(served, chromium):
    """Opens the page in a browser of its own; complaints and requests are noted on it."""

    def open_one(width=1280, height=800):
        context = chromium.new_context(viewport={"width": width, "height": height})
        page = context.new_page()
        page.complaints, page.asked = [], []
        page.on("console", lambda message: page.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(served.address)
        page.wait_for_selector("#axes .axis")
        return page

    return open_one


@pytest.fixture(scope="module")
def shared_page(opener):
    page = opener()
    yield page
    page.context.close()


@pytest.fixture
def page(shared_page, session):
    """The page, with nothing on."""
    shared_page.wait_for_selector("#start:not([disabled])")
    return shared_page


@pytest.fixture
def open_page(opener):
    """Opens more browsers."""
    opened = []

    def open_one(*size):
        opened.append(opener(*size))
        return opened[-1]

    yield open_one
    for page in opened:
        page.context.close()
