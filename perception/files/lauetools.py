"""Files of LaueTools (ESRF BM32) and lauexplore: spot lists, geometry and fits, turned into our frame.

Their frame and pose
    LaueTools' laboratory has x along the beam, z up, y to the left; ours is ``(x, y, z) = (y, z, x)`` of
    theirs. Without tilts the detector lies above the sample: columns grow along **-x**, rows along **+z**
    (towards smaller 2theta), and its normal is +y, all in our frame. ``xgam`` turns the image in its own
    plane, ``xbet`` then tilts it about x: ``R = Rx(xbet) Ry(-xgam) R0``. ``xcen, ycen`` is the foot of the
    perpendicular from the sample and ``dd`` its length, as in `Detector`.
    This was found from the files, by asking that pixels give their 2theta and chi columns.
Their crystal
    ``q = UB B0 G*`` without 2 pi, where ``B0`` is of Busing & Levy's form and ``UB`` is a rotation, times a
    strain if it was refined.
Their pixels
    Used as they stand, so that spots, centre and geometry of one file agree. LaueTools' peak search counts
    pixels from one by default: an image's own (zero-based) pixel is then one less in both directions.
Angles
    2theta is the angle to the beam, chi = atan(x / y) in our frame: positive to the left of somebody
    who looks along the beam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from lauepilot.perception.files.lauetools_text import (
    LaueToolsError,
    either,
    line_after,
    matrix,
    numbers,
    read_lines,
    table,
)
from lauepilot.perception.observation import SpotList
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Detector

#: Turns vectors of LaueTools' laboratory into ours.
FROM_LAUETOOLS = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])

# Columns: e_col, e_row, normal of a detector without tilts, in our frame.
_UPRIGHT = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])

# Frames of the cameras at BM32, for lists that tell only the pixel's size.
_SHAPE_OF_PIXEL = {0.0734: (2018, 2016), 0.07914: (2048, 2048), 0.079142: (2048, 2048), 0.08057: (2048, 2048)}


@dataclass(frozen=True)
class LaueToolsGeometry:
    """LaueTools' calibration of a flat detector above the sample.

    Attributes
    ----------
    distance_mm
        Sample to detector, along the perpendicular.
    xcen_px, ycen_px
        Foot of the perpendicular (col, row).
    xbet_deg, xgam_deg
        Tilt of the plane, and turn in the plane.
    pixel_mm
        Width of the square pixels.
    shape
        Frame (rows, cols); None if the file does not tell.
    """

    distance_mm: float
    xcen_px: float
    ycen_px: float
    xbet_deg: float
    xgam_deg: float
    pixel_mm: float
    shape: tuple[int, int] | None = None

    def to_detector(self, name: str = "lauetools") -> Detector:
        """The same detector in our frame.

        Raises
        ------
        LaueToolsError
            If the frame's shape is not known.
        """
        if self.shape is None:
            raise LaueToolsError(
                "This LaueTools geometry does not tell the frame's shape, which a Detector needs. "
                "Use dataclasses.replace(geometry, shape=(rows, cols))."
            )
        turn = Rotation.from_euler("XY", [self.xbet_deg, -self.xgam_deg], degrees=True).as_matrix()
        return Detector(
            name=name,
            kind="flat",
            shape=self.shape,
            pixel_mm=(self.pixel_mm, self.pixel_mm),
            distance_mm=self.distance_mm,
            centre_px=(self.xcen_px, self.ycen_px),
            rotation=np.asarray(turn @ _UPRIGHT),
        )

    @classmethod
    def from_detector(cls, detector: Detector) -> LaueToolsGeometry:
        """The calibration of a detector of ours.

        Raises
        ------
        LaueToolsError
            If LaueTools cannot hold it: not flat, pixels not square, mirrored, not above the sample,
            or with its normal out of the plane of beam and vertical (see `azimuth_rad`).
        """
        width, height = detector.pixel_mm
        if detector.kind != "flat" or abs(width - height) > 1e-9 * width:
            raise LaueToolsError(
                f"LaueTools holds flat detectors with square pixels; {detector.name!r} is a {detector.kind} "
                f"with pixels of {width:g} x {height:g} mm. Export it in another format."
            )
        azimuth, xbet, minus_xgam = _angles(detector)
        if abs(azimuth) > 1e-6:
            raise LaueToolsError(
                "LaueTools' detectors have their normal in the plane of beam and vertical; "
                f"that of {detector.name!r} is turned out by {np.rad2deg(azimuth):.4f} deg about the beam. "
                "Turn detector and crystal by -azimuth_rad(detector) about +z first."
            )
        return cls(
            distance_mm=detector.distance_mm,
            xcen_px=detector.centre_px[0],
            ycen_px=detector.centre_px[1],
            xbet_deg=float(np.rad2deg(xbet)),
            xgam_deg=-float(np.rad2deg(minus_xgam)),
            pixel_mm=width,
            shape=detector.shape,
        )


def _angles(detector: Detector) -> tuple[float, float, float]:
    """Intrinsic Z, X, Y angles (radians) from the upright detector to this one."""
    turn = detector.rotation @ _UPRIGHT.T
    if np.linalg.det(turn) < 0 or detector.rotation[1, 2] <= 0:
        raise LaueToolsError(
            "LaueTools' detectors look down on the sample and are not mirrored "
            f"(columns -x, rows +z, normal +y); {detector.name!r} is not one of these. "
            "Export it in another format."
        )
    z, x, y = Rotation.from_matrix(turn).as_euler("ZXY")
    return float(z), float(x), float(y)


def azimuth_rad(detector: Detector) -> float:
    """Turn about the beam (radians, about +z) that LaueTools lacks: its detector defines the vertical.

    Raises
    ------
    LaueToolsError
        If the detector is mirrored or not above the sample.
    """
    return _angles(detector)[0]


def scattering_angles(detector: Detector, pixels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """LaueTools' 2theta and chi (...) in radians of pixels (..., 2) as (col, row)."""
    ray = detector.pixels_to_rays(pixels)
    return np.asarray(np.arccos(np.clip(ray[..., 2], -1.0, 1.0))), np.asarray(
        np.arctan2(ray[..., 0], ray[..., 1])
    )


