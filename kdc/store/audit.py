"""The audit as administration writes and reads it: acts, checkpoints, the last entries, names.

Entries of what is issued are made by the hot path's own statement (kdc.store.rows).  What is wrong
with a chain is kdc.audit's to say, and how all of it is streamed kdc.store.audit_stream's.
"""

from __future__ import annotations

import os
import pwd
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, insert, select, text

from kdc.audit.chain import (
    ACTS,
    Checkpoint,
    Entry,
    Head,
    entry_hash,
    first_hash,
    merged_heads,
    read_checkpoint,
    write_checkpoint,
)
from kdc.audit.items import ActItem, EventKind, canonical_details
from kdc.crypto.checkpoint_key import key_id_of, public_key_of, sign
from kdc.crypto.merkle import HASH_OCTETS, leaf_hash, merkle_root
from kdc.errors import LocalError
from kdc.model import Secret
from kdc.store.errors import SchemaMismatch
from kdc.store.schema import audit_acts, audit_checkpoints, audit_entries

_ACTOR: Final = "roamkey_actor"
# Acts are in one chain, whose end this lock hands from one transaction to the next: it is taken
# last, after every other lock, and held to the commit.  It needs no right to change a row.
_LOCK: Final = (
    "SET LOCAL lock_timeout = '10s'",
    "SELECT pg_advisory_xact_lock(1635083380)",  # "audt"
)
_WRITER: Final = "SELECT id FROM audit_chains WHERE kind = 'acts'"
_ACTS_AN_ENTRY: Final = 1000
_HEAD: Final = """
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, e.sequence, e.hash
FROM (VALUES (1)) AS one(x) LEFT JOIN LATERAL (
  SELECT sequence, hash FROM audit_entries WHERE writer = :writer ORDER BY sequence DESC LIMIT 1
) AS e ON true
"""


class PseudonymUnknown(LocalError):
    """Nobody here has this internal name or record number."""


# --- acts ---


def act_as(connection: Connection, actor: str) -> None:
    """Who administers over this connection; without it, the user of this process."""
    connection.info[_ACTOR] = actor


def actor_of(connection: Connection) -> str:
    """As `act_as` has said, or "os:LOGIN"."""
    known: str | None = connection.info.get(_ACTOR)
    if known is not None:
        return known
    try:
        return f"os:{pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"os:{os.geteuid()}"


