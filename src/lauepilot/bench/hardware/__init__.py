"""Figures of [hardware]: faults, limits, EPICS, the page, the arm, calibration, UB matrices."""
