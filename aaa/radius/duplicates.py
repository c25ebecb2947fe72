"""The table of requests in progress and just answered: a retransmission gets the same octets.

RFC 5080 §2.2.2.  It knows no socket and no clock; only verified requests may be brought here, or a
forged one could displace a real one.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

ANSWERED_FOR_S: Final = 10.0  # within the 5 to 30 s of RFC 5080 §2.2.2
MAXIMUM_ENTRIES: Final = 65536
MAXIMUM_OCTETS: Final = 64 * 1024 * 1024  # of answers: 65,536 of the longest would be four times it


class RequestKey(NamedTuple):
    """What makes two datagrams the same request, the authenticator beside it."""

    peer: tuple[str, int]
    endpoint: tuple[str, int]  # our own address and port
    code: int
    identifier: int


class Standing(enum.Enum):
    """What to do with a request that has no answer yet."""

    NEW = "new"  # work on it, then `answer` or `forget`
    IN_PROGRESS = "in progress"  # drop it
    OVERLOAD = "overload"  # drop it: no room that could be made


@dataclass(slots=True, eq=False)
class _Holder:
    """What one client has in the table, each in the order in which it came there."""

    name: str
    in_progress: dict[RequestKey, None] = field(default_factory=dict)
    answered: dict[RequestKey, None] = field(default_factory=dict)
    octets: int = 0  # of the answers

    def __len__(self) -> int:
        return len(self.in_progress) + len(self.answered)


@dataclass(slots=True, eq=False)
class _Entry:
    holder: _Holder
    authenticator: bytes
    response: bytes | None = None  # None: in progress
    expires_at: float = 0.0


class DuplicateTable:
    """At most `maximum_entries`, and `maximum_octets` in answers.  `now` is monotonic.

    Answers are kept for `answered_for_s`.  Room is made at the cost of the client that holds most:
    of its oldest answer, and for another client's sake of the oldest that it has in progress.  So
    none can take what the others need.
    """

    __slots__ = ("_answered", "_answered_for_s", "_entries", "_holders", "_maximum_entries",
                 "_maximum_octets", "_octets")  # fmt: skip

    def __init__(
        self,
        *,
        answered_for_s: float = ANSWERED_FOR_S,
        maximum_entries: int = MAXIMUM_ENTRIES,
        maximum_octets: int = MAXIMUM_OCTETS,
    ) -> None:
        self._answered_for_s = answered_for_s
        self._maximum_entries = maximum_entries
        self._maximum_octets = maximum_octets
        self._octets = 0
        self._entries: dict[RequestKey, _Entry] = {}
        self._answered: OrderedDict[RequestKey, _Entry] = OrderedDict()  # by expiry
        self._holders: dict[str, _Holder] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def in_progress(self) -> int:
        """Requests that have neither been answered nor forgotten."""
        return len(self._entries) - len(self._answered)

    def on_request(
        self, key: RequestKey, authenticator: bytes, now: float, client: str = ""
    ) -> bytes | Standing:
        """The octets that answered this request of `client` before, or how it stands."""
        self._expire(now)
        entry = self._entries.get(key)
        if entry is not None:
            if entry.authenticator == authenticator:
                return Standing.IN_PROGRESS if entry.response is None else entry.response
            self._remove(key, entry)  # the client has abandoned the old one
        if len(self._entries) >= self._maximum_entries and not self._make_room(client):
            return Standing.OVERLOAD
        holder = self._holders.get(client)
        if holder is None:
            holder = self._holders[client] = _Holder(client)
        self._entries[key] = _Entry(holder, authenticator)
        holder.in_progress[key] = None
        return Standing.NEW

    def answer(self, key: RequestKey, authenticator: bytes, response: bytes, now: float) -> bool:
        """Keeps the response; False if the request is no longer here: send nothing then."""
        entry = self._working(key, authenticator)
        if entry is None:
            return False
        entry.response = response
        entry.expires_at = now + self._answered_for_s
        del entry.holder.in_progress[key]
        entry.holder.answered[key] = None
        self._answered[key] = entry
        entry.holder.octets += len(response)
        self._octets += len(response)
        while self._octets > self._maximum_octets:
            most = max(self._holders.values(), key=lambda holder: holder.octets)
            oldest = next(iter(most.answered))
            self._remove(oldest, self._entries[oldest])
        return True

    def forget(self, key: RequestKey, authenticator: bytes) -> None:
        """Gives up without an answer, so that a retransmission is worked on anew."""
        entry = self._working(key, authenticator)
        if entry is not None:
            self._remove(key, entry)

    def _working(self, key: RequestKey, authenticator: bytes) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None or entry.authenticator != authenticator or entry.response is not None:
            return None
        return entry

    def _remove(self, key: RequestKey, entry: _Entry) -> None:
        holder = entry.holder
        del self._entries[key]
        if entry.response is None:
            del holder.in_progress[key]
        else:
            del holder.answered[key]
            del self._answered[key]
            holder.octets -= len(entry.response)
            self._octets -= len(entry.response)
        if not holder.in_progress and not holder.answered:
            del self._holders[holder.name]

    def _make_room(self, client: str) -> bool:
        """Whether there is room for one more of `client`; all that has expired is gone."""
        asking = self._holders.get(client)
        most = max(self._holders.values(), key=len)
        if asking is not None and len(asking) == len(most):
            most = asking
        if most.answered:
            key = next(iter(most.answered))
        elif most is not asking:
            key = next(iter(most.in_progress))
        else:
            return False
        self._remove(key, self._entries[key])
        return True

    def _expire(self, now: float) -> None:
        answered = self._answered
        while answered:
            key, entry = next(iter(answered.items()))
            if entry.expires_at > now:
                return
            self._remove(key, entry)
