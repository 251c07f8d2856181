"""The pictures of the page: the last pattern with its marks, and the stereogram of now."""

from __future__ import annotations

import functools
import html
import io
import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lauepilot.hardware.page.standing import Sight, Standing
from lauepilot.pictures.greys import grey_png
from lauepilot.pictures.stereogram import (
    CrystalAxis,
    crystal_axes,
    error_ellipse,
    project,
    wulff_net,
)
from lauepilot.pictures.view import round_number
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.orientation import Orientation
from lauepilot.simulator.target import Alignment, Target

Scale = Literal["log", "linear"]
SCALES: tuple[Scale, ...] = ("log", "linear")

#: Most bytes of a pattern's PNG: a second over a slow line.
MOST_BYTES = 900_000

#: Ellipses are enlarged until the larger half axis spans about so much (rad), to be seen at all.
_SEEN_RAD = 0.05


class Pictures:
    """Draws the last pattern once, whoever asks, and forgets the ones before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._drawn: dict[Scale, bytes] = {}
        self._marks: dict[str, Any] = {}

    def png(self, sight: Sight, scale: Scale) -> bytes:
        """The frame as an 8-bit grey PNG, bright spots on dark ground."""
        with self._lock:
            self._turn_to(sight)
            if scale not in self._drawn:
                detector = sight.job.camera.instrument.detector
                counts = sight.frame.counts
                self._drawn[scale] = (
                    grey_png(counts, detector, MOST_BYTES)[0]
                    if scale == "log"
                    else linear_png(counts, detector)
                )
            return self._drawn[scale]

    def marks(self, sight: Sight) -> dict[str, Any]:
        """Found and predicted spots and the blind regions, as plain values: what ``pattern.js`` draws over the frame."""
        with self._lock:
            self._turn_to(sight)
            if not self._marks:
                self._marks = _marks(sight)
            return self._marks

    def _turn_to(self, sight: Sight) -> None:
        if sight.number != self._number:
            self._number, self._drawn, self._marks = sight.number, {}, {}


def linear_png(counts: NDArray[Any], detector: Detector) -> bytes:
    """Counts in proportion, from the first percentile to the brightest thousandth; the blind regions dark."""
    from PIL import Image

    image = np.asarray(counts, dtype=np.float32)
    alive = detector.mask()
    low, high = np.percentile(image[alive], [1.0, 99.9])
    grey = np.where(alive, np.clip((image - low) / max(high - low, 1.0), 0.0, 1.0), 0.0)
    stored = io.BytesIO()
    Image.fromarray((np.rint(grey * 63.0) * (255.0 / 63.0)).astype(np.uint8)).save(
        stored, "PNG", compress_level=6
    )
    return stored.getvalue()


def _marks(sight: Sight) -> dict[str, Any]:
    spots = sight.observation.spots
    found = np.zeros((0, 2)) if spots is None else spots.pixels
    predicted = sight.job.predict(sight.frame, sight.observation)
    known = np.zeros(len(found), dtype=bool)
    known[: len(predicted.explained)] = predicted.explained[: len(found)]
    there = np.isfinite(predicted.pixels).all(axis=1)
    detector = sight.job.camera.instrument.detector
    return {
        "shape": list(detector.shape),
        "blind": [
            {"shape": region.shape, "centre": list(region.centre_px), "size": list(region.size_px)}
            for region in detector.blind
        ],
        "found": np.round(found, 2).tolist(),
        "known": known.tolist(),
        "predicted": np.round(predicted.pixels[there], 2).tolist(),
        "hkl": predicted.hkl[there].astype(int).tolist(),
    }


def orientation_now(at: Standing) -> Orientation | None:
    """What is believed of the crystal's laboratory orientation at the axes of now, named as in the target; or None."""
    if at.result is not None and at.result.outcome == "declared" and at.result.orientation is not None:
        orientation, then = at.result.orientation, at.result.axes
        job = None if at.sight is None else at.sight.job
    elif at.sight is not None and at.sight.observation.belief is not None:
        belief = at.sight.observation.belief
        if belief.orientation is None:
            return None
        orientation, job = belief.orientation, at.sight.job
        then = at.sight.observation.belief_axes or at.sight.observation.axes
    else:
        return None
    if job is None or not at.axes:
        return None
    chain = job.goniometer.chain
    turn = chain.matrix(at.axes) @ chain.matrix(then).T
    u = turn @ orientation.u
    now = Orientation(u, orientation.b, turn @ orientation.covariance @ turn.T)
    return now.relabelled(job.target.as_written(u, job.crystal))


def off_target_deg(at: Standing, now: Orientation | None) -> float:
    """Angle by which the crystal is believed to miss the target, degrees; NaN if nothing is believed."""
    if now is None or at.sight is None:
        return float("nan")
    return float(np.rad2deg(at.sight.job.target.error(now.u, at.sight.job.crystal)))


def target_words(target: Target) -> list[str]:
    """The target's parts as crystallographers write them."""
    parts = [target.primary] + ([] if target.secondary is None else [target.secondary])
    return [_name(part) for part in parts]


