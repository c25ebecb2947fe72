"""Store: loads the records of a whole batch and commits a whole batch (steps 5 and 8).

Bounded in every wait, and exact about what is known: a commit has happened, has not happened, or is
unknown.
"""

from __future__ import annotations

import asyncio
import enum
import functools
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, Final

import psycopg
from psycopg import errors, sql

from kdc.config import DatabaseSettings
from kdc.crypto.kek import KeyUnusable, RowSeal, RowSealBroken
from kdc.model import Secret
from kdc.records import RecordChange, StoredRecord
from kdc.store import rotation, rows
from kdc.store.chains import Chains
from kdc.store.database import administration, database
from kdc.store.errors import DatabaseUnavailable, SpiTaken
from kdc.store.key_watch import KeyWatch
from kdc.store.keyring import OUTCOME, OUTCOME_EPOCH_S, Keyring, StoredDataKey
from kdc.store.migrate import load_keyring, require_current
from kdc.store.numbers import Allocator
from kdc.store.pool import Connection, Pool
from kdc.store.roots import Roots, configured_roots
from kdc.store.schema import FIRST_SLOT, SLOT_S, SLOTS, partition_of, slot_of
from kdc.ticket import derive_ticket_key

Entropy = Callable[[int], bytes]
_UNCHANGED: Final = """
SELECT r.id, r.revision FROM unnest(%s::bigint[], %s::bigint[]) AS t(id, revision)
JOIN key0_records AS r ON r.id = t.id AND r.revision = t.revision
"""
_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"


class CommitResult(enum.Enum):
    """What became of one item of a batch."""

    COMMITTED = "committed"
    CONFLICT = "conflict"  # the record was changed meanwhile: load and judge anew


@dataclass(frozen=True, slots=True)
class Loaded:
    """Records by the SPI that was asked for, and the database's clock (Unix seconds)."""

    records: dict[int, StoredRecord]
    clock: float
    unreadable: int  # rows whose seal does not open: alarming, and left out


