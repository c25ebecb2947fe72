"""The outbox of dynamic authorization: what foreign domains are to be told, and what they said.

A status and what follows from it are one transaction; which node sends a request, and how, is
aaa's affair.  No key is here or goes out from here.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from kdc.errors import LocalError
from kdc.model import IpAddress, Nai
from kdc.store import subscribers
from kdc.store.audit import record_act
from kdc.store.hot import Store
from kdc.store.pool import Connection as PooledConnection

CHANNEL: Final = "roamkey_disconnects"
NOT_AFTER_S: Final = 60
_SESSION_NOT_FOUND: Final = 503  # RFC 5176 §3.5: Session-Context-Not-Found
_REQUEST_INITIATED: Final = 507  # RFC 5176 §3.5: the FA has begun what it was asked for
_POLL_S: Final = 0.2
STANDS: Final = "what was asked for stands, and `kdc disconnect list` shows what comes of it"


class DisconnectKind(enum.StrEnum):
    """RFC 5176 §2.1, §2.2."""

    DISCONNECT = "disconnect"
    COA = "coa"  # asks for a new registration and ends nothing


class DisconnectState(enum.StrEnum):
    """How far one has come; the last three are final."""

    PENDING = "pending"
    SENT = "sent"
    ACKED = "acked"
    NAKED = "naked"
    FAILED = "failed"  # no answer in time

    @property
    def final(self) -> bool:
        return self not in (DisconnectState.PENDING, DisconnectState.SENT)


class DisconnectsNotSeen(LocalError):
    """What was asked for is committed; what comes of it cannot be seen."""


class SpiNotLive(LocalError):
    """No live association has this SPI."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """One request as an operator sees it; `spis` are the SAs in which the FA takes part."""

    id: int
    kind: DisconnectKind
    registration: str  # the Class in hex
    spis: list[int]
    realm: str
    fa_nai: str
    nas_address: str
    reason: str | None
    requested_at: datetime
    state: DisconnectState
    error_cause: int | None
    attempts: int

    @property
    def done(self) -> bool:
        """Whether the FA holds nothing of it any more, or has taken the request for a renewal."""
        wanted = _SESSION_NOT_FOUND
        if self.kind is DisconnectKind.COA:
            wanted = _REQUEST_INITIATED
        agreed = self.state is DisconnectState.NAKED and self.error_cause == wanted
        return self.state is DisconnectState.ACKED or agreed


@dataclass(frozen=True, slots=True)
class Claimed:
    """One request that this node sends, alone for as long as its lease."""

    id: int
    kind: DisconnectKind
    class_id: bytes
    spis: tuple[int, ...]
    realm: str  # where it goes: the operator's realm, else that of `fa_nai`; lowered
    operator_realm: str | None
    fa_nai: str
    nas_identifier: str | None
    nas_address: IpAddress
    not_after: float  # Unix seconds of the database's clock
    remaining_s: float  # until then
    attempts: int  # with this one


# --- administration ---

_LOCK: Final = """
SELECT r.id FROM key0_records AS r JOIN subscribers AS s ON s.id = r.subscriber_id
WHERE s.folded_nai = :folded ORDER BY r.id FOR UPDATE OF r
"""
_LOCK_OF_SPI: Final = """
SELECT r.id, a.class_id, a.class_id = r.current_registration,
  a.class_id = r.previous_registration AND r.previous_until > clock_timestamp()
FROM associations AS a JOIN key0_records AS r ON r.id = a.record_id
WHERE a.spi = :spi AND a.expires_at > clock_timestamp()
FOR UPDATE OF r
"""
# What is live of the records, and what has been ended at home while its FA has not yet agreed.
_REQUEST: Final = """
INSERT INTO disconnects (kind, record_id, class_id, spis, realm, operator_realm, fa_nai,
  nas_identifier, nas_address, reason, not_after)
