"""Whole RADIUS packets out of a stream of octets, by their Length field (RFC 6614 §3.4 (1)).

It knows no socket; what is in a packet is aaa.radius.packet's affair.
"""

from __future__ import annotations

from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import HEADER_OCTETS, MAXIMUM_OCTETS


class PacketStream:
    """Octets in, packets out, in order."""

    __slots__ = ("_octets",)

    def __init__(self) -> None:
        self._octets = bytearray()

    def feed(self, octets: bytes) -> None:
        """Adds what has arrived."""
        self._octets += octets

    def take(self, maximum: int) -> list[bytes]:
        """At most `maximum` packets that are there in whole.

        Raises `MalformedPacket` for a Length that no packet has: what follows cannot be told apart
        any more (RFC 6613 §2.6.4).
        """
        octets = self._octets
        available, position = len(octets), 0
        packets: list[bytes] = []
        while len(packets) < maximum and available - position >= 4:
            length = (octets[position + 2] << 8) | octets[position + 3]
            if not HEADER_OCTETS <= length <= MAXIMUM_OCTETS:
                raise MalformedPacket("Length out of range")
            end = position + length
            if end > available:
                break
            packets.append(bytes(octets[position:end]))
            position = end
        if position:
            del octets[:position]
        return packets
