"""Work in batches: what is waiting goes together, a lone item waits for no timer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

BATCH_ITEMS: Final = 256
BATCHES_AT_ONCE: Final = 2  # one is judged while another is being committed

Item = TypeVar("Item")


class Batches(Generic[Item]):
    """Gathers items and runs `work` on them, at most so many batches at once."""

    def __init__(self, work: Callable[[list[Item]], Awaitable[None]]) -> None:
        self._work = work
        self._waiting: deque[Item] = deque()
        self._running: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._waiting)

    @property
    def oldest(self) -> Item | None:
        """The item that is next, or None where none waits."""
        return self._waiting[0] if self._waiting else None

    @property
    def running(self) -> frozenset[asyncio.Task[None]]:
        return frozenset(self._running)

    def add(self, item: Item) -> None:
        """Puts it behind the others; `start` is to be called when a turn's items are in."""
        self._waiting.append(item)

    def put_back(self, items: Iterable[Item]) -> None:
        """Puts items before all others that wait."""
        self._waiting.extendleft(items)

    def start(self) -> None:
        """Begins what may begin; to be called once a turn."""
        while self._waiting and len(self._running) < BATCHES_AT_ONCE:
            count = min(len(self._waiting), BATCH_ITEMS)
            batch = [self._waiting.popleft() for _ in range(count)]
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._on_done)

    async def _run(self, batch: list[Item]) -> None:
        await self._work(batch)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.start()
        if not task.cancelled():
            task.result()  # a bug is told to the loop's handler, not swallowed
