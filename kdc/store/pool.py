"""Pool: connections of one node, bounded in every wait and exact about what is known of a commit.

What is asked and what is written is hot's, accounting's, disconnects' and radius_clients' affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from kdc.config import DatabaseSettings
from kdc.store.errors import CommitRefused, CommitUnknown, DatabaseUnavailable

Connection = AsyncConnection[tuple[Any, ...]]
Result = TypeVar("Result")
Work = Callable[[Connection], Coroutine[Any, Any, Result]]
_WARNING: Final = "01000"  # a cancelled wait for a standby: committed here, perhaps nowhere else
# Every statement here finds a few rows by key, however large the tables: a plan that reads a whole
# one, to which the planner's guess of a batch's size may lead, is wrong at every size.
_PLANNER: Final = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit")


class Pool:
    """Opened by `Pool.opened`; connections are in autocommit mode."""

    def __init__(self, pool: AsyncConnectionPool[Connection], *, deadline_s: float) -> None:
        self._pool = pool
        self.deadline_s = deadline_s
        self._abandoned: set[asyncio.Task[Any]] = set()

    @classmethod
    @asynccontextmanager
    async def opened(cls, conninfo: str, settings: DatabaseSettings) -> AsyncIterator[Pool]:
        """Waits for the first connection, at most ten seconds."""
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            min_size=1,
            max_size=settings.pool_size,
            timeout=settings.deadline_s,
            configure=_configure(settings.deadline_s),
            open=False,
        )
        await pool.open(wait=True, timeout=10)
        try:
            yield cls(pool, deadline_s=settings.deadline_s)
        finally:
            await pool.close(timeout=2)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A pooled connection; raises `DatabaseUnavailable` when none comes in time."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except PoolTimeout:
            raise DatabaseUnavailable("no connection in time") from None

    async def bounded(self, work: Coroutine[Any, Any, Result], limit_s: float) -> Result:
        """The result within `limit_s`, else TimeoutError at once.

        Cancelling a query of a server that has frozen takes psycopg ten seconds; those are spent
        in the background.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._abandoned.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait({task}, timeout=limit_s)
        if not done:
            task.cancel()
            raise TimeoutError
        return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has been told; nobody else is to be

    async def read(self, work: Work[Result]) -> Result:
        """What `work` finds, which writes nothing.  Raises `DatabaseUnavailable`."""
        try:
            return await self._attempt(work)
        except psycopg.OperationalError:
            pass
        # The pool may hold connections to a server that has been restarted since.
        try:
            await self.bounded(self._pool.check(), self.deadline_s)
            return await self._attempt(work)
        except (psycopg.Error, TimeoutError):
            raise DatabaseUnavailable("the database does not answer") from None

    async def _attempt(self, work: Work[Result]) -> Result:
        try:
            return await self.bounded(self._connected(work), self.deadline_s)
        except TimeoutError:
            raise DatabaseUnavailable("the database does not answer") from None

    async def _connected(self, work: Work[Result]) -> Result:
        async with self.connection() as connection:
            return await work(connection)

    async def write(self, work: Work[Result]) -> Result:
        """What `work` returns once it is committed; `work` is one statement or one transaction.

        Raises `DatabaseUnavailable` and `CommitRefused` (nothing was committed) or `CommitUnknown`;
        UniqueViolation, DeadlockDetected and SerializationFailure are the caller's to judge.
        """
        sent: list[bool] = []
        try:
            return await self.bounded(self._send(work, sent), 2 * self.deadline_s)
        except (errors.UniqueViolation, errors.DeadlockDetected, errors.SerializationFailure):
            raise
        except (errors.IntegrityError, errors.DataError):
            raise CommitRefused("an item breaks a rule of the schema or of a type") from None
        except psycopg.Error as error:
            if _is_definite(error):
                raise DatabaseUnavailable("the commit was refused") from None
            raise CommitUnknown("the connection ended around a commit") from None
        except TimeoutError:
            if sent:
                raise CommitUnknown("no answer to a commit in time") from None
            raise DatabaseUnavailable("no connection in time") from None

    async def _send(self, work: Work[Result], sent: list[bool]) -> Result:
        async with self.connection() as connection:
            sent.append(True)
            with _warnings(connection) as warned:
                result = await work(connection)
            if warned:
                raise CommitUnknown("committed with a warning of the server")
            return result


@contextmanager
def _warnings(connection: Connection) -> Iterator[list[str]]:
    """SQLSTATEs of warnings while the block runs."""
    seen: list[str] = []

    def handle(diagnostic: errors.Diagnostic) -> None:
        if diagnostic.sqlstate == _WARNING:
            seen.append(diagnostic.sqlstate)

    connection.add_notice_handler(handle)
    try:
        yield seen
    finally:
        connection.remove_notice_handler(handle)


def _is_definite(error: psycopg.Error) -> bool:
    """Whether the server itself has said that this transaction is not committed."""
    state = error.sqlstate
    # 57P01..03: the server ends the connection, perhaps after the commit record was written.
    return state is not None and not state.startswith(("57P", "08"))


def _configure(deadline_s: float) -> Callable[[Connection], Any]:
    async def configure(connection: Connection) -> None:
        await connection.set_autocommit(True)
        for setting in _PLANNER:
            await connection.execute(f"SET {setting} = off")
        await connection.execute(f"SET statement_timeout = {int(deadline_s * 1000)}")
        await connection.execute(f"SET lock_timeout = {int(deadline_s * 1000)}")

    return configure
