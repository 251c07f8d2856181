"""The operator's page: what a browser shows of a session, and what it may command."""
