"""Orientation files of other programs: diffcalc-core, hklpy2, NeXus, SPEC, LaueTools; each states its frame and 2 pi."""
