"""The IPv4 header before an ICMP message, as a raw socket of Linux hands it over (RFC 791 §3.1).

It is read and never written: the kernel makes the header of what we send.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from kdc.errors import Malformed
from kdc.wire.cursor import Reader

_ICMP: Final = 1  # RFC 790, protocol


@dataclass(frozen=True, slots=True)
class IcmpDatagram:
    """Where an ICMP message came from and went to, and the time to live that it had left."""

    source: IPv4Address
    destination: IPv4Address
    ttl: int
    message: bytes


def decode_icmp_datagram(octets: bytes) -> IcmpDatagram:
    """Options are skipped; the kernel has verified the header's checksum.

    Raises `Malformed`, also for a datagram that was cut off by the length of the read.
    """
    reader = Reader(octets)
    version_and_words = reader.u8()
    header_octets = (version_and_words & 0x0F) * 4
    if version_and_words >> 4 != 4 or header_octets < 20:
        raise Malformed("IPv4 header")
    reader.u8()  # type of service
    if reader.u16() != len(octets):
        raise Malformed("IPv4 total length")
    reader.octets(4)  # identification and fragment: the kernel has put fragments together
    ttl = reader.u8()
    if reader.u8() != _ICMP:
        raise Malformed("not ICMP")
    reader.u16()
    source, destination = IPv4Address(reader.octets(4)), IPv4Address(reader.octets(4))
    reader.octets(header_octets - 20)
    return IcmpDatagram(source, destination, ttl, reader.rest())
