"""Keys at rest walk through all their states while two servers issue, and no row is unreadable."""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kdc.crypto.kek import KeyUnusable
from kdc.model import Enrolment, Secret
from kdc.store import CommitResult, DatabaseUnavailable, Store, WrongKek, keks, migrate, reseal
from kdc.store import associations as stored_associations
from kdc.store.database import Connection, administration
from kdc.store.errors import KekRefused
from kdc.store.keks import TRANSITIONS, Pace
from kdc.store.keyring import ASSOCIATION, OUTCOME_EPOCH_S, PENDING, RECORD
from kdc.store.roots import FileRoot, Roots
from tests.conftest import PostgresServer
from tests.integration.domains import Domains
from tests.integration.stored import Provision, change_of

HOME = ("--config", "home.toml")
UNTHROTTLED = Pace(1e9)


@pytest.fixture
def roots(postgres: PostgresServer) -> Roots:
    return Roots(FileRoot(postgres.kek))


@pytest.fixture
def admin(postgres: PostgresServer, database_name: str) -> Iterator[Connection]:
    with administration(postgres.conninfo(database_name)) as connection:
        yield connection


@contextmanager
def plainly(postgres: PostgresServer, database_name: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.conninfo(database_name), autocommit=True) as connection:
        yield connection


@dataclass
class Issuing:
    """A server that registers its subscribers one after the other until it is stopped."""

    store: Store
    enrolments: list[Enrolment]
    shift_s: float = 0.0  # of the clock by which outcome keys are made
    issued: int = 0
    spis: dict[int, int] = field(default_factory=dict)  # the next one of each

    async def run(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            for index, enrolment in enumerate(self.enrolments):
                await self.register(index, enrolment)

    async def register(self, index: int, enrolment: Enrolment) -> None:
        spi = self.spis.get(index, enrolment.spis[0])
        loaded = await self.store.load([spi])
        assert loaded.unreadable == 0, "a row was unreadable"
        change = await change_of(self.store, loaded.records[spi].record, spi, loaded.clock)
        done = await self.store.commit([change], clock=loaded.clock + self.shift_s)
        assert done == [CommitResult.COMMITTED]
        again = await self.store.load([spi])
        assert again.records[spi].outcome == change.outcome  # a duplicate would be answered
        self.spis[index] = change.unspent[0]
        self.issued += 1


@asynccontextmanager
async def issuing(*servers: Issuing) -> AsyncIterator[None]:
    """Each runs through the block; what went wrong in one is raised at its end."""
    stopped = asyncio.Event()
    tasks = [asyncio.create_task(server.run(stopped)) for server in servers]
    try:
        yield
    finally:
        stopped.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 20)


async def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it has not come to pass"
        await asyncio.sleep(0.05)


def _started(domains: Domains, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "kdc", *arguments],
        cwd=domains.folder,
        env=domains.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def _rewrap_half_and_kill(domains: Domains) -> None:
    killed = _started(domains, "kek", "rewrap", "--rows", "--per-second", "100", *HOME)
    await until(lambda: 0 < _left(domains) < 350)
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    assert 0 < _left(domains) < 400


