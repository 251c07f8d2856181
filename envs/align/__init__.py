"""``lauepilot/LaueAlign-v0``: a known crystal, three axes, chosen exposures, a declaration."""
