"""Sealed extensions: the layout of kdc.wire joined with the seal of kdc.crypto (PROTOCOL 5.2).

Also the Transcript of section 8, which is a hash over the layout.  Nothing is decided here.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from kdc.crypto.seal import BUCKETS, TAG_OCTETS, Seal, bucket_of
from kdc.errors import LocalError
from kdc.model import Secret
from kdc.wire import numbers
from kdc.wire.extensions import Extension, check_info, extension_header
from kdc.wire.numbers import Kind
from kdc.wire.payloads import (
    HEADER_OCTETS,
    KE_SECRET,
    KeA,
    KeC,
    KeyExchange,
    SaPayload,
    decode_sa_payload,
    encode_sa_payload,
)

_NAME_BUCKET: Final = 64  # 5.2: so that lengths of names do not show
_KE_C_HEAD: Final = 8  # Fig. 23: header and SPI
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


def seal_ke_c(seal: Seal, secret: Secret, answered: bytes, fixed_header: bytes) -> bytes:
    """The answered SA payload with `secret` sealed in its KE-c, which is its last payload (5.2)."""
    sealed_octets = bucket_of(len(secret)) + TAG_OCTETS
    payload = _with_carried(decode_sa_payload(answered), bytes(sealed_octets))
    filled = encode_sa_payload(payload)
    associated = [fixed_header, _ke_c_header(filled, sealed_octets)]
    return filled[:-sealed_octets] + seal.seal(secret.reveal(), associated)


def open_ke_c(seal: Seal, answered: bytes, sealed: bytes, fixed_header: bytes) -> Secret:
    """The secret in the KE-c of an answered SA payload; `sealed` is what that KE-c holds.

    Raises `SealBroken`.
    """
    return Secret(seal.open(sealed, [fixed_header, _ke_c_header(answered, len(sealed))]))


def _ke_c_header(answered: bytes, sealed_octets: int) -> bytes:
    """The SA payload's first 4 octets and the KE-c's first 8, Lengths filled in."""
    end = len(answered) - sealed_octets
    return answered[:HEADER_OCTETS] + answered[end - _KE_C_HEAD : end]


def with_secret(answered: SaPayload, secret: Secret) -> SaPayload:
    """An answer with the secret itself in its KE-a 240 (PROTOCOL section 6)."""
    return _with_carried(answered, secret.reveal())


def without_secret(answered: SaPayload) -> SaPayload:
    """An answer as it was before home put a secret into its KE (section 8)."""
    kes = answered.proposals[-1].key_exchanges
    return _with_carried(answered, b"") if kes and isinstance(kes[-1], KeC) else answered


def _with_carried(payload: SaPayload, octets: bytes) -> SaPayload:
    """The payload with what its last KE carries replaced; `LocalError` if it carries no secret."""
    last = payload.proposals[-1]
    match last.key_exchanges:
        case (*others, KeC() as ke):
            carrier: KeyExchange = replace(ke, sealed=octets)
        case (*others, KeA() as ke) if ke.group == KE_SECRET:
            carrier = replace(ke, data=octets)
        case _:
            raise LocalError("no KE that carries a secret in an answer that is to have one")
    last = replace(last, key_exchanges=(*others, carrier))
    return replace(payload, proposals=(*payload.proposals[:-1], last))


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
