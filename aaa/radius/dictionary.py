"""Names for people: the dictionary, and a packet's attributes by it.

This is the only module that imports pyrad.  The hot path has a codec of its own (aaa.radius.packet;
pyrad's decode, verify and reply cost about five times as much), held to pyrad's octets by a test.
"""

from __future__ import annotations

import io
from functools import lru_cache
from importlib import resources

from pyrad.dictionary import Dictionary
from pyrad.packet import Packet as PyradPacket

from aaa.radius.packet import Packet
from kdc.model import DEFAULT_VENDOR_ID


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
    """Names and values of the attributes for people; octets as hex, unknown ones by number."""
    dictionary = load_dictionary(vendor_id)
    values = PyradPacket(packet=packet.octets, dict=dictionary)
    described: list[tuple[str, str]] = []
    for key in values.keys():  # noqa: SIM118 - pyrad names the keys in keys() alone
        named = isinstance(key, str)
        for value in PyradPacket.__getitem__(values, key):
            text = value.hex() if isinstance(value, bytes) else str(value)
            described.append((key if named else str(key), text))
    return tuple(described)
