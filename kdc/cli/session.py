"""What every command opens first: the configuration, the database, the keys; and what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from kdc.config import KdcSettings, load_kdc
from kdc.errors import RemoteError
from kdc.model import Nai
from kdc.store import migrate
from kdc.store.database import Connection, administration, database
from kdc.store.keyring import Keyring
from kdc.store.roots import Roots, configured_roots

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="home.toml or kdc.toml", exists=False, dir_okay=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object a line")]


def parse_nai(text: str) -> Nai:
    """A name of the command line."""
    try:
        return Nai.parse(text)
    except RemoteError:
        raise typer.BadParameter("expected a name such as alice@home.example") from None


@contextmanager
def opened(config: Path) -> Iterator[tuple[KdcSettings, Connection, Roots]]:
    """Settings, a connection and the roots of all keys.  Raises `LocalError`s for people."""
    settings = load_kdc(config)
    roots = configured_roots(settings.database)
    with database(settings.database) as conninfo, administration(conninfo) as connection:
        yield settings, connection, roots


@contextmanager
def keyed(config: Path) -> Iterator[tuple[KdcSettings, Connection, Keyring]]:
    """The same with the schema checked and the data keys loaded."""
    with opened(config) as (settings, connection, roots):
        migrate.require_current(connection)
        yield settings, connection, migrate.load_keyring(connection, roots)
