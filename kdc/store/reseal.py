"""Data keys that replace others, rows sealed anew under them, and the old ones destroyed.

Rows are taken in batches in the order of their keys and replaced only where nobody has changed
them since they were read: a server that registers at the same time is never in the way, nor held
up.  Where it was ended, the next run finds what is left by the data key that each row names.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from kdc.crypto.kek import RowSeal, RowSealBroken
from kdc.store.audit import record_act
from kdc.store.errors import KekRefused
from kdc.store.keks import Pace
from kdc.store.key_watch import STALE_AFTER_S
from kdc.store.keyring import ASSOCIATION, CLIENT, RECORD, Entropy, Keyring
from kdc.store.radius_clients import PREVIOUS_COLUMN, SECRET_COLUMN
from kdc.store.rows import KEY0_COLUMN, KEYS_COLUMN

ROTATED: Final = (RECORD, ASSOCIATION, CLIENT)  # nothing is sealed with the identity key
BATCH: Final = 500
_BATCHES_PER_SECOND: Final = 5  # where they are throttled: a trickle, not a gush and a pause
# Who has not heard of the replacement for STALE_AFTER_S seals nothing more; the rest is margin.
DESTROY_AFTER_S: Final = 3 * STALE_AFTER_S


@dataclass(frozen=True, slots=True)
class _Sealed:
    """Where rows of one purpose are: key column, owner, data key, sealed columns, guards."""

    table: str
    key: str
    owner: str
    columns: tuple[tuple[str, str], ...]  # name, and as it is bound
    guard: str  # what changes with every other change of the row


_PLACES: Final = {
    RECORD: _Sealed("key0_records", "id", "id", (("sealed_key0", KEY0_COLUMN),), "revision"),
    ASSOCIATION: _Sealed(
        "associations", "spi", "record_id", (("sealed_keys", KEYS_COLUMN),), "record_id"
    ),
    CLIENT: _Sealed(
        "radius_clients",
        "id",
        "id",
        (("sealed_secret", SECRET_COLUMN), ("sealed_previous", PREVIOUS_COLUMN)),
        "revision",
    ),
}


def rotate(
    connection: Connection, keyring: Keyring, purposes: Sequence[str], *, entropy: Entropy
) -> None:
    """A fresh data key for each of `purposes`, current on every server within seconds."""
    version = keyring.wrapping_version
    for purpose in purposes:
        # Two at the same time would both draw the same epoch: the unique key refuses one of them.
        epoch = connection.execute(
            text("SELECT max(epoch) + 1 FROM data_keys WHERE purpose = :purpose"),
            {"purpose": purpose},
        ).scalar_one()
        connection.execute(
            text(
                "INSERT INTO data_keys (purpose, epoch, kek_version, wrapped)"
                " VALUES (:purpose, :epoch, :version, :wrapped)"
            ),
            {
                "purpose": purpose,
                "epoch": epoch,
                "version": version,
                "wrapped": keyring.make(purpose, epoch, entropy, version=version),
            },
        )
        connection.execute(
            text(
                "UPDATE data_keys SET replaced_at = clock_timestamp()"
                " WHERE purpose = :purpose AND epoch < :epoch AND replaced_at IS NULL"
            ),
            {"purpose": purpose, "epoch": epoch},
        )
    record_act(connection, None, "data_key.rotate", "data_keys", {"purposes": sorted(purposes)})
    connection.commit()


@dataclass(frozen=True, slots=True)
class Resealing:
    """How far rows of one purpose are."""

    purpose: str
    wanted: int
    done: int
    unreadable: int  # rows that do not open: left as they are, and told
    changed: int  # rows that somebody changed meanwhile: found by the next run


def reseal(
    connection: Connection,
    keyring: Keyring,
    purpose: str,
    *,
    entropy: Entropy,
    pace: Pace,
) -> Iterator[Resealing]:
    """Seals each row of `purpose` under the current data key; every batch is one transaction."""
    place, seal = _PLACES[purpose], keyring.current(purpose)
    wanted = connection.execute(
        text(f"SELECT count(*) FROM {place.table} WHERE data_key_id <> :current"),  # noqa: S608
        {"current": seal.key_id},
    ).scalar_one()
    connection.rollback()
    done = unreadable = changed = 0
    yield Resealing(purpose, wanted, done, unreadable, changed)
    if pace.dry_run:
        return
    after, limit = -1, max(1, min(BATCH, int(pace.per_second / _BATCHES_PER_SECOND)))
    while True:
        started = time.monotonic()
        batch = _read(connection, place, seal.key_id, after, limit)
        if not batch:
            break
        after = batch[-1].key
        opened = [_seal_anew(row, place, keyring, seal, entropy) for row in batch]
        usable = [row for row in opened if row is not None]
        written = _write(connection, place, seal.key_id, usable)
        done += written
        unreadable += len(batch) - len(usable)
        changed += len(usable) - written
        yield Resealing(purpose, wanted, done, unreadable, changed)
        pace.pause(max(0.0, len(batch) / pace.per_second - (time.monotonic() - started)))


def _read(
    connection: Connection, place: _Sealed, current: int, after: int, limit: int
) -> list[Any]:
    columns = ", ".join(name for name, _ in place.columns)
    query = (
        f"SELECT {place.key} AS key, {place.owner} AS owner, {place.guard} AS guard,"  # noqa: S608
        f" data_key_id, {columns} FROM {place.table}"
        f" WHERE {place.key} > :after AND data_key_id <> :current ORDER BY {place.key} LIMIT :limit"
    )
    values = {"after": after, "current": current, "limit": limit}
    found = list(connection.execute(text(query), values))
    connection.rollback()
    return found


def _seal_anew(
    row: Any, place: _Sealed, keyring: Keyring, seal: RowSeal, entropy: Entropy
) -> dict[str, Any] | None:
    """The parameters of one row; None where it does not open."""
    old = keyring.find(row.data_key_id)
    values: dict[str, Any] = {"key": row.key, "guard": row.guard, "old": row.data_key_id}
    for name, column in place.columns:
        sealed = getattr(row, name)
        values[name] = None
        if sealed is None:
            continue
        if old is None:
            return None
        try:
            value = old.open(bytes(sealed), column=column, row=row.key, owner=row.owner)
        except RowSealBroken:
            return None
        values[name] = seal.seal(
            value, column=column, row=row.key, owner=row.owner, entropy=entropy
        )
    return values


def _write(
    connection: Connection, place: _Sealed, current: int, batch: list[dict[str, Any]]
) -> int:
    """How many were written: not those that have changed since they were read."""
    if not batch:
        return 0
    names = [name for name, _ in place.columns]
    keys = ", ".join(f"CAST(:{name} AS bigint[])" for name in ("key", "guard", "old"))
    sealed = ", ".join(f"CAST(:{name} AS bytea[])" for name in names)
    sets = ", ".join(f"{name} = n.{name}" for name in names)
    # What is locked is skipped, not waited for: nobody can be in a ring of waits with us.
    statement = (
        f"WITH free AS MATERIALIZED (SELECT {place.key} AS key FROM {place.table}"  # noqa: S608
        f" WHERE {place.key} = ANY(CAST(:key AS bigint[])) FOR UPDATE SKIP LOCKED)"
        f" UPDATE {place.table} AS r SET data_key_id = :current, {sets}"
        f" FROM free JOIN unnest({keys}, {sealed}) AS n(key, guard, old, {', '.join(names)})"
        f" ON n.key = free.key"
        f" WHERE r.{place.key} = n.key AND r.{place.guard} = n.guard AND r.data_key_id = n.old"
    )
    values = {name: [row[name] for row in batch] for name in ("key", "guard", "old", *names)}
    written = connection.execute(text(statement), values | {"current": current}).rowcount
    connection.commit()
    return written


def destroy_replaced(
    connection: Connection, *, after_s: float = DESTROY_AFTER_S, dry_run: bool = False
) -> list[tuple[int, str]]:
    """Deletes replaced data keys under which no row is any more; their ids and purposes.

    What they sealed is erased with them, in old row versions and in backups made later too.
    Raises `KekRefused`, which says what still needs one, or how young a replacement is.
    """
    rows = connection.execute(
        text(
            "SELECT id, purpose, extract(epoch FROM clock_timestamp() - replaced_at)::float8"
            " FROM data_keys WHERE replaced_at IS NOT NULL ORDER BY id FOR UPDATE"
        )
    ).all()
    for key_id, purpose, age_s in rows:
        if age_s < after_s:
            connection.rollback()
            raise KekRefused(
                f"data key {key_id} of '{purpose}' was replaced {int(age_s)} s ago: expected"
                f" {after_s:.0f} s, after which no server seals with it any more"
            )
        table = _PLACES[purpose].table
        needed = connection.execute(
            text(f"SELECT count(*) FROM {table} WHERE data_key_id = :id"),  # noqa: S608
            {"id": key_id},
        ).scalar_one()
        if needed:
            connection.rollback()
            raise KekRefused(
                f"data key {key_id} of '{purpose}' is still needed by {needed} rows of {table}:"
                " `kdc kek rewrap --rows` moves them"
            )
    if not dry_run:
        ids = [row[0] for row in rows]
        connection.execute(text("DELETE FROM data_keys WHERE id = ANY(:ids)"), {"ids": ids})
        record_act(connection, None, "data_key.destroy", "data_keys", {"ids": sorted(ids)})
        connection.commit()
    else:
        connection.rollback()
    return [(row[0], row[1]) for row in rows]
