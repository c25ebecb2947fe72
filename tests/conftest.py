"""One embedded PostgreSQL for the whole run; each test gets a database of its own."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import psycopg
import pytest

from kdc.config import DatabaseSettings
from kdc.model import Secret
from kdc.store import Store, migrate
from kdc.store.database import administration
from kdc.store.embedded import EmbeddedServer
from kdc.store.keyring import read_kek

_TEMPLATE = "roamkey_template"


@dataclass(frozen=True)
class PostgresServer:
    """A running server, and the key-encryption key of its template database."""

    server: EmbeddedServer
    kek_file: Path

    def conninfo(self, database: str) -> str:
        return psycopg.conninfo.make_conninfo(self.server.conninfo, dbname=database)

    def url(self, database: str) -> str:
        return f"postgresql:///{database}?host={self.server.socket_folder}&user=roamkey"

    @property
    def kek(self) -> Secret:
        return read_kek(self.kek_file)

    def settings(self, database: str, **changes: object) -> DatabaseSettings:
        given = {"url": self.url(database), "kek_file": str(self.kek_file)} | changes
        return DatabaseSettings.model_validate(given, context={"folder": Path("/")})

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The name of a migrated database that is there until the end."""
        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(self.server.conninfo, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        try:
            yield name
        finally:
            with psycopg.connect(self.server.conninfo, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's own user can enter; pytest's are closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="roamkey-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres(folder: Path) -> Iterator[PostgresServer]:
    """The server in `folder`, with a migrated template database."""
    kek_file = folder / "kek"
    kek_file.write_text(secrets.token_hex(32))
    kek_file.chmod(0o600)
    server = EmbeddedServer(folder / "state")
    server.start()
    running = PostgresServer(server, kek_file)
    try:
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {_TEMPLATE}")
        with administration(running.conninfo(_TEMPLATE)) as migrated:
            migrate.upgrade(
                migrated, running.kek, entropy=secrets.token_bytes, progress=lambda line: None
            )
        yield running
    finally:
        server.stop()


@pytest.fixture(scope="session")
def reachable_folder() -> Iterator[Path]:
    with temporary_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres(reachable_folder: Path) -> Iterator[PostgresServer]:
    with running_postgres(reachable_folder) as running:
        yield running


@pytest.fixture
def database_name(postgres: PostgresServer) -> Iterator[str]:
    """A fresh, migrated database."""
    with postgres.fresh_database() as name:
        yield name


@pytest.fixture
def database_settings(postgres: PostgresServer, database_name: str) -> DatabaseSettings:
    """How a process is configured to use that database."""
    return postgres.settings(database_name)


@pytest.fixture
async def store(database_settings: DatabaseSettings) -> AsyncIterator[Store]:
    """The issuing side on that database."""
    async with Store.opened(
        database_settings,
        entropy=secrets.token_bytes,
        dynamic_addresses=IPv4Network("10.200.0.0/16"),
    ) as opened:
        yield opened
