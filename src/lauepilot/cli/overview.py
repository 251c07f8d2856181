"""The interactive picture of an indexed pattern: what `lauepilot.pictures` has to be told of an `Indexed`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from lauepilot.cli.index import Indexed, directions, spot_table
from lauepilot.perception.indexing.indexer import IndexResult
from lauepilot.perception.indexing.refine import predict_pixels
from lauepilot.perception.photons.indexer import PhotonResult
from lauepilot.pictures import overview, page
from lauepilot.pictures.stereogram import crystal_axes, reached_directions
from lauepilot.pictures.view import Kind, Mode, PatternLayer, PatternView, percent
from lauepilot.pictures.zones import Zone, strongest_zones
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.laue import RayTable, predict_spots

#: Predicted spots that were not found, at most: the brightest.
MISSING = 40

#: Modes that are drawn in the stereogram and predicted on the detector, at most: the most probable.
MODES, LAYERS = 12, 5

#: A found spot belongs to a spot of an alternative within so many pixels.
NEAR_PX = 4.0


def write_html(
    indexed: Indexed, path: Path, *, grains: Sequence[IndexResult] = (), modes: Sequence[Mode] = ()
) -> None:
    """Write an indexed pattern as one self-contained page; arguments as for `view_of`."""
    page.write_html(view_of(indexed, grains=grains, modes=modes), path)


def draw_overview(
    indexed: Indexed, path: Path, *, grains: Sequence[IndexResult] = (), modes: Sequence[Mode] = ()
) -> None:
    """Draw an indexed pattern, its zones, residuals and stereogram, into a PNG; arguments as for `view_of`."""
    overview.draw_overview(view_of(indexed, grains=grains, modes=modes), path)


def view_of(
    indexed: Indexed, *, grains: Sequence[IndexResult] = (), modes: Sequence[Mode] = ()
) -> PatternView:
    """What there is to draw of an indexed pattern.

    Parameters
    ----------
    indexed
        The pattern and the indexer's answer; its alternatives are drawn too.
    grains
        Further grains of the same crystal in the same list of spots, strongest first.
    modes
        Modes of a posterior over orientations, where one was computed; they take the place of the answer and its
        alternatives in the stereogram.
    """
    result, crystal = indexed.result, indexed.crystal
    layers: list[PatternLayer] = []
    shown: list[Mode] = []
    zones: tuple[Zone, ...] = ()
    normals = np.zeros((0, 3))
    if result.orientation is not None:
        table = spot_table(indexed)
        layers.append(answer_layer(indexed))
        name = "answer" if indexed.sure else "best guess"
        shown.append(Mode(name, result.orientation.u, result.orientation.covariance, result.confidence))
        zones = strongest_zones(result.orientation.ub, table.hkl, indexed.detector)
        q = table.hkl @ result.orientation.ub.T
        normals = q / np.linalg.norm(q, axis=1, keepdims=True)
        note = (
            f"{len(table.spot)} of {len(indexed.spots)} spots explained, confidence {percent(result.confidence)}"
            + ("" if indexed.sure else ": a guess, not an answer")
        )
    else:
        note = f"{len(indexed.spots)} spots found; no orientation stands out"
    for k, grain in enumerate(grains, start=2):
        if grain.orientation is not None:
            layers.append(answer_layer(replace(indexed, result=grain), f"grain {k}", "grain"))
            shown.append(
                Mode(
                    f"grain {k}", grain.orientation.u, grain.orientation.covariance, grain.confidence, "grain"
                )
            )
    for k, other in enumerate(result.alternatives[: MODES - 1], start=1):
        name = f"alternative {k}"
        if k < LAYERS:
            layers.append(_other_layer(indexed, other.u, name))
        shown.append(Mode(name, other.u, other.covariance, None, "alternative"))
    frame, instrument = indexed.frame, indexed.instrument
    return PatternView(
        title=f"{crystal.name} on {instrument.name}: {Path(indexed.source).name or 'spots'}",
        note=note,
        detector=instrument.detector,
        found=indexed.spots.pixels,
        found_counts=indexed.spots.counts,
        counts=None if frame is None else frame.counts,
        layers=layers,
        zones=zones,
        modes=list(modes) or shown,
        axes=crystal_axes(crystal.b, crystal.symmetry),
        normals=normals,
        reached=reached_directions(instrument.goniometer, {} if frame is None else frame.axes),
        radiation=instrument.beam.radiation,
        facts=_facts(indexed),
    )


def answer_layer(indexed: Indexed, name: str = "predicted", kind: Kind = "answer") -> PatternLayer:
    """Predicted spots of the answer: those found, brightest first, then the brightest that were not.

    The others are listed down to what the faintest quarter of the found ones has; the rest may lie below the background.
    """
    found, fit, orientation = spot_table(indexed), indexed.result.refinement, indexed.result.orientation
    pixels, hkl, energy = found.predicted, found.hkl, found.energy_kev
    if fit is not None and orientation is not None:
        spots = predict_spots(indexed.table, fit.u, fit.detector)
        there = predict_pixels(fit.u, directions(indexed, fit)[spots.ray], fit.detector)
        seen = _distance(there, pixels) < 0.5
        floor = np.quantile(spots.rate_per_s[seen], 0.25) if seen.any() else 0.0
        others = np.flatnonzero(~seen & (spots.rate_per_s > floor) & np.isfinite(there).all(axis=1))
        others = others[np.argsort(-spots.rate_per_s[others], kind="stable")][:MISSING]
        pixels = np.concatenate([pixels, there[others]])
        hkl = np.concatenate([hkl, spots.hkl[others]])
        energy = np.concatenate([energy, spots.energy_kev[others]])
    which = np.full(len(pixels), -1)
    which[: len(found.spot)] = found.spot
    return PatternLayer(name, pixels, hkl, energy, which, kind)


def _other_layer(indexed: Indexed, u: FloatArray, name: str) -> PatternLayer:
    """The brightest predicted spots of another orientation, on the answer's pose; as many as spots were found."""
    layer = brightest_layer(indexed.table, u, indexed.detector, len(indexed.spots), name, "alternative")
    if not len(indexed.spots):
        return layer
    gap, nearest = cKDTree(indexed.spots.pixels).query(layer.pixels)
    return replace(layer, found=np.where(gap < NEAR_PX, nearest, -1))


