"""``lauepilot index``: a frame or a list of spots from a file to an orientation, a table and a picture."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from lauepilot.cli.output import UserError
from lauepilot.perception.calibrate import SURE as SURE_OF_POSE
from lauepilot.perception.calibrate import drawing_prior
from lauepilot.perception.files.readers import FrameInput, read_any
from lauepilot.perception.indexing.forced import fit_frame
from lauepilot.perception.indexing.indexer import Indexer, IndexResult
from lauepilot.perception.indexing.refine import GeometryPrior, Refinement, strained
from lauepilot.perception.indexing.rough import ROUGH_PRIOR, index_by_prior, index_rough, is_wide
from lauepilot.perception.judge import ENOUGH, Finding, judge, wrong_shape
from lauepilot.perception.observation import SpotList
from lauepilot.perception.observer import USUAL_PRIOR
from lauepilot.perception.spots.find import find_spots
from lauepilot.simulator.conventions import HC_KEV_A, FloatArray
from lauepilot.simulator.crystal import Crystal
from lauepilot.simulator.detector import Detector
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument
from lauepilot.simulator.laue import RayTable

#: Below this the answer is "I do not know".
SURE = 0.95

#: How far (relative standard deviation) a cell's shape may be from its CIF: where it is refined on request, and in any
#: case where the detector's pose is exact: real crystals are strained by some 1e-4, which the orientation would take up.
CELL_SIGMA, USUAL_STRAIN = 3e-3, 5e-4

#: With fewer spots an indexer does not try.
FEWEST_SPOTS = 4

FRAME_TEXT = "laboratory: +z along the beam, +y up, right-handed; active rotations; Q_lab = UB h, with 2 pi (1/angstrom)"


#: Shipped instruments whose drawing holds only roughly, since each experiment calibrates its own geometry.
ROUGHLY_KNOWN = ("bm32", "aps34")


def starting_geometry(
    found: FrameInput, instrument: Instrument, stored: Detector | None, refine_geometry: bool
) -> tuple[Instrument, GeometryPrior]:
    """The instrument to believe for a file, and how well its detector's pose is known: all such choices are made here.

    Parameters
    ----------
    found
        The file's content.
    instrument
        As named by the user.
    stored
        Geometry that the user gave by a file of its own; it goes before that of the frame's file.
    refine_geometry
        Whether a pose that would be taken as exact is refined nonetheless.
    """
    pose = stored if stored is not None else found.detector
    if pose is None:
        rough = instrument.name in ROUGHLY_KNOWN or found.spots is not None
        return instrument, ROUGH_PRIOR if rough else USUAL_PRIOR
    # A calibration tells pose and shape; holes, sensor and background are the instrument's where it has the same frame.
    own = instrument.detector
    if pose.shape == own.shape and not pose.blind:
        pose = replace(pose, blind=own.blind, sensor=own.sensor, background=own.background)
    exact = found.spots is not None or stored is not None
    return instrument.with_detector(pose), GeometryPrior() if exact and not refine_geometry else USUAL_PRIOR


@dataclass(frozen=True, eq=False)
class Indexed:
    """A file's pattern with what was made of it.

    Attributes
    ----------
    crystal, instrument
        What was looked for, and the instrument with the pose as believed before.
    spots
        All found spots.
    result
        The indexer's answer, faint spots included.
    frame
        The frame; None for lists of spots.
    source
        Path of the file.
    geometry_refined
        Whether the detector's pose was free.
    table
        The indexer's rays.
    pixel_assumed
        Whether neither the file nor a calibration tells the width of a pixel, which is then the instrument's.
    prior
        How well the pose was known before.
    live
        (rows, cols), True where the file says that pixels are alive; None if it does not say.
    findings
        What is strange about the frame, worst first.
    last_fit
        Why the last fit, to the pixels where spots should be, was not used; empty if it was.
    """

    crystal: Crystal
    instrument: Instrument
    spots: SpotList
    result: IndexResult
    frame: Frame | None
    source: str
    geometry_refined: bool
    table: RayTable
    pixel_assumed: bool = False
    prior: GeometryPrior = field(default_factory=GeometryPrior)
    live: NDArray[np.bool_] | None = None
    findings: tuple[Finding, ...] = ()
    last_fit: str = "there is no frame, or no sure answer"

    @property
    def sure(self) -> bool:
        """Whether there is an orientation to stand by."""
        return self.result.orientation is not None and self.result.confidence >= SURE

    @property
    def detector(self) -> Detector:
        """The detector with its refined pose."""
        return self.instrument.detector if self.result.refinement is None else self.result.refinement.detector


def index_file(
    path: Path,
    crystal: Crystal,
    instrument: Instrument,
    *,
    stored_geometry: Path | None = None,
    refine_geometry: bool = False,
    refine_cell: bool = False,
    dataset: str | None = None,
    number: int = 0,
    screen: Console | None = None,
) -> Indexed:
    """Index a detector image or a list of spots; arguments as the command's, ``screen`` as for `index_spots`.

    Raises
    ------
    FrameError, FrameFileError, LaueToolsError, IndexingError, FileNotFoundError, UserError
        If the file cannot be used; the message says why and what to do.
    """
    found = read_any(path, dataset=dataset, index=number)
    stored = None
    if stored_geometry is not None:
        stored = read_any(stored_geometry).detector
        if stored is None:
            raise UserError(
                f"{stored_geometry} holds no geometry. Give a LaueTools .det, .cor, .fit, or an own .h5."
            )
        if found.frame is not None and found.frame.counts.shape != stored.shape:
            theirs, ours = (f"{rows} x {cols}" for rows, cols in (stored.shape, found.frame.counts.shape))
            raise UserError(
                f"--geometry {stored_geometry} is that of a detector with {theirs} (rows x columns) pixels; the frame "
                f"has {ours}. Give the calibration of the frame's own detector and binning, or leave --geometry out."
            )
    believed, prior = starting_geometry(found, instrument, stored, refine_geometry)
    if found.frame is None and found.spots is None:
        raise UserError(
            f"{path} is a calibration and holds no spots. Give it with --geometry, and a frame or list first."
        )
    frame = None if found.frame is None else with_units(found.frame, believed)
    if frame is not None and (strange := wrong_shape(frame.counts.shape, believed.detector)) is not None:
        raise UserError(strange.text)
    spots = found.spots if frame is None else find_spots(frame, believed.detector, found.mask)
    if spots is None:
        raise UserError(f"{path} holds neither frame nor spots.")
    indexer = Indexer(crystal, believed, prior)
    indexed = index_spots(
        spots, indexer, frame=frame, source=str(path), refine_cell=refine_cell, screen=screen
    )
    if frame is not None and prior == USUAL_PRIOR and not indexed.sure and len(spots) >= ENOUGH:
        # The drawing may be worse than instruments usually are; so wide a search has more chances to go wrong.
        wide = drawing_prior(believed.detector)
        with _waiting(screen):
            wider = index_rough(indexer, spots, prior=wide, complete=True)
        if wider.confidence >= SURE_OF_POSE:
            indexed = replace(indexed, result=wider, prior=wide)
    if frame is not None and indexed.sure:
        last = fit_frame(
            frame, indexer, indexed.result, spots, prior=indexed.prior,
            cell_sigma=_cell_sigma(indexed.prior, refine_cell), mask=found.mask,
        )  # fmt: skip
        indexed = replace(indexed, result=last.result, last_fit=last.remark)
    with nullcontext() if screen is None or indexed.sure else screen.status("looking for what is wrong"):
        findings = judge(spots, indexer, indexed.result, frame=frame)
    assumed = frame is None and stored is None and found.detector is None
    return replace(indexed, live=found.mask, findings=tuple(findings), pixel_assumed=assumed)


def _cell_sigma(prior: GeometryPrior, refine_cell: bool) -> float:
    """How far the cell's shape may be from its CIF."""
    return CELL_SIGMA if refine_cell else USUAL_STRAIN if prior.known else 0.0


