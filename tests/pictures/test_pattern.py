"""Pictures: nothing written over anything else, whatever the detector's shape."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lauepilot.pictures.pattern import draw_pattern
from lauepilot.simulator.instrument import load_instrument


@pytest.mark.parametrize("shape", [(2000, 4000), (1000, 1000), (400, 4000), (3000, 900)])
def test_words_around_a_pattern_do_not_overlap(shape, tmp_path, monkeypatch):
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1])
    rng = np.random.default_rng(0)
    spots = rng.uniform(0.0, 1.0, (30, 2)) * (shape[1], shape[0])
    detector = load_instrument("lab").detector.binned(shape)
    draw_pattern(
        tmp_path / "a.png", detector, title="A title", note="a note", found=spots, indexed=rng.random(30) < 0.5,
        predicted=spots + 3.0,
    )  # fmt: skip
    (figure,) = drawn
    (axes,) = figure.axes
    legends = [*figure.legends, *([axes.get_legend()] if axes.get_legend() else [])]
    ticks = [label for label in axes.get_xticklabels() if label.get_text()]
    words = [axes.xaxis.label, *legends, *figure.texts, ticks[len(ticks) // 2]]
    boxes = [word.get_window_extent() for word in words]
    assert len(boxes) == 5
    for k, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert not any(box.overlaps(other) for other in boxes[:k])
        assert not box.overlaps(axes.bbox)


def test_pictures_are_small_and_keep_their_colours(tmp_path):
    detector = load_instrument("lab").detector
    rng = np.random.default_rng(1)
    draw_pattern(
        tmp_path / "a.png", detector, title="A title", counts=rng.poisson(9.0, detector.shape), found=[[500, 500]],
        predicted=[[200, 300]],
    )  # fmt: skip
    assert (tmp_path / "a.png").stat().st_size < 600_000
    with Image.open(tmp_path / "a.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors()}
    assert {(255, 255, 255), (0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours
