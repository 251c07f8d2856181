"""Where the pictures were before they had a folder of their own: `lauepilot.pictures.pattern`."""

from lauepilot.pictures.pattern import draw_pattern, hkl_text

__all__ = ["draw_pattern", "hkl_text"]
