"""What an orientation file holds, in our frames, and the checks that all formats share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.crystal import busing_levy_b
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.goniometer import Goniometer
from lauepilot.simulator.orientation import Orientation

#: Relative difference of metric tensors above which a UB does not belong to the cell beside it.
CELL_TOLERANCE = 2e-3

Of = Literal["holder", "laboratory"]


class ExchangeError(ValueError):
    """An orientation file that cannot be read, or an orientation that a format cannot hold."""


@dataclass(frozen=True, eq=False)
class StoredOrientation:
    """An orientation from a file, in our frames.

    Attributes
    ----------
    u
        Rotation (3, 3) into the frame that ``of`` names.
    b
        ``B`` (3, 3) with 2 pi, upper triangular (Busing & Levy).
    of
        ``holder``: the sample holder's, all axes at zero; ``laboratory``: ``Z U``, as the crystal stood.
    axes
        Positions (degrees, mm) at which it stood; None if the file does not tell.
    covariance
        (3, 3) of the rotation vector in the same frame, radians squared; None if the file does not tell.
    detector
        Pose; None if the file does not tell.
    crystal, space_group, instrument
        Names; empty if the file does not tell.
    format
        Of the file: diffcalc, hklpy2, nexus, spec, fit, lauepilot.
    frame
        The file's own frame, in words.
    two_pi
        Whether the file's UB holds 2 pi.
    """

    u: FloatArray
    b: FloatArray
    of: Of
    axes: Mapping[str, float] | None
    covariance: FloatArray | None
    detector: Detector | None
    crystal: str
    space_group: str
    format: str
    frame: str
    two_pi: bool
    instrument: str = ""

    @property
    def ub(self) -> FloatArray:
        """``UB`` (3, 3) with 2 pi, in our frame."""
        return np.asarray(self.u @ self.b)

    @property
    def cell(self) -> FloatArray:
        """a, b, c in angstrom and alpha, beta, gamma in degrees (6,)."""
        return cell_of(self.b)

    @property
    def orientation(self) -> Orientation:
        """As an `Orientation`; its covariance is zero where the file tells none."""
        return Orientation(self.u, self.b, np.zeros((3, 3)) if self.covariance is None else self.covariance)

    def on_holder(self, goniometer: Goniometer) -> Orientation:
        """The orientation on the sample holder, all axes at zero.

        A laboratory orientation without axes is taken as one with all axes at zero.
        """
        if self.of == "holder":
            return self.orientation
        return self.orientation.turned(goniometer.matrix(self.axes or {}).T)

    def in_laboratory(self, goniometer: Goniometer, axes: Mapping[str, float] | None = None) -> Orientation:
        """The laboratory's ``Z U`` at ``axes`` (degrees), by default where the crystal stood, else at zero."""
        return self.on_holder(goniometer).turned(
            goniometer.matrix(axes if axes is not None else self.axes or {})
        )


def canonical(ub: ArrayLike, name: str = "UB") -> tuple[FloatArray, FloatArray]:
    """``U`` (3, 3), a rotation, and ``B`` (3, 3), upper triangular with positive diagonal, of ``UB`` (3, 3).

    Raises
    ------
    ExchangeError
        If it is not a matrix of three independent right-handed vectors.
    """
    matrix = np.asarray(ub, dtype=float)
    if matrix.shape != (3, 3) or not np.all(np.isfinite(matrix)):
        raise ExchangeError(f"{name} must be 3 x 3 finite numbers; shape {matrix.shape} came:\n{matrix}")
    determinant = float(np.linalg.det(matrix))
    if not determinant > 1e-12 * float(np.linalg.norm(matrix)) ** 3:
        raise ExchangeError(
            f"{name} has the determinant {determinant:.3g}; a crystal's is positive (reciprocal vectors right-handed)."
        )
    q, r = np.linalg.qr(matrix)
    signs = np.sign(np.diag(r))
    return np.asarray(q * signs), np.asarray(r * signs[:, None])


def cell_of(b: ArrayLike) -> FloatArray:
    """a, b, c in angstrom and alpha, beta, gamma in degrees (6,) of ``B`` (3, 3) with 2 pi."""
    direct = 2.0 * np.pi * np.linalg.inv(np.asarray(b, dtype=float)).T
    lengths = np.linalg.norm(direct, axis=0)
    pairs = ((1, 2), (0, 2), (0, 1))
    # atan2, since arccos loses half of the digits near 0 and 180 degrees
    angles = [
        np.arctan2(np.linalg.norm(np.cross(direct[:, i], direct[:, j])), direct[:, i] @ direct[:, j])
        for i, j in pairs
    ]
    return np.concatenate([lengths, np.rad2deg(angles)])


