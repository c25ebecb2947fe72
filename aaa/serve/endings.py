"""What an operator has ended ends for the software beside a home agent, which holds keys of it.

What is ended, and who is told abroad, is kdc.store's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from kdc.errors import RemoteError
from kdc.store import Store
from kdc.store.endings import find_ended

ASK_EVERY_S: Final = 1.0


class Endings:
    """`revoked` is told each SPI, some of them several times, and of some that it never had."""

    def __init__(self, store: Store, revoked: Callable[[int], None]) -> None:
        self._store, self._revoked = store, revoked
        self._after = 0

    async def run(self) -> None:
        """Until cancelled; while the database is away, what is held stays as it is."""
        while True:
            with suppress(RemoteError):  # others tell that the database is away
                await self.take()
            await asyncio.sleep(ASK_EVERY_S)

    async def take(self) -> None:
        """Asks once; raises `DatabaseUnavailable`."""
        ended = await find_ended(self._store, self._after)
        for spi in ended.spis:
            self._revoked(spi)
        self._after = ended.last_id
