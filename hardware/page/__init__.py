"""What stands behind the operator's page: one run at a time in a thread of its own, and the guard at its door."""
