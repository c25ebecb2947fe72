"""Requests to foreign domains as an operator looks them up afterwards; nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from kdc.model import Nai
from kdc.store.disconnects import COLUMNS, Disconnect, read_disconnect
from kdc.store.subscribers import fold

_LIST: Final = f"""
SELECT s.nai, {COLUMNS}
FROM disconnects AS d
LEFT JOIN key0_records AS r ON r.id = d.record_id
LEFT JOIN subscribers AS s ON s.id = r.subscriber_id
WHERE (NOT :unfinished OR d.state IN ('pending', 'sent'))
  AND (CAST(:realm AS text) IS NULL OR d.realm = :realm)
  AND (CAST(:subscriber AS text) IS NULL OR s.folded_nai = :subscriber)
ORDER BY d.id DESC LIMIT :limit
"""  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True)
class DisconnectFilter:
    """Which requests; `realm` is where they go, lowered."""

    unfinished: bool = False
    realm: str | None = None
    subscriber: Nai | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class SubscriberDisconnect:
    """A request, and the name of the subscriber that it was about, who may be gone."""

    subscriber: str | None
    request: Disconnect


def list_disconnects(
    connection: Connection, wanted: DisconnectFilter
) -> Iterator[SubscriberDisconnect]:
    """The latest first, for as long as they are kept (kdc.store.retention)."""
    values = {
        "unfinished": wanted.unfinished,
        "realm": wanted.realm,
        "subscriber": fold(wanted.subscriber) if wanted.subscriber is not None else None,
        "limit": wanted.limit,
    }
    for row in connection.execution_options(yield_per=1000).execute(text(_LIST), values):
        yield SubscriberDisconnect(row[0], read_disconnect(row[1:]))
