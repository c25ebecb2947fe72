"""Our side: the real process `aaa home` on a database prepared with the real `kdc`.

What is sent to it is bench.registrations' affair.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from bench.postgres import Postgres
from bench.process import LOOPBACK, BenchError, Server, find_free_port
from kdc.model import Secret

DATABASE: Final = "roamkey"
_ROOT: Final = Path(__file__).resolve().parent.parent
_ENVIRONMENT: Final = {"PYTHONPATH": str(_ROOT)}  # the processes start elsewhere
_CONFIGURATION: Final = """[home]
listen = ["{address}:{port}"]
realm = "home.example"
nai = "ha1@home.example"
address = "192.0.2.1"

[database]
url = "{url}"
kek_file = "home.kek"

[[client]]
name = "visited"
address = "127.0.0.1/32"
secret_file = "visited.secret"
realms = ["visited.example"]
"""


@dataclass(frozen=True, slots=True)
class Home:
    """A prepared home domain: configuration, secret, and the enrolments of its population."""

    configuration: Path
    address: tuple[str, int]
    secret: str
    enrolments: list[str]  # lines of `kdc subscriber add --json`


def prepare(folder: Path, postgres: Postgres, subscribers: int) -> Home:
    """The database with a population of `subscribers`; raises `BenchError` if `kdc` fails."""
    postgres.create_database(DATABASE)
    folder.mkdir(mode=0o700)
    secret = secrets.token_hex(32)
    secret_file = folder / "visited.secret"
    secret_file.touch(mode=0o600)
    secret_file.write_text(secret + "\n")
    address = (LOOPBACK, find_free_port())
    configuration = folder / "home.toml"
    configuration.write_text(
        _CONFIGURATION.format(address=address[0], port=address[1], url=postgres.url(DATABASE))
    )
    _kdc("kek", "create", str(folder / "home.kek"))
    _kdc("db", "upgrade", "--config", str(configuration))
    printed = _kdc(
        "subscriber", "add", "mn@home.example", "--count", str(subscribers), "--json",
        "--config", str(configuration),
    )  # fmt: skip
    return Home(configuration, address, secret, printed.splitlines())


@contextmanager
def running(folder: Path, home: Home) -> Iterator[Server]:
    """`aaa home`, answering; raises `BenchError` where it does not start."""
    command = [sys.executable, "-m", "aaa", "home", "--config", str(home.configuration)]
    log_file = folder / "home.log"
    with Server(command, log_file=log_file, environment=_ENVIRONMENT) as server:
        server.wait_for_status_server(home.address, Secret(home.secret.encode()))
        yield server


def count_rows(postgres: Postgres) -> tuple[int, int]:
    """How many registrations and how many associations have been committed."""
    with psycopg.connect(postgres.conninfo(DATABASE)) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM registrations), (SELECT count(*) FROM associations)"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _kdc(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "kdc", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **_ENVIRONMENT},
        check=False,
    )
    if ended.returncode:
        raise BenchError(f"kdc {arguments[0]} {arguments[1]}: {ended.stderr.strip()}")
    return ended.stdout
