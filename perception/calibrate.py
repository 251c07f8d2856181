"""Calibration: the detector's distance, centre and tilts from one frame of a known crystal, from the drawing on.

The orientation is found with the pose (`lauepilot.perception.indexing.rough`), both are refined with all spots that the
crystal explains, and the instrument is given back with the pose found. A pattern shows angles only: the distance scales
with the pixel's width, and the turn of the detector about the beam is the laboratory's own (`Detector.moved`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from lauepilot.perception.files.lauetools import LaueToolsGeometry, azimuth_rad
from lauepilot.perception.indexing.indexer import Indexer, IndexResult
from lauepilot.perception.indexing.refine import GeometryPrior, pose_difference, predict_pixels, strained
from lauepilot.perception.indexing.rough import index_rough
from lauepilot.perception.indexing.sphere import pixel_normals
from lauepilot.perception.observation import SpotList
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import FloatArray, nearest_rotation, rotation_matrix
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument

#: From this confidence on a calibration may be used.
SURE = 0.999

#: Explained spots that a calibration needs: pose and orientation are eight numbers, and more must be left to judge them.
FEWEST = 12


class CalibrationError(ValueError):
    """A frame that does not hold the calibration."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a frame of a known crystal tells of the detector.

    Attributes
    ----------
    instrument
        With the pose found; its name ends in ``-calibrated``.
    drawn
        The detector as it was believed before.
    crystal
        The crystal that was looked for.
    spots
        All spots of the frame.
    result
        Orientation, confidence, explained spots and refined pose.
    change, sigma
        (5,) what was added to the drawn pose, and its standard deviations, in the order and units of `GEOMETRY_PARAMETERS`.
    rays
        (k, 3) plane normals of the explained spots in the crystal's frame.
    """

    instrument: Instrument
    drawn: Detector
    crystal: Crystal
    spots: SpotList
    result: IndexResult
    change: FloatArray
    sigma: FloatArray
    rays: FloatArray

    @property
    def sure(self) -> bool:
        """Whether the calibration may be used."""
        return self.result.confidence >= SURE and self.result.n_indexed >= FEWEST

    @property
    def detector(self) -> Detector:
        """The detector with the pose found."""
        return self.instrument.detector

    def residuals_px(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Explained spots (k, 2), and found minus predicted (k, 2) with the drawn pose and with the one found.

        The drawn pose gets the orientation that suits it best, so that only the geometry's own error is left.
        """
        fit = self.result.refinement
        if fit is None:
            none = np.zeros((0, 2))
            return none, none, none
        found = self.spots.pixels[fit.spot]
        # Wahba's problem, by singular values (Markley 1988).
        u = nearest_rotation(pixel_normals(found, self.drawn).T @ self.rays)
        return found, found - predict_pixels(u, self.rays, self.drawn), fit.residual_px


def drawing_prior(detector: Detector) -> GeometryPrior:
    """How far a detector may be from its drawing, in standard deviations: 10 mm, 100 pixels, 1 degree."""
    return GeometryPrior(distance_mm=10.0, centre_mm=100.0 * max(detector.pixel_mm), tilt_deg=1.0)


def calibrate(
    crystal: Crystal,
    instrument: Instrument,
    seen: Frame | SpotList,
    *,
    mask: NDArray[np.bool_] | None = None,
    prior: GeometryPrior | None = None,
    indexer: Indexer | None = None,
) -> Calibration:
    """Find the pose of an instrument's detector from one pattern of a known crystal.

    Parameters
    ----------
    crystal
        Its lattice must be right: what its shape is wrong by goes into the pose.
    instrument
        With the pose of the drawing.
    seen
        A frame, or its spots.
    mask
        (rows, cols) of a frame, True where pixels may be used.
    prior
        How far the pose may be from the drawing; `drawing_prior` by default.
    indexer
        Of the crystal on the instrument, where there is one already.

    Raises
    ------
    CalibrationError
        If no orientation stands out at all.
    IndexingError, FrameError
        If there are fewer than four spots, or the frame cannot be used.
    """
    drawn = instrument.detector
    spots = seen if isinstance(seen, SpotList) else find_spots(seen, drawn, mask)
    ix = Indexer(crystal, instrument) if indexer is None else indexer
    known = drawing_prior(drawn) if prior is None else prior
    result = index_rough(ix, spots, drawn, prior=known, complete=True)
    fit = result.refinement
    if result.orientation is None or fit is None or len(fit.spot) == 0:
        raise CalibrationError(
            f"No orientation of {crystal.name!r} stands out among {len(spots)} spots within {known.distance_mm:g} mm, "
            f"{known.centre_mm / max(drawn.pixel_mm):.0f} px and {known.tilt_deg:g} deg of the pose of {instrument.name!r}. "
            "Is it this crystal? Do pixel size, direction of the detector and its mirroring agree with the instrument file?"
        )
    rays = fit.hkl @ crystal.b.T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    if fit.strain.any():
        rays = strained(rays, fit.strain)
    name = instrument.name if instrument.name.endswith("-calibrated") else f"{instrument.name}-calibrated"
    found = replace(instrument.with_detector(fit.detector), name=name)
    change = pose_difference(drawn, fit.detector)
    return Calibration(found, drawn, crystal, spots, result, change, fit.geometry_sigma, rays)


def instrument_yaml(instrument: Instrument, comment: str = "") -> str:
    """An instrument as the text of a YAML file, which `parse_instrument` reads; ``comment`` goes in front, line by line."""
    plain: dict[str, Any] = {
        "name": instrument.name,
        "title": instrument.title,
        "source": instrument.source,
        "exposure_s": instrument.exposure_s,
        "beam": _plain(asdict(instrument.beam)),
        "detectors": [_detector(d) for d in instrument.detectors],
        "goniometer": [
            {key: value for key, value in _plain(asdict(axis)).items() if value is not None}
            for axis in instrument.goniometer.axes
        ],
        "sample": _plain(asdict(instrument.sample)),
    }
    if instrument.forbidden:
        plain["forbidden"] = [_plain(asdict(zone)) for zone in instrument.forbidden]
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    text: str = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=125, allow_unicode=True)
    return head + text


def _detector(detector: Detector) -> dict[str, Any]:
    values = _plain(
        {k: v for k, v in vars(detector).items() if k not in ("rotation", "blind", "sensor", "background")}
    )
    columns = dict(
        zip(("col_direction", "row_direction", "normal"), detector.rotation.T.tolist(), strict=True)
    )
    background = {k: v for k, v in _plain(asdict(detector.background)).items() if v is not None}
    return {
        **values,
        **columns,
        "blind": [_plain(asdict(region)) for region in detector.blind],
        "sensor": _plain(asdict(detector.sensor)),
        "background": background,
    }


def _plain(values: Any) -> Any:
    """Numbers, lists and mappings as YAML's safe dumper knows them."""
    if isinstance(values, dict):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, tuple | list):
        return [_plain(value) for value in values]
    return values.tolist() if hasattr(values, "tolist") else values


def lauetools_det(calibration: Calibration) -> str:
    """The calibration as the text of a LaueTools ``.det`` file, with the crystal's orientation in their frame.

    Their detectors define the vertical: crystal and detector are turned about the beam together until ours does too.

    Raises
    ------
    LaueToolsError
        If LaueTools cannot hold the detector (a cylinder, or one that is not above the sample).
    """
    found = calibration.detector
    about = rotation_matrix([0.0, 0.0, -azimuth_rad(found)])
    geometry = LaueToolsGeometry.from_detector(replace(found, rotation=about @ found.rotation))
    pose = (geometry.distance_mm, geometry.xcen_px, geometry.ycen_px, geometry.xbet_deg, geometry.xgam_deg)
    rows, cols = found.shape
    numbers = ", ".join(f"{x:.5f}" for x in pose) + f", {geometry.pixel_mm:.8g}, {rows}, {cols}"
    orientation = calibration.result.orientation
    # (x, y, z) of ours = (y, z, x) of theirs.
    u = np.eye(3) if orientation is None else (about @ orientation.u)[[2, 0, 1]]
    matrix = "[" + ",".join("[" + ",".join(f"{x:.7f}" for x in row) + "]" for row in u) + "]"
    named = dict(zip(("dd", "xcen", "ycen", "xbet", "xgam"), pose, strict=True))
    lines = [
        numbers,
        "Sample-Detector distance(IM), xO, yO, angle1, angle2, pixelsize, dim1, dim2",
        f"Calibration done with {calibration.crystal.name} by lauepilot; pixels counted from 0",
        "Orientation Matrix:",
        matrix,
        f"# Material : {calibration.crystal.name}",
        *(f"# {key} : {value:.5f}" for key, value in named.items()),
        f"# pixelsize : {geometry.pixel_mm:.8g}",
        f"# framedim : ({rows}, {cols})",
        "# kf_direction : Z>0",
    ]
    return "\n".join(lines) + "\n"
