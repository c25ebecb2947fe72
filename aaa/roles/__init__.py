"""One pure file for each party: no I/O, no clock, no entropy of its own, none of the others."""
