"""Migrations on a real PostgreSQL: up, down, up again, the same schema, and as SQL to read."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text

from kdc.crypto.kek import kek_check_value
from kdc.errors import LocalError
from kdc.model import Nai, Secret
from kdc.records import Record, RecordChange
from kdc.store import SchemaMismatch, WrongKek, migrate, rotation, rows
from kdc.store.chains import Link
from kdc.store.database import administration
from kdc.store.keyring import CLIENT, Keyring
from tests.conftest import PostgresServer
from tests.integration.statements_of_0001 import COMMIT_OF_0001


@pytest.fixture
def empty(postgres: PostgresServer) -> Iterator[str]:
    """How to connect to a database with nothing in it."""
    name = f"m{secrets.token_hex(6)}"
    with psycopg.connect(postgres.server.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres.conninfo(name)
    with psycopg.connect(postgres.server.conninfo, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _upgrade(conninfo: str, postgres: PostgresServer) -> list[str]:
    said: list[str] = []
    with administration(conninfo) as connection:
        migrate.upgrade(connection, postgres.kek, entropy=secrets.token_bytes, progress=said.append)
    return said


def test_up_down_and_up_again(empty: str, postgres: PostgresServer) -> None:
    assert _upgrade(empty, postgres)[0] == f"schema none -> {migrate.newest_revision()}"
    with administration(empty) as connection:
        migrate.check(connection)
        migrate.downgrade(connection, "base")
    with psycopg.connect(empty) as plain:
        left = plain.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'p', 'v') AND relname <> 'alembic_version'"
        ).fetchall()
    assert left == []
    _upgrade(empty, postgres)
    with administration(empty) as connection:
        migrate.require_current(connection)
        migrate.check(connection)


def test_an_upgrade_run_twice_changes_nothing(empty: str, postgres: PostgresServer) -> None:
    _upgrade(empty, postgres)
    again = _upgrade(empty, postgres)
    assert again[1] == "key-encryption key: the recorded one"


def test_a_table_that_is_not_of_this_release_is_told(empty: str, postgres: PostgresServer) -> None:
    _upgrade(empty, postgres)
    with psycopg.connect(empty, autocommit=True) as plain:
        plain.execute("ALTER TABLE subscribers ADD COLUMN note text")
    with administration(empty) as connection, pytest.raises(SchemaMismatch):
        migrate.check(connection)


def test_the_printed_sql_makes_the_same_schema(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as plain:
        plain.execute(migrate.offline_sql())
    with administration(empty) as connection:
        migrate.require_current(connection)
        migrate.check(connection)


def test_another_kek_does_not_upgrade(empty: str, postgres: PostgresServer) -> None:
    _upgrade(empty, postgres)
    other = Secret(secrets.token_bytes(32))
    with administration(empty) as connection, pytest.raises(WrongKek):
        migrate.upgrade(connection, other, entropy=secrets.token_bytes, progress=print)


def test_a_broken_rule_of_the_schema_is_one_line_without_values(
    empty: str, postgres: PostgresServer
) -> None:
    _upgrade(empty, postgres)
    with pytest.raises(LocalError) as told, administration(empty) as connection:
        connection.execute(text("INSERT INTO key0_spis VALUES (1, 424242)"))
    assert "ck_key0_spis_range" in str(told.value)
    assert "424242" not in str(told.value) and "\n" not in str(told.value)


def test_a_database_that_is_in_use_is_brought_here_step_by_step_and_back(
    empty: str, postgres: PostgresServer
) -> None:
    """Rows of 0001 stay as they are, and a subscriber who was revoked does not come back."""
    _populate_at_0001(empty, postgres)
    before = _everything(empty)
    with administration(empty) as connection:
        for revision in ("0002", "0003", "0004"):
            migrate.migrate_to(connection, revision)
            assert migrate.current_revision(connection) == revision
    assert _everything(empty) == before
    with administration(empty) as connection:
        migrate.migrate_to(connection, "0005")
    after = _everything(empty)
    # Each record is its subscriber's first version and replaces none.
    assert [row.removesuffix(",1,)") + ")" if ",1,)" in row else row for row in after] == before
    with psycopg.connect(empty, autocommit=True) as plain:
        valid = plain.execute(
            "SELECT bool_and(convalidated) FROM pg_constraint WHERE contype = 'c'"
        ).fetchone()
        assert valid == (True,)
        plain.execute("UPDATE subscribers SET status = 'revoked'")
        with pytest.raises(psycopg.errors.CheckViolation):
            plain.execute("UPDATE subscribers SET status = 'forgotten'")
    _upgrade(empty, postgres)
    with administration(empty) as connection:
        migrate.check(connection)
        migrate.downgrade(connection, "0001")
    with psycopg.connect(empty) as plain:
        assert plain.execute("SELECT DISTINCT status FROM subscribers").fetchall() == [
            ("suspended",)
        ]
        purposes = plain.execute("SELECT purpose FROM data_keys ORDER BY 1").fetchall()
        assert purposes == [("association",), ("identity",), ("record",)]


def test_no_release_brings_back_who_is_revoked(empty: str, postgres: PostgresServer) -> None:
    """The statement is that of `kdc subscriber resume` of 0001, which knows no revocation."""
    _populate_at_0001(empty, postgres)
    resume = "UPDATE subscribers SET status = 'active'"
    _upgrade(empty, postgres)
    with psycopg.connect(empty, autocommit=True) as plain:
        plain.execute("UPDATE subscribers SET status = 'suspended'")
        assert plain.execute(resume).rowcount > 0
        plain.execute("UPDATE subscribers SET status = 'revoked'")
        for status in ("active", "suspended"):
            with pytest.raises(psycopg.errors.CheckViolation, match="final"):
                plain.execute(resume.replace("active", status))
        plain.execute("UPDATE subscribers SET status = 'revoked', roam = NULL")


def test_a_rotation_under_way_goes_back_to_the_version_in_use(
    empty: str, postgres: PostgresServer
) -> None:
    spis = _populate_at_0001(empty, postgres)
    _upgrade(empty, postgres)
    with administration(empty) as connection:
        keyring = migrate.load_keyring(connection, postgres.kek)
        rotation.rotate(
            connection,
            Nai.parse("alice@home.example"),
            keyring,
            grace_s=60,
            entropy=secrets.token_bytes,
        )
        migrate.downgrade(connection, "0004")
    with psycopg.connect(empty) as plain:
        assert plain.execute("SELECT count(*) FROM key0_records").fetchone() == (2,)
        left = plain.execute("SELECT spi FROM key0_spis WHERE record_id = 1").fetchall()
    assert [row[0] for row in left] == spis
    _upgrade(empty, postgres)
    with administration(empty) as connection:
        migrate.check(connection)


def test_a_database_of_the_release_before_gets_the_new_data_key_and_keeps_its_own(
    empty: str, postgres: PostgresServer
) -> None:
    _populate_at_0001(empty, postgres)
    keys = "SELECT id, purpose, wrapped FROM data_keys WHERE purpose <> 'client' ORDER BY id"
    with psycopg.connect(empty) as plain:
        old = plain.execute(keys).fetchall()
    said = _upgrade(empty, postgres)
    assert said[1:] == ["key-encryption key: the recorded one", "data keys made: client"]
    with psycopg.connect(empty) as plain:
        assert plain.execute(keys).fetchall() == old
        found = plain.execute("SELECT epoch FROM data_keys WHERE purpose = 'client'").fetchall()
        assert found == [(0,)]
    assert _upgrade(empty, postgres)[1:] == ["key-encryption key: the recorded one"]
    with administration(empty) as connection:
        keyring = migrate.load_keyring(connection, postgres.kek)
    assert keyring.current(CLIENT).key_id not in {row[0] for row in old}


def test_printed_sql_without_its_data_key_says_what_to_run(
    empty: str, postgres: PostgresServer
) -> None:
    _populate_at_0001(empty, postgres)
    with psycopg.connect(empty, autocommit=True) as plain:
        plain.execute(migrate.offline_sql("0001"))
    with administration(empty) as connection:
        migrate.require_current(connection)
        migrate.check(connection)
        keyring = migrate.load_keyring(connection, postgres.kek)
    with pytest.raises(SchemaMismatch, match="kdc db upgrade"):
        keyring.current(CLIENT)


async def test_processes_of_0001_work_on_while_the_database_is_upgraded(
    empty: str, postgres: PostgresServer
) -> None:
    """The statements of the hot path as 0001 has them are run throughout, and none fails."""
    spis = _populate_at_0001(empty, postgres)
    done = asyncio.Event()
    with administration(empty) as connection:
        keyring = _keyring_of_0001(connection, postgres)

    async def work() -> int:
        rounds = 0
        connected = await psycopg.AsyncConnection.connect(empty, autocommit=True)
        async with connected as plain:
            await plain.execute("SET statement_timeout = '2s'")
            while not done.is_set():
                cursor = await plain.execute(rows.LOAD, (spis,), binary=True)
                (found,) = [r for r in await cursor.fetchall() if r[1] == spis[0]]
                record = rows.read_record(found[2:], keyring).record
                step = replace(
                    spend(record, spis[0]), digest=secrets.token_bytes(32), outcome=Secret(b"o")
                )
                parameters = rows.write_changes(
                    [step],
                    keyring,
                    keyring.current("record"),
                    overlap_s=60,
                    entropy=secrets.token_bytes,
                    link=Link(1, 1, bytes(32)),
                )
                # What the releases since 0006 put in front is for the audit.
                cursor = await plain.execute(COMMIT_OF_0001, parameters[6:], binary=True)
                assert await cursor.fetchall() == [(record.record_id,)]
                rounds += 1
        return rounds

    task = asyncio.create_task(work())
    try:
        await asyncio.sleep(0.1)
        await asyncio.to_thread(_upgrade, empty, postgres)
        await asyncio.sleep(0.1)
    finally:
        done.set()
    assert await asyncio.wait_for(task, 10) > 10


def test_an_upgrade_that_would_hold_others_up_gives_way_and_changes_nothing(
    empty: str, postgres: PostgresServer
) -> None:
    _populate_at_0001(empty, postgres)
    with psycopg.connect(empty) as long:
        long.execute("SELECT count(*) FROM subscribers")
        started = time.monotonic()
        with pytest.raises(LocalError, match="lock timeout") as told:
            _upgrade(empty, postgres)
        assert time.monotonic() - started < 10 and "\n" not in str(told.value)
    with administration(empty) as connection:
        assert migrate.current_revision(connection) == "0001"
    with psycopg.connect(empty) as plain:
        row = plain.execute("SELECT to_regclass('radius_clients')").fetchone()
    assert row == (None,)
    assert _upgrade(empty, postgres)[0] == f"schema 0001 -> {migrate.newest_revision()}"


def test_nothing_in_a_revision_hurts_a_database_in_use() -> None:
    """Squawk on what an administrator would run; 0001 makes the tables and is not in use yet."""
    squawk = shutil.which("squawk") or str(Path(sys.executable).with_name("squawk"))
    excluded = (
        "ban-drop-constraint",  # of 0002: each makes place for a wider one in the same statement
        "prefer-bigint-over-int",  # a rate and a count of attempts
        "prefer-bigint-over-smallint",  # a state
    )
    judged = subprocess.run(
        [squawk, f"--exclude={','.join(excluded)}"],
        input=migrate.offline_sql("0001"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr
    harmful = "ALTER TABLE subscribers ALTER COLUMN nai TYPE bigint USING 1;"
    refused = subprocess.run([squawk], input=harmful, capture_output=True, text=True, check=False)
    assert refused.returncode != 0


def spend(record: Record, spi: int) -> RecordChange:
    """A change that leaves the list as it is: a static SPI's."""
    return RecordChange(
        record_id=record.record_id,
        revision=record.revision,
        unspent=record.unspent,
        last_spent=record.last_spent,
        added_spis=(),
        removed_spis=(),
        last_seen=record.last_seen,
        rounds=0,
        accepted_at=(),
        digest=None,
        outcome=None,
    )


