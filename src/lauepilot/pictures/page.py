"""One page of HTML to look into a pattern with: it needs no server and no network, and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lauepilot.pictures.greys import grey_png
from lauepilot.pictures.stereogram import ELLIPSE_95, error_ellipse, project, wulff_net
from lauepilot.pictures.view import Mode, PatternView, percent, round_number
from lauepilot.simulator.conventions import HC_KEV_A

#: Bytes of the picture inside, before base64 adds a third.
MOST_IMAGE_BYTES = 1_900_000

#: The largest error ellipse is drawn with about this half axis.
_ELLIPSE_RAD = 0.25


def write_html(view: PatternView, path: Path) -> None:
    """Write a pattern as one page that any browser opens from a file.

    Zoom, pan, marks that tell their indices under the pointer, switches for each kind of mark, a stereogram and a table of
    the spots. The numbers lie in it as JSON (``<script id="data">``), with all that could end that element escaped; a
    content policy forbids requests and any script but the page's own.
    """
    template, style = _part("page.html"), _part("page.css")
    script = f'"use strict";\n(() => {{\n{_part("page_pattern.js")}{_part("page_spots.js")}}})();\n'
    # Nothing that comes from files or users may close the element: < > & are written as escapes of JSON.
    data = json.dumps(payload(view), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    policy = (
        f"default-src 'none'; img-src data:; script-src {_hash(script)}; "
        f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    # In one pass over the template, so that no inserted text is taken for a place to insert at.
    pieces = {
        "POLICY": policy,
        "TITLE": html.escape(view.title),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": data,
    }
    opening, *rest = template.split("@@")
    page = [opening]
    for name, text in zip(rest[::2], rest[1::2], strict=True):
        page += [pieces[name], text]
    path.write_text("".join(page), encoding="utf-8")


def _part(name: str) -> str:
    return (resources.files("lauepilot.pictures") / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def payload(view: PatternView) -> dict[str, Any]:
    """What the page is drawn from, as plain values; arrays are lists of columns, NaN is null."""
    return {
        "title": view.title,
        "note": view.note,
        "facts": [list(fact) for fact in view.facts],
        "radiation": view.radiation,
        "hc_kev_a": HC_KEV_A,
        "shape": list(view.detector.shape),
        "image": _image(view),
        "blind": [
            {"shape": region.shape, "centre": list(region.centre_px), "size": list(region.size_px)}
            for region in view.detector.blind
        ],
        "found": {
            "col": _numbers(view.found[:, 0], 5),
            "row": _numbers(view.found[:, 1], 5),
            "counts": _numbers(view.found_counts, 1),
            "explained": view.explained().tolist(),
        },
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "col": _numbers(layer.pixels[:, 0], 5),
                "row": _numbers(layer.pixels[:, 1], 5),
                "hkl": np.asarray(layer.hkl).astype(int).tolist(),
                "energy_kev": _numbers(layer.energy_kev, 4),
                "found": np.asarray(layer.found).astype(int).tolist(),
            }
            for layer in view.layers
        ],
        "zones": [
            {
                "label": zone.label,
                "uvw": list(zone.uvw),
                "spots": zone.spots,
                "lines": [[_numbers(point, 1) for point in line] for line in zone.lines],
            }
            for zone in view.zones
        ],
        "exaggeration": view.exaggeration(),
        "stereogram": _stereogram(view),
    }


def _numbers(values: Any, digits: int) -> list[float | None]:
    return [round(float(v), digits) if np.isfinite(v) else None for v in np.asarray(values, dtype=float)]


def _image(view: PatternView) -> dict[str, Any] | None:
    if view.counts is None:
        return None
    png, pool = grey_png(view.counts, view.detector, MOST_IMAGE_BYTES)
    return {"png": base64.b64encode(png).decode(), "pool": pool}


def _stereogram(view: PatternView) -> dict[str, Any]:
    magnification = ellipse_magnification(view.modes)
    modes = []
    for mode in view.modes:
        lab = [mode.u @ axis.direction for axis in view.axes]
        outlines = (
            [] if mode.covariance is None else [error_ellipse(d, mode.covariance, magnification) for d in lab]
        )
        modes.append(
            {
                "name": mode.name,
                "kind": mode.kind,
                "probability": mode.probability,
                "share": None if mode.probability is None else percent(mode.probability),
                "points": [_numbers(project(d), 4) for d in lab],
                "ellipses": [[_numbers(point, 4) for point in outline[::2]] for outline in outlines],
            }
        )
    return {
        "axes": [{"label": axis.label, "order": axis.order} for axis in view.axes],
        "modes": modes,
        "magnification": magnification,
        "normals": [_numbers(point, 4) for point in project(view.normals)] if len(view.normals) else [],
        "net": [[_numbers(point, 3) for point in line] for line in wulff_net()],
        "reached": None
        if view.reached is None
        else {
            "cell": 2.0 / len(view.reached.cells),
            "runs": [_numbers(run, 4) for run in view.reached.runs()],
        },
    }


def ellipse_magnification(modes: Sequence[Mode]) -> int:
    """A round number by which error ellipses are drawn larger, so that the largest is easily seen."""
    largest = max(
        (float(np.linalg.eigvalsh(m.covariance)[-1]) for m in modes if m.covariance is not None), default=0.0
    )
    return round_number(_ELLIPSE_RAD / max(ELLIPSE_95 * np.sqrt(max(largest, 0.0)), 1e-12), most=1e5)
