"""The store on a real PostgreSQL: what is loaded, what is committed, what is refused."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import psycopg
import pytest

from kdc.center import KeyDistributionCenter
from kdc.config import DatabaseSettings
from kdc.crypto.kek import RowSealBroken
from kdc.errors import Unavailable
from kdc.model import (
    Enrolment,
    HomeAddressKind,
    Identification,
)
from kdc.store import (
    CommitRefused,
    CommitResult,
    DatabaseUnavailable,
    SpiTaken,
    Store,
    WrongKek,
    migrate,
)
from kdc.store import associations as stored_associations
from kdc.store import subscribers as provisioning
from kdc.store.database import administration
from kdc.store.embedded import EmbeddedServer
from kdc.store.schema import ASSOCIATION_SPI_FIRST, KEY0_SPI_FIRST, slot_of
from tests.conftest import PostgresServer
from tests.integration.stored import Provision, change_of


async def test_what_is_committed_is_loaded(store: Store, provision: Provision) -> None:
    (enrolment,) = provision()
    spi = enrolment.spis[0]
    loaded = await store.load([spi, 70000])
    assert set(loaded.records) == {spi}
    stored = loaded.records[spi]
    assert stored.key0 == enrolment.key0 and stored.record.unspent == enrolment.spis
    change = await change_of(store, stored.record, spi, loaded.clock)
    assert await store.commit([change], clock=loaded.clock) == [CommitResult.COMMITTED]
    again = (await store.load([spi])).records[spi]
    assert again.record.unspent == change.unspent and again.record.last_spent == spi
    assert again.record.last_digest == change.digest and again.outcome == change.outcome
    assert again.record.last_seen == change.last_seen and again.record.revision == 1
    assert str(again.record.current_fa) == "fa1@visited.example"
    assert (await store.load([change.unspent[-1]])).records[change.unspent[-1]] == again


async def test_a_spent_spi_is_gone_with_the_next_request(
    store: Store, provision: Provision
) -> None:
    (enrolment,) = provision()
    for spi in enrolment.spis[:2]:
        loaded = await store.load([spi])
        change = await change_of(store, loaded.records[spi].record, spi, loaded.clock)
        await store.commit([change], clock=loaded.clock)
    assert (await store.load([enrolment.spis[0]])).records == {}


async def test_the_spis_that_a_request_jumps_over_are_gone_with_it(
    store: Store, provision: Provision
) -> None:
    (enrolment,) = provision()
    loaded = await store.load([enrolment.spis[2]])
    record = loaded.records[enrolment.spis[2]].record
    step = KeyDistributionCenter(secrets.token_bytes).spend
    await store.allocator.reserve(key0=4, associations=[])
    spent = step(record, enrolment.spis[2], store.allocator)
    change = await change_of(store, record, enrolment.spis[2], loaded.clock)
    change = replace(
        change,
        unspent=spent.unspent,
        last_spent=spent.last_spent,
        added_spis=spent.added,
        removed_spis=spent.removed,
    )
    await store.commit([change], clock=loaded.clock)
    assert set((await store.load(enrolment.spis)).records) == set(enrolment.spis[2:])
    assert len((await store.load(spent.added)).records) == 3


async def test_a_changed_record_is_a_conflict_and_takes_nothing_with_it(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    one, two = provision(2)
    loaded = await store.load([one.spis[0], two.spis[0]])
    first = await change_of(store, loaded.records[one.spis[0]].record, one.spis[0], loaded.clock)
    rival = await change_of(store, loaded.records[one.spis[0]].record, one.spis[0], loaded.clock)
    other = await change_of(store, loaded.records[two.spis[0]].record, two.spis[0], loaded.clock)
    results = await store.commit([first, rival], clock=loaded.clock)
    assert results == [CommitResult.COMMITTED, CommitResult.CONFLICT]
    results = await store.commit([rival, other], clock=loaded.clock)
    assert results == [CommitResult.CONFLICT, CommitResult.COMMITTED]
    with administration(postgres.conninfo(database_name)) as connection:
        assert stored_associations.count(connection) == (2, 6)


async def test_an_spi_that_is_taken_fails_the_batch_and_commits_nothing(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    one, two = provision(2)
    loaded = await store.load([one.spis[0], two.spis[0]])
    change = await change_of(store, loaded.records[one.spis[0]].record, one.spis[0], loaded.clock)
    stolen = replace(
        change,
        unspent=(*change.unspent[:-1], two.spis[1]),
        added_spis=(two.spis[1],),
    )
    with pytest.raises(SpiTaken):
        await store.commit([stolen], clock=loaded.clock)
    with administration(postgres.conninfo(database_name)) as connection:
        assert stored_associations.count(connection) == (0, 0)


async def test_a_value_that_no_column_holds_is_refused_and_not_a_database_that_is_down(
    store: Store, provision: Provision
) -> None:
    (enrolment,) = provision()
    loaded = await store.load([enrolment.spis[0]])
    record = loaded.records[enrolment.spis[0]].record
    change = await change_of(store, record, enrolment.spis[0], loaded.clock)
    assert change.registration is not None
    for bad in (
        replace(change, last_seen=Identification(2**63, 0)),
        replace(change, registration=replace(change.registration, operator_realm="a\0b")),
    ):
        with pytest.raises(CommitRefused):
            await store.commit([bad], clock=loaded.clock)
    assert await store.commit([change], clock=loaded.clock) == [CommitResult.COMMITTED]


async def test_addresses_that_another_node_has_taken_are_not_ready_any_more(
    database_settings: DatabaseSettings, provision: Provision
) -> None:
    """Six addresses, ready at both nodes: the second asks again and none is there twice."""
    network = IPv4Network("10.202.0.0/29")
    enrolments = provision(3, HomeAddressKind.DYNAMIC)
    async with (
        Store.opened(
            database_settings, entropy=secrets.token_bytes, dynamic_addresses=network
        ) as one,
        Store.opened(
            database_settings, entropy=secrets.token_bytes, dynamic_addresses=network
        ) as two,
    ):
        await two.allocator.reserve(key0=0, associations=[], addresses=1)
        for enrolment in enrolments:
            await _take_address(one, enrolment)
        two.allocator.distrust()
        await two.allocator.reserve(key0=0, associations=[], addresses=1)
        ready = [two.allocator.take_home_address() for _ in range(3)]
        with pytest.raises(Unavailable):
            two.allocator.take_home_address()
        loaded = await one.load([e.spis[0] for e in enrolments])
        taken = {stored.record.current_home_address for stored in loaded.records.values()}
    assert len(set(ready)) == 3 and taken.isdisjoint(ready)


async def _take_address(store: Store, enrolment: Enrolment) -> None:
    loaded = await store.load([enrolment.spis[0]])
    record = loaded.records[enrolment.spis[0]].record
    change = await change_of(store, record, enrolment.spis[0], loaded.clock)
    assert change.registration is not None
    address = store.allocator.take_home_address()
    registration = replace(change.registration, home_address=address, dynamic_address=True)
    committed = await store.commit([replace(change, registration=registration)], clock=loaded.clock)
    assert committed == [CommitResult.COMMITTED]


async def test_racing_stores_give_each_record_one_next_state(
    database_settings: DatabaseSettings, provision: Provision
) -> None:
    enrolments = provision(20)
    spis = [enrolment.spis[0] for enrolment in enrolments]

    all_loaded = asyncio.Barrier(8)

    async def race() -> list[CommitResult]:
        async with Store.opened(database_settings, entropy=secrets.token_bytes) as own:
            loaded = await own.load(spis)
            changes = [
                await change_of(own, loaded.records[spi].record, spi, loaded.clock) for spi in spis
            ]
            await all_loaded.wait()
            return await own.commit(changes, clock=loaded.clock)

    results = await asyncio.gather(*(race() for _ in range(8)))
    for outcomes in zip(*results, strict=True):
        assert outcomes.count(CommitResult.COMMITTED) == 1


async def test_spis_keep_to_their_ranges(store: Store) -> None:
    clock = 1_800_000_000.0
    await store.allocator.reserve(key0=100, associations=[clock + 600] * 100)
    for _ in range(100):
        assert KEY0_SPI_FIRST <= store.allocator.take_key0() < ASSOCIATION_SPI_FIRST
        assert store.allocator.take_association(clock + 600) >> 27 == slot_of(clock + 600)


async def test_a_row_copied_over_another_does_not_open(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    one, two = provision(2)
    with psycopg.connect(postgres.conninfo(database_name)) as connection:
        connection.execute(
            "UPDATE key0_records AS r SET sealed_key0 = o.sealed_key0, data_key_id = o.data_key_id"
            " FROM key0_records AS o WHERE %s = ANY(r.unspent) AND %s = ANY(o.unspent)",
            (one.spis[0], two.spis[0]),
        )
    loaded = await store.load([one.spis[0], two.spis[0]])
    assert set(loaded.records) == {two.spis[0]} and loaded.unreadable == 1


async def test_copied_association_keys_do_not_open(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    (enrolment,) = provision()
    loaded = await store.load([enrolment.spis[0]])
    record = loaded.records[enrolment.spis[0]].record
    change = await change_of(store, record, enrolment.spis[0], loaded.clock)
    await store.commit([change], clock=loaded.clock)
    with psycopg.connect(postgres.conninfo(database_name)) as connection:
        connection.execute(
            "UPDATE associations AS a SET sealed_keys = b.sealed_keys FROM associations AS b"
            " WHERE a.pair = 1 AND b.pair = 3"
        )
    with administration(postgres.conninfo(database_name)) as admin:
        keyring = migrate.load_keyring(admin, postgres.kek)
        with pytest.raises(RowSealBroken):
            list(stored_associations.list_all(admin, keyring))


async def test_another_kek_is_refused_at_the_start(
    postgres: PostgresServer, database_name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("kek") / "kek"
    other.write_text(secrets.token_hex(32))
    other.chmod(0o600)
    settings = postgres.settings(database_name, kek_file=str(other))
    with pytest.raises(WrongKek):
        async with Store.opened(settings, entropy=secrets.token_bytes):
            pass


async def test_a_suspended_subscriber_is_inactive_at_the_next_load(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    (enrolment,) = provision()
    spi = enrolment.spis[0]
    with administration(postgres.conninfo(database_name)) as connection:
        for status, active in (("suspended", False), ("active", True)):
            provisioning.set_status(connection, enrolment.nai, status)
            assert (await store.load([spi])).records[spi].record.active is active


async def test_outcomes_cannot_be_read_once_their_key_is_swept(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    (enrolment,) = provision()
    spi = enrolment.spis[0]
    loaded = await store.load([spi])
    change = await change_of(store, loaded.records[spi].record, spi, loaded.clock)
    # As if it had been committed a quarter of an hour ago.
    await store.commit([change], clock=loaded.clock - 900)
    assert (await store.load([spi])).records[spi].outcome == change.outcome
    await store.sweep()
    assert (await store.load([spi])).records[spi].outcome is None
    with psycopg.connect(postgres.conninfo(database_name)) as connection:
        rows = connection.execute("SELECT 1 FROM data_keys WHERE purpose = 'outcome'").fetchall()
    assert rows == []


async def test_expired_slots_are_truncated_and_live_ones_kept(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    (enrolment,) = provision()
    spi = enrolment.spis[0]
    loaded = await store.load([spi])
    change = await change_of(store, loaded.records[spi].record, spi, loaded.clock)
    await store.commit([change], clock=loaded.clock)
    old = (slot_of(loaded.clock - 5400)) << 27
    with psycopg.connect(postgres.conninfo(database_name)) as connection:
        connection.execute(
            "INSERT INTO associations SELECT %s + pair, record_id, class_id, pair, mode,"
            " derivation, suites, key_name, lifetime_s, now() - interval '90 minutes', NULL, NULL"
            " FROM associations",
            (old,),
        )
    await store.sweep()
    with psycopg.connect(postgres.conninfo(database_name)) as connection:
        left = connection.execute("SELECT spi FROM associations").fetchall()
    assert len(left) == 3 and all(row[0] >> 27 != old >> 27 for row in left)


async def test_no_plain_secret_is_in_the_database(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    (enrolment,) = provision()
    loaded = await store.load([enrolment.spis[0]])
    record = loaded.records[enrolment.spis[0]].record
    change = await change_of(store, record, enrolment.spis[0], loaded.clock)
    await store.commit([change], clock=loaded.clock)
    assert change.registration is not None and change.outcome is not None
    planted = [enrolment.key0, change.outcome] + [
        item.keys for item in change.registration.associations if item.keys is not None
    ]
    tables = ("subscribers", "key0_records", "registrations", "associations", "data_keys")
    with psycopg.connect(postgres.conninfo(database_name)) as connection:
        dump = "".join(
            str(row[0])
            for table in tables
            for row in connection.execute(f"SELECT t::text FROM {table} AS t").fetchall()
        )
    assert len(dump) > 1000
    for secret in planted:
        assert secret.reveal().hex()[:16] not in dump


async def test_a_stopped_database_is_unavailable_in_time_and_comes_back(
    reachable_folder: Path, postgres: PostgresServer
) -> None:
    server = EmbeddedServer(reachable_folder / "restarted")
    server.start()
    try:
        with administration(server.conninfo) as connection:
            migrate.upgrade(connection, postgres.kek, entropy=secrets.token_bytes, progress=print)
        url = f"postgresql:///postgres?host={server.socket_folder}&user=roamkey"
        settings = postgres.settings("unused", url=url)
        async with Store.opened(settings, entropy=secrets.token_bytes) as own:
            assert (await own.load([70000])).records == {}
            server.stop()
            started = asyncio.get_running_loop().time()
            with pytest.raises(DatabaseUnavailable):
                await own.load([70000])
            assert asyncio.get_running_loop().time() - started < 8
            server.start()
            deadline = asyncio.get_running_loop().time() + 20
            while True:
                try:
                    assert (await own.load([70000])).records == {}
                    break
                except DatabaseUnavailable:
                    assert asyncio.get_running_loop().time() < deadline
    finally:
        server.stop()
