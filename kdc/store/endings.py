"""Which associations an operator has ended: for whoever holds their keys outside the database.

The rows are those of the outbox (kdc.store.disconnects): every registration that is ended while it
is live has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kdc.store.hot import Store
from kdc.store.pool import Connection as PooledConnection

_LONGEST_LIFE_S: Final = 65534  # PROTOCOL section 3
_SEEN_LATE: Final = 1024  # ids that may become visible after later ones, or before their keys here
_RECENT_S: Final = 60
_ENDED: Final = """
SELECT d.id, g.spis
FROM disconnects AS d JOIN registrations AS g ON g.class_id = d.class_id
WHERE d.id > %(after)s - %(late)s AND d.kind = 'disconnect' AND g.record_id = d.record_id
  AND d.requested_at > statement_timestamp() - interval '1 second'
    * CASE WHEN d.id > %(after)s THEN %(life_s)s ELSE %(recent_s)s END
ORDER BY d.id
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """SPIs of associations that have ended, and up to where the outbox has been read."""

    spis: tuple[int, ...]
    last_id: int


async def find_ended(store: Store, after: int) -> Ended:
    """What has been ended behind row `after` (0: in the longest life), the latest once more.

    Raises `DatabaseUnavailable`.
    """
    values = {
        "after": after,
        "late": _SEEN_LATE,
        "life_s": _LONGEST_LIFE_S,
        "recent_s": _RECENT_S,
    }

    async def find(connection: PooledConnection) -> Ended:
        rows = await (await connection.execute(_ENDED, values)).fetchall()
        spis = tuple(spi for _, of_one in rows for spi in of_one)
        return Ended(spis, max([after, *(row[0] for row in rows)]))

    return await store.pool.read(find)
