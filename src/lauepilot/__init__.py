"""Aligns crystals by Laue diffraction, and decides how long to count."""

__version__ = "0.1.0"
