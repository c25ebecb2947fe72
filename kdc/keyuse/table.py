"""Which associations a party holds now, and each move of one from its first moment to its last.

Time comes in as `now` (Unix seconds); who is told of a change is the caller's.  An association
belongs to a binding: one mobile node in the holder's words (a foreign agent's: its link address,
a home agent's: the record), under which a renewal finds what it replaces.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from kdc.crypto.key0 import fingerprint_key
from kdc.errors import LocalError
from kdc.keyuse.traffic import Party, SuiteKeys, derive_traffic_keys, peer_of
from kdc.model import IpAddress, Mode, Nai, Pair, SecurityAssociation

DEFAULT_OVERLAP_S: Final = 60.0  # PROTOCOL section 6
MAXIMUM_HELD: Final = 65536


class TableFull(LocalError):
    """Nothing was installed: the table holds as many associations as it may."""


class State(enum.StrEnum):
    """Where an association is in its life."""

    ABSENT = "absent"
    CURRENT = "current"
    SUPERSEDED = "superseded"  # a newer one is there, and the overlap runs
    RETIRED = "retired"


class Cause(enum.StrEnum):
    """What moves an association; the last four are the reasons of a retirement."""

    GRANTED = "granted"
    RENEWED = "renewed"
    REPLACED = "replaced"
    EXPIRED = "expired"
    DEREGISTERED = "deregistered"
    REVOKED = "revoked"


class Event(enum.StrEnum):
    """What is told of a change."""

    INSTALLED = "installed"
    RENEWED = "renewed"
    RETIRED = "retired"


# Every move there is; any other is a bug of ours.
MOVES: Final = {
    (State.ABSENT, Cause.GRANTED): State.CURRENT,
    (State.CURRENT, Cause.RENEWED): State.SUPERSEDED,
    (State.CURRENT, Cause.EXPIRED): State.RETIRED,
    (State.CURRENT, Cause.DEREGISTERED): State.RETIRED,
    (State.CURRENT, Cause.REVOKED): State.RETIRED,
    (State.SUPERSEDED, Cause.REPLACED): State.RETIRED,
    (State.SUPERSEDED, Cause.EXPIRED): State.RETIRED,
    (State.SUPERSEDED, Cause.DEREGISTERED): State.RETIRED,
    (State.SUPERSEDED, Cause.REVOKED): State.RETIRED,
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How a party is named and reached, as far as the holder knows."""

    nai: Nai | None = None
    address: IpAddress | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """All associations that one registration brought to one holder."""

    binding: str
    associations: tuple[SecurityAssociation, ...]
    endpoints: Mapping[Party, Endpoint] = field(default_factory=dict)
    alias: Nai | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """One association in the table, with its traffic keys alone.

    `retires_at` is `expires_at`, or the end of the overlap if that comes first.  Unix seconds.
    """

    holder: Party
    binding: str
    pair: Pair
    spi: int
    key_name: bytes
    mode: Mode
    derivation: int
    suites: tuple[SuiteKeys, ...]
    lifetime_s: int
    expires_at: float
    retires_at: float
    fingerprint: str
    local: Endpoint = Endpoint()
    peer: Endpoint = Endpoint()
    alias: Nai | None = None
    state: State = State.ABSENT


@dataclass(frozen=True, slots=True)
class Change:
    """One event: the association after it, when it was, and what it has to do with others.

    `replaces`: SPIs that this one supersedes.  `reason`: of a retirement.  `superseded_by`: the
    current SPI of the same pair and binding when one is retired; None: there is none.
    """

    event: Event
    held: Held
    at: float
    replaces: tuple[int, ...] = ()
    reason: Cause | None = None
    superseded_by: int | None = None


def moved(held: Held, cause: Cause) -> Held:
    """The association after `cause`; raises `LocalError` for a move that is not in `MOVES`."""
    after = MOVES.get((held.state, cause))
    if after is None:
        raise LocalError(f"an association that is {held.state.value} is not {cause.value}")
    return replace(held, state=after)


