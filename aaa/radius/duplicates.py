"""The table of requests in progress and just answered: a retransmission gets the same octets.

RFC 5080 §2.2.2.  It knows no socket and no clock; only verified requests may be brought here, or a
forged one could displace a real one.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

ANSWERED_FOR_S: Final = 10.0  # within the 5 to 30 s of RFC 5080 §2.2.2
MAXIMUM_ENTRIES: Final = 65536


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


@dataclass(slots=True)
class _Entry:
    authenticator: bytes
    response: bytes | None = None
    expires_at: float = 0.0


class DuplicateTable:
    """At most `maximum_entries`; answers are kept for `answered_for_s`.  `now` is monotonic."""

    __slots__ = ("_answered", "_answered_for_s", "_in_progress", "_maximum_entries")

    def __init__(
        self, *, answered_for_s: float = ANSWERED_FOR_S, maximum_entries: int = MAXIMUM_ENTRIES
    ) -> None:
        self._answered_for_s = answered_for_s
        self._maximum_entries = maximum_entries
        self._in_progress: dict[RequestKey, _Entry] = {}
        self._answered: OrderedDict[RequestKey, _Entry] = OrderedDict()  # by expiry

    def __len__(self) -> int:
        return len(self._in_progress) + len(self._answered)

    @property
    def in_progress(self) -> int:
        """Requests that have neither been answered nor forgotten."""
        return len(self._in_progress)

    def on_request(self, key: RequestKey, authenticator: bytes, now: float) -> bytes | Standing:
        """The octets that answered this request before, or how it stands."""
        self._expire(now)
        working = self._in_progress.get(key)
        if working is not None:
            if working.authenticator == authenticator:
                return Standing.IN_PROGRESS
            del self._in_progress[key]  # the client has abandoned the old one
        else:
            answered = self._answered.get(key)
            if answered is not None:
                if answered.authenticator == authenticator and answered.response is not None:
                    return answered.response
                del self._answered[key]
        if len(self) >= self._maximum_entries:
            if not self._answered:
                return Standing.OVERLOAD
            self._answered.popitem(last=False)
        self._in_progress[key] = _Entry(authenticator)
        return Standing.NEW

    def answer(self, key: RequestKey, authenticator: bytes, response: bytes, now: float) -> bool:
        """Keeps the response; False if the client has abandoned the request: send nothing then."""
        entry = self._in_progress.get(key)
        if entry is None or entry.authenticator != authenticator:
            return False
        del self._in_progress[key]
        entry.response = response
        entry.expires_at = now + self._answered_for_s
        self._answered[key] = entry
        return True

    def forget(self, key: RequestKey, authenticator: bytes) -> None:
        """Gives up without an answer, so that a retransmission is worked on anew."""
        entry = self._in_progress.get(key)
        if entry is not None and entry.authenticator == authenticator:
            del self._in_progress[key]

    def _expire(self, now: float) -> None:
        answered = self._answered
        while answered:
            key = next(iter(answered))
            if answered[key].expires_at > now:
                return
            del answered[key]
