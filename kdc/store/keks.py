"""Versions of the key-encryption key: their states, and data keys moved from one to the next.

The states follow krb5's master keys (kdb5_util: add_mkey, use_mkey, update_princ_encryption,
purge_mkeys).  What rows are sealed with is kdc.store.reseal's affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from kdc.crypto.kek import KEK_OCTETS, kek_check_value
from kdc.model import Secret
from kdc.store.audit import record_act
from kdc.store.errors import CannotStart, KekRefused
from kdc.store.keyring import ACTIVE, OUTCOME, PENDING, PURGED, RETIRING, Entropy, StoredDataKey
from kdc.store.migrate import open_keks, stored_data_keys, stored_keks
from kdc.store.roots import Roots, StoredKek
from kdc.store.schema import data_keys, key_encryption_keys

# The database enforces the same (migrations, judge_key_encryption_key).
TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    PENDING: frozenset({ACTIVE, PURGED}),
    ACTIVE: frozenset({RETIRING}),
    RETIRING: frozenset({ACTIVE, PURGED}),
    PURGED: frozenset(),
}
# Every running server has looked at the keys several times by then (key_watch.REFRESH_EVERY_S),
# and has had the root unwrap the version: none learns of it by a row that it cannot read.
SETTLING_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast keys or rows are moved, and whether at all."""

    per_second: float
    dry_run: bool = False
    pause: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class KekRow:
    """A version as an operator may see it; `opens` is None for what is purged."""

    version: int
    state: str
    root: str
    opens: bool | None
    data_keys: int  # still wrapped under it
    created_at: datetime
    changed_at: datetime


def list_all(connection: Connection, roots: Roots) -> Iterator[KekRow]:
    """Every version, the oldest first; asks the root whether each opens."""
    columns = key_encryption_keys.c
    dates = {
        row[0]: (row[1], row[2])
        for row in connection.execute(
            select(columns.version, columns.created_at, columns.changed_at)
        )
    }
    counts = _counts(connection)
    for row in stored_keks(connection):
        opens: bool | None = None
        if row.state != PURGED:
            try:
                opens = bool(roots.open(row))
            except CannotStart:
                opens = False
        where = row.root or ("" if row.state == PURGED else "file")
        needed = sum(counts.get(row.version, {}).values())
        yield KekRow(row.version, row.state, where, opens, needed, *dates[row.version])
    connection.rollback()


def _counts(connection: Connection) -> dict[int, dict[str, int]]:
    """Data keys by version and purpose."""
    columns = data_keys.c
    query = select(columns.kek_version, columns.purpose, func.count()).group_by(
        columns.kek_version, columns.purpose
    )
    found: dict[int, dict[str, int]] = {}
    for version, purpose, count in connection.execute(query):
        found.setdefault(version, {})[purpose] = count
    return found


def add(connection: Connection, roots: Roots, *, entropy: Entropy) -> int:
    """A fresh version, wrapped by the current root and pending; its number.

    Raises `RootUnavailable`, and `KekRefused` where another one is added at the same time.
    """
    version = 1 + max((row.version for row in stored_keks(connection)), default=0)
    kek = Secret(entropy(KEK_OCTETS))
    row = insert(key_encryption_keys).values(
        version=version,
        check_value=kek_check_value(kek),
        state=PENDING,
        root=roots.current.name,
        wrapped=roots.current.wrap(kek, version, entropy),
    )
    try:
        connection.execute(row)
    except IntegrityError:
        connection.rollback()
        raise KekRefused("another key-encryption key is being added: try again") from None
    record_act(connection, None, "kek.add", f"kek:{version}", {"root": roots.current.name})
    connection.commit()
    return version


