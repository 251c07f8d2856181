"""Several orientations in one frame."""
