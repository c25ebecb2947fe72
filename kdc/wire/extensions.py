"""The extensions of PROTOCOL 4.1 and the frames that carry them: CVSE and NVSE (RFC 3115).

Which extension may stand where is kdc.wire.registration's affair; seals are opened elsewhere.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from kdc.errors import Malformed, UnknownVendor
from kdc.model import (
    MAXIMUM_FA_NAI_OCTETS,
    SPI_MINIMUM,
    IpAddress,
    Nai,
    Pair,
    check_spi,
    shared_nai,
)
from kdc.wire import numbers
from kdc.wire.cursor import Reader
from kdc.wire.numbers import Kind

_HEADER: Final = struct.Struct(">BBHBBHI")  # 4.1: type, 0, length, content type, flags, 0, SPI
_ENCRYPTED: Final = 0x80
_CVSE_FRAME: Final = struct.Struct(">BBHIH")
_NVSE_FRAME: Final = struct.Struct(">BBHIH")
EXTENSION_HEADER_OCTETS: Final = _HEADER.size
CVSE_HEADER_OCTETS: Final = _CVSE_FRAME.size
_SEALED_LENGTHS: Final = frozenset(
    bucket + numbers.SEAL_TAG_OCTETS for bucket in numbers.SEAL_BUCKETS
)


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension of 4.1 as it stands on the wire; `info` is sealed if `spi` is not 0."""

    kind: Kind
    spi: int
    info: bytes

    @property
    def sealed(self) -> bool:
        return self.spi != 0

    @property
    def header(self) -> bytes:
        """The 12 octets before INFO, which a seal binds (5.2)."""
        return extension_header(self.kind, self.spi, len(self.info))


def extension_header(kind: Kind, spi: int, info_octets: int) -> bytes:
    """The 12 octets of 4.1 for an INFO of `info_octets`; E is set where `spi` is not 0."""
    flags = _ENCRYPTED if spi else 0
    return _HEADER.pack(kind.type, 0, info_octets, kind.content_type, flags, 0, spi)


def read_extension(reader: Reader, vendor_type: int) -> Extension:
    """The extension that fills `reader`; a clear INFO has been checked, a sealed one has not.

    Raises `Malformed`.
    """
    if reader.remaining < _HEADER.size:
        raise Malformed("extension shorter than its header")
    type_, reserved, length, content_type, flags, reserved2, spi = _HEADER.unpack(
        reader.octets(_HEADER.size)
    )
    if type_ != vendor_type:
        raise Malformed("type is not the Vendor-Type")
    if reserved or reserved2:
        raise Malformed("reserved field is not zero")
    if flags & ~_ENCRYPTED:
        raise Malformed("unknown flag bits")
    if length != reader.remaining:
        raise Malformed("inner length")
    kind = Kind(type_, content_type)
    if kind not in _CHECKS:
        raise Malformed("content type")
    extension = Extension(kind, spi, reader.rest())
    if flags:
        _check_sealed(extension)
    elif spi:
        raise Malformed("E=0 with an SPI")
    else:
        check_info(kind, extension.info)
    return extension


def encode_extension(extension: Extension) -> bytes:
    """The Value of a CVSE."""
    return extension.header + extension.info


def _check_sealed(extension: Extension) -> None:
    if extension.spi < SPI_MINIMUM:
        raise Malformed("E=1 with an SPI below 256")
    if extension.kind == numbers.STATUS:
        raise Malformed("Status is never sealed")
    if len(extension.info) not in _SEALED_LENGTHS:
        raise Malformed("sealed length is no bucket")


# --- frames ---------------------------------------------------------------------------------


def read_cvse(reader: Reader, vendor_id: int) -> tuple[int, Reader]:
    """The Vendor-Type and a window on the Value of a CVSE whose type octet has been read.

    Raises `Malformed`, or `UnknownVendor` for another vendor.
    """
    if reader.u8():
        raise Malformed("reserved field is not zero")
    length = reader.u16()
    if length < 6 or length > reader.remaining:
        raise Malformed("CVSE length")
    vendor, vendor_type = reader.u32(), reader.u16()
    start = reader.position
    reader.octets(length - 6)
    if vendor != vendor_id:
        raise UnknownVendor("another vendor")
    return vendor_type, reader.at(start, reader.position)


def encode_cvse(vendor_id: int, vendor_type: int, value: bytes) -> bytes:
    return (
        _CVSE_FRAME.pack(numbers.CRITICAL_VENDOR, 0, 6 + len(value), vendor_id, vendor_type) + value
    )


