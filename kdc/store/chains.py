"""The hash chains that this process appends to: one for each commit that is under way.

A chain has one writer, so that no commit waits for another's; the process knows its end.  What an
entry covers is kdc.audit's affair, and kdc.store.rows appends it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import psycopg
from psycopg import errors

from kdc.audit.chain import ISSUING, first_hash
from kdc.store.errors import CommitRefused, DatabaseUnavailable
from kdc.store.pool import Pool

# After these the database has said that nothing was committed: the chain ends where it did.
_NOTHING_COMMITTED = (
    errors.UniqueViolation,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    CommitRefused,
    DatabaseUnavailable,
)
_ENTRY_KEY = "pk_audit_entries"


class Link(NamedTuple):
    """Where the next entry of a chain goes."""

    writer: int
    sequence: int
    previous: bytes


class Chains:
    """Those of this process.  One whose end is not known is left for good, as nothing follows."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._idle: list[Link] = []

    @asynccontextmanager
    async def appending(self) -> AsyncIterator[Appended]:
        """A chain's end, nobody else's meanwhile; the block says what has become of it.

        Raises `DatabaseUnavailable` where a new chain is needed and cannot be begun.
        """
        link = self._idle.pop() if self._idle else await self._begin()
        appended = Appended(link)
        try:
            yield appended
        except _NOTHING_COMMITTED as error:
            if not _is_of_entries(error):
                self._idle.append(link)
            raise
        self._idle.append(appended.next)

    async def _begin(self) -> Link:
        async def insert() -> int:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    "INSERT INTO audit_chains (kind, node) VALUES (%s, %s) RETURNING id",
                    (ISSUING, f"{socket.gethostname()}:{os.getpid()}"),
                )
                row = await cursor.fetchone()
                assert row is not None
                return int(row[0])

        try:
            writer = await self._pool.bounded(insert(), self._pool.deadline_s)
        except (psycopg.Error, TimeoutError):
            raise DatabaseUnavailable("the database does not answer") from None
        return Link(writer, 1, first_hash(writer, ISSUING))


class Appended:
    """The link that is used, and the one behind it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.next = link

    def committed(self, entry_hash: bytes) -> None:
        """The entry stands, with this hash."""
        self.next = Link(self.link.writer, self.link.sequence + 1, entry_hash)


def _is_of_entries(error: BaseException) -> bool:
    """Whether somebody else has written where only we write."""
    return isinstance(error, errors.UniqueViolation) and error.diag.constraint_name == _ENTRY_KEY
