"""One pure file for each party: no I/O, no clock, no entropy of its own, no knowledge of another."""
