"""Orientations from frames of few photons, where spots cannot be found before the orientation is known."""