def read_nvse(octets: bytes, vendor_id: int) -> Extension:
    """The clear extension in an NVSE that fills `octets` (section 3: NAI of the FA, FK).

    Raises `Malformed` or `UnknownVendor`; a mobile node then ignores that NVSE.
    """
    reader = Reader(octets)
    if reader.u8() != numbers.NORMAL_VENDOR or reader.u8() != reader.remaining:
        raise Malformed("NVSE")
    if reader.u16():
        raise Malformed("NVSE")
    vendor, vendor_type = reader.u32(), reader.u16()
    if vendor != vendor_id or vendor_type not in (numbers.TYPE_NAI, numbers.TYPE_FA_KEY):
        raise UnknownVendor("NVSE of another vendor or type")
    extension = read_extension(reader, vendor_type)
    if extension.sealed or extension.kind not in (numbers.NAI_FA, numbers.FA_KEY):
        raise Malformed("NVSE")
    return extension


def encode_nvse(vendor_id: int, extension: Extension) -> bytes:
    value = encode_extension(extension)
    return (
        _NVSE_FRAME.pack(numbers.NORMAL_VENDOR, 8 + len(value), 0, vendor_id, extension.kind.type)
        + value
    )


# --- INFO in the clear ----------------------------------------------------------------------


def check_info(kind: Kind, info: bytes) -> bytes:
    """`info`, if it is a well-formed INFO of this kind, else `Malformed`."""
    _CHECKS[kind](info)
    return info


def decode_nai(info: bytes) -> Nai:
    return Nai(info)


def _check_fa_nai(info: bytes) -> None:
    if len(info) > MAXIMUM_FA_NAI_OCTETS:
        raise Malformed("NAI length")
    shared_nai(info)


def decode_ip(info: bytes) -> IpAddress:
    if len(info) == 4:
        return IPv4Address(info)
    if len(info) == 16:
        return IPv6Address(info)
    raise Malformed("IP length")


def _check_ethernet(info: bytes) -> None:
    if len(info) != 6:
        raise Malformed("Ethernet length")


def _check_imsi(info: bytes) -> None:
    if not (6 <= len(info) <= 15 and info.isdigit()):
        raise Malformed("IMSI")


def _check_min(info: bytes) -> None:
    if not (len(info) == 10 and info.isdigit()):
        raise Malformed("MIN")


def _check_fa_key(info: bytes) -> None:
    if len(info) != numbers.FK_OCTETS:
        raise Malformed("FA-Key length")


def decode_next_spi(info: bytes) -> tuple[int, ...]:
    """1-4 KEY0 SPIs in the order of use (5.4)."""
    if len(info) not in (4, 8, 12, 16):
        raise Malformed("Next-SPI")
    reader = Reader(info)
    return tuple(check_spi(reader.u32()) for _ in range(len(info) // 4))


def encode_next_spi(spis: tuple[int, ...]) -> bytes:
    return b"".join(spi.to_bytes(4, "big") for spi in spis)


def decode_status(info: bytes) -> tuple[int, str]:
    """Notify type (RFC 2408 §3.14.1) and detail."""
    if not 2 <= len(info) <= 2 + numbers.MAXIMUM_STATUS_DETAIL_OCTETS:
        raise Malformed("Status length")
    try:
        return int.from_bytes(info[:2], "big"), info[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("Status detail") from None


_FAILED_PAIR: Final = "pair "


def encode_failed_pair(pair: Pair) -> str:
    """The detail of a Status 14 that tells whose negotiation failed."""
    return f"{_FAILED_PAIR}{int(pair)}"


def decode_failed_pair(detail: str) -> Pair | None:
    """What `encode_failed_pair` wrote; None for any other text, which another home may send."""
    return next((pair for pair in Pair if detail == encode_failed_pair(pair)), None)


def encode_status(notify_type: int, detail: str = "") -> bytes:
    return notify_type.to_bytes(2, "big") + detail.encode()


def _check_transcript(info: bytes) -> None:
    if len(info) != numbers.TRANSCRIPT_OCTETS:
        raise Malformed("Transcript length")


def _check_sa(info: bytes) -> None:
    if len(info) < 22:  # 4.2: 20 octets, one suite less; the whole is read with its pair
        raise Malformed("SA-INFO short")


_CHECKS: Final = {
    numbers.NAI_MN: decode_nai,
    numbers.NAI_FA: _check_fa_nai,
    numbers.NAI_HA: decode_nai,
    numbers.IP_MN: decode_ip,
    numbers.IP_FA: decode_ip,
    numbers.LAYER2_ETHERNET: _check_ethernet,
    numbers.LAYER2_IMSI: _check_imsi,
    numbers.LAYER2_MIN: _check_min,
    numbers.SA_MN_FA: _check_sa,
    numbers.SA_FA_HA: _check_sa,
    numbers.SA_MN_HA: _check_sa,
    numbers.SA_MN_SMM: _check_sa,
    numbers.FA_KEY: _check_fa_key,
    numbers.NEXT_SPI: decode_next_spi,
    numbers.STATUS: decode_status,
    numbers.TRANSCRIPT: _check_transcript,
}