SELECT :kind, g.record_id, g.class_id,
  ARRAY(SELECT a.spi FROM associations AS a WHERE a.spi = ANY(g.spis)
        AND a.class_id = g.class_id AND a.pair IN (2, 3) ORDER BY a.spi),
  w.realm, g.operator_realm, g.fa_nai, (SELECT s.nas_identifier FROM accounting_sessions AS s
   WHERE s.class_id = g.class_id AND coalesce(s.operator_realm, w.realm) = w.realm
   ORDER BY s.event_time DESC LIMIT 1),
  g.nas_address, :reason, clock_timestamp() + :not_after_s * interval '1 second'
FROM key0_records AS r
CROSS JOIN LATERAL (
  SELECT r.current_registration AS class_id
  UNION SELECT r.previous_registration WHERE r.previous_until > clock_timestamp()
  UNION SELECT d.class_id FROM disconnects AS d
    WHERE d.record_id = r.id AND d.kind = 'disconnect' AND :again
) AS c
JOIN registrations AS g ON g.class_id = c.class_id AND g.record_id = r.id
CROSS JOIN LATERAL (
  SELECT lower(coalesce(g.operator_realm, split_part(g.fa_nai, '@', 2))) AS realm
) AS w
WHERE r.id = ANY(:records) AND (CAST(:class_id AS bytea) IS NULL OR g.class_id = :class_id)
  AND g.created_at + g.lifetime_s * interval '1 second' > clock_timestamp()
  AND EXISTS (SELECT 1 FROM associations AS a WHERE a.spi = ANY(g.spis)
    AND a.class_id = g.class_id AND a.pair IN (2, 3))  -- not swept: the FA holds some, or did
  AND NOT EXISTS (SELECT 1 FROM disconnects AS d WHERE d.class_id = g.class_id
    AND d.record_id = r.id AND d.kind = 'disconnect' AND (
      d.state = 'acked' OR d.error_cause = 503  -- the FA holds nothing of it any more
      OR (d.state IN ('pending', 'sent') AND d.not_after > clock_timestamp())))
ORDER BY g.created_at
RETURNING id
"""
_UNDER_WAY: Final = """
SELECT id FROM disconnects
WHERE record_id = ANY(:records) AND kind = 'disconnect' AND state IN ('pending', 'sent')
  AND not_after > clock_timestamp() ORDER BY id
"""
# As a deregistration does.  The revision makes every commit that is under way a conflict, even
# where nothing is live; without digest and outcome no request that is heard again gets its keys.
_END: Final = """
UPDATE key0_records SET current_registration = NULL, previous_registration = NULL,
  previous_until = NULL, current_fa = NULL, current_home_address = NULL, dynamic_address = NULL,
  registered_until = NULL, last_digest = NULL, outcome_key_id = NULL, sealed_outcome = NULL,
  revision = revision + 1
WHERE id = ANY(:records)
"""
_END_PREVIOUS: Final = """
UPDATE key0_records SET previous_registration = NULL, previous_until = NULL,
  revision = revision + 1
