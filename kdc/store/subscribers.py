"""Subscribers and their KEY0 records, as an operator provisions them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Select,
    Text,
    any_,
    bindparam,
    cast,
    func,
    insert,
    select,
    text,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError

from kdc.crypto.key0 import KEY0_OCTETS
from kdc.errors import LocalError
from kdc.model import Enrolment, HomeAddressKind, Nai, Secret
from kdc.records import UNSPENT_SPIS
from kdc.store.audit import record_act, record_acts
from kdc.store.keyring import Entropy, Keyring
from kdc.store.numbers import draw_key0_spis
from kdc.store.rows import seal_key0
from kdc.store.schema import key0_records, key0_spis, subscribers

ACTIVE: Final = "active"
SUSPENDED: Final = "suspended"
REVOKED: Final = "revoked"  # for good
_ROWS_AT_ONCE: Final = 1000
_ATTEMPTS: Final = 5
_SPARE_SPIS: Final = 64
_FIRST_ADDRESS: Final = IPv4Address("10.0.0.0")
_ADDRESSES: Final = 2**24


class SubscriberUnknown(LocalError):
    """No subscriber has this NAI."""


class SubscriberExists(LocalError):
    """A subscriber has this NAI already."""


class SubscriberRevoked(LocalError):
    """The subscriber was revoked, which is final."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What an operator decides about a subscriber."""

    nai: Nai
    home_agent: IPv4Address
    home_agent_nai: Nai
    home_address_kind: HomeAddressKind = HomeAddressKind.HIDDEN
    home_address: IPv4Address | None = None
    roam: tuple[str, ...] | None = None
    static_spi: bool = False

    def __post_init__(self) -> None:
        dynamic = self.home_address_kind is HomeAddressKind.DYNAMIC
        if dynamic and self.home_address is not None:
            raise LocalError("a dynamic home address is given out at each visit, not here")
        if not self.nai.realm or not self.nai.user:
            raise LocalError(f"{self.nai}: expected a name with user and realm")


def add(
    connection: Connection,
    subscriptions: Sequence[Subscription],
    keyring: Keyring,
    *,
    entropy: Entropy,
) -> Iterator[Enrolment]:
    """Provisions subscribers with fresh KEY0s and SPIs; each thousand is one transaction.

    Yields the enrolments of what is committed.  Raises `SubscriberExists`: then nothing of that
    thousand was added.
    """
    for start in range(0, len(subscriptions), _ROWS_AT_ONCE):
        chunk = subscriptions[start : start + _ROWS_AT_ONCE]
        for attempt in range(_ATTEMPTS):
            try:
                enrolments = _add_chunk(connection, chunk, keyring, entropy)
                connection.commit()
                break
            except IntegrityError as error:
                connection.rollback()
                if "key0_spis" not in str(error.orig):
                    raise SubscriberExists(
                        "a subscriber of this name exists: `kdc subscriber show` shows it"
                    ) from None
                if attempt == _ATTEMPTS - 1:
                    raise LocalError("no free SPIs were found: try again") from None
        yield from enrolments


def _add_chunk(
    connection: Connection, chunk: Sequence[Subscription], keyring: Keyring, entropy: Entropy
) -> list[Enrolment]:
    subscriber_ids = draw_ids(connection, "subscribers", len(chunk))
    record_ids = draw_ids(connection, "key0_records", len(chunk))
    connection.execute(
        insert(subscribers),
        [subscriber_row(*row) for row in zip(chunk, subscriber_ids, strict=True)],
    )
    spis = iter(free_spis(connection, UNSPENT_SPIS * len(chunk), entropy))
    records, spi_rows, enrolments = [], [], []
    for item, subscriber_id, record_id in zip(chunk, subscriber_ids, record_ids, strict=True):
        key0 = Secret(entropy(KEY0_OCTETS))
        own = tuple(next(spis) for _ in range(1 if item.static_spi else UNSPENT_SPIS))
        key_id, sealed = seal_key0(key0, record_id, keyring, entropy)
        records.append(
            {
                "id": record_id,
                "subscriber_id": subscriber_id,
                "data_key_id": key_id,
                "sealed_key0": sealed,
                "static_spi": item.static_spi,
                "unspent": list(own),
            }
        )
        spi_rows += [{"spi": spi, "record_id": record_id} for spi in own]
        enrolments.append(
            Enrolment(item.nai, key0, own, item.home_agent, item.home_agent_nai, item.nai.realm)
        )
    connection.execute(insert(key0_records), records)
    connection.execute(insert(key0_spis), spi_rows)
    _record_added(connection, subscriber_ids)
    return enrolments


def _record_added(connection: Connection, subscriber_ids: Sequence[int]) -> None:
    query = (
        select(cast(subscribers.c.internal_name, Text), key0_records.c.id)
        .join(key0_records, key0_records.c.subscriber_id == subscribers.c.id)
        .where(subscribers.c.id == any_(bindparam("ids")))
        .order_by(key0_records.c.id)
    )
    added = connection.execute(query, {"ids": list(subscriber_ids)})
    acts = [("subscriber.add", f"subscriber:{name}", {"record": record}) for name, record in added]
    record_acts(connection, None, acts)


