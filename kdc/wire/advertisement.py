"""What an FA advertises of itself: NAI and FK in two NVSEs, and attribute 3 (sections 3 and 8).

The ICMP message around the NVSEs is not here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kdc.errors import Malformed, UnknownVendor
from kdc.model import Nai, check_spi
from kdc.wire import numbers
from kdc.wire.cursor import Reader
from kdc.wire.extensions import Extension, encode_nvse, read_nvse

_ATTRIBUTE_3: Final = struct.Struct(">HI32s")
MAXIMUM_FA_PUBLIC_KEYS: Final = 2
_P: Final = 2**255 - 19
# PROTOCOL section 8: u-coordinates of low order (RFC 7748 §7), bit 255 ignored.
_LOW_ORDER: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        _P,
        _P + 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


@dataclass(frozen=True, slots=True)
class FaPublicKey:
    """Attribute 3: the FA's X25519 key under the SPI of its choice."""

    spi: int
    public_key: bytes  # 32

    @property
    def octets(self) -> bytes:
        return _ATTRIBUTE_3.pack(numbers.KEM_X25519, self.spi, self.public_key)


@dataclass(frozen=True, slots=True)
class FaAnnouncement:
    """What an MN hears of an FA beside its addresses."""

    nai: Nai
    fk: bytes  # 16


def decode_fa_public_key(octets: bytes) -> FaPublicKey:
    """Attribute 3; raises `Malformed` for a length, KEM, SPI or low-order key (section 8)."""
    if len(octets) != _ATTRIBUTE_3.size:
        raise Malformed("attribute 3 length")
    kem, spi, public_key = _ATTRIBUTE_3.unpack(octets)
    if kem != numbers.KEM_X25519:
        raise Malformed("attribute 3 KEM-Id")
    check_x25519(public_key)
    return FaPublicKey(check_spi(spi), public_key)


def check_x25519(public_value: bytes) -> None:
    """Raises `Malformed` for an encoding of low order, with which every secret would be zero."""
    if int.from_bytes(public_value, "little") & (2**255 - 1) in _LOW_ORDER:
        raise Malformed("X25519 low order")


def decode_fa_public_keys(attributes: tuple[bytes, ...]) -> tuple[FaPublicKey, ...]:
    """Attribute 3 as an Access-Request carries it: at most two, with different SPIs."""
    if len(attributes) > MAXIMUM_FA_PUBLIC_KEYS:
        raise Malformed("attribute 3 more than twice")
    keys = tuple(decode_fa_public_key(octets) for octets in attributes)
    if len({key.spi for key in keys}) != len(keys):
        raise Malformed("attribute 3 twice under one SPI")
    return keys


def encode_announcement(announcement: FaAnnouncement, vendor_id: int) -> bytes:
    """The two NVSEs, NAI first."""
    return encode_nvse(
        vendor_id, Extension(numbers.NAI_FA, 0, announcement.nai.octets)
    ) + encode_nvse(vendor_id, Extension(numbers.FA_KEY, 0, announcement.fk))


def decode_announcement(octets: bytes, vendor_id: int) -> FaAnnouncement:
    """NAI and FK from the NVSEs in `octets`; others are ignored.

    Raises `Malformed` if octets run out or one of the two is missing or stands twice.
    """
    reader = Reader(octets)
    found: dict[numbers.Kind, bytes] = {}
    while reader.remaining:
        start = reader.position
        reader.u8()
        reader.octets(reader.u8())
        try:
            extension = read_nvse(octets[start : reader.position], vendor_id)
        except (Malformed, UnknownVendor):
            continue
        if extension.kind in found:
            raise Malformed("NVSE twice")
        found[extension.kind] = extension.info
    if len(found) != 2:
        raise Malformed("no NAI or no FK advertised")
    return FaAnnouncement(Nai(found[numbers.NAI_FA]), found[numbers.FA_KEY])
