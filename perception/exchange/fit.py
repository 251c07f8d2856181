"""Orientations as LaueTools ``.fit`` files: UB and B0 without 2 pi, x along the beam, the crystal as it stood.

The spots in the table are predicted ones (the brightest), since an orientation holds no measured ones; the file says so.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from lauepilot.perception.exchange.frames import TO_BEAM_X
from lauepilot.perception.exchange.stored import (
    ExchangeError,
    StoredOrientation,
    assembled,
    from_note,
    note,
    note_text,
)
from lauepilot.perception.files.lauetools import (
    FROM_LAUETOOLS,
    LaueToolsGeometry,
    azimuth_rad,
    read_fit,
    scattering_angles,
)
from lauepilot.simulator.conventions import BEAM, HC_KEV_A, FloatArray, axis_rotation
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.laue import RayTable, predict_spots

#: Predicted spots in a file, at most.
MOST_SPOTS = 100

_NOTE = "#lauepilot "
_WORDS = "LaueTools: x along the beam, y left, z up"
_COLUMNS = (
    "spot_index Itot h k l Xtheo Ytheo Xexp Yexp XdevCalib YdevCalib pixDevCalib 2theta_theo chi_theo Energy"
)


def write_lauetools(path: Path, stored: StoredOrientation, crystal: Crystal, instrument: Instrument) -> None:
    """A ``.fit`` file; ``stored`` is of the laboratory, as the crystal stood.

    LaueTools' detector defines the vertical: where the real one is turned about the beam, crystal and detector are turned
    back by that angle, and the file says by how much.

    Raises
    ------
    ExchangeError
        If no spot of the crystal falls on the detector.
    LaueToolsError
        If LaueTools cannot hold the detector (it must be flat, above the sample, not mirrored).
    """
    real = instrument.detector
    azimuth = azimuth_rad(real)
    turn = axis_rotation(BEAM, -azimuth)
    detector = replace(real, rotation=turn @ real.rotation)
    geometry = LaueToolsGeometry.from_detector(detector)
    to_frame = TO_BEAM_X @ turn
    spots = predict_spots(RayTable.build(crystal, instrument), stored.u, real)
    order = np.argsort(-spots.rate_per_s, kind="stable")[:MOST_SPOTS]
    if len(order) == 0:
        raise ExchangeError(
            f"No spot of {crystal.name} falls on {real.name} at this orientation, and a .fit file needs one. "
            "Is it the detector that saw the crystal?"
        )
    hkl = spots.hkl[order]
    # Which spots there are follows from the crystal as in its CIF; where they are, from the orientation's own cell.
    q = hkl @ stored.ub.T
    length = np.linalg.norm(q, axis=1)
    sine = -q[:, 2] / length
    pixels = real.rays_to_pixels(BEAM + 2.0 * (sine / length)[:, None] * q)
    energy = HC_KEV_A * length / (4.0 * np.pi * sine)
    two_theta, chi = (np.rad2deg(x) for x in scattering_angles(detector, pixels))
    rows = []
    for i, rate in enumerate(spots.rate_per_s[order]):
        h, place = " ".join(str(int(n)) for n in hkl[i]), f"{pixels[i, 0]:.6f} {pixels[i, 1]:.6f}"
        rows.append(
            f"{i} {rate:.6g} {h} {place} {place} 0 0 0 {two_theta[i]:.6f} {chi[i]:.6f} {energy[i]:.6f}"
        )
    u, b0 = to_frame @ stored.u, stored.b / (2.0 * np.pi)
    pose = (geometry.distance_mm, geometry.xcen_px, geometry.ycen_px, geometry.xbet_deg, geometry.xgam_deg)
    lines = [
        "#Orientation written by lauepilot; Xexp, Yexp are predicted positions, Itot predicted photons a second: no spot "
        "of this table was measured",
        f"#Frame: {_WORDS}, turned by {np.rad2deg(azimuth):.6f} deg about the beam from ours; UB and B0 without 2 pi",
        f"#Number of indexed spots: {len(rows)}",
        "#Element",
        f"#{stored.crystal or crystal.name}",
        "#grainIndex",
        "#G_0",
        "#Mean Deviation(pixel): 0.0",
        f"#{_COLUMNS}",
        *rows,
        "#UB matrix in q= (UB) B0 G* ",
        *_matrix(u),
        "#B0 matrix in q= UB (B0) G*",
        *_matrix(b0),
        "#UBB0 matrix in q= (UB B0) G* , reciprocal vectors are columns",
        *_matrix(u @ b0),
        "#CCDLabel",
        f"#{real.name}",
        "#DetectorParameters",
        "#[" + ", ".join(repr(float(x)) for x in pose) + "]",
        "#pixelsize",
        f"#{geometry.pixel_mm!r}",
        "#Frame dimensions",
        f"#({real.shape[0]}, {real.shape[1]})",
        _NOTE + note_text(note(stored, to_frame)),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _matrix(matrix: FloatArray) -> list[str]:
    rows = [" ".join(f"{float(x) + 0.0: .16e}" for x in row) for row in matrix]
    return [f"#[[{rows[0]}]", f"# [{rows[1]}]", f"# [{rows[2]}]]"]


def read_lauetools(path: Path) -> StoredOrientation:
    """Orientation, refined cell and detector of a ``.fit`` file (the first grain). Raises as `read_fit`."""
    fit = read_fit(path)
    text = next((s[len(_NOTE) :] for s in path.read_text("utf-8").splitlines() if s.startswith(_NOTE)), None)
    try:
        value = None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise ExchangeError(f"{path}: lauepilot's own note in it is damaged ({error}).") from None
    told = from_note(value, FROM_LAUETOOLS.T, "laboratory", _WORDS, str(path), fit.element)
    if told.detector is None and fit.geometry is not None and fit.geometry.shape is not None:
        told = replace(told, detector=fit.geometry.to_detector())
    return assembled(2.0 * np.pi * fit.ub_lauetools @ fit.b0_lauetools, told, "fit", False)