WHERE id = ANY(:records)
"""


def request_for_subscriber(
    connection: Connection,
    nai: Nai,
    status: str,
    *,
    reason: str | None = None,
    not_after_s: int = NOT_AFTER_S,
) -> list[int]:
    """Suspends or revokes, ends what is registered, and asks for its end abroad, all at once.

    The ids of the requests under way; asked again, it repeats those that no FA has agreed to.
    Raises `SubscriberUnknown`, `SubscriberRevoked`.
    """
    name = subscribers.change_status(connection, nai, status)
    folded = subscribers.fold(nai)
    records = [row[0] for row in connection.execute(text(_LOCK), {"folded": folded})]
    ids = _request(
        connection, records, DisconnectKind.DISCONNECT, reason=reason, not_after_s=not_after_s
    )
    connection.execute(text(_END), {"records": records})
    details = {"disconnects": ids}
    record_act(connection, None, f"subscriber.{status}", f"subscriber:{name}", details)
    connection.commit()
    return ids


def request_for_spi(
    connection: Connection,
    spi: int,
    kind: DisconnectKind,
    *,
    reason: str | None = None,
    not_after_s: int = NOT_AFTER_S,
) -> list[int]:
    """The same for the registration with this live SPI; a renewal ends nothing.

    With a current registration ends what it has replaced and what is still valid beside it.
    Raises `SpiNotLive`.
    """
    row = connection.execute(text(_LOCK_OF_SPI), {"spi": spi}).first()
    if row is None or not (row[2] or row[3]):
        connection.rollback()
        raise SpiNotLive(f"no live association has SPI {spi}: `kdc sa list` shows them")
    record_id, class_id, current, _ = row
    alone = None if current and kind is DisconnectKind.DISCONNECT else bytes(class_id)
    ids = _request(
        connection, [record_id], kind, class_id=alone, reason=reason, not_after_s=not_after_s
    )
    if kind is DisconnectKind.DISCONNECT:
        connection.execute(text(_END if current else _END_PREVIOUS), {"records": [record_id]})
    details = {"spi": spi, "registration": bytes(class_id).hex(), "disconnects": ids}
    act = "sa.revoke" if kind is DisconnectKind.DISCONNECT else "sa.renew"
    record_act(connection, None, act, f"record:{record_id}", details)
    connection.commit()
    return ids


def _request(
    connection: Connection,
    records: Sequence[int],
    kind: DisconnectKind,
    *,
    class_id: bytes | None = None,
    reason: str | None,
    not_after_s: int,
) -> list[int]:
    values = {
        "kind": kind.value,
        "records": list(records),
        "class_id": class_id,
        "again": kind is DisconnectKind.DISCONNECT and class_id is None,
        "reason": reason,
        "not_after_s": not_after_s,
    }
    made = [row[0] for row in connection.execute(text(_REQUEST), values)]
    if made:
        connection.execute(text(f"NOTIFY {CHANNEL}"))
    if not values["again"]:
        return made
    return [row[0] for row in connection.execute(text(_UNDER_WAY), {"records": list(records)})]


COLUMNS: Final = """
  d.id, d.kind, encode(d.class_id, 'hex'), d.spis, d.realm, d.fa_nai, host(d.nas_address), d.reason,
  d.requested_at, d.state, d.error_cause, d.attempts
