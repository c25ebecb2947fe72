"""Imports of subscribers: thousands of lines a transaction, and how far it came within it.

A kill at any moment loses nothing: a transaction holds its lines, its counts, the place in the file
and the lengths of what was written ahead (kdc.store.resumable_file).  The same file again finds
everything as it is.  A line that says something else than what is stored changes it only where that
is asked for, and never a key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import psycopg
from psycopg import errors
from sqlalchemy import Connection, bindparam, cast, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.exc import IntegrityError

from kdc.crypto.kek import RowSealBroken
from kdc.crypto.key0 import KEY0_OCTETS
from kdc.errors import LocalError
from kdc.model import Secret
from kdc.records import UNSPENT_SPIS
from kdc.store.acts import note_act
from kdc.store.keyring import Entropy, Keyring
from kdc.store.resumable_file import ResumableFile
from kdc.store.rows import KEY0_COLUMN, seal_key0
from kdc.store.schema import subscriber_imports, subscribers
from kdc.store.subscriber_files import Line
from kdc.store.subscribers import draw_ids, fold, free_spis, subscriber_row

CHUNK_LINES: Final = 5000
_ATTEMPTS: Final = 5
_UPDATED: Final = ("home_agent", "home_agent_nai", "home_address_kind", "home_address", "roam")
_NEVER_UPDATED: Final = ("status", "static_spi")
_STORED: Final = """
SELECT s.folded_nai, s.id, s.status, host(s.home_agent) AS home_agent, s.home_agent_nai,
  s.home_address_kind, host(s.home_address) AS home_address, s.roam, r.static_spi,
  r.id AS record_id, r.data_key_id, r.sealed_key0
FROM unnest(CAST(:names AS text[])) AS n(folded)
JOIN subscribers AS s ON s.folded_nai = n.folded
JOIN LATERAL (SELECT * FROM key0_records AS k WHERE k.subscriber_id = s.id
              ORDER BY k.version DESC LIMIT 1) AS r ON true
"""
_COPY_SUBSCRIBERS: Final = (
    "COPY subscribers (id, nai, folded_nai, realm, home_agent, home_agent_nai, home_address_kind,"
    " home_address, roam, status) FROM STDIN"
)
_COPY_RECORDS: Final = (
    "COPY key0_records (id, subscriber_id, data_key_id, sealed_key0, static_spi, unspent)"
    " FROM STDIN"
)
_COPY_SPIS: Final = "COPY key0_spis (spi, record_id) FROM STDIN"


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the lines."""

    added: int = 0
    unchanged: int = 0
    updated: int = 0
    differing: int = 0
    bad: int = 0

    def plus(self, other: Counts) -> Counts:
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return Counts(*(one + two for one, two in pairs))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import has come, as it was committed."""

    import_id: int
    next_octet: int
    next_line: int
    counts: Counts
    enrolments_octets: int
    report_octets: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where an import writes: enrolments of keys made here, and lines that were not taken."""

    keyring: Keyring
    enrolments: ResumableFile
    report: ResumableFile
    update: bool
    entropy: Entropy


@dataclass(slots=True)
class _Judged:
    """One transaction's lines, sorted by what is to be done with them."""

    new: list[Line]
    changed: list[dict[str, Any]]
    told: list[tuple[int, dict[str, Any]]]
    counts: Counts


# --- how far it has come ---


def begin(
    connection: Connection, digest: bytes, options: str, *, restart: bool, enrolments_octets: int
) -> Progress:
    """The unfinished import of this very file, else a new one.

    `options` is a JSON object and names the file of `enrolments`.  Raises `LocalError` where it was
    begun with other ones, and where another import is not finished that writes to the same file.
    """
    unfinished = subscriber_imports.c.finished_at.is_(None)
    mine = (subscriber_imports.c.source_digest == digest) & unfinished
    # Whoever goes on with it would cut off what we write behind it.
    written = json.loads(options)["enrolments"]
    rival = (cast(subscriber_imports.c.options, JSON)["enrolments"].astext == written) & unfinished
    if restart:
        ended = update(subscriber_imports).where(mine | rival)
        connection.execute(ended.values(finished_at=text("now()")))
    if connection.execute(select(subscriber_imports.c.id).where(rival & ~mine)).first():
        connection.rollback()
        raise LocalError(
            f"an import of another file that writes to {written} is not finished: finish it,"
            " name other --enrolments, or --restart, which abandons it"
        )
    row = connection.execute(select(subscriber_imports).where(mine)).mappings().first()
    if row is not None and row["options"] != options:
        connection.rollback()
        raise LocalError(
            "an import of this file was begun with other options: expected the same,"
            f" {row['options']}, or --restart"
        )
    if row is None:
        start = insert(subscriber_imports).values(
            source_digest=digest, options=options, enrolments_octets=enrolments_octets
        )
        try:
            row = connection.execute(start.returning(subscriber_imports)).mappings().one()
        except IntegrityError:
            connection.rollback()
            raise LocalError("another process has just begun to import this file") from None
    connection.commit()
    counts = Counts(**{name: row[name] for name in asdict(Counts())})
    return Progress(
        row["id"], row["next_octet"], row["next_line"], counts, row["enrolments_octets"],
        row["report_octets"],
    )  # fmt: skip


