"""What is evidence: registrations, other settled requests, administrative acts, as octets.

No item has a subscriber's NAI: a subscriber is a record's number or an internal name, which
`kdc audit who` resolves.  The time of an item is that of its entry.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from kdc.model import IpAddress
from kdc.records import NewRegistration, RecordChange

_REGISTRATION: Final = b"roamkey audit registration v1"
_EVENT: Final = b"roamkey audit event v1"
_ACT: Final = b"roamkey audit act v1"
_ABSENT: Final = b"\xff\xff\xff\xff"
_INET: Final = {4: b"\x02\x20\x00\x04", 6: b"\x03\x80\x00\x10"}  # as inet_send of PostgreSQL


class EventKind(enum.IntEnum):
    """What was settled without a registration; 0 is a change that tells nothing of itself."""

    OTHER = 0
    DENIAL = 1
    DEREGISTRATION = 2


class RegistrationItem(NamedTuple):
    """A row of `registrations`; addresses as family, bits, flag, length and octets."""

    record_id: int
    class_id: bytes
    second: int
    low: int
    fa_nai: str
    nas_address: bytes
    operator_realm: str | None
    care_of_address: bytes
    home_address: bytes
    alias: bytes
    lifetime_s: int
    spis: Sequence[int]

    def octets(self) -> bytes:
        realm = self.operator_realm
        return _join(
            _REGISTRATION,
            b"%d %d %d %d" % (self.record_id, self.second, self.low, self.lifetime_s),
            self.class_id,
            self.fa_nai.encode(),
            self.nas_address,
            None if realm is None else realm.encode(),
            self.care_of_address,
            self.home_address,
            self.alias,
            " ".join(map(str, self.spis)).encode(),
        )


class EventItem(NamedTuple):
    """A denial that spent an SPI, or a deregistration."""

    record_id: int
    kind: int  # EventKind, or what a later release writes
    code: int
    second: int | None
    low: int | None
    digest: bytes | None  # SHA-256 of the request, where it passed step 6

    def octets(self) -> bytes:
        seen = None if self.second is None else b"%d %d" % (self.second, self.low or 0)
        numbers = b"%d %d %d" % (self.record_id, self.kind, self.code)
        return _join(_EVENT, numbers, seen, self.digest)


class ActItem(NamedTuple):
    """What somebody did by way of administration."""

    actor: str
    act: str  # such as "subscriber.suspend"
    object: str  # such as "subscriber:UUID"
    details: str  # canonical JSON

    def octets(self) -> bytes:
        return _join(_ACT, *(text.encode() for text in self))


Item = RegistrationItem | EventItem | ActItem


def inet_octets(address: IpAddress) -> bytes:
    """An address as the database sends it."""
    return _INET[address.version] + address.packed


def canonical_details(details: Mapping[str, Any]) -> str:
    """JSON with sorted keys and without spaces, the same for the same details."""
    return json.dumps(details, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def item_of(change: RecordChange) -> RegistrationItem | EventItem:
    """What one item of a batch leaves behind."""
    if change.registration is not None:
        return _registration(change.record_id, change.registration)
    kind = EventKind.OTHER
    if change.deregistration:
        kind = EventKind.DEREGISTRATION
    elif change.denial_code is not None:
        kind = EventKind.DENIAL
    seen = change.last_seen
    return EventItem(
        change.record_id,
        kind,
        change.denial_code or 0,
        seen.second if seen else None,
        seen.low if seen else None,
        change.digest,
    )


def _registration(record_id: int, item: NewRegistration) -> RegistrationItem:
    return RegistrationItem(
        record_id,
        item.class_id,
        item.identification.second,
        item.identification.low,
        str(item.fa_nai),
        inet_octets(item.nas_address),
        item.operator_realm,
        inet_octets(item.care_of_address),
        inet_octets(item.home_address),
        item.alias,
        item.lifetime_s,
        [association.spi for association in item.associations],
    )


def _join(*parts: bytes | None) -> bytes:
    """Each with its length in front, so that no two lists have the same octets."""
    return b"".join(
        [_ABSENT if part is None else len(part).to_bytes(4, "big") + part for part in parts]
    )
