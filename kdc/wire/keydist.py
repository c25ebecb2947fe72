"""Roamkey-Key-Request and -Reply between a home agent and its KDC (attributes 7 and 8, section 9).

Every message is a head of four octets and a row of CVSEs: the extensions of 4.1 as they stand in
registrations, and items of types 32 and above, which only this hop knows.  Nothing here is sealed:
the hop is TLS, and these octets are never sent over anything else.  What the items hold is read and
written in kdc.wire.keydist_items.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final

from kdc.errors import Malformed
from kdc.model import IpAddress, Nai
from kdc.records import Admission, Denied, Fate, Issued, IssuedAssociation, Settled, Terms
from kdc.wire import keydist_items as items
from kdc.wire import numbers
from kdc.wire.association import KIND_OF_PAIR, decode_sa_info, encode_sa_info, sa_info_of
from kdc.wire.cursor import Reader
from kdc.wire.extensions import (
    Extension,
    decode_ip,
    encode_cvse,
    encode_extension,
    read_cvse,
    read_extension,
)
from kdc.wire.keydist_items import Item
from kdc.wire.numbers import Kind

VERSION: Final = 1
_HEAD: Final = struct.Struct(">BBH")


class Message(enum.IntEnum):
    """The second octet of the head."""

    ADMIT = 1  # request: a registration request as it came
    GRANT = 2  # request: terms to make keys for
    DENY = 3  # request: a denial to keep
    REPEAT = 4  # request: the outcome of a duplicate
    ADMITTED = 17  # reply: record, K(use, SPI), and the ticket to settle with
    NOT_ADMITTED = 18  # reply: whatever the cause
    SETTLED = 19  # reply: what has been committed
    UNSETTLED = 20  # reply: one octet of fate


@dataclass(frozen=True, slots=True)
class AdmitRequest:
    """Verify this registration request, and lend what it is judged with."""

    registration: bytes


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """A `GrantDecision` without the record, which the KDC has."""

    state: items.State
    judged: items.Judged
    fa_nai: Nai
    nas_address: IpAddress
    home_agent_nai: Nai
    realm: str
    operator_realm: str | None
    fa_public_key: bytes | None
    terms: tuple[Terms, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DenyRequest:
    """A `DenyDecision` without the record."""

    state: items.State
    refusal: items.Refusal


@dataclass(frozen=True, slots=True)
class RepeatRequest:
    """A `RepeatDecision` without the record."""

    state: items.State
    fa_realm: str


KeyRequest = AdmitRequest | GrantRequest | DenyRequest | RepeatRequest


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """No such SPI, no right MHAE, or not this home agent's: one outcome."""


KeyReply = Admission | NotAdmitted | Settled | Fate


# --- requests -------------------------------------------------------------------------------


def encode_key_request_message(request: KeyRequest, vendor_id: int) -> bytes:
    """Attribute 7, joined."""
    w = _Writer(vendor_id)
    match request:
        case AdmitRequest():
            w.item(Item.REGISTRATION, request.registration)
            return w.message(Message.ADMIT)
        case GrantRequest():
            _write_grant(w, request)
            return w.message(Message.GRANT)
        case DenyRequest():
            w.item(Item.STATE, items.write_state(request.state))
            w.item(Item.DENIED, items.write_refusal(request.refusal))
            return w.message(Message.DENY)
        case RepeatRequest():
            w.item(Item.STATE, items.write_state(request.state))
            w.item(Item.FA_REALM, request.fa_realm.encode())
            return w.message(Message.REPEAT)


def decode_key_request_message(octets: bytes, vendor_id: int) -> KeyRequest:
    """Raises `Malformed` or `UnknownVendor`."""
    r = _Row(octets, vendor_id)
    match r.message:
        case Message.ADMIT:
            request: KeyRequest = AdmitRequest(r.take(Item.REGISTRATION).rest())
        case Message.GRANT:
            request = _read_grant(r)
        case Message.DENY:
            state = items.read_state(r.take(Item.STATE))
            request = DenyRequest(state, items.read_refusal(r.take(Item.DENIED)))
        case Message.REPEAT:
            state = items.read_state(r.take(Item.STATE))
            request = RepeatRequest(state, items.decode_realm(r.take(Item.FA_REALM).rest()))
        case _:
            raise Malformed("not a request")
    r.finish()
    return request