def _save(connection: Connection, before: Progress, after: Progress) -> None:
    """Raises `LocalError` where another process has gone on with the same import."""
    change = (
        update(subscriber_imports)
        .where(subscriber_imports.c.id == before.import_id)
        .where(subscriber_imports.c.next_line == before.next_line)
        .where(subscriber_imports.c.finished_at.is_(None))
        .values(
            next_octet=after.next_octet,
            next_line=after.next_line,
            enrolments_octets=after.enrolments_octets,
            report_octets=after.report_octets,
            **asdict(after.counts),
        )
    )
    if connection.execute(change).rowcount != 1:
        connection.rollback()
        raise LocalError("another process has gone on with this import")


def finish(connection: Connection, progress: Progress) -> None:
    """The same file again is a new import, which finds everything there."""
    done = update(subscriber_imports).where(subscriber_imports.c.id == progress.import_id)
    connection.execute(done.values(finished_at=text("now()")))
    note_act(connection, "subscriber.import.end", subject=None, detail=asdict(progress.counts))
    connection.commit()


# --- the lines ---


def chunks(lines: Iterable[Line], size: int = CHUNK_LINES) -> Iterator[list[Line]]:
    """At most `size` lines, and no name twice: the second is then judged by what is stored."""
    chunk: list[Line] = []
    names: set[str] = set()
    for line in lines:
        name = fold(line.row.subscription.nai) if line.row is not None else None
        if len(chunk) == size or name in names:
            yield chunk
            chunk, names = [], set()
        chunk.append(line)
        if name is not None:
            names.add(name)
    if chunk:
        yield chunk


