"""Bluesky plans. Nothing moves without one."""