def _waiting(screen: Console | None) -> AbstractContextManager[object]:
    words = "searching the detector's pose, which is only roughly known (--geometry FILE saves this)"
    return nullcontext() if screen is None else screen.status(words)


def with_units(frame: Frame, instrument: Instrument) -> Frame:
    """A frame whose file tells nothing of units per photon takes them from the instrument's sensor."""
    sensor = instrument.detector.sensor
    if frame.instrument or (frame.gain, frame.offset) != (1.0, 0.0):
        return frame
    saturation = min(frame.saturation, sensor.saturation_adu)
    return replace(frame, gain=sensor.gain_adu, offset=sensor.offset_adu, saturation=saturation)


def index_spots(
    spots: SpotList,
    indexer: Indexer,
    *,
    frame: Frame | None = None,
    source: str = "",
    refine_cell: bool = False,
    screen: Console | None = None,
) -> Indexed:
    """Index spots, the faint ones too; a ``screen`` is told while a roughly known pose is searched.

    Raises
    ------
    IndexingError
        If a list holds too few; of a ``frame`` with too few spots the answer is that nothing is known.
    """
    cell_sigma = _cell_sigma(indexer.prior, refine_cell)
    if frame is not None and len(spots) < FEWEST_SPOTS:
        result = IndexResult(None, 0.0, 0.0, 0, None)
    else:
        wide = is_wide(indexer.instrument.detector, indexer.prior)
        with _waiting(screen) if wide else nullcontext():
            result = index_by_prior(indexer, spots, cell_sigma=cell_sigma, complete=True)
    refined = not indexer.prior.known
    return Indexed(
        indexer.crystal, indexer.instrument, spots, result, frame, source, refined, indexer.table,
        prior=indexer.prior,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class SpotTable:
    """Explained spots, brightest first; all arrays have the length n.

    Attributes
    ----------
    spot
        Index in the list of found spots.
    pixels, predicted
        (n, 2) as (col, row).
    counts
        Photons (or the list's own unit).
    hkl
        (n, 3) the strongest harmonic.
    energy_kev
        At which ``hkl`` reflects.
    residual_px
        Distance of found and predicted.
    """

    spot: NDArray[np.int64]
    pixels: FloatArray
    predicted: FloatArray
    counts: FloatArray
    hkl: NDArray[np.int64]
    energy_kev: FloatArray
    residual_px: FloatArray


def spot_table(indexed: Indexed) -> SpotTable:
    """The explained spots of a pattern."""
    fit, orientation = indexed.result.refinement, indexed.result.orientation
    if fit is None or orientation is None:
        empty = np.zeros(0)
        return SpotTable(
            np.zeros(0, np.int64),
            np.zeros((0, 2)),
            np.zeros((0, 2)),
            empty,
            np.zeros((0, 3), np.int64),
            empty,
            empty,
        )
    found = indexed.spots.pixels[fit.spot]
    counts = indexed.spots.counts[fit.spot]
    hkl = fit.hkl
    q = hkl @ orientation.ub.T
    length = np.linalg.norm(q, axis=1)
    energy = HC_KEV_A * length / (4.0 * np.pi * (-q[:, 2] / length))  # Bragg: lambda = 4 pi sin(theta) / q
    order = np.argsort(-counts, kind="stable")
    return SpotTable(
        np.asarray(fit.spot)[order],
        found[order],
        (found - fit.residual_px)[order],
        counts[order],
        hkl[order],
        energy[order],
        np.linalg.norm(fit.residual_px, axis=1)[order],
    )


def directions(indexed: Indexed, fit: Refinement) -> FloatArray:
    """Plane normals (n, 3) of the table's rays in the crystal's frame, with the refined strain."""
    rays = indexed.table.direction
    return strained(rays, fit.strain) if fit.strain.any() else rays
