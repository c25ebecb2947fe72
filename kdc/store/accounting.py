"""Accounting sessions: one row each, the same whatever comes twice, late or in another order.

Every column has a rule by which two requests of a session become one, and no rule asks which came
first.  So what a proxy sends again counts once, and no session goes backwards.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import errors
from sqlalchemy import Connection, text

from kdc.accounting import NAS_REBOOT, AccountingRecord, AccountingStatus
from kdc.model import Nai
from kdc.store.errors import CommitRefused, CommitUnknown, DatabaseUnavailable
from kdc.store.hot import Store
from kdc.store.pool import Connection as PooledConnection
from kdc.store.subscribers import fold

STATUSES: Final = {1: "started", 2: "interim", 3: "closed", 4: "stopped"}  # closed: by its NAS
_CLOSED: Final = 3
_STOPPED: Final = 4
_PROGRESS: Final = {
    AccountingStatus.START: 1,
    AccountingStatus.INTERIM_UPDATE: 2,
    AccountingStatus.STOP: _STOPPED,
}
_ATTEMPTS: Final = 4  # where two nodes lock the same sessions in turn
# Acct-Delay-Time counts whole seconds, so that an Accounting-On which is sent again looks later
# than it was: it must not close what began right after the first.
_SLACK_S: Final = 2.0
_CLOSED_AT_ONCE: Final = 1000
_CHUNKS: Final = 100

_LARGEST: Final = (
    "status", "operator_realm", "fa_nai", "nas_identifier", "nas_address", "event_time",
    "session_time_s", "input_octets", "output_octets", "input_packets", "output_packets",
    "tie_rank",
)  # fmt: skip
_TIE: Final = ("class_id", "spis", "user_name")  # all three of the request that tells most
# What a NAS has closed by Accounting-On takes time and cause of its own Stop, should one come.
_OF_STOP: Final = "CASE WHEN s.status = 3 AND excluded.status = 4 THEN excluded.{0} ELSE {1} END"
_RULES: Final = (
    {name: f"greatest(s.{name}, excluded.{name})" for name in _LARGEST}
    | {
        name: f"CASE WHEN excluded.tie_rank > s.tie_rank THEN excluded.{name} ELSE s.{name} END"
        for name in _TIE
    }
    | {
        "started_at": "least(s.started_at, excluded.started_at)",
        "stopped_at": _OF_STOP.format("stopped_at", "least(s.stopped_at, excluded.stopped_at)"),
        "terminate_cause": _OF_STOP.format(
            "terminate_cause", "greatest(s.terminate_cause, excluded.terminate_cause)"
        ),
    }
)
_COLUMNS: Final = tuple(_RULES)
# Sessions of a batch come sorted by their key, so that two nodes lock them in one order.  Within a
# batch the same rules: DISTINCT ON keeps the row of the greatest tie_rank.
_RECORD: Final = f"""
INSERT INTO accounting_sessions AS s (peer, nas, session_id, {", ".join(_COLUMNS)})
SELECT DISTINCT ON (peer, nas, session_id) peer, nas, session_id,
  {", ".join(f"max({n}) OVER w" for n in _LARGEST[:-1])}, tie_rank, {", ".join(_TIE)},
  to_timestamp(min(started_at) OVER w), to_timestamp(min(stopped_at) OVER w),
  max(terminate_cause) OVER w
FROM (
  SELECT *, to_timestamp(at) AS event_time FROM json_to_recordset(%s::json) AS t(
    peer text, nas text, session_id text, status smallint, class_id bytea, spis bigint[],
    user_name text, tie_rank bytea, operator_realm text, fa_nai text, nas_identifier text,
    nas_address inet, at float8, started_at float8, stopped_at float8, session_time_s bigint,
    input_octets numeric, output_octets numeric, input_packets numeric, output_packets numeric,
    terminate_cause bigint)
) AS item
WINDOW w AS (PARTITION BY peer, nas, session_id)
ORDER BY peer, nas, session_id, tie_rank DESC
ON CONFLICT (peer, nas, session_id) DO UPDATE SET
  {", ".join(f"{name} = {rule}" for name, rule in _RULES.items())}, updated_at = clock_timestamp()
