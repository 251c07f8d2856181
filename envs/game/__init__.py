"""``lauepilot/LaueGame-v0``: LaueRL's game, an unknown crystal to be turned by what small pictures show."""
