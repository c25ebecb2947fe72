"""Free SPIs and home addresses: drawn at random, asked for in one query, kept ready.

Two nodes may draw the same number between asking and committing; the primary keys then refuse one
of them (`SpiTaken`) and it draws again.  No lock is shared.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from psycopg import AsyncConnection

from kdc.errors import Unavailable
from kdc.store.schema import (
    ASSOCIATION_SPI_FIRST,
    KEY0_SPI_FIRST,
    SLOT_SPIS,
    slot_of,
)

Entropy = Callable[[int], bytes]
_KEY0_SLOT: Final = 0
_ADDRESS_SLOT: Final = -1
_NOTHING: Final[deque[int]] = deque()
_HEADROOM: Final = 4  # batches under way at once, and one
_SMALLEST_DRAW: Final = 256
_TAKEN: Final = """
SELECT c FROM unnest(%s::bigint[]) AS c
WHERE EXISTS (SELECT 1 FROM key0_spis WHERE spi = c)
   OR EXISTS (SELECT 1 FROM associations WHERE spi = c)
"""
_TAKEN_ADDRESSES: Final = """
SELECT dynamic_address FROM key0_records WHERE dynamic_address = ANY(%s::inet[])
"""


class Allocator:
    """The numbers of one node.  `take_*` are synchronous; `reserve` comes before them."""

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        entropy: Entropy,
        dynamic_addresses: IPv4Network | None = None,
    ) -> None:
        self._connect = connect
        self._entropy = entropy
        self._network = dynamic_addresses
        self._free: dict[int, deque[int]] = {}
        self._stale: set[int] = set()  # slots in which another node has taken something

    async def reserve(
        self, *, key0: int, associations: Iterable[float], addresses: int = 0
    ) -> None:
        """Makes sure that a batch finds what it needs; asks the database only when short.

        `associations` has the expiry of each SA (Unix seconds).  Raises what the database raises.
        """
        needed = Counter(slot_of(expires_at) for expires_at in associations)
        needed[_KEY0_SLOT] = key0
        if self._network is not None:
            needed[_ADDRESS_SLOT] = addresses
        short = {
            slot: max(_HEADROOM * count, _SMALLEST_DRAW)
            for slot, count in needed.items()
            if count and (slot in self._stale or len(self._ready(slot)) < _HEADROOM * count)
        }
        if not short:
            return
        drawn = {slot: self._draw(slot, count) for slot, count in short.items()}
        asked = {slot: [*self._ready(slot), *numbers] for slot, numbers in drawn.items()}
        async with self._connect() as connection:
            taken = await self._find_taken(connection, asked)
        for slot, numbers in drawn.items():
            # What is ready may have become less meanwhile, and what is drawn may be ready already.
            ready = dict.fromkeys((*self._ready(slot), *numbers))
            self._free[slot] = deque(number for number in ready if number not in taken)
            self._stale.discard(slot)

    def _ready(self, slot: int) -> deque[int]:
        return self._free.get(slot, _NOTHING)

    def distrust(self) -> None:
        """Another node has taken a number that was ready here: what is ready is asked for anew.

        Home addresses are few, so that two nodes often have the same ones ready.
        """
        self._stale.update(self._free)

    def _draw(self, slot: int, count: int) -> list[int]:
        octets = self._entropy(4 * count)
        words = [int.from_bytes(octets[i : i + 4], "big") for i in range(0, len(octets), 4)]
        if slot == _ADDRESS_SLOT:
            assert self._network is not None
            first, size = int(self._network.network_address), self._network.num_addresses
            hosts = max(size - 2, 1)
            return list(dict.fromkeys(first + 1 + word % hosts for word in words))
        if slot == _KEY0_SLOT:
            mask = ASSOCIATION_SPI_FIRST - 1
            return [word & mask for word in words if word & mask >= KEY0_SPI_FIRST]
        return [slot * SLOT_SPIS + (word & (SLOT_SPIS - 1)) for word in words]

    @staticmethod
    async def _find_taken(
        connection: AsyncConnection[Any], drawn: dict[int, list[int]]
    ) -> set[int]:
        spis = [n for slot, numbers in drawn.items() if slot != _ADDRESS_SLOT for n in numbers]
        taken: set[int] = set()
        if spis:
            cursor = await connection.execute(_TAKEN, (spis,))
            taken |= {row[0] for row in await cursor.fetchall()}
        addresses = drawn.get(_ADDRESS_SLOT)
        if addresses:
            texts = [str(IPv4Address(number)) for number in addresses]
            cursor = await connection.execute(_TAKEN_ADDRESSES, (texts,))
            taken |= {int(IPv4Address(str(row[0]))) for row in await cursor.fetchall()}
        return taken

    def _take(self, slot: int) -> int:
        free = self._free.get(slot)
        if not free:
            raise Unavailable("no free number is ready")
        return free.popleft()

    def take_key0(self) -> int:
        """A KEY0 SPI that no one has.  Raises `Unavailable` where `reserve` was too small."""
        return self._take(_KEY0_SLOT)

    def take_association(self, expires_at: float) -> int:
        """An SPI out of the slot of that hour."""
        return self._take(slot_of(expires_at))

    def take_home_address(self) -> IPv4Address:
        """A dynamic home address; raises `Unavailable` where none is configured or free."""
        return IPv4Address(self._take(_ADDRESS_SLOT))


def draw_key0_spis(count: int, entropy: Entropy) -> Sequence[int]:
    """Candidates for administration, which asks the primary key by inserting."""
    mask = ASSOCIATION_SPI_FIRST - 1
    drawn: dict[int, None] = {}
    while len(drawn) < count:
        spi = int.from_bytes(entropy(4), "big") & mask
        if spi >= KEY0_SPI_FIRST:
            drawn[spi] = None
    return list(drawn)