def _populate_at_0001(empty: str, postgres: PostgresServer) -> list[int]:
    """Two subscribers as the release of 0001 leaves them; the unspent SPIs of the first."""
    with administration(empty) as connection:
        migrate.migrate_to(connection, "0001")
        keyring = Keyring(postgres.kek)
        connection.execute(
            text("INSERT INTO key_encryption_keys (version, check_value) VALUES (1, :check)"),
            {"check": kek_check_value(postgres.kek)},
        )
        for purpose in ("record", "association", "identity"):
            connection.execute(
                text(
                    "INSERT INTO data_keys (purpose, kek_version, wrapped)"
                    " VALUES (:purpose, 1, :wrapped)"
                ),
                {"purpose": purpose, "wrapped": keyring.make(purpose, 0, secrets.token_bytes)},
            )
        connection.commit()
        keyring = _keyring_of_0001(connection, postgres)
        for number, name in ((1, "alice"), (2, "bob")):
            key_id, sealed = rows.seal_key0(
                Secret(secrets.token_bytes(32)), number, keyring, secrets.token_bytes
            )
            values = {"n": number, "nai": f"{name}@home.example", "key": key_id, "sealed": sealed}
            for statement in _SUBSCRIBER_OF_0001:
                connection.execute(text(statement), values)
        connection.commit()
    return [_FIRST_SPI + 1]


