"""Registration Request and Reply (RFC 5944 §3.3, §3.4; PROTOCOL section 3) as octets and values.

A message is decoded against the exact list of what may stand in it.  No key is used here: seals,
MHAE and MFAE are verified by the roles, over the ranges that these values name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from kdc.errors import ACCEPTED, Malformed
from kdc.model import Nai
from kdc.wire import numbers
from kdc.wire.cursor import Reader
from kdc.wire.extensions import Extension, encode_extension
from kdc.wire.parts import (
    ACCEPTED_FA,
    ACCEPTED_MN,
    DENIED_MN,
    DEREGISTERED_MN,
    LAYER2,
    REQUEST,
    Authenticator,
    Part,
    check_part,
    read_authenticator,
    read_part,
    read_realm,
)

_REQUEST_HEADER: Final = struct.Struct(">BBH4s4s4s8s")
_REPLY_HEADER: Final = struct.Struct(">BBH4s4s8s")
_UNSPECIFIED: Final = bytes(4)


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
    realm = read_realm(reader)
    part, mhae = read_part(reader, vendor_id, REQUEST)
    if mhae is None:
        raise Malformed("no MHAE")
    if reader.remaining:
        raise Malformed("data after the MHAE of a request")
    check_part(part, REQUEST, mhae.spi)
    if sum(kind in LAYER2 for kind in part.extensions) > 1:
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
    part, mhae = read_part(reader, vendor_id, ACCEPTED_FA)
    transcript = part.extensions.pop(numbers.TRANSCRIPT, None)
    check_part(part, ACCEPTED_FA, fa_spi or 0, "for the FA")
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
    mfae = read_authenticator(reader)
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
    rule = ACCEPTED_MN if lifetime_s else DEREGISTERED_MN
    if code != ACCEPTED:
        rule = DENIED_MN
        if lifetime_s or home != _UNSPECIFIED:
            raise Malformed("a denial grants")
    reader = Reader(octets, _REPLY_HEADER.size)
    made_by_fa = code != ACCEPTED and not reader.remaining
    realm = None if made_by_fa else read_realm(reader)
    part, mhae = read_part(reader, vendor_id, rule)
    if mhae is None and (code == ACCEPTED or part.extensions or part.sa_payloads):
        raise Malformed("no MHAE")
    check_part(part, rule, mhae.spi if mhae else 0)
    if rule is ACCEPTED_MN and (home == _UNSPECIFIED) == (part.find(numbers.IP_MN) is None):
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
