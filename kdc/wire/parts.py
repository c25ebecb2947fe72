"""The parts of a registration message: what one party gets, extension by extension.

Which part stands in which message, and the fixed headers, are kdc.wire.registration's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kdc.errors import Malformed, UnknownVendor
from kdc.model import MAXIMUM_NAI_OCTETS, Nai, Pair, check_spi, shared_nai
from kdc.wire import numbers
from kdc.wire.cursor import Reader
from kdc.wire.extensions import Extension, encode_cvse, encode_extension, read_cvse, read_extension
from kdc.wire.numbers import Kind
from kdc.wire.payloads import ReadSaPayload, decode_sa_payload

LAYER2: Final = (numbers.LAYER2_ETHERNET, numbers.LAYER2_IMSI, numbers.LAYER2_MIN)


@dataclass(frozen=True, slots=True)
class Authenticator:
    """An MHAE or MFAE: its SPI, its HMAC, and how many octets of the message it covers."""

    spi: int
    digest: bytes
    covered_octets: int


@dataclass(frozen=True, slots=True)
class Rule:
    """What one part of a message must and may hold, and whether it stands there sealed."""

    required: frozenset[Kind]
    optional: frozenset[Kind]
    pairs: frozenset[Pair]


@dataclass(slots=True)
class Part:
    """The critical extensions of one party: at most one of each kind, one payload of each pair."""

    extensions: dict[Kind, Extension]
    sa_payloads: dict[Pair, ReadSaPayload]

    def find(self, kind: Kind) -> Extension | None:
        return self.extensions.get(kind)

    def __getitem__(self, kind: Kind) -> Extension:
        return self.extensions[kind]


_MN_PAIRS: Final = frozenset({Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM})
REQUEST: Final = Rule(
    required=frozenset(
        {numbers.NAI_MN, numbers.IP_MN, numbers.NAI_FA, numbers.IP_FA, numbers.FA_KEY}
    ),
    optional=frozenset(LAYER2),
    pairs=_MN_PAIRS,
)
ACCEPTED_MN: Final = Rule(
    required=frozenset({numbers.NAI_MN, numbers.NAI_HA, numbers.SA_MN_HA, numbers.SA_MN_FA}),
    optional=frozenset({numbers.SA_MN_SMM, numbers.NEXT_SPI, numbers.IP_MN}),
    pairs=_MN_PAIRS,
)
DEREGISTERED_MN: Final = Rule(
    required=frozenset({numbers.NAI_MN, numbers.NAI_HA}),
    optional=frozenset({numbers.NEXT_SPI}),
    pairs=frozenset(),
)
DENIED_MN: Final = Rule(
    required=frozenset(),
    optional=frozenset({numbers.STATUS, numbers.NEXT_SPI}),
    pairs=_MN_PAIRS,
)
ACCEPTED_FA: Final = Rule(
    required=frozenset({numbers.NAI_MN, numbers.NAI_HA, numbers.SA_FA_HA, numbers.SA_MN_FA}),
    optional=frozenset({numbers.SA_MN_SMM, numbers.IP_MN}),
    pairs=frozenset({Pair.FA_HA}),
)


def read_realm(reader: Reader) -> Nai:
    """The 131 that comes first: `@realm`, the only identity in the clear."""
    if not reader.remaining or reader.u8() != numbers.MOBILE_NODE_NAI:
        raise Malformed("131 is not first")
    with reader.window(reader.u8()) as body:
        octets = body.rest()
    if len(octets) < 2 or octets[:1] != b"@":
        raise Malformed("131 shows a user")
    return shared_nai(octets)


def read_part(reader: Reader, vendor_id: int, rule: Rule) -> tuple[Part, Authenticator | None]:
    """Extensions up to an MHAE, which is returned, or to the end of the message."""
    part = Part({}, {})
    while reader.remaining:
        type_ = reader.u8()
        if type_ == numbers.CRITICAL_VENDOR:
            vendor_type, body = read_cvse(reader, vendor_id)
            _add(part, vendor_type, body, rule)
        elif type_ == numbers.MOBILE_HOME_AUTHENTICATION:
            return part, read_authenticator(reader)
        elif type_ == numbers.MOBILE_NODE_NAI:
            raise Malformed("extension twice")
        elif type_ == numbers.MOBILE_FOREIGN_AUTHENTICATION:
            raise Malformed("MFAE out of place")
        elif type_ >= numbers.FIRST_SKIPPABLE:
            reader.octets(reader.u8())  # RFC 5944 §1.8
        else:
            raise Malformed("unknown type")
    return part, None


def _add(part: Part, vendor_type: int, body: Reader, rule: Rule) -> None:
    if vendor_type == numbers.TYPE_SA_PAYLOAD:
        octets = body.rest()
        payload = decode_sa_payload(octets)
        pair = payload.pair
        if pair not in rule.pairs:
            raise Malformed("SA payload of a pair that has no place here")
        if pair in part.sa_payloads:
            raise Malformed("SA payload of a pair twice")
        part.sa_payloads[pair] = ReadSaPayload(octets, payload)
        return
    if vendor_type not in _VENDOR_TYPES:
        raise UnknownVendor("unknown Vendor-Type")
    extension = read_extension(body, vendor_type)
    kind = extension.kind
    fa_transcript = rule is ACCEPTED_FA and kind == numbers.TRANSCRIPT
    if kind not in rule.required and kind not in rule.optional and not fa_transcript:
        raise Malformed("extension has no place here")
    if kind in part.extensions:
        raise Malformed("extension twice")
    part.extensions[kind] = extension


_VENDOR_TYPES: Final = frozenset(
    {
        numbers.TYPE_NAI,
        numbers.TYPE_IP,
        numbers.TYPE_LAYER2,
        numbers.TYPE_SA,
        numbers.TYPE_FA_KEY,
        numbers.TYPE_NEXT_SPI,
        numbers.TYPE_STATUS,
        numbers.TYPE_TRANSCRIPT,
    }
)


def check_part(part: Part, rule: Rule, spi: int, whose: str = "") -> None:
    """All that is required, and everything sealed under `spi` (0: in the clear)."""
    for kind in rule.required:
        if kind not in part.extensions:
            raise Malformed(f"no extension {kind.type}/{kind.content_type} {whose}".rstrip())
    for kind, extension in part.extensions.items():
        if extension.spi != (0 if kind == numbers.STATUS else spi):
            raise Malformed("sealed under another SPI than the MHAE's, or clear")


def read_authenticator(reader: Reader) -> Authenticator:
    if reader.u8() != 4 + numbers.AUTHENTICATOR_OCTETS:
        raise Malformed("authentication extension length")
    spi = check_spi(reader.u32())
    covered_octets = reader.position
    return Authenticator(spi, reader.octets(numbers.AUTHENTICATOR_OCTETS), covered_octets)


def encode_realm(realm: Nai) -> bytes:
    """131 with `@realm`, as section 3 wants it first."""
    if len(realm.octets) > MAXIMUM_NAI_OCTETS or realm.user:
        raise Malformed("131 shows a user")
    return bytes((numbers.MOBILE_NODE_NAI, len(realm.octets))) + realm.octets


def encode_sa_payloads(vendor_id: int, sa_payloads: list[bytes]) -> bytes:
    """The CVSEs of SA payloads, always in the clear."""
    return b"".join(
        [encode_cvse(vendor_id, numbers.TYPE_SA_PAYLOAD, octets) for octets in sa_payloads]
    )


def encode_extensions(vendor_id: int, extensions: list[Extension]) -> bytes:
    """The CVSEs of extensions of 4.1."""
    return b"".join(
        [
            encode_cvse(vendor_id, extension.kind.type, encode_extension(extension))
            for extension in extensions
        ]
    )


def encode_authenticator_head(type_: int, spi: int) -> bytes:
    """Type, length and SPI of an MHAE or MFAE: the last octets that its HMAC covers."""
    return bytes((type_, 4 + numbers.AUTHENTICATOR_OCTETS)) + spi.to_bytes(4, "big")
