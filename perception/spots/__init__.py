"""Spots of a frame: background, search, fit, and the thresholds of the search."""