def with_two_pi(ub: ArrayLike, cell: ArrayLike, origin: str) -> tuple[FloatArray, bool]:
    """``UB`` (3, 3) with 2 pi, and whether it came so: the cell (6,) beside it tells.

    Raises
    ------
    ExchangeError
        If it belongs to the cell neither with nor without 2 pi: transposed, stale, or of another crystal.
    """
    matrix, six = np.asarray(ub, dtype=float), np.asarray(cell, dtype=float)
    if six.shape != (6,) or not np.all(np.isfinite(six)) or np.any(six <= 0.0):
        raise ExchangeError(f"{origin}: the lattice must be six positive numbers; {six} came.")
    u, b = canonical(matrix, f"{origin}: UB")
    wanted = busing_levy_b([float(x) for x in six])
    if not np.all(np.isfinite(wanted)):
        raise ExchangeError(f"{origin}: no lattice has the angles {six[3:]} deg.")
    metric = wanted.T @ wanted
    for factor, told in ((1.0, True), (2.0 * np.pi, False)):
        scaled = factor * b
        if np.abs(scaled.T @ scaled - metric).max() <= CELL_TOLERANCE * np.abs(metric).max():
            return np.asarray(u @ scaled), told
    found = ", ".join(f"{x:.4f}" for x in cell_of(b))
    raise ExchangeError(
        f"{origin}: UB has the cell {found} (if it holds 2 pi), but the lattice beside it is "
        f"{', '.join(f'{x:.4f}' for x in six)}: it is transposed, stale, or of another crystal."
    )


# --------------------------------------------------------------------------- what our own files add to each format


def note(stored: StoredOrientation, to_frame: FloatArray, circles: str = "") -> dict[str, Any]:
    """What the format itself cannot say, as plain values; `from_note` reads it."""
    covariance = stored.covariance
    return {
        "written_by": "lauepilot",
        "frame": stored.frame,
        "two_pi": stored.two_pi,
        "of": stored.of,
        "to_frame": to_frame.tolist(),
        "to_frame_about": "rows: axes of this file's frame in NeXus' laboratory (+z along the beam, +y up)",
        "circles": circles,
        "axes": None if stored.axes is None else {str(k): float(v) for k, v in stored.axes.items()},
        "axes_about": "where the crystal stood, degrees and mm",
        "covariance_rad2": None if covariance is None else covariance.tolist(),
        "covariance_about": "rotation vector w in NeXus' frame, U_true = exp(w) U",
        "crystal": stored.crystal,
        "space_group": stored.space_group,
        "instrument": stored.instrument,
        "detector": None if stored.detector is None else detector_record(stored.detector),
    }


def note_text(told: Mapping[str, Any]) -> str:
    """A note on one line."""
    return json.dumps(told, allow_nan=False)


@dataclass(frozen=True, eq=False)
class Told:
    """What a note says, or what is usual for the format where there is none."""

    to_frame: FloatArray
    of: Of
    axes: Mapping[str, float] | None
    covariance: FloatArray | None
    detector: Detector | None
    crystal: str
    space_group: str
    frame: str
    instrument: str = ""


def from_note(value: Any, usual: FloatArray, of: Of, frame: str, origin: str, crystal: str = "") -> Told:
    """A note's content; None gives the usual frame (3, 3) of the format, in words ``frame``.

    Raises
    ------
    ExchangeError
        If there is a note, but not one that we write.
    """
    if value is None:
        return Told(usual, of, None, None, None, crystal, "", frame)
    try:
        to_frame = np.array(value["to_frame"], dtype=float)
        covariance, axes, pose = value["covariance_rad2"], value["axes"], value["detector"]
        if to_frame.shape != (3, 3) or not np.allclose(to_frame @ to_frame.T, np.eye(3), atol=1e-9):
            raise ValueError("to_frame is no rotation")
        return Told(
            to_frame,
            "laboratory" if value["of"] == "laboratory" else "holder",
            None if axes is None else {str(k): float(v) for k, v in axes.items()},
            None if covariance is None else np.array(covariance, dtype=float).reshape(3, 3),
            None if pose is None else detector_from(pose),
            str(value["crystal"]),
            str(value["space_group"]),
            str(value["frame"]),
            str(value["instrument"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExchangeError(f"{origin}: lauepilot's own note in it is damaged ({error}).") from None


def assembled(ub: FloatArray, told: Told, kind: str, two_pi: bool) -> StoredOrientation:
    """From UB (3, 3) with 2 pi in the file's frame to ours."""
    u, b = canonical(told.to_frame.T @ ub)
    return StoredOrientation(
        u, b, told.of, told.axes, told.covariance, told.detector, told.crystal, told.space_group, kind,
        told.frame, two_pi, told.instrument,
    )  # fmt: skip


def detector_record(detector: Detector) -> dict[str, Any]:
    """A detector's pose as plain values."""
    return {
        "name": detector.name,
        "kind": detector.kind,
        "shape": list(detector.shape),
        "pixel_mm": [float(x) for x in detector.pixel_mm],
        "distance_mm": float(detector.distance_mm),
        "centre_px": [float(x) for x in detector.centre_px],
        "col_direction": detector.rotation[:, 0].tolist(),
        "row_direction": detector.rotation[:, 1].tolist(),
        "normal": detector.rotation[:, 2].tolist(),
    }


def detector_from(value: Mapping[str, Any]) -> Detector:
    """A detector from `detector_record`, or from the ``geometry`` of our JSON files."""
    rows, cols = value["shape"]
    width, height = value["pixel_mm"]
    col, row = value["centre_px"]
    axes = [np.array(value[key], dtype=float) for key in ("col_direction", "row_direction", "normal")]
    return Detector(
        name=str(value.get("name", "detector")),
        kind="cylinder" if value["kind"] == "cylinder" else "flat",
        shape=(int(rows), int(cols)),
        pixel_mm=(float(width), float(height)),
        distance_mm=float(value["distance_mm"]),
        centre_px=(float(col), float(row)),
        rotation=np.stack(axes, axis=1),
    )
