"""Deletes what has been kept long enough: accounting sessions and requests to foreign domains.

Anybody with a secret can make such rows, so that without an end they would fill the database.  What
expires with its keys is kdc.store.hot's to sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import errors

from kdc.config import DatabaseSettings
from kdc.store.hot import Store
from kdc.store.pool import Connection as PooledConnection

_AT_ONCE: Final = 1000  # rows of one transaction: no lock and no statement is long
_CHUNKS: Final = 100  # of one call; what is left waits for the next
_DAY_S: Final = 86400

# By when we heard of it, never by what the NAS says of the time.  Sessions that are still told of
# stay, however old.  Nodes that delete at once pass over each other's rows.
_SESSIONS: Final = """
DELETE FROM accounting_sessions AS s
USING (
  SELECT peer, nas, session_id FROM accounting_sessions
  WHERE created_at < statement_timestamp() - %(kept_s)s * interval '1 second'
    AND updated_at < statement_timestamp() - %(kept_s)s * interval '1 second'
  ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) AS old
WHERE s.peer = old.peer AND s.nas = old.nas AND s.session_id = old.session_id
"""
# Ids are in the order of time, nearly: the oldest are looked at and no others.
_DISCONNECTS: Final = """
DELETE FROM disconnects WHERE id IN (
  SELECT id FROM disconnects
  WHERE id IN (SELECT id FROM disconnects ORDER BY id LIMIT %(limit)s)
    AND requested_at < statement_timestamp() - %(kept_s)s * interval '1 second'
    AND not_after < statement_timestamp()
  ORDER BY id FOR UPDATE SKIP LOCKED)
"""


@dataclass(frozen=True, slots=True)
class Purged:
    """How many rows are gone."""

    sessions: int
    disconnects: int


async def purge(store: Store, settings: DatabaseSettings) -> Purged:
    """What is older than `settings` says; at most 100,000 rows of each in one call.

    Raises `DatabaseUnavailable` and `CommitUnknown`; then the next call does the rest.
    """
    return Purged(
        await _delete(store, _SESSIONS, settings.session_retention_days),
        await _delete(store, _DISCONNECTS, settings.disconnect_retention_days),
    )


async def _delete(store: Store, statement: str, days: int) -> int:
    values = {"kept_s": days * _DAY_S, "limit": _AT_ONCE}

    async def send(connection: PooledConnection) -> int:
        return (await connection.execute(statement, values)).rowcount

    deleted = 0
    for _ in range(_CHUNKS):
        try:
            found = await store.pool.write(send)
        except (errors.DeadlockDetected, errors.SerializationFailure):
            break
        deleted += found
        if found < _AT_ONCE:
            break
    return deleted
