"""Our plans for bluesky-queueserver: arguments that fit into JSON, checked before they are queued."""