def _write_grant(w: _Writer, request: GrantRequest) -> None:
    w.item(Item.STATE, items.write_state(request.state))
    w.item(Item.JUDGED, items.write_judged(request.judged))
    w.extension(numbers.NAI_FA, request.fa_nai.octets)
    w.extension(numbers.IP_FA, request.nas_address.packed)
    w.extension(numbers.NAI_HA, request.home_agent_nai.octets)
    w.item(Item.REALM, request.realm.encode())
    if request.operator_realm is not None:
        w.item(Item.OPERATOR, request.operator_realm.encode())
    if request.fa_public_key is not None:
        w.item(Item.FA_PUBLIC_KEY, request.fa_public_key)
    for terms in request.terms:
        w.item(Item.TERMS, items.write_terms(terms))


def _read_grant(r: _Row) -> GrantRequest:
    fa_public_key = r.find(Item.FA_PUBLIC_KEY)
    return GrantRequest(
        state=items.read_state(r.take(Item.STATE)),
        judged=items.read_judged(r.take(Item.JUDGED)),
        fa_nai=Nai(r.info(numbers.NAI_FA)),
        nas_address=decode_ip(r.info(numbers.IP_FA)),
        home_agent_nai=Nai(r.info(numbers.NAI_HA)),
        realm=items.decode_realm(r.take(Item.REALM).rest()),
        operator_realm=r.operator_realm(),
        fa_public_key=fa_public_key.rest() if fa_public_key is not None else None,
        terms=tuple(items.read_terms(reader) for reader in r.take_all(Item.TERMS)),
    )


# --- replies --------------------------------------------------------------------------------


def encode_key_reply_message(reply: KeyReply, vendor_id: int) -> bytes:
    """Attribute 8, joined.  An admission must have a record."""
    w = _Writer(vendor_id)
    match reply:
        case Admission(record=record) if record is not None:
            w.extension(numbers.NAI_MN, record.nai.octets)
            if record.current_fa is not None:
                w.extension(numbers.NAI_FA, record.current_fa.octets)
            w.item(Item.RECORD, items.write_record(record))
            w.item(Item.EXCHANGE_KEYS, items.write_exchange_keys(reply.keys, reply.clock))
            w.item(Item.TICKET, items.write_ticket(reply.ticket))
            return w.message(Message.ADMITTED)
        case Settled():
            _write_settled(w, reply)
            return w.message(Message.SETTLED)
        case Fate():
            w.item(Item.FATE, bytes((_FATES.index(reply),)))
            return w.message(Message.UNSETTLED)
        case _:
            return w.message(Message.NOT_ADMITTED)


def decode_key_reply_message(octets: bytes, vendor_id: int) -> KeyReply:
    """Raises `Malformed` or `UnknownVendor`."""
    r = _Row(octets, vendor_id)
    match r.message:
        case Message.ADMITTED:
            reply: KeyReply = _read_admission(r)
        case Message.NOT_ADMITTED:
            reply = NotAdmitted()
        case Message.SETTLED:
            reply = _read_settled(r)
        case Message.UNSETTLED:
            number = r.take(Item.FATE).u8()
            if number >= len(_FATES):
                raise Malformed("fate")
            reply = _FATES[number]
        case _:
            raise Malformed("not a reply")
    r.finish()
    return reply


def _read_admission(r: _Row) -> Admission:
    nai, current_fa = Nai(r.info(numbers.NAI_MN)), r.find_info(numbers.NAI_FA)
    record = items.read_record(
        r.take(Item.RECORD), nai, Nai(current_fa) if current_fa is not None else None
    )
    keys, clock = items.read_exchange_keys(r.take(Item.EXCHANGE_KEYS))
    return Admission(record, keys, clock, ticket=items.read_ticket(r.take(Item.TICKET)))


def _write_settled(w: _Writer, settled: Settled) -> None:
    w.item(Item.SPIS, items.write_spis(settled.unspent))
    outcome = settled.outcome
    if isinstance(outcome, Denied):
        w.item(Item.DENIED, items.write_refusal(items.Refusal(outcome, None, None, 0)))
        return
    w.item(Item.IDENTITY, settled.chargeable_user_identity)
    head = items.IssuedHead(
        outcome.alias, outcome.class_id, outcome.lifetime_s, outcome.home_address
    )
    w.item(Item.ISSUED, items.write_issued(head))
    if outcome.wrapping_key is not None:
        w.item(Item.WRAPPING_KEY, items.write_wrapping_key(outcome.wrapping_key))
    for item in outcome.associations:
        w.extension(KIND_OF_PAIR[item.pair], encode_sa_info(sa_info_of(item)))
        answered = items.Answered(item.pair, item.carrier, item.keys, item.answered)
        w.item(Item.ANSWERED, items.write_answered(answered))


