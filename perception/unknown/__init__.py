"""Unknown lattices: symmetry axes, family and axial ratios from spots alone."""
