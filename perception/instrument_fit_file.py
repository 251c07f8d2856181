"""A calibrated instrument back into its YAML file: whole or not at all, and the old one is kept."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np

from lauepilot.perception.calibrate import instrument_yaml
from lauepilot.perception.instrument_fit_result import InstrumentFit, InstrumentFitError
from lauepilot.simulator.detector import GEOMETRY_PARAMETERS
from lauepilot.simulator.instrument import parse_instrument


def write_instrument(fit: InstrumentFit, path: str | Path) -> Path | None:
    """Write the instrument of a good fit to ``path``; a file that is there is kept beside it.

    Parameters
    ----------
    fit
        Its instrument is written, with what was found and how sure it is as a comment.
    path
        Ends in ``.yaml`` or ``.yml``; its folder exists.

    Returns
    -------
    Where the old file is now, ``NAME.before-<time>.yaml``; None if there was none.

    Raises
    ------
    InstrumentFitError
        If the fit is not good, or the path is none to write to. Nothing is written.
    """
    target = Path(path)
    if not fit.good:
        raise InstrumentFitError(f"Nothing was written to {target}. {' '.join(fit.problems)}")
    check_target(target)
    text = instrument_yaml(fit.instrument, comment(fit))
    parse_instrument(text, str(target))  # what is written can be read
    part = target.with_name(f".{target.name}-{os.getpid()}.part")
    kept: Path | None = None
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            kept = _free_name(target)
            # A second name for the old file, so that at no moment there is none under the usual one.
            try:
                os.link(target, kept)
            except OSError:  # file systems without second names
                shutil.copy2(target, kept)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return kept


def check_target(path: Path) -> None:
    """Refuse a path that no instrument can be written to.

    Raises
    ------
    InstrumentFitError
        If it does not end in .yaml, its folder does not exist, or it is no file.
    """
    if path.suffix not in {".yaml", ".yml"}:
        raise InstrumentFitError(
            f"An instrument is written to a file that ends in .yaml; {str(path)!r} came."
        )
    if not path.parent.is_dir():
        raise InstrumentFitError(
            f"There is no folder {path.parent} to write {path.name} into. Make it first."
        )
    if path.exists() and not path.is_file():
        raise InstrumentFitError(f"{path} is there and is no file. Name another one.")


def comment(fit: InstrumentFit) -> str:
    """What was found, line by line, for the head of the file."""
    sigma = dict(zip(fit.names, fit.sigma, strict=True))
    values = dict(zip(fit.names, fit.values, strict=True))
    pose = []
    for name, unit in zip(GEOMETRY_PARAMETERS, ("mm", "px", "px", "deg", "deg"), strict=True):
        factor = np.rad2deg(1.0) if unit == "deg" else 1.0
        pose.append(
            f"{name.rpartition('_')[0]} {factor * values[name]:+.4f} ± {factor * sigma[name]:.4f} {unit}"
        )
    axes = [name.removesuffix("_tilt1_rad") for name in fit.names if name.endswith("_tilt1_rad")]
    loose = [np.rad2deg(max(sigma[f"{a}_tilt1_rad"], sigma[f"{a}_tilt2_rad"])) for a in axes]
    return "\n".join(
        [
            f"{fit.drawn.name} calibrated {datetime.now().astimezone():%Y-%m-%d %H:%M} from {len(fit.rows)} frames: "
            f"residual {fit.rms_px:.3f} px, sphere of confusion {fit.sphere_mm:.3f} mm",
            "changed by: " + ", ".join(pose),
            "axes are directions at read-backs of zero, known to "
            + ", ".join(f"{a} {s:.4f} deg" for a, s in zip(axes, loose, strict=True)),
            "of which zeros (to be added to read-backs) are likely: "
            + ", ".join(f"{a} {z:+.3f} deg" for a, z in fit.zeros_deg.items())
            + "; they are in the directions already",
        ]
    )


def _free_name(path: Path) -> Path:
    moment = datetime.now().astimezone().strftime("%Y%m%dT%H%M%S")
    for n in range(100):
        kept = path.with_name(f"{path.stem}.before-{moment}{f'-{n + 1}' if n else ''}{path.suffix}")
        if not kept.exists():
            return kept
    raise InstrumentFitError(
        f"A hundred files {path.stem}.before-{moment}* exist. Name another file to write to."
    )
