"""``lauepilot index --lattice unknown``: symmetry axes, family and axial ratios of a crystal that nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.spatial import cKDTree

from lauepilot.cli.index import FRAME_TEXT, with_units
from lauepilot.cli.output import NotKnown, UserError, write_json
from lauepilot.cli.tables import matrix_lines
from lauepilot.perception.files.readers import read_any
from lauepilot.perception.observation import SpotList
from lauepilot.perception.spots.find import find_spots
from lauepilot.perception.unknown.lattice import RATIOS
from lauepilot.perception.unknown.predict import low_index_spots
from lauepilot.perception.unknown.result import Solution, UnknownResult
from lauepilot.perception.unknown.sky import with_distance
from lauepilot.perception.unknown.solve import LEAST_SPOTS, solve_unknown
from lauepilot.pictures.pattern import draw_pattern
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.frame import Frame
from lauepilot.simulator.instrument import Instrument

#: Planes that are looked at for a picture, in lists of spots; and distance within which one explains a spot.
DEEP, NEAR_PX = 6, 3.0

#: Frames of one crystal must show it at the goniometer's zero, or tell where the axes stood.
_NO_AXES = (
    "{} does not tell where the goniometer's axes stood ({}), so that several frames cannot be joined. Give frames "
    "written by lauepilot (.h5) or with these axes in NeXus, or one frame alone."
)

#: c/a of cubic lattices in the axes of lower families, and how near to them a ratio is doubted: tilts are refined, but a few
#: spots do not always tell a tilt of some tenths of a degree from such a ratio.
NEARLY = {"trigonal": tuple(np.sqrt((6.0, 1.5, 0.375))), "tetragonal": (1.0, np.sqrt(2.0), np.sqrt(0.5))}
TILT_DOES = 5e-3


@dataclass(frozen=True, eq=False)
class IndexedUnknown:
    """Frames of a crystal of unknown lattice, and what was made of them.

    Attributes
    ----------
    instrument
        The instrument; its distance is only taken as roughly known.
    sources
        Paths of the frames.
    frames
        Spot lists with the goniometer's rotation Z (3, 3) of each.
    first
        The first frame; None for lists of spots.
    result
        The answer.
    """

    instrument: Instrument
    sources: tuple[str, ...]
    frames: tuple[tuple[SpotList, FloatArray], ...]
    first: Frame | None
    result: UnknownResult

    @property
    def sure(self) -> bool:
        """Whether there is an answer to stand by."""
        return self.result.sure and not self.nearly

    @property
    def nearly(self) -> str:
        """The more symmetric family that the ratios miss by less than a wrong tilt of the detector does; else empty."""
        best = self.result.best
        if best is None:
            return ""
        offered = NEARLY.get(best.family, ())
        ratio = dict(zip(RATIOS[best.family], best.ratios, strict=True)).get("c/a", np.nan)
        return "cubic" if any(abs(ratio / cubic - 1.0) < TILT_DOES for cubic in offered) else ""


def index_unknown(
    paths: Sequence[Path],
    instrument: Instrument,
    *,
    dataset: str | None = None,
    number: int = 0,
    distance_mm: tuple[float, float] | None = None,
    screen: Console | None = None,
) -> IndexedUnknown:
    """Find an unknown lattice in one frame, or in several joined by the goniometer's axes; arguments as the command's.

    Parameters
    ----------
    distance_mm
        Lowest and highest distance of the detector; 0.7 to 1.6 times the instrument's by default.
    screen
        Told while the search runs.

    Raises
    ------
    NotKnown
        If the frames show too few spots.
    FrameError, FrameFileError, LaueToolsError, UnknownLatticeError, FileNotFoundError, UserError
        If a file cannot be used; the message says why and what to do.
    """
    frames: list[tuple[SpotList, FloatArray]] = []
    first: Frame | None = None
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("The same frame came twice, which would count its spots twice. Name each frame once.")
    for path in paths:
        found = read_any(path, dataset=dataset, index=number)
        z = np.eye(3)
        if found.frame is not None:
            frame = with_units(found.frame, instrument)
            first = first or frame
            spots = find_spots(frame, instrument.detector, found.mask)
            names = instrument.goniometer.names
            if any(name in frame.axes for name in names):
                z = instrument.goniometer.matrix({n: frame.axes[n] for n in names if n in frame.axes})
            elif len(paths) > 1:
                raise UserError(_NO_AXES.format(path, ", ".join(names)))
        elif found.spots is not None:
            if len(paths) > 1:
                raise UserError(_NO_AXES.format(path, ", ".join(instrument.goniometer.names)))
            spots = found.spots
        else:
            raise UserError(f"{path} holds neither frame nor spots.")
        frames.append((spots, z))
    if not frames:
        raise UserError("No frame came. Give at least one file.")
    if (seen := sum(len(spots) for spots, _ in frames)) < LEAST_SPOTS:
        raise NotKnown(
            f"An unknown lattice needs {LEAST_SPOTS} spots or more; {seen} were found. Expose longer, or give "
            "several frames."
        )
    if screen is None:
        result = solve_unknown(frames, instrument.detector, distance_mm)
    else:
        with screen.status("looking for symmetry axes and zones"):
            result = solve_unknown(frames, instrument.detector, distance_mm)
    return IndexedUnknown(instrument, tuple(str(p) for p in paths), tuple(frames), first, result)


def solution_record(solution: Solution) -> dict[str, Any]:
    """A solution as plain values; angles in degrees."""
    names = RATIOS[solution.family]
    angles = [name in ("alpha", "beta", "gamma") for name in names]
    turn = [180.0 / np.pi if angle else 1.0 for angle in angles]
    return {
        "family": solution.family,
        "centring": solution.centring,
        "ratios": {n: r * t for n, r, t in zip(names, solution.ratios, turn, strict=True)},
        "ratios_sigma": {n: s * t for n, s, t in zip(names, solution.ratios_sigma, turn, strict=True)},
        "U": solution.orientation.u,
        "UB": solution.orientation.ub,
        "covariance_deg2": np.rad2deg(np.rad2deg(solution.orientation.covariance)),
        "sigma_deg": solution.orientation.sigma_deg,
        "distance_mm": solution.distance_mm,
        "distance_sigma_mm": solution.distance_sigma_mm,
        "centre_px": solution.centre_px,
        "tilts_deg": np.rad2deg(solution.tilts_rad),
        "score_nats": solution.score,
        "n_explained": solution.n_explained,
        "residual_px": solution.residual_px,
    }


def record(found: IndexedUnknown) -> dict[str, Any]:
    """The JSON object of the command."""
    result = found.result
    return {
        "lattice": "unknown",
        "instrument": found.instrument.name,
        "files": found.sources,
        "n_spots": result.n_spots,
        "sure": found.sure,
        "confidence": result.confidence,
        "nearly": found.nearly or None,
        "best": None if result.best is None else solution_record(result.best),
        "alternatives": [solution_record(s) for s in result.alternatives[:3]],
        "frame": "sample holder (laboratory at goniometer zero): " + FRAME_TEXT + "; cell with a = 1",
    }


def show(out: Console, found: IndexedUnknown) -> None:
    """What the command prints for people."""
    result = found.result
    out.print(
        f"unknown lattice on [bold]{found.instrument.name}[/]: {result.n_spots} spots in {len(found.frames)} frame(s)"
    )
    if result.best is None:
        out.print(
            "[bold red]I do not know:[/] no lattice stands out from chance. Take another frame, turned by 30 degrees."
        )
        return
    if found.nearly:
        out.print(
            f"[bold red]I do not know:[/] the ratio is that of a {found.nearly} lattice to within what a tilt of "
            "the detector does; the spots ask for none. Calibrate it first (--calibrate), or believe the other one.",
            soft_wrap=True,
        )
    elif not result.sure:
        out.print(
            f"[bold red]I do not know:[/] confidence {result.confidence:.3f}. Take another frame, turned by 30 degrees, and "
            "give both. What follows is the best guess, not an answer.",
            soft_wrap=True,
        )
    plain = solution_record(result.best)
    ratios = ", ".join(
        f"{name} = {value:.5g} ± {plain['ratios_sigma'][name]:.2g}" for name, value in plain["ratios"].items()
    )
    out.print(f"[bold]{plain['family']} {plain['centring']}[/] {ratios}   confidence {result.confidence:.5f}")
    out.print(
        f"{plain['n_explained']} of {result.n_spots} spots explained, {plain['residual_px']:.2f} px; distance "
        f"{plain['distance_mm']:.3f} ± {plain['distance_sigma_mm']:.2g} mm; axes known to {plain['sigma_deg']:.2g} deg"
    )
    if any(result.best.tilts_rad):
        out.print("detector tilted by {:.2f}, {:.2f} deg about x, y".format(*plain["tilts_deg"]))
    for line in (*matrix_lines("U ", plain["U"]), *matrix_lines("UB", plain["UB"])):
        out.print(line, style="cyan")
    out.print("frame of the sample holder; UB for a = 1, with 2 pi", style="dim")


def write_folder(found: IndexedUnknown, folder: Path) -> None:
    """``index.json`` and ``pattern.png`` of the first frame."""
    write_json(folder / "index.json", record(found))
    draw(found, folder / "pattern.png")


def draw(found: IndexedUnknown, path: Path) -> None:
    """The first frame with its spots, the planes that explain them, and those of lowest indices, found or not."""
    spots, z = found.frames[0]
    best = found.result.best
    detector, hkl, predicted, title = found.instrument.detector, None, None, "unknown lattice"
    if best is not None:
        shift = (best.centre_px[0] - detector.centre_px[0], best.centre_px[1] - detector.centre_px[1])
        detector = with_distance(detector, best.distance_mm, shift)
        detector = detector.moved(tilt_x_rad=best.tilts_rad[0], tilt_y_rad=best.tilts_rad[1])
        hkl, predicted = low_index_spots(best, z, detector, DEEP * len(spots))
        found_there = cKDTree(spots.pixels).query(predicted)[0] < NEAR_PX
        drawn = found_there | (np.arange(len(hkl)) < len(spots) // 3)
        hkl, predicted = hkl[drawn], predicted[drawn]
        title = f"{best.family} {best.centring}" + ("" if found.sure else " (unsure)")
    counts = None if found.first is None else found.first.counts
    draw_pattern(
        path, detector, title=title, note=Path(found.sources[0]).name, counts=counts, found=spots.pixels,
        predicted=predicted, hkl=hkl,
    )  # fmt: skip
