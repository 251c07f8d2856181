"""The command line ``lauepilot``: align, index, simulate, bench, crystals, instruments.

Nothing heavy is imported before a command needs it, so that ``lauepilot --help`` answers at once.
"""

from lauepilot.cli.app import app, main

__all__ = ["app", "main"]
