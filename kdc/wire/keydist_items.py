"""The items of the KDC hop: how records, terms and outcomes stand in it as octets.

Reader and writer of an item stand beside each other; which message holds which item is
kdc.wire.keydist's affair.
"""

from __future__ import annotations

import enum
import itertools
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, TypeVar

from kdc.errors import LocalError, Malformed
from kdc.model import (
    ExchangeKeys,
    HomeAddressKind,
    Identification,
    Mode,
    Nai,
    Pair,
    Secret,
    Suite,
)
from kdc.records import Carrier, Denied, Record, Terms, Ticket, WrappingKey
from kdc.wire.cursor import Reader

_MICROSECONDS: Final = 1_000_000  # clocks go as whole microseconds
_GREATEST_TIME: Final = 2**53 - 1  # microseconds: all that a float holds exactly
_IDENTIFICATION: Final = struct.Struct(">QI")
_RECORD: Final = struct.Struct(">QQBBBB4s")
_TERMS: Final = struct.Struct(">BBBBBI")
_RUN: Final = struct.Struct(">QH")
_DENIED: Final = struct.Struct(">BBQB")
_TICKET: Final = struct.Struct(">Q8s32s32s")
_KINDS: Final = tuple(HomeAddressKind)
_SEAL_OCTETS: Final = 64
_MAC_OCTETS: Final = 32
_W_OCTETS: Final = 64
Value = TypeVar("Value")


class Item(enum.IntEnum):
    """Vendor-Types of this hop alone."""

    REGISTRATION = 32  # a registration request, whole
    STATE = 33  # which record at which revision, under which SPI, and the ticket for it
    RECORD = 34
    EXCHANGE_KEYS = 35
    JUDGED = 36  # what a grant was judged to be
    TERMS = 37  # of one SA
    FA_PUBLIC_KEY = 38
    OPERATOR = 39  # its realm, verified
    REALM = 40  # the home's
    DENIED = 41
    SPIS = 42  # the list of unspent ones
    IDENTITY = 43  # Chargeable-User-Identity
    ISSUED = 44
    WRAPPING_KEY = 45
    ANSWERED = 46  # one SA's carrier, keys and answered payload
    FATE = 47
    FA_REALM = 48  # verified
    TICKET = 49


# --- parts of items -------------------------------------------------------------------------


def _short(octets: bytes) -> bytes:
    return bytes((len(octets),)) + octets


def _long(octets: bytes) -> bytes:
    return len(octets).to_bytes(2, "big") + octets


def _write_optional(value: Value | None, write: Callable[[Value], bytes]) -> bytes:
    return b"\0" if value is None else b"\1" + write(value)


def _read_optional(reader: Reader, read: Callable[[Reader], Value]) -> Value | None:
    return read(reader) if _read_flag(reader) else None


def _read_flag(reader: Reader) -> bool:
    return _as_flag(reader.u8())


def _as_flag(octet: int) -> bool:
    if octet > 1:
        raise Malformed("flag")
    return bool(octet)


def _write_u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _write_clock(seconds: float) -> bytes:
    """What ends later than the greatest time ends then: in the year 2255."""
    return min(round(seconds * _MICROSECONDS), _GREATEST_TIME).to_bytes(8, "big")


def _read_clock(reader: Reader) -> float:
    microseconds = int.from_bytes(reader.octets(8), "big")
    if microseconds > _GREATEST_TIME:
        raise Malformed("time")
    return microseconds / _MICROSECONDS


def _write_address(address: IPv4Address) -> bytes:
    return address.packed


def _read_address(reader: Reader) -> IPv4Address:
    return IPv4Address(reader.octets(4))


def _write_identification(value: Identification) -> bytes:
    return _IDENTIFICATION.pack(value.second, value.low)


def _read_identification(reader: Reader) -> Identification:
    return Identification(*_IDENTIFICATION.unpack(reader.octets(_IDENTIFICATION.size)))


def _write_list(values: Iterable[Value], write: Callable[[Value], bytes]) -> bytes:
    """Raises `LocalError` for more than 255."""
    written = [write(value) for value in values]
    if len(written) > 255:
        raise LocalError("a list that does not fit its count")
    return bytes((len(written),)) + b"".join(written)


def _read_list(reader: Reader, read: Callable[[Reader], Value]) -> tuple[Value, ...]:
    return tuple(read(reader) for _ in range(reader.u8()))


def _write_times(accepted_at: tuple[int, ...]) -> bytes:
    """Whole seconds, each with how often: a rate of thousands a minute has sixty of them."""
    runs = [(second, len(list(run))) for second, run in itertools.groupby(accepted_at)]
    return _write_list(runs, lambda run: _RUN.pack(*run))


def _read_times(reader: Reader) -> tuple[int, ...]:
    runs = _read_list(reader, lambda r: _RUN.unpack(r.octets(_RUN.size)))
    return tuple(second for second, count in runs for _ in range(count))