class Store:
    """The issuing side of one database; opened by `Store.opened`."""

    def __init__(
        self,
        pool: Pool,
        keys: KeyWatch,
        *,
        overlap_s: float,
        entropy: Entropy,
        dynamic_addresses: IPv4Network | None,
    ) -> None:
        self.pool = pool
        self.keys = keys
        self.keyring = keyring = keys.keyring
        self._overlap_s = overlap_s
        self._dummy_row = rows.dummy_row(keyring, entropy)
        self._entropy = entropy
        self._chains = Chains(pool)
        self.unreadable = 0  # rows since the start whose seal did not open: an alarm
        self.allocator = Allocator(
            pool.connection, entropy=entropy, dynamic_addresses=dynamic_addresses
        )

    @property
    def cui_key(self) -> Secret:
        """What Chargeable-User-Identity is derived with, the same on every node."""
        return self.keyring.identity_key

    @property
    def ticket_key(self) -> Secret:
        """What the tickets of admissions are made with, the same on every node."""
        return derive_ticket_key(self.keyring.identity_key)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        settings: DatabaseSettings,
        *,
        entropy: Entropy,
        overlap_s: float = 60.0,
        dynamic_addresses: IPv4Network | None = None,
    ) -> AsyncIterator[Store]:
        """Checks schema and key-encryption key, then opens the pool.  Raises `CannotStart`."""
        roots = configured_roots(settings)
        with database(settings) as conninfo:
            keyring = _load_checked(conninfo, roots)
            async with Pool.opened(conninfo, settings) as pool:
                keys = KeyWatch(pool, keyring, roots)
                async with keys.running():
                    yield cls(
                        pool,
                        keys,
                        overlap_s=overlap_s,
                        entropy=entropy,
                        dynamic_addresses=dynamic_addresses,
                    )

    # --- step 5 ---

    async def load(self, spis: Sequence[int]) -> Loaded:
        """The records under `spis`, unspent or spent last, in one query.

        Raises `DatabaseUnavailable`.
        """
        # Step 5
        found = await self.pool.read(functools.partial(self._select_records, spis))
        records: dict[int, StoredRecord] = {}
        unreadable = 0
        for row in found:
            if row[1] is None:
                continue
            try:
                records[row[1]] = rows.read_record(row[2:], self.keyring)
            except RowSealBroken:
                unreadable += 1
        for _ in range(len(set(spis)) - len(records) - unreadable):
            # PROTOCOL 5.3: an unknown SPI costs what a live one does, so that time tells nothing.
            rows.read_record(self._dummy_row, self.keyring)
        self.unreadable += unreadable
        return Loaded(records, float(found[0][0]), unreadable)

    async def _select_records(
        self, spis: Sequence[int], connection: Connection
    ) -> list[tuple[Any, ...]]:
        cursor = await connection.execute(rows.LOAD, (list(spis),), binary=True)
        found = await cursor.fetchall()
        named = {row[at] for row in found for at in rows.KEY_IDS if row[at] is not None}
        await self.learn_keys(connection, named)
        return found

    async def learn_keys(self, connection: Connection, key_ids: Iterable[int]) -> None:
        """Data keys that have been made since the start; one that is gone stays gone."""
        await self.keys.find(connection, key_ids)

    # --- steps 7 and 8 ---

    async def reserve(self, *, key0: int, associations: Sequence[float], addresses: int) -> None:
        """Numbers for a batch, ready to be taken; `associations` has each SA's expiry.

        Raises `DatabaseUnavailable`.
        """
        try:
            await self.pool.bounded(
                self.allocator.reserve(key0=key0, associations=associations, addresses=addresses),
                self.pool.deadline_s,
            )
        except (psycopg.Error, TimeoutError):
            raise DatabaseUnavailable("the database does not answer") from None

    async def commit(self, changes: Sequence[RecordChange], *, clock: float) -> list[CommitResult]:
        """One transaction for all; each item is committed or in conflict, by itself.

        Raises `SpiTaken` and `DatabaseUnavailable` (nothing was committed) or `CommitUnknown`.
        """
        # Step 8
        if not changes:
            return []
        await self.keys.ensure_fresh()
        seal = await self._outcome_seal(clock)
        first: dict[int, RecordChange] = {}
        for change in changes:
            first.setdefault(change.record_id, change)
        ordered = sorted(first.values(), key=lambda change: change.record_id)
        committed = await self._execute_commit(ordered, seal)
        return [
            CommitResult.COMMITTED
            if first[change.record_id] is change and change.record_id in committed
            else CommitResult.CONFLICT
            for change in changes
        ]

    async def _execute_commit(self, changes: Sequence[RecordChange], seal: RowSeal) -> set[int]:
        """The record ids that were changed; the statement is its own transaction."""
        try:
            async with self._chains.appending() as appended:
                parameters = rows.write_changes(
                    changes,
                    self.keyring,
                    seal,
                    overlap_s=self._overlap_s,
                    entropy=self._entropy,
                    link=appended.link,
                )

                async def send(connection: Connection) -> list[tuple[Any, ...]]:
                    cursor = await connection.execute(rows.COMMIT, parameters, binary=True)
                    return await cursor.fetchall()

                committed = await self.pool.write(send)
                if committed:
                    appended.committed(committed[0][1])
                return {row[0] for row in committed}
        except errors.UniqueViolation:
            self.allocator.distrust()
            raise SpiTaken("a number was taken meanwhile") from None
        except (errors.DeadlockDetected, errors.SerializationFailure):
            return set()

    async def find_unchanged(self, judged: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
        """Of records and the revision of each as they were, those that are so now.

        Raises `DatabaseUnavailable`.
        """
        values = tuple(map(list, zip(*judged, strict=True)))

        async def find(connection: Connection) -> set[tuple[int, int]]:
            cursor = await connection.execute(_UNCHANGED, values, binary=True)
            return {(row[0], row[1]) for row in await cursor.fetchall()}

        return await self.pool.read(find)

    async def _outcome_seal(self, clock: float) -> RowSeal:
        """The outcome key of this epoch, made by whichever node comes first."""
        epoch = int(clock // OUTCOME_EPOCH_S)
        seal = self.keyring.find_outcome(epoch)
        if seal is not None:
            return seal
        version = self.keyring.wrapping_version
        wrapped = self.keyring.make(OUTCOME, epoch, self._entropy, version=version)
        try:
            async with asyncio.timeout(self.pool.deadline_s), self.pool.connection() as connection:
                await connection.execute(
                    "INSERT INTO data_keys (purpose, epoch, kek_version, wrapped)"
                    " VALUES (%s, %s, %s, %s) ON CONFLICT (purpose, epoch) DO NOTHING",
                    (OUTCOME, epoch, version, wrapped),
                )
                cursor = await connection.execute(
                    "SELECT id, purpose, epoch, kek_version, wrapped FROM data_keys"
                    " WHERE purpose = %s AND epoch = %s",
                    (OUTCOME, epoch),
                )
                row = await cursor.fetchone()
        except errors.CheckViolation:  # the version has been purged since we heard of it
            await self.keys.refresh()
            raise DatabaseUnavailable("the key-encryption key was purged meanwhile") from None
        except (psycopg.Error, TimeoutError):
            raise DatabaseUnavailable("the database does not answer") from None
        if row is None:
            raise DatabaseUnavailable("an outcome key was erased while it was made")
        try:
            self.keyring.add(StoredDataKey(*row))
        except KeyUnusable:
            raise DatabaseUnavailable("the outcome key of this epoch does not open") from None
        seal = self.keyring.find_outcome(epoch)
        assert seal is not None
        return seal

    # --- housekeeping ---

    async def sweep(self) -> None:
        """Erases outcome keys of past epochs and KEY0s whose grace is over; truncates what expired.

        Raises `DatabaseUnavailable`.
        """
        try:
            async with asyncio.timeout(30), self.pool.connection() as connection:
                row = await (await connection.execute(_CLOCK)).fetchone()
                assert row is not None
                oldest = int(row[0] // OUTCOME_EPOCH_S) - 1
                await connection.execute(
                    "DELETE FROM data_keys WHERE purpose = %s AND epoch < %s", (OUTCOME, oldest)
                )
                self.keyring.forget_outcomes_before(oldest)
                await connection.execute(
                    "UPDATE key0_records SET dynamic_address = NULL"
                    " WHERE dynamic_address IS NOT NULL AND registered_until < clock_timestamp()"
                )
                await _end_rotations(connection)
                await _truncate_expired(connection, row[0])
        except (psycopg.Error, TimeoutError):
            raise DatabaseUnavailable("the database does not answer") from None


async def _end_rotations(connection: Connection) -> None:
    """Old versions of KEY0 whose time is over: no SPI leads to them, and they are erased."""
    async with connection.transaction():
        due = await (await connection.execute(rotation.DUE)).fetchall()
        if due:
            replaced = [row[1] for row in due]
            await connection.execute(rotation.FREE_SPIS, (replaced,))
            await connection.execute(rotation.ERASE, (replaced,))
            await connection.execute(rotation.END, ([row[0] for row in due],))


async def _truncate_expired(connection: Connection, clock: float) -> None:
    """The slots whose hour is over and not yet to come, if nothing in them is alive."""
    in_use = {slot_of(clock + hours * SLOT_S) for hours in range(SLOTS - 2)}
    for slot in range(FIRST_SLOT, FIRST_SLOT + SLOTS):
        if slot in in_use:
            continue
        name = sql.Identifier(partition_of(slot))
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '200ms'")
            cursor = await connection.execute(
                sql.SQL(
                    "SELECT EXISTS (SELECT 1 FROM {name}), EXISTS"
                    " (SELECT 1 FROM {name} WHERE expires_at > clock_timestamp())"
                ).format(name=name)
            )
            row = await cursor.fetchone()
            if row is not None and row[0] and not row[1]:
                await connection.execute(sql.SQL("TRUNCATE {}").format(name))


def _load_checked(conninfo: str, roots: Roots) -> Keyring:
    with administration(conninfo) as connection:
        require_current(connection)
        return load_keyring(connection, roots)