class AssociationTable:
    """The associations of one holder, at most `maximum`.

    Of one pair and binding at most one is current and one superseded.  Every method that takes
    `now` first retires what was due, and returns all changes in their order.
    """

    def __init__(
        self,
        holder: Party,
        *,
        overlap_s: float = DEFAULT_OVERLAP_S,
        maximum: int = MAXIMUM_HELD,
    ) -> None:
        self._holder = holder
        self._overlap_s = overlap_s
        self._maximum = maximum
        self._bindings: dict[str, dict[int, Held]] = {}
        self._bindings_of: dict[int, set[str]] = {}
        self._count = 0
        # Deadlines, not taken out when an association goes before its own (_push).
        self._deadlines: list[tuple[float, str, int]] = []

    def __len__(self) -> int:
        return self._count

    def held(self) -> tuple[Held, ...]:
        """All that are current or superseded."""
        return tuple(held for of_one in self._bindings.values() for held in of_one.values())

    def next_deadline(self) -> float | None:
        """When `advance` next has to be called, or a little before."""
        return self._deadlines[0][0] if self._deadlines else None

    def install(self, grant: Grant, *, now: float) -> tuple[Change, ...]:
        """Makes the associations of a registration current; those of the last one go on for the
        overlap, and older ones end (PROTOCOL section 6).

        A grant that is installed already changes nothing: a reply may come twice (5.5).  Raises
        `TableFull`, and `LocalError` for what the holder cannot hold; nothing is changed then.
        """
        live = self._bindings.get(grant.binding, {})
        if self._is_known(grant, live):
            return self.advance(now=now)
        fresh = tuple(self._enter(grant, item, now) for item in grant.associations)
        self._require_room(grant, len(fresh), now)
        changes = list(self.advance(now=now))
        old = tuple(self._bindings.get(grant.binding, {}).values())
        ended = tuple(held for held in old if held.state is State.SUPERSEDED)
        changes += self._retire(ended, Cause.REPLACED, now)
        replaced: dict[Pair, int] = {}
        for held in old:
            if held.state is State.CURRENT:
                replaced[held.pair] = held.spi
                ends = min(now + self._overlap_s, held.expires_at)
                self._put(replace(moved(held, Cause.RENEWED), retires_at=ends))
        for held in fresh:
            self._put(held)
            replaces = (replaced[held.pair],) if held.pair in replaced else ()
            event = Event.RENEWED if replaces else Event.INSTALLED
            changes.append(Change(event, held, now, replaces))
        return (*changes, *self.advance(now=now))  # an overlap of 0 s is over

    def first_use(self, binding: str, spi: int, *, now: float) -> tuple[Change, ...]:
        """A current association was used: those that its registration superseded end."""
        changes = self.advance(now=now)
        live = self._bindings.get(binding, {})
        used = live.get(spi)
        if used is None or used.state is not State.CURRENT:
            return changes
        ended = tuple(held for held in live.values() if held.state is State.SUPERSEDED)
        return changes + self._retire(ended, Cause.REPLACED, now)

    def deregister(self, binding: str, *, now: float) -> tuple[Change, ...]:
        """All associations of a binding end at once (PROTOCOL section 3)."""
        changes = self.advance(now=now)
        ended = tuple(self._bindings.get(binding, {}).values())
        return changes + self._retire(ended, Cause.DEREGISTERED, now)

    def revoke(self, spi: int, *, now: float, binding: str | None = None) -> tuple[Change, ...]:
        """The association with this SPI ends; nothing happens where there is none.

        An SPI is unique in one home only.  Raises `LocalError` if several bindings have it and
        none is named: one home must not end what another made.
        """
        bindings = self._bindings_of.get(spi, set())
        if binding is None and len(bindings) > 1:
            raise LocalError("more than one binding has this SPI")
        changes = self.advance(now=now)
        ended = tuple(
            self._bindings[name][spi]
            for name in self._bindings_of.get(spi, ())
            if binding in (None, name)
        )
        return changes + self._retire(ended, Cause.REVOKED, now)

    def advance(self, *, now: float) -> tuple[Change, ...]:
        """Retires what has lived its lifetime, or its overlap."""
        changes: list[Change] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            due, binding, spi = heapq.heappop(self._deadlines)
            held = self._bindings.get(binding, {}).get(spi)
            if held is not None and held.retires_at == due:
                cause = Cause.EXPIRED if held.expires_at <= due else Cause.REPLACED
                changes += self._retire((held,), cause, now)
        return tuple(changes)

    def restore(self, stored: Iterable[Held], *, now: float) -> tuple[Change, ...]:
        """Takes over what an earlier process held, and retires what has ended since.

        Raises `LocalError` if the table has anything in it, and for what it would never hold.
        """
        items = tuple(stored)
        places = {(held.binding, held.pair, held.state) for held in items}
        spis = {(held.binding, held.spi) for held in items}
        states = {held.state for held in items} <= {State.CURRENT, State.SUPERSEDED}
        holders = {held.holder for held in items} <= {self._holder}
        unique = len(places) == len(spis) == len(items)
        if self._count or len(items) > self._maximum or not (states and holders and unique):
            raise LocalError("expected associations that an empty table can take over")
        for held in items:
            self._put(held)
        return self.advance(now=now)

    def _is_known(self, grant: Grant, live: Mapping[int, Held]) -> bool:
        """Whether the grant is installed already; raises `LocalError` if a part of it is."""
        associations = grant.associations
        if not associations:
            raise LocalError("a registration brings at least one association")
        for values in ({item.pair for item in associations}, {item.spi for item in associations}):
            if len(values) != len(associations):
                raise LocalError("a registration has one association a pair, each its own SPI")
        known = [live[item.spi] for item in associations if item.spi in live]
        if not known:
            return False
        names = {(held.spi, held.key_name) for held in known}
        if names != {(item.spi, item.key_name) for item in associations}:
            raise LocalError("some SPIs of a registration are in use")
        return True

    def _enter(self, grant: Grant, item: SecurityAssociation, now: float) -> Held:
        expires_at = now + item.lifetime_s
        peer = peer_of(item.pair, self._holder)
        absent = Held(
            holder=self._holder,
            binding=grant.binding,
            pair=item.pair,
            spi=item.spi,
            key_name=item.key_name,
            mode=item.mode,
            derivation=item.derivation,
            suites=derive_traffic_keys(item, self._holder),
            lifetime_s=item.lifetime_s,
            expires_at=expires_at,
            retires_at=expires_at,
            fingerprint=fingerprint_key(item.keys),
            local=grant.endpoints.get(self._holder, Endpoint()),
            peer=grant.endpoints.get(peer, Endpoint()),
            alias=grant.alias,
        )
        return moved(absent, Cause.GRANTED)

    def _require_room(self, grant: Grant, fresh: int, now: float) -> None:
        if self._count + fresh <= self._maximum:
            return
        # Only a table that seems full is walked through for what is about to go.
        going = sum(
            held.retires_at <= now
            or (held.binding == grant.binding and held.state is State.SUPERSEDED)
            for held in self.held()
        )
        if self._count - going + fresh > self._maximum:
            raise TableFull(f"no more than {self._maximum} associations are held")

    def _put(self, held: Held) -> None:
        of_one = self._bindings.setdefault(held.binding, {})
        self._count += held.spi not in of_one
        of_one[held.spi] = held
        self._bindings_of.setdefault(held.spi, set()).add(held.binding)
        heapq.heappush(self._deadlines, (held.retires_at, held.binding, held.spi))
        if len(self._deadlines) > 2 * self._count + 64:
            # Deadlines of what was retired before its time: dropped before they pile up.
            self._deadlines = [(one.retires_at, one.binding, one.spi) for one in self.held()]
            heapq.heapify(self._deadlines)

    def _retire(self, ended: tuple[Held, ...], cause: Cause, now: float) -> tuple[Change, ...]:
        for held in ended:
            of_one = self._bindings[held.binding]
            del of_one[held.spi]
            if not of_one:
                del self._bindings[held.binding]
            bindings = self._bindings_of[held.spi]
            bindings.discard(held.binding)
            if not bindings:
                del self._bindings_of[held.spi]
            self._count -= 1
        # When all are gone: what is deregistered is not superseded by its neighbour.
        return tuple(
            Change(
                Event.RETIRED,
                moved(held, cause),
                now,
                reason=cause,
                superseded_by=self._current(held.binding, held.pair),
            )
            for held in ended
        )

    def _current(self, binding: str, pair: Pair) -> int | None:
        for held in self._bindings.get(binding, {}).values():
            if held.pair is pair and held.state is State.CURRENT:
                return held.spi
        return None
