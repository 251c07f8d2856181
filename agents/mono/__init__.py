"""Players of ``lauepilot/MonoAlign-v0``: the rule, the plain search plan, one who knows the orientation, and chance."""
