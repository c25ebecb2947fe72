"""Which registrations a foreign agent serves, by what home calls them: Class and SPI.

Pure: `now` comes in as an argument (Unix seconds), and what has ended goes out, for the caller to
drop its keys and to account for.  No key is in here.
"""

from __future__ import annotations

import enum
import heapq
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from kdc.keyuse.table import DEFAULT_OVERLAP_S
from kdc.model import Nai

_Key = TypeVar("_Key")

MAXIMUM_SESSIONS: Final = 32768  # two associations each: as many as may be held
LONGEST_WAY_S: Final = 300.0  # longer than any answer is waited for, or kept by a proxy


class Ending(enum.StrEnum):
    """Why a session is over."""

    DEREGISTERED = "deregistered"
    EXPIRED = "expired"
    REPLACED = "replaced"  # the node has registered anew
    REVOKED = "revoked"  # home has asked for it
    DISPLACED = "displaced"  # by a newer one, the table being full
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class Session:
    """One registration that was granted.

    `number` is ours and unique; `class_id` is home's and names the registration in `realm`.
    `binding` is the node in the words of the associations' table, `sender` its link address.
    """

    number: str
    realm: str  # the home realm, lowered
    class_id: bytes
    spis: tuple[int, ...]  # all that came with it
    binding: str
    sender: str
    alias: Nai
    began_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that is over, and the SPIs whose associations end with it, now.

    Those of a replaced one are none: they go on for the overlap (PROTOCOL section 6).
    """

    session: Session
    ending: Ending
    spis: tuple[int, ...]
    was_current: bool = True  # False: it had been replaced, and that was told


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a Disconnect-Request has ended: some associations, and with the last of them all."""

    session: Session
    spis: tuple[int, ...]
    is_over: bool  # no association of the session is left
    was_current: bool  # as in `Ended`


@dataclass(slots=True)
class _Entry:
    session: Session
    until: float
    live: set[int] = field(default_factory=set)
    is_current: bool = True


