"""Octets to values and back, and nothing else: no key, no clock, no policy."""
