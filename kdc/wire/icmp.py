"""ICMP agent discovery: agent advertisements with our two NVSEs, and solicitations.

The layouts are those of RFC 1256 §3 and RFC 5944 §2.1, the NVSEs those of kdc.wire.advertisement.
What a mobile node does with an advertisement is not here, nor are the rules on who may send one
(TTL, source address): they concern the IP header.

A mobile node *ignores* a part and uses the rest: reserved bits and the r bit (RFC 5944 §2.4),
words beyond the second of a router address and a solicitation's reserved field and tail (RFC 1256
§5.2, §4.2), padding octets, unknown extensions 128-255 (RFC 5944 §1.8), NVSEs of another vendor,
of another type, or not well formed (PROTOCOL section 3).  It *refuses* the whole message, silently
and as `Malformed`, for anything else: also for an unknown extension 0-127 (RFC 5944 §1.8), and
for an agent that is no foreign agent or advertises no NAI or FK, with which it cannot register.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from kdc.errors import LocalError, Malformed
from kdc.wire import numbers
from kdc.wire.advertisement import FaAnnouncement, decode_announcement, encode_announcement
from kdc.wire.cursor import Reader

ROUTES_COMMON_TRAFFIC: Final = 0  # RFC 5944 §2.1: the Code field
ROUTES_MOBILE_NODES_ONLY: Final = 16
NEVER_A_DEFAULT_ROUTER: Final = -(2**31)  # RFC 1256 §4.1: the lowest preference level
MAXIMUM_MESSAGE_OCTETS: Final = 1480  # one unfragmented datagram on Ethernet
HIGHEST_SEQUENCE_NUMBER: Final = 0xFFFF
FIRST_AFTER_ROLLOVER: Final = 256  # RFC 5944 §2.3.2: 0-255 are those after a start
_HEADER: Final = struct.Struct(">BBHBBH")  # type, code, checksum, Num Addrs, entry size, lifetime
_ROUTER: Final = struct.Struct(">4si")
_AGENT: Final = struct.Struct(">HHH")  # sequence number, registration lifetime, flags
_ENTRY_WORDS: Final = 2  # RFC 1256 §3: Addr Entry Size
_MOST_CARE_OF: Final = (255 - _AGENT.size) // 4
_CHECKSUM_AT: Final = 2


class AgentFlags(enum.IntFlag):
    """The bits of RFC 5944 §2.1.1 in the order of the figure; r and the reserved ones have none."""

    REGISTRATION_REQUIRED = 0x8000  # R
    BUSY = 0x4000  # B
    HOME_AGENT = 0x2000  # H
    FOREIGN_AGENT = 0x1000  # F
    MINIMAL_ENCAPSULATION = 0x0800  # M
    GRE = 0x0400  # G
    REVERSE_TUNNELING = 0x0100  # T
    UDP_TUNNELING = 0x0080  # U
    REVOCATION = 0x0040  # X
    REGIONAL_REGISTRATION = 0x0020  # I


_KNOWN_FLAGS: Final = sum(AgentFlags)


@dataclass(frozen=True, slots=True)
class RouterAddress:
    """One router address of RFC 1256 §3; `preference` is -2**31..2**31-1."""

    address: IPv4Address
    preference: int = 0


@dataclass(frozen=True, slots=True)
class AdvertisedAgent:
    """What a foreign agent says of itself, the same in each message until its key or load changes.

    `prefix_lengths`, if given, has one for each router address.  `registration_lifetime_s` is the
    longest lifetime that the agent accepts; 0xffff: it sets no limit.
    """

    announcement: FaAnnouncement
    care_of_addresses: tuple[IPv4Address, ...]
    registration_lifetime_s: int = numbers.INFINITE_LIFETIME
    flags: AgentFlags = AgentFlags.FOREIGN_AGENT
    router_addresses: tuple[RouterAddress, ...] = ()
    prefix_lengths: tuple[int, ...] | None = None
    code: int = ROUTES_MOBILE_NODES_ONLY


@dataclass(frozen=True, slots=True)
class AgentAdvertisement:
    """One message; `lifetime_s` is how long it is valid, 0 where the agent ends."""

    agent: AdvertisedAgent
    sequence_number: int
    lifetime_s: int


def checksum(octets: bytes) -> int:
    """RFC 792: the one's complement of the one's complement sum; 0 over a message that has it."""
    padded = octets + b"\0" * (len(octets) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def next_sequence_number(number: int) -> int:
    """RFC 5944 §2.3.2: 0xffff is followed by 256."""
    return FIRST_AFTER_ROLLOVER if number == HIGHEST_SEQUENCE_NUMBER else number + 1


def tells_restart(before: int, after: int) -> bool:
    """RFC 5944 §2.4.4: whether two sequence numbers heard in turn say that the agent restarted."""
    return after < before and after < FIRST_AFTER_ROLLOVER


# --- agent advertisement --------------------------------------------------------------------


def encode_agent_advertisement(message: AgentAdvertisement, vendor_id: int) -> bytes:
    """The ICMP message with its checksum, of even length.

    Raises `LocalError` for what RFC 5944 §2.1.1 forbids to send, or what one datagram cannot hold.
    """
    agent = message.agent
    _check_own(agent)
    body = b"".join(
        (
            *(
                _ROUTER.pack(item.address.packed, item.preference)
                for item in agent.router_addresses
            ),
            _encode_mobility_agent(message),
            _encode_prefix_lengths(agent),
            encode_announcement(agent.announcement, vendor_id),
        )
    )
    body += bytes((numbers.PADDING,)) * (len(body) % 2)
    head = _HEADER.pack(
        numbers.ROUTER_ADVERTISEMENT,
        agent.code,
        0,
        len(agent.router_addresses),
        _ENTRY_WORDS,
        message.lifetime_s,
    )
    if len(head) + len(body) > MAXIMUM_MESSAGE_OCTETS:
        raise LocalError("an agent advertisement longer than one datagram")
    return _with_checksum(head + body)


def decode_agent_advertisement(octets: bytes, vendor_id: int) -> AgentAdvertisement:
    """Raises `Malformed`; the head of this module says for what."""
    _check_message(octets, numbers.ROUTER_ADVERTISEMENT)
    reader = Reader(octets)
    _, code, _, router_count, entry_words, lifetime_s = _HEADER.unpack(reader.octets(_HEADER.size))
    if code not in (ROUTES_COMMON_TRAFFIC, ROUTES_MOBILE_NODES_ONLY):
        raise Malformed("code of an agent advertisement")
    if entry_words < _ENTRY_WORDS:
        raise Malformed("Addr Entry Size")
    routers = tuple(_read_router(reader, entry_words) for _ in range(router_count))
    single: dict[int, bytes] = {}
    nvses: list[bytes] = []
    for type_, value in _read_extensions(reader):
        if type_ == numbers.NORMAL_VENDOR:
            nvses.append(bytes((type_, len(value))) + value)
        elif type_ in (numbers.MOBILITY_AGENT, numbers.PREFIX_LENGTHS):
            if type_ in single:
                raise Malformed("extension twice")
            single[type_] = value
        elif type_ < numbers.FIRST_SKIPPABLE:
            raise Malformed("unknown extension 0-127")
    if numbers.MOBILITY_AGENT not in single:
        raise Malformed("no mobility agent extension")
    sequence, registration_s, flags, care_of = _decode_mobility_agent(
        single[numbers.MOBILITY_AGENT]
    )
    agent = AdvertisedAgent(
        decode_announcement(b"".join(nvses), vendor_id),
        care_of,
        registration_s,
        flags,
        routers,
        _decode_prefix_lengths(single.get(numbers.PREFIX_LENGTHS), router_count),
        code,
    )
    return AgentAdvertisement(agent, sequence, lifetime_s)


def _read_router(reader: Reader, entry_words: int) -> RouterAddress:
    with reader.window(4 * entry_words) as entry:
        packed, preference = _ROUTER.unpack(entry.octets(_ROUTER.size))
        entry.rest()
    return RouterAddress(_check_host(IPv4Address(packed)), preference)


def _read_extensions(reader: Reader) -> Iterator[tuple[int, bytes]]:
    """Type and value of each extension but padding, to the end of the message (RFC 5944 §1.8)."""
    while reader.remaining:
        type_ = reader.u8()
        if type_ != numbers.PADDING:
            yield type_, reader.octets(reader.u8())


def _encode_mobility_agent(message: AgentAdvertisement) -> bytes:
    agent = message.agent
    care_of = b"".join(address.packed for address in agent.care_of_addresses)
    value = _AGENT.pack(message.sequence_number, agent.registration_lifetime_s, agent.flags)
    return bytes((numbers.MOBILITY_AGENT, len(value) + len(care_of))) + value + care_of


def _decode_mobility_agent(value: bytes) -> tuple[int, int, AgentFlags, tuple[IPv4Address, ...]]:
    """Sequence number, registration lifetime, flags, care-of addresses of RFC 5944 §2.1.1."""
    if len(value) < _AGENT.size or (len(value) - _AGENT.size) % 4:
        raise Malformed("length of the mobility agent extension")
    reader = Reader(value)
    sequence, registration_s, bits = _AGENT.unpack(reader.octets(_AGENT.size))
    flags = AgentFlags(bits & _KNOWN_FLAGS)
    if AgentFlags.FOREIGN_AGENT not in flags:
        raise Malformed("no foreign agent")
    care_of = tuple(
        _check_host(IPv4Address(reader.octets(4))) for _ in range(reader.remaining // 4)
    )
    if not care_of:
        raise Malformed("no care-of address")
    return sequence, registration_s, flags, care_of


def _encode_prefix_lengths(agent: AdvertisedAgent) -> bytes:
    if agent.prefix_lengths is None:
        return b""
    return bytes((numbers.PREFIX_LENGTHS, len(agent.prefix_lengths), *agent.prefix_lengths))


def _decode_prefix_lengths(value: bytes | None, router_count: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    if len(value) != router_count:  # RFC 5944 §2.1.2: the Length is Num Addrs
        raise Malformed("number of prefix lengths")
    if any(length > 32 for length in value):
        raise Malformed("prefix length")
    return tuple(value)


# --- agent solicitation ---------------------------------------------------------------------


def encode_solicitation() -> bytes:
    """RFC 1256 §3: type 10, code 0, four reserved octets."""
    return _with_checksum(bytes((numbers.ROUTER_SOLICITATION,)) + bytes(7))


def check_solicitation(octets: bytes) -> None:
    """RFC 1256 §4.2; raises `Malformed`.  A valid one says nothing but that it is one."""
    _check_message(octets, numbers.ROUTER_SOLICITATION)
    if octets[1]:
        raise Malformed("code of a solicitation")


# --- what both have -------------------------------------------------------------------------


def _with_checksum(octets: bytes) -> bytes:
    return (
        octets[:_CHECKSUM_AT]
        + checksum(octets).to_bytes(2, "big")
        + octets[_CHECKSUM_AT + 2 :]
    )  # fmt: skip


def _check_message(octets: bytes, type_: int) -> None:
    if len(octets) < _HEADER.size:
        raise Malformed("ICMP message shorter than eight octets")
    if octets[0] != type_:
        raise Malformed("ICMP type")
    if checksum(octets):
        raise Malformed("ICMP checksum")


def _check_host(address: IPv4Address) -> IPv4Address:
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        raise Malformed("address of no host")
    return address


def _check_own(agent: AdvertisedAgent) -> None:
    if AgentFlags.FOREIGN_AGENT not in agent.flags:
        raise LocalError("what is advertised is a foreign agent")
    if not 1 <= len(agent.care_of_addresses) <= _MOST_CARE_OF:
        raise LocalError(f"a foreign agent advertises 1 to {_MOST_CARE_OF} care-of addresses")
    if agent.prefix_lengths is not None and len(agent.prefix_lengths) != len(
        agent.router_addresses
    ):
        raise LocalError("one prefix length for each router address")