@dataclass(frozen=True, eq=False)
class LaueToolsSpots:
    """A ``.dat`` or ``.cor`` list.

    Attributes
    ----------
    pixels
        (n, 2) positions (col, row), as in the file.
    intensity
        (n,) in the file's units (``peak_Isub`` or ``I``): a peak height, not a number of photons.
    two_theta_deg, chi_deg
        (n,) angles of a ``.cor``; None for a ``.dat``.
    geometry
        Of a ``.cor``, if written there.
    columns
        All columns (n,) by name.
    """

    pixels: FloatArray
    intensity: FloatArray
    two_theta_deg: FloatArray | None
    chi_deg: FloatArray | None
    geometry: LaueToolsGeometry | None
    columns: Mapping[str, FloatArray] = field(default_factory=dict)

    def spot_list(self, sigma_px: float = 0.2) -> SpotList:
        """The spots for the indexer, brightest first; the files hold no errors, so all get ``sigma_px``."""
        return _spot_list(self.pixels, self.intensity, sigma_px)


@dataclass(frozen=True, eq=False)
class LaueToolsFit:
    """A ``.fit`` file: indexed spots, orientation and geometry.

    Attributes
    ----------
    element
        Material's label in LaueTools.
    geometry
        Calibration used; None if not written.
    hkl
        (n, 3) Miller indices.
    pixels, predicted_px
        (n, 2) measured and calculated positions (col, row), as in the file.
    residual_px
        (n,) their distance. (The file's own column, in ``columns``, does not always follow from them.)
    two_theta_deg, chi_deg
        (n,) calculated angles.
    energy_kev, intensity
        (n,) of the spots.
    mean_residual_px
        As in the file's head.
    ub_lauetools, b0_lauetools
        (3, 3) as in the file, in their frame and without 2 pi.
    columns
        All columns (n,) by name.
    """

    element: str
    geometry: LaueToolsGeometry | None
    hkl: NDArray[np.int64]
    pixels: FloatArray
    predicted_px: FloatArray
    residual_px: FloatArray
    two_theta_deg: FloatArray
    chi_deg: FloatArray
    energy_kev: FloatArray
    intensity: FloatArray
    mean_residual_px: float
    ub_lauetools: FloatArray
    b0_lauetools: FloatArray
    columns: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def ub(self) -> FloatArray:
        """``UB`` (3, 3) in our laboratory, with 2 pi; it holds their strain."""
        return np.asarray(2.0 * np.pi * FROM_LAUETOOLS @ self.ub_lauetools @ self.b0_lauetools)

    @property
    def u_lab(self) -> FloatArray:
        """Laboratory orientation ``U`` (3, 3): the rotation in ``UB = U B`` (``B`` of Busing & Levy)."""
        return self._parts()[0]

    @property
    def b(self) -> FloatArray:
        """``B`` (3, 3) with 2 pi of the refined cell (upper triangular, Busing & Levy)."""
        return self._parts()[1]

    def _parts(self) -> tuple[FloatArray, FloatArray]:
        q, r = np.linalg.qr(self.ub)
        signs = np.sign(np.diag(r))
        return np.asarray(q * signs), np.asarray(r * signs[:, None])

    def spot_list(self, sigma_px: float = 0.2) -> SpotList:
        """The indexed spots, brightest first; the file holds no errors, so all get ``sigma_px``."""
        return _spot_list(self.pixels, self.intensity, sigma_px)