def _read_settled(r: _Row) -> Settled:
    unspent = items.read_spis(r.take(Item.SPIS))
    denied = r.find(Item.DENIED)
    if denied is not None:
        return Settled(items.read_refusal(denied).denied, unspent)
    identity = r.take(Item.IDENTITY).rest()
    head = items.read_issued(r.take(Item.ISSUED))
    wrapping = r.find(Item.WRAPPING_KEY)
    associations = []
    for reader in r.take_all(Item.ANSWERED):
        answered = items.read_answered(reader)
        info = decode_sa_info(r.info(KIND_OF_PAIR[answered.pair]), answered.pair)
        associations.append(
            IssuedAssociation(
                pair=answered.pair,
                spi=info.spi,
                key_name=info.key_name,
                lifetime_s=info.lifetime_s,
                mode=info.mode,
                derivation=info.derivation,
                suites=info.suites,
                secret=info.secret,
                answered=answered.payload,
                carrier=answered.carrier,
                keys=answered.keys,
            )
        )
    issued = Issued(
        head.alias,
        head.class_id,
        head.lifetime_s,
        head.home_address,
        tuple(associations),
        items.read_wrapping_key(wrapping) if wrapping is not None else None,
        seed=None,  # R never leaves the KDC (PROTOCOL 7.1)
    )
    return Settled(issued, unspent, identity)


# --- rows of CVSEs --------------------------------------------------------------------------


class _Writer:
    """One message being written."""

    def __init__(self, vendor_id: int) -> None:
        self._vendor_id = vendor_id
        self._parts: list[bytes] = []

    def item(self, item: Item, value: bytes) -> None:
        self._parts.append(encode_cvse(self._vendor_id, item, value))

    def extension(self, kind: Kind, info: bytes) -> None:
        value = encode_extension(Extension(kind, 0, info))
        self._parts.append(encode_cvse(self._vendor_id, kind.type, value))

    def message(self, message: Message) -> bytes:
        return _HEAD.pack(VERSION, message, 0) + b"".join(self._parts)


class _Row:
    """One message being read: everything in it must be taken, and once."""

    def __init__(self, octets: bytes, vendor_id: int) -> None:
        reader = Reader(octets)
        version, message, reserved = _HEAD.unpack(reader.octets(_HEAD.size))
        if version != VERSION or reserved:
            raise Malformed("another version of the KDC hop")
        try:
            self.message = Message(message)
        except ValueError:
            raise Malformed("unknown message") from None
        self._items: dict[int, list[Reader]] = {}
        self._infos: dict[Kind, bytes] = {}
        self._taken: list[Reader] = []
        while reader.remaining:
            if reader.u8() != numbers.CRITICAL_VENDOR:
                raise Malformed("not a CVSE")
            self._add(*read_cvse(reader, vendor_id))

    def _add(self, vendor_type: int, body: Reader) -> None:
        if vendor_type in _ITEMS:
            self._items.setdefault(vendor_type, []).append(body)
            return
        extension = read_extension(body, vendor_type)
        if extension.sealed or extension.kind in self._infos:
            raise Malformed("extension sealed or twice")
        self._infos[extension.kind] = extension.info

    def take_all(self, item: Item) -> list[Reader]:
        readers = self._items.pop(item, [])
        self._taken += readers
        return readers

    def find(self, item: Item) -> Reader | None:
        readers = self.take_all(item)
        if len(readers) > 1:
            raise Malformed("item twice")
        return readers[0] if readers else None

    def take(self, item: Item) -> Reader:
        reader = self.find(item)
        if reader is None:
            raise Malformed("item missing")
        return reader

    def find_info(self, kind: Kind) -> bytes | None:
        return self._infos.pop(kind, None)

    def info(self, kind: Kind) -> bytes:
        info = self.find_info(kind)
        if info is None:
            raise Malformed("extension missing")
        return info

    def operator_realm(self) -> str | None:
        reader = self.find(Item.OPERATOR)
        return items.decode_realm(reader.rest()) if reader is not None else None

    def finish(self) -> None:
        """Nothing is left over, in the row or in an item."""
        if self._items or self._infos:
            raise Malformed("an item or extension that has no place here")
        for reader in self._taken:
            reader.finish()


_ITEMS: Final = frozenset(Item)
_FATES: Final = (Fate.CONFLICT, Fate.UNAVAILABLE, Fate.REFUSED, Fate.UNKNOWN)
