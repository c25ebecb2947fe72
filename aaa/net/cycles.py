"""Has the rubbish of ended connections collected in time.

A socket's transport in asyncio is a cycle, and so is a connection of ours.  The collector of our
processes comes late on purpose (aaa.serve.process), after as much as thousands of connections have
left; a stranger can make these in a second.
"""

from __future__ import annotations

import gc
from typing import Final

_ENDED_AT_ONCE: Final = 256


class EndedConnections:
    """Counts connections that have ended, or never came to be."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def add(self) -> None:
        """One more; now and then it takes as long as it takes to look through what is young."""
        self._count += 1
        if self._count >= _ENDED_AT_ONCE:
            self._count = 0
            gc.collect(1)
