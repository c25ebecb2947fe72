"""AAA for roaming: the parties, their RADIUS, their processes."""