def _spot_list(pixels: FloatArray, intensity: FloatArray, sigma_px: float) -> SpotList:
    order = np.argsort(-intensity, kind="stable")
    n = len(order)
    counts = intensity[order]
    return SpotList(
        pixels=pixels[order],
        covariance_px2=np.tile(np.eye(2) * sigma_px**2, (n, 1, 1)),
        counts=counts,
        counts_sigma=np.sqrt(np.maximum(counts, 1.0)),
        saturated=np.zeros(n, dtype=np.bool_),
    )


# ------------------------------------------------------------------------------------------------- readers


def read_dat(path: str | Path) -> LaueToolsSpots:
    """A peak list ``.dat``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LaueToolsError
        If it is not such a list.
    """
    return _read_list(Path(path), ("peak_X", "peak_Y", "peak_Isub"))


def read_cor(path: str | Path) -> LaueToolsSpots:
    """A list ``.cor`` with angles, and the calibration in its comments. Raises as `read_dat`."""
    return _read_list(Path(path), ("X", "Y", "I"))


def _read_list(path: Path, wanted: tuple[str, str, str]) -> LaueToolsSpots:
    lines = read_lines(path)
    names = lines[0].lstrip("#").split() if lines else []
    columns = table(path, names, (line for line in lines[1:] if not line.startswith("#")), wanted)
    return LaueToolsSpots(
        pixels=np.stack([columns[wanted[0]], columns[wanted[1]]], axis=1),
        intensity=columns[wanted[2]],
        two_theta_deg=columns.get("2theta"),
        chi_deg=columns.get("chi"),
        geometry=_geometry_from_comments(lines),
        columns=columns,
    )


