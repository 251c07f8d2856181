"""The twin of the instrument: crystals, beams, detectors, goniometers, Laue patterns and counting noise."""