def _name(part: Alignment) -> str:
    inner = " ".join(f"{value:g}".replace("-", "−") for value in part.indices)
    return f"[{inner}]" if part.kind == "uvw" else f"({inner})"


def stereogram_svg(at: Standing, now: Orientation | None, target: Target, symmetry: ArrayLike) -> str:
    """The stereogram as SVG: where target directions are wanted, where they are believed, and how well that is known.

    Seen along the beam, from the source: +x right, +y up; the centre is the direction against the beam.
    """
    parts = [target.primary] + ([] if target.secondary is None else [target.secondary])
    out = [_net()]
    said = [f"wanted: {', '.join(_name(p) for p in parts)}"]
    times = 1
    if now is not None:
        b = now.b
        times = _magnification(now)
        for axis in _axes(b.tobytes(), np.asarray(symmetry, dtype=float).tobytes()):
            x, y = project(now.u @ axis.direction)
            out.append(f'<circle class="axis" cx="{x:.4f}" cy="{-y:.4f}" r=".014"/>')
            free = all(np.hypot(*(project(p.in_laboratory()) - (x, y))) > 0.15 for p in parts)
            if free and axis.order != 2:  # the target's own names stand there
                out.append(_text(x, y, axis.label.replace("-", "−"), "small"))
        for part in parts:
            x, y, outline = _believed(now, part, times)
            out.append(_polygon(outline, "error"))
            out.append(f'<circle class="here" cx="{x:.4f}" cy="{-y:.4f}" r=".03"/>')
    for part in parts:
        x, y = project(part.in_laboratory())
        out.append(f'<path class="wanted" d="{_cross_hair(x, -y)}"/>')
        out.append(f'<circle class="wanted" cx="{x:.4f}" cy="{-y:.4f}" r=".065"/>')
        out.append(_text(x + 0.07, y - 0.12, _name(part), "target"))
    if now is not None:
        said.append(f"{off_target_deg(at, now):.2f} degrees away, known to {now.sigma_deg:.2g} degrees")
    label = html.escape("Stereogram. " + "; ".join(said))
    legend = f"ellipse: 95 %, {times} × larger" if now is not None and times > 1 else "ellipse: 95 %"
    out.append(f'<text class="small" x="-1.14" y="1.13">{legend if now is not None else ""}</text>')
    return f'<svg viewBox="-1.16 -1.16 2.32 2.34" role="img" aria-label="{label}">{"".join(out)}</svg>'


def _believed(now: Orientation, part: Alignment, times: int) -> tuple[float, float, FloatArray]:
    """Where a direction is believed to be, and its error ellipse: of its two ends the one beside where it is wanted."""
    here = now.u @ part.in_crystal(now.b)
    outline = error_ellipse(here, now.covariance, times)
    x, y = project(here)
    there = project(part.in_laboratory())
    other = -np.array([x, y]) / max(x * x + y * y, 1e-9)  # the other end: near the rim both are in sight
    if np.linalg.norm(other) < 1.1 and np.linalg.norm(other - there) < np.linalg.norm((x, y) - there):
        x, y = other
        outline = -outline / np.maximum((outline**2).sum(axis=1, keepdims=True), 1e-9)
    return float(x), float(y), outline


def _magnification(now: Orientation) -> int:
    largest = float(np.sqrt(max(np.linalg.eigvalsh(now.covariance)[-1], 0.0)))
    return round_number(_SEEN_RAD / max(largest, 1e-9), most=1000)


def _cross_hair(x: float, y: float) -> str:
    arms = (
        (0.04, 0.0, 0.10, 0.0),
        (-0.04, 0.0, -0.10, 0.0),
        (0.0, 0.04, 0.0, 0.10),
        (0.0, -0.04, 0.0, -0.10),
    )
    return "".join(f"M{x + a:.4f} {y + b:.4f}L{x + c:.4f} {y + d:.4f}" for a, b, c, d in arms)


def _text(x: float, y: float, text: str, kind: str) -> str:
    inside = x <= 0.75
    anchor, shift = ("start", 0.03) if inside else ("end", -0.03)
    return f'<text class="{kind}" x="{x + shift:.4f}" y="{-y - 0.02:.4f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _polygon(points: FloatArray, kind: str) -> str:
    listed = " ".join(f"{x:.4f},{-y:.4f}" for x, y in points[::2])
    return f'<polygon class="{kind}" points="{listed}"/>'


@functools.cache
def _net() -> str:
    lines = "".join(
        f'<polyline class="net" points="{" ".join(f"{x:.3f},{-y:.3f}" for x, y in line[::4])}"/>'
        for line in wulff_net()
    )
    return lines + '<circle class="rim" r="1"/>'


@functools.lru_cache(maxsize=8)
def _axes(b: bytes, symmetry: bytes) -> tuple[CrystalAxis, ...]:
    return crystal_axes(np.frombuffer(b).reshape(3, 3), np.frombuffer(symmetry).reshape(-1, 3, 3))