def free_spis(connection: Connection, count: int, entropy: Entropy) -> list[int]:
    """KEY0 SPIs that nobody has; another node may still take one before these are committed."""
    free: dict[int, None] = {}
    query = select(key0_spis.c.spi).where(key0_spis.c.spi == any_(bindparam("drawn")))
    while len(free) < count:
        # What is free is kept: with millions of subscribers some of each draw are taken.
        drawn = draw_key0_spis(count - len(free) + _SPARE_SPIS, entropy)
        taken = {row[0] for row in connection.execute(query, {"drawn": list(drawn)})}
        free |= dict.fromkeys(spi for spi in drawn if spi not in taken)
    return list(free)[:count]


def draw_ids(connection: Connection, table: str, count: int) -> list[int]:
    """Primary keys before the rows are written: the seal of KEY0 binds its record's."""
    query = text(
        "SELECT nextval(pg_get_serial_sequence(:table, 'id')) FROM generate_series(1, :count)"
    )
    return [row[0] for row in connection.execute(query, {"table": table, "count": count})]


def subscriber_row(item: Subscription, subscriber_id: int) -> dict[str, Any]:
    """What the table of subscribers has of it."""
    address = item.home_address
    if address is None and item.home_address_kind is not HomeAddressKind.DYNAMIC:
        # One each, out of 10.0.0.0/8: what a home without an addressing plan of its own wants.
        address = _FIRST_ADDRESS + subscriber_id % _ADDRESSES
    return {
        "id": subscriber_id,
        "nai": str(item.nai),
        "folded_nai": fold(item.nai),
        "realm": item.nai.realm,
        "home_agent": str(item.home_agent),
        "home_agent_nai": str(item.home_agent_nai),
        "home_address_kind": item.home_address_kind.value,
        "home_address": str(address) if address is not None else None,
        "roam": list(item.roam) if item.roam is not None else None,
    }


def fold(nai: Nai) -> str:
    """The form in which names are compared (PROTOCOL 4.1)."""
    return f"{nai.user}@{nai.realm}"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscriber as an operator may see it: never a key."""

    nai: str
    status: str
    home_agent: str
    home_agent_nai: str
    home_address_kind: str
    home_address: str | None
    roam: list[str] | None
    internal_name: str
    created_at: datetime
    static_spi: bool
    unspent_spis: int
    registered_until: datetime | None
    current_fa: str | None
    key_version: int
    rotating: bool  # the version before is valid too, until this one is used


# A subscriber has two records while KEY0 is rotated: where it is registered need not be the newest.
_OWN: Final = select(key0_records).where(key0_records.c.subscriber_id == subscribers.c.id)
newest = _OWN.order_by(key0_records.c.version.desc()).limit(1).lateral("newest")
_registered = (
    _OWN.order_by(key0_records.c.registered_until.desc().nulls_last(), key0_records.c.id)
    .limit(1)
    .lateral("registered")
)
_COLUMNS: Final = (
    subscribers.c.nai,
    subscribers.c.status,
    func.host(subscribers.c.home_agent),
    subscribers.c.home_agent_nai,
    subscribers.c.home_address_kind,
    func.host(subscribers.c.home_address),
    subscribers.c.roam,
    cast(subscribers.c.internal_name, Text),
    subscribers.c.created_at,
    newest.c.static_spi,
    func.cardinality(newest.c.unspent),
    _registered.c.registered_until,
    _registered.c.current_fa,
    newest.c.version,
    newest.c.replaces.is_not(None),
)


def _query() -> Select[Any]:
    return (
        select(*_COLUMNS)
        .select_from(subscribers)
        .join(newest, true())
        .join(_registered, true())
        .order_by(subscribers.c.folded_nai)
    )


def list_all(
    connection: Connection, *, limit: int | None = None, after: str = ""
) -> Iterator[Subscriber]:
    """Subscribers by name, those behind the folded name `after`."""
    query = _query().where(subscribers.c.folded_nai > after).limit(limit)
    for row in connection.execution_options(yield_per=1000).execute(query):
        yield Subscriber(*row)


def load(connection: Connection, nai: Nai) -> Subscriber:
    """Raises `SubscriberUnknown`."""
    row = connection.execute(_query().where(subscribers.c.folded_nai == fold(nai))).first()
    if row is None:
        raise SubscriberUnknown(f"no subscriber is called {nai}")
    return Subscriber(*row)


def set_status(connection: Connection, nai: Nai, status: str) -> None:
    """In force with the next request on every node; what is registered stays so.

    Raises `SubscriberUnknown`, `SubscriberRevoked`.
    """
    name = change_status(connection, nai, status)
    record_act(connection, None, f"subscriber.{status}", f"subscriber:{name}")
    connection.commit()


def change_status(connection: Connection, nai: Nai, status: str) -> str:
    """The internal name, in the caller's transaction, who records the act behind his own locks.

    For `kdc.store.disconnects`, which ends what is registered.
    """
    row = subscribers.c.folded_nai == fold(nai)
    change = update(subscribers).where(row).values(status=status)
    allowed = (subscribers.c.status != REVOKED) | (status == REVOKED)
    name = cast(subscribers.c.internal_name, Text)
    changed = connection.execute(change.where(allowed).returning(name)).first()
    if changed is not None:
        return str(changed[0])
    known = connection.execute(select(subscribers.c.id).where(row)).first()
    connection.rollback()
    if known is None:
        raise SubscriberUnknown(f"no subscriber is called {nai}")
    raise SubscriberRevoked(f"{nai} is revoked, which is final: provision another name instead")
