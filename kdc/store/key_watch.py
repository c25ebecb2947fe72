"""KeyWatch: a running server learns new key-encryption keys and data keys within seconds.

The root is asked here, in a thread and beside the requests, and only for a version that is not
unwrapped yet: while it is away, what is unwrapped stays usable and issuing goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

import psycopg

from kdc.crypto.kek import KeyUnusable
from kdc.errors import LocalError, RemoteError
from kdc.store.keyring import OUTCOME, PURGED, Keyring, StoredDataKey
from kdc.store.pool import Connection, Pool
from kdc.store.roots import Roots, StoredKek

REFRESH_EVERY_S: Final = 2.0
# Nobody seals under a data key of whose replacement he has not heard for longer than this;
# kdc.store.reseal destroys a replaced one only after a multiple of it.
STALE_AFTER_S: Final = 20.0
_ROOT_TIMEOUT_S: Final = 30.0
_ASK_ROOT_EVERY_S: Final = 15.0  # a version that did not open is not asked for at each refresh
_KEKS: Final = "SELECT version, state, root, wrapped, check_value FROM key_encryption_keys"
_KEYS: Final = "SELECT id, purpose, epoch, kek_version, wrapped FROM data_keys"


class KeyWatch:
    """One server's view of the keys; `keyring` is what the rest of the store uses."""

    def __init__(self, pool: Pool, keyring: Keyring, roots: Roots) -> None:
        self._pool = pool
        self.keyring = keyring
        self._roots = roots
        self._fresh_at = time.monotonic()
        self._asked_at: dict[int, float] = {}  # when the root was asked for a version
        self._missing: list[StoredKek] = []
        self.unusable = 0  # data keys that have not opened: what they seal is unreadable

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps up while the block runs."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_EVERY_S)
            with suppress(RemoteError, LocalError, psycopg.Error):
                await self.refresh()
                await self.ask_root()

    async def ensure_fresh(self) -> None:
        """Before something is sealed.  Raises `DatabaseUnavailable`."""
        if time.monotonic() - self._fresh_at > STALE_AFTER_S:
            await self.refresh()

    async def refresh(self) -> None:
        """Asks the database once, and no root.  Raises `DatabaseUnavailable`."""
        started = time.monotonic()
        known = self.keyring.lasting_ids()  # not what a request learns while we ask
        keks, keys = await self._pool.read(self._select)
        self.keyring.learn_states({row.version: row.state for row in keks})
        self._missing = [
            row for row in keks if row.state != PURGED and not self.keyring.has_kek(row.version)
        ]
        for key in keys:
            if self.keyring.find(key.key_id) is None:
                self._learn_key(key)
        self.keyring.forget(known - {key.key_id for key in keys})
        self._fresh_at = max(started, self._fresh_at)

    async def ask_root(self) -> None:
        """Has the root unwrap the versions that are not here yet; what does not open stays out.

        `kdc kek list` tells whether a version opens.
        """
        now = time.monotonic()
        for row in self._missing:
            if (
                row.version in self._asked_at
                and now - self._asked_at[row.version] < _ASK_ROOT_EVERY_S
            ):
                continue
            self._asked_at[row.version] = now
            with suppress(LocalError, TimeoutError):
                async with asyncio.timeout(_ROOT_TIMEOUT_S):
                    kek = await asyncio.to_thread(self._roots.open, row)
                self.keyring.add_kek(row.version, row.state, kek)

    async def _select(self, connection: Connection) -> tuple[list[StoredKek], list[StoredDataKey]]:
        """Keys first: the version of each key is then among the versions."""
        query = f"{_KEYS} WHERE purpose <> %s"
        keys = await (await connection.execute(query, (OUTCOME,), binary=True)).fetchall()
        keks = await (await connection.execute(_KEKS, binary=True)).fetchall()
        return [StoredKek(*row) for row in keks], [StoredDataKey(*row) for row in keys]

    def _learn_key(self, key: StoredDataKey) -> None:
        try:
            self.keyring.add(key)
        except KeyUnusable:
            self.unusable += 1

    async def find(self, connection: Connection, key_ids: Iterable[int]) -> None:
        """Data keys that have been made since; one that is gone, or damaged, stays unknown.

        For requests: no root is asked.  A version is unwrapped while it is pending.
        """
        unknown = [key_id for key_id in key_ids if self.keyring.find(key_id) is None]
        if unknown:
            cursor = await connection.execute(f"{_KEYS} WHERE id = ANY(%s)", (unknown,))
            for row in await cursor.fetchall():
                self._learn_key(StoredDataKey(*row))
