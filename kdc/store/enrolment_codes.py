"""Codes with which a device fetches its KEY0 once; a second use is a security event.

A database has a keyed hash of each.  How a device comes to us is the affair of who calls `redeem`.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any, Final

from sqlalchemy import Connection, text

from kdc.crypto.kek import RowSealBroken
from kdc.crypto.key0 import hkdf_expand
from kdc.errors import LocalError
from kdc.model import Enrolment, Nai, Secret
from kdc.store.acts import note_act
from kdc.store.keyring import Entropy, Keyring
from kdc.store.rows import KEY0_COLUMN
from kdc.store.subscribers import SubscriberUnknown, fold

VALID_S: Final = 86400
_CODE_OCTETS: Final = 20  # 160 bits: 32 letters and digits, in eight groups
_GROUP: Final = 4
_LABEL: Final = b"roamkey enrolment code v1"
_NEWEST: Final = """
SELECT r.id, CAST(s.internal_name AS text) FROM subscribers AS s
JOIN key0_records AS r ON r.subscriber_id = s.id
WHERE s.folded_nai = :folded AND s.status = 'active' ORDER BY r.version DESC LIMIT 1
"""
_ISSUE: Final = """
INSERT INTO enrolment_codes (code_hash, record_id, expires_at)
VALUES (:hash, :record, clock_timestamp() + :valid_s * interval '1 second')
"""
_REDEEM: Final = """
UPDATE enrolment_codes AS c SET used_at = clock_timestamp()
FROM key0_records AS r JOIN subscribers AS s ON s.id = r.subscriber_id
WHERE c.code_hash = :hash AND c.used_at IS NULL AND c.expires_at > clock_timestamp()
  AND r.id = c.record_id AND s.status = 'active' AND octet_length(r.sealed_key0) > 0
RETURNING s.nai, host(s.home_agent) AS home_agent, s.home_agent_nai, r.id, r.data_key_id,
  r.sealed_key0, r.unspent, CAST(s.internal_name AS text) AS internal_name
"""
_REFUSE: Final = """
UPDATE enrolment_codes AS c SET refused = refused + 1
WHERE code_hash = :hash
RETURNING c.used_at IS NOT NULL, (SELECT CAST(s.internal_name AS text) FROM key0_records AS r
  JOIN subscribers AS s ON s.id = r.subscriber_id WHERE r.id = c.record_id)
"""
_LIST: Final = """
SELECT s.nai, c.created_at, c.expires_at, c.used_at, c.refused
FROM enrolment_codes AS c JOIN key0_records AS r ON r.id = c.record_id
JOIN subscribers AS s ON s.id = r.subscriber_id ORDER BY c.created_at DESC, s.folded_nai
"""


class CodeRefused(LocalError):
    """Unknown, used, too old, or of a subscriber who may not: nobody is told which."""


@dataclass(frozen=True, slots=True)
class EnrolmentCode:
    """What became of a code; the code itself is nowhere."""

    nai: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    refused: int  # uses that came too late; one after `used_at` is a security event


def issue(
    connection: Connection, nai: Nai, keyring: Keyring, *, valid_s: int, entropy: Entropy
) -> str:
    """A code for the newest KEY0, to be shown once; it replaces those that are not used yet.

    Raises `SubscriberUnknown` for one who is not there or not active.
    """
    row = connection.execute(text(_NEWEST), {"folded": fold(nai)}).first()
    if row is None:
        connection.rollback()
        raise SubscriberUnknown(f"no active subscriber is called {nai}")
    code = base64.b32encode(entropy(_CODE_OCTETS)).decode("ascii")
    connection.execute(
        text("DELETE FROM enrolment_codes WHERE record_id = :record AND used_at IS NULL"),
        {"record": row[0]},
    )
    values = {"hash": _hash(code, keyring), "record": row[0], "valid_s": valid_s}
    connection.execute(text(_ISSUE), values)
    note_act(connection, "enrolment_code.issue", subject=row[1], detail={"valid_s": valid_s})
    connection.commit()
    return "-".join(code[i : i + _GROUP] for i in range(0, len(code), _GROUP))


def redeem(connection: Connection, code: str, keyring: Keyring) -> Enrolment:
    """KEY0 for the device that has the code; used up before anything is returned.

    Raises `CodeRefused` with one text whatever the reason, `RowSealBroken`.
    """
    digest = _hash(code, keyring)
    row = connection.execute(text(_REDEEM), {"hash": digest}).mappings().first()
    if row is None:
        _count_refusal(connection, digest)
        raise CodeRefused("the enrolment code is not valid: ask for another one")
    enrolment = _open(row, keyring)
    note_act(connection, "enrolment_code.redeem", subject=row["internal_name"], detail={})
    connection.commit()
    return enrolment


def _count_refusal(connection: Connection, digest: bytes) -> None:
    late = connection.execute(text(_REFUSE), {"hash": digest}).first()
    if late is not None:
        action = "enrolment_code.second_use" if late[0] else "enrolment_code.late_use"
        note_act(connection, action, subject=late[1], detail={"security_event": late[0]})
    connection.commit()


def _open(row: Any, keyring: Keyring) -> Enrolment:
    seal = keyring.find(row["data_key_id"])
    if seal is None:
        raise RowSealBroken("a sealed column of an unknown data key")
    sealed = bytes(row["sealed_key0"])
    key0 = seal.open(sealed, column=KEY0_COLUMN, row=row["id"], owner=row["id"])
    nai, agent_nai = Nai.parse(row["nai"]), Nai.parse(row["home_agent_nai"])
    agent = IPv4Address(row["home_agent"])
    return Enrolment(nai, key0, tuple(row["unspent"]), agent, agent_nai, nai.realm)


def list_all(connection: Connection) -> Sequence[EnrolmentCode]:
    """The newest first."""
    return [EnrolmentCode(*row) for row in connection.execute(text(_LIST))]


def second_uses(connection: Connection) -> int:
    """Uses of codes that were used before: each is a security event."""
    found = text("SELECT coalesce(sum(refused), 0) FROM enrolment_codes WHERE used_at IS NOT NULL")
    return int(connection.execute(found).scalar_one())


def _hash(code: str, keyring: Keyring) -> bytes:
    """Of the code without what people put between its groups, in capitals."""
    plain = "".join(code.split()).replace("-", "").upper()
    key = Secret(hkdf_expand(keyring.identity_key.reveal(), _LABEL, 32))
    return hmac.digest(key.reveal(), plain.encode("utf-8", "surrogatepass"), "sha256")
