"""Target: one extension of any octets, in its frame or alone (kdc.wire.extensions, PROTOCOL 4.1).

The promise: a CVSE, an NVSE or the Value of one is an extension that is encoded to the same octets,
or it is refused by its own error; the INFO of a kind is well-formed or `Malformed`, and what is
read of it is encoded to the same octets.
"""

from __future__ import annotations

from typing import Final

from kdc.errors import Malformed, UnknownVendor
from kdc.model import DEFAULT_VENDOR_ID, Pair
from kdc.wire import numbers
from kdc.wire.association import decode_sa_info, encode_sa_info
from kdc.wire.cursor import Reader
from kdc.wire.extensions import (
    Extension,
    check_info,
    decode_ip,
    decode_nai,
    decode_next_spi,
    decode_status,
    encode_cvse,
    encode_extension,
    encode_next_spi,
    encode_nvse,
    encode_status,
    read_cvse,
    read_extension,
    read_nvse,
)
from kdc.wire.numbers import CRITICAL_VENDOR, NEXT_SPI, STATUS, TYPE_IP, TYPE_NAI, Kind
from tests.fuzz.entry import fuzz

MAXIMUM_OCTETS: Final = 600
_KINDS: Final = tuple(value for value in vars(numbers).values() if isinstance(value, Kind))


def judge(octets: bytes) -> None:
    _check_frames(octets)
    if octets:
        _check_value(octets)
    _check_info(octets)


def _check_frames(octets: bytes) -> None:
    if octets[:1] == bytes((CRITICAL_VENDOR,)):
        reader = Reader(octets, 1)
        try:
            vendor_type, body = read_cvse(reader, DEFAULT_VENDOR_ID)
        except (Malformed, UnknownVendor):
            return
        value = body.rest()
        assert encode_cvse(DEFAULT_VENDOR_ID, vendor_type, value) == octets[: reader.position]
        _check_value(value)
        return
    try:
        extension = read_nvse(octets, DEFAULT_VENDOR_ID)
    except (Malformed, UnknownVendor):
        return
    assert encode_nvse(DEFAULT_VENDOR_ID, extension) == octets


def _check_value(value: bytes) -> None:
    try:
        extension = read_extension(Reader(value), value[0] if value else 0)
    except Malformed:
        return
    assert encode_extension(extension) == value
    _check_sealing(extension)


def _check_sealing(extension: Extension) -> None:
    if extension.sealed:
        assert extension.spi >= 256 and extension.kind != STATUS
    else:
        assert check_info(extension.kind, extension.info) == extension.info


def _check_info(info: bytes) -> None:
    """What a seal opens to is judged by these, so any octets come before them."""
    for kind in _KINDS:
        try:
            check_info(kind, info)
        except Malformed:
            continue
        _check_read(kind, info)
    for pair in Pair:
        try:
            read = decode_sa_info(info, pair)
        except Malformed:
            continue
        assert encode_sa_info(read) == info


def _check_read(kind: Kind, info: bytes) -> None:
    if kind.type == TYPE_NAI:
        assert decode_nai(info).octets == info and str(decode_nai(info)).encode() == info
    elif kind.type == TYPE_IP:
        assert decode_ip(info).packed == info
    elif kind == NEXT_SPI:
        assert encode_next_spi(decode_next_spi(info)) == info
    elif kind == STATUS:
        assert encode_status(*decode_status(info)) == info


if __name__ == "__main__":
    fuzz("extension", judge, maximum_octets=MAXIMUM_OCTETS)
