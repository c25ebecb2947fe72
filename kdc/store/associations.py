"""The SPI-indexed database of security associations, as administration and the demo read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

from kdc.crypto.key0 import fingerprint_key
from kdc.model import Mode, Pair, Secret, Suite
from kdc.store.keyring import Keyring
from kdc.store.rows import open_association_keys

_QUERY = """
SELECT a.spi, a.pair, a.key_name, a.lifetime_s, a.expires_at, a.data_key_id, a.sealed_keys,
       a.record_id, s.nai, g.fa_nai, a.class_id,
       EXISTS (SELECT 1 FROM live_associations AS l WHERE l.spi = a.spi),
       a.mode, a.derivation, a.suites
FROM associations AS a
JOIN registrations AS g ON g.class_id = a.class_id
LEFT JOIN key0_records AS r ON r.id = a.record_id
LEFT JOIN subscribers AS s ON s.id = r.subscriber_id
ORDER BY g.created_at, a.class_id, a.pair
"""


@dataclass(frozen=True, slots=True)
class StoredAssociation:
    """One row; `fingerprint` and `keys` are None where the database holds no key (KEY3)."""

    spi: int
    pair: Pair
    key_name: str
    lifetime_s: int
    expires_at: datetime
    nai: str | None
    fa_nai: str
    class_id: str
    live: bool
    mode: Mode
    derivation: int
    suites: tuple[Suite, ...]
    fingerprint: str | None
    keys: Secret | None = field(default=None, repr=False)


def list_all(connection: Connection, keyring: Keyring) -> Iterator[StoredAssociation]:
    """All associations, oldest registration first.  Raises `RowSealBroken`."""
    for row in connection.execute(text(_QUERY)):
        (spi, pair, key_name, lifetime_s, expires_at, key_id, sealed, record_id) = row[:8]
        keys = None
        if sealed is not None:
            keys = open_association_keys(
                keyring, key_id=key_id, sealed=bytes(sealed), spi=spi, record_id=record_id
            )
        yield StoredAssociation(
            spi,
            Pair(pair),
            bytes(key_name).hex(),
            lifetime_s,
            expires_at,
            row[8],
            row[9],
            bytes(row[10]).hex(),
            row[11],
            Mode(row[12]),
            row[13],
            _suites(bytes(row[14])),
            fingerprint_key(keys) if keys is not None else None,
            keys,
        )


def _suites(octets: bytes) -> tuple[Suite, ...]:
    return tuple(Suite(*octets[i : i + 2]) for i in range(0, len(octets), 2))


def count(connection: Connection) -> tuple[int, int]:
    """Registrations and associations stored."""
    row = connection.execute(
        text("SELECT (SELECT count(*) FROM registrations), (SELECT count(*) FROM associations)")
    ).one()
    return row[0], row[1]
