"""What can go wrong between a decision and a motor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class HardwareError(RuntimeError):
    """A device that did not do what it was told."""


class MotionError(HardwareError):
    """Axes that did not arrive where they were sent."""


class StoppedError(HardwareError):
    """A move or an exposure that was stopped before its end."""


class InterlockError(ValueError):
    """A decision that must not be carried out."""


class RecordError(HardwareError):
    """A record that cannot be written, read or gone on from."""


@contextmanager
def blamed(part: str, partner: object) -> Iterator[None]:
    """Whatever a partner of a plan raises gets a note: who it was, how things stand, and what to do.

    Parameters
    ----------
    part
        Its part: "agent", "observer".
    partner
        Itself.
    """
    try:
        yield
    except Exception as error:
        error.add_note(
            f"Raised by the {part} ({type(partner).__name__}), not by the instrument. The motors are at rest and the record "
            "is closed. Correct it, then go on from the record: lauepilot.hardware.resume.resume_run."
        )
        raise
