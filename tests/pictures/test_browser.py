"""The page in a real browser, where one is installed: pointer, keys and switches."""

from __future__ import annotations

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from lauepilot.cli.index import spot_table
from lauepilot.cli.overview import write_html


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with api.sync_playwright() as player:
        try:
            chromium = player.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page(browser, indexed, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "pattern.html"
    write_html(indexed, path)
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
    page.complaints, page.asked = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-image=drawn]")
    return page


def colours(page):
    """Pixels of the canvas, (height, width, 3)."""
    page.wait_for_timeout(100)
    data = page.evaluate("document.getElementById('pattern').toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))) as picture:
        return np.asarray(picture.convert("RGB"))


def test_it_opens_without_complaint_or_request(page):
    assert page.complaints == []
    assert len(page.asked) == 1  # itself
    assert page.locator("#rows tr").count() > 50
    assert (
        page.locator("#stereogram polygon, #stereogram ellipse").count() == 2 * 13
    )  # 432 has 13 axes; two modes


def test_keys_go_from_spot_to_spot(page, indexed):
    table = spot_table(indexed)
    page.keyboard.press("n")
    text = page.inner_text("#tip")
    hkl = " ".join(str(int(i)).replace("-", "−") for i in table.hkl[0])
    assert f"found at ({table.pixels[0, 0]:.2f}, {table.pixels[0, 1]:.2f})" in text
    assert f"hkl {hkl} at {table.energy_kev[0]:.3f} keV" in text
    assert f"residual {table.residual_px[0]:.3f} px" in text
    page.keyboard.press("Escape")
    assert not page.is_visible("#tip")


def test_pointer_over_a_spot_tells_it(page, indexed):
    box = page.locator("#pattern").bounding_box()
    table = spot_table(indexed)
    rows, cols = indexed.detector.shape
    scale = min(box["width"] / cols, box["height"] / rows)
    left, top = (box["width"] - cols * scale) / 2, (box["height"] - rows * scale) / 2
    x, y = (table.pixels[2] + 0.5) * scale
    page.mouse.move(box["x"] + left + x, box["y"] + top + y)
    assert f"({table.pixels[2, 0]:.2f}, {table.pixels[2, 1]:.2f})" in page.inner_text("#tip")
    page.mouse.move(box["x"] + left + 2, box["y"] + top + 2)


def test_switches_change_the_picture_and_zoom_keeps_the_pointer(page):
    before = colours(page)
    for key in "zra":
        page.keyboard.press(key)
        after = colours(page)
        assert np.any(after != before, axis=-1).sum() > 200
        before = after
        page.keyboard.press(key)
        before = colours(page)
    for key in "fpi":
        page.keyboard.press(key)
    bare = colours(page)
    assert np.ptp(bare.astype(int), axis=-1).max() <= 16  # greys only
    page.keyboard.press("t")
    assert colours(page).mean() < 120 < bare.mean()
    page.keyboard.press("t")
    page.locator("#contrast").fill("1.5")
    assert colours(page).mean() < bare.mean() - 10
    box = page.locator("#pattern").bounding_box()
    x, y = (
        round(box["x"] + 0.3 * box["width"]),
        round(box["y"] + 0.6 * box["height"]),
    )  # a wheel knows whole pixels only
    page.mouse.move(x, y)
    here = page.inner_text("#where")
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    page.mouse.move(x + 1, y)
    page.mouse.move(x, y)
    assert page.inner_text("#where") == here
    assert page.complaints == []
