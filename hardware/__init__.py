"""Ophyd devices on the Twin, the Bluesky plan that aligns a crystal, and its records."""
