"""Frames and lists of spots in the files of others."""
