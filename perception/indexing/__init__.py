"""Indexing: from a list of spots to an orientation, with a known cell and no starting guess."""
