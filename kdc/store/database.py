"""From `[database]` to connections: a given PostgreSQL, or the embedded one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import SQLAlchemyError

from kdc.config import EMBEDDED, DatabaseSettings
from kdc.store.embedded import EmbeddedServer
from kdc.store.errors import CannotStart


@contextmanager
def database(settings: DatabaseSettings) -> Iterator[str]:
    """How to connect (libpq conninfo); an embedded server runs at least until the end.

    Raises `CannotStart`.
    """
    if not settings.url.startswith(EMBEDDED):
        yield settings.url
        return
    server = EmbeddedServer(Path(settings.url.removeprefix(EMBEDDED)), settings.binaries)
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def administration(conninfo: str) -> Iterator[Connection]:
    """One SQLAlchemy connection for administration; the caller commits.

    Raises `CannotStart` with a text for people.
    """
    engine = create_engine("postgresql+psycopg://", creator=lambda: _connect(conninfo))
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        # The first line names the rule that was broken; the rest would quote values.
        reason = str(getattr(error, "orig", None) or type(error).__name__).strip()
        raise CannotStart(f"the database refused: {reason.splitlines()[0]}") from None
    finally:
        engine.dispose()


def _connect(conninfo: str) -> psycopg.Connection[tuple[object, ...]]:
    try:
        return psycopg.connect(conninfo, connect_timeout=5)
    except psycopg.OperationalError as error:
        raise CannotStart(
            f"the database is not reachable: {str(error).strip().splitlines()[0]};"
            " expected a running PostgreSQL at database.url"
        ) from None


__all__ = ["Connection", "administration", "database"]