def brightest_layer(
    table: RayTable, u: FloatArray, detector: Detector, most: int, name: str, kind: Kind
) -> PatternLayer:
    """The ``most`` brightest spots that an orientation ``u`` (3, 3) predicts, brightest first; none of them found."""
    spots = predict_spots(table, u, detector)
    bright = np.argsort(-spots.rate_per_s, kind="stable")[:most]
    nothing = np.full(len(bright), -1)
    return PatternLayer(
        name, spots.pixels[bright], spots.hkl[bright], spots.energy_kev[bright], nothing, kind
    )


def view_of_photons(result: PhotonResult, table: RayTable, frame: Frame, source: str = "") -> PatternView:
    """What there is to draw of a posterior from single photons: no spots were found, the modes predict them.

    Parameters
    ----------
    result
        Of `PhotonIndexer`.
    table
        Rays of the crystal on the instrument.
    frame
        The frame.
    source
        Path of its file.
    """
    crystal, instrument = table.crystal, table.instrument
    detector = instrument.detector
    kinds: list[Kind] = [
        "answer" if k == 0 and result.orientation is not None else "alternative" for k in range(MODES)
    ]
    told = list(zip(kinds, result.modes, strict=False))
    names = [
        "most probable" if kind == "answer" else f"mode {k}" for k, (kind, _) in enumerate(told, start=1)
    ]
    layers = [
        brightest_layer(table, mode.orientation.u, detector, MISSING, name, kind)
        for name, (kind, mode) in zip(names[:LAYERS], told, strict=False)
    ]
    return PatternView(
        title=f"{crystal.name} on {instrument.name}: {Path(source).name or 'photons'}",
        note=f"{result.signal_photons:.0f} photons in spots, {result.background_photons:.0f} besides: {result.verdict}",
        detector=detector,
        found=np.zeros((0, 2)),
        found_counts=np.zeros(0),
        counts=frame.counts,
        layers=layers,
        zones=()
        if result.orientation is None
        else strongest_zones(result.orientation.ub, layers[0].hkl, detector),
        modes=[
            Mode(name, mode.orientation.u, mode.orientation.covariance, mode.probability, kind)
            for name, (kind, mode) in zip(names, told, strict=True)
        ],
        axes=crystal_axes(crystal.b, crystal.symmetry),
        reached=reached_directions(instrument.goniometer, frame.axes),
        radiation=instrument.beam.radiation,
        facts=[
            ("crystal", f"{crystal.name}, {crystal.space_group}"),
            ("instrument", instrument.name),
            ("file", source or "(none)"),
            ("verdict", result.verdict),
            ("modes above 0.1 %", str(len(result.modes))),
            ("width of spots", f"{result.width_px:.2f} px"),
        ],
    )


def _distance(pixels: FloatArray, to: FloatArray) -> FloatArray:
    """Distance (n,) of pixels (n, 2) to the nearest of others (m, 2)."""
    if not len(to):
        return np.full(len(pixels), np.inf)
    finite = np.where(np.isfinite(pixels), pixels, -1e9)
    return np.asarray(cKDTree(to).query(finite)[0])


def _facts(indexed: Indexed) -> list[tuple[str, str]]:
    result, detector, fit = indexed.result, indexed.detector, indexed.result.refinement
    facts = [
        ("crystal", f"{indexed.crystal.name}, {indexed.crystal.space_group}"),
        ("instrument", indexed.instrument.name),
        ("file", indexed.source or "(none)"),
        ("spots found", str(len(indexed.spots))),
    ]
    orientation = result.orientation
    if orientation is not None and fit is not None:
        facts += [
            ("spots explained", str(len(fit.spot))),
            ("mean residual", f"{fit.mean_residual_px:.3f} px"),
            ("confidence", f"{result.confidence:.6f}" + ("" if indexed.sure else " (not sure)")),
            ("orientation known to", f"{orientation.sigma_deg:.2g}°" if indexed.sure else "not known"),
            *(
                (f"U, row {i}", "  ".join(f"{v:+.5f}" for v in row))
                for i, row in enumerate(orientation.u, start=1)
            ),
        ]
    centre = ", ".join(f"{v:.2f}" for v in detector.centre_px)
    how = "refined" if indexed.geometry_refined else "taken as exact"
    facts += [("detector", f"{detector.distance_mm:.3f} mm, centre ({centre}) px, {how}")]
    if indexed.frame is not None and indexed.frame.axes:
        facts.append(("axes", ", ".join(f"{k} {v:.3f}" for k, v in indexed.frame.axes.items())))
    if orientation is not None:
        facts.append(("frame", "+z along the beam, +y up, right-handed"))
    return facts
