"""The same as the page, on paper: pattern, zones, residuals and stereogram in one PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lauepilot.pictures.greys import FOUND, OTHERS, RESIDUAL, ZONE
from lauepilot.pictures.page import ellipse_magnification
from lauepilot.pictures.pattern import draw_indices, draw_marks, draw_sensor, hkl_text, save_small
from lauepilot.pictures.stereogram import project, stereogram
from lauepilot.pictures.view import PatternView, percent

_SIDE_IN, _STEREO_IN, _DPI = 8.0, 4.6, 130


def draw_overview(view: PatternView, path: Path) -> None:
    """Draw a pattern with all that is known of it into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, cols = view.detector.shape
    scale = _SIDE_IN / max(rows, cols)
    width, height = cols * scale, rows * scale
    full = (width + _STEREO_IN + 1.25, max(height + 1.9, _STEREO_IN + 2.2))
    figure = Figure(figsize=full, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left = figure.add_axes((0.75 / full[0], 1 - (height + 0.8) / full[1], width / full[0], height / full[1]))
    draw_sensor(left, view.detector, view.counts)
    _zones(left, view)
    answer = view.answer
    draw_marks(
        left, view.found, view.explained() if view.layers else None, None if answer is None else answer.pixels
    )
    _layers(left, view)
    times = _residuals(left, view)
    if answer is not None:
        draw_indices(left, answer.pixels, answer.hkl, view.detector.shape, 20, view.found)
    handles, names = left.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="upper left", bbox_to_anchor=(0.6 / full[0], 1 - (height + 1.35) / full[1]), borderaxespad=0.0,
        ncols=4, frameon=False, fontsize=8.5,
    )  # fmt: skip
    box = (
        (width + 1.0) / full[0],
        1 - (_STEREO_IN + 0.75) / full[1],
        _STEREO_IN / full[0],
        _STEREO_IN / full[1],
    )
    words = _stereogram(figure.add_axes(box), view)
    figure.text(box[0], box[1] - 0.08 / full[1], words + times, va="top", fontsize=8.5, linespacing=1.35)
    middle = 0.5
    figure.text(middle, 1 - 0.28 / full[1], view.title, ha="center", va="center", fontsize=12, weight="bold")
    figure.text(middle, 1 - 0.55 / full[1], view.note, ha="center", va="center", fontsize=9, color="#444444")
    save_small(figure, path, ZONE, RESIDUAL, *OTHERS)


def _zones(axes: Any, view: PatternView) -> None:
    from matplotlib.patheffects import withStroke

    rows, cols = view.detector.shape
    for k, zone in enumerate(view.zones):
        for line in zone.lines:
            axes.plot(*line.T, color=ZONE, linewidth=0.8, alpha=0.8, zorder=1.8)
        points = np.concatenate(zone.lines)
        inner = points[
            np.all(
                (points > 0.04 * max(rows, cols))
                & (points < np.array([cols, rows]) - 0.04 * max(rows, cols)),
                axis=1,
            )
        ]
        if len(inner):  # at different places along the curves, since many of them cross in the middle
            place = inner[int((len(inner) - 1) * (0.1 + 0.8 * ((k * 0.382) % 1.0)))]
            axes.text(
                *place, hkl_text(zone.uvw, "[]"), color=ZONE, fontsize=9, ha="center", va="center", zorder=6,
                path_effects=[withStroke(linewidth=2.4, foreground="white")],
            )  # fmt: skip
    if view.zones:
        axes.plot([], [], color=ZONE, linewidth=0.8, label=f"zones ({len(view.zones)})")


def _layers(axes: Any, view: PatternView) -> None:
    others = [layer for layer in view.layers if layer is not view.answer]
    for k, layer in enumerate(others):
        grain = layer.kind == "grain"
        axes.scatter(
            *layer.pixels.T, s=50 if grain else 26, marker="sDv"[k % 3] if grain else "+", linewidths=0.9,
            facecolors="none" if grain else OTHERS[k % len(OTHERS)], edgecolors=OTHERS[k % len(OTHERS)] if grain else None,
            label=f"{layer.name} ({len(layer.pixels)})",
        )  # fmt: skip


def _residuals(axes: Any, view: PatternView) -> str:
    starts, arrows = view.residuals()
    if not len(starts):
        return ""
    times = view.exaggeration()
    axes.quiver(
        *starts.T,
        *(times * arrows).T,
        angles="xy",
        scale_units="xy",
        scale=1.0,
        color=RESIDUAL,
        width=0.0022,
        zorder=4,
    )
    axes.plot([], [], color=RESIDUAL, marker=r"$\rightarrow$", linestyle="", label=f"residuals × {times}")
    mean = float(np.linalg.norm(arrows, axis=1).mean())
    return f"Arrows: found minus predicted, {times} times as long (mean {mean:.3f} px).\n"


def _stereogram(axes: Any, view: PatternView) -> str:
    if view.reached is not None:
        for y, start, end in view.reached.runs():
            axes.fill_between(
                [start, end], y, y + 2.0 / len(view.reached.cells), color="#56b4e9", alpha=0.16, linewidth=0
            )
    magnification = ellipse_magnification(view.modes)
    others = 0
    if not view.modes:
        stereogram(axes, np.zeros((0, 3)))
        return "No orientation stands out.\n"
    for k, mode in enumerate(view.modes):
        main = mode.kind == "answer"
        share = "" if mode.probability is None else f": {percent(mode.probability)}"
        stereogram(
            axes,
            [mode.u @ axis.direction for axis in view.axes],
            [axis.label for axis in view.axes] if main else (),
            orders=[axis.order for axis in view.axes],
            covariance=mode.covariance,
            magnification=magnification,
            colour=FOUND if main else OTHERS[others % len(OTHERS)],
            net=k == 0,
            filled=main,
            name=mode.name + share,
        )
        others += not main
    if len(view.normals):
        axes.scatter(*project(view.normals).T, s=2.5, color="#777777", linewidths=0, zorder=2.5)
    axes.legend(loc="lower right", bbox_to_anchor=(1.02, -0.03), frameon=False, fontsize=8)
    return (
        "Axes of the crystal seen along the beam: centre against the beam,\n"
        "x to the right, y up; dots: normals of explained planes.\n"
        + ("Shaded: what the goniometer can bring along the beam.\n" if view.reached is not None else "")
        + (
            f"Ellipses: 95 % regions, {magnification} times as large.\n"
            if any(mode.covariance is not None for mode in view.modes)
            else ""
        )
    )
