"""Streams the whole audit in the order in which it is verified, from one snapshot."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from sqlalchemy import Connection

from kdc.audit.chain import Checkpoint, Entry
from kdc.audit.check import Group, Placed
from kdc.audit.items import ActItem, EventItem, RegistrationItem
from kdc.store.audit import load_checkpoints

_ROWS_AT_ONCE: Final = 5000
_ENTRIES: Final = """
SELECT writer, sequence, at_us, size, root, absent, previous, hash
FROM audit_entries ORDER BY writer, sequence
"""
# A place that has partly been erased is a place of no entry, which verification names.
_REGISTRATIONS: Final = """
SELECT coalesce(audit_writer, -1), coalesce(audit_sequence, -1), coalesce(audit_position, -1),
  (extract(epoch FROM created_at) * 1000000)::bigint,
  record_id, class_id, identification_second, identification_low, fa_nai, inet_send(nas_address),
  operator_realm, inet_send(care_of_address), inet_send(home_address), alias, lifetime_s, spis
FROM registrations WHERE num_nonnulls(audit_writer, audit_sequence, audit_position) > 0
ORDER BY 1, 2, 3
"""
_EVENTS: Final = """
SELECT writer, sequence, position, NULL::bigint, record_id, kind, code, identification_second,
  identification_low, digest
FROM audit_events ORDER BY writer, sequence, position
"""
_ACTS: Final = """
SELECT writer, sequence, position, NULL::bigint, actor, act, object, details
FROM audit_acts ORDER BY writer, sequence, position
"""
_NOT_COVERED: Final = """
SELECT count(*), max(created_at) FROM registrations
WHERE num_nonnulls(audit_writer, audit_sequence, audit_position) = 0
"""


@dataclass(frozen=True, slots=True)
class Audit:
    """All there is; `groups` is read once."""

    kinds: dict[int, str]
    checkpoints: list[Checkpoint]
    groups: Iterator[Group]
    not_covered: int  # registrations that a release before the audit has written
    last_not_covered: datetime | None


@contextmanager
def streamed(connection: Connection) -> Iterator[Audit]:
    """One snapshot until the end of the block, nothing of it in memory as a whole."""
    connection.rollback()
    plain: Any = connection.connection.driver_connection
    assert isinstance(plain, psycopg.Connection)
    try:
        plain.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        plain.execute("SET LOCAL work_mem = '64MB'")
        checkpoints = load_checkpoints(connection)
        kinds = dict(plain.execute("SELECT id, kind FROM audit_chains").fetchall())
        row = plain.execute(_NOT_COVERED).fetchone()
        assert row is not None
        yield Audit(kinds, checkpoints, _groups(plain), *row)
    finally:
        plain.rollback()


def _groups(plain: psycopg.Connection[Any]) -> Iterator[Group]:
    registrations = (
        Placed(row[0], row[1], row[2], row[3], RegistrationItem(*row[4:]))
        for row in _rows(plain, "registrations", _REGISTRATIONS)
    )
    events = (
        Placed(row[0], row[1], row[2], None, EventItem(*row[4:]))
        for row in _rows(plain, "events", _EVENTS)
    )
    acts = (
        Placed(row[0], row[1], row[2], None, ActItem(*row[4:]))
        for row in _rows(plain, "acts", _ACTS)
    )
    entries = (Entry(*row) for row in _rows(plain, "entries", _ENTRIES))
    items = heapq.merge(registrations, events, acts, key=_place_of)
    return _joined(entries, items)


def _rows(plain: psycopg.Connection[Any], name: str, query: str) -> Iterator[tuple[Any, ...]]:
    with plain.cursor(f"audit_{name}") as cursor:
        cursor.itersize = _ROWS_AT_ONCE
        cursor.execute(query, binary=True)
        yield from cursor


def _place_of(placed: Placed) -> tuple[int, int, int]:
    return placed[:3]


def _joined(entries: Iterable[Entry], items: Iterator[Placed]) -> Iterator[Group]:
    """Entries with their items; items of no entry by themselves, in their place."""
    waiting = next(items, None)
    for entry in entries:
        place = entry[:2]
        while waiting is not None and waiting[:2] < place:
            yield Group(None, [waiting])
            waiting = next(items, None)
        found: list[Placed] = []
        while waiting is not None and waiting[:2] == place:
            found.append(waiting)
            waiting = next(items, None)
        yield Group(entry, found)
    while waiting is not None:
        yield Group(None, [waiting])
        waiting = next(items, None)
