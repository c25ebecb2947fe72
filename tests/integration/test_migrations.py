"""Migrations on a real PostgreSQL: up, down, up again, the same schema, and as SQL to read."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest

from kdc.errors import LocalError
from kdc.store import SchemaMismatch, WrongKek, migrate
from kdc.store.database import administration
from tests.conftest import PostgresServer


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
    from kdc.model import Secret

    _upgrade(empty, postgres)
    other = Secret(secrets.token_bytes(32))
    with administration(empty) as connection, pytest.raises(WrongKek):
        migrate.upgrade(connection, other, entropy=secrets.token_bytes, progress=print)


def test_a_broken_rule_of_the_schema_is_one_line_without_values(
    empty: str, postgres: PostgresServer
) -> None:
    from sqlalchemy import text

    _upgrade(empty, postgres)
    with pytest.raises(LocalError) as told, administration(empty) as connection:
        connection.execute(text("INSERT INTO key0_spis VALUES (1, 424242)"))
    assert "ck_key0_spis_range" in str(told.value)
    assert "424242" not in str(told.value) and "\n" not in str(told.value)