def read_det(path: str | Path) -> LaueToolsGeometry:
    """A calibration ``.det``. Raises as `read_dat`."""
    path = Path(path)
    lines = read_lines(path)
    values = numbers(lines[0]) if lines else []
    if len(values) < 6:
        raise LaueToolsError(
            f"{path}: the first line of a .det file holds distance, xcen, ycen, xbet, xgam, pixel size; "
            f"it has {len(values)} numbers. Is it a LaueTools calibration?"
        )
    direction = next((line.split(":")[1].strip() for line in lines if "kf_direction" in line), "Z>0")
    if direction != "Z>0":
        raise LaueToolsError(
            f"{path}: kf_direction is {direction}; only detectors above the sample (Z>0) are read. "
            "Write the detector into an instrument file instead."
        )
    return _geometry(values[:6], [int(x) for x in values[6:8]])


def read_fit(path: str | Path) -> LaueToolsFit:
    """A fit ``.fit`` of LaueTools (calibration or strain refinement) or lauexplore. Raises as `read_dat`."""
    path = Path(path)
    lines = read_lines(path)
    head = next((i for i, line in enumerate(lines) if line.startswith("#") and "spot_index" in line), None)
    if head is None:
        raise LaueToolsError(
            f"{path}: no line of column names (spot_index ...) found. Is it a LaueTools .fit file?"
        )
    names = lines[head].lstrip("#").split()
    wanted = ("h", "k", "l", "Xexp", "Yexp", "Xtheo", "Ytheo", "2theta_theo", "chi_theo")
    # A file with several grains repeats the head: the first grain ends there.
    end = next((i for i in range(head + 1, len(lines)) if "spot_index" in lines[i]), len(lines))
    columns = table(path, names, (line for line in lines[head + 1 : end] if not line.startswith("#")), wanted)
    ub, b0 = (matrix(path, lines[:end], mark) for mark in ("#UB matrix", "#B0 matrix"))
    pixels = np.stack([columns["Xexp"], columns["Yexp"]], axis=1)
    predicted = np.stack([columns["Xtheo"], columns["Ytheo"]], axis=1)
    return LaueToolsFit(
        element=line_after(lines, "#Element") or "",
        geometry=_geometry_from_fit(lines),
        hkl=np.rint(np.stack([columns[c] for c in "hkl"], axis=1)).astype(np.int64),
        pixels=pixels,
        predicted_px=predicted,
        residual_px=np.linalg.norm(pixels - predicted, axis=1),
        two_theta_deg=columns["2theta_theo"],
        chi_deg=columns["chi_theo"],
        energy_kev=either(path, columns, "Energy", "energy(keV)"),
        intensity=either(path, columns, "Itot", "Intensity"),
        mean_residual_px=next(
            (numbers(x)[-1] for x in lines if x.startswith("#Mean Deviation")), float("nan")
        ),
        ub_lauetools=ub,
        b0_lauetools=b0,
        columns=columns,
    )


def _geometry(values: list[float], frame: list[int]) -> LaueToolsGeometry:
    """From distance, xcen, ycen, xbet, xgam, pixel size, and the frame (rows, cols) if it is known."""
    distance, xcen, ycen, xbet, xgam, pixel = values
    shape = (frame[0], frame[1]) if len(frame) == 2 else _SHAPE_OF_PIXEL.get(round(pixel, 6))
    return LaueToolsGeometry(distance, xcen, ycen, xbet, xgam, pixel, shape)


def _geometry_from_comments(lines: list[str]) -> LaueToolsGeometry | None:
    found = {}
    for line in lines:
        key, _, value = line.lstrip("# ").partition(":")
        if line.startswith("#") and numbers(value):
            found[key.strip()] = numbers(value)[0]
    wanted = ("dd", "xcen", "ycen", "xbet", "xgam", "pixelsize")
    return _geometry([found[k] for k in wanted], []) if all(k in found for k in wanted) else None


def _geometry_from_fit(lines: list[str]) -> LaueToolsGeometry | None:
    pose, pixel, frame = (
        numbers(line_after(lines, m) or "")
        for m in ("#DetectorParameters", "#pixelsize", "#Frame dimensions")
    )
    return _geometry([*pose[:5], pixel[0]], [int(x) for x in frame]) if len(pose) >= 5 and pixel else None