def _left(domains: Domains) -> int:
    """KEY0 records under another data key than the newest."""
    with plainly(domains.postgres, domains.database_name) as plain:
        row = plain.execute(
            "SELECT count(*) FROM key0_records WHERE data_key_id <> (SELECT id FROM data_keys"
            " WHERE purpose = 'record' ORDER BY epoch DESC LIMIT 1)"
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.slow
async def test_every_state_with_issuing_running(
    domains: Domains, store: Store, provision: Provision, admin: Connection, roots: Roots
) -> None:
    """add, activate, rewrap half, kill, resume, purge refused, purge (krb5's t_mkey)."""
    enrolments = provision(400)

    async def kdc(*arguments: str, expect: int = 0) -> str:
        return await asyncio.to_thread(domains.kdc, *arguments, *HOME, expect=expect)

    async with Store.opened(
        domains.postgres.settings(domains.database_name), entropy=secrets.token_bytes
    ) as other:
        servers = (Issuing(store, enrolments[:5]), Issuing(other, enrolments[5:10]))
        async with issuing(*servers):
            assert "pending" in await kdc("kek", "add")
            assert "expected 10 s" in await kdc("kek", "activate", "2", expect=1)
            await until(lambda: store.keyring.has_kek(2) and other.keyring.has_kek(2))
            keks.activate(admin, roots, 2, settling_s=0)
            await kdc("kek", "rotate-data-keys")
            await until(lambda: store.keyring.wrapping_version == 2)
            assert "still needed by data keys" in await kdc("kek", "purge", "1", expect=1)
            assert "of 400 sealed anew" in await kdc("kek", "rewrap", "--rows", "--dry-run")
            assert _left(domains) == 400
            await _rewrap_half_and_kill(domains)
            async with Store.opened(
                domains.postgres.settings(domains.database_name), entropy=secrets.token_bytes
            ) as late:
                for enrolment in enrolments[10:]:
                    assert (await late.load(enrolment.spis[:1])).unreadable == 0
            for _ in range(5):  # records that a server was changing are left to the next run
                await kdc("kek", "rewrap", "--rows")
                if _left(domains) == 0:
                    break
            assert _left(domains) == 0
            assert "nothing needs it" in await kdc("kek", "purge", "1", "--dry-run")
            await kdc("kek", "purge", "1")
            assert "expected one that is retiring" in await kdc("kek", "purge", "1", expect=1)
            assert "expected one that is retiring" in await kdc("kek", "purge", "2", expect=1)
            assert "ago: expected 60 s" in await kdc("kek", "purge-data-keys", expect=1)
            destroyed = reseal.destroy_replaced(admin, after_s=0)
            assert sorted(p for _, p in destroyed) == ["association", "client", "record"]
            done = [server.issued for server in servers]
            await until(lambda: all(s.issued > n for s, n in zip(servers, done, strict=True)))
        assert store.unreadable == other.unreadable == 0
    (row,) = [r for r in keks.list_all(admin, roots) if r.version == 1]
    assert (row.state, row.opens, row.data_keys) == ("purged", None, 0)
    keyring = migrate.load_keyring(admin, roots)
    listed = list(stored_associations.list_all(admin, keyring))
    assert len(listed) == 3 * sum(server.issued for server in servers) > 60


def test_the_table_of_states_is_the_database_s(
    admin: Connection, roots: Roots, postgres: PostgresServer, database_name: str
) -> None:
    """Every step from every state, by hand, past all commands."""
    version = 10
    with plainly(postgres, database_name) as plain:
        plain.execute("ALTER TABLE key_encryption_keys DISABLE TRIGGER key_encryption_keys_states")
        plain.execute("DELETE FROM data_keys")
        plain.execute("DELETE FROM key_encryption_keys")
        for old, new in product(TRANSITIONS, TRANSITIONS):
            if old == new:
                continue
            version += 1
            plain.execute("ALTER TABLE key_encryption_keys DISABLE TRIGGER ALL")
            plain.execute("DELETE FROM key_encryption_keys")
            plain.execute(
                "INSERT INTO key_encryption_keys (version, check_value, state) VALUES (%s, '', %s)",
                (version, old),
            )
            plain.execute("ALTER TABLE key_encryption_keys ENABLE TRIGGER ALL")
            change = "UPDATE key_encryption_keys SET state = %s, wrapped = NULL, root = NULL"
            if new in TRANSITIONS[old]:
                plain.execute(change, (new,))
            else:
                with pytest.raises(psycopg.errors.CheckViolation):
                    plain.execute(change, (new,))
        with pytest.raises(psycopg.errors.CheckViolation, match="never deleted"):
            plain.execute("DELETE FROM key_encryption_keys")


def test_the_database_refuses_what_would_lose_a_key(
    admin: Connection, roots: Roots, postgres: PostgresServer, database_name: str
) -> None:
    assert keks.add(admin, roots, entropy=secrets.token_bytes) == 2
    erased = "UPDATE key_encryption_keys SET state = 'purged', root = NULL, wrapped = NULL"
    with plainly(postgres, database_name) as plain:
        for refused in (
            "UPDATE key_encryption_keys SET state = 'retiring' WHERE version = 1; " + erased,
            "UPDATE data_keys SET kek_version = 2",  # still pending
            "UPDATE key_encryption_keys SET check_value = '\\x00' WHERE version = 1",
            "UPDATE key_encryption_keys SET wrapped = NULL WHERE version = 1",
            "INSERT INTO key_encryption_keys (version, check_value, state) VALUES (3,'','purged')",
        ):
            with pytest.raises(psycopg.errors.CheckViolation):
                plain.execute(refused)
        with pytest.raises(psycopg.errors.UniqueViolation):
            plain.execute("UPDATE key_encryption_keys SET state = 'active' WHERE version = 2")
    states = [row.state for row in migrate.stored_keks(admin)]
    assert states == ["active", "pending"]


def test_rewrap_goes_on_where_it_was_ended(admin: Connection, roots: Roots) -> None:
    keks.add(admin, roots, entropy=secrets.token_bytes)
    keks.activate(admin, roots, 2, settling_s=0)
    steps = keks.rewrap(admin, roots, entropy=secrets.token_bytes, pace=UNTHROTTLED)
    assert [next(steps).moved for _ in range(3)] == [0, 1, 2]
    steps.close()
    with pytest.raises(KekRefused, match="of 'client', 1 of 'identity'"):
        keks.purge(admin, 1)
    rest = list(keks.rewrap(admin, roots, entropy=secrets.token_bytes, pace=UNTHROTTLED))
    assert (rest[0].wanted, rest[-1].moved) == (2, 2)
    keks.purge(admin, 1)
    migrate.load_keyring(admin, roots)


def test_rewrap_is_throttled(admin: Connection, roots: Roots) -> None:
    keks.add(admin, roots, entropy=secrets.token_bytes)
    keks.activate(admin, roots, 2, settling_s=0)
    pauses: list[float] = []
    pace = Pace(4, pause=pauses.append)
    list(keks.rewrap(admin, roots, entropy=secrets.token_bytes, pace=pace))
    assert pauses == [0.25] * 3


def test_one_goes_back_to_the_version_before(admin: Connection, roots: Roots) -> None:
    keks.add(admin, roots, entropy=secrets.token_bytes)
    keks.activate(admin, roots, 2, settling_s=0)
    keks.activate(admin, roots, 1)
    assert [row.state for row in migrate.stored_keks(admin)] == ["active", "retiring"]
    keks.purge(admin, 2)


async def test_a_server_that_has_not_heard_of_a_purge_is_refused_and_goes_on(
    store: Store, provision: Provision, admin: Connection, roots: Roots
) -> None:
    """Its next outcome key would be wrapped under what is gone: nothing is committed with it."""
    (enrolment,) = provision()
    server = Issuing(store, [enrolment])
    keks.add(admin, roots, entropy=secrets.token_bytes)
    await store.keys.refresh()
    await store.keys.ask_root()
    keks.activate(admin, roots, 2, settling_s=0)
    list(keks.rewrap(admin, roots, entropy=secrets.token_bytes, pace=UNTHROTTLED))
    keks.purge(admin, 1)
    store.keyring.learn_states({1: "active", 2: PENDING})  # as it was before it heard
    with pytest.raises(DatabaseUnavailable, match="purged"):
        await server.register(0, enrolment)
    await server.register(0, enrolment)
    assert not store.keyring.has_kek(1)


async def test_the_root_is_gone_and_issuing_goes_on_over_epochs(
    store: Store, provision: Provision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is unwrapped stays: outcome keys are wrapped in memory, an epoch after the other."""

    def gone(self: Roots, row: object) -> Secret:
        raise AssertionError("the root was asked for a registration")

    (enrolment,) = provision()
    server = Issuing(store, [enrolment])
    monkeypatch.setattr(Roots, "open", gone)
    for epoch in range(4):
        server.shift_s = epoch * OUTCOME_EPOCH_S
        await server.register(0, enrolment)
        await store.keys.refresh()
    with pytest.raises(AssertionError):
        store.keys._roots.open(object())  # type: ignore[arg-type]


def test_a_database_of_one_key_moves_to_a_root_and_away_from_it(
    admin: Connection, roots: Roots, postgres: PostgresServer, database_name: str, tmp_path: Path
) -> None:
    """Made when the file was the key itself, under version 1."""
    from kdc.crypto.kek import kek_check_value
    from kdc.store.keyring import LASTING, Keyring

    with plainly(postgres, database_name) as plain:
        plain.execute("ALTER TABLE key_encryption_keys DISABLE TRIGGER ALL")
        plain.execute("DELETE FROM data_keys")
        plain.execute("DELETE FROM key_encryption_keys")
        plain.execute(
            "INSERT INTO key_encryption_keys (version, check_value) VALUES (1, %s)",
            (kek_check_value(postgres.kek),),
        )
        old = Keyring(postgres.kek)
        for purpose in LASTING:
            plain.execute(
                "INSERT INTO data_keys (purpose, kek_version, wrapped) VALUES (%s, 1, %s)",
                (purpose, old.make(purpose, 0, secrets.token_bytes)),
            )
        plain.execute("ALTER TABLE key_encryption_keys ENABLE TRIGGER ALL")
    before = migrate.load_keyring(admin, roots).identity_key
    new = FileRoot(Secret(secrets.token_bytes(32)))
    both = Roots(new, FileRoot(postgres.kek))
    keks.add(admin, both, entropy=secrets.token_bytes)
    keks.activate(admin, both, 2, settling_s=0)
    with pytest.raises(WrongKek, match="key-encryption key 1"):
        migrate.load_keyring(admin, Roots(new))
    admin.rollback()
    list(keks.rewrap(admin, both, entropy=secrets.token_bytes, pace=UNTHROTTLED))
    keks.purge(admin, 1)
    assert migrate.load_keyring(admin, Roots(new)).identity_key == before
    with pytest.raises(WrongKek, match="key-encryption key 2"):
        migrate.load_keyring(admin, roots)


# --- rows that somebody has been at ---

DAMAGE = {
    "bit flip": "set_byte(sealed_key0, 20, get_byte(sealed_key0, 20) # 1)",
    "truncation": "substring(sealed_key0 FROM 1 FOR 30)",
    "nothing": "''::bytea",
    "only a nonce": "substring(sealed_key0 FROM 1 FOR 12)",
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_row_is_refused_by_itself(
    damage: str, store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    one, two = provision(2)
    with plainly(postgres, database_name) as plain:
        plain.execute(
            f"UPDATE key0_records SET sealed_key0 = {DAMAGE[damage]} WHERE %s = ANY(unspent)",
            (one.spis[0],),
        )
        with pytest.raises(psycopg.errors.NotNullViolation):
            plain.execute("UPDATE key0_records SET sealed_key0 = NULL")
    loaded = await store.load([one.spis[0], two.spis[0]])
    assert set(loaded.records) == {two.spis[0]} and loaded.unreadable == store.unreadable == 1
    await Issuing(store, [two]).register(0, two)


async def test_a_data_key_of_another_purpose_or_damaged_refuses_what_it_seals_alone(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    one, two, three = provision(3)
    with plainly(postgres, database_name) as plain:
        plain.execute(
            "UPDATE key0_records SET data_key_id = (SELECT id FROM data_keys"
            " WHERE purpose = 'client') WHERE %s = ANY(unspent)",
            (one.spis[0],),
        )
        plain.execute(
            "WITH made AS (INSERT INTO data_keys (purpose, epoch, kek_version, wrapped)"
            " VALUES ('record', 7, 1, '\\x00') RETURNING id)"
            " UPDATE key0_records SET data_key_id = made.id FROM made WHERE %s = ANY(unspent)",
            (two.spis[0],),
        )
    loaded = await store.load([e.spis[0] for e in (one, two, three)])
    assert set(loaded.records) == {three.spis[0]} and loaded.unreadable == 2
    await store.keys.refresh()
    assert store.keys.unusable > 0
    await Issuing(store, [three]).register(0, three)


async def test_an_older_version_of_a_row(
    store: Store, provision: Provision, postgres: PostgresServer, database_name: str
) -> None:
    """A sealed KEY0 put back opens as long as its data key is there, and never after that."""
    (enrolment,) = provision()
    with plainly(postgres, database_name) as plain:
        older = plain.execute("SELECT id, data_key_id, sealed_key0 FROM key0_records").fetchone()
        assert older is not None
        with administration(postgres.conninfo(database_name)) as admin:
            keyring = migrate.load_keyring(admin, postgres.kek)
            reseal.rotate(admin, keyring, [RECORD], entropy=secrets.token_bytes)
            keyring = migrate.load_keyring(admin, postgres.kek)
            list(
                reseal.reseal(admin, keyring, RECORD, entropy=secrets.token_bytes, pace=UNTHROTTLED)
            )
            put_back = "UPDATE key0_records SET data_key_id = %s, sealed_key0 = %s WHERE id = %s"
            newer = plain.execute("SELECT data_key_id, sealed_key0 FROM key0_records").fetchone()
            assert newer is not None and newer[0] != older[1]
            plain.execute(put_back, (older[1], older[2], older[0]))
            assert (await store.load(enrolment.spis[:1])).unreadable == 0
            with pytest.raises(KekRefused, match="still needed by 1 rows of key0_records"):
                reseal.destroy_replaced(admin, after_s=0)
            plain.execute(put_back, (*newer, older[0]))
            reseal.destroy_replaced(admin, after_s=0)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            plain.execute(put_back, (older[1], older[2], older[0]))
        plain.execute("UPDATE key0_records SET sealed_key0 = %s", (older[2],))
    assert (await store.load(enrolment.spis[:1])).unreadable == 1


def _all_under_a_fresh_key(admin: Connection, postgres: PostgresServer, purpose: str) -> None:
    keyring = migrate.load_keyring(admin, postgres.kek)
    reseal.rotate(admin, keyring, [purpose], entropy=secrets.token_bytes)
    keyring = migrate.load_keyring(admin, postgres.kek)
    pace = UNTHROTTLED
    list(reseal.reseal(admin, keyring, purpose, entropy=secrets.token_bytes, pace=pace))


async def test_a_row_under_a_data_key_that_a_server_has_not_heard_of_is_read_at_once(
    store: Store, provision: Provision, admin: Connection, postgres: PostgresServer
) -> None:
    """Not seconds later, when it looks at all keys: no await lies between the two."""
    (enrolment,) = provision()
    before = store.keyring.current(RECORD).key_id
    _all_under_a_fresh_key(admin, postgres, RECORD)
    loaded = await store.load(enrolment.spis[:1])
    assert loaded.unreadable == 0 and len(loaded.records) == 1
    assert store.keyring.current(RECORD).key_id > before


def test_a_row_that_does_not_open_stays_as_it_is_when_rows_are_sealed_anew(
    provision: Provision, admin: Connection, postgres: PostgresServer, database_name: str
) -> None:
    one, _ = provision(2)
    with plainly(postgres, database_name) as plain:
        plain.execute(
            "UPDATE key0_records SET sealed_key0 = '\\x00' WHERE %s = ANY(unspent)", (one.spis[0],)
        )
        keyring = migrate.load_keyring(admin, postgres.kek)
        reseal.rotate(admin, keyring, [RECORD, ASSOCIATION], entropy=secrets.token_bytes)
        keyring = migrate.load_keyring(admin, postgres.kek)
        steps = list(
            reseal.reseal(admin, keyring, RECORD, entropy=secrets.token_bytes, pace=UNTHROTTLED)
        )
        assert (steps[-1].done, steps[-1].unreadable) == (1, 1)
        left = plain.execute("SELECT count(*) FROM key0_records WHERE sealed_key0 = '\\x00'")
        assert left.fetchone() == (1,)


async def test_a_record_that_is_changed_meanwhile_is_left_to_the_next_run(
    store: Store, provision: Provision, admin: Connection, postgres: PostgresServer
) -> None:
    (enrolment,) = provision()
    keyring = migrate.load_keyring(admin, postgres.kek)
    reseal.rotate(admin, keyring, [RECORD], entropy=secrets.token_bytes)
    keyring = migrate.load_keyring(admin, postgres.kek)
    place, seal = reseal._PLACES[RECORD], keyring.current(RECORD)
    (row,) = reseal._read(admin, place, seal.key_id, -1, 10)
    anew = reseal._seal_anew(row, place, keyring, seal, secrets.token_bytes)
    assert anew is not None
    await Issuing(store, [enrolment]).register(0, enrolment)
    assert reseal._write(admin, place, seal.key_id, [anew]) == 0
    (row,) = reseal._read(admin, place, seal.key_id, -1, 10)
    anew = reseal._seal_anew(row, place, keyring, seal, secrets.token_bytes)
    assert anew is not None and reseal._write(admin, place, seal.key_id, [anew]) == 1


def test_a_data_key_moved_to_another_purpose_does_not_open(
    admin: Connection, postgres: PostgresServer, database_name: str
) -> None:
    with plainly(postgres, database_name) as plain:
        plain.execute(
            "UPDATE data_keys SET wrapped ="
            " (SELECT wrapped FROM data_keys WHERE purpose = 'client') WHERE purpose = 'record'"
        )
    with pytest.raises(KeyUnusable):
        migrate.load_keyring(admin, postgres.kek)