def _read_suite(reader: Reader) -> Suite:
    return Suite(reader.u8(), reader.u8())


def _write_suite(suite: Suite) -> bytes:
    return bytes((suite.protocol_id, suite.transform_id))


def _read_enum(kind: Callable[[int], Value], number: int) -> Value:
    try:
        return kind(number)
    except ValueError:
        raise Malformed("a number that names nothing") from None


# --- items ----------------------------------------------------------------------------------


def write_ticket(ticket: Ticket) -> bytes:
    return _TICKET.pack(
        ticket.admitted_at, ticket.identification, ticket.request_digest, ticket.mac
    )


def read_ticket(reader: Reader) -> Ticket:
    return Ticket(*_TICKET.unpack(reader.octets(_TICKET.size)))


@dataclass(frozen=True, slots=True)
class State:
    """The record that a decision is of, the revision that it was judged at, and the ticket."""

    spi: int
    revision: int
    ticket: Ticket


def write_state(state: State) -> bytes:
    return b"".join(
        (
            _write_u32(state.spi),
            state.revision.to_bytes(8, "big"),
            write_ticket(state.ticket),
        )
    )


def read_state(reader: Reader) -> State:
    spi, revision = reader.u32(), int.from_bytes(reader.octets(8), "big")
    return State(spi, revision, read_ticket(reader))


def write_record(record: Record) -> bytes:
    """All but the names, which go as NAI extensions."""
    head = _RECORD.pack(
        record.record_id,
        record.revision,
        _KINDS.index(record.home_address_kind),
        record.static_spi,
        record.rounds,
        record.active,
        record.home_agent.packed,
    )
    roam = None if record.roam is None else sorted(record.roam)
    return b"".join(
        (
            head,
            _write_optional(record.expires_at, _write_clock),
            _write_optional(record.home_address, _write_address),
            _write_optional(
                roam, lambda realms: _write_list(realms, lambda realm: _short(realm.encode()))
            ),
            _write_list(record.unspent, _write_u32),
            _write_optional(record.last_spent, _write_u32),
            _write_optional(record.last_seen, _write_identification),
            _write_times(record.accepted_at),
            _write_optional(record.last_digest, _short),
            _write_optional(record.current_home_address, _write_address),
            _write_optional(record.registered_until, _write_clock),
        )
    )


def read_record(reader: Reader, nai: Nai, current_fa: Nai | None) -> Record:
    record_id, revision, kind, static_spi, rounds, active, home_agent = _RECORD.unpack(
        reader.octets(_RECORD.size)
    )
    if kind >= len(_KINDS):
        raise Malformed("home address kind")
    expires_at = _read_optional(reader, _read_clock)
    home_address = _read_optional(reader, _read_address)
    roam = _read_optional(reader, lambda r: frozenset(_read_list(r, _read_realm)))
    unspent = _read_list(reader, Reader.u32)
    last_spent = _read_optional(reader, Reader.u32)
    last_seen = _read_optional(reader, _read_identification)
    accepted_at = _read_times(reader)
    last_digest = _read_optional(reader, lambda r: r.octets(r.u8()))
    return Record(
        record_id=record_id,
        nai=nai,
        active=_as_flag(active),
        expires_at=expires_at,
        static_spi=_as_flag(static_spi),
        home_agent=IPv4Address(home_agent),
        home_address_kind=_KINDS[kind],
        home_address=home_address,
        roam=roam,
        unspent=unspent,
        last_spent=last_spent,
        last_seen=last_seen,
        rounds=rounds,
        accepted_at=accepted_at,
        last_digest=last_digest,
        current_fa=current_fa,
        current_home_address=_read_optional(reader, _read_address),
        registered_until=_read_optional(reader, _read_clock),
        revision=revision,
    )


def _read_realm(reader: Reader) -> str:
    return decode_realm(reader.octets(reader.u8()))


def decode_realm(octets: bytes) -> str:
    try:
        return octets.decode("ascii")
    except UnicodeDecodeError:
        raise Malformed("realm") from None


def write_exchange_keys(keys: ExchangeKeys, clock: float) -> bytes:
    """K(use, SPI) for uses 1 to 4, behind the database's clock."""
    parts = (keys.seal_request, keys.seal_reply, keys.authenticate_request, keys.authenticate_reply)
    return _write_clock(clock) + b"".join(part.reveal() for part in parts)


def read_exchange_keys(reader: Reader) -> tuple[ExchangeKeys, float]:
    clock = _read_clock(reader)
    lengths = (_SEAL_OCTETS, _SEAL_OCTETS, _MAC_OCTETS, _MAC_OCTETS)
    return ExchangeKeys(*(Secret(reader.octets(length)) for length in lengths)), clock


