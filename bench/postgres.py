"""The private PostgreSQL that both sides of a benchmark share: default settings, full durability.

What is in its databases is the affair of bench.freeradius and of the product.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg

from bench.process import BenchError, Server

USER: Final = "bench"
MAXIMUM_CONNECTIONS: Final = 200
_BINARIES: Final = Path("/usr/lib/postgresql")
_SYSTEM_USER: Final = "postgres"
_START_DEADLINE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server; clients reach it by a Unix socket in `socket_folder`."""

    socket_folder: Path
    server: Server

    def conninfo(self, database: str) -> str:
        """The database in the keyword form of libpq."""
        return f"host={self.socket_folder} user={USER} dbname={database}"

    def url(self, database: str) -> str:
        """The database in the URL form of libpq."""
        return f"postgresql://{USER}@/{database}?host={quote(str(self.socket_folder), safe='')}"

    def create_database(self, database: str) -> None:
        """An empty database owned by `USER`."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(_name(database)))

    def settle(self, *databases: str) -> None:
        """Statistics and a checkpoint behind the loading, so that no round pays for it."""
        for database in databases:
            with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def settings(self) -> dict[str, str]:
        """The settings that decide what a commit costs, as the server has them."""
        names = ["server_version", "fsync", "synchronous_commit", "full_page_writes"]
        names += ["wal_sync_method", "commit_delay", "shared_buffers", "max_wal_size"]
        with psycopg.connect(self.conninfo("postgres")) as connection:
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", (names,)
            ).fetchall()
        return dict(rows)


@contextmanager
def running(folder: Path) -> Iterator[Postgres]:
    """A new server with its data in `folder`, gone at the end.

    As root it runs as the system's user `postgres`, which must be able to enter `folder`.  Raises
    `BenchError` where PostgreSQL is missing or does not start.
    """
    binaries = _find_binaries()
    data, sockets = folder / "data", folder / "socket"
    for path in (data, sockets):
        path.mkdir()
        if os.geteuid() == 0:
            shutil.chown(path, _SYSTEM_USER, _SYSTEM_USER)
    data.chmod(0o700)
    owner = _SYSTEM_USER if os.geteuid() == 0 else None
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=owner,
        group=owner,
        extra_groups=[] if owner else None,
        cwd="/",
    )
    # No address is listened on, and the folder's name is known to nobody else: trust is enough.
    settings = (
        f"unix_socket_directories={sockets}",
        "listen_addresses=",
        f"max_connections={MAXIMUM_CONNECTIONS}",
    )
    command = [str(binaries / "postgres"), "-D", str(data)]
    command += [word for setting in settings for word in ("-c", setting)]
    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for the clients.
    with Server(
        command, log_file=folder / "postgres.log", user=_SYSTEM_USER, stop_signal=signal.SIGINT
    ) as server:
        postgres = Postgres(sockets, server)
        _wait_until_ready(postgres)
        yield postgres


def _wait_until_ready(postgres: Postgres) -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    while True:
        postgres.server.check_running()
        try:
            psycopg.connect(postgres.conninfo("postgres")).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"PostgreSQL does not start: {error}") from None
            time.sleep(0.05)  # the server says nowhere when it will listen
        else:
            return


def _find_binaries() -> Path:
    found = sorted(_BINARIES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise BenchError(f"no PostgreSQL below {_BINARIES}: install the package postgresql")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(_SYSTEM_USER)
        except KeyError:
            raise BenchError(f"run as root, but there is no user {_SYSTEM_USER}") from None
    return found[-1].parent


def _name(database: str) -> psycopg.sql.Identifier:
    return psycopg.sql.Identifier(database)
