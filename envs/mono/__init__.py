"""``lauepilot/MonoAlign-v0``: a crystal on a four-circle in a monochromatic beam; find, centre, second reflection, UB."""
