"""What bluesky-queueserver loads: devices, plans, agents and a RunEngine; `lauepilot queue-startup` writes the folder."""