def apply(
    connection: Connection, progress: Progress, chunk: Sequence[Line], target: Target
) -> Progress:
    """One transaction for `chunk`, durable when it returns.

    Raises `LocalError`: nothing of the chunk was taken, or the outcome is unknown and the next run
    finds out.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _apply(connection, progress, chunk, target)
        except errors.UniqueViolation:
            # Another process has just taken an SPI or a name: both are asked for anew.
            connection.rollback()
            if attempt == _ATTEMPTS - 1:
                raise LocalError("no free SPIs were found: try again") from None
        except psycopg.Error as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise LocalError(
                f"the database refused: {reason}; the same command goes on where it was"
            ) from None
    raise AssertionError("unreachable")


def _apply(
    connection: Connection, progress: Progress, chunk: Sequence[Line], target: Target
) -> Progress:
    judged = judge(connection, chunk, target.keyring, update=target.update)
    enrolments = _add(connection, judged.new, target.keyring, target.entropy)
    _update(connection, judged.changed)
    after = replace(
        progress,
        next_octet=chunk[-1].end,
        next_line=chunk[-1].number + 1,
        counts=progress.counts.plus(judged.counts),
        enrolments_octets=progress.enrolments_octets + len(enrolments),
        report_octets=progress.report_octets + len(report(judged)),
    )
    _save(connection, progress, after)
    note_act(
        connection,
        "subscriber.import",
        subject=None,
        detail={"from_line": chunk[0].number, "to_line": chunk[-1].number} | asdict(judged.counts),
    )
    # On the disk before the commit: what is committed is never missing there.
    for file, octets, content in (
        (target.enrolments, progress.enrolments_octets, enrolments),
        (target.report, progress.report_octets, report(judged)),
    ):
        file.cut(octets)
        if content:
            file.append(content)
    connection.commit()
    return after


def judge(
    connection: Connection, chunk: Sequence[Line], keyring: Keyring, *, update: bool
) -> _Judged:
    """Compares with what is stored and changes nothing: a dry run ends here."""
    rows = [line.row for line in chunk if line.row is not None]
    names = [fold(row.subscription.nai) for row in rows]
    found = connection.execute(text(_STORED), {"names": names}).mappings()
    stored = {row["folded_nai"]: row for row in found}
    judged = _Judged([], [], [], Counts())
    unchanged = bad = 0
    for line in chunk:
        if line.row is None:
            bad += 1
            judged.told.append((line.number, {"reason": line.reason}))
            continue
        known = stored.get(fold(line.row.subscription.nai))
        if known is None:
            judged.new.append(line)
            continue
        differing = _differences(line, known, keyring)
        if not differing:
            unchanged += 1
        elif update and set(differing) <= set(_UPDATED):
            judged.changed.append(_wanted(line, known) | {"id": known["id"]})
        else:
            kept = [name for name in differing if not update or name not in _UPDATED]
            reason = f"differs from what is stored, which stays: {', '.join(kept)}"
            judged.told.append(
                (line.number, {"nai": str(line.row.subscription.nai), "reason": reason})
            )
    judged.counts = Counts(
        len(judged.new), unchanged, len(judged.changed), len(judged.told) - bad, bad
    )
    return judged


def report(judged: _Judged) -> bytes:
    """A JSON object for each line that was not taken."""
    return b"".join(
        json.dumps({"line": number} | content).encode() + b"\n" for number, content in judged.told
    )


def _wanted(line: Line, known: Any) -> dict[str, Any]:
    """What the row becomes: the columns that the line gives, over those that are there."""
    assert line.row is not None
    row = subscriber_row(line.row.subscription, known["id"])
    wanted = {name: row[name] if name in line.row.given else known[name] for name in _UPDATED}
    if wanted["home_address_kind"] == "dynamic":
        wanted["home_address"] = None
    elif wanted["home_address"] is None or (
        line.row.subscription.home_address is None and known["home_address"] is not None
    ):
        wanted["home_address"] = known["home_address"] or row["home_address"]
    return wanted


def _differences(line: Line, known: Any, keyring: Keyring) -> list[str]:
    assert line.row is not None
    row = line.row
    wanted = _wanted(line, known)
    differing = [name for name in _UPDATED if wanted[name] != known[name]]
    told = {"status": row.status, "static_spi": row.subscription.static_spi}
    differing += [
        name for name in _NEVER_UPDATED if name in row.given and told[name] != known[name]
    ]
    if row.key0 is not None and not _is_stored_key(row.key0, known, keyring):
        differing.append("key0")
    return differing


def _is_stored_key(key0: Secret, known: Any, keyring: Keyring) -> bool:
    """Not, where the stored one does not open: one damaged row stops no import."""
    seal = keyring.find(known["data_key_id"])
    if seal is None:
        return False
    record_id = known["record_id"]
    sealed = bytes(known["sealed_key0"])
    try:
        return seal.open(sealed, column=KEY0_COLUMN, row=record_id, owner=record_id) == key0
    except RowSealBroken:
        return False


def _update(connection: Connection, changed: Sequence[dict[str, Any]]) -> None:
    if changed:
        change = update(subscribers).where(subscribers.c.id == bindparam("of"))
        values: dict[str, Any] = {name: bindparam(name) for name in _UPDATED}
        rows = [{("of" if key == "id" else key): item[key] for key in item} for item in changed]
        connection.execute(change.values(**values), rows)


def _add(connection: Connection, new: Sequence[Line], keyring: Keyring, entropy: Entropy) -> bytes:
    """Copies the rows in; the enrolments, a JSON object a line, without keys that came with it."""
    if not new:
        return b""
    subscriber_ids = draw_ids(connection, "subscribers", len(new))
    record_ids = draw_ids(connection, "key0_records", len(new))
    spis = iter(free_spis(connection, UNSPENT_SPIS * len(new), entropy))
    people, records, numbers, enrolments = [], [], [], []
    for line, subscriber_id, record_id in zip(new, subscriber_ids, record_ids, strict=True):
        assert line.row is not None
        item = line.row.subscription
        key0 = line.row.key0 or Secret(entropy(KEY0_OCTETS))
        own = [next(spis) for _ in range(1 if item.static_spi else UNSPENT_SPIS)]
        key_id, sealed = seal_key0(key0, record_id, keyring, entropy)
        row = subscriber_row(item, subscriber_id)
        people.append((*row.values(), line.row.status))
        unspent = "{" + ",".join(map(str, own)) + "}"
        records.append((record_id, subscriber_id, key_id, sealed, item.static_spi, unspent))
        numbers += [(spi, record_id) for spi in own]
        enrolments.append(_enrolment(line, key0, own))
    _copy(connection, _COPY_SUBSCRIBERS, people)
    _copy(connection, _COPY_RECORDS, records)
    _copy(connection, _COPY_SPIS, numbers)
    return b"".join(enrolments)


def _enrolment(line: Line, key0: Secret, spis: list[int]) -> bytes:
    """As `kdc subscriber add --json` prints it (PROTOCOL 5.4)."""
    assert line.row is not None
    item = line.row.subscription
    key = {} if line.row.key0 is not None else {"key0": key0.reveal().hex()}
    content = {
        "nai": str(item.nai),
        **key,
        "spis": spis,
        "home_agent": str(item.home_agent),
        "home_agent_nai": str(item.home_agent_nai),
        "realm": item.nai.realm,
    }
    return json.dumps(content).encode() + b"\n"


def _copy(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
