"""The page: what lies in it is the result, and nothing in it can be turned against who opens it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lauepilot.cli.index import spot_table
from lauepilot.cli.overview import draw_overview, view_of, view_of_photons, write_html
from lauepilot.perception.indexing.indexer import IndexResult
from lauepilot.perception.photons.indexer import PhotonMode, PhotonResult
from lauepilot.pictures.page import MOST_IMAGE_BYTES
from lauepilot.pictures.page import write_html as write_view
from lauepilot.pictures.stereogram import project
from lauepilot.pictures.view import Mode, PatternLayer, PatternView, PictureError, round_number
from lauepilot.simulator.instrument import load_instrument


class Page(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, path) -> None:
        super().__init__()
        self.tags, self.text, self.inside = [], {}, None
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = (tag, dict(attrs).get("id", dict(attrs).get("type", "")))

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.text[self.inside] = self.text.get(self.inside, "") + data

    @property
    def data(self):
        return json.loads(self.text["script", "data"])


@pytest.fixture(scope="module")
def page(indexed, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "pattern.html"
    write_html(indexed, path, grains=[indexed.result])
    return Page(path)


def test_numbers_are_those_of_the_result(page, indexed):
    found, data = spot_table(indexed), page.data
    np.testing.assert_allclose(data["found"]["col"], indexed.spots.pixels[:, 0], atol=1e-3)
    np.testing.assert_allclose(data["found"]["counts"], indexed.spots.counts, atol=0.1)
    answer, grain, other = data["layers"]
    assert [answer["kind"], grain["kind"], other["kind"]] == ["answer", "grain", "alternative"]
    assert grain["hkl"] == answer["hkl"]
    n = len(found.spot)
    assert answer["found"][:n] == found.spot.tolist()
    assert set(answer["found"][n:]) <= {-1}
    assert answer["hkl"][:n] == found.hkl.tolist()
    np.testing.assert_allclose(np.array([answer["col"], answer["row"]]).T[:n], found.predicted, atol=1e-3)
    # Energies by Bragg's law for a cube of 5.43 angstrom, from where the spot lies: 2 theta is the angle to the beam.
    hkl = np.array(answer["hkl"])
    pixels = np.array([answer["col"], answer["row"]]).T
    cosine = indexed.detector.pixels_to_rays(pixels)[:, 2]
    d = indexed.crystal.cell[0] / np.linalg.norm(hkl, axis=1)
    energy = 12.39842 / (2.0 * d * np.sqrt((1.0 - cosine) / 2.0))
    np.testing.assert_allclose(answer["energy_kev"], energy, rtol=2e-3)
    axes = view_of(indexed).axes
    np.testing.assert_allclose(
        data["stereogram"]["modes"][0]["points"],
        [project(indexed.result.orientation.u @ a.direction) for a in axes],
        atol=1e-4,
    )


def test_image_is_the_frame(page, indexed):
    """Bright where the frame has its brightest spot, in the orientation of the frame."""
    image = page.data["image"]
    with Image.open(io.BytesIO(base64.b64decode(image["png"]))) as picture:
        grey = np.asarray(picture)
    assert grey.shape == tuple(n // image["pool"] for n in indexed.detector.shape)
    for k in range(5):
        col, row = np.rint(indexed.spots.pixels[k] / image["pool"]).astype(int)
        assert grey[row - 1 : row + 2, col - 1 : col + 2].max() > 150
    assert np.median(grey) < 100


def test_no_text_of_the_user_becomes_markup(page, indexed):
    assert indexed.source.startswith("</script>")
    assert page.data["facts"][2] == ["file", indexed.source]
    assert not any(tag in ("img", "iframe", "link", "object", "base") for tag, _ in page.tags)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert page.source.count("</script>") == 2
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_page_asks_nothing_of_the_network(page):
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)
    assert set(re.findall(r"https?://[^\s\"']+", page.source)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in page.source
    assert "url(" not in page.source
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    script = page.text["script", ""]
    digest = hashlib.sha256(script.encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_page_of_a_large_noisy_frame_is_small_enough(tmp_path):
    detector = load_instrument("koala").detector
    counts = np.random.default_rng(0).integers(0, 4000, detector.shape)
    view = PatternView("noise", "", detector, np.zeros((0, 2)), np.zeros(0), counts=counts)
    write_view(view, tmp_path / "a.html")
    assert (tmp_path / "a.html").stat().st_size > MOST_IMAGE_BYTES / 2  # no smaller than it has to be
    assert (tmp_path / "a.html").stat().st_size < 3_000_000


def test_without_frame_and_answer_there_is_still_a_page(indexed, tmp_path):
    nothing = replace(indexed, frame=None, result=IndexResult(None, 0.0, 0.0, 0, None))
    write_html(nothing, tmp_path / "a.html")
    draw_overview(nothing, tmp_path / "a.png")
    data = Page(tmp_path / "a.html").data
    assert data["image"] is None
    assert data["layers"] == data["zones"] == data["stereogram"]["modes"] == []
    assert "no orientation stands out" in data["note"]
    assert not any(data["found"]["explained"])


def test_overview_has_all_kinds_of_marks(indexed, tmp_path):
    draw_overview(indexed, tmp_path / "a.png", grains=[indexed.result])
    assert (tmp_path / "a.png").stat().st_size < 700_000
    with Image.open(tmp_path / "a.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors()}
    marks = ["#0072b2", "#d55e00", "#007a5a", "#b0528a", "#56b4e9"]
    assert {tuple(int(m[k : k + 2], 16) for k in (1, 3, 5)) for m in marks} <= colours


def test_arrows_are_found_minus_predicted(indexed):
    view, fit = view_of(indexed), indexed.result.refinement
    starts, arrows = view.residuals()
    assert sorted(map(tuple, arrows.round(9))) == sorted(map(tuple, fit.residual_px.round(9)))
    length = np.median(np.linalg.norm(arrows, axis=1)) * view.exaggeration()
    assert 0.008 * 1000 <= length <= 0.0201 * 1000
    assert len(starts) == len(fit.spot)


def test_posterior_takes_the_place_of_the_alternatives(indexed):
    modes = [
        Mode("one", np.eye(3), probability=0.6),
        Mode("two", np.eye(3), probability=0.4, kind="alternative"),
    ]
    assert view_of(indexed, modes=modes).modes == modes
    assert [m.kind for m in view_of(indexed).modes] == ["answer", "alternative"]


def test_arrays_that_do_not_fit_are_refused(indexed):
    detector = indexed.instrument.detector
    good = view_of(indexed).layers[0]
    with pytest.raises(PictureError, match=r"pixels \(n, 2\), hkl \(n, 3\)"):
        PatternLayer("a", good.pixels, good.hkl[:-1], good.energy_kev, good.found)
    with pytest.raises(PictureError, match="must number the 2 found spots"):
        PatternView("", "", detector, np.zeros((2, 2)), np.zeros(2), layers=[good])
    with pytest.raises(PictureError, match="found_counts"):
        PatternView("", "", detector, np.zeros((2, 2)), np.zeros(3))
    with pytest.raises(PictureError, match=r"\(rows, cols\)"):
        PatternView("", "", detector, np.zeros((0, 2)), np.zeros(0), counts=np.zeros((3, 4)))


def test_round_numbers():
    assert [round_number(v) for v in (np.inf, 49.9, 50.0, 1e-9)] == [1_000_000, 20, 50, 1]


def test_posterior_of_photons_has_its_modes(indexed, tmp_path):
    answer = indexed.result.orientation
    other = replace(answer, u=np.eye(3))
    result = PhotonResult(
        answer,
        0.7,
        (PhotonMode(answer, 0.7, np.zeros(5)), PhotonMode(other, 0.3, np.zeros(5))),
        40.0,
        900.0,
        1.5,
        30.0,
    )
    view = view_of_photons(result, indexed.table, indexed.frame, "a.h5")
    assert [(m.name, m.kind, m.probability) for m in view.modes] == [
        ("most probable", "answer", 0.7), ("mode 2", "alternative", 0.3)
    ]  # fmt: skip
    assert view.note == "40 photons in spots, 900 besides: tie"
    rate = dict(zip(map(tuple, indexed.table.hkl), indexed.table.rate.max(axis=1), strict=True))
    first = view.layers[0].hkl[:3] // np.gcd.reduce(view.layers[0].hkl[:3], axis=1)[:, None]
    assert min(rate[tuple(h)] for h in first) > np.median(list(rate.values()))
    write_view(view, tmp_path / "a.html")
    modes = Page(tmp_path / "a.html").data["stereogram"]["modes"]
    assert [m["share"] for m in modes] == ["70 %", "30 %"]
    nobody = view_of_photons(replace(result, orientation=None, modes=()), indexed.table, indexed.frame)
    assert (list(nobody.layers), list(nobody.modes), nobody.zones) == ([], [], ())