WHERE ({", ".join(f"s.{name}" for name in _COLUMNS)})
  IS DISTINCT FROM ({", ".join(_RULES.values())})
"""  # noqa: S608 - constants alone
_CLOSE: Final = """
UPDATE accounting_sessions AS s
SET status = 3, stopped_at = to_timestamp(%(at)s), terminate_cause = %(cause)s,
  updated_at = clock_timestamp()
FROM (
  SELECT peer, nas, session_id FROM accounting_sessions
  WHERE peer = %(peer)s AND nas = %(nas)s AND status < 3
    AND event_time < to_timestamp(%(at)s - %(slack_s)s)
  ORDER BY session_id LIMIT %(limit)s FOR UPDATE
) AS old
WHERE s.peer = old.peer AND s.nas = old.nas AND s.session_id = old.session_id
"""


class Recorded(enum.Enum):
    """What became of one Accounting-Request; only the first is answered (RFC 2866 §2)."""

    RECORDED = "recorded"  # durable
    REFUSED = "refused"  # no row can hold it
    UNKNOWN = "unknown"  # not known to be durable: the NAS sends it again


async def record(store: Store, batch: Sequence[AccountingRecord]) -> list[Recorded]:
    """Durable when it returns: all sessions in one transaction, then what a NAS closes.

    Raises `DatabaseUnavailable` and `CommitUnknown`: then nothing of the batch is answered.
    """
    results = [Recorded.UNKNOWN] * len(batch)
    of_sessions = [index for index, item in enumerate(batch) if not item.status.of_nas]
    await _record_sessions(store, batch, of_sessions, results)
    # After the sessions, and by time: an Accounting-On closes what stands before it.
    of_nas = [index for index, item in enumerate(batch) if item.status.of_nas]
    for index in sorted(of_nas, key=lambda index: batch[index].event_time):
        results[index] = await _close_sessions(store, batch[index])
    return results


async def _record_sessions(
    store: Store, batch: Sequence[AccountingRecord], chosen: list[int], results: list[Recorded]
) -> None:
    """Halves what the database refuses until the one is found that it does not hold."""
    if not chosen:
        return
    rows = json.dumps([_row(batch[index]) for index in chosen])

    async def send(connection: PooledConnection) -> int:
        return (await connection.execute(_RECORD, (rows,))).rowcount

    try:
        await _write(store, send)
    except CommitRefused:
        if len(chosen) == 1:
            results[chosen[0]] = Recorded.REFUSED
            return
        middle = len(chosen) // 2
        for half in (chosen[:middle], chosen[middle:]):
            await _record_sessions(store, batch, half, results)
        return
    for index in chosen:
        results[index] = Recorded.RECORDED


async def _close_sessions(store: Store, item: AccountingRecord) -> Recorded:
    """RFC 2866 §5.1: a NAS that starts or stops accounting has no session of before any more.

    By the time of the event, so that one which is sent again closes nothing that began since.
    """
    values = {
        "peer": item.peer,
        "nas": item.nas,
        "at": item.event_time,
        "slack_s": _SLACK_S,
        "cause": NAS_REBOOT,
        "limit": _CLOSED_AT_ONCE,
    }

    async def send(connection: PooledConnection) -> int:
        return (await connection.execute(_CLOSE, values)).rowcount

    try:
        for _ in range(_CHUNKS):
            if await _write(store, send) < _CLOSED_AT_ONCE:
                return Recorded.RECORDED
    except CommitRefused:
        return Recorded.REFUSED
    except (DatabaseUnavailable, CommitUnknown):
        pass
    return Recorded.UNKNOWN


async def _write(store: Store, send: Any) -> int:
    for _ in range(_ATTEMPTS):
        try:
            return int(await store.pool.write(send))
        except (errors.UniqueViolation, errors.DeadlockDetected, errors.SerializationFailure):
            continue
    raise DatabaseUnavailable("other nodes write the same sessions")


def _row(item: AccountingRecord) -> dict[str, Any]:
    stopped = item.status is AccountingStatus.STOP
    return {
        "peer": item.peer,
        "nas": item.nas,
        "session_id": item.session_id,
        "status": _PROGRESS[item.status],
        "class_id": "\\x" + item.class_id.hex() if item.class_id is not None else None,
        "spis": list(item.spis),
        "user_name": item.user_name,
        "tie_rank": "\\x" + item.tie_rank.hex(),
        "operator_realm": item.operator_realm,
        "fa_nai": item.fa_nai,
        "nas_identifier": item.nas_identifier,
        "nas_address": str(item.nas_address) if item.nas_address is not None else None,
        "at": item.event_time,
        "started_at": item.event_time if item.status is AccountingStatus.START else None,
        "stopped_at": item.event_time if stopped else None,
        "session_time_s": item.session_time_s,
        "input_octets": item.input_octets,
        "output_octets": item.output_octets,
        "input_packets": item.input_packets,
        "output_packets": item.output_packets,
        "terminate_cause": item.terminate_cause if stopped else None,
    }


# --- administration ---


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions; `realm` is the visited one, lowered."""

    active: bool = False
    realm: str | None = None
    subscriber: Nai | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A session as an operator may see it; `subscriber` is None where its Class is not ours."""

    session_id: str
    status: str
    subscriber: str | None
    registration: str | None  # its Class in hex
    registered: bool  # whether that is one of our registrations
    user_name: str | None
    spis: list[int]
    peer: str
    operator_realm: str | None
    fa_nai: str | None
    nas_identifier: str | None
    nas_address: str | None
    started_at: datetime | None
    event_time: datetime
    stopped_at: datetime | None
    session_time_s: int | None
    input_octets: int | None
    output_octets: int | None
    input_packets: int | None
    output_packets: int | None
    terminate_cause: int | None


_LIST: Final = """
SELECT s.session_id, s.status, b.nai, encode(s.class_id, 'hex'), g.class_id IS NOT NULL,
  s.user_name, s.spis, s.peer, s.operator_realm, s.fa_nai, s.nas_identifier, host(s.nas_address),
  s.started_at, s.event_time, s.stopped_at, s.session_time_s, s.input_octets, s.output_octets,
  s.input_packets, s.output_packets, s.terminate_cause
