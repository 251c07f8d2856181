"""Pictures of Laue patterns: found spots as circles, predicted ones as crosses, hkl beside the brightest."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.pictures.greys import FOUND, PREDICTED, TEXT, for_eyes, palette
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector

#: Longer side of the pattern in the picture, inches, and dots an inch.
_SIDE_IN = 9.0
_DPI = 140


def draw_pattern(
    path: Path,
    detector: Detector,
    *,
    title: str,
    note: str = "",
    counts: NDArray[Any] | None = None,
    found: ArrayLike | None = None,
    indexed: ArrayLike | None = None,
    predicted: ArrayLike | None = None,
    hkl: ArrayLike | None = None,
    labels: int = 25,
) -> None:
    """Draw one pattern into a PNG file.

    Parameters
    ----------
    path
        The file.
    detector
        Its shape and blind regions.
    title, note
        Headline, and a smaller line under it.
    counts
        (rows, cols) the frame; None leaves the ground white (lists of spots).
    found
        (n, 2) pixels (col, row) of found spots.
    indexed
        (n,) which of them are explained: the others are drawn dashed and thin.
    predicted
        (m, 2) pixels of predicted spots, brightest first.
    hkl
        (m, 3) their indices.
    labels
        So many of the predicted spots get their indices written beside them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, cols = detector.shape
    scale = _SIDE_IN / max(rows, cols)
    width, height = cols * scale, rows * scale
    top, side, bottom = 0.75, 0.75, 0.8
    figure = Figure(figsize=(max(width + 2 * side, 7.0), height + top + bottom), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    full_width, full_height = figure.get_size_inches()
    axes = figure.add_axes(
        (
            (full_width - width) / 2 / full_width,
            bottom / full_height,
            width / full_width,
            height / full_height,
        )
    )
    draw_sensor(axes, detector, counts)
    draw_marks(axes, found, indexed, predicted)
    if predicted is not None and hkl is not None and labels > 0:
        taken = _points(found if counts is None or found is not None else None)
        draw_indices(axes, _points(predicted), np.asarray(hkl), detector.shape, labels, taken)
    handles, names = axes.get_legend_handles_labels()
    if handles:
        # Placed in inches from the edge: a share of the axes' height would reach into the label under flat patterns.
        figure.legend(
            handles,
            names,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.04 / full_height),
            borderaxespad=0.0,
            ncols=3,
            frameon=False,
            fontsize=9,
        )
    figure.text(0.5, 1 - 0.28 / full_height, title, ha="center", va="center", fontsize=12, weight="bold")
    figure.text(0.5, 1 - 0.55 / full_height, note, ha="center", va="center", fontsize=9, color="#444444")
    save_small(figure, path)