def record_act(
    connection: Connection,
    actor: str | None,
    act: str,
    object_: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """One act in the caller's transaction, its last statement; `actor` None: `actor_of`.

    Neither `object_` nor `details` may have a secret or a subscriber's NAI.
    """
    record_acts(connection, actor, [(act, object_, details or {})])


def record_acts(
    connection: Connection,
    actor: str | None,
    acts: Sequence[tuple[str, str, Mapping[str, Any]]],
) -> None:
    """Acts of one transaction, a thousand an entry: act, object and details of each."""
    who = actor or actor_of(connection)
    items = [ActItem(who, act, object_, canonical_details(given)) for act, object_, given in acts]
    for start in range(0, len(items), _ACTS_AN_ENTRY):
        _append(connection, items[start : start + _ACTS_AN_ENTRY])


def _lock(connection: Connection) -> None:
    for statement in _LOCK:
        connection.execute(text(statement))


def _append(connection: Connection, items: Sequence[ActItem]) -> None:
    _lock(connection)
    writer = connection.execute(text(_WRITER)).scalar()
    if writer is None:
        raise SchemaMismatch("the chain of administrative acts is gone: `kdc audit verify`")
    at_us, last, head = connection.execute(text(_HEAD), {"writer": writer}).one()
    previous = bytes(head) if head is not None else first_hash(writer, ACTS)
    root = merkle_root([leaf_hash(item.octets()) for item in items])
    entry = Entry(writer, (last or 0) + 1, at_us, len(items), root, b"", previous, b"")
    entry = entry._replace(hash=entry_hash(entry, previous=previous, sequence=entry.sequence))
    connection.execute(insert(audit_entries).values(entry._asdict()))
    connection.execute(
        insert(audit_acts),
        [
            {"writer": writer, "sequence": entry.sequence, "position": position, **item._asdict()}
            for position, item in enumerate(items)
        ],
    )


# --- checkpoints ---


def load_checkpoints(connection: Connection) -> list[Checkpoint]:
    """All, in their order."""
    table = audit_checkpoints.c
    query = select(table.number, table.octets, table.signature, table.key_id)
    return [
        Checkpoint(row[0], bytes(row[1]), bytes(row[2]), bytes(row[3]))
        for row in connection.execute(query.order_by(table.number))
    ]


def add_checkpoint(connection: Connection, heads: Mapping[int, Head], key: Secret) -> Checkpoint:
    """Signs `heads`, which verification has found sound, as far as they are new; commits.

    Raises `LocalError` where nothing is new.
    """
    _lock(connection)  # one after the other
    earlier = load_checkpoints(connection)
    known = merged_heads(read_checkpoint(item.octets) for item in earlier)
    start = Head(0, b"")
    new = {w: head for w, head in heads.items() if head.sequence > known.get(w, start).sequence}
    if not new:
        connection.rollback()
        raise LocalError("nothing has happened since the last checkpoint")
    at_us = int(connection.execute(text("SELECT extract(epoch FROM now()) * 1000000")).scalar_one())
    previous = earlier[-1].hash if earlier else bytes(HASH_OCTETS)
    octets = write_checkpoint(len(earlier) + 1, previous, at_us, new)
    made = Checkpoint(len(earlier) + 1, octets, sign(octets, key), key_id_of(public_key_of(key)))
    connection.execute(insert(audit_checkpoints).values(made._asdict()))
    connection.commit()
    return made


# --- what is shown ---


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One item as an auditor sees it: whom it is about is a pseudonym."""

    at: datetime
    writer: int
    sequence: int
    position: int
    what: str  # registration, denial, deregistration, event, or the act
    actor: str  # of an act; else the node
    subject: str
    details: str


_TAIL: Final = """
WITH last AS (
  SELECT e.writer, e.sequence, e.at_us, c.node FROM audit_entries AS e
  JOIN audit_chains AS c ON c.id = e.writer
  ORDER BY e.at_us DESC, e.writer DESC, e.sequence DESC LIMIT :limit
)
SELECT * FROM (
  SELECT l.at_us, l.writer, l.sequence, g.audit_position AS position, -1 AS kind, l.node,
    'record:' || g.record_id AS subject,
    format('registration %s at %s for %s s', encode(g.class_id, 'hex'), g.fa_nai, g.lifetime_s)
  FROM last AS l JOIN registrations AS g
    ON g.audit_writer = l.writer AND g.audit_sequence = l.sequence
    AND g.created_at = to_timestamp(0) + l.at_us * interval '1 microsecond'
  UNION ALL
  SELECT l.at_us, l.writer, l.sequence, v.position, v.kind, l.node, 'record:' || v.record_id,
    CASE WHEN v.kind = 1 THEN 'code ' || v.code ELSE '' END
  FROM last AS l JOIN audit_events AS v ON v.writer = l.writer AND v.sequence = l.sequence
  UNION ALL
  SELECT l.at_us, l.writer, l.sequence, a.position, -2, a.actor, a.object,
    a.act || ' ' || a.details
  FROM last AS l JOIN audit_acts AS a ON a.writer = l.writer AND a.sequence = l.sequence
) AS items
ORDER BY 1 DESC, 2 DESC, 3 DESC, 4 DESC LIMIT :limit
"""


def tail(connection: Connection, *, limit: int) -> list[AuditLine]:
    """The last `limit` items, oldest first."""
    lines = []
    for row in connection.execute(text(_TAIL), {"limit": limit}):
        at_us, writer, sequence, position, kind, actor, subject, details = row
        if kind == -2:
            what, _, details = details.partition(" ")
        else:
            what = "registration" if kind == -1 else _event_name(kind)
        at = datetime.fromtimestamp(at_us / 1_000_000, UTC)
        lines.append(AuditLine(at, writer, sequence, position, what, actor, subject, details))
    return lines[::-1]


def _event_name(kind: int) -> str:
    known = EventKind(kind) if kind in set(EventKind) else EventKind.OTHER
    return "event" if known is EventKind.OTHER else known.name.lower()


@dataclass(frozen=True, slots=True)
class Person:
    """Who is behind a pseudonym."""

    nai: str
    internal_name: str
    record: int
    status: str


_WHO: Final = """
SELECT s.nai, s.internal_name::text, r.id, s.status
FROM subscribers AS s JOIN key0_records AS r ON r.subscriber_id = s.id
WHERE s.internal_name = CAST(:name AS uuid) OR r.id = CAST(:record AS bigint)
"""


def who(connection: Connection, pseudonym: str) -> Person:
    """Whom "subscriber:UUID", "record:NUMBER" or either alone is; itself an act, committed first.

    Raises `PseudonymUnknown`, and then it was asked all the same.
    """
    name, record = _read_pseudonym(pseudonym)
    shown = f"subscriber:{name}" if name else f"record:{record}"
    row = connection.execute(text(_WHO), {"name": name, "record": record}).first()
    record_act(connection, None, "audit.who", shown, {"found": row is not None})
    connection.commit()
    if row is None:
        raise PseudonymUnknown(f"nobody here is {shown}")
    return Person(*row)


def _read_pseudonym(given: str) -> tuple[str | None, int | None]:
    kind, _, rest = given.rpartition(":")
    if kind in ("", "record") and rest.isascii() and rest.isdigit() and len(rest) < 19:
        return None, int(rest)
    try:
        if kind in ("", "subscriber"):
            return str(uuid.UUID(rest)), None
    except ValueError:
        pass
    raise LocalError("expected subscriber:UUID or record:NUMBER, as `kdc audit tail` shows them")
