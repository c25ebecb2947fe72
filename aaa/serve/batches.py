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
    """Gathers items and runs `work` on them, at most so many batches at once.

    `owner` says whose an item is: owners take turns, so that who brings many waits for himself.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[None]],
        owner: Callable[[Item], str] = lambda _: "",
    ) -> None:
        self._work = work
        self._owner = owner
        self._waiting: dict[str, deque[Item]] = {}  # whose turn it is comes first
        self._running: set[asyncio.Task[None]] = set()

    def oldest_of(self, owner: str) -> Item | None:
        """The item of an owner that is next, or None where none waits."""
        items = self._waiting.get(owner)
        return items[0] if items else None

    def has_room(self, owner: str, maximum: int) -> bool:
        """Whether one more of an owner is within its share: the owners that wait share `maximum`.

        Who had all of it for himself keeps what is there already.
        """
        waiting = self._waiting.get(owner, ())
        owners = len(self._waiting) + (not waiting)
        return len(waiting) < max(maximum // owners, 1)

    @property
    def running(self) -> frozenset[asyncio.Task[None]]:
        return frozenset(self._running)

    def add(self, item: Item) -> None:
        """Puts it behind the owner's others; `start` is to be called when a turn's items are in."""
        self._waiting.setdefault(self._owner(item), deque()).append(item)

    def put_back(self, items: Iterable[Item]) -> None:
        """Puts items before all others of their owners."""
        for item in items:
            self._waiting.setdefault(self._owner(item), deque()).appendleft(item)

    def start(self) -> None:
        """Begins what may begin; to be called once a turn."""
        while self._waiting and len(self._running) < BATCHES_AT_ONCE:
            task = asyncio.get_running_loop().create_task(self._run(self._take()))
            self._running.add(task)
            task.add_done_callback(self._on_done)

    def _take(self) -> list[Item]:
        """A batch in which each owner that waits has the same share, as far as it has so many."""
        batch: list[Item] = []
        while self._waiting and len(batch) < BATCH_ITEMS:
            share = max((BATCH_ITEMS - len(batch)) // len(self._waiting), 1)
            for owner in list(self._waiting)[: BATCH_ITEMS - len(batch)]:
                items = self._waiting.pop(owner)
                batch += [items.popleft() for _ in range(min(share, len(items)))]
                if items:
                    self._waiting[owner] = items  # behind all others
        return batch

    async def _run(self, batch: list[Item]) -> None:
        await self._work(batch)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.start()
        if not task.cancelled():
            task.result()  # a bug is told to the loop's handler, not swallowed
