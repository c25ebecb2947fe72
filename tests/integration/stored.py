"""Subscribers and registrations that stand in a database, made as the KDC makes them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

from kdc.model import (
    DEFAULT_SUITES,
    Enrolment,
    HomeAddressKind,
    Identification,
    Mode,
    Nai,
    Pair,
    Secret,
)
from kdc.records import NewAssociation, NewRegistration, Record, RecordChange
from kdc.store import CommitResult, Store, migrate
from kdc.store import subscribers as provisioning
from kdc.store.database import administration
from kdc.store.subscribers import Subscription
from tests.conftest import PostgresServer

HOME = (IPv4Address("192.0.2.1"), Nai.parse("ha1@home.example"))
Provision = Callable[..., list[Enrolment]]


def provisioner(postgres: PostgresServer, database_name: str) -> Provision:
    """What adds subscribers and returns their enrolments."""

    def add(count: int = 1, kind: HomeAddressKind = HomeAddressKind.HIDDEN) -> list[Enrolment]:
        address = None if kind is HomeAddressKind.DYNAMIC else IPv4Address("10.1.2.3")
        with administration(postgres.conninfo(database_name)) as connection:
            keyring = migrate.load_keyring(connection, postgres.kek)
            batch = [
                Subscription(
                    Nai.parse(f"mn{secrets.token_hex(4)}@home.example"), *HOME, kind, address
                )
                for _ in range(count)
            ]
            return list(provisioning.add(connection, batch, keyring, entropy=secrets.token_bytes))

    return add


async def change_of(store: Store, record: Record, spi: int, clock: float) -> RecordChange:
    """What a granted registration makes of a record."""
    await store.allocator.reserve(key0=4, associations=[clock + 600] * 3, addresses=1)
    index = record.unspent.index(spi)
    added = tuple(store.allocator.take_key0() for _ in range(index + 1))
    dead = record.unspent[:index] + ((record.last_spent,) if record.last_spent else ())
    registration = NewRegistration(
        class_id=secrets.token_bytes(8),
        identification=Identification.at(clock, secrets.randbits(32)),
        fa_nai=Nai.parse("fa1@visited.example"),
        nas_address=IPv4Address("198.51.100.7"),
        operator_realm="visited.example",
        care_of_address=IPv4Address("198.51.100.7"),
        home_address=IPv4Address("10.1.2.3"),
        alias=secrets.token_bytes(8),
        lifetime_s=600,
        associations=tuple(
            NewAssociation(
                pair,
                store.allocator.take_association(clock + 600),
                secrets.token_bytes(8),
                600,
                Mode.STATEFUL,
                0,
                DEFAULT_SUITES,
                None if pair is Pair.MN_FA else Secret(secrets.token_bytes(36)),
            )
            for pair in (Pair.MN_HA, Pair.MN_FA, Pair.FA_HA)
        ),
    )
    return RecordChange(
        record_id=record.record_id,
        revision=record.revision,
        unspent=record.unspent[index + 1 :] + added,
        last_spent=spi,
        added_spis=added,
        removed_spis=dead,
        last_seen=registration.identification,
        rounds=0,
        accepted_at=(int(clock),),
        digest=secrets.token_bytes(32),
        outcome=Secret(b"outcome" + secrets.token_bytes(40)),
        registration=registration,
    )


async def register(
    store: Store, enrolment: Enrolment, *, fa: str = "fa1@visited.example"
) -> NewRegistration:
    """The first or next registration, through `fa`, committed."""
    loaded = await store.load(enrolment.spis)
    record = next(iter(loaded.records.values())).record
    change = await change_of(store, record, record.unspent[0], loaded.clock)
    assert change.registration is not None
    nai = Nai.parse(fa)
    registration = replace(change.registration, fa_nai=nai, operator_realm=nai.realm)
    committed = await store.commit([replace(change, registration=registration)], clock=loaded.clock)
    assert committed == [CommitResult.COMMITTED]
    return registration