_FIRST_SPI = 70_000
_SUBSCRIBER_OF_0001 = (
    (
        "INSERT INTO subscribers"
        " (id, nai, folded_nai, realm, home_agent, home_agent_nai, home_address)"
        " VALUES (:n, :nai, :nai, 'home.example', '192.0.2.1', 'ha1@home.example', '10.0.0.1')"
    ),
    (
        "INSERT INTO key0_records"
        " (id, subscriber_id, data_key_id, sealed_key0, static_spi, unspent)"
        f" VALUES (:n, :n, :key, :sealed, true, ARRAY[{_FIRST_SPI} + :n])"
    ),
    f"INSERT INTO key0_spis (spi, record_id) VALUES ({_FIRST_SPI} + :n, :n)",
)


def _keyring_of_0001(connection: Connection, postgres: PostgresServer) -> Keyring:
    """The release of 0001 knows one version, which is what the file holds."""
    keyring = Keyring(postgres.kek)
    for key in migrate.stored_data_keys(connection):
        keyring.add(key)
    connection.rollback()
    return keyring


def _everything(conninfo: str) -> list[str]:
    tables = ("key_encryption_keys", "data_keys", "subscribers", "key0_records", "key0_spis")
    with psycopg.connect(conninfo) as plain:
        return [
            str(row[0])
            for table in tables
            for row in plain.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1").fetchall()
        ]
