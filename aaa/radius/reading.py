"""Attributes by number, and the values in them: what every codec of this package reads with.

Which attributes there must be is for each codec to say.
"""

from __future__ import annotations

from typing import Final

from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import Attributes

INTEGER_OCTETS: Final = 4  # RFC 2865 §5: integer, address and time

Grouped = dict[int, list[bytes]]


def group(attributes: Attributes) -> Grouped:
    """All values by attribute number, each in packet order."""
    grouped: Grouped = {}
    for kind, value in attributes:
        grouped.setdefault(kind, []).append(value)
    return grouped


def one(values: Grouped, number: int) -> bytes:
    """The only value of an attribute; raises `MalformedPacket` if there are none or several."""
    found = values.get(number)
    if found is None or len(found) != 1:
        raise MalformedPacket("attribute missing or twice")
    return found[0]


def at_most_one(values: Grouped, number: int) -> bytes | None:
    """The only value or None; raises `MalformedPacket` if there are several."""
    return one(values, number) if number in values else None


def joined(values: Grouped, number: int) -> bytes:
    """All pieces of a vendor attribute as one; raises `MalformedPacket` if there are none."""
    pieces = values.get(number)
    if pieces is None:
        raise MalformedPacket("attribute missing")
    return b"".join(pieces)


def integer(octets: bytes) -> int:
    """A value of 32 bits; raises `MalformedPacket` for another length."""
    if len(octets) != INTEGER_OCTETS:
        raise MalformedPacket("integer length")
    return int.from_bytes(octets, "big")


def at_most_one_integer(values: Grouped, number: int) -> int | None:
    """The only value of 32 bits or None; raises `MalformedPacket`."""
    octets = at_most_one(values, number)
    return None if octets is None else integer(octets)


def write_integer(number: int) -> bytes:
    """The 4 octets of a value of 32 bits; raises `OverflowError` beyond them."""
    return number.to_bytes(INTEGER_OCTETS, "big")