class _Revocations:
    """What homes have ended, by Class, and until when a reply that comes late must grant nothing.

    At most `maximum`; room is made at the cost of the realm that has most, so that no home can make
    the agent forget what another has ended.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._count = 0
        self._by_realm: dict[str, dict[bytes, float]] = {}  # oldest first

    def has(self, realm: str, class_id: bytes, *, now: float) -> bool:
        return self._by_realm.get(realm, {}).get(class_id, now) > now

    def add(self, realm: str, class_id: bytes, *, until: float) -> None:
        of_realm = self._by_realm.setdefault(realm, {})
        self._count += class_id not in of_realm
        of_realm[class_id] = max(until, of_realm.pop(class_id, until))
        if self._count > self._maximum:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        realm = max(self._by_realm, key=lambda each: len(self._by_realm[each]))
        of_realm = self._by_realm[realm]
        del of_realm[next(iter(of_realm))]
        self._count -= 1
        if not of_realm:
            del self._by_realm[realm]


class SessionTable:
    """At most `maximum` sessions; of one binding one is current, the one before it superseded."""

    def __init__(
        self, *, maximum: int = MAXIMUM_SESSIONS, overlap_s: float = DEFAULT_OVERLAP_S
    ) -> None:
        self._maximum = maximum
        self._overlap_s = overlap_s
        self._entries: dict[str, _Entry] = {}  # by number, oldest first
        self._by_spi: dict[tuple[str, int], list[_Entry]] = {}
        self._by_binding: dict[str, list[_Entry]] = {}
        self._by_realm: dict[str, dict[str, _Entry]] = {}  # and by number, oldest first
        self._revoked = _Revocations(maximum)
        # Deadlines, not taken out when a session ends before its own.
        self._deadlines: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def current(self) -> tuple[Session, ...]:
        """All that have not been replaced."""
        return tuple(entry.session for entry in self._entries.values() if entry.is_current)

    def all(self) -> tuple[Session, ...]:
        """Those that have been replaced too, while home may still name them; oldest first."""
        return tuple(entry.session for entry in self._entries.values())

    def was_revoked(self, realm: str, class_id: bytes, *, now: float) -> bool:
        """Whether home has ended this registration: its reply must not bring it back."""
        return self._revoked.has(realm, class_id, now=now)

    def next_deadline(self) -> float | None:
        """When `advance` next has to be called, or a little before."""
        return self._deadlines[0][0] if self._deadlines else None

    def find(
        self, realm: str, class_id: bytes, spis: Iterable[int], *, number: str | None = None
    ) -> Session | None:
        """The current session that home means; every SPI named must have come with it."""
        entry = self._find(realm, class_id, tuple(spis), number)
        return entry.session if entry is not None and entry.is_current else None

    def is_known(self, session: Session) -> bool:
        """Whether this very grant is here: a reply may come twice (PROTOCOL 5.5)."""
        entry = self._find(session.realm, session.class_id, session.spis, None)
        return entry is not None and entry.session.binding == session.binding

    def install(self, session: Session, *, now: float) -> tuple[Ended, ...]:
        """The session becomes its binding's current one.

        The one before it is replaced, and stays known by its SPIs for the overlap; older ones are
        forgotten.  With a full table the oldest session is displaced of the home that has most.
        """
        ended = list(self.advance(now=now))
        if self.is_known(session):
            return tuple(ended)
        for entry in tuple(self._by_binding.get(session.binding, ())):
            if not entry.is_current:
                self._remove(entry)
                continue
            entry.is_current = False
            entry.until = min(now + self._overlap_s, entry.until)
            self._push(entry)
            ended.append(Ended(entry.session, Ending.REPLACED, ()))
        while len(self._entries) >= self._maximum:
            most = max(self._by_realm.values(), key=len)
            ended.append(self._end(next(iter(most.values())), Ending.DISPLACED))
        entry = _Entry(session, session.expires_at, set(session.spis))
        self._entries[session.number] = entry
        self._by_realm.setdefault(session.realm, {})[session.number] = entry
        self._by_binding.setdefault(session.binding, []).append(entry)
        for spi in entry.live:
            self._by_spi.setdefault((session.realm, spi), []).append(entry)
        self._push(entry)
        return tuple(ended)

    def revoke(
        self,
        realm: str,
        class_id: bytes,
        spis: Iterable[int],
        *,
        now: float,
        number: str | None = None,
    ) -> tuple[Revoked | None, tuple[Ended, ...]]:
        """What home has revoked, None if that is not here, and what `advance` has ended before.

        An association that has ended already is passed over, so that it does not save another.
        What is not here may be on its way, for the answer that grants it can be overtaken: it will
        grant nothing.
        """
        ended = self.advance(now=now)
        named = tuple(spis)
        entry = self._find(realm, class_id, named, number)
        dropped = tuple(spi for spi in named if entry is not None and spi in entry.live)
        if entry is None and number is None:
            self._revoked.add(realm, class_id, until=now + LONGEST_WAY_S)
        if entry is None or not dropped:
            return None, ended
        entry.live.difference_update(dropped)
        if not entry.live:
            self._remove(entry)
            self._revoked.add(realm, class_id, until=entry.session.expires_at)
        return Revoked(entry.session, dropped, not entry.live, entry.is_current), ended

    def deregister(self, binding: str, *, now: float) -> tuple[Ended, ...]:
        """All sessions of a binding end at once (PROTOCOL section 3)."""
        ended = self.advance(now=now)
        entries = tuple(self._by_binding.get(binding, ()))
        return ended + tuple(self._end(entry, Ending.DEREGISTERED) for entry in entries)

    def advance(self, *, now: float) -> tuple[Ended, ...]:
        """Ends what has lived its lifetime, and forgets what has lived its overlap."""
        ended: list[Ended] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            due, number = heapq.heappop(self._deadlines)
            entry = self._entries.get(number)
            if entry is None or entry.until != due:
                continue
            if entry.is_current:
                ended.append(self._end(entry, Ending.EXPIRED))
            else:
                self._remove(entry)  # its end was told when it was replaced
        return tuple(ended)

    def end_all(self) -> tuple[Ended, ...]:
        """The agent goes: its associations are as they were, nobody serves them."""
        ended = tuple(Ended(session, Ending.SHUTDOWN, ()) for session in self.current())
        for entry in tuple(self._entries.values()):
            self._remove(entry)
        return ended

    def _find(
        self, realm: str, class_id: bytes, spis: tuple[int, ...], number: str | None
    ) -> _Entry | None:
        """One outcome for whatever does not fit; the time does not tell how much of a Class did."""
        if not spis:
            return None
        for entry in self._by_spi.get((realm, spis[0]), ()):
            session = entry.session
            right = hmac.compare_digest(session.class_id, class_id)
            if right and set(spis) <= set(session.spis) and number in (None, session.number):
                return entry
        return None

    def _end(self, entry: _Entry, ending: Ending) -> Ended:
        self._remove(entry)
        return Ended(entry.session, ending, tuple(sorted(entry.live)), entry.is_current)

    def _push(self, entry: _Entry) -> None:
        heapq.heappush(self._deadlines, (entry.until, entry.session.number))
        if len(self._deadlines) > 2 * len(self._entries) + 64:
            # Deadlines of what ended before its time: dropped before they pile up.
            self._deadlines = [(one.until, number) for number, one in self._entries.items()]
            heapq.heapify(self._deadlines)

    def _remove(self, entry: _Entry) -> None:
        session = entry.session
        del self._entries[session.number]
        of_realm = self._by_realm[session.realm]
        del of_realm[session.number]
        if not of_realm:
            del self._by_realm[session.realm]
        _drop(self._by_binding, session.binding, entry)
        for spi in set(session.spis):
            _drop(self._by_spi, (session.realm, spi), entry)


def _drop(index: dict[_Key, list[_Entry]], key: _Key, entry: _Entry) -> None:
    of_one = [other for other in index[key] if other is not entry]
    if of_one:
        index[key] = of_one
    else:
        del index[key]
