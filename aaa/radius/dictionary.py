"""Names for people: the dictionary, and a packet's attributes by it, without what is secret.

This is the only module that imports pyrad.  The hot path has a codec of its own (aaa.radius.packet;
pyrad's decode, verify and reply cost about five times as much), held to pyrad's octets by a test.
"""

from __future__ import annotations

import io
import json
from functools import lru_cache
from importlib import resources
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pyrad.dictionary import Dictionary

from aaa.radius.packet import Packet
from kdc.model import DEFAULT_VENDOR_ID

_VENDOR_SPECIFIC: Final = 26  # RFC 2865 §5.26
# What may be shown, by number; of all else, what is unknown included, only the length is: passwords
# (2, 3), what may hold anything (18, 24, 33, 79), and the Message-Authenticator, by which a shared
# secret can be guessed.  1 names an alias or a realm, 25 and 89 a registration: none of it opens
# anything.  The last row is of accounting (RFC 2866 §5) with Event-Timestamp (RFC 2869 §5.3).
_SHOWN: Final = frozenset(
    {1, 4, 6, 25, 27, 32, 89, 95, 101, 126}
    | {40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 55}
)
# Roamkey-FA-Public-Key, -SPI and -FA-NAI.  The others hold keys, or what is sealed beside them.
_SHOWN_OF_ROAMKEY: Final = frozenset({3, 6, 9})


@lru_cache(maxsize=4)
def load_dictionary(vendor_id: int = DEFAULT_VENDOR_ID) -> Dictionary:
    """Pyrad's dictionary of all attributes used here, those of Roamkey under `vendor_id`."""
    dictionary = Dictionary()
    folder = resources.files("aaa.radius")
    for name in ("dictionary.rfc", "dictionary.roamkey"):
        text = (folder / name).read_text(encoding="ascii")
        text = text.replace(f"\t{DEFAULT_VENDOR_ID}\n", f"\t{vendor_id}\n")
        dictionary.ReadDictionary(io.StringIO(text))
    return dictionary


def describe(packet: Packet, vendor_id: int = DEFAULT_VENDOR_ID) -> tuple[tuple[str, str], ...]:
    """Names and values of the attributes in packet order, for people.

    A value is text in quotes with all but printable ASCII escaped, a number or its name, an
    address, octets as 0x and hex, or only a length where it is or may be secret or is not known.
    """
    described: list[tuple[str, str]] = []
    for kind, value in packet.attributes:
        if kind == _VENDOR_SPECIFIC:
            described += _describe_vendors(value, vendor_id)
        else:
            described.append(_describe_one(kind, value, vendor_id, shown=kind in _SHOWN))
    return tuple(described)


def _describe_vendors(value: bytes, vendor_id: int) -> list[tuple[str, str]]:
    """Those in one attribute 26; another vendor's are one, as nobody here knows how they look."""
    if len(value) < 5:
        return [("Vendor-Specific", f"{_length(value)}, too short")]
    vendor = int.from_bytes(value[:4], "big")
    if vendor != vendor_id:
        return [(f"Vendor-Specific of {vendor}", _length(value[4:]))]
    described: list[tuple[str, str]] = []
    position = 4
    while position < len(value):
        end = position + value[position + 1] if position + 1 < len(value) else 0
        if not position + 2 <= end <= len(value):
            described.append(("Vendor-Specific", f"{_length(value[position:])}, malformed"))
            break
        number, inner = value[position], value[position + 2 : end]
        shown = number in _SHOWN_OF_ROAMKEY
        described.append(_describe_one((vendor, number), inner, vendor_id, shown=shown))
        position = end
    return described


def _describe_one(
    number: int | tuple[int, int], value: bytes, vendor_id: int, *, shown: bool
) -> tuple[str, str]:
    dictionary = load_dictionary(vendor_id)
    if not dictionary.attrindex.HasBackward(number):
        text = f"{number[0]}.{number[1]}" if isinstance(number, tuple) else str(number)
        return f"Attribute {text}", _length(value)
    name: str = dictionary.attrindex.GetBackward(number)
    if not shown:
        return name, _length(value)
    attribute = dictionary.attributes[name]
    if attribute.values.HasBackward(value):
        return name, str(attribute.values.GetBackward(value))
    return name, _text(attribute.type, value)


def _text(kind: str, value: bytes) -> str:
    if kind == "string":
        return json.dumps(value.decode("utf-8", "backslashreplace"))  # nothing for a terminal
    if kind in ("integer", "date") and len(value) == 4:
        return str(int.from_bytes(value, "big"))
    if kind == "ipaddr" and len(value) == 4:
        return str(IPv4Address(value))
    if kind == "ipv6addr" and len(value) == 16:
        return str(IPv6Address(value))
    return f"0x{value.hex()}"


def _length(value: bytes) -> str:
    return "1 octet" if len(value) == 1 else f"{len(value)} octets"
