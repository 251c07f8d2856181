"""Pictures of Laue patterns: found spots as circles, predicted ones as crosses, hkl beside the brightest."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector

#: Longer side of the pattern in the picture, inches, and dots an inch.
_SIDE_IN = 9.0
_DPI = 140
_FOUND = "#0072b2"  # the palette of Okabe & Ito, told apart by colour-blind eyes too
_PREDICTED = "#d55e00"
_TEXT = "#a03000"


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
    if counts is not None:
        axes.imshow(
            _for_eyes(counts, detector), cmap="gray_r", vmin=0.0, vmax=1.0, extent=(-0.5, cols - 0.5, rows - 0.5, -0.5),
            interpolation="nearest", aspect="equal",
        )  # fmt: skip
    axes.set(xlim=(-0.5, cols - 0.5), ylim=(rows - 0.5, -0.5), xlabel="column (px)", ylabel="row (px)")
    axes.set_aspect("equal")
    _draw_blind(axes, detector)
    _draw_spots(axes, found, indexed, predicted)
    if predicted is not None and hkl is not None and labels > 0:
        taken = _points(found if counts is None or found is not None else None)
        _draw_labels(axes, _points(predicted), np.asarray(hkl), detector.shape, labels, taken)
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
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    with Image.open(drawn) as full:
        full.convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE).save(
            path, "PNG", optimize=True
        )


def _palette() -> Any:
    """Greys, and the three colours blended with them as edges of lines are: a quarter of a full-colour file's size."""
    from PIL import Image

    colours = [(v, v, v) for v in np.linspace(0, 255, 24).round().astype(int).tolist()]
    for name in (_FOUND, _PREDICTED, _TEXT):
        colour = np.array([int(name[k : k + 2], 16) for k in (1, 3, 5)])
        for ground in (255, 190, 110, 30):
            colours += [
                tuple((ground + a * (colour - ground)).round().astype(int)) for a in (0.25, 0.5, 0.75)
            ]
        colours.append(tuple(colour))
    palette = Image.new("P", (1, 1))
    palette.putpalette([int(value) for colour in colours for value in colour])
    return palette


def _points(pixels: ArrayLike | None) -> FloatArray:
    return np.zeros((0, 2)) if pixels is None else np.asarray(pixels, dtype=float).reshape(-1, 2)


def _for_eyes(counts: NDArray[Any], detector: Detector) -> NDArray[np.float32]:
    """Counts as greys 0..1: what stands out of the background on an asinh scale, small spots kept in large frames."""
    image = np.array(counts, dtype=np.float32)
    if detector.blind:  # filled, so that the background near a hole is not pulled down
        mask = detector.mask()
        image[~mask] = np.median(image[mask])
    image = _without_hot_pixels(image)
    pool = max(1, round(max(image.shape) / 1000))
    if pool > 1:
        # The largest of a block, so that no spot gets lost; its noise is biased upwards evenly.
        fits = image[: image.shape[0] // pool * pool, : image.shape[1] // pool * pool]
        blocks = fits.reshape(fits.shape[0] // pool, pool, fits.shape[1] // pool, pool)
        image = blocks.max(axis=(1, 3))
    from scipy import ndimage

    image = ndimage.gaussian_filter(image, 0.8)  # single photons are dust, spots are not
    ground = _ground(image)
    above = image - ground
    noise = float(np.subtract(*np.percentile(above, [84, 50]))) or 1.0
    top = max(float(np.percentile(above, 99.97)), 20.0 * noise)
    grey = np.arcsinh(np.maximum(above, -noise) / (3.0 * noise)) / np.arcsinh(top / (3.0 * noise))
    return np.asarray(np.clip(0.06 + 0.94 * grey, 0.0, 1.0), dtype=np.float32)


def _without_hot_pixels(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels that tower over all their neighbours cut down: no spot is as sharp as that."""
    highest = np.full_like(image, -np.inf)
    for rows, cols in ((1, 0), (0, 1)):
        for sign in (1, -1):
            highest = np.maximum(highest, np.roll(image, (sign * rows, sign * cols), axis=(0, 1)))
    floor = float(np.percentile(image[::7, ::7], 5))
    return np.asarray(np.minimum(image, floor + 4.0 * np.maximum(highest - floor, 1.0)), dtype=np.float32)


def _ground(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half of the smooth background, so that dome and hole stay visible but do not swallow the spots."""
    from scipy import ndimage

    step = max(1, max(image.shape) // 64)
    rows, cols = image.shape[0] // step * step, image.shape[1] // step * step
    blocks = image[:rows, :cols].reshape(rows // step, step, cols // step, step)
    # A clipped mean: the median of a few photons is a whole number and leaves contour lines.
    top = np.quantile(blocks, 0.9, axis=(1, 3), keepdims=True)
    coarse = np.minimum(blocks, top).mean(axis=(1, 3))
    coarse = ndimage.median_filter(coarse, 3)
    zoom = (image.shape[0] / coarse.shape[0], image.shape[1] / coarse.shape[1])
    fine = ndimage.zoom(coarse, zoom, order=1, grid_mode=True, mode="nearest")
    full = np.asarray(fine[: image.shape[0], : image.shape[1]], dtype=np.float32)
    low = float(np.percentile(image, 1))
    return np.asarray(low + 0.8 * (full - low), dtype=np.float32)


def _draw_blind(axes: Any, detector: Detector) -> None:
    from matplotlib.patches import Ellipse, Rectangle

    for region in detector.blind:
        (x, y), (w, h) = region.centre_px, region.size_px
        shape = Ellipse((x, y), w, h) if region.shape == "circle" else Rectangle((x - w / 2, y - h / 2), w, h)
        shape.set(facecolor="#f4f4f4", edgecolor="#bbbbbb", linewidth=0.8, hatch="///", zorder=1.5)
        axes.add_patch(shape)


def _draw_spots(
    axes: Any, found: ArrayLike | None, indexed: ArrayLike | None, predicted: ArrayLike | None
) -> None:
    where = _points(found)
    known = np.ones(len(where), dtype=bool) if indexed is None else np.asarray(indexed, dtype=bool)
    size = 90.0
    if known.any():
        axes.scatter(
            *where[known].T, s=size, facecolors="none", edgecolors=_FOUND, linewidths=1.1,
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
            color=_PREDICTED,
            linewidths=0.9,
            label=f"predicted ({len(there)})",
        )


def _draw_labels(
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
            cx, cy, text, ha="center", va="center", fontsize=8.5, color=_TEXT, path_effects=halo, zorder=5
        )
        written += 1


def hkl_text(indices: ArrayLike) -> str:
    r"""Indices as crystallographers write them, minus signs as bars (matplotlib's mathtext).

    >>> hkl_text([1, -1, 3])
    '$1\\bar{1}3$'
    """
    values = [int(i) for i in np.asarray(indices)]
    parts = [rf"\bar{{{-i}}}" if -10 < i < 0 else rf"\overline{{{-i}}}" if i < 0 else str(i) for i in values]
    gap = r"\;" if max(abs(i) for i in values) > 9 else ""
    return f"${gap.join(parts)}$"
