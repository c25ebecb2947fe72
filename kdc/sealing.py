"""Sealed extensions: the layout of kdc.wire joined with the seal of kdc.crypto (PROTOCOL 5.2).

Also the Transcript of section 8, which is a hash over the layout.  Nothing is decided here.
"""

from __future__ import annotations

import hashlib
from typing import Final

from kdc.crypto.seal import BUCKETS, TAG_OCTETS, Seal, bucket_of
from kdc.wire import numbers
from kdc.wire.extensions import Extension, check_info, extension_header
from kdc.wire.numbers import Kind

_NAME_BUCKET: Final = 64  # 5.2: so that lengths of names do not show
_TRANSCRIPT_LABEL: Final = b"roamkey transcript v1"


def _smallest_bucket(kind: Kind) -> int:
    return _NAME_BUCKET if kind in (numbers.NAI_MN, numbers.NAI_FA) else BUCKETS[0]


def seal_extension(
    seal: Seal, *, kind: Kind, spi: int, info: bytes, fixed_header: bytes
) -> Extension:
    """The extension with E=1, bound to the message's fixed header and its own 12 octets."""
    smallest = _smallest_bucket(kind)
    header = extension_header(kind, spi, bucket_of(len(info), smallest) + TAG_OCTETS)
    return Extension(kind, spi, seal.seal(info, [fixed_header, header], smallest))


def open_extension(seal: Seal, extension: Extension, fixed_header: bytes) -> bytes:
    """INFO in the clear and well-formed; raises `SealBroken` or `Malformed`."""
    kind = extension.kind
    associated = [fixed_header, extension.header]
    return check_info(kind, seal.open(extension.info, associated, _smallest_bucket(kind)))


def transcript(
    *,
    request: bytes,
    attribute_3: bytes,
    attribute_5: bytes,
    fa_nai: bytes,
    reply_to_mhae: bytes,
    between: bytes,
) -> bytes:
    """16 octets over all that FA and home have said to each other (section 8)."""
    parts = (request, attribute_3, attribute_5, fa_nai, reply_to_mhae, between)
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(_TRANSCRIPT_LABEL + joined).digest()[: numbers.TRANSCRIPT_OCTETS]
