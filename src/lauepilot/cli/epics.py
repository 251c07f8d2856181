"""``lauepilot align --epics``: what has to happen before any library of Channel Access is imported.

Those look at their environment once. Without a word from the user they speak to this machine alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from lauepilot.hardware.epics.environment import loopback_unless_told


def run_align_epics(
    *,
    prefix: str | None,
    devices: Path | None = None,
    use_async: bool = False,
    crystal: str,
    instrument: str,
    target: str,
    agent: str,
    out: Path | None,
    as_json: bool,
    tiled: str | None = None,
) -> int:
    """Align a crystal on process variables with the plan and the agent that run in process; the exit code.

    Parameters
    ----------
    prefix
        Of all process variables, where they are named as those of ``lauepilot ioc``; None with ``devices``.
    devices
        YAML file of devices (`lauepilot.hardware.devices.config`), which also names the instrument.
    use_async
        By way of ophyd-async instead of ophyd; with ``devices`` the file says.
    crystal, instrument, target, agent, out, as_json, tiled
        As of ``lauepilot align``.
    """
    loopback_unless_told(os.environ)
    # Not before: this imports ophyd, which starts Channel Access.
    from lauepilot.cli.align_epics import align_on_pvs

    return align_on_pvs(
        prefix=prefix, devices=devices, library="ophyd-async" if use_async else "ophyd", crystal=crystal,
        instrument=instrument, target=target, agent=agent, out=out, as_json=as_json, tiled=tiled,
    )  # fmt: skip