def activate(
    connection: Connection, roots: Roots, version: int, *, settling_s: float = SETTLING_S
) -> None:
    """`version` wraps from now on, and the one before retires.

    Raises `KekRefused` unless it is pending (for `settling_s`: running servers unwrap it
    meanwhile) or retiring, and `WrongKek` or `RootUnavailable` unless it opens.
    """
    rows = {row.version: row for row in _locked(connection)}
    chosen = rows.get(version)
    if chosen is None or ACTIVE not in TRANSITIONS[chosen.state]:
        connection.rollback()
        raise KekRefused(_expected(version, chosen.state if chosen else None, "pending"))
    roots.open(chosen)
    columns = key_encryption_keys.c
    age_s = connection.execute(
        select(func.extract("epoch", func.clock_timestamp() - columns.changed_at)).where(
            columns.version == version
        )
    ).scalar_one()
    if chosen.state == PENDING and age_s < settling_s:
        connection.rollback()
        raise KekRefused(
            f"key-encryption key {version} was added {int(age_s)} s ago: expected {settling_s:.0f}"
            " s, in which every running server unwraps it; try again then"
        )
    for row in rows.values():
        if row.state == ACTIVE:
            _move(connection, row.version, RETIRING)
    _move(connection, version, ACTIVE)
    record_act(connection, None, "kek.activate", f"kek:{version}")
    connection.commit()


def _locked(connection: Connection) -> list[StoredKek]:
    """The versions, which nobody else changes before the caller's transaction ends."""
    columns = key_encryption_keys.c
    connection.execute(select(columns.version).order_by(columns.version).with_for_update()).all()
    return stored_keks(connection)


def _move(connection: Connection, version: int, state: str) -> None:
    values: dict[str, object] = {"state": state}
    if state == PURGED:
        values |= {"root": None, "wrapped": None}
    where = key_encryption_keys.c.version == version
    connection.execute(update(key_encryption_keys).where(where).values(**values))


def _expected(version: int, state: str | None, wanted: str) -> str:
    found = "there is no such" if state is None else f"it is {state}"
    return (
        f"key-encryption key {version}: expected one that is {wanted}, {found}:"
        " `kdc kek list` shows all"
    )


@dataclass(frozen=True, slots=True)
class Rewrapping:
    """How far `rewrap` is: data keys that were to be moved, and those moved by now."""

    wanted: int
    moved: int


def rewrap(
    connection: Connection,
    roots: Roots,
    *,
    entropy: Entropy,
    pace: Pace,
) -> Generator[Rewrapping, None, None]:
    """Wraps every data key under the active version, each in a transaction of its own.

    Whatever ends it, it goes on where it was: what is moved says so.  A data key that another
    process moves or deletes meanwhile is left to it.  Raises `KeyUnusable`, `WrongKek`,
    `RootUnavailable`.
    """
    keyring = open_keks(connection, roots)
    active = next(row.version for row in stored_keks(connection) if row.state == ACTIVE)
    left = [key for key in stored_data_keys(connection) if key.kek_version != active]
    connection.rollback()
    yield Rewrapping(len(left), 0)
    if pace.dry_run:
        return
    for moved, key in enumerate(left, start=1):
        _replace(connection, key, active, keyring.rewrap(key, active, entropy))
        yield Rewrapping(len(left), moved)
        if moved < len(left):
            pace.pause(1 / pace.per_second)


def _replace(connection: Connection, key: StoredDataKey, version: int, wrapped: bytes) -> None:
    columns = data_keys.c
    same = (
        (columns.id == key.key_id)
        & (columns.kek_version == key.kek_version)
        & (columns.wrapped == key.wrapped)
    )
    connection.execute(update(data_keys).where(same).values(kek_version=version, wrapped=wrapped))
    connection.commit()


def purge(connection: Connection, version: int, *, dry_run: bool = False) -> None:
    """Erases a retiring or pending version for good, if nothing needs it.

    Raises `KekRefused`, which says what still needs it.
    """
    # The lock makes a server that wraps under it right now be first or be refused.
    rows = {row.version: row for row in _locked(connection)}
    chosen = rows.get(version)
    if chosen is None or PURGED not in TRANSITIONS[chosen.state]:
        connection.rollback()
        raise KekRefused(_expected(version, chosen.state if chosen else None, "retiring"))
    counts = _counts(connection).get(version, {})
    if counts:
        connection.rollback()
        needed = ", ".join(f"{count} of '{purpose}'" for purpose, count in sorted(counts.items()))
        hint = "; outcome keys end by themselves in 10 minutes" if OUTCOME in counts else ""
        raise KekRefused(
            f"key-encryption key {version} is still needed by data keys: {needed}:"
            f" `kdc kek rewrap` moves them{hint}"
        )
    if dry_run:
        connection.rollback()
        return
    _move(connection, version, PURGED)
    record_act(connection, None, "kek.purge", f"kek:{version}")
    connection.commit()
