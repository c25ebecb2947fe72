"""Registration Request and Reply (RFC 5944 §3.3, §3.4; PROTOCOL section 3) as octets and values.

A message is decoded against the exact list of what may stand in it.  No key is used here: seals,
MHAE and MFAE are verified by the roles, over the ranges that these values name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from kdc.errors import ACCEPTED, Malformed, UnknownVendor
from kdc.model import MAXIMUM_NAI_OCTETS, Nai, Pair, check_spi
from kdc.wire import numbers
from kdc.wire.cursor import Reader
from kdc.wire.extensions import Extension, encode_cvse, encode_extension, read_cvse, read_extension
from kdc.wire.numbers import Kind
from kdc.wire.payloads import decode_sa_payload

_REQUEST_HEADER: Final = struct.Struct(">BBH4s4s4s8s")
_REPLY_HEADER: Final = struct.Struct(">BBH4s4s8s")
_LAYER2: Final = (numbers.LAYER2_ETHERNET, numbers.LAYER2_IMSI, numbers.LAYER2_MIN)
_UNSPECIFIED: Final = bytes(4)


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
    sa_payloads: dict[Pair, bytes]

    def find(self, kind: Kind) -> Extension | None:
        return self.extensions.get(kind)

    def __getitem__(self, kind: Kind) -> Extension:
        return self.extensions[kind]


_MN_PAIRS: Final = frozenset({Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM})
_REQUEST: Final = Rule(
    required=frozenset(
        {numbers.NAI_MN, numbers.IP_MN, numbers.NAI_FA, numbers.IP_FA, numbers.FA_KEY}
    ),
    optional=frozenset(_LAYER2),
    pairs=_MN_PAIRS,
)
_ACCEPTED_MN: Final = Rule(
    required=frozenset({numbers.NAI_MN, numbers.NAI_HA, numbers.SA_MN_HA, numbers.SA_MN_FA}),
    optional=frozenset({numbers.SA_MN_SMM, numbers.NEXT_SPI, numbers.IP_MN}),
    pairs=_MN_PAIRS,
)
_DEREGISTERED_MN: Final = Rule(
    required=frozenset({numbers.NAI_MN, numbers.NAI_HA}),
    optional=frozenset({numbers.NEXT_SPI}),
    pairs=frozenset(),
)
_DENIED_MN: Final = Rule(
    required=frozenset(),
    optional=frozenset({numbers.STATUS, numbers.NEXT_SPI}),
    pairs=_MN_PAIRS,
)
_ACCEPTED_FA: Final = Rule(
    required=frozenset({numbers.NAI_MN, numbers.NAI_HA, numbers.SA_FA_HA, numbers.SA_MN_FA}),
    optional=frozenset({numbers.SA_MN_SMM, numbers.IP_MN}),
    pairs=frozenset({Pair.FA_HA}),
)


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """A well-formed request; nothing of it is verified yet."""

    octets: bytes
    flags: int
    lifetime_s: int
    home_agent: IPv4Address
    care_of_address: IPv4Address
    identification: bytes  # 8
    realm: Nai  # "@realm"
    part: Part
    mhae: Authenticator

    @property
    def fixed_header(self) -> bytes:
        return self.octets[: numbers.REQUEST_HEADER_OCTETS]

    @property
    def layer2(self) -> Extension | None:
        return next((e for kind, e in self.part.extensions.items() if kind in _LAYER2), None)


@dataclass(frozen=True, slots=True)
class RegistrationReply:
    """A well-formed reply as its receiver gets it; nothing of it is verified yet.

    `mhae` is None only in a denial that the FA itself made.  `fa_part` stands only in what the
    FA gets, `mfae` only in what the MN gets.
    """

    octets: bytes
    code: int
    lifetime_s: int
    home_address: IPv4Address
    home_agent: IPv4Address
    identification: bytes
    realm: Nai | None
    part: Part
    mhae: Authenticator | None
    mhae_end: int
    fa_part: Part | None = None
    transcript: Extension | None = None
    transcript_start: int = 0
    mfae: Authenticator | None = None

    @property
    def fixed_header(self) -> bytes:
        return self.octets[: numbers.REPLY_HEADER_OCTETS]


# --- request --------------------------------------------------------------------------------


def encode_request_header(
    *,
    lifetime_s: int,
    home_agent: IPv4Address,
    care_of_address: IPv4Address,
    identification: bytes,
    flags: int = 0,
) -> bytes:
    """24 octets; the home address is 0.0.0.0, the real one is sealed."""
    return _REQUEST_HEADER.pack(
        numbers.REGISTRATION_REQUEST,
        flags,
        lifetime_s,
        _UNSPECIFIED,
        home_agent.packed,
        care_of_address.packed,
        identification,
    )


def decode_home_agent(octets: bytes) -> IPv4Address:
    """The Home Agent field alone, for routing before anything else is read (5.3 step 0)."""
    if len(octets) < numbers.REQUEST_HEADER_OCTETS or octets[0] != numbers.REGISTRATION_REQUEST:
        raise Malformed("fixed header")
    return IPv4Address(octets[8:12])


def decode_request(octets: bytes, vendor_id: int) -> RegistrationRequest:
    """A Registration Request as section 3 allows it; raises `Malformed` or `UnknownVendor`."""
    if len(octets) > numbers.MAXIMUM_MESSAGE_OCTETS:
        raise Malformed("overlong")
    if len(octets) < _REQUEST_HEADER.size:
        raise Malformed("fixed header")
    type_, flags, lifetime_s, home, home_agent, care_of, identification = (
        _REQUEST_HEADER.unpack_from(octets)
    )
    if type_ != numbers.REGISTRATION_REQUEST:
        raise Malformed("fixed header")
    if flags & numbers.CO_LOCATED_FLAG:
        raise Malformed("D flag")
    if home != _UNSPECIFIED:
        raise Malformed("home address is shown")
    if lifetime_s == numbers.INFINITE_LIFETIME:
        raise Malformed("infinite lifetime")
    reader = Reader(octets, _REQUEST_HEADER.size)
    realm = _read_realm(reader)
    part, mhae = _read_part(reader, vendor_id, _REQUEST)
    if mhae is None:
        raise Malformed("no MHAE")
    if reader.remaining:
        raise Malformed("data after the MHAE of a request")
    _check_part(part, _REQUEST, mhae.spi)
    if sum(kind in _LAYER2 for kind in part.extensions) > 1:
        raise Malformed("extension twice")
    return RegistrationRequest(
        octets,
        flags,
        lifetime_s,
        IPv4Address(home_agent),
        IPv4Address(care_of),
        identification,
        realm,
        part,
        mhae,
    )


# --- reply ----------------------------------------------------------------------------------


def encode_reply_header(
    *,
    code: int,
    lifetime_s: int,
    home_address: IPv4Address,
    home_agent: IPv4Address,
    identification: bytes,
) -> bytes:
    """20 octets."""
    return _REPLY_HEADER.pack(
        numbers.REGISTRATION_REPLY,
        code,
        lifetime_s,
        home_address.packed,
        home_agent.packed,
        identification,
    )


def decode_reply_for_fa(octets: bytes, vendor_id: int, *, fa_spi: int | None) -> RegistrationReply:
    """A reply as it comes in attribute 2; the FA's part is sealed under `fa_spi` (None: clear).

    Raises `Malformed` or `UnknownVendor`.
    """
    reply, reader = _read_reply(octets, vendor_id)
    if reply.mhae is None:
        raise Malformed("no MHAE")
    if reply.code != ACCEPTED or reply.lifetime_s == 0:
        if reader.remaining:
            raise Malformed("data after the MHAE")
        return reply
    start = reader.position
    part, mhae = _read_part(reader, vendor_id, _ACCEPTED_FA)
    transcript = part.extensions.pop(numbers.TRANSCRIPT, None)
    _check_part(part, _ACCEPTED_FA, fa_spi or 0, "for the FA")
    if transcript is None or mhae is not None:
        raise Malformed("no extension 12/0 for the FA")
    if transcript.spi != (fa_spi or 0):
        raise Malformed("sealed under another SPI")
    if (part.find(numbers.SA_MN_SMM) is None) != (reply.part.find(numbers.SA_MN_SMM) is None):
        raise Malformed("MN-SMM in one part only")
    if (part.find(numbers.IP_MN) is None) != (reply.part.find(numbers.IP_MN) is None):
        raise Malformed("IP(MN) in one part only")
    last = 10 + len(encode_extension(transcript))
    transcript_start = len(octets) - last
    if transcript_start < start or octets[transcript_start] != numbers.CRITICAL_VENDOR:
        raise Malformed("data after the Transcript")
    return _with_fa_part(reply, part, transcript, transcript_start)


def _with_fa_part(
    reply: RegistrationReply, part: Part, transcript: Extension, start: int
) -> RegistrationReply:
    return RegistrationReply(
        reply.octets,
        reply.code,
        reply.lifetime_s,
        reply.home_address,
        reply.home_agent,
        reply.identification,
        reply.realm,
        reply.part,
        reply.mhae,
        reply.mhae_end,
        part,
        transcript,
        start,
    )


def decode_reply_for_mn(octets: bytes, vendor_id: int) -> RegistrationReply:
    """A reply as it comes over the air: relayed by the FA, or a denial that the FA made.

    Raises `Malformed` or `UnknownVendor`.
    """
    reply, reader = _read_reply(octets, vendor_id)
    if not reader.remaining:
        return reply
    if reply.code != ACCEPTED or reply.lifetime_s == 0 or reply.mhae is None:
        raise Malformed("data after the MHAE")
    if reader.u8() != numbers.MOBILE_FOREIGN_AUTHENTICATION:
        raise Malformed("octets between MHAE and MFAE")
    mfae = _read_authenticator(reader)
    if reader.remaining:
        raise Malformed("data after the MFAE")
    return RegistrationReply(
        reply.octets,
        reply.code,
        reply.lifetime_s,
        reply.home_address,
        reply.home_agent,
        reply.identification,
        reply.realm,
        reply.part,
        reply.mhae,
        reply.mhae_end,
        mfae=mfae,
    )


def _read_reply(octets: bytes, vendor_id: int) -> tuple[RegistrationReply, Reader]:
    """Header and the MN's part, up to and including the MHAE."""
    if len(octets) > numbers.MAXIMUM_MESSAGE_OCTETS:
        raise Malformed("overlong")
    if len(octets) < _REPLY_HEADER.size:
        raise Malformed("fixed header")
    type_, code, lifetime_s, home, home_agent, identification = _REPLY_HEADER.unpack_from(octets)
    if type_ != numbers.REGISTRATION_REPLY:
        raise Malformed("fixed header")
    if lifetime_s == numbers.INFINITE_LIFETIME:
        raise Malformed("infinite lifetime")
    rule = _ACCEPTED_MN if lifetime_s else _DEREGISTERED_MN
    if code != ACCEPTED:
        rule = _DENIED_MN
        if lifetime_s or home != _UNSPECIFIED:
            raise Malformed("a denial grants")
    reader = Reader(octets, _REPLY_HEADER.size)
    made_by_fa = code != ACCEPTED and not reader.remaining
    realm = None if made_by_fa else _read_realm(reader)
    part, mhae = _read_part(reader, vendor_id, rule)
    if mhae is None and (code == ACCEPTED or part.extensions or part.sa_payloads):
        raise Malformed("no MHAE")
    _check_part(part, rule, mhae.spi if mhae else 0)
    if rule is _ACCEPTED_MN and (home == _UNSPECIFIED) == (part.find(numbers.IP_MN) is None):
        raise Malformed("the home address stands in no place or in two")
    reply = RegistrationReply(
        octets,
        code,
        lifetime_s,
        IPv4Address(home),
        IPv4Address(home_agent),
        identification,
        realm,
        part,
        mhae,
        reader.position,
    )
    return reply, reader


