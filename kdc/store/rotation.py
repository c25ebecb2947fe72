"""KEY0 in two versions for a while, and subscribers who are removed for good.

The old version is valid until the new one is first used for a registration (a trigger of the
database, in that registration's transaction: migrations/versions/0005) or its time is over
(`Store.sweep`).  Whichever comes first erases it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any, Final

from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import IntegrityError

from kdc.crypto.key0 import KEY0_OCTETS
from kdc.errors import LocalError
from kdc.model import Enrolment, Nai, Secret
from kdc.records import UNSPENT_SPIS
from kdc.store.acts import note_act
from kdc.store.keyring import Entropy, Keyring
from kdc.store.rows import seal_key0
from kdc.store.schema import key0_records, key0_spis
from kdc.store.subscribers import (
    REVOKED,
    SubscriberRevoked,
    SubscriberUnknown,
    draw_ids,
    fold,
    free_spis,
)

GRACE_S: Final = 7 * 86400
_ATTEMPTS: Final = 5
# The newest first, as a registration under it takes them.
_LOCK: Final = """
SELECT s.id AS subscriber_id, s.nai, s.status, host(s.home_agent) AS home_agent, s.home_agent_nai,
  CAST(s.internal_name AS text) AS internal_name, r.id, r.version, r.replaces, r.static_spi
FROM subscribers AS s JOIN key0_records AS r ON r.subscriber_id = s.id
WHERE s.folded_nai = :folded ORDER BY r.version DESC FOR UPDATE
"""
# Each its own statement under the records' locks: SPIs that a commit has just added are seen.
DUE: Final = """
SELECT t.record_id, r.id FROM key0_rotations AS t JOIN key0_records AS r ON r.id = t.replaced_id
WHERE t.ended_at IS NULL AND t.valid_until <= clock_timestamp()
ORDER BY r.id LIMIT 1000 FOR UPDATE OF r
"""
FREE_SPIS: Final = """
DELETE FROM key0_spis USING key0_records AS r
WHERE r.id = ANY(%s) AND key0_spis.record_id = r.id
  AND key0_spis.spi = ANY(r.unspent || r.last_spent)
"""
ERASE: Final = """
UPDATE key0_records SET unspent = '{}', last_spent = NULL, sealed_key0 = '', last_digest = NULL,
  outcome_key_id = NULL, sealed_outcome = NULL, revision = revision + 1
WHERE id = ANY(%s)
"""
END: Final = """
UPDATE key0_rotations SET ended_at = clock_timestamp() WHERE record_id = ANY(%s)
  AND ended_at IS NULL
"""


def rotate(
    connection: Connection, nai: Nai, keyring: Keyring, *, grace_s: int, entropy: Entropy
) -> Enrolment:
    """A new version of KEY0; the one in use stays valid for at most `grace_s`.

    What was rotated to and never used is erased.  Raises `SubscriberUnknown`, `SubscriberRevoked`.
    """
    for _ in range(_ATTEMPTS):
        try:
            enrolment = _rotate(connection, nai, keyring, grace_s, entropy)
            connection.commit()
        except IntegrityError:
            connection.rollback()  # another process has just taken an SPI
            continue
        return enrolment
    raise LocalError("no free SPIs were found: try again")


def _rotate(
    connection: Connection, nai: Nai, keyring: Keyring, grace_s: int, entropy: Entropy
) -> Enrolment:
    newest = _locked(connection, nai)[0]
    if newest["status"] == REVOKED:
        connection.rollback()
        raise SubscriberRevoked(f"{nai} is revoked, which is final: provision another name instead")
    replaced_id = newest["id"]
    if newest["replaces"] is not None:
        replaced_id = newest["replaces"]
        _erase(connection, [newest["id"]], ended=[newest["id"]])
    (record_id,) = draw_ids(connection, "key0_records", 1)
    key0 = Secret(entropy(KEY0_OCTETS))
    spis = tuple(free_spis(connection, 1 if newest["static_spi"] else UNSPENT_SPIS, entropy))
    key_id, sealed = seal_key0(key0, record_id, keyring, entropy)
    connection.execute(
        insert(key0_records).values(
            id=record_id,
            subscriber_id=newest["subscriber_id"],
            data_key_id=key_id,
            sealed_key0=sealed,
            static_spi=newest["static_spi"],
            unspent=list(spis),
            version=newest["version"] + 1,
            replaces=replaced_id,
        )
    )
    connection.execute(insert(key0_spis), [{"spi": s, "record_id": record_id} for s in spis])
    start = text(
        "INSERT INTO key0_rotations (record_id, replaced_id, valid_until)"
        " VALUES (:new, :old, clock_timestamp() + :grace_s * interval '1 second')"
    )
    connection.execute(start, {"new": record_id, "old": replaced_id, "grace_s": grace_s})
    if grace_s == 0:
        _erase(connection, [replaced_id], ended=[record_id])
    detail = {"version": newest["version"] + 1, "grace_s": grace_s}
    note_act(connection, "subscriber.rotate", subject=newest["internal_name"], detail=detail)
    stored = Nai.parse(newest["nai"])
    agent, agent_nai = IPv4Address(newest["home_agent"]), Nai.parse(newest["home_agent_nai"])
    return Enrolment(stored, key0, spis, agent, agent_nai, stored.realm)


def _locked(connection: Connection, nai: Nai) -> Sequence[Any]:
    """The subscriber with each record, the newest first; raises `SubscriberUnknown`."""
    rows = connection.execute(text(_LOCK), {"folded": fold(nai)}).mappings().all()
    if not rows:
        connection.rollback()
        raise SubscriberUnknown(f"no subscriber is called {nai}")
    return rows


def _erase(connection: Connection, record_ids: list[int], *, ended: list[int]) -> None:
    """No SPI leads to these records any more, and nothing opens their keys."""
    connection.exec_driver_sql(FREE_SPIS, (record_ids,))
    connection.exec_driver_sql(ERASE, (record_ids,))
    connection.exec_driver_sql(END, (ended,))


def delete(connection: Connection, nai: Nai) -> None:
    """Removes a revoked subscriber with its keys; registrations stay, without a name.

    Raises `SubscriberUnknown`, and `LocalError` for one who is not revoked.
    """
    rows = _locked(connection, nai)
    if rows[0]["status"] != REVOKED:
        connection.rollback()
        raise LocalError(f"{nai} is {rows[0]['status']}: revoke it first, or say --yes")
    record_ids = [row["id"] for row in rows]
    connection.exec_driver_sql(FREE_SPIS, (record_ids,))
    for statement in (
        "DELETE FROM enrolment_codes WHERE record_id = ANY(%s)",
        "DELETE FROM key0_rotations WHERE record_id = ANY(%s)",
        "DELETE FROM key0_records WHERE id = ANY(%s)",
    ):
        connection.exec_driver_sql(statement, (record_ids,))
    remove = text("DELETE FROM subscribers WHERE id = :id")
    connection.execute(remove, {"id": rows[0]["subscriber_id"]})
    note_act(connection, "subscriber.delete", subject=rows[0]["internal_name"], detail={})
    connection.commit()
