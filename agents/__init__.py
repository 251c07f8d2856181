"""Players: the classical rule, those between which it stands, and the adapters for learners."""