# --- extensions -----------------------------------------------------------------------------


def _read_realm(reader: Reader) -> Nai:
    """The 131 that comes first: `@realm`, the only identity in the clear."""
    if not reader.remaining or reader.u8() != numbers.MOBILE_NODE_NAI:
        raise Malformed("131 is not first")
    with reader.window(reader.u8()) as body:
        octets = body.rest()
    if len(octets) < 2 or octets[:1] != b"@":
        raise Malformed("131 shows a user")
    return Nai(octets)


def _read_part(reader: Reader, vendor_id: int, rule: Rule) -> tuple[Part, Authenticator | None]:
    """Extensions up to an MHAE, which is returned, or to the end of the message."""
    part = Part({}, {})
    while reader.remaining:
        type_ = reader.u8()
        if type_ == numbers.CRITICAL_VENDOR:
            vendor_type, body = read_cvse(reader, vendor_id)
            _add(part, vendor_type, body, rule)
        elif type_ == numbers.MOBILE_HOME_AUTHENTICATION:
            return part, _read_authenticator(reader)
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
        pair = decode_sa_payload(octets).pair
        if pair not in rule.pairs:
            raise Malformed("SA payload of a pair that has no place here")
        if pair in part.sa_payloads:
            raise Malformed("SA payload of a pair twice")
        part.sa_payloads[pair] = octets
        return
    if vendor_type not in _VENDOR_TYPES:
        raise UnknownVendor("unknown Vendor-Type")
    extension = read_extension(body, vendor_type)
    kind = extension.kind
    fa_transcript = rule is _ACCEPTED_FA and kind == numbers.TRANSCRIPT
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


