"""A serial arm as sample stage: kinematics, bodies, clear paths, and the goniometer made of them."""