"""
_FIND: Final = f"SELECT {COLUMNS} FROM disconnects AS d WHERE id = ANY(:ids) ORDER BY id"  # noqa: S608


def find(connection: Connection, ids: Collection[int]) -> list[Disconnect]:
    """What has become of them by now."""
    found = [read_disconnect(row) for row in connection.execute(text(_FIND), {"ids": list(ids)})]
    connection.rollback()
    return found


def read_disconnect(row: Sequence[Any]) -> Disconnect:
    """A row of `COLUMNS`."""
    values = list(row)
    values[1], values[9] = DisconnectKind(row[1]), DisconnectState(row[9])
    return Disconnect(*values)


def wait(
    connection: Connection,
    ids: Collection[int],
    *,
    timeout_s: float,
    progress: Callable[[Sequence[Disconnect]], None] | None = None,
) -> list[Disconnect]:
    """The same once all are final, or after `timeout_s`; raises `DisconnectsNotSeen`.

    Tells `progress` each change.
    """
    until = time.monotonic() + timeout_s
    told: list[Disconnect] = []
    while True:
        try:
            found = find(connection, ids)
        except OperationalError:
            raise DisconnectsNotSeen(f"the database does not answer any more: {STANDS}") from None
        if progress is not None and found != told:
            progress(found)
        told = found
        if all(item.state.final for item in found) or time.monotonic() >= until:
            return found
        time.sleep(_POLL_S)


# --- servers ---

_CLAIM: Final = """
WITH late AS (
  UPDATE disconnects SET state = 'failed', finished_at = clock_timestamp(), claimed_until = NULL
  WHERE id IN (
    SELECT id FROM disconnects
    WHERE state IN ('pending', 'sent') AND not_after <= clock_timestamp()
      AND (claimed_until IS NULL OR claimed_until <= clock_timestamp())
    ORDER BY id LIMIT 256 FOR UPDATE SKIP LOCKED)
), due AS (
  SELECT id, row_number() OVER (PARTITION BY realm ORDER BY id) AS place FROM disconnects
  WHERE state IN ('pending', 'sent') AND not_after > clock_timestamp()
    AND (claimed_until IS NULL OR claimed_until <= clock_timestamp())
    AND (%(realms)s::text[] IS NULL OR realm = ANY(%(realms)s::text[]))
), chosen AS (
  SELECT id FROM disconnects
  WHERE id IN (SELECT id FROM due WHERE place <= %(per_realm)s)
    AND state IN ('pending', 'sent') AND coalesce(claimed_until, '-infinity') <= clock_timestamp()
  ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE disconnects AS d SET state = 'sent', attempts = d.attempts + 1, claimed_by = %(node)s,
  claimed_until = clock_timestamp() + %(lease_s)s::float8 * interval '1 second'
FROM chosen WHERE d.id = chosen.id
RETURNING d.id, d.kind, d.class_id, d.spis, d.realm, d.operator_realm, d.fa_nai, d.nas_identifier,
  host(d.nas_address), extract(epoch FROM d.not_after)::float8,
  extract(epoch FROM d.not_after - clock_timestamp())::float8, d.attempts
"""
# An FA's agreement is a fact, whoever heard it; anything else only the node of the lease may say.
_FINISH: Final = """
UPDATE disconnects SET state = %(state)s, error_cause = %(error_cause)s,
  finished_at = clock_timestamp(), claimed_until = NULL
WHERE id = %(id)s AND state IN ('pending', 'sent')
  AND (claimed_by = %(node)s OR %(state)s = 'acked')
"""
_RELEASE: Final = """
UPDATE disconnects SET state = 'pending', claimed_by = NULL, claimed_until = NULL
WHERE id = %(id)s AND state = 'sent' AND claimed_by = %(node)s
"""


async def claim(
    store: Store,
    node: str,
    *,
    realms: Collection[str] | None = None,
    limit: int = 16,
    per_realm: int = 16,
    lease_s: float = 10.0,
) -> list[Claimed]:
    """What `node` is to send to `realms` (None: to all), and nobody else for `lease_s`.
    At most `per_realm` are for one realm: one that does not answer keeps no other waiting.
    A lease that has ended is another's to take.  What comes too late is marked as failed here.
    Raises `DatabaseUnavailable` and `CommitUnknown`; then a lease may stand and end by itself.
    """
    values = {
        "node": node,
        "realms": None if realms is None else [realm.lower() for realm in realms],
        "limit": limit,
        "per_realm": per_realm,
        "lease_s": lease_s,
    }

    async def send(connection: PooledConnection) -> list[tuple[Any, ...]]:
        return await (await connection.execute(_CLAIM, values)).fetchall()

    return [_read_claimed(row) for row in sorted(await store.pool.write(send))]


def _read_claimed(row: tuple[Any, ...]) -> Claimed:
    values = list(row)
    values[1], values[2], values[3] = DisconnectKind(row[1]), bytes(row[2]), tuple(row[3])
    values[8] = ip_address(row[8])
    return Claimed(*values)


async def finish(
    store: Store,
    node: str,
    disconnect_id: int,
    state: DisconnectState,
    error_cause: int | None = None,
) -> bool:
    """Whether it is final now by this; False where another node has it, or it was final.

    Raises `DatabaseUnavailable` and `CommitUnknown`, after which the same may be said again.
    """
    if not state.final:
        raise LocalError("a disconnect ends as acked, naked or failed")
    values = {"id": disconnect_id, "node": node, "state": state.value, "error_cause": error_cause}
    return await _change_one(store, _FINISH, values)


async def release(store: Store, node: str, disconnect_id: int) -> bool:
    """Gives it back, for another node or for later.  Raises as `finish` does."""
    return await _change_one(store, _RELEASE, {"id": disconnect_id, "node": node})


async def _change_one(store: Store, statement: str, values: dict[str, Any]) -> bool:
    async def send(connection: PooledConnection) -> bool:
        return (await connection.execute(statement, values)).rowcount > 0

    return await store.pool.write(send)