def _check_part(part: Part, rule: Rule, spi: int, whose: str = "") -> None:
    """All that is required, and everything sealed under `spi` (0: in the clear)."""
    for kind in rule.required:
        if kind not in part.extensions:
            raise Malformed(f"no extension {kind.type}/{kind.content_type} {whose}".rstrip())
    for kind, extension in part.extensions.items():
        if extension.spi != (0 if kind == numbers.STATUS else spi):
            raise Malformed("sealed under another SPI than the MHAE's, or clear")


def _read_authenticator(reader: Reader) -> Authenticator:
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


def encode_part(vendor_id: int, sa_payloads: list[bytes], extensions: list[Extension]) -> bytes:
    """The CVSEs of one party: SA payloads, then extensions."""
    frames = [encode_cvse(vendor_id, numbers.TYPE_SA_PAYLOAD, octets) for octets in sa_payloads]
    frames += [
        encode_cvse(vendor_id, extension.kind.type, encode_extension(extension))
        for extension in extensions
    ]
    return b"".join(frames)


def encode_authenticator_head(type_: int, spi: int) -> bytes:
    """Type, length and SPI of an MHAE or MFAE: the last octets that its HMAC covers."""
    return bytes((type_, 4 + numbers.AUTHENTICATOR_OCTETS)) + spi.to_bytes(4, "big")