def save_small(figure: Any, path: Path, *colours: str) -> None:
    """Save a matplotlib figure as a PNG of few colours: greys, those of our marks, and ``colours``."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    with Image.open(drawn) as full:
        full.convert("RGB").quantize(palette=palette(*colours), dither=Image.Dither.NONE).save(
            path, "PNG", optimize=True
        )


def draw_sensor(axes: Any, detector: Detector, counts: NDArray[Any] | None) -> None:
    """Axes in pixels with the frame (or a white ground), and the blind regions."""
    rows, cols = detector.shape
    if counts is not None:
        grey, pool = for_eyes(counts, detector)
        axes.imshow(
            grey, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="equal",
            extent=(-0.5, pool * grey.shape[1] - 0.5, pool * grey.shape[0] - 0.5, -0.5),
        )  # fmt: skip
    axes.set(xlim=(-0.5, cols - 0.5), ylim=(rows - 0.5, -0.5), xlabel="column (px)", ylabel="row (px)")
    axes.set_aspect("equal")
    _draw_blind(axes, detector)


def _points(pixels: ArrayLike | None) -> FloatArray:
    return np.zeros((0, 2)) if pixels is None else np.asarray(pixels, dtype=float).reshape(-1, 2)


def _draw_blind(axes: Any, detector: Detector) -> None:
    from matplotlib.patches import Ellipse, Rectangle

    for region in detector.blind:
        (x, y), (w, h) = region.centre_px, region.size_px
        shape = Ellipse((x, y), w, h) if region.shape == "circle" else Rectangle((x - w / 2, y - h / 2), w, h)
        shape.set(facecolor="#f4f4f4", edgecolor="#bbbbbb", linewidth=0.8, hatch="///", zorder=1.5)
        axes.add_patch(shape)


def draw_marks(
    axes: Any, found: ArrayLike | None, indexed: ArrayLike | None, predicted: ArrayLike | None
) -> None:
    """Circles about found spots, dashed where not explained, and crosses at predicted ones; as for `draw_pattern`."""
    where = _points(found)
    known = np.ones(len(where), dtype=bool) if indexed is None else np.asarray(indexed, dtype=bool)
    size = 90.0
    if known.any():
        axes.scatter(
            *where[known].T, s=size, facecolors="none", edgecolors=FOUND, linewidths=1.1,
            label=f"found and explained ({known.sum()})" if indexed is not None else f"found ({known.sum()})",
        )  # fmt: skip
    if (~known).any():
        axes.scatter(
            *where[~known].T, s=0.6 * size, facecolors="none", edgecolors="#777777", linewidths=0.8,
            linestyles=(0, (1.5, 1.5)), label=f"found, not explained ({(~known).sum()})",
        )  # fmt: skip
    there = _points(predicted)
    if len(there):
        axes.scatter(
            *there.T,
            s=0.45 * size,
            marker="x",
            color=PREDICTED,
            linewidths=0.9,
            label=f"predicted ({len(there)})",
        )


def draw_indices(
    axes: Any, pixels: FloatArray, hkl: NDArray[Any], shape: tuple[int, int], labels: int, found: FloatArray
) -> None:
    """Indices beside the first spots, each on the side where it covers least; those without room are left out."""
    from matplotlib.patheffects import withStroke

    unit = max(shape) / 1000.0
    text_h = 17.0 * unit
    boxes: list[tuple[float, float, float, float]] = []
    obstacles = np.concatenate([pixels, found])
    halo = [withStroke(linewidth=2.4, foreground="white")]
    written = 0
    for (x, y), indices in zip(pixels, hkl, strict=True):
        if written >= labels:
            break
        text = hkl_text(indices)
        digits = sum(len(str(abs(int(i)))) for i in indices)
        text_w = 9.5 * unit * (digits + (1.4 if max(abs(indices)) > 9 else 0.0) + 0.4)
        best = None
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (0.8, -0.8), (0.8, 0.8), (-0.8, -0.8), (-0.8, 0.8)):
            cx = x + dx * (text_w / 2 + 13 * unit)
            cy = y + dy * (text_h / 2 + 12 * unit)
            box = (cx - text_w / 2, cy - text_h / 2, cx + text_w / 2, cy + text_h / 2)
            if box[0] < 0 or box[1] < 0 or box[2] > shape[1] or box[3] > shape[0]:
                continue
            if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes):
                continue
            hit = (
                (obstacles[:, 0] > box[0] - 5 * unit) & (obstacles[:, 0] < box[2] + 5 * unit)
                & (obstacles[:, 1] > box[1] - 5 * unit) & (obstacles[:, 1] < box[3] + 5 * unit)
            )  # fmt: skip
            cost = int(np.count_nonzero(hit))
            if best is None or cost < best[0]:
                best = (cost, cx, cy, box)
        if best is None or best[0] > 1:
            continue
        _, cx, cy, box = best
        boxes.append(box)
        axes.text(
            cx, cy, text, ha="center", va="center", fontsize=8.5, color=TEXT, path_effects=halo, zorder=5
        )
        written += 1


def hkl_text(indices: ArrayLike, brackets: str = "") -> str:
    r"""Indices as crystallographers write them, minus signs as bars (matplotlib's mathtext), between ``brackets``.

    >>> hkl_text([1, -1, 3])
    '$1\\bar{1}3$'
    """
    values = [int(i) for i in np.asarray(indices)]
    parts = [rf"\bar{{{-i}}}" if -10 < i < 0 else rf"\overline{{{-i}}}" if i < 0 else str(i) for i in values]
    gap = r"\;" if max(abs(i) for i in values) > 9 else ""
    return f"${brackets[:1]}{gap.join(parts)}{brackets[1:]}$"
