"""Batches that are committed for the audit's sake, and what verification says of them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import psycopg

from kdc.audit.check import Checker, Report
from kdc.model import Enrolment
from kdc.records import RecordChange
from kdc.store import CommitResult, Store
from kdc.store.audit_stream import streamed
from kdc.store.database import administration
from tests.integration.stored import change_of


async def changes_of(store: Store, enrolments: Sequence[Enrolment]) -> list[RecordChange]:
    """A granted registration for each."""
    loaded = await store.load([e.spis[0] for e in enrolments])
    found = {item.record.nai: item.record for item in loaded.records.values()}
    return [
        await change_of(store, found[e.nai], found[e.nai].unspent[0], loaded.clock)
        for e in enrolments
    ]


async def commit(store: Store, changes: Sequence[RecordChange]) -> list[CommitResult]:
    clock = (await store.load([])).clock
    return await store.commit(changes, clock=clock)


def verify(conninfo: str, public_keys: Sequence[bytes] = ()) -> Report:
    with administration(conninfo) as connection, streamed(connection) as found:
        return Checker(found.kinds, found.checkpoints, public_keys).run(found.groups)


def execute(conninfo: str, *statements: str) -> None:
    """As somebody who may write the database."""
    with psycopg.connect(conninfo) as connection:
        for statement in statements:
            assert connection.execute(statement.encode()).rowcount != 0, statement


def writer_of(conninfo: str) -> int:
    """The first chain of what is issued."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "SELECT min(id) FROM audit_chains WHERE kind = 'issuing'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def random_entropy(count: int) -> bytes:
    return secrets.token_bytes(count)
