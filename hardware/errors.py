"""What can go wrong between a decision and a motor."""

from __future__ import annotations


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
