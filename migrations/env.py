"""How alembic runs a revision here: bounded, alone, and as readable SQL where that is asked for."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from kdc.store.schema import metadata

_ADVISORY_LOCK = 0x726F616D  # "roam": one migration at a time in one database
_OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    "compare_type": True,
    "transaction_per_migration": True,
}


def _include_object(
    thing: object, name: str | None, kind: str, reflected: bool, compared: object
) -> bool:
    """Partitions belong to their table and are not compared with the metadata."""
    del thing, compared
    return not (kind == "table" and reflected and (name or "").startswith("associations_s"))


def run_offline() -> None:
    """SQL for a database administrator to read and run."""
    context.configure(
        url="postgresql+psycopg://",
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        **_OPTIONS,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """On the connection that kdc.store.migrate hands over."""
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.execute(text("SET statement_timeout = '600s'"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
    connection.commit()
    try:
        context.configure(connection=connection, include_object=_include_object, **_OPTIONS)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
        connection.commit()


if context.is_offline_mode():
    run_offline()
else:
    run_online(context.config.attributes["connection"])
