"""Records of runs: a local folder always, and what else is asked for."""
