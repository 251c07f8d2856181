"""Players of ``lauepilot/LaueGame-v0``, and pictures with answers to learn from."""