@dataclass(frozen=True, slots=True)
class Judged:
    """What a home agent has found of a request that it grants."""

    identification: Identification
    lifetime_s: int
    care_of_address: IPv4Address
    digest: bytes  # 32


def write_judged(judged: Judged) -> bytes:
    return b"".join(
        (
            _write_identification(judged.identification),
            judged.lifetime_s.to_bytes(2, "big"),
            judged.care_of_address.packed,
            judged.digest,
        )
    )


def read_judged(reader: Reader) -> Judged:
    identification, lifetime_s = _read_identification(reader), reader.u16()
    return Judged(identification, lifetime_s, _read_address(reader), reader.octets(32))


def write_terms(terms: Terms) -> bytes:
    head = _TERMS.pack(
        terms.pair,
        terms.mode,
        terms.derivation,
        terms.carrier,
        len(terms.suites),
        terms.lifetime_s,
    )
    suites = b"".join(map(_write_suite, terms.suites))
    z = _write_optional(terms.z, lambda secret: _long(secret.reveal()))
    return head + suites + _long(terms.offered) + _long(terms.answered) + z


def read_terms(reader: Reader) -> Terms:
    pair, mode, derivation, carrier, count, lifetime_s = _TERMS.unpack(reader.octets(_TERMS.size))
    suites = tuple(_read_suite(reader) for _ in range(count))
    offered, answered = reader.octets(reader.u16()), reader.octets(reader.u16())
    return Terms(
        pair=_read_enum(Pair, pair),
        mode=_read_enum(Mode, mode),
        derivation=derivation,
        suites=suites,
        lifetime_s=lifetime_s,
        offered=offered,
        answered=answered,
        carrier=_read_enum(Carrier, carrier),
        z=_read_optional(reader, lambda r: Secret(r.octets(r.u16()))),
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A denial, and what it leaves in the record."""

    denied: Denied
    digest: bytes | None
    last_seen: Identification | None
    rounds: int


def write_refusal(refusal: Refusal) -> bytes:
    denied = refusal.denied
    return b"".join(
        (
            _DENIED.pack(denied.code, denied.challenge, denied.at, refusal.rounds),
            _write_optional(refusal.digest, _short),
            _write_optional(refusal.last_seen, _write_identification),
            _short(denied.state),
            _long(denied.counter_proposal),
            _write_optional(denied.pair, lambda pair: bytes((pair,))),
        )
    )


def read_refusal(reader: Reader) -> Refusal:
    code, challenge, at, rounds = _DENIED.unpack(reader.octets(_DENIED.size))
    digest = _read_optional(reader, lambda r: r.octets(r.u8()))
    last_seen = _read_optional(reader, _read_identification)
    state, counter_proposal = reader.octets(reader.u8()), reader.octets(reader.u16())
    pair = _read_optional(reader, lambda r: _read_enum(Pair, r.u8()))
    denied = Denied(code, _as_flag(challenge), at, counter_proposal, state, pair)
    return Refusal(denied, digest, last_seen, rounds)


def write_spis(spis: tuple[int, ...]) -> bytes:
    return _write_list(spis, _write_u32)


def read_spis(reader: Reader) -> tuple[int, ...]:
    return _read_list(reader, Reader.u32)


@dataclass(frozen=True, slots=True)
class IssuedHead:
    """An outcome with code 0, less its SAs."""

    alias: bytes  # 8
    class_id: bytes  # 8
    lifetime_s: int
    home_address: IPv4Address


def write_issued(head: IssuedHead) -> bytes:
    lifetime = head.lifetime_s.to_bytes(2, "big")
    return head.alias + head.class_id + lifetime + head.home_address.packed


def read_issued(reader: Reader) -> IssuedHead:
    alias, class_id, lifetime_s = reader.octets(8), reader.octets(8), reader.u16()
    return IssuedHead(alias, class_id, lifetime_s, _read_address(reader))


def write_wrapping_key(key: WrappingKey) -> bytes:
    return key.w.reveal() + key.wrapped


def read_wrapping_key(reader: Reader) -> WrappingKey:
    return WrappingKey(Secret(reader.octets(_W_OCTETS)), reader.rest())


@dataclass(frozen=True, slots=True)
class Answered:
    """What stands beside an SA-INFO in an outcome."""

    pair: Pair
    carrier: Carrier
    keys: Secret | None
    payload: bytes


def write_answered(answered: Answered) -> bytes:
    keys = _write_optional(answered.keys, lambda secret: _long(secret.reveal()))
    return bytes((answered.pair, answered.carrier)) + keys + answered.payload


def read_answered(reader: Reader) -> Answered:
    pair, carrier = _read_enum(Pair, reader.u8()), _read_enum(Carrier, reader.u8())
    keys = _read_optional(reader, lambda r: Secret(r.octets(r.u16())))
    return Answered(pair, carrier, keys, reader.rest())