FROM accounting_sessions AS s
LEFT JOIN registrations AS g ON g.class_id = s.class_id
  -- Another operator may have seen a Class on its way: its sessions are nobody's of ours.
  AND lower(coalesce(s.operator_realm, split_part(s.fa_nai, '@', 2), g.operator_realm,
    split_part(g.fa_nai, '@', 2))) = lower(coalesce(g.operator_realm, split_part(g.fa_nai, '@', 2)))
LEFT JOIN key0_records AS r ON r.id = g.record_id
LEFT JOIN subscribers AS b ON b.id = r.subscriber_id
WHERE (NOT :active OR s.status < 3)
  AND (CAST(:realm AS text) IS NULL
       OR lower(coalesce(s.operator_realm, split_part(s.fa_nai, '@', 2))) = :realm)
  AND (CAST(:subscriber AS text) IS NULL OR b.folded_nai = :subscriber)
ORDER BY s.created_at DESC, s.peer, s.nas, s.session_id
LIMIT :limit
"""


def list_sessions(connection: Connection, wanted: SessionFilter) -> Iterator[Session]:
    """The latest first."""
    subscriber = wanted.subscriber
    values = {
        "active": wanted.active,
        "realm": wanted.realm,
        "subscriber": fold(subscriber) if subscriber is not None else None,
        "limit": wanted.limit,
    }
    for row in connection.execution_options(yield_per=1000).execute(text(_LIST), values):
        found = list(row)
        found[1] = STATUSES[row[1]]
        found[16:20] = [int(count) if count is not None else None for count in row[16:20]]
        yield Session(*found)
