"""What waits to be sent, by the party that it is for: none takes the room or the turn of another.

Sending is the caller's.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class FairQueue(Generic[_Item]):
    """Parties take turns; each has at most `under_way` items taken and not yet done."""

    def __init__(self, under_way: int) -> None:
        self._maximum = under_way
        self._waiting: dict[bytes, deque[_Item]] = {}  # whose turn is next comes first
        self._taken: Counter[bytes] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, party: bytes, item: _Item) -> None:
        self._waiting.setdefault(party, deque()).append(item)
        self._count += 1

    def drop_oldest(self) -> None:
        """The oldest item of the party that has most waiting; there has to be one."""
        self._pop(max(self._waiting, key=lambda each: len(self._waiting[each])))

    def take(self) -> tuple[bytes, _Item] | None:
        """The oldest item of the next party; `done` has to follow.  None: nothing may go now."""
        for party in self._waiting:
            if self._taken[party] < self._maximum:
                self._taken[party] += 1
                return party, self._pop(party)
        return None

    def done(self, party: bytes) -> None:
        self._taken[party] -= 1
        if not self._taken[party]:
            del self._taken[party]

    def _pop(self, party: bytes) -> _Item:
        """And the party goes behind all others."""
        items = self._waiting.pop(party)
        item = items.popleft()
        if items:
            self._waiting[party] = items
        self._count -= 1
        return item
