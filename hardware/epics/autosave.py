"""A file from which a restarted IOC goes on: where its axes stood, and how people had set its records.

As the autosave module of EPICS does for motor records. The file is JSON; it is replaced as a whole, so that a power cut
leaves the one before.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lauepilot.hardware.epics.motor import KEPT
from lauepilot.hardware.errors import HardwareError
from lauepilot.simulator.instrument import Instrument

State = Mapping[str, float | str]


class Autosave:
    """The file of one IOC.

    Parameters
    ----------
    path
        Where; it need not exist yet.
    instrument
        Whose axes are kept.
    """

    def __init__(self, path: Path, instrument: Instrument) -> None:
        self.path, self.instrument = path, instrument
        self._written = ""

    def load(self) -> dict[str, State]:
        """What was kept, by axis; empty if there is no file yet.

        Raises
        ------
        HardwareError
            If the file is of another instrument, or not whole; with what to do.
        """
        try:
            kept = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._useless(str(error)) from None
        if not isinstance(kept, dict) or kept.get("instrument") != self.instrument.name:
            raise self._useless(f"it is not of the instrument {self.instrument.name!r}")
        axes = kept.get("axes")
        if not isinstance(axes, dict) or set(axes) != set(self.instrument.goniometer.names):
            raise self._useless(f"its axes are not {', '.join(self.instrument.goniometer.names)}")
        for axis in self.instrument.goniometer.axes:
            (low, high), state = axis.limits, axes[axis.name]
            numbers = [_number(state, name) for name in ("dial", "DLLM", "DHLM", *KEPT) if name != "DIR"]
            dial, soft_low, soft_high = numbers[:3]
            speeds = [_number(state, name) for name in ("VELO", "BVEL", "HVEL", "JVEL")]
            if not (
                all(map(math.isfinite, numbers))
                and low <= dial <= high
                and low <= soft_low < soft_high <= high
                and all(0.0 < speed <= axis.speed for speed in speeds)
                and 0.0 <= _number(state, "ACCL") <= 60.0
                and state["DIR"] in ("Pos", "Neg")
            ):
                raise self._useless(f"what it says of {axis.name} is not possible there")
        return dict(axes)

    def save(self, states: Mapping[str, State]) -> None:
        """Write what is to be kept, if it has changed."""
        text = json.dumps({"instrument": self.instrument.name, "axes": states}, indent=1)
        if text != self._written:
            beside = self.path.with_name(f"{self.path.name}.new")
            beside.write_text(text, "utf-8")
            os.replace(beside, self.path)
            self._written = text

    def _useless(self, why: str) -> HardwareError:
        return HardwareError(
            f"{self.path} is no file of --autosave for this IOC: {why}. Name another file, or remove this one: the axes "
            "then start at zero."
        )


def _number(state: Any, name: str) -> float:
    value = state.get(name) if isinstance(state, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
