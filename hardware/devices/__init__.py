"""Ophyd devices: camera and goniometer, on the Twin or on process variables."""
