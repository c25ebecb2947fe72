"""The SPI-indexed database of security associations, as administration and the demo read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from kdc.crypto.key0 import fingerprint_key
from kdc.errors import LocalError
from kdc.model import Mode, Nai, Pair, Secret, Suite
from kdc.store.keyring import Keyring
from kdc.store.rows import open_association_keys
from kdc.store.subscribers import fold

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


# --- one by one, without keys ---


class SpiUnknown(LocalError):
    """No association has this SPI."""


@dataclass(frozen=True, slots=True)
class AssociationRow:
    """An association as an operator may see it: never a key, nor its fingerprint."""

    spi: int
    pair: str
    live: bool
    nai: str | None
    registration: str  # the Class in hex
    spis: list[int]  # of the whole registration
    fa_nai: str
    operator_realm: str | None
    nas_address: str
    care_of_address: str
    home_address: str
    mode: str
    suites: list[str]
    key_name: str
    lifetime_s: int
    registered_at: datetime
    expires_at: datetime


_ROW: Final = """
SELECT a.spi, a.pair, EXISTS (SELECT 1 FROM live_associations AS l WHERE l.spi = a.spi), s.nai,
  encode(a.class_id, 'hex'), g.spis, g.fa_nai, g.operator_realm, host(g.nas_address),
  host(g.care_of_address), host(g.home_address), a.mode, a.suites, encode(a.key_name, 'hex'),
  a.lifetime_s, g.created_at, a.expires_at
"""
_ONE: Final = (
    _ROW
    + """
FROM associations AS a
JOIN registrations AS g ON g.class_id = a.class_id
LEFT JOIN key0_records AS r ON r.id = a.record_id
LEFT JOIN subscribers AS s ON s.id = r.subscriber_id
WHERE a.spi = :spi
"""
)
_LIVE: Final = (
    _ROW
    + """
FROM live_associations AS a
JOIN registrations AS g ON g.class_id = a.class_id
JOIN key0_records AS r ON r.id = a.record_id
JOIN subscribers AS s ON s.id = r.subscriber_id
WHERE (CAST(:subscriber AS text) IS NULL OR s.folded_nai = :subscriber)
  AND (CAST(:realm AS text) IS NULL
       OR lower(coalesce(g.operator_realm, split_part(g.fa_nai, '@', 2))) = :realm)
ORDER BY g.created_at DESC, a.class_id, a.pair
LIMIT :limit
"""
)


def list_live(
    connection: Connection, *, subscriber: Nai | None, realm: str | None, limit: int | None
) -> Iterator[AssociationRow]:
    """Those of the latest registration first; `realm` is the visited one, lowered."""
    folded = fold(subscriber) if subscriber is not None else None
    values = {"subscriber": folded, "realm": realm, "limit": limit}
    for row in connection.execution_options(yield_per=1000).execute(text(_LIVE), values):
        yield _read_row(row)


def load(connection: Connection, spi: int) -> AssociationRow:
    """One that is stored, live or over.  Raises `SpiUnknown`."""
    row = connection.execute(text(_ONE), {"spi": spi}).first()
    if row is None:
        raise SpiUnknown(f"no association has SPI {spi}: `kdc sa list` shows the live ones")
    return _read_row(row)


def _read_row(row: Any) -> AssociationRow:
    values = list(row)
    values[1] = Pair(row[1]).name.lower().replace("_", "-")
    values[11] = Mode(row[11]).name.lower()
    values[12] = [f"{s.protocol_id}/{s.transform_id}" for s in _suites(bytes(row[12]))]
    return AssociationRow(*values)
