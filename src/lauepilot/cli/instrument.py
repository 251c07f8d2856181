"""``lauepilot calibrate-instrument``: what has to happen before anything that speaks Channel Access is imported."""

from __future__ import annotations

import os
from pathlib import Path

from lauepilot.hardware.epics.environment import loopback_unless_told


def run_calibrate_instrument(
    *,
    crystal: str,
    instrument: str,
    out: Path,
    faults: str = "default",
    seed: int | None = None,
    frames: int = 14,
    exposure_s: float | None = None,
    prefix: str | None = None,
    devices: Path | None = None,
    use_async: bool = False,
    records: Path | None = None,
    as_json: bool = False,
) -> int:
    """Calibrate an instrument on a known crystal, on the Twin or on process variables; the exit code.

    Parameters
    ----------
    crystal, instrument
        What is mounted, and the instrument as described so far.
    out
        YAML file for the corrected instrument; one that is there is kept beside it.
    faults, seed
        Of the Twin: ``none``, ``default``, ``harsh`` or ``far`` (2 mm, 1 deg, axes 2 deg, zeros 5 deg).
    frames, exposure_s
        How many frames, and seconds of each; None takes the instrument's usual ones.
    prefix, devices
        Of process variables, or a file of devices; None for both takes the Twin.
    use_async
        By way of ophyd-async instead of ophyd.
    records
        Folder for documents, frames, table and picture; by default one named by the time.
    as_json
        One JSON object on standard output.
    """
    if prefix is not None or devices is not None:
        loopback_unless_told(os.environ)
    # Not before: this imports ophyd, which starts Channel Access.
    from lauepilot.cli.instrument_run import calibrate

    return calibrate(
        crystal=crystal, instrument=instrument, out=out, faults=faults, seed=seed, frames=frames,
        exposure_s=exposure_s, prefix=prefix, devices=devices, library="ophyd-async" if use_async else "ophyd",
        records=records, as_json=as_json,
    )  # fmt: skip
