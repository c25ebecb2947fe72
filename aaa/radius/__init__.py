"""RADIUS as octets and values; no socket, no decision."""
